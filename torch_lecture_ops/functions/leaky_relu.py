"""The leaky rectified linear unit."""

from __future__ import annotations

from typing import Any

from ..formula import where
from .elementwise import Elementwise


def _value(x: Any, *, negative_slope: Any) -> Any:
    return where(x > 0, x, negative_slope * x)


class LeakyReLU(Elementwise):
    """x where x > 0, else a x: a rectified linear unit that does not die.

        dL/dx = dL/dy where x > 0, else a dL/dy

    At 0 the slope is a, as in torch; a NaN stays NaN and has the slope a. Saves its input, as torch does.

    Source: IISER Bhopal DSE316/616, 'Activation Functions and Optimizer', slide 'Leaky ReLu' (Maas, Hannun and Ng
    2013).
    Difference from torch: none; `save="output"` saves memory.
    """

    integers = "refuse"
    value = staticmethod(_value)

    @staticmethod
    def chain(g: Any, x: Any, *, negative_slope: Any) -> Any:
        return where(x > 0, g, negative_slope * g)


class LeakyReLUOfOutput(Elementwise):
    """`LeakyReLU` that saves its output, for a >= 0: then the output tells on which side the input was.

    The next layer keeps the output anyway, so nothing is kept for the activation alone. The price: nobody may write to
    the output before backward.
    """

    integers = "refuse"
    value = staticmethod(_value)

    @staticmethod
    def chain(g: Any, y: Any, *, negative_slope: Any) -> Any:
        return where(y > 0, g, negative_slope * g)
