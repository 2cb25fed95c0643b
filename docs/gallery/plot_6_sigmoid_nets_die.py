"""
Why sigmoid nets die
====================

"Saturated neurons kill the gradient" (IISER, slide 'Sigmoid function'): the slope of the sigmoid is at most 1/4, and
far less where a unit is saturated. Backward through ten layers multiplies ten such slopes.
"""

from itertools import pairwise

import torch

from torch_lecture_ops import nn
from torch_lecture_ops.pictures import activation
from torch_lecture_ops.pictures.digits import digits
from torch_lecture_ops.pictures.style import canvas, legend_below, theme

figure = activation(nn.Sigmoid)

# %%
# A network of ten hidden layers, before training, on real digits: the size of the gradient that reaches each layer.

LAYERS, UNITS = 10, 100
images, labels = digits()


def gradients(make, initialized):
    """The root mean square of dL/dz at each hidden layer."""
    torch.manual_seed(0)
    sizes = [784, *[UNITS] * LAYERS, 10]
    network = torch.nn.Sequential()
    for n_in, n_out in pairwise(sizes):
        network.extend([torch.nn.Linear(n_in, n_out, dtype=torch.float64), make()])
    network = network[:-1]
    if initialized:
        nn.init.initialize(network, report=lambda done: None)
    x, sums = images, []
    for module in network:
        x = module(x)
        if isinstance(module, torch.nn.Linear):
            x.retain_grad()
            sums.append(x)
    nn.functional.cross_entropy(x, labels).backward()
    return [z.grad.square().mean().sqrt().item() for z in sums[:-1]]


found = {
    "sigmoid, torch's weights": gradients(nn.Sigmoid, False),
    "sigmoid, Glorot with gain 4": gradients(nn.Sigmoid, True),
    "tanh, Glorot": gradients(nn.Tanh, True),
    "ReLU, He": gradients(nn.ReLU, True),
}
with theme("light"):
    figure, (ax,) = canvas("The gradient that reaches a layer")
    for label, values in found.items():
        ax.plot(range(1, LAYERS + 1), values, marker="o", label=label)
    ax.set(yscale="log", xlabel="hidden layer, 1 the first", ylabel="root mean square of dL/dz")
    legend_below(ax)

# %%
# First layer over last layer:

for label, values in found.items():
    print(f"{label}: {values[0] / values[-1]:.1e}")

# %%
# With torch's weights the sigmoid's first layers do not learn. The gain 4 of the notes makes up for the slope 1/4, as
# long as the units are not saturated.
