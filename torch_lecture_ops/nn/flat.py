"""Where an activation has next to no slope: the facts of saturated and dead units, for monitors and pictures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from . import modules as ours


@dataclass(frozen=True)
class Flat:
    """Where an activation has next to no slope, told by its output: up to `low`, from `high` on, or at zero."""

    low: float = -math.inf
    high: float = math.inf
    zero: bool = False

    def saturated(self, a: Tensor) -> Tensor:
        """Which outputs are at a flat end; a ReLU's zero is none."""
        return (a <= self.low) | (a >= self.high)

    def holds(self, a: Tensor) -> Tensor:
        """Which outputs have next to no slope."""
        return self.saturated(a) | (a == 0) if self.zero else self.saturated(a)


# Sigmoid and tanh: where the slope is below a fifth or a sixteenth of its largest. Those of α: slope below α / 20.
FLAT: dict[str, Callable[[Any], Flat]] = {
    "Sigmoid": lambda f: Flat(0.05, 0.95),
    "Tanh": lambda f: Flat(-0.97, 0.97),
    "Softsign": lambda f: Flat(-0.97, 0.97),
    "Hardsigmoid": lambda f: Flat(0.0, 1.0),
    "Hardtanh": lambda f: Flat(f.min_val, f.max_val),
    "ReLU": lambda f: Flat(zero=True),
    "ReLU6": lambda f: Flat(high=6.0, zero=True),
    "Hardswish": lambda f: Flat(zero=True),
    "ELU": lambda f: Flat(-0.95 * f.alpha),
    "CELU": lambda f: Flat(-0.95 * f.alpha),
    "SELU": lambda f: Flat(-0.95 * 1.7580993),
} | dict.fromkeys(
    ("LeakyReLU", "PReLU", "RReLU", "SiLU", "GELU", "Mish", "Softplus", "LogSigmoid", "Affine", "Maxout"),
    lambda f: Flat(),
)
FLAT_OF_CLASS = {
    getattr(space, name): flat for name, flat in FLAT.items() for space in (nn, ours) if hasattr(space, name)
}


def has_flat(layer: nn.Module) -> bool:
    return any(cls in FLAT_OF_CLASS for cls in type(layer).__mro__)


def flat_of(layer: nn.Module) -> Flat:
    return next(FLAT_OF_CLASS[cls] for cls in type(layer).__mro__ if cls in FLAT_OF_CLASS)(layer)
