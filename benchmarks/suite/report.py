"""The files about runs: CSV and JSON, pictures, and one HTML file that holds tables and pictures."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from torch_lecture_ops.pictures.style import THEMES, theme

from .run import Run
from .setting import machine, versions
from .store import finite
from .tables import Table, summary

if TYPE_CHECKING:  # matplotlib, imported when something is drawn
    from matplotlib.figure import Figure


@contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO]:
    """Write a file all at once: a reader finds the old one or the new one, never a part."""
    with tempfile.NamedTemporaryFile(mode, dir=path.parent, prefix=path.name, delete=False) as file:
        try:
            yield file
        except BaseException:
            os.unlink(file.name)
            raise
    os.chmod(file.name, 0o644)  # temporary files are private
    os.replace(file.name, path)


def write_csv(path: Path, runs: Sequence[Run]) -> None:
    """One row per run, without the curves."""
    rows = [{key: value for key, value in run.flat().items() if not isinstance(value, list)} for run in runs]
    with replacing(path) as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: Path, runs: Sequence[Run], options: Mapping[str, Any]) -> None:
    """Everything: how it was run, where, the table's numbers and all runs with their curves."""
    contents = {
        "options": options,
        "versions": versions(),
        "machine": machine(),
        "summary": summary(runs),
        "runs": [run.flat() for run in runs],
    }
    with replacing(path) as file:
        json.dump(finite(contents), file, indent=1, default=str)


def write_loss_picture(path: Path, runs: Sequence[Run]) -> None:
    """The loss curves of a comparison."""
    from .pictures import compared_losses, save

    with theme("light"), replacing(path, "wb") as file:
        save(compared_losses(runs), file)


# ---------------------------------------------------------------- pictures


def draw(runs: Sequence[Run], targets: Sequence[float]) -> dict[str, Figure]:
    """All pictures that these runs have something for, by file name."""
    from . import pictures

    figures = {
        "loss": pictures.loss_curves(runs),
        "learning_rates": pictures.learning_rates(runs),
        "heat_maps": pictures.heat_maps(runs),
        "time_to_target": pictures.target_profile(runs, targets),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def png(figure: Figure) -> bytes:
    from .pictures import save

    buffer = io.BytesIO()
    save(figure, buffer)
    return buffer.getvalue()


# ---------------------------------------------------------------- HTML

STYLE = """
:root { color-scheme: light dark; }
body { font: 22px/1.5 system-ui, sans-serif; max-width: 1800px; margin: 2rem auto; padding: 0 1.5rem;
       background: #ffffff; color: #1a1a1a; }
h1 { font-size: 2.2em; line-height: 1.15; } h2 { font-size: 1.6em; margin-top: 2em; }
table { border-collapse: collapse; font-size: .85em; font-variant-numeric: tabular-nums; margin-bottom: 1.5em; }
th, td { padding: .35em .6em; text-align: right; border-bottom: 1px solid #c8c8c8; }
th:first-child, td:first-child { text-align: left; width: 12em; overflow-wrap: anywhere; }
p, footer { overflow-wrap: anywhere; }
img { width: 100%; height: auto; }
footer { color: #595959; font-size: .8em; margin: 3em 0; }
@media (prefers-color-scheme: dark) {
  body { background: #14161a; color: #f0f0f0; } th, td { border-color: #4a4d55; } footer { color: #b0b0b0; }
}
"""


def write_report(
    folder: Path, title: str, runs: Sequence[Run], tables: Sequence[Table], targets: Sequence[float]
) -> list[str]:
    """report.html, and each of its pictures as PNG, light and dark; the names of the files."""

    pictures: dict[str, dict[str, bytes]] = {}
    for name in THEMES:
        with theme(name):
            for picture, figure in draw(runs, targets).items():
                pictures.setdefault(picture, {})[name] = png(figure)
    files = {
        f"{picture}{'' if name == 'light' else '_dark'}.png": contents
        for picture, themes in pictures.items()
        for name, contents in themes.items()
    }
    files["report.html"] = page(title, tables, pictures).encode()
    for name, contents in files.items():
        with replacing(folder / name, "wb") as file:
            file.write(contents)
    return sorted(files)


def page(title: str, tables: Sequence[Table], pictures: Mapping[str, Mapping[str, bytes]]) -> str:
    """One file that asks for no other: pictures are in it, the dark one for readers who have asked for dark."""
    body = [f"<h1>{html.escape(title)}</h1>"]
    body += [f"<h2>{html.escape(table.title)}</h2>\n{table.html()}" for table in tables]
    for name, themes in pictures.items():
        words = name.replace("_", " ")
        light, dark = (f"data:image/png;base64,{base64.b64encode(themes[each]).decode()}" for each in THEMES)
        body.append(
            f"<h2>{words.capitalize()}</h2>\n<picture><source srcset='{dark}' media='(prefers-color-scheme: dark)'>"
            f"<img src='{light}' alt='{words}'></picture>"
        )
    where = ", ".join(f"{key} {value}" for key, value in (machine() | versions()).items())
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + f"\n<footer>Written on: {html.escape(where)}</footer>\n</body></html>\n"
    )
