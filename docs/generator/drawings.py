"""The picture of a card, light and dark: a real run of what the card is about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from torch_lecture_ops import nn, pictures
from torch_lecture_ops.nn import functional as F
from torch_lecture_ops.pictures.style import THEMES, Theme, canvas, caption, colour, theme

from . import examples
from .catalogue import Card


def into(folder: Path) -> Callable[[Card, str], str | None]:
    """What draws a card's form into the folder, once for each theme, and gives the file without theme and ending."""

    def draw(card: Card, form: str) -> str | None:
        if (maker := _MAKERS[card.kind](card, form)) is None:
            return None
        name = card.page.replace("/", "-") + ("" if form == "torch" else f"-{form}")
        folder.mkdir(parents=True, exist_ok=True)
        for look in THEMES:
            maker(look).savefig(folder / f"{name}-{look}.png", dpi=60)
        return f"{folder.name}/{name}"

    return draw


def start_page(folder: Path) -> None:
    """The race of the start page."""
    folder.mkdir(parents=True, exist_ok=True)
    for look in THEMES:
        pictures.race("beale", theme=look).savefig(folder / f"race-{look}.png", dpi=60)


Maker = Callable[[Theme], Figure]

# ---------------------------------------------------------------- optimizers and schedules

STEPS = 60
# What runs on the valley beside whom: a form beside torch's, a class beside plain descent.
RIVALS = {
    ("SGD", "torch"): ("momentum", "sgd"),
    ("SGD", "cs231n"): ("sgd:cs231n:momentum=0.9", "momentum"),
    ("SGD", "larson"): ("sgd:larson:momentum=0.02", "sgd"),
}


def _of_optimizer(card: Card, form: str) -> Maker:
    name = card.title.lower()
    choices = RIVALS.get((card.title, form), (name, "sgd") if form == "torch" else (f"{name}:{form}", name))

    def make(look: Theme) -> Figure:
        with theme(look):
            figure, (ax,) = canvas(size=(14.0, 5.5))  # as wide as the valley
            pictures.race("valley", choices, steps=STEPS, ax=ax)
        return figure

    return make


SCHEDULES = {
    "StepDecay": "step",
    "ExponentialDecay": "exponential",
    "InverseTimeDecay": "inverse",
    "PowerCooling": "power",
    "MomentumAnnealing": "annealing",
}


def _of_schedule(card: Card, form: str) -> Maker:
    return lambda look: pictures.schedule([SCHEDULES[card.title]], theme=look)


# ---------------------------------------------------------------- functions

ROWS = {
    "Softmax": lambda x: F.softmax(_first_of_three(x), 1)[:, 0],
    "LogSoftmax": lambda x: F.log_softmax(_first_of_three(x), 1)[:, 0],
    "Maxout": lambda x: F.maxout(torch.stack([-0.5 * x - 1, 0.2 * x, x - 1], 1), 3)[:, 0],
}
SAID = {
    "Softmax": "The first of three entries; the others are 0 and -1.",
    "LogSoftmax": "The first of three entries; the others are 0 and -1.",
    "Maxout": "Three pieces: -x / 2 - 1, x / 5 and x - 1.",
}


def _of_activation(card: Card, form: str) -> Maker:
    if card.title in ROWS:
        return lambda look: _curve(look, ROWS[card.title], SAID[card.title])
    return lambda look: pictures.activation(getattr(nn, card.title), theme=look)


LOSSES: dict[str, tuple[tuple[float, float], Callable[[Tensor], Tensor], str]] = {
    "SquaredError": (
        (-1.0, 2.0),
        lambda a: F.mse_loss(a, torch.ones_like(a), reduction="none"),
        "One output a, target 1, n = 1.",
    ),
    "BinaryCrossEntropy": (
        (0.05, 0.99),
        lambda a: F.binary_cross_entropy(a, torch.ones_like(a), reduction="none"),
        "A probability a, target 1. The slope grows without bound where a is wrong.",
    ),
    "BinaryCrossEntropyWithLogits": (
        (-6.0, 6.0),
        lambda z: F.binary_cross_entropy_with_logits(z, torch.ones_like(z), reduction="none"),
        "A logit z, target 1. The slope is a - y, the error itself: it does not vanish where z is wrong.",
    ),
    "CrossEntropy": (
        (-6.0, 6.0),
        lambda x: F.cross_entropy(_first_of_three(x), torch.zeros(len(x), dtype=torch.int64), reduction="none"),
        "The logit of the right one of three classes; the other logits are 0 and -1.",
    ),
}


def _first_of_three(x: Tensor) -> Tensor:
    return torch.stack([x, 0 * x, 0 * x - 1], 1)


def _of_loss(card: Card, form: str) -> Maker:
    limits, function, said = LOSSES[card.value.__name__]
    return lambda look: _curve(look, function, said, "loss", limits)


def _curve(
    look: Theme,
    function: Callable[[Tensor], Tensor],
    said: str,
    name: str = "value",
    limits: tuple[float, float] = (-6.0, 6.0),
) -> Figure:
    """A function of one number, and its slope by its own backward."""
    x = torch.linspace(*limits, 601, dtype=torch.float64, requires_grad=True)
    y = function(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    with theme(look):
        figure, (ax,) = canvas()
        ax.plot(x.detach(), y.detach(), label=name)
        ax.plot(x.detach(), slope, "--", label="slope")
        ax.legend()
        caption(ax, said)
    return figure


def _of_gate(card: Card, form: str) -> Maker:
    return lambda look: _gate(card, look)


def _gate(card: Card, look: Theme) -> Figure:
    """A gate with numbers at its wires, as on the slides: 3 and -4 go in, 2 comes back."""
    a, b = (torch.tensor([[number]], requires_grad=True) for number in (3.0, -4.0))
    name = next(name.rpartition(".")[2] for name in card.names if ".functional." in name)
    if name == "copy":
        y = F.copy(a)
        torch.autograd.backward(y, [torch.tensor([[2.0]]), torch.tensor([[5.0]])])
        left, right = [("x", a, a.grad)], [("y₁", y[0], 2.0), ("y₂", y[1], 5.0)]
    else:
        y = getattr(F, name)(a, b)
        y.backward(torch.tensor([[2.0]]))
        left, right = [("a", a, a.grad), ("b", b, b.grad)], [("y", y, 2.0)]
    with theme(look):
        figure, (ax,) = canvas(size=(9, 3.5))
        ax.set(xlim=(0, 10), ylim=(-2, 2))
        ax.set_axis_off()
        circle = dict(boxstyle="circle,pad=0.6", facecolor="none", edgecolor=colour(0), linewidth=3)
        ax.text(5, 0, name, ha="center", va="center", bbox=circle)
        for ends, xs in ((left, (0.3, 4.1)), (right, (5.9, 9.7))):
            for number, (letter, value, gradient) in enumerate(ends):
                outer = 0.0 if len(ends) == 1 else 1.0 - 2 * number
                _wire(ax, xs, outer, letter, value.item(), float(gradient))
        ax.set_title("values above, gradients below", fontsize="small")
    return figure


def _wire(ax: Any, xs: tuple[float, float], outer: float, letter: str, value: float, gradient: float) -> None:
    is_left = xs[0] < 5
    ys = (outer, outer * 0.4) if is_left else (outer * 0.4, outer)
    ax.annotate("", (xs[1], ys[1]), (xs[0], ys[0]), arrowprops=dict(arrowstyle="->", lw=3, color=colour(7)))
    x, y = (xs[0] + 1.4, sum(ys) / 2 + outer * 0.15) if is_left else (xs[1] - 1.4, sum(ys) / 2 + outer * 0.15)
    ax.text(x, y + 0.12, f"{letter} = {value:g}", ha="center", va="bottom", color=colour(2))
    ax.text(x, y - 0.12, f"{gradient:g}", ha="center", va="top", color=colour(1))


# ---------------------------------------------------------------- initialization and callbacks


def _of_initialization(card: Card, form: str) -> Maker | None:
    if card.title == "gain":
        return None
    if card.title == "initialize":
        return lambda look: pictures.glorot(theme=look)
    return lambda look: _weights(card, look)


def _weights(card: Card, look: Theme) -> Figure:
    weight = torch.empty(200, 400)
    card.value(weight, generator=torch.Generator().manual_seed(0))
    with theme(look):
        figure, (ax,) = canvas()
        ax.hist(weight.flatten(), bins=80, density=True, color=colour(0))
        for side, label in ((-1, None), (1, f"σ = {weight.std():.4f}")):
            ax.axvline(side * float(weight.std()), color=colour(1), linestyle="--", label=label)
        ax.legend()
        caption(ax, f"The weights of a Linear(400, 200), drawn by init.{card.title}(weight).")
    return figure


def _of_callback(card: Card, form: str) -> Maker | None:
    if not hasattr(card.value, "plot"):
        return None
    # It has colours of its own, for white paper.
    figure = examples.output(examples.example(card))[1]["callback"].plot()
    return lambda look: figure


_MAKERS: dict[str, Callable[[Card, str], Maker | None]] = {
    "optimizers": _of_optimizer,
    "schedules": _of_schedule,
    "activations": _of_activation,
    "gates": _of_gate,
    "losses": _of_loss,
    "initialization": _of_initialization,
    "callbacks": _of_callback,
}
