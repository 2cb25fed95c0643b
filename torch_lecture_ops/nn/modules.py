"""The functions of the notes as modules, with the names and arguments of `torch.nn`."""

from __future__ import annotations

from torch import Tensor, nn

from . import functional

__all__ = ["ELU", "LeakyReLU", "ReLU", "SiLU", "Sigmoid", "Tanh"]


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
        subgradient: the slope at 0, in [0, 1]; torch has 0.
    """

    subgradient = 0.0  # of a module pickled before it had the option

    def __init__(self, inplace: bool = False, *, subgradient: float = 0.0) -> None:
        super().__init__(inplace)
        self.subgradient = subgradient

    def forward(self, input: Tensor) -> Tensor:
        return functional.relu(input, self.inplace, subgradient=self.subgradient)

    def extra_repr(self) -> str:
        shown = [f"subgradient={self.subgradient}"] if self.subgradient else []
        return ", ".join([*filter(None, [super().extra_repr()]), *shown])


class LeakyReLU(_MayBeInplace):
    """x where x > 0, else a x, elementwise, on tensors of any shape; see `torch_lecture_ops.functions.LeakyReLU`.

    Arguments:
        negative_slope: a, any number.
        inplace: store the result in the input.
    """

    __constants__ = ["inplace", "negative_slope"]

    def __init__(self, negative_slope: float = 1e-2, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.negative_slope = negative_slope

    def forward(self, input: Tensor) -> Tensor:
        return functional.leaky_relu(input, self.negative_slope, self.inplace)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}" + (", inplace=True" if self.inplace else "")


class ELU(_MayBeInplace):
    """x where x > 0, else α (eˣ - 1), elementwise, on tensors of any shape; see `torch_lecture_ops.functions.ELU`.

    Arguments:
        alpha: α, any number.
        inplace: store the result in the input.
    """

    __constants__ = ["alpha", "inplace"]

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.alpha = alpha

    def forward(self, input: Tensor) -> Tensor:
        return functional.elu(input, self.alpha, self.inplace)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}" + (", inplace=True" if self.inplace else "")


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
