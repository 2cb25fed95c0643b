"""The squared error, of which the quadratic cost and torch's mse_loss are made."""

from __future__ import annotations

from typing import Any

from .pointwise import Pointwise


class SquaredError(Pointwise):
    """(y - a)² / n for an output a and a target y: the quadratic cost before it is added up.

        ∂/∂a = -2 (y - a) / n          ∂/∂y = 2 (y - a) / n

    n is the number of outputs n_L in the cost of the notes, and 1 in torch's `mse_loss`.

    Source: 'We can do better: Momentum and ReLU', slide "Good 'ole Quadratic Cost", which goes on through a sigmoid
    layer: -2 (y - a) a (1 - a) / n_L is the gradient of what enters that layer.
    Difference from torch: torch has its mean and its sum, not the notes' scaling by n_L (`QuadraticCost`).
    """

    @staticmethod
    def value(a: Any, y: Any, *, n: Any) -> Any:
        return (y - a) ** 2 / n

    @staticmethod
    def chain(g: Any, a: Any, y: Any, *, n: Any) -> Any:
        slope = 2 * (y - a) / n
        return g * -slope, g * slope


class WeightedSquare(Pointwise):
    """w e², of errors e = a - y that count differently: of one tensor, which is saved instead of two."""

    @staticmethod
    def value(e: Any, w: Any) -> Any:
        return w * e**2

    @staticmethod
    def chain(g: Any, e: Any, w: Any) -> Any:
        return g * (2 * w * e), g * e**2
