"""Softmax and its logarithm: formulas of a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..formula import Formula, Latex, exp, log, row_max, row_sum
from .notation import of_chain, of_value
from .operation import Operation, RowFormula


class Rowwise(Operation):
    """A function that makes a row of each row, along a dimension: call it as `Softmax.call(x, dim)`.

    A subclass has three formulas, of rows: value(x), chain(g, y) for backward, and push(v, y) for forward mode (a
    Jacobian need not be symmetric). It saves its output.

    >>> class Centred(Rowwise):
    ...     @staticmethod
    ...     def value(x):
    ...         return x - row_sum(x) / row_sum(0 * x + 1)
    ...     @staticmethod
    ...     def chain(g, y):
    ...         return g - row_sum(g) / row_sum(0 * g + 1)
    ...     push = chain
    >>> Centred.call(torch.tensor([[1.0, 2.0, 6.0]]), -1)
    tensor([[-2., -1.,  3.]])
    """

    value: Any  # static methods of the subclass
    chain: Any
    push: Any

    def __init_subclass__(cls) -> None:
        cls.rule = _Rule(cls.__name__, cls.value, cls.chain, cls.push)
        super().__init_subclass__()

    @classmethod
    def latex(cls) -> Latex:
        """A row and its gradient in LaTeX, written from the formulas themselves: sums and maxima are over the row."""
        return of_value(cls.value, "y") + of_chain(cls.chain, "y", "x")


class _Rule:
    """What a `Rowwise` is made of, apart from its class: the compiler cannot look into that of a Function."""

    tensors = 1
    spares = ()

    def __init__(self, name: str, value: Any, chain: Any, push: Any) -> None:
        self.value = RowFormula(Formula(value, ("array",), (1,), name=name))
        self.chain = RowFormula(Formula(chain, ("array", "array"), (2,), name=f"{name}'s slope"))
        self.push = RowFormula(Formula(push, ("array", "array"), (2,), name=f"{name}'s slope"))
        self.formulas = self.value.formula, self.chain.formula, self.push.formula

    def evaluate(self, inputs: tuple[Any, ...], by_kernel: bool) -> tuple[Tensor, tuple[Any, ...]]:
        x, dim = inputs
        return _along(dim, self.value, by_kernel, x), ()

    def keep(self, inputs: tuple[Any, ...], y: Tensor, kept: tuple[Any, ...]) -> tuple[Any, ...]:
        return (y,)

    def pullback(
        self, g: Tensor, saved: tuple[Any, ...], options: tuple[Any, ...], needed: Sequence[bool], by_kernel: bool
    ) -> tuple[Tensor | None, ...]:
        (y,), (dim,) = saved, options
        return (_along(dim, self.chain, by_kernel, g.to(y.dtype), y),)

    def pushforward(self, tangents: tuple[Any, ...], saved: tuple[Any, ...], options: tuple[Any, ...]) -> Tensor:
        return _along(options[0], self.push, False, tangents[0], saved[0])


def _along(dim: int, formula: RowFormula, by_kernel: bool, *tensors: Tensor) -> Tensor:
    """A formula of rows along a dimension of tensors of one shape; the result lies in memory as the last one does."""
    like = tensors[-1]
    if not like.dim():
        return _along(0, formula, by_kernel, *[t[None] for t in tensors])[0]
    if not like.numel():  # its rows have no maximum
        return like.clone()
    if by_kernel:
        y = torch.empty_like(like)
        seen = formula.seen_like(tensors, dim)
        if seen is not None and seen.run((*tensors, y)) is not None:
            return y
        rows, moved = [t.movedim(dim, -1) for t in tensors], y.movedim(dim, -1)
        result = moved if moved.is_contiguous() else torch.empty(moved.shape, dtype=y.dtype, device=y.device)
        length = rows[-1].shape[-1]
        columns = [(t.contiguous(), length, 0) for t in (*rows, result)]
        shape = (result.numel() // length, length, length)
        watched = tensors if result is moved else ()
        if formula.run(shape, columns, watched=watched, key=dim) is not None:
            if result is not moved:
                moved.copy_(result)
            return y
    (result,) = formula.on_tensors(*[t.movedim(dim, -1) for t in tensors])
    return result.movedim(-1, dim).to(like.dtype)


class Softmax(Rowwise):
    """eˣʲ / Σₖ eˣᵏ: a row of probabilities.

        dL/dx = y (dL/dy - Σₖ yₖ dL/dyₖ)          (the Jacobian diag(y) - y yᵀ, without building it)

    The largest entry is subtracted first, so nothing overflows. As in torch, -∞ gives 0, and a row with NaN, +∞ or
    nothing but -∞ becomes NaN.

    Source: IISER Bhopal DSE316/616, 'Activation Functions and Optimizer', slide 'Types of Activation Functions'.
    Difference from torch: none.
    """

    @staticmethod
    def value(x: Any) -> Any:
        e = exp(x - row_max(x))
        return e / row_sum(e)

    @staticmethod
    def chain(g: Any, y: Any) -> Any:
        return y * (g - row_sum(y * g))

    push = chain  # the Jacobian is symmetric


class LogSoftmax(Rowwise):
    """xⱼ - ln Σₖ eˣᵏ: the logarithm of `Softmax`, also where that is 0 in floating point.

    dL/dx = dL/dy - softmax(x) Σₖ dL/dyₖ

    Source: the logarithm of the slide's softmax; with it the cross-entropy is -Σ q ln softmax(x).
    Difference from torch: none.
    """

    @staticmethod
    def value(x: Any) -> Any:
        shifted = x - row_max(x)
        return shifted - log(row_sum(exp(shifted)))

    @staticmethod
    def chain(g: Any, y: Any) -> Any:
        return g - exp(y) * row_sum(g)

    @staticmethod
    def push(v: Any, y: Any) -> Any:
        return v - row_sum(exp(y) * v)
