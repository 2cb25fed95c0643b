"""A surface as seen from above, and ways over it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .runs import Descent
from .style import colour
from .surfaces import Point, Surface

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

__all__ = ["Way", "board", "draw_start", "draw_surface", "draw_way", "heights"]


def __dir__() -> list[str]:
    return __all__


LEVELS = 14
MARKERS = "os^Dv<>P"  # where a way ends: told apart without colours, too


@lru_cache(maxsize=16)  # a network's take seconds
def heights(surface: Surface) -> tuple[Tensor, Tensor, Tensor]:
    """x, y and f(x, y) on a grid over the picture, float64, rows from the bottom to the top."""
    left, right, bottom, top = surface.box
    xs, ys = (torch.linspace(*ends, surface.fine, dtype=torch.float64) for ends in ((left, right), (bottom, top)))
    x, y = torch.meshgrid(xs, ys, indexing="xy")
    return x, y, surface.value(x, y)


def levels(z: Tensor, count: int = LEVELS) -> list[float]:
    """Heights of contours, closer together the lower they are: √ of the height above the lowest in even steps, unless
    the surface is so steep that half of the picture would be below the second one; then its logarithm."""
    above = z - z.min()
    highest = above.max().item()
    parts = torch.linspace(0, 1, count + 1, dtype=torch.float64)
    even = highest * parts**2
    if above.median() < even[2]:
        lowest = max(above.flatten().kthvalue(max(1, above.numel() // 500)).values.item(), highest * 1e-6)
        even = torch.cat([parts[:1], lowest * (highest / lowest) ** torch.linspace(0, 1, count, dtype=torch.float64)])
    return (even + z.min()).tolist()


BESIDE = 5.0  # inches to the right of a surface, for a legend
LEFT, ABOVE, BELOW = 0.9, 0.7, 2.2  # and for its ticks, its title, and a caption of five lines


def board(surface: Surface, rows: int = 1, beside: float = BESIDE) -> tuple[Figure, list[Axes]]:
    """A figure with as many panels for the surface one below the other, in its proportions.

    Each has its place: constrained layout does not get along with fixed proportions, it collapses or cuts legends off.
    """
    from .figure import Picture

    left, right, bottom, top = surface.box
    width = min(9.0, 7.5 * (right - left) / (top - bottom))
    height = width * (top - bottom) / (right - left)
    across, row = LEFT + width + beside, ABOVE + height + BELOW
    figure = Picture(figsize=(across, rows * row))
    places = [(LEFT / across, (n + BELOW / row) / rows, width / across, height / row / rows) for n in range(rows)]
    return figure, [figure.add_axes(place) for place in reversed(places)]


def draw_surface(ax: Axes, surface: Surface) -> None:
    """Contours from the ground's colour (low) to that of the grid (high), and stars at the minima."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    x, y, z = (one.numpy() for one in heights(surface))
    at = levels(torch.from_numpy(z))
    paper, ink = to_rgb(ax.get_facecolor()), to_rgb(ax.xaxis.label.get_color())
    grey = tuple(0.75 * a + 0.25 * b for a, b in zip(paper, ink, strict=True))
    shades = LinearSegmentedColormap.from_list("ground", [paper, grey])
    ax.contourf(x, y, z, at, colors=[shades(k / LEVELS) for k in range(LEVELS)], zorder=0)
    ax.contour(x, y, z, at[1:], colors=[tuple(0.6 * a + 0.4 * b for a, b in zip(paper, ink, strict=True))],
               linewidths=0.8, linestyles="solid", zorder=0.5)  # fmt: skip
    for minimum in surface.minima:
        ax.plot(*minimum, "*", ms=24, color=ink, mec=paper, mew=1.5, zorder=6)
    left, right, bottom, top = surface.box
    ax.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")  # a slope is at right angles to its contour
    ax.locator_params(nbins=6)
    ax.grid(False)


class Way:
    """A drawn run: its line, the mark at its end, and the cross where it leaves the picture for good."""

    def __init__(self, ax: Axes, run: Descent, label: str, number: int = 0, **style: Any) -> None:
        self.run = run
        self.points = seen(run)
        of_line: Any = dict(color=colour(number), solid_capstyle="round", alpha=0.9, zorder=4) | style
        of_end: Any = dict(marker=MARKERS[number % len(MARKERS)], ms=14, mec=ax.get_facecolor(), mew=1.5, zorder=7)
        (self.line,) = ax.plot([], [], **of_line)
        (self.end,) = ax.plot([], [], color=colour(number), **of_end)
        (self.cross,) = ax.plot(
            [], [], color=colour(number), **of_end | dict(marker="X", ms=20, zorder=8, clip_on=False)
        )
        (self.handle,) = ax.plot([], [], label=label, **of_line, marker=of_end["marker"])

    @property
    def artists(self) -> list[Line2D]:
        return [self.line, self.end, self.cross]

    def show(self, step: int) -> None:
        """What is to be seen after so many steps."""
        points = self.points[: step + 1]
        self.line.set_data([x for x, _ in points], [y for _, y in points])
        gone = self.run.left is not None and step >= self.run.left
        self.end.set_data(*([], []) if gone else ([points[-1][0]], [points[-1][1]]))
        if gone:
            x, y = edge(self.run.surface, points[-2], points[-1]) if len(points) > 1 else points[-1]
            self.cross.set_data([x], [y])


def draw_way(ax: Axes, run: Descent, label: str, number: int = 0, **style: Any) -> Way:
    """All of a run, as number so many of its picture."""
    way = Way(ax, run, label, number, **style)
    way.show(run.steps)
    return way


def draw_start(ax: Axes, run: Descent) -> None:
    ax.plot(*run.points[0].tolist(), "o", ms=16, mfc="none", mec=ax.xaxis.label.get_color(), mew=3, zorder=9)


def seen(run: Descent) -> list[Point]:
    """The points up to that with which it leaves for good; the last one, which may be at infinity, is where the line
    to it leaves the neighbourhood of the picture."""
    points = [(x, y) for x, y in run.points.tolist()]
    if run.left is None:
        return points
    points = points[: run.left + 1]
    if run.left:
        points[-1] = edge(run.surface, points[-2], points[-1], around=0.5)
    return points


def edge(surface: Surface, inside: Sequence[float], outside: Sequence[float], around: float = 0.0) -> Point:
    """Where the way from one point to the other crosses the edge of the picture, or of one that is larger by a part
    `around` on all sides; the second point if it does not, the first one if the second is not finite."""
    if not all(map(math.isfinite, outside)):
        return inside[0], inside[1]
    left, right, bottom, top = surface.box
    part = 1.0
    for low, high, a, b in ((left, right, inside[0], outside[0]), (bottom, top, inside[1], outside[1])):
        margin = around * (high - low)
        for limit in (low - margin, high + margin):
            if (a - limit) * (b - limit) < 0:
                part = min(part, (limit - a) / (b - a))
    return inside[0] + part * (outside[0] - inside[0]), inside[1] + part * (outside[1] - inside[1])
