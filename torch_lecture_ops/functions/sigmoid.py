"""The sigmoid."""

from __future__ import annotations

from typing import Any

from ..formula import exp
from .elementwise import Elementwise


class Sigmoid(Elementwise):
    """σ(x) = 1 / (1 + e⁻ˣ), with values in (0, 1).

        dσ/dx = σ (1 - σ)

    At 0 the value is 1/2 and the slope 1/4, its maximum: a saturated sigmoid kills the gradient. At ±∞ the value is 1
    or 0 and the slope 0; NaN stays NaN. Saves its output.

    Source: IISER Bhopal DSE316/616, 'Activation Functions and Optimizer', slide 'Sigmoid function' (with the slope in
    this form, and 0.2 for its value 0.1966 at x = 1).
    Difference from torch: none.
    """

    @staticmethod
    def value(x: Any) -> Any:
        return 1 / (1 + exp(-x))

    @staticmethod
    def slope(y: Any) -> Any:
        return y * (1 - y)
