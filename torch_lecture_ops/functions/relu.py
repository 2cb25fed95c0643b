"""The rectified linear unit."""

from __future__ import annotations

from typing import Any

from ..formula import maximum, where
from .elementwise import Elementwise


class ReLU(Elementwise):
    """max(0, x): the rectified linear unit.

        dL/dx = dL/dy where x > 0, else 0

    The gradient is selected, not multiplied: even an infinite one is stopped where the unit is off. At 0 the slope is
    0, as in torch and on Larson's slide; IISER's slides have 1 there (any number in [0, 1] is a subgradient, and
    `ReLUOfInput` takes it). A NaN stays NaN and lets the gradient pass; -0 stays -0: both as `torch.relu`. Saves its
    output.

    Source: Larson, Machine Learning in Python, 'Neural Network Optimization and Activation', slide 'New Activation:
    ReLU'; the rule for the gradient: IISER Bhopal DSE316/616, slide 'Vector derivatives: Example'.
    Difference from torch: none; `subgradient=` chooses the slope at 0.
    """

    integers = "keep"

    @staticmethod
    def value(x: Any) -> Any:
        return maximum(x, 0)

    @staticmethod
    def chain(g: Any, y: Any) -> Any:
        return where(y <= 0, 0.0, g)


class ReLUOfInput(Elementwise):
    """`ReLU` with a choice of the slope at 0. Saves its input: the output is 0 on the whole left side."""

    integers = "keep"

    @staticmethod
    def value(x: Any, *, subgradient: Any) -> Any:
        return maximum(x, 0)

    @staticmethod
    def chain(g: Any, x: Any, *, subgradient: Any) -> Any:
        return where(x < 0, 0.0, where(x == 0, subgradient * g, g))
