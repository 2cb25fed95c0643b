"""The leaky rectified linear unit."""

from __future__ import annotations

from typing import Any

from ..formula import where
from .elementwise import Elementwise


def _value(x: Any, *, negative_slope: Any) -> Any:
    return where(x > 0, x, negative_slope * x)


class LeakyReLU(Elementwise):
    """x where x > 0, else a x: a rectified linear unit that does not die. For a >= 0; `LeakyReLUOfInput` takes any a.

        dL/dx = dL/dy where y > 0, else a dL/dy

    At 0 the slope is a, as in torch; a NaN stays NaN and has the slope a. For a >= 0 the output tells on which side the
    input was, so the output is saved, which the next layer keeps anyway (torch saves the input).

    Source: IISER Bhopal DSE316/616, 'Activation Functions and Optimizer', slide 'Leaky ReLu' (Maas, Hannun and Ng
    2013).
    """

    integers = "refuse"
    value = staticmethod(_value)

    @staticmethod
    def chain(g: Any, y: Any, *, negative_slope: Any) -> Any:
        return where(y > 0, g, negative_slope * g)


class LeakyReLUOfInput(Elementwise):
    """`LeakyReLU` for any a. Saves its input: for a < 0 the sign of the output does not tell that of the input."""

    integers = "refuse"
    value = staticmethod(_value)

    @staticmethod
    def chain(g: Any, x: Any, *, negative_slope: Any) -> Any:
        return where(x > 0, g, negative_slope * g)
