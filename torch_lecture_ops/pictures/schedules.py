"""Learning rates over time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

from ..optim import SGD
from .choices import SCHEDULES, parse
from .style import Theme, caption, drawing_on, legend_beside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["followed", "schedule"]


def __dir__() -> list[str]:
    return __all__


STYLES = ("-", "--", "-.", ":")


def built(text: str) -> Callable[[Optimizer], Any]:
    """What builds the scheduler of a choice such as "step:drop=0.5:every=10".

    Raises:
        ValueError: there is no such schedule, or it does not have these settings.
    """
    choice = parse(text)
    known = {name: schedule for name, schedule in SCHEDULES.items() if schedule.cls}
    if choice.name not in known:
        raise ValueError(f"unknown schedule {choice.name!r}, choose from {', '.join(known)}")
    cls, defaults = known[choice.name]

    def build(optimizer: Optimizer) -> Any:
        return cls(optimizer, **defaults | choice.settings)  # type: ignore[misc]

    try:
        build(SGD([torch.zeros(1)], lr=0.1, momentum=0.5))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{text!r}: {error}") from None
    return build


def followed(build: Callable[[Optimizer], Any], steps: int, lr: float) -> tuple[list[float], list[float]]:
    """Learning rate and momentum of a real optimizer before each of its steps under a scheduler."""
    optimizer = SGD([torch.zeros(1)], lr=lr, momentum=0.5)
    scheduler = build(optimizer)
    (group,) = optimizer.param_groups
    rates, momenta = [], []
    for _ in range(steps):
        rates.append(float(group["lr"]))
        momenta.append(float(group["momentum"]))
        optimizer.step()
        scheduler.step()
    return rates, momenta


def schedule(
    schedules: Sequence[str] | Mapping[str, Callable[[Optimizer], Any]] = tuple(SCHEDULES)[1:],
    steps: int = 50,
    lr: float = 0.1,
    ax: Axes | None = None,
    theme: Theme = "light",
) -> Figure:
    """How schedules move the learning rate, as a part of the first one, and those of the momentum μ itself.

    Source: CS231n, slide 'Which one of these learning rates is best to use?' ("Learning rate decay over time!"), and
    those of the schedules in `optim.lr_scheduler`.

    Arguments:
        schedules: choices such as "step:drop=0.5:every=10", or label -> what builds a scheduler from an optimizer.
        steps: how many, of a real optimizer.
        lr: the first rate η₀.
        ax, theme: see `race`.

    Raises:
        ValueError: an unknown name or setting.
    """
    if not isinstance(schedules, Mapping):
        schedules = {text: built(text) for text in schedules}
    with drawing_on(ax, theme) as (figure, (ax,)):
        for number, (label, build) in enumerate(schedules.items()):
            rates, momenta = followed(build, steps, lr)
            is_of_momentum = len(set(momenta)) > 1
            curve = momenta if is_of_momentum else [rate / lr for rate in rates]
            label = f"{label}: μ" if is_of_momentum else label
            ax.plot(range(steps), curve, STYLES[number % len(STYLES)], drawstyle="steps-post", label=label)
        ax.set(title="Schedules", ylabel="η / η₀, or μ", ylim=(-0.03, 1.05))
        caption(ax, f"steps of the scheduler t; η₀ = {lr:g}")
        legend_beside(ax, ax.lines)
    return figure
