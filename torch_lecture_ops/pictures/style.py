"""How pictures look, light and dark, to be read from the last row of a lecture hall: large letters, thick lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..checks import check_choice

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "GROUND", "THEMES", "Theme", "canvas", "caption", "colour", "drawing_on"]
__all__ += ["legend_below", "legend_beside", "theme"]


def __dir__() -> list[str]:
    return __all__


Theme = Literal["light", "dark"]
THEMES: tuple[str, ...] = get_args(Theme)

# Colours that the colour-blind tell apart (Okabe and Ito), lighter on black.
COLOURS = {
    "light": ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8A6D00", "#56B4E9", "#E69F00", "#555555"],
    "dark": ["#56B4E9", "#FF9B50", "#2FD1A2", "#F2A6CF", "#F0E442", "#8FB8FF", "#E69F00", "#CCCCCC"],
}
GROUND = {"light": ("#ffffff", "#1a1a1a", "#c8c8c8"), "dark": ("#14161a", "#f0f0f0", "#4a4d55")}  # paper, ink, grid


@contextmanager
def theme(name: Theme) -> Iterator[None]:
    """Inside, what is drawn looks so."""
    from cycler import cycler

    from .figure import matplotlib

    check_choice("theme", "name", name, THEMES)
    paper, ink, grid = GROUND[name]
    style: Any = {
        "font.size": 20,
        "axes.titlesize": 22,
        "axes.titleweight": "bold",
        "legend.fontsize": 17,
        "lines.linewidth": 3.5,
        "lines.markersize": 10,
        "axes.grid": True,
        "grid.color": grid,
        "grid.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.prop_cycle": cycler(color=COLOURS[name]),
        "legend.framealpha": 0.85,
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor"), paper),
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), ink),
    }
    with matplotlib.rc_context(style):
        yield


def legend_below(panel: Any) -> None:
    """The legend under the axis, where it covers nothing, and as much more of the picture as it takes."""
    names = [text.get_text() for text in panel.legend().texts]
    columns = 1 if max(map(len, names), default=0) > 40 else 2
    place = dict(loc="upper left", bbox_to_anchor=(0, -0.16), borderaxespad=0, frameon=False)
    panel.legend(ncols=columns, **place)
    width, height = panel.figure.get_size_inches()
    panel.figure.set_size_inches(width, height + 0.4 * math.ceil(len(names) / columns))


def canvas(title: str = "", rows: int = 1, columns: int = 1, size: tuple[float, float] = (14, 7.5)) -> tuple[Any, list]:
    """A figure and its panels, row by row, each of this size in inches."""
    from .figure import Picture

    figure = Picture(figsize=(size[0] * columns, 1 + size[1] * rows), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.15)  # type: ignore[union-attr, call-arg]
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    panels[0].set_title(title)
    return figure, list(panels)


def legend_beside(panel: Any, handles: Iterable[Any]) -> None:
    """The legend to the right of the axes."""
    panel.legend(handles=list(handles), loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False)


@contextmanager
def drawing_on(
    axes: Axes | Sequence[Axes] | None,
    look: Theme,
    make: Callable[[], tuple[Figure, list[Axes]]] = canvas,
    count: int = 1,
) -> Iterator[tuple[Figure, list[Axes]]]:
    """Where a picture of so many panels is drawn: on these axes, as they look, or on a figure that is made in a theme.

    Raises:
        ValueError: other than so many axes; an unknown theme.
    """
    if axes is None:
        with theme(look):
            yield make()
        return
    panels = list(axes) if isinstance(axes, Iterable) else [axes]
    if len(panels) != count:
        raise ValueError(f"picture: it has {count} panels, so it needs as many axes, got {len(panels)}")
    yield panels[0].figure, panels  # type: ignore[misc]


def colour(number: int) -> Any:
    """That of a number in the theme; a name such as C0 would be looked up when the theme is gone."""
    from matplotlib.colors import to_rgba

    return to_rgba(f"C{number % len(COLOURS['light'])}")


def caption(ax: Axes, text: str, width: int = 105) -> None:
    """What is to be said below a picture, in lines of so many letters."""
    lines = "\n".join(fill(paragraph, width) for paragraph in text.splitlines())
    ax.set_xlabel(lines, fontsize="x-small", loc="left")
