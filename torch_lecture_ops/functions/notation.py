"""A function as it is written on the slide: its value, and its slope or what it does to a gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..formula import Latex, latex
from ..formula.latex import letter_of

LETTERS = {"loss": r"\ell"}


def of_value(value: Callable[..., Any], *results: str) -> Latex:
    """The lines of a value."""
    return latex(value, results, LETTERS)


def of_slope(slope: Callable[..., Any], x: str) -> Latex:
    """The lines of a slope dy/dx."""
    return latex(slope, ("slope",), {"slope": rf"\frac{{\mathrm{{d}} y}}{{\mathrm{{d}} {letter_of(x)}}}"})


def of_chain(chain: Callable[..., Any], y: str, tensors: Iterable[str]) -> Latex:
    """The lines of the gradients of these tensors, from g, that of the result y."""
    letters = {f"d{name}": gradient(letter_of(name)) for name in tensors}
    return latex(chain, tuple(letters), letters | {"g": gradient(LETTERS.get(y) or letter_of(y))})


def gradient(letter: str) -> str:
    """The gradient of what has this letter."""
    return rf"\frac{{\partial L}}{{\partial {letter}}}"
