"""The functions of the notes, with the names and signatures of `torch.nn.functional`."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from ..formula import HALF
from ..functions import ELU, LeakyReLU, ReLU, Sigmoid, SiLU, Tanh
from ..functions.elu import ELUOfInput
from ..functions.leaky_relu import LeakyReLUOfInput
from ..functions.relu import ReLUOfInput

__all__ = ["elu", "leaky_relu", "relu", "sigmoid", "silu", "tanh"]


def relu(input: Tensor, inplace: bool = False, *, subgradient: float = 0.0) -> Tensor:
    """max(0, x), elementwise; see `torch_lecture_ops.functions.ReLU`.

    Arguments:
        input: a tensor of any shape; integers stay integers.
        inplace: store the result in the input.
        subgradient: the slope at 0, in [0, 1]; torch has 0.

    >>> relu(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    if has_torch_function_unary(input):
        return _overridden(relu, input, inplace=inplace, subgradient=subgradient)
    if subgradient == 0.0:
        return ReLU.call(input, inplace)
    if not 0.0 <= subgradient <= 1.0:
        raise ValueError(f"relu: subgradient must be in [0, 1], got {subgradient}")
    return ReLUOfInput.call(input, inplace, subgradient)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where x > 0, else negative_slope · x, elementwise; see `torch_lecture_ops.functions.LeakyReLU`.

    Arguments:
        input: a floating-point tensor of any shape.
        negative_slope: a, any number.
        inplace: store the result in the input.

    >>> leaky_relu(torch.tensor([-1.0, 2.0]), 0.25)
    tensor([-0.2500,  2.0000])
    """
    if has_torch_function_unary(input):
        return _overridden(leaky_relu, input, negative_slope=negative_slope, inplace=inplace)
    function = LeakyReLU if negative_slope > 0 else LeakyReLUOfInput
    return function.call(input, inplace, negative_slope)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where x > 0, else alpha · (eˣ - 1), elementwise; see `torch_lecture_ops.functions.ELU`.

    Arguments:
        input: a floating-point tensor of any shape.
        alpha: α, any number.
        inplace: store the result in the input.

    >>> elu(torch.tensor([-1.0, 2.0]))
    tensor([-0.6321,  2.0000])
    """
    if has_torch_function_unary(input):
        return _overridden(elu, input, alpha=alpha, inplace=inplace)
    return (ELU if alpha > 0 and input.dtype not in HALF else ELUOfInput).call(input, inplace, alpha)


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
