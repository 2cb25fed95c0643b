"""Figures 6 and 7 of Glorot and Bengio 2010: what their initialization does to the signals of a deep network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import Linear, Module, Sequential

from .. import nn
from .digits import digits
from .style import Theme, canvas, caption, colour, drawing_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Signals", "glorot", "signals", "tanh_network"]


def __dir__() -> list[str]:
    return __all__


LAYERS, UNITS = 5, 500
EXAMPLES = 300  # of the paper's figures


class Signals(NamedTuple):
    """Of each hidden layer, from the first on: its outputs, and the cost's gradients with respect to its sums."""

    activations: list[Tensor]
    gradients: list[Tensor]


def signals(network: Sequential, inputs: Tensor, labels: Tensor) -> Signals:
    """Those of a network of Linear layers and activations in turn, with the cross-entropy as its cost."""
    x, sums, outputs = inputs, [], []
    for module in network:
        x = module(x)
        if isinstance(module, Linear):
            x.retain_grad()
            sums.append(x)
        else:
            outputs.append(x.detach())
    nn.functional.cross_entropy(x, labels).backward()
    return Signals(outputs, [z.grad for z in sums[:-1] if z.grad is not None])


def tanh_network(normalized: bool, seed: int = 0, layers: int = LAYERS, units: int = UNITS) -> Sequential:
    """784 - units - ... - 10 with tanh, biases zero, and weights from U[-1/√n_in, 1/√n_in], "the commonly used
    heuristic" (equation 1), or normalized: `nn.init.glorot_uniform_` (equation 16)."""
    generator = torch.Generator().manual_seed(seed)
    modules: list[Module] = []
    for n_in, n_out in pairwise([784, *[units] * layers, 10]):
        linear = Linear(n_in, n_out, dtype=torch.float64)
        torch.nn.init.zeros_(linear.bias)
        if normalized:
            nn.init.glorot_uniform_(linear.weight, "tanh", generator=generator)
        else:
            torch.nn.init.uniform_(linear.weight, -(n_in**-0.5), n_in**-0.5, generator=generator)
        modules += [linear, nn.Tanh()]
    return Sequential(*modules[:-1])


def glorot(
    folder: Path | str | None = None, seed: int = 0, axes: Sequence[Axes] | None = None, theme: Theme = "light"
) -> Figure:
    """Activations and back-propagated gradients of a deep tanh network before training, layer by layer, with the
    weights that were usual and with those of `nn.init.glorot_uniform_`.

    Source: Glorot and Bengio 2010, figures 6 and 7; Larson, Machine Learning in Python, slide 'Glorot Weight
    Initialization'.

    Arguments:
        folder: where the digits are that the network sees, see `digits`.
        seed: of the weights.
        axes: four, where to draw; None for a figure of its own.
        theme: see `race`.

    Raises:
        FileNotFoundError: there are no digits.
    """
    inputs, labels = digits(folder, EXAMPLES)
    with drawing_on(axes, theme, partial(canvas, rows=2, columns=2, size=(9, 5.5)), count=4) as (figure, panels):
        for row, (normalized, who) in enumerate(((False, "U[-1/√n, 1/√n]"), (True, "Glorot's"))):
            found = signals(tanh_network(normalized, seed), inputs, labels)
            for ax, kind, tensors in zip(panels[2 * row :], found._fields, found, strict=False):
                histograms(ax, tensors)
                spread = [float(one.std()) for one in tensors]
                ax.set_title(f"{kind.capitalize()}, {who}")
                caption(ax, f"standard deviation, layer 1: {spread[0]:.2g}, layer {LAYERS}: {spread[-1]:.2g}", width=70)
        panels[0].legend()
    return figure


def histograms(ax: Axes, tensors: list[Tensor]) -> None:
    """The density of each layer's numbers, in the limits of all of them."""
    widest = max(float(one.abs().quantile(0.995)) for one in tensors)
    centres = torch.linspace(-widest, widest, 101)
    for number, one in enumerate(tensors):
        counts = torch.histc(one, 101, -widest, widest)
        ax.plot(centres, counts / counts.sum(), color=colour(number), label=f"layer {number + 1}")
    ax.set(yticks=[], xlim=(-widest, widest))
    ax.locator_params(axis="x", nbins=5)
    ax.ticklabel_format(axis="x", scilimits=(-2, 2))
