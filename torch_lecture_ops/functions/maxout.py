"""Maxout: the largest of several pieces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..formula import COMPILED, EXACT, Formula, Latex, maximum, place, row_max, where
from .notation import of_chain, of_value
from .operation import Operation, RowFormula
from .pointwise import rows_of_run

UNROLLED = 8  # pieces up to which a kernel takes several outputs at once; above, it goes through them one by one


class Maxout(Operation):
    """yⱼ = max(x[jk], ..., x[jk + k - 1]): the largest of k consecutive pieces. Call it as `Maxout.call(x, k, dim)`.

        dL/dx = dL/dy for the piece that won, 0 for the others: the router of the max gate

    Of equal pieces the first one wins; NaN wins over all, as in `torch.max`. With k = 2 and one piece 0 it is ReLU.
    Saves one byte an output, the number of the piece (eight for more than 256 pieces).

    Source: IISER Bhopal DSE316/616, 'Activation Functions and Optimizer', slides 'Types of Activation Functions' and
    'Patterns in gradient flow' (Goodfellow, Warde-Farley, Mirza, Courville and Bengio 2013).
    Difference from torch: torch has none.
    """

    @staticmethod
    def evaluate(inputs: tuple[Any, ...], by_kernel: bool) -> tuple[Tensor, tuple[Any, ...]]:
        x, k, dim = inputs
        if by_kernel and k <= EXACT:
            y = x.new_empty((*x.shape[:dim], x.shape[dim] // k, *x.shape[dim + 1 :]))
            index = torch.empty_like(y, dtype=_dtype_of_index(k))
            if _value_by_kernel(x, k, dim, y, index):
                return y, (index,)
        y, index = _VALUE.on_tensors(_pieces(x, k, dim))
        y, index = (t.squeeze(-1).movedim(-1, dim).contiguous() for t in (y, index))
        return y.to(x.dtype), (index.to(_dtype_of_index(k)),)

    @staticmethod
    def keep(inputs: tuple[Any, ...], y: Tensor, kept: tuple[Any, ...]) -> tuple[Any, ...]:
        return (None, *kept) if kept else (inputs[0], None)

    @staticmethod
    def pullback(
        g: Tensor, saved: tuple[Any, ...], options: tuple[Any, ...], needed: Sequence[bool], by_kernel: bool
    ) -> tuple[Tensor | None, ...]:
        (x, index), (k, dim) = saved, options
        if index is None:
            _, (index,) = Maxout.evaluate((x, k, dim), by_kernel)
        if by_kernel and k <= EXACT:
            dx = g.new_empty((*g.shape[:dim], g.shape[dim] * k, *g.shape[dim + 1 :]))
            if _slope_by_kernel(g, index, k, dim, dx):
                return (dx,)
        return (_routed(g, index, k, dim),)

    @staticmethod
    def pushforward(tangents: tuple[Any, ...], saved: tuple[Any, ...], options: tuple[Any, ...]) -> Tensor:
        (x, _), (k, dim) = saved, options
        _, (index,) = Maxout.evaluate((x, k, dim), False)
        chosen = torch.ones_like(index, dtype=tangents[0].dtype)
        return _pieces(tangents[0] * _routed(chosen, index, k, dim), k, dim).sum(-1).movedim(-1, dim)

    @staticmethod
    def latex() -> Latex:
        """The pieces x of an output as a row, in LaTeX: the largest, its number j, and the gradient of the pieces."""
        return of_value(_winner_of_row, "y", "index") + of_chain(_routed_to_row, "y", "x")


def _dtype_of_index(k: int) -> torch.dtype:
    return torch.uint8 if k <= 256 else torch.int64


def _pieces(x: Tensor, k: int, dim: int) -> Tensor:
    """The pieces of each output as a row in the last dimension."""
    x = x.movedim(dim, -1)
    return x.reshape(*x.shape[:-1], x.shape[-1] // k, k)


def _winner(*pieces: Any) -> tuple[Any, Any]:
    """The largest piece and its number."""
    y, *others = pieces
    index = where(y == y, 0.0, 0.0)
    for number, x in enumerate(others, 1):
        index = where(x <= y, index, where(y == y, float(number), index))  # x > y, or x is the first NaN
        y = maximum(y, x)
    return y, index


def _winner_of_row(x: Any) -> tuple[Any, Any]:
    """The same for pieces that are a row."""
    y, backwards = row_max(x), -1.0 * place(x)
    return y, -row_max(where(x == y, backwards, where(x != x, backwards, -math.inf)))


def _routed_to_row(g: Any, index: Any, dx: Any) -> Any:
    """g at the piece that won."""
    return where(place(dx) == index, g, 0.0)


_VALUE = RowFormula(Formula(_winner_of_row, ("array",), (1, 2), name="Maxout", outputs=("scalar", "scalar")))
# The row of gradients is a column that is only written: its elements tell their places.
_SLOPE = RowFormula(Formula(_routed_to_row, ("scalar", "scalar", "array"), (2,), name="Maxout"))


def _routed(g: Tensor, index: Tensor, k: int, dim: int) -> Tensor:
    """g at the piece that won, by torch's operators."""
    g, index = (t.movedim(dim, -1).unsqueeze(-1) for t in (g, index))
    routed = torch.where(torch.arange(k, device=g.device) == index, g, 0.0)
    return routed.reshape(*routed.shape[:-2], routed.shape[-2] * k).movedim(-1, dim).contiguous()


def _value_by_kernel(x: Tensor, k: int, dim: int, y: Tensor, index: Tensor) -> bool:
    if k <= UNROLLED:
        return _run(_formulas(k)[0], [], [y, index], (x, k, dim), 0)
    moved = [t.movedim(dim, -1) for t in (y, index)]
    results = [t.contiguous() for t in moved]
    columns = [(_pieces(x, k, dim).contiguous(), k, 0), *((t, 1, 0) for t in results)]
    if _VALUE.run((y.numel(), k, k), columns) is None:
        return False
    for target, result in zip(moved, results, strict=True):
        if result is not target:
            target.copy_(result)
    return True


def _slope_by_kernel(g: Tensor, index: Tensor, k: int, dim: int, dx: Tensor) -> bool:
    if k <= UNROLLED:
        return _run(_formulas(k)[1], [g.contiguous(), index.contiguous()], [], (dx, k, dim), 2)
    moved = dx.movedim(dim, -1)
    rows = moved if moved.is_contiguous() else torch.empty(moved.shape, dtype=dx.dtype, device=dx.device)
    scalars = [t.movedim(dim, -1).contiguous() for t in (g, index)]
    if _SLOPE.run((g.numel(), k, k), [*((t, 1, 0) for t in scalars), (rows, k, 0)]) is None:
        return False
    if rows is not moved:
        moved.copy_(rows)
    return True


@cache
def _formulas(k: int) -> tuple[RowFormula, RowFormula]:
    """Value and slope of k columns of pieces."""

    def routed(g: Any, index: Any) -> tuple[Any, ...]:
        return tuple(where(index == number, g, 0.0) for number in range(k))

    value = Formula(_winner, ("array",) * k, (k, k + 1), name="Maxout")
    slope = Formula(routed, ("array",) * 2, tuple(range(2, 2 + k)), name="Maxout")
    return RowFormula(value), RowFormula(slope)


def _run(
    formula: RowFormula, before: list[Tensor], after: list[Tensor], pieces: tuple[Tensor, int, int], first: int
) -> bool:
    """Run over a tensor of pieces, whose columns begin with the number `first`, between contiguous ones of outputs.

    Along the last dimension the pieces of an output are neighbours; along another one, the pieces of all outputs that
    lie behind it are rows.
    """
    x, k, dim = pieces
    if x.device.type not in COMPILED:
        return False
    x = x.contiguous()
    inner, count = math.prod(x.shape[dim + 1 :]), x.numel() // k
    if inner == 1:
        shape = rows_of_run(count, x.device)
        length = shape[1]
        middle, interleaved = [(x, length * k, 0)], range(first, first + k)
    else:
        shape, length = (count // max(inner, 1), inner, inner), inner
        middle, interleaved = [(x, inner * k, number * inner) for number in range(k)], range(0)
    columns = [*((t, length, 0) for t in before), *middle, *((t, length, 0) for t in after)]
    return formula.run(shape, columns, interleaved=interleaved) is not None
