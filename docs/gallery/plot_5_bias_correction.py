"""
Why Adam's bias correction
==========================

Both averages of Adam start from zero, so at first they are too small: m by the factor 1 - β₁ᵗ, v by 1 - β₂ᵗ. Without
the correction (CS231n: "incomplete, but close") the first step is (1 - β₁) / √(1 - β₂) = 3.2 times too large, and the
steps after it still larger, since v takes a thousand steps to fill and m only ten.
"""

import torch

from torch_lecture_ops import optim
from torch_lecture_ops.pictures.style import canvas, legend_below, theme

STEPS = 3000


def step_sizes(form):
    """|Δw| / η under a constant gradient, where it should be 1."""
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = optim.Adam([w], lr=1.0, form=form)
    sizes = []
    for _ in range(STEPS):
        w.grad = torch.ones_like(w)
        before = w.item()
        optimizer.step()
        sizes.append(abs(w.item() - before))
    return sizes


sizes = {form: step_sizes(form) for form in ("torch", "incomplete")}
with theme("light"):
    figure, (ax,) = canvas("Adam's step under a constant gradient")
    for form, values in sizes.items():
        ax.plot(range(1, STEPS + 1), values, label=f'form="{form}"')
    ax.set(xscale="log", xlabel="step", ylabel="step size / η")
    legend_below(ax)

# %%
first, largest = sizes["incomplete"][0], max(sizes["incomplete"])
print(f"first step: {first:.2f} η; largest: {largest:.2f} η, at step {sizes['incomplete'].index(largest) + 1}")
print(f"with the correction: {min(sizes['torch']):.4f} to {max(sizes['torch']):.4f} η")

# %%
# How much too large, by the formula: (1 - β₁ᵗ) / √(1 - β₂ᵗ).

t = torch.arange(1, STEPS + 1, dtype=torch.float64)
factor = (1 - 0.9**t) / (1 - 0.999**t).sqrt()
print(f"farthest from the run: {(factor - torch.tensor(sizes['incomplete'])).abs().max():.1g}")
