"""A race that moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from .choices import Factory
from .landscape import board
from .progress import progress
from .races import EVERYBODY, draw_race
from .runs import resolved, runs
from .style import Theme
from .style import theme as in_theme
from .surfaces import Point, Surface

__all__ = ["animate"]


def __dir__() -> list[str]:
    return __all__


FRAMES = 100  # at most; of a longer race every second step is shown, or every third
SECONDS = 0.06  # a frame
HOLD = 3.0  # seconds for the last one


def animate(
    file: Path | str | IO[bytes],
    surface: Surface | str = "beale",
    optimizers: Sequence[str] | Mapping[str, Factory] = EVERYBODY,
    start: Point | None = None,
    steps: int = 200,
    rates: Mapping[str, float] | None = None,
    theme: Theme = "light",
    dpi: int = 60,
) -> None:
    """Write a `race` as a GIF that shows everybody step by step.

    Arguments:
        file: a path, or a binary file to write to.
        surface, optimizers, start, steps, rates, theme: as in `race`.
        dpi: pixels an inch; it is 14 inches wide.

    Raises:
        ValueError, ImportError: as in `race`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    surface, start = resolved(surface, start)
    done = runs(surface, optimizers, start, steps, rates)
    with in_theme(theme):
        figure, (ax,) = board(surface)
        figure.set_dpi(dpi)
        agg = FigureCanvasAgg(figure)
        ways = draw_race(ax, surface, done)
        counter = ax.text(0.99, 0.98, "", transform=ax.transAxes, ha="right", va="top", fontweight="bold", zorder=10)
        moving: list[Any] = sorted([counter, *(one for way in ways for one in way.artists)], key=lambda one: one.zorder)
        for artist in moving:
            artist.set_animated(True)  # left out when all else is drawn, once
        agg.draw()
        ground = agg.copy_from_bbox(figure.bbox)
        every = -(-steps // FRAMES)
        frames = []
        for step in progress([*range(0, steps, every), steps], "drawing"):
            counter.set_text(f"step {step}")
            for way in ways:
                way.show(step)
            agg.restore_region(ground)
            for artist in moving:
                ax.draw_artist(artist)
            frames.append(Image.frombytes("RGBA", agg.get_width_height(), agg.buffer_rgba()).convert("RGB"))
    palette = frames[-1].quantize(256)
    first, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    milliseconds = [round(1000 * SECONDS)] * len(others) + [round(1000 * HOLD)]
    first.save(file, format="gif", save_all=True, append_images=others, duration=milliseconds, loop=0)
