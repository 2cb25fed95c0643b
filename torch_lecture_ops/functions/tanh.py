"""The hyperbolic tangent."""

from __future__ import annotations

from typing import Any

from .. import formula
from .elementwise import Elementwise


class Tanh(Elementwise):
    """tanh x = (eˣ - e⁻ˣ) / (eˣ + e⁻ˣ), with values in (-1, 1).

        d tanh x / dx = sech² x = 1 - tanh² x

    At 0 the value is 0 (of the sign of x) and the slope 1. At ±∞ the value is ±1 and the slope 0; NaN stays NaN.
    Saves its output.

    Source: Larson, Machine Learning in Python, 'Neural Network Optimization and Activation', slide 'New Activation:
    Hyperbolic Tangent' (the slope there as sech², and as 4 / (eˣ + e⁻ˣ)² in the summary).
    Difference from torch: none.
    """

    @staticmethod
    def value(x: Any) -> Any:
        return formula.tanh(x)

    @staticmethod
    def slope(y: Any) -> Any:
        return 1 - y**2
