"""The foreach engine: the formula once, on lists of tensors, whose operators are torch._foreach_*."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .loop import arguments, evaluate, is_readable, left, operand, store
from .math import FormulaError, Operand, softplus, where
from .trace import COMPARISONS, Formula, Kind


def foreach(formula: Formula, columns: Sequence[list[Tensor]], hypers: Sequence[Any]) -> None:
    """Store the results of the formula in the columns that it names; items with the same scalars go together."""
    operands = map(_operands, columns, formula.columns)
    items = [arguments(formula, item) for item in zip(*operands, strict=True)]
    together: dict[Any, list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        scalars = tuple(value or repr(value) for value in item if not isinstance(value, Tensor))  # 0 is not -0
        together[scalars].append(number)
    for numbers in together.values():
        lists = tuple(map(_list_or_number, zip(*(items[number] for number in numbers), strict=True)))
        results = evaluate(formula, lists, hypers)
        for column, result in zip(formula.stores, results, strict=True):
            targets = [columns[column][number] for number in numbers]
            if isinstance(result, TensorList):
                torch._foreach_copy_(targets, result.tensors)
            else:
                for target in targets:
                    store(target, result)
        if formula.remainder is not None:
            for number, result in zip(numbers, results[0].tensors, strict=True):
                store(columns[formula.remainder][number], left(result, columns[0][number]))


def _operands(column: list[Tensor], kind: Kind) -> list[Any]:
    if kind == "scalar" and column and all(map(is_readable, column)):
        return torch.stack(column).tolist()  # all in one go
    return [operand(tensor, kind) for tensor in column]


def _list_or_number(values: Sequence[Any]) -> Any:
    return TensorList(list(values)) if isinstance(values[0], Tensor) else values[0]


class TensorList(Operand):
    """A list of tensors that computes like one tensor, all elements of all tensors at once."""

    __slots__ = ("tensors",)

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors

    def apply(self, operation: str, *operands: Any) -> TensorList:
        if operation not in _OPERATIONS:
            raise FormulaError(f"{operation} is for formulas of rows; a list of tensors has none")
        if operation == "where" and not isinstance(operands[0], (Tensor, TensorList)):  # a comparison of numbers
            taken = operands[1] if operands[0] else operands[2]
            if isinstance(taken, TensorList):
                return taken
        lists = [value.tensors if isinstance(value, TensorList) else value for value in operands]
        return TensorList(list(_OPERATIONS[operation](*lists)))

    def is_complex(self) -> bool:
        return self.tensors[0].is_complex()

    def clone(self) -> TensorList:
        return TensorList([tensor.clone() for tensor in self.tensors])

    def __repr__(self) -> str:
        return f"TensorList({self.tensors})"


def _each(function: Callable[..., Any]) -> Callable[..., list[Any]]:
    """An operation without a foreach kernel, tensor by tensor."""

    def apply(*operands: Any) -> list[Any]:
        length = next(len(value) for value in operands if isinstance(value, list))
        columns = [value if isinstance(value, list) else [value] * length for value in operands]
        return list(map(function, *columns))

    return apply


def _commutative(kernel: Callable[..., Any]) -> Callable[..., Any]:
    return lambda a, b: kernel(a, b) if isinstance(a, list) else kernel(b, a)


def _left(kernel: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel takes a list on the left only."""
    return lambda a, b: kernel(a, b) if isinstance(a, list) else _each(function)(a, b)


_OPERATIONS: dict[str, Callable[..., Any]] = {
    name: getattr(torch, f"_foreach_{name}")
    for name in ("abs", "exp", "expm1", "log", "log1p", "neg", "pow", "sqrt", "tanh")
}
_OPERATIONS |= {
    "add": _commutative(torch._foreach_add),
    "mul": _commutative(torch._foreach_mul),
    "sub": _left(torch._foreach_sub, lambda a, b: a - b),
    "div": _left(torch._foreach_div, lambda a, b: a / b),
    "maximum": _commutative(torch._foreach_maximum),
    "minimum": _commutative(torch._foreach_minimum),
}
_OPERATIONS |= {name: _each(getattr(torch, name)) for name in COMPARISONS}
_OPERATIONS |= {"softplus": _each(softplus), "where": _each(where)}
