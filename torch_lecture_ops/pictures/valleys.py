"""The pictures of the slides on momentum: one valley, one saddle, and what optimizers do there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from .. import optim
from ..optim import lr_scheduler
from .choices import Factory
from .landscape import board, draw_start, draw_surface, draw_way
from .runs import Descent, descend, slope_at
from .style import Theme, canvas, caption, colour, drawing_on, legend_beside
from .surfaces import SURFACES, Box, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["momentum_forms", "nesterov", "overshoot", "saddle", "sign_changes", "valley", "zigzag"]


def __dir__() -> list[str]:
    return __all__


def sign_changes(values: Tensor) -> int:
    """How often a sequence goes through zero.

    >>> sign_changes(torch.tensor([1.0, -0.5, -0.1, 0.2]))
    2
    """
    return int((values[1:] * values[:-1] < 0).sum())


def overshoot(run: Descent, goal: float = 0.0) -> float:
    """How far a run gets beyond the goal in x, seen from its start; 0 if it does not.

    >>> overshoot(descend("bowl", partial(optim.SGD, lr=1.5), (2.0, 0.0), steps=1))
    1.0
    """
    x = run.points[:, 0] - goal
    return max(0.0, float((-x * x[0].sign()).max()))


def named(
    label: str, surface: str, build: Factory, start: Point | None, steps: int, lr: float, **options: Any
) -> Descent:
    """A run with a rate of its own."""
    run = descend(surface, partial(build, lr=lr, **options), start, steps)
    return replace(run, label=label, rate=lr)


def draw(ax: Axes, done: Sequence[Descent], title: str, said: str, **style: Any) -> None:
    surface = done[0].surface
    draw_surface(ax, surface)
    ways = [draw_way(ax, run, f"{run.label}  η {run.rate:g}", number, **style) for number, run in enumerate(done)]
    draw_start(ax, done[0])
    ax.set_title(title)
    legend_beside(ax, [way.handle for way in ways])
    caption(ax, f"f(x, y) = {surface.value.__doc__}\n{said}")


# ---------------------------------------------------------------- the valley


def valley_runs(steps: int = 60) -> tuple[Descent, Descent]:
    """Gradient descent without and with momentum, from the same point with the same rate."""
    plain = named("SGD", "valley", optim.SGD, None, steps, lr=0.02)
    return plain, named("Momentum", "valley", optim.SGD, None, steps, lr=0.02, momentum=0.9)


def valley(steps: int = 60, ax: Axes | None = None, theme: Theme = "light") -> Figure:
    """Steep vertically, shallow horizontally: the slope points across the valley, hardly along it.

    Gradient descent creeps along the bottom. Momentum builds up speed there, and overshoots.

    Source: CS231n, slide 'Momentum update'; IISER Bhopal DSE316/616, 'Activation Functions and Optimizer', slide
    'Stochastic Gradient Descent' ("Suppose loss function is steep vertically but shallow horizontally").

    Arguments:
        steps: of both runs.
        ax, theme: see `race`.
    """
    plain, heavy = done = valley_runs(steps)
    said = (
        f"Arrows: -∇f, the way down. After {steps} steps with the same rate SGD is still {-plain.points[-1, 0]:.1f} "
        f"away from the minimum; momentum (μ = 0.9) went {overshoot(heavy):.1f} beyond it."
    )
    xs, ys = torch.linspace(-4.4, 1.4, 9), torch.tensor([-1.1, -0.55, 0.55, 1.1])
    x, y = (one.flatten() for one in torch.meshgrid(xs, ys, indexing="xy"))
    dx, dy = SURFACES["valley"].slope(x, y)
    with drawing_on(ax, theme, partial(board, plain.surface)) as (figure, (ax,)):
        draw(ax, done, "The valley: steep vertically, shallow horizontally", said)
        ink = ax.xaxis.label.get_color()
        ax.quiver(x, y, -dx, -dy, color=ink, alpha=0.45, angles="xy", scale=320, width=0.003, zorder=2)
    return figure


def zigzag_runs(steps: int = 40) -> tuple[Descent, Descent]:
    """Gradient descent with a rate near the steep direction's limit 2 / 20, and with a small one."""
    large, small = (named("SGD", "valley", optim.SGD, None, steps, lr=lr) for lr in (0.095, 0.02))
    return large, small


def zigzag(steps: int = 40, ax: Axes | None = None, theme: Theme = "light") -> Figure:
    """With a rate that is large enough for the shallow direction, gradient descent jitters along the steep one.

    Source: the same slides ("very slow progress along flat direction, jitter along steep one").
    Arguments as for `valley`.
    """
    large, small = done = zigzag_runs(steps)
    flips, none = (sign_changes(run.points[:, 1]) for run in done)
    said = (
        f"η {large.rate:g}: in {steps} steps y changes its sign {flips} times; from {2 / 20:g} on it would not settle. "
        f"η {small.rate:g}: {none} times, but x is still {-small.points[-1, 0]:.1f} away from the minimum, not "
        f"{-large.points[-1, 0]:.1f}."
    )
    with drawing_on(ax, theme, partial(board, large.surface)) as (figure, (ax,)):
        draw(ax, done, "The zig-zag: jitter along the steep direction", said)
    return figure


# ---------------------------------------------------------------- the saddle

OFF = 1e-4  # slightly off the ridge


def saddle_runs(steps: int = 60) -> list[Descent]:
    """Exactly on the ridge, and slightly off."""
    on, off = (-1.2, 0.0), (-1.2, OFF)
    return [
        named("SGD, exactly on", "saddle", optim.SGD, on, steps, lr=0.1),
        named("SGD, slightly off", "saddle", optim.SGD, off, steps, lr=0.1),
        named("Momentum, slightly off", "saddle", optim.SGD, off, steps, lr=0.1, momentum=0.9),
        named("RMSprop, slightly off", "saddle", optim.RMSprop, off, steps, lr=0.05),
    ]


def escape(run: Descent) -> int | None:
    """The first step at which a run is further from the ridge y = 0 than half of the way to the minimum."""
    off = run.points[:, 1].abs() > 0.5
    return int(off.nonzero()[0]) if off.any() else None


def saddle(steps: int = 60, ax: Axes | None = None, theme: Theme = "light") -> Figure:
    """Exactly on the ridge of a saddle gradient descent ends in it; slightly off it escapes, sooner or later.

    Source: IISER Bhopal DSE316/616, 'Activation Functions and Optimizer', slide 'Saddle Points' ("If we're exactly on
    the saddle point, then we're stuck. If we're slightly to the side, then we can get unstuck").
    Arguments as for `valley`.
    """
    done = saddle_runs(steps)
    parts = [f"{run.label}: {f'after {n} steps' if (n := escape(run)) else 'never'}" for run in done]
    said = f"From x = -1.2, y = 0 or {OFF:g}. Escaped (|y| > 0.5): {'; '.join(parts)}."
    with drawing_on(ax, theme, partial(board, done[0].surface)) as (figure, (ax,)):
        draw(ax, done, "The saddle: exactly on it, slightly off", said)
    return figure


# ---------------------------------------------------------------- momentum

FORMS: dict[str, Factory] = {
    "torch  v = μ v + g,  p - η v": partial(optim.SGD, momentum=0.8),
    "cs231n  v = μ v - η g,  p + v": partial(optim.SGD, momentum=0.8, form="cs231n"),
    "larson  p - (η g + μ g before)": partial(optim.SGD, momentum=0.02, form="larson"),
}
FORM_STYLES: tuple[dict[str, Any], ...] = (dict(lw=9, alpha=0.45), dict(ls="--"), {})


def momentum_runs(steps: int = 40, lr: float = 0.05) -> tuple[list[Descent], list[Descent]]:
    """The three momenta with a constant rate, and with one that is halved every 5 steps."""

    def every(schedule: Callable[[Optimizer], Any] | None) -> list[Descent]:
        found = {label: descend("valley", partial(form, lr=lr), None, steps, schedule) for label, form in FORMS.items()}
        return [replace(run, label=label, rate=lr) for label, run in found.items()]

    return every(None), every(lambda optimizer: lr_scheduler.StepDecay(optimizer, drop=0.5, every=5))


def momentum_forms(steps: int = 40, axes: Sequence[Axes] | None = None, theme: Theme = "light") -> Figure:
    """The three momenta of the notes on one valley: with a constant rate two of them are the same, with a falling one
    none.

    Source: IISER Bhopal DSE316/616 and torch (v = ρ v + g), CS231n (v = μ v - η g), slides 'Momentum update'; Larson,
    slide 'Review' (two taps: one gradient of memory, whose weight here is that of a rate, 0.02).

    Arguments:
        steps: of each run.
        axes: two, where to draw; None for a figure of its own.
        theme: see `race`.
    """
    titles = ("Three momenta, constant rate", "Three momenta, rate halved every 5 steps")
    make = partial(board, SURFACES["valley"], rows=2, beside=6.5)
    with drawing_on(axes, theme, make, count=2) as (figure, panels):
        for ax, title, done in zip(panels, titles, momentum_runs(steps), strict=True):
            draw_surface(ax, SURFACES["valley"])
            numbered = enumerate(zip(done, FORM_STYLES, strict=True))
            legend_beside(ax, [draw_way(ax, run, run.label, k, **style).handle for k, (run, style) in numbered])
            ax.set_title(title)
            apart = float((done[0].points - done[1].points).norm(dim=1).max())
            caption(ax, f"{steps} steps, η {done[0].rate:g}. torch and cs231n: at most {apart:.2g} apart.")
    return figure


# ---------------------------------------------------------------- Nesterov's arrows


class Arrows(NamedTuple):
    """The vectors of a step, and where it led."""

    here: Tensor
    coast: Tensor  # μ v
    gradient_here: Tensor  # -η ∇f(p)
    gradient_ahead: Tensor  # -η ∇f(p + μ v)
    next: Tensor


def nesterov_arrows(after: int = 2, lr: float = 0.03, momentum: float = 0.9) -> Arrows:
    """Those of the step after so many, of a run of `Nesterov` on the valley."""
    velocities: list[Tensor] = []

    def note(optimizer: Optimizer) -> None:
        (p,) = optimizer.param_groups[0]["params"]
        velocities.append(optimizer.state[p].get("velocity", torch.zeros_like(p)).clone())

    run = descend("valley", partial(optim.Nesterov, lr=lr, momentum=momentum), None, after + 1, each_step=note)
    here, coast = run.points[after], momentum * velocities[after]
    gradients = [-lr * here.new_tensor(slope_at(run.surface, *at.tolist())) for at in (here, here + coast)]
    return Arrows(here, coast, gradients[0], gradients[1], run.points[after + 1])


def nesterov(after: int = 2, axes: Sequence[Axes] | None = None, theme: Theme = "light") -> Figure:
    """The two arrows of the slide, at a real point of a real run: momentum takes the gradient where it stands,
    Nesterov where the momentum leads.

    Source: CS231n, slide 'Nesterov Momentum update'; Larson, Deep Learning, 'Momentum and ReLU', slide 'Nesterov
    Momentum'.

    Arguments:
        after: the step to look at, from 1 on.
        axes: two, where to draw; None for a figure of its own.
        theme: see `race`.
    """
    here, coast, gradient_here, gradient_ahead, _ = nesterov_arrows(after)
    panels_of = (
        ("Momentum: gradient here", here, gradient_here),
        ("Nesterov: gradient ahead", here + coast, gradient_ahead),
    )
    ends = torch.stack([here, here + coast, here + gradient_here, *(here + coast + one for *_, one in panels_of)])
    near = replace(SURFACES["valley"], box=box_around(ends, 1.2), minima=())
    with drawing_on(axes, theme, partial(canvas, columns=2, size=(8.5, 7)), count=2) as (figure, panels):
        for ax, (title, at, gradient) in zip(panels, panels_of, strict=True):
            draw_surface(ax, near)
            ax.set_aspect("auto")  # the box has the proportions of the panel
            arrow(ax, here, coast, 2, "momentum step  μ v")
            arrow(ax, at, gradient, 1, "gradient step  -η ∇f")
            arrow(ax, here, coast + gradient, 0, "actual step")
            ax.plot(*here.tolist(), "o", ms=16, color=ax.xaxis.label.get_color(), zorder=9)
            ax.set_title(title)
        caption(panels[0], f"The valley, after {after} steps of Nesterov (η 0.03, μ 0.9).")
        caption(panels[1], "This step is the one that the optimizer took next.")
        if axes is None:
            figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
        else:
            panels[0].legend(loc="lower left")
    return figure


def box_around(points: Tensor, proportion: float) -> Box:
    """A box with these points well inside, so many times as wide as high."""
    middle, half = (points.amax(0) + points.amin(0)) / 2, (points.amax(0) - points.amin(0)) / 2
    height = 1.5 * max(float(half[0]) / proportion, float(half[1]))
    (x, y), width = middle.tolist(), proportion * height
    return x - width, x + width, y - height, y + height


def arrow(ax: Axes, tail: Tensor, vector: Tensor, number: int, label: str) -> None:
    place: Any = dict(angles="xy", scale_units="xy", scale=1, width=0.012, zorder=5)
    ax.quiver(*tail.tolist(), *vector.tolist(), color=colour(number), label=label, **place)
