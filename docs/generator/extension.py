"""What Sphinx is told of: docstrings, mathematics without a script, and the names that no page shows."""

from __future__ import annotations

from typing import Any

from docutils.nodes import SkipNode
from latex2mathml.converter import convert
from matplotlib.figure import Figure
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from torch.autograd import Function

from . import catalogue, docstrings
from .reference import link

logger = logging.getLogger(__name__)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.connect("autodoc-process-docstring", _read_docstring)
    app.connect("autodoc-process-signature", _sign)
    app.connect("env-check-consistency", _check_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def mathml(latex: str, display: str) -> str:
    # latex2mathml knows align*, and writes the & of aligned as it is.
    return convert(latex.replace("{aligned}", "{align*}"), display=display)


def _inline(translator: Any, node: Any) -> None:
    translator.body.append(mathml(node.astext(), "inline"))
    raise SkipNode


def _block(translator: Any, node: Any) -> None:
    translator.body.append(f'<div class="formula">{mathml(node.astext(), "block")}</div>\n')
    raise SkipNode


def _read_docstring(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    home = name.rpartition(".")[0]
    lines[:] = docstrings.written(docstrings.blocks_of(lines), lambda inner: link(inner, home)).splitlines()


def _sign(
    app: Sphinx, what: str, name: str, value: Any, options: Any, signature: str, returned: str
) -> tuple[str, None] | None:
    """A Function is called by its `call`, not by its constructor."""
    return ("", None) if isinstance(value, type) and issubclass(value, Function) else None


def _check_names(app: Sphinx, env: BuildEnvironment) -> None:
    shown = {name for name, *_ in env.domains["py"].get_objects()}
    for name in sorted(set(catalogue.public_names()) - shown):
        logger.warning("%s is public, but no page shows it", name)


class FigureScraper:
    """Takes the figures of the gallery's examples, which belong to no pyplot."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def __repr__(self) -> str:
        return "FigureScraper"

    def __call__(self, block: Any, variables: Any, configuration: Any) -> str:
        from sphinx_gallery.scrapers import figure_rst

        found = [value for value in variables["example_globals"].values() if isinstance(value, Figure)]
        files = []
        for figure in found:
            if id(figure) not in self._seen:
                self._seen.add(id(figure))
                files.append(next(variables["image_path_iterator"]))
                figure.savefig(files[-1], dpi=100)
        return figure_rst(files, configuration["src_dir"])
