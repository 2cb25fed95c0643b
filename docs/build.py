"""Builds the documentation: python docs/build.py. Pages go to build/docs/html, all that is made to build/docs.

The source that Sphinx reads is put together in build/docs/source: the pages of this folder, and those that follow from
the package. So nothing that is made lies in the checkout.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
BUILD = ROOT / "build" / "docs"
SOURCE = BUILD / "source"
FROM_ROOT = ("CONTRIBUTING.md", "DESIGN.md", "CHANGELOG.md")

sys.path[:0] = [str(DOCS), str(ROOT)]
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # else threads that wait for work hold up the pictures
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])


def main() -> int:
    from sphinx.cmd.build import main as build

    from torch_lecture_ops.pictures import race_page

    race = BUILD / "extra" / "race.html"
    race.parent.mkdir(parents=True, exist_ok=True)
    race.write_text(race_page(), encoding="utf-8")
    kept = {write(path, text) for path, text in texts()}
    examples = [path.stem for path in DOCS.glob("gallery/plot_*.py")]
    for path in SOURCE.rglob("*"):  # what an earlier build made and this one does not
        is_of_gallery = path.parent == SOURCE / "gallery"
        if is_of_gallery and path.name.startswith("plot_") and not any(map(path.name.startswith, examples)):
            path.unlink()
        if path.suffix in (".rst", ".md") and path not in kept and not is_of_gallery:
            path.unlink()
    options = ["-W", "--keep-going", "-q", "-j", "2", "-c", str(DOCS), "-d", str(BUILD / "doctrees")]
    return build([*options, str(SOURCE), str(BUILD / "html")])


def texts():
    """Path and text of every page."""
    from generator import cards, drawings, reference

    for path in [*DOCS.glob("*.md"), *DOCS.glob("guides/*.md")]:
        yield path.relative_to(DOCS), path.read_text(encoding="utf-8")
    for name in FROM_ROOT:
        yield Path("project") / name.lower(), (ROOT / name).read_text(encoding="utf-8")
    drawings.start_page(SOURCE / "pictures")
    draw = drawings.into(SOURCE / "pictures")
    for page, text in [*cards.pages(draw), *reference.pages()]:
        yield Path(f"{page}.rst"), text


def write(path: Path, text: str) -> Path:
    """Write a page if it is new: Sphinx then builds only what has changed."""
    target = SOURCE / path
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return target


if __name__ == "__main__":
    sys.exit(main())
