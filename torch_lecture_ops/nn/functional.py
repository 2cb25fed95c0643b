"""The functions of the notes, with the names and signatures of `torch.nn.functional`."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from ..functions import ReLU, Sigmoid, SiLU, Tanh

__all__ = ["relu", "sigmoid", "silu", "tanh"]


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(0, x), elementwise; see `torch_lecture_ops.functions.ReLU`.

    Arguments:
        input: a tensor of any shape; integers stay integers.
        inplace: store the result in the input.

    >>> relu(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    if has_torch_function_unary(input):
        return _overridden(relu, input, inplace=inplace)
    return ReLU.call(input, inplace)


def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + e⁻ˣ), elementwise; see `torch_lecture_ops.functions.Sigmoid`.

    Arguments:
        input: a tensor of any shape; integers become floats.

    >>> sigmoid(torch.tensor([0.0, 1.0]))
    tensor([0.5000, 0.7311])
    """
    if has_torch_function_unary(input):
        return _overridden(sigmoid, input)
    return Sigmoid.call(input)


def tanh(input: Tensor) -> Tensor:
    """(eˣ - e⁻ˣ) / (eˣ + e⁻ˣ), elementwise; see `torch_lecture_ops.functions.Tanh`.

    Arguments:
        input: a tensor of any shape; integers become floats.

    >>> tanh(torch.tensor([0.0, 1.0]))
    tensor([0.0000, 0.7616])
    """
    if has_torch_function_unary(input):
        return _overridden(tanh, input)
    return Tanh.call(input)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x / (1 + e⁻ˣ), elementwise; see `torch_lecture_ops.functions.SiLU`.

    Arguments:
        input: a floating-point or complex tensor of any shape.
        inplace: store the result in the input.

    >>> silu(torch.tensor([0.0, 1.0]))
    tensor([0.0000, 0.7311])
    """
    if has_torch_function_unary(input):
        return _overridden(silu, input, inplace=inplace)
    return SiLU.call(input, inplace)


def _overridden(function: Any, input: Tensor, **options: Any) -> Any:
    return handle_torch_function(function, (input,), input, **options)
