"""
A race on MNIST
===============

Six optimizers train the same network on the same batches of real digits, from the same weights, each with a usual
learning rate. Then they race over a slice through the loss of a trained network, with rates by one rule.
"""

from dataclasses import replace

import torch

from torch_lecture_ops import nn, optim
from torch_lecture_ops.pictures import network_slice, race
from torch_lecture_ops.pictures.digits import digits
from torch_lecture_ops.pictures.style import canvas, legend_below, theme

images, labels = digits(count=3000)
images = images.float()
RACERS = {
    "SGD, η 0.1": lambda params: optim.SGD(params, lr=0.1),
    "momentum 0.9, η 0.05": lambda params: optim.SGD(params, lr=0.05, momentum=0.9),
    "Adagrad, η 0.01": lambda params: optim.Adagrad(params, lr=0.01),
    "RMSprop, η 0.001": lambda params: optim.RMSprop(params, lr=0.001),
    "Adam, η 0.001": lambda params: optim.Adam(params, lr=0.001),
    "NAdam, η 0.002": lambda params: optim.NAdam(params, lr=0.002),
}


def trained(build, epochs=3, size=50):
    """A network, and the loss of each batch."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(784, 100), nn.ReLU(), torch.nn.Linear(100, 10))
    nn.init.initialize(network, report=lambda done: None)
    optimizer, found = build(network.parameters()), []
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(size):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            found.append(loss.item())
    return network, torch.tensor(found)


def smoothed(values, width=15):
    return values.unfold(0, width, 1).mean(1)


done = {label: trained(build) for label, build in RACERS.items()}
with theme("light"):
    figure, (ax,) = canvas("Training loss, mean over 15 batches")
    for label, (_, values) in done.items():
        ax.plot(smoothed(values), label=label)
    ax.set(yscale="log", xlabel="step", ylabel="cross-entropy")
    legend_below(ax)

# %%
for label, (_, values) in done.items():
    print(f"{label}: {values[-40:].mean():.3f} over the last 40 batches")

# %%
# The loss of the network that Adam trained, on 50 digits, over two random directions around its weights, and a race
# there. Every point is a network, and every gradient that of the network in this plane (Li et al. 2018).

network = done["Adam, η 0.001"][0].double().eval()
surface = network_slice(network, images[:50].double(), labels[:50])
surface = replace(surface, fine=31)  # contours from 31² networks
figure = race(surface, ["sgd", "momentum", "adam"], steps=20)
