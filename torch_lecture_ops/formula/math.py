"""The vocabulary of formulas: operators and functions that mean the same on every operand.

A formula computes with + - * / **, comparisons and the functions below. Its operands are numbers, tensors, lists of
tensors (`TensorList`) or the symbols of a trace; what an operation means for the latter two is said in one method,
`Operand.apply`. On numbers, too, it means what IEEE 754 says: see `Double`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["abs", "exp", "expm1", "log", "log1p", "maximum", "minimum", "softplus", "sqrt", "tanh", "where"]
__all__ += ["entry", "place", "row_max", "row_sum"]


EXACT = 2**24  # so many integers, from 0 on, a float32 tells apart

IN_PLACE = "a formula must not write in place; write m = m + g instead of m += g"


class FormulaError(TypeError):
    """A function cannot be used as a formula; the text says why and what to write instead."""


class Operand:
    """What a formula can compute with besides numbers and tensors: give `apply`, get every operator."""

    __slots__ = ()
    __array_ufunc__ = None  # NumPy scalars on the left leave the operation to us

    def apply(self, operation: str, *operands: Any) -> Any:
        """The result of the operation, named as in `torch` ("add", "sqrt", "where", ...)."""
        raise TypeError(f"{type(self).__name__} does not say what {operation!r} means")

    def __add__(self, other: Any) -> Any:
        return self.apply("add", self, other)

    def __radd__(self, other: Any) -> Any:
        return self.apply("add", other, self)

    def __sub__(self, other: Any) -> Any:
        return self.apply("sub", self, other)

    def __rsub__(self, other: Any) -> Any:
        return self.apply("sub", other, self)

    def __mul__(self, other: Any) -> Any:
        return self.apply("mul", self, other)

    def __rmul__(self, other: Any) -> Any:
        return self.apply("mul", other, self)

    def __truediv__(self, other: Any) -> Any:
        return self.apply("div", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self.apply("div", other, self)

    def __pow__(self, other: Any) -> Any:
        return self.apply("pow", self, other)

    def __rpow__(self, other: Any) -> Any:
        return self.apply("pow", other, self)

    def __neg__(self) -> Any:
        return self.apply("neg", self)

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return self.apply("abs", self)

    def __lt__(self, other: Any) -> Any:
        return self.apply("lt", self, other)

    def __le__(self, other: Any) -> Any:
        return self.apply("le", self, other)

    def __gt__(self, other: Any) -> Any:
        return self.apply("gt", self, other)

    def __ge__(self, other: Any) -> Any:
        return self.apply("ge", self, other)

    def __eq__(self, other: Any) -> Any:
        return self.apply("eq", self, other)

    def __ne__(self, other: Any) -> Any:
        return self.apply("ne", self, other)

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        raise FormulaError(
            "a formula cannot branch on values ('if', 'and', 'or', 'while'); write where(condition, a, b), "
            "or make the condition a flag (a Python bool among the keyword arguments)"
        )

    def _in_place(self, other: Any) -> Any:
        raise FormulaError(IN_PLACE)

    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ipow__ = _in_place


def _maximum(a: Any, b: Any) -> Any:
    return torch.maximum(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else _clamp(torch.clamp_min, a, b)


def _minimum(a: Any, b: Any) -> Any:
    return torch.minimum(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else _clamp(torch.clamp_max, a, b)


def _clamp(clamp: Any, a: Any, b: Any) -> Any:
    """Like maximum: NaN stays NaN, -0 stays -0. (A bound of NaN is lost in the torch.clamp of torch 2.11.)"""
    return clamp(a, b) if isinstance(a, Tensor) else clamp(b, a)


def _where(mask: Any, a: Any, b: Any) -> Any:
    if not isinstance(mask, Tensor):  # a comparison of numbers
        taken, other = (a, b) if mask else (b, a)
        if isinstance(taken, Tensor) and (not isinstance(other, Tensor) or _look(taken) == _look(other)):
            return taken
        mask = torch.tensor(bool(mask), device=(a if isinstance(a, Tensor) else b).device)
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return torch.where(mask, a, b)
    # Numbers are double in a formula; torch would round them to its default dtype.
    return torch.where(mask, *(mask.new_tensor(number, dtype=torch.float64) for number in (a, b)))


def _look(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


def _softplus(x: Any) -> Any:
    return maximum(x, 0.0) + log1p(exp(-abs(x)))


_ON_TENSORS = {name: getattr(torch, name) for name in ("abs", "exp", "expm1", "log", "log1p", "sqrt", "tanh")}
_ON_TENSORS |= {"maximum": _maximum, "minimum": _minimum, "softplus": _softplus, "where": _where}

def _entry(x: Tensor, j: Any) -> Tensor:
    length = x.shape[-1]
    j = j if isinstance(j, Tensor) else torch.full((*x.shape[:-1], 1), j, device=x.device)
    rows = x.expand(*j.shape[:-1], length)  # one row may serve for many places
    return torch.where((j >= 0) & (j < length), rows.gather(-1, j.clamp(0, length - 1).long()), math.nan)


def _place(x: Tensor) -> Tensor:
    length = x.shape[-1]
    return torch.arange(length, dtype=x.dtype if length <= EXACT else torch.float64, device=x.device)


# A row is the last dimension; what is said once a row keeps it, with the size 1.
_ON_TENSORS |= {
    "entry": _entry,
    "row_sum": lambda x: x.sum(-1, keepdim=True),
    "row_max": lambda x: x.amax(-1, keepdim=True),
    "place": _place,
}


def _same_everywhere(name: str) -> Any:
    def refuse(x: Any, *_: Any) -> Any:
        raise FormulaError(f"{name} needs what differs from element to element, got {x!r}")

    return refuse


def _ieee(function: Callable[[float], float], poles: Mapping[float, float]) -> Callable[[float], float]:
    """A function of Python's math, with what IEEE 754 gives where that raises: infinity or NaN."""

    def total(x: float) -> float:
        try:
            return function(x)
        except OverflowError:
            return math.inf
        except ValueError:
            return poles.get(x, math.nan)

    return total


def _quotient(a: float, b: float) -> float:
    try:
        return a / b
    except ZeroDivisionError:
        return math.copysign(math.inf, a) * math.copysign(1, b) if a and a == a else math.nan


def _power(a: float, b: float) -> float:
    """aᵇ as in C. (Python's ** goes over to complex numbers.)"""
    try:
        return math.pow(a, b)
    except OverflowError:
        return -math.inf if a < 0 and b % 2 == 1 else math.inf
    except ValueError:
        return math.nan if a else math.copysign(math.inf, a) if b % 2 == 1 else math.inf


_NAMES = ("add", "sub", "mul", "neg", "lt", "le", "gt", "ge", "eq", "ne")
_ON_NUMBERS: dict[str, Callable[..., Any]] = {name: getattr(operator, name) for name in _NAMES}
_ON_NUMBERS |= {"div": _quotient, "pow": _power, "tanh": math.tanh, "abs": math.fabs}
_ON_NUMBERS |= {name: _ieee(getattr(math, name), {}) for name in ("exp", "expm1", "sqrt")}
_ON_NUMBERS |= {"log": _ieee(math.log, {0.0: -math.inf}), "log1p": _ieee(math.log1p, {-1.0: -math.inf})}
_ON_NUMBERS |= {
    "maximum": lambda a, b: b if a < b or b != b else a,  # as the C engine has it: NaN stays NaN
    "minimum": lambda a, b: b if a > b or b != b else a,
    "softplus": _softplus,
    "where": lambda mask, a, b: a if mask else b,
}
_ON_NUMBERS |= {name: _same_everywhere(name) for name in ("row_sum", "row_max", "place", "entry")}


def on_numbers(operation: str, *operands: float) -> float:
    """The result of an operation, named as in `Operand.apply`, on numbers: that of IEEE 754, with no exception."""
    return _ON_NUMBERS[operation](*operands)


class Double(float):
    """A number that computes as C's double does: 1 / 0 is infinite and (-8) ** 0.5 is NaN.

    With a number it gives a Double, with tensors what a float gives. Its operators take ten times as long as those of a
    float: `Formula` calls a function with Doubles only if floats do not do.
    """

    __slots__ = ()

    def __abs__(self) -> Double:
        return Double(float.__abs__(self))

    def __neg__(self) -> Double:
        return Double(float.__neg__(self))

    def __pos__(self) -> Double:
        return self


def _operators(operation: str) -> Iterator[Callable[..., Any]]:
    """An operator of Double, and the same the other way round."""
    compute = _ON_NUMBERS[operation]

    def forward(self: Double, other: Any) -> Any:
        return Double(compute(float(self), float(other))) if isinstance(other, (int, float)) else NotImplemented

    def backward(self: Double, other: Any) -> Any:
        return Double(compute(float(other), float(self))) if isinstance(other, (int, float)) else NotImplemented

    yield from (forward, backward)


for _operation, _name in {"add": "add", "sub": "sub", "mul": "mul", "div": "truediv", "pow": "pow"}.items():
    for _prefix, _operator in zip(("__", "__r"), _operators(_operation), strict=True):
        setattr(Double, f"{_prefix}{_name}__", _operator)


def _call(name: str, *operands: Any) -> Any:
    for operand in operands:
        if isinstance(operand, Operand):
            return operand.apply(name, *operands)
    for operand in operands:
        if isinstance(operand, Tensor):
            return _ON_TENSORS[name](*operands)
    result = _ON_NUMBERS[name](*operands)
    return Double(result) if Double in map(type, operands) else result


def abs(x: Any) -> Any:
    """|x|"""
    return _call("abs", x)


def exp(x: Any) -> Any:
    """eˣ"""
    return _call("exp", x)


def expm1(x: Any) -> Any:
    """eˣ - 1, exact for small x."""
    return _call("expm1", x)


def log(x: Any) -> Any:
    """ln x"""
    return _call("log", x)


def log1p(x: Any) -> Any:
    """ln(1 + x), exact for small x."""
    return _call("log1p", x)


def softplus(x: Any) -> Any:
    """ln(1 + eˣ), without overflow and exact for small eˣ."""
    return _call("softplus", x)


def sqrt(x: Any) -> Any:
    """√x"""
    return _call("sqrt", x)


def tanh(x: Any) -> Any:
    """(eˣ - e⁻ˣ) / (eˣ + e⁻ˣ)"""
    return _call("tanh", x)


def maximum(a: Any, b: Any) -> Any:
    """The larger of a and b; NaN if one of them is NaN."""
    return _call("maximum", a, b)


def minimum(a: Any, b: Any) -> Any:
    """The smaller of a and b; NaN if one of them is NaN."""
    return _call("minimum", a, b)


def where(mask: Any, a: Any, b: Any) -> Any:
    """a where the mask (a comparison) holds, else b. A selection: what is not taken leaves no trace, not even a NaN."""
    return _call("where", mask, a, b)


def row_sum(x: Any) -> Any:
    """Σⱼ xⱼ, the sum of each row: one number a row, added in double by kernels."""
    return _call("row_sum", x)


def row_max(x: Any) -> Any:
    """maxⱼ xⱼ, the largest of each row; NaN if one of them is NaN."""
    return _call("row_max", x)


def place(x: Any) -> Any:
    """0, 1, 2, ...: the place of each element of x in its row."""
    return _call("place", x)


def entry(x: Any, j: Any) -> Any:
    """xⱼ, the element of each row at the place j, one number a row; NaN if there is no such place. x is an argument."""
    return _call("entry", x, j)
