"""The functions of the notes as modules, with the names and arguments of `torch.nn`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..checks import check_integer
from . import functional
from .functional import Saved

__all__ = ["Affine", "ELU", "LeakyReLU", "LogSoftmax", "Maxout", "PReLU", "ReLU", "SiLU", "Sigmoid", "Softmax", "Tanh"]


def _with(shown: str, **only_ours: tuple[Any, Any]) -> str:
    """What torch's class shows in its repr, and the options that are only ours, if they are not at their defaults."""
    own = [f"{name}={value!r}" for name, (value, default) in only_ours.items() if value != default]
    return ", ".join(filter(None, [shown, *own]))


class ReLU(nn.ReLU):
    """max(0, x), elementwise, on tensors of any shape; see `torch_lecture_ops.functions.ReLU`.

    Arguments:
        inplace: store the result in the input.
        subgradient: the slope at 0, in [0, 1]; torch has 0.
    """

    subgradient = 0.0  # of a module that was torch's, or pickled before it had the option

    def __init__(self, inplace: bool = False, *, subgradient: float = 0.0) -> None:
        super().__init__(inplace)
        self.subgradient = subgradient

    def forward(self, input: Tensor) -> Tensor:
        return functional.relu(input, self.inplace, subgradient=self.subgradient)

    def extra_repr(self) -> str:
        return _with(super().extra_repr(), subgradient=(self.subgradient, 0.0))


class LeakyReLU(nn.LeakyReLU):
    """x where x > 0, else a x, elementwise, on tensors of any shape; see `torch_lecture_ops.functions.LeakyReLU`.

    Arguments:
        negative_slope: a, any number; at least 0 for save="output".
        inplace: store the result in the input.
        save: "input", as torch, or "output", with less memory; see `torch_lecture_ops.nn.functional.leaky_relu`.
    """

    save: Saved = "input"  # of a module that was torch's, or pickled before it had the option

    def __init__(self, negative_slope: float = 1e-2, inplace: bool = False, *, save: Saved = "input") -> None:
        super().__init__(negative_slope, inplace)
        functional.check_saves("LeakyReLU", save, "negative_slope", negative_slope)
        self.save = save

    def forward(self, input: Tensor) -> Tensor:
        return functional.leaky_relu(input, self.negative_slope, self.inplace, save=self.save)

    def extra_repr(self) -> str:
        return _with(super().extra_repr(), save=(self.save, "input"))


class ELU(nn.ELU):
    """x where x > 0, else α (eˣ - 1), elementwise, on tensors of any shape; see `torch_lecture_ops.functions.ELU`.

    Arguments:
        alpha: α, any number; at least 0 for save="output".
        inplace: store the result in the input.
        save: "input", as torch, or "output", with less memory; see `torch_lecture_ops.nn.functional.elu`.
    """

    save: Saved = "input"  # of a module that was torch's, or pickled before it had the option

    def __init__(self, alpha: float = 1.0, inplace: bool = False, *, save: Saved = "input") -> None:
        super().__init__(alpha, inplace)
        functional.check_saves("ELU", save, "alpha", alpha)
        self.save = save

    def forward(self, input: Tensor) -> Tensor:
        return functional.elu(input, self.alpha, self.inplace, save=self.save)

    def extra_repr(self) -> str:
        return _with(super().extra_repr(), save=(self.save, "input"))


class Sigmoid(nn.Sigmoid):
    """1 / (1 + e⁻ˣ), elementwise, on tensors of any shape; see `torch_lecture_ops.functions.Sigmoid`."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.sigmoid(input)


class Tanh(nn.Tanh):
    """(eˣ - e⁻ˣ) / (eˣ + e⁻ˣ), elementwise, on tensors of any shape; see `torch_lecture_ops.functions.Tanh`."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.tanh(input)


class SiLU(nn.SiLU):
    """x / (1 + e⁻ˣ), elementwise, on tensors of any shape; see `torch_lecture_ops.functions.SiLU`.

    Arguments:
        inplace: store the result in the input.
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.silu(input, self.inplace)


class Affine(nn.Module):
    """a x + c, elementwise, on tensors of any shape; see `torch_lecture_ops.functions.Affine`.

    Arguments:
        a, c: numbers, or tensors that broadcast with the input.
        learnable: make parameters of them.
    """

    a: float | Tensor
    c: float | Tensor

    def __init__(self, a: float | Tensor = 1.0, c: float | Tensor = 0.0, learnable: bool = False) -> None:
        super().__init__()
        self.learnable = learnable
        for name, value in (("a", a), ("c", c)):
            if learnable:
                setattr(self, name, nn.Parameter(torch.as_tensor(value, dtype=torch.get_default_dtype()).clone()))
            elif isinstance(value, Tensor):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, input: Tensor) -> Tensor:
        return functional.affine(input, self.a, self.c)

    def extra_repr(self) -> str:
        values = (
            f"{name}={tuple(v.shape) if isinstance(v, Tensor) else v}" for name, v in (("a", self.a), ("c", self.c))
        )
        return ", ".join([*values, *(["learnable=True"] if self.learnable else [])])


class PReLU(nn.PReLU):
    """x where x > 0, else a x, with slopes a that learn; arguments as `torch.nn.PReLU` (num_parameters, init, device,
    dtype), see `torch_lecture_ops.functions.PReLU`.
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.prelu(input, self.weight)


class Maxout(nn.Module):
    """The largest of `pieces` affine functions for each output; see `torch_lecture_ops.functions.Maxout`.

        y = max over k of (x Wₖᵀ + bₖ)

    The rows of `linear.weight` are the pieces of output 0, then those of output 1, and so on.

    Arguments:
        in_features: size of the last dimension of the input.
        out_features: that of the output.
        pieces: k, of each output.
        bias: whether the affine functions have a constant.
        device, dtype: of the parameters.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        pieces: int = 2,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_integer("Maxout", "pieces", 3, pieces)
        if pieces < 1:
            raise ValueError(f"Maxout: pieces must be at least 1, got {pieces}")
        self.pieces = pieces
        self.linear = nn.Linear(in_features, out_features * pieces, bias, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        return functional.maxout(self.linear(input), self.pieces)

    def extra_repr(self) -> str:
        return f"pieces={self.pieces}"


class Softmax(nn.Softmax):
    """eˣʲ / Σₖ eˣᵏ along a dimension; argument as `torch.nn.Softmax` (dim), see
    `torch_lecture_ops.functions.Softmax`.
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.softmax(input, self.dim, _stacklevel=5)


class LogSoftmax(nn.LogSoftmax):
    """xⱼ - ln Σₖ eˣᵏ along a dimension; argument as `torch.nn.LogSoftmax` (dim), see
    `torch_lecture_ops.functions.LogSoftmax`.
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.log_softmax(input, self.dim, _stacklevel=5)
