"""The sigmoid-weighted linear unit, also called swish."""

from __future__ import annotations

from typing import Any

from ..formula import exp
from .elementwise import Elementwise


class SiLU(Elementwise):
    """φ(x) = x σ(x) = x / (1 + e⁻ˣ).

        dφ/dx = φ + σ (1 - φ) = σ (1 + x (1 - σ))          (computed as on the right, where nothing cancels)

    At 0 the value is 0 and the slope 1/2; the minimum is -0.278 at x = -1.278. At -∞ the value is NaN, as is the
    slope at ±∞ (∞ · 0), like `torch.nn.functional.silu`. Not invertible, so it saves its input.

    Source: Larson, Machine Learning in Python, 'Neural Network Optimization and Activation', slide 'Other Activation
    Functions' (Elfwing, Uchibe and Doya 2018; Ramachandran, Zoph and Le 2017), where φ in the slope is the output.
    Difference from torch: none.
    """

    integers = "refuse"

    @staticmethod
    def value(x: Any) -> Any:
        return x / (1 + exp(-x))

    @staticmethod
    def slope(x: Any) -> Any:
        sigma = 1 / (1 + exp(-x))
        return sigma * (1 + x * (1 - sigma))
