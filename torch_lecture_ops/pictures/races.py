"""Races of optimizers over a surface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from .choices import Factory
from .landscape import Way, board, draw_start, draw_surface
from .runs import RATES, Descent, resolved, runs
from .style import Theme, caption, drawing_on, legend_beside
from .surfaces import Point, Surface

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["EVERYBODY", "draw_race", "race", "rule"]


def __dir__() -> list[str]:
    return __all__


EVERYBODY = ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adadelta", "adam", "nadam")


def race(
    surface: Surface | str = "beale",
    optimizers: Sequence[str] | Mapping[str, Factory] = EVERYBODY,
    start: Point | None = None,
    steps: int = 200,
    rates: Mapping[str, float] | None = None,
    ax: Axes | None = None,
    theme: Theme = "light",
) -> Figure:
    """Several optimizers from the same point, each with the rate that the rule of `fair_rate` gives it.

    Rule and rates stand in the picture. Who leaves the picture for good has a cross there and the step in the legend.

    Source: A. Radford's animations in CS231n, Neural Networks 3; Larson, Machine Learning in Python, 'Neural Network
    Optimization and Activation'.

    Arguments:
        surface, optimizers, start, steps, rates: see `runs`.
        ax: where to draw; None for a figure of its own.
        theme: "light" or "dark", of that figure.

    Raises:
        ValueError: unknown names, see `runs`.
        ImportError: Matplotlib is not installed.

    Example::

        race("beale", ["sgd", "adam:larson", "nesterov"], steps=100).savefig("race.png")
    """
    surface, start = resolved(surface, start)
    done = runs(surface, optimizers, start, steps, rates)
    with drawing_on(ax, theme, partial(board, surface)) as (figure, (ax,)):
        for way in draw_race(ax, surface, done):
            way.show(steps)
    return figure


def draw_race(ax: Axes, surface: Surface, done: Sequence[Descent]) -> list[Way]:
    """The surface with title, rule and legend, and the ways, which are yet to be shown."""
    draw_surface(ax, surface)
    ways = [Way(ax, run, entry(run), number) for number, run in enumerate(done)]
    draw_start(ax, done[0])
    ax.set_title(f"Race: {surface.name.capitalize()}")
    legend_beside(ax, [way.handle for way in ways])
    caption(ax, f"f(x, y) = {surface.value.__doc__}\n{rule(done)}\n○ start   ★ minimum   × left the picture for good")
    return ways


def entry(run: Descent) -> str:
    """What the legend says of a run."""
    text = run.label if run.rate is None else f"{run.label}  η {run.rate:g}"
    if run.rate is not None and not run.by_rule:
        text += " (given)"
    if run.diverged is not None:
        return f"{text}\ndiverged at step {run.diverged}"
    return text if run.left is None else f"{text}\nleft at step {run.left}"


def rule(done: Sequence[Descent]) -> str:
    """How the rates were chosen, in words."""
    steps = max((run.steps for run in done), default=0)
    said = (
        f"{steps} steps. Each rate η is, of 1, 2, 5 × 10ᵏ from {min(RATES):g} to {max(RATES):g}, the one that ends "
        f"lowest after these {steps} steps without leaving the picture"
    )
    given = [run.label for run in done if not run.by_rule]
    if len(given) == len(done):
        return f"{steps} steps. Rates η as given."
    if lost := [run.label for run in done if run.by_rule and run.left is not None]:
        said += f" ({', '.join(lost)}: all leave it, so the lowest of all)"
    return f"{said}; {', '.join(given)}: as given." if given else f"{said}: the same rule for all."
