"""The loop engine: the formula as it stands, item by item, on torch's operators. The reference; differentiable."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from operator import is_
from typing import Any

import torch
from torch import Tensor

from .math import IN_PLACE, FormulaError
from .trace import Formula, Kind

HALF = (torch.float16, torch.bfloat16)


def loop(formula: Formula, columns: Sequence[list[Tensor]], hypers: Sequence[Any]) -> None:
    """Store the results of the formula in the columns that it names."""
    for item in zip(*columns, strict=True):
        values = tuple(map(Tensor.clone, item)) if torch.is_grad_enabled() else item  # autograd keeps what it saved
        versions = _versions(values)
        results = evaluate(formula, arguments(formula, map(operand, values, formula.columns)), hypers)
        if _versions(values) != versions:
            raise FormulaError(f"{formula.name}: {IN_PLACE}")
        for column, result in zip(formula.stores, results, strict=True):
            store(item[column], result)
        if formula.remainder is not None:
            store(item[formula.remainder], left(results[0], item[0]))


def _versions(tensors: Sequence[Tensor]) -> list[int]:
    """How often each was written. (Tensors of inference mode do not count.)"""
    return [] if torch.compiler.is_compiling() else [0 if t.is_inference() else t._version for t in tensors]


def evaluate(formula: Formula, operands: tuple[Any, ...], hypers: Sequence[Any]) -> tuple[Any, ...]:
    """The results of the formula; one that is an argument itself, and would change as they are stored, is copied."""
    arrays = [operands[column] for column in formula.stores if column < len(operands)]
    results = formula(operands, tuple(hypers))
    return tuple(
        result.clone() if not isinstance(result, (int, float)) and any(map(partial(is_, result), arrays)) else result
        for result in results
    )


def arguments(formula: Formula, item: Iterable[Any]) -> tuple[Any, ...]:
    """What the function of the formula gets for an item, from its operands."""
    operands = list(item)
    if formula.remainder is not None:
        operands[0] = operands[0] + operands.pop(formula.remainder)
    return tuple(operands)


def left(result: Any, stored: Tensor) -> Any:
    """What rounding to the dtype it is stored in took from a result; nothing of one that is infinite or NaN."""
    return (result - stored.to(result.dtype)).nan_to_num(0.0, 0.0, 0.0)


def operand(tensor: Tensor, kind: Kind) -> Any:
    """What a formula computes with: float32 for half types; for a scalar its value, in double precision.

    A scalar on an accelerator, or seen by a compiler, stays a tensor: reading it would wait for the device.
    """
    if kind == "scalar":
        return tensor.item() if is_readable(tensor) else tensor.double()
    return tensor.float() if tensor.dtype in HALF else tensor


def is_readable(scalar: Tensor) -> bool:
    """Whether its value may be read."""
    return scalar.is_cpu and not torch.compiler.is_compiling() and not scalar.requires_grad


def store(tensor: Tensor, result: Any) -> None:
    """Write a result, a tensor or a number, rounded to the tensor's dtype."""
    if isinstance(result, Tensor):
        tensor.copy_(result)
    else:
        tensor.fill_(result)
