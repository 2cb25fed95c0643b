"""The functions of the notes, with the names and signatures of `torch.nn.functional`."""

from __future__ import annotations

import warnings
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function, has_torch_function_unary

from ..checks import check_choice, check_integer, check_number, is_number, wrong_type
from ..formula import HALF
from ..functions import (
    ELU,
    Add,
    Affine,
    Copy,
    LeakyReLU,
    LogSoftmax,
    MatMul,
    Max,
    Maxout,
    Mul,
    PReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from ..functions.affine import AffineOfTensors
from ..functions.elu import ELUOfOutput
from ..functions.leaky_relu import LeakyReLUOfOutput
from ..functions.relu import ReLUOfInput
from .losses import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    in_autocast_dtype,
    is_autocast_on,
    mse_loss,
    quadratic_cost,
)
from .special import check_strided, elsewhere, is_special

__all__ = [
    "affine",
    "sigmoid",
    "tanh",
    "relu",
    "leaky_relu",
    "prelu",
    "elu",
    "silu",
    "maxout",
    "softmax",
    "log_softmax",
]
__all__ += ["add", "mul", "copy", "maximum", "matmul"]
__all__ += ["quadratic_cost", "mse_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy"]


def __dir__() -> list[str]:
    return __all__


Saved = Literal["input", "output"]  # what a function keeps for its gradient
SAVED = get_args(Saved)


def affine(x: Tensor, a: float | Tensor = 1.0, c: float | Tensor = 0.0) -> Tensor:
    """a x + c, elementwise; see `torch_lecture_ops.functions.Affine`.

    Arguments:
        x: a tensor of any shape; integers become floats.
        a, c: numbers, or tensors that broadcast with x and get gradients.

    >>> affine(torch.tensor([0.0, 1.0]), 2.0, -1.0)
    tensor([-1.,  1.])
    """
    if has_torch_function((x, a, c)):
        return handle_torch_function(affine, (x, a, c), x, a=a, c=c)
    if isinstance(x, Tensor) and x.is_nested:
        return Affine.value(x, a=a, c=c)
    check_strided("affine", x=x)
    if type(a) is not float:
        _check_operand("affine", "a", 2, a)
    if type(c) is not float:
        _check_operand("affine", "c", 3, c)
    if not isinstance(a, Tensor) and not isinstance(c, Tensor):
        return Affine.call(x, False, a, c)
    return AffineOfTensors.call(x, _tensor(a, x), _tensor(c, x), "none")


def relu(input: Tensor, inplace: bool = False, *, subgradient: float = 0.0) -> Tensor:
    """max(0, x), elementwise; see `torch_lecture_ops.functions.ReLU`.

    Arguments:
        input: a tensor of any shape; integers stay integers.
        inplace: store the result in the input.
        subgradient: the slope at 0, in [0, 1]; torch has 0.

    >>> relu(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    if is_special(input):
        return elsewhere(relu, {"input": input}, dict(inplace=inplace), {"subgradient": (subgradient, 0.0)})
    if type(subgradient) is not float:
        check_number("relu", "subgradient", 0, subgradient)
    if subgradient == 0.0:
        return ReLU.call(input, inplace)
    if not 0.0 <= subgradient <= 1.0:
        raise ValueError(f"relu: subgradient must be in [0, 1], got {subgradient}")
    return ReLUOfInput.call(input, inplace, subgradient)


def leaky_relu(
    input: Tensor, negative_slope: float = 0.01, inplace: bool = False, *, save: Saved = "input"
) -> Tensor:
    """x where x > 0, else negative_slope · x, elementwise; see `torch_lecture_ops.functions.LeakyReLU`.

    Arguments:
        input: a floating-point tensor of any shape.
        negative_slope: a, any number; at least 0 for save="output".
        inplace: store the result in the input.
        save: what backward needs. "input": as torch. "output": saves memory, since the next layer keeps it anyway; then
            nobody may write to the output before backward. (In place it is the output wherever that can be.)

    >>> leaky_relu(torch.tensor([-1.0, 2.0]), 0.25)
    tensor([-0.2500,  2.0000])
    """
    if is_special(input):
        options = dict(negative_slope=negative_slope, inplace=inplace)
        return elsewhere(leaky_relu, {"input": input}, options, {"save": (save, "input")})
    if type(negative_slope) is not float:
        check_number("leaky_relu", "negative_slope", 2, negative_slope)
    by_output = _saves_output("leaky_relu", save, "negative_slope", negative_slope, inplace)
    return (LeakyReLUOfOutput if by_output else LeakyReLU).call(input, inplace, negative_slope)


def elu(
    input: Tensor, alpha: float = 1.0, inplace: bool = False, *, save: Saved = "input"
) -> Tensor:
    """x where x > 0, else alpha · (eˣ - 1), elementwise; see `torch_lecture_ops.functions.ELU`.

    Arguments:
        input: a floating-point tensor of any shape.
        alpha: α, any number; at least 0 for save="output".
        inplace: store the result in the input.
        save: what backward needs. "input": as torch. "output": saves memory, since the next layer keeps it anyway; then
            nobody may write to the output before backward, and far to the left the slope is 0 (in float32 from
            x = -16.6 on, in bfloat16 from -6.2 on; see `ELUOfOutput`). (In place it is the output wherever that can
            be.)

    >>> elu(torch.tensor([-1.0, 2.0]))
    tensor([-0.6321,  2.0000])
    """
    if is_special(input):
        return elsewhere(elu, {"input": input}, dict(alpha=alpha, inplace=inplace), {"save": (save, "input")})
    if type(alpha) is not float:
        check_number("elu", "alpha", 2, alpha)
    by_output = _saves_output("elu", save, "alpha", alpha, inplace)
    return (ELUOfOutput if by_output else ELU).call(input, inplace, alpha)


def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + e⁻ˣ), elementwise; see `torch_lecture_ops.functions.Sigmoid`.

    Arguments:
        input: a tensor of any shape; integers become floats.

    >>> sigmoid(torch.tensor([0.0, 1.0]))
    tensor([0.5000, 0.7311])
    """
    if is_special(input):
        return elsewhere(sigmoid, {"input": input})
    return Sigmoid.call(input)


def tanh(input: Tensor) -> Tensor:
    """(eˣ - e⁻ˣ) / (eˣ + e⁻ˣ), elementwise; see `torch_lecture_ops.functions.Tanh`.

    Arguments:
        input: a tensor of any shape; integers become floats.

    >>> tanh(torch.tensor([0.0, 1.0]))
    tensor([0.0000, 0.7616])
    """
    if is_special(input):
        return elsewhere(tanh, {"input": input})
    return Tanh.call(input)


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """x where x > 0, else weight · x, with a slope that learns; see `torch_lecture_ops.functions.PReLU`.

    Arguments:
        input: a floating-point tensor (N, C, ...), or (N).
        weight: the slopes, one number or C of them, of the input's dtype.

    >>> prelu(torch.tensor([[-1.0, -1.0, 2.0]]), torch.tensor([0.25, 0.5, 0.5]))
    tensor([[-0.2500, -0.5000,  2.0000]])
    """
    if is_special(input) or is_special(weight):
        return elsewhere(prelu, {"input": input, "weight": weight})
    input, weight = in_autocast_dtype(input, weight)
    _check_floats("prelu", input)
    if input.dtype is not weight.dtype:
        raise RuntimeError(f"prelu: Type promoting not supported. Got {input.dtype} and {weight.dtype}")
    if weight.dim() > 1:
        raise RuntimeError(f"prelu: Expected `weight` to be a scalar or 1D tensor, but got: ndim = {weight.dim()}")
    if weight.numel() != 1:
        if not input.dim():
            raise RuntimeError("Not allow zero-dim input tensor.")
        channels = input.shape[1] if input.dim() > 1 else 1
        if weight.numel() != channels:
            raise RuntimeError(
                "Mismatch of parameter numbers and input channel size. Found parameter numbers = "
                f"{weight.numel()} and channel size = {channels}."
            )
        weight = weight.view(-1, *[1] * (input.dim() - 2))
    elif weight.dim() > input.dim():
        weight = weight.view(())
    return PReLU.call(input, weight, "none")


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x / (1 + e⁻ˣ), elementwise; see `torch_lecture_ops.functions.SiLU`.

    Arguments:
        input: a floating-point or complex tensor of any shape.
        inplace: store the result in the input.

    >>> silu(torch.tensor([0.0, 1.0]))
    tensor([0.0000, 0.7311])
    """
    if is_special(input):
        return elsewhere(silu, {"input": input}, dict(inplace=inplace))
    return SiLU.call(input, inplace)


def maxout(x: Tensor, pieces: int, dim: int = -1) -> Tensor:
    """The largest of each `pieces` neighbours: yⱼ = max(x[j·pieces], ..., x[(j + 1)·pieces - 1]); see
    `torch_lecture_ops.functions.Maxout`.

    Arguments:
        x: a floating-point tensor whose size in `dim` is a multiple of pieces; the output has size / pieces there.
        pieces: k, at least 1.
        dim: the dimension whose neighbours compete.

    >>> maxout(torch.tensor([1.0, 3.0, -2.0, -5.0]), 2)
    tensor([ 3., -2.])
    """
    if has_torch_function_unary(x):
        return handle_torch_function(maxout, (x,), x, pieces, dim=dim)
    check_strided("maxout", x=x)
    if type(pieces) is not int:
        check_integer("maxout", "pieces", 2, pieces)
    _check_floats("maxout", x)
    if not x.dim():
        raise ValueError("maxout: x must have at least one dimension, got a tensor of shape ()")
    dim = _dimension("maxout", dim, 3, x)
    if pieces < 1 or x.shape[dim] % pieces:
        raise ValueError(
            f"maxout: the size of dimension {dim} must be a multiple of pieces >= 1, got size {x.shape[dim]} and "
            f"{pieces} pieces"
        )
    if is_special(x):
        return x.unflatten(dim, (-1, pieces)).max(dim + 1).values
    return Maxout.call(x, pieces, dim)


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    """eˣʲ / Σₖ eˣᵏ along a dimension; see `torch_lecture_ops.functions.Softmax`.

    Arguments:
        input: a floating-point tensor of any shape.
        dim: the dimension that becomes probabilities. Without it torch's old choice, with a warning.
        dtype: computes in it and returns it, if not None.

    >>> softmax(torch.tensor([0.0, 1.0]), 0)
    tensor([0.2689, 0.7311])
    """
    if is_special(input):
        return elsewhere(softmax, {"input": input}, dict(dim=dim, _stacklevel=_stacklevel, dtype=dtype))
    return _along("softmax", Softmax, input, dim, _stacklevel, dtype)


def log_softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Tensor:
    """xⱼ - ln Σₖ eˣᵏ along a dimension; see `torch_lecture_ops.functions.LogSoftmax`. Arguments as for `softmax`.

    >>> log_softmax(torch.tensor([0.0, 1.0]), 0)
    tensor([-1.3133, -0.3133])
    """
    if is_special(input):
        return elsewhere(log_softmax, {"input": input}, dict(dim=dim, _stacklevel=_stacklevel, dtype=dtype))
    return _along("log_softmax", LogSoftmax, input, dim, _stacklevel, dtype)


def add(a: float | Tensor, b: float | Tensor) -> Tensor:
    """a + b, the gate that distributes the gradient; see `torch_lecture_ops.functions.Add`.

    Arguments:
        a, b: tensors that broadcast, one of them may be a number.

    >>> add(torch.tensor(-2.0), torch.tensor(5.0))
    tensor(3.)
    """
    return _gate(add, Add, a, b)


def mul(a: float | Tensor, b: float | Tensor) -> Tensor:
    """a b, the gate that swaps and multiplies; see `torch_lecture_ops.functions.Mul`. Arguments as for `add`.

    >>> mul(torch.tensor(3.0), torch.tensor(-4.0))
    tensor(-12.)
    """
    return _gate(mul, Mul, a, b)


def maximum(a: float | Tensor, b: float | Tensor) -> Tensor:
    """max(a, b), the gate that routes the gradient to the larger one, of equal ones to a; see
    `torch_lecture_ops.functions.Max`. Arguments as for `add`.

    >>> maximum(torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0]))
    tensor([3., 2.])
    """
    return _gate(maximum, Max, a, b)


def copy(x: Tensor, n: int = 2) -> tuple[Tensor, ...]:
    """x, n times, the gate that adds the gradients; see `torch_lecture_ops.functions.Copy`.

    Arguments:
        x: a tensor of any shape.
        n: the number of copies, at least 1.

    >>> copy(torch.tensor(1.0))
    (tensor(1.), tensor(1.))
    """
    if has_torch_function_unary(x):
        return handle_torch_function(copy, (x,), x, n=n)
    if not isinstance(x, Tensor):
        raise wrong_type("copy", "x", 1, "Tensor", x)
    if type(n) is not int:
        check_integer("copy", "n", 2, n)
    if n < 1:
        raise ValueError(f"copy: n must be at least 1, got {n}")
    return Copy.forward(x, n) if is_special(x) else Copy.call(x, n)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """a b, as `torch.matmul`: matrices, vectors and batches of them; see `torch_lecture_ops.functions.MatMul`.

    Arguments:
        a: (..., n, k) or (k).
        b: (..., k, m) or (k).

    >>> matmul(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]]))
    tensor([[11.]])
    """
    if is_special(a) or is_special(b):
        return elsewhere(matmul, {"a": a, "b": b})
    return MatMul.call(*in_autocast_dtype(a, b))


def _saves_output(who: str, save: Saved, name: str, number: float, inplace: bool) -> bool:
    """Whether a function saves its output; in place it does as torch's, since its input would have to be copied."""
    if save == "input":
        return inplace and number >= 0
    check_saves(who, save, name, number)
    return True


def check_saves(who: str, save: Saved, name: str, number: float) -> None:
    """Raise an error for a choice of what to save that there is not, or that this number does not allow."""
    check_choice(who, "save", save, SAVED)
    if save == "output" and not number >= 0:
        raise ValueError(f"{who}: save='output' needs {name} >= 0, got {number}: the output must tell the input's sign")


def _gate(function: Any, gate: Any, a: float | Tensor, b: float | Tensor) -> Tensor:
    if has_torch_function((a, b)):
        return handle_torch_function(function, (a, b), a, b)
    like = a if isinstance(a, Tensor) else b
    if not isinstance(like, Tensor):
        raise TypeError(f"{function.__name__}: a or b must be a tensor, got {type(a).__name__} and {type(b).__name__}")
    if not isinstance(a, Tensor):
        _check_operand(function.__name__, "a", 1, a)
    if not isinstance(b, Tensor):
        _check_operand(function.__name__, "b", 2, b)
    a, b = _tensor(a, like), _tensor(b, like)
    if is_special(a) or is_special(b):
        return elsewhere(function, {"a": a, "b": b})
    return gate.call(a, b, "none")


def _tensor(value: float | Tensor, like: Tensor) -> Tensor:
    """A number as a tensor that promotes others as the number would."""
    if isinstance(value, Tensor):
        return value
    number = torch.tensor(value, device=like.device)
    if _rank(like) < _rank(number):
        return number
    # With all its digits: half types compute in float32, and a 0-dim tensor promotes only such.
    dtype = torch.float32 if like.dtype in HALF and like.dim() else like.dtype
    return torch.tensor(value, dtype=dtype, device=like.device)


def _check_operand(who: str, name: str, position: int, value: Any) -> None:
    """Raise TypeError for what is neither a tensor nor a number."""
    if not isinstance(value, (Tensor, complex)) and not is_number(value):
        raise wrong_type(who, name, position, "Tensor or Number", value)


def _rank(x: Tensor) -> int:
    """Of the kinds of numbers, of which promotion takes the higher one."""
    return 3 if x.is_complex() else 2 if x.is_floating_point() else int(x.dtype is not torch.bool)


def _along(
    name: str, function: Any, input: Tensor, dim: int | None, stacklevel: int, dtype: torch.dtype | None
) -> Tensor:
    if dim is None:
        warnings.warn(
            f"Implicit dimension choice for {name} has been deprecated. Change the call to include dim=X as an "
            "argument.",
            stacklevel=stacklevel,
        )
        dim = 0 if input.dim() in (0, 1, 3) else 1
    if dtype is not None:
        if not isinstance(dtype, (torch.dtype, type)):  # float is one as well
            raise wrong_type(name, "dtype", 0, "torch.dtype", dtype)
        input = input.to(dtype)
    elif input.is_cuda and input.dtype in HALF and is_autocast_on(input):
        input = input.float()
    _check_floats(name, input)
    return function.call(input, _dimension(name, dim, 2, input))


def _check_floats(name: str, x: Tensor) -> None:
    if not x.is_floating_point():
        raise NotImplementedError(f"{name}: the input must be a floating-point tensor, got {x.dtype}")


def _dimension(who: str, dim: int, position: int, x: Tensor) -> int:
    """Counted from the front."""
    if type(dim) is not int:
        check_integer(who, "dim", position, dim)
    n = max(x.dim(), 1)
    if not -n <= dim < n:
        raise IndexError(f"Dimension out of range (expected to be in range of [{-n}, {n - 1}], but got {dim})")
    return dim % n
