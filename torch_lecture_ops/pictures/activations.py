"""Activations and their slopes."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module

from .. import nn
from ..nn.flat import FLAT, flat_of, has_flat
from .choices import parse
from .style import Theme, caption, colour, drawing_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ACTIVATIONS", "Curve", "activation", "curve_of"]


def __dir__() -> list[str]:
    return __all__


# The elementwise ones of the package: a Maxout brings weights.
ACTIVATIONS: dict[str, type[Module]] = {
    name.lower(): getattr(nn, name) for name in nn.__all__ if name in FLAT and name != "Maxout"
}
REACH = 6.0


class Curve(NamedTuple):
    """What an activation gives: its input, value, slope, and where it has next to no slope."""

    x: Tensor
    value: Tensor
    slope: Tensor
    flat: Tensor


def built(activation: Module | type[Module] | str) -> tuple[str, Module]:
    """The module, and the word for it."""
    if isinstance(activation, str):
        choice = parse(activation)
        if choice.name not in ACTIVATIONS:
            raise ValueError(f"unknown activation {choice.name!r}, choose from {', '.join(ACTIVATIONS)}")
        cls = ACTIVATIONS[choice.name]
        try:
            return " ".join([cls.__name__, *choice.words()]), cls(**choice.settings)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{activation!r}: {error}") from None
    module = activation() if isinstance(activation, type) else activation
    return type(module).__name__, module


def curve_of(module: Module, reach: float = REACH) -> Curve:
    """Value and slope of an elementwise module between -reach and reach, the slope by its own backward.

    Raises:
        ValueError: an element depends on the others.
    """
    x = torch.linspace(-reach, reach, 1201, dtype=torch.float64, requires_grad=True)
    module = deepcopy(module).double()
    value = module(x)
    if value.shape != x.shape or not torch.equal(module(x[:1]), value[:1]):
        raise ValueError(f"activation: must be elementwise, got {type(module).__name__}")
    (slope,) = torch.autograd.grad(value.sum(), x)
    value = value.detach()
    flat = flat_of(module).holds(value) if has_flat(module) else torch.zeros_like(value, dtype=torch.bool)
    return Curve(x.detach(), value, slope, flat)


def activation(activation: Module | type[Module] | str, ax: Axes | None = None, theme: Theme = "light") -> Figure:
    """Value and slope of an activation; where it is saturated, or a ReLU's zero, the ground is shaded.

    The slope is what the class's own backward gives. Where it is next to nothing, "saturated neurons kill the
    gradient": see `callbacks.ActivationMonitor`, which counts such units.

    Source: IISER Bhopal DSE316/616, 'Activation Functions and Optimizer', slide 'Types of Activation Functions'.

    Arguments:
        activation: a module of one argument, its class, or its name and settings: "elu:alpha=0.5".
        ax, theme: see `race`.

    Raises:
        ValueError: an unknown name or setting; a module that is not elementwise.
    """
    name, module = built(activation)
    x, value, slope, flat = curve_of(module)
    with drawing_on(ax, theme) as (figure, (ax,)):
        ax.axhline(0, color=ax.xaxis.label.get_color(), lw=1)
        ax.axvline(0, color=ax.xaxis.label.get_color(), lw=1)
        ax.plot(x, value, color=colour(0), lw=5, label="value")
        ax.plot(x, slope, color=colour(1), ls="--", label="slope, the local gradient")
        if flat.any():
            shade: Any = dict(color=colour(7), alpha=0.25, lw=0, transform=ax.get_xaxis_transform())
            ax.fill_between(x, 0, 1, where=flat.tolist(), label="next to no slope", **shade)
        ax.set(title=name, xlim=(-REACH, REACH), ylim=(-1.5, max(1.5, min(3.0, float(value.max())))))
        largest = slope.abs().max()
        said = f"Largest slope {largest:.3g}"
        if flat.any():
            said += f"; in the shaded part at most {float(slope[flat].abs().max()):.2g}, there the gradient dies"
        caption(ax, f"{said}.")
        ax.legend(loc="upper left")
    return figure
