"""The affine function, the simplest activation."""

from __future__ import annotations

from typing import Any

from .elementwise import Elementwise
from .pointwise import Pointwise


class Affine(Elementwise):
    """a x + c with numbers a and c; `AffineOfTensors` takes those that learn.

    dy/dx = a, for which nothing is saved.

    Source: IISER Bhopal DSE316/616, 'Activation Functions and Optimizer', slide 'Linear function'.
    Difference from torch: torch has none.
    """

    @staticmethod
    def value(x: Any, *, a: Any, c: Any) -> Any:
        return a * x + c

    @staticmethod
    def chain(g: Any, *, a: Any) -> Any:
        return a * g


class AffineOfTensors(Pointwise):
    """a x + c with tensors a and c, broadcast: dL/dx = a dL/dy, dL/da = Σ x dL/dy, dL/dc = Σ dL/dy."""

    @staticmethod
    def value(x: Any, a: Any, c: Any) -> Any:
        return a * x + c

    @staticmethod
    def chain(g: Any, x: Any, a: Any) -> Any:
        return a * g, x * g, g
