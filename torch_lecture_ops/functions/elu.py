"""The exponential linear unit."""

from __future__ import annotations

from typing import Any

from ..formula import exp, expm1, minimum, where
from .elementwise import Elementwise


def _value(x: Any, *, alpha: Any) -> Any:
    return where(x < 0, alpha * expm1(x), x)


class ELU(Elementwise):
    """x where x > 0, else α (eˣ - 1).

        dy/dx = 1 where x > 0, else α eˣ

    At 0 the slope is α, as in torch; expm1 keeps the digits of small x. Saves its input, as torch does.

    Source: IISER Bhopal DSE316/616, 'Activation Functions and Optimizer', slide 'Types of Activation Functions', where
    the slope is f(x) + α, see `ELUOfOutput` (Clevert, Unterthiner and Hochreiter 2016).
    Difference from torch: none; `save="output"` saves memory.
    """

    integers = "refuse"
    value = staticmethod(_value)

    @staticmethod
    def slope(x: Any, *, alpha: Any) -> Any:
        return where(x > 0, 1.0, alpha * exp(minimum(x, 0.0)))  # nothing overflows where it is not taken


class ELUOfOutput(Elementwise):
    """`ELU` that saves its output, for α >= 0: then the output tells on which side the input was.

        dy/dx = 1 where y > 0, else y + α          (α eˣ = α (eˣ - 1) + α)

    The next layer keeps the output anyway, so nothing is kept for the activation alone. The price: nobody may write to
    the output before backward, and y + α is no more exact than α. For α = 1 the slope is off by up to 6e-8 in float32,
    2.5e-4 in float16 and 2e-3 in bfloat16, and comes out as 0 below x = -16.6, -8.3 and -6.2 (so that an infinite
    gradient becomes NaN).
    """

    integers = "refuse"
    value = staticmethod(_value)

    @staticmethod
    def slope(y: Any, *, alpha: Any) -> Any:
        return where(y > 0, 1.0, y + alpha)
