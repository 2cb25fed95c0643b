"""The functions of the notes as modules, with the names and arguments of `torch.nn`."""

from __future__ import annotations

from torch import Tensor, nn

from . import functional

__all__ = ["ReLU", "SiLU", "Sigmoid", "Tanh"]


class _MayBeInplace(nn.Module):
    """An activation that can store its result in its input."""

    __constants__ = ["inplace"]

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""


class ReLU(_MayBeInplace):
    """max(0, x), elementwise, on tensors of any shape; see `torch_lecture_ops.functions.ReLU`.

    Arguments:
        inplace: store the result in the input.
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.relu(input, self.inplace)


class Sigmoid(nn.Module):
    """1 / (1 + e⁻ˣ), elementwise, on tensors of any shape; see `torch_lecture_ops.functions.Sigmoid`."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.sigmoid(input)


class Tanh(nn.Module):
    """(eˣ - e⁻ˣ) / (eˣ + e⁻ˣ), elementwise, on tensors of any shape; see `torch_lecture_ops.functions.Tanh`."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.tanh(input)


class SiLU(_MayBeInplace):
    """x / (1 + e⁻ˣ), elementwise, on tensors of any shape; see `torch_lecture_ops.functions.SiLU`.

    Arguments:
        inplace: store the result in the input.
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.silu(input, self.inplace)
