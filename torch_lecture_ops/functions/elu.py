"""The exponential linear unit."""

from __future__ import annotations

from typing import Any

from ..formula import exp, expm1, where
from .elementwise import Elementwise


def _value(x: Any, *, alpha: Any) -> Any:
    return where(x < 0, alpha * expm1(x), x)


class ELU(Elementwise):
    """x where x > 0, else α (eˣ - 1). For α >= 0 in float32 and float64; `ELUOfInput` takes the rest.

        dy/dx = 1 where y > 0, else y + α          (α eˣ = α (eˣ - 1) + α: the output is all that is needed)

    At 0 the slope is α, as in torch; expm1 keeps the digits of small x. For α >= 0 the output tells on which side the
    input was, so the output is saved, which the next layer keeps anyway (torch saves the input). y + α is as exact as
    α: below x = -17 the slope in float32 comes out as 0, and an infinite gradient as NaN (torch: infinite down to
    -103).

    Source: IISER Bhopal DSE316/616, 'Activation Functions and Optimizer', slide 'Types of Activation Functions', where
    the slope is f(x) + α (Clevert, Unterthiner and Hochreiter 2016).
    """

    integers = "refuse"
    value = staticmethod(_value)

    @staticmethod
    def slope(y: Any, *, alpha: Any) -> Any:
        return where(y > 0, 1.0, y + alpha)


class ELUOfInput(Elementwise):
    """`ELU` for any α and dtype. Saves its input: half types lose too much in y + α, and α < 0 loses the side."""

    integers = "refuse"
    value = staticmethod(_value)

    @staticmethod
    def slope(x: Any, *, alpha: Any) -> Any:
        return where(x > 0, 1.0, alpha * exp(x))
