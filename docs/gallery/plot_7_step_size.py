"""
What happens to Adagrad's step over long time?
==============================================

CS231n asks this on the slide 'AdaGrad update'. Adagrad divides by the root of a sum that only grows, so its step falls
as 1/√t. RMSprop forgets, and keeps its step.
"""

from functools import partial

import torch

from torch_lecture_ops import optim
from torch_lecture_ops.pictures.style import canvas, legend_below, theme

STEPS = 2000


def step_sizes(build):
    """|Δw| / η under gradients from N(0, 1): the mean over 200 elements."""
    generator = torch.Generator().manual_seed(0)
    w = torch.nn.Parameter(torch.zeros(200, dtype=torch.float64))
    optimizer = build([w])
    sizes = []
    for _ in range(STEPS):
        w.grad = torch.randn(200, generator=generator, dtype=torch.float64)
        before = w.detach().clone()
        optimizer.step()
        sizes.append((w.detach() - before).abs().mean().item() / optimizer.param_groups[0]["lr"])
    return sizes


found = {
    "Adagrad": step_sizes(optim.Adagrad),
    "Adagrad, form larson, γ = 0.99": step_sizes(partial(optim.Adagrad, form="larson", gamma=0.99)),
    "RMSprop": step_sizes(optim.RMSprop),
    "Adam": step_sizes(optim.Adam),
}
with theme("light"):
    figure, (ax,) = canvas("The size of a step")
    for label, values in found.items():
        ax.plot(range(1, STEPS + 1), values, label=label)
    ax.set(xscale="log", yscale="log", xlabel="step", ylabel="mean |Δw| / η")
    legend_below(ax)

# %%
for label, values in found.items():
    print(f"{label}: {values[9]:.3f} at step 10, {values[-1]:.3f} at step {STEPS}")

# %%
# The leaking sum of Larson's form settles at 1 / (1 - γ) squares: its step is ten times smaller than RMSprop's, and
# stays.
