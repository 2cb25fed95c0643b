"""The binary cross-entropy, of probabilities and of logits."""

from __future__ import annotations

import math
from typing import Any

from ..formula import exp, log, log1p, maximum, softplus, where
from .pointwise import Pointwise


def _value(a: Any, y: Any, w: Any) -> Any:
    loss = w * ((y - 1) * maximum(log1p(-a), -100) - y * maximum(log(a), -100))
    return where(y * (1 - y) >= 0, loss, math.nan)  # as of an output outside [0, 1], whose logarithm is NaN


def _chain(g: Any, a: Any, y: Any, w: Any) -> Any:
    return g * w * (a - y) / maximum((1 - a) * a, 1e-12), g * w * (log1p(-a) - log(a)), g * _value(a, y, 1.0)


class BinaryCrossEntropy(Pointwise):
    """-(y ln a + (1 - y) ln(1 - a)) for a probability a and a target y, both in [0, 1]; NaN outside.

        ∂/∂a = (a - y) / (a (1 - a))          ∂/∂y = ln(1 - a) - ln a

    As in torch, the logarithms are at least -100, so that a = 0 for y = 1 costs 100, and a (1 - a) is at least 1e-12
    in the slope; the gradient of the target is not bounded. Where a comes from a sigmoid, take
    `BinaryCrossEntropyWithLogits`: a saturated sigmoid has lost the gradient.

    Source: 'We can do better: Momentum and ReLU', slide 'Cross-Entropy Cost'; Larson, 'Neural Network Optimization and
    Activation', slide 'Practical Implementation of Architectures', where it is the negative of the log-likelihood.
    Difference from torch: a gradient of the weight, too.
    """

    @staticmethod
    def value(a: Any, y: Any) -> Any:
        return _value(a, y, 1.0)

    @staticmethod
    def chain(g: Any, a: Any, y: Any) -> Any:
        return _chain(g, a, y, 1.0)[:2]


class WeightedBinaryCrossEntropy(Pointwise):
    """`BinaryCrossEntropy` times a weight w."""

    value = staticmethod(_value)
    chain = staticmethod(_chain)


class BinaryCrossEntropyWithLogits(Pointwise):
    """`BinaryCrossEntropy` of a = σ(z), from the logit z: (1 - y) z + ln(1 + e⁻ᶻ), without overflow.

        ∂/∂z = σ(z) - y = a - y          ∂/∂y = -z

    Nothing saturates: the gradient is the error itself. At z = ±∞ the loss is NaN where it would be ∞ · 0, as in torch.

    Source: Larson, 'Neural Network Optimization and Activation', slide 'Practical Implementation of Architectures',
    where ∂J/∂z = a - y is derived.
    Difference from torch: gradients of weight and pos_weight, too.
    """

    @staticmethod
    def value(z: Any, y: Any) -> Any:
        return (1 - y) * z + softplus(-z)

    @staticmethod
    def chain(g: Any, z: Any, y: Any) -> Any:
        return g * (1 / (1 + exp(-z)) - y), g * -z


class WeightedBinaryCrossEntropyWithLogits(Pointwise):
    """w ((1 - y) z + (1 + (p - 1) y) ln(1 + e⁻ᶻ)): an element counts w times, and p times if it is positive.

    ∂/∂z = w ((1 - y + p y) σ(z) - p y)
    """

    @staticmethod
    def value(z: Any, y: Any, w: Any, p: Any) -> Any:
        return w * ((1 - y) * z + (1 + (p - 1) * y) * softplus(-z))

    @staticmethod
    def chain(g: Any, z: Any, y: Any, w: Any, p: Any) -> Any:
        sigma, soft = 1 / (1 + exp(-z)), softplus(-z)
        return (
            g * w * ((1 - y + p * y) * sigma - p * y),
            g * w * (p * soft - softplus(z)),
            g * ((1 - y) * z + (1 + (p - 1) * y) * soft),
            g * w * y * soft,
        )
