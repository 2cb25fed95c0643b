"""Softsign (Glorot and Bengio 2010): an activation that the library does not have, as a user writes it."""

from __future__ import annotations

from torch import Tensor, nn

from torch_lecture_ops.functions import Elementwise


class SoftsignFunction(Elementwise):
    """x / (1 + |x|): like tanh, but its tails are polynomial, so that it saturates slowly."""

    @staticmethod
    def value(x):
        return x / (1 + abs(x))

    @staticmethod
    def slope(x):
        return 1 / (1 + abs(x)) ** 2


class Softsign(nn.Module):
    def forward(self, input: Tensor) -> Tensor:
        return SoftsignFunction.call(input)
