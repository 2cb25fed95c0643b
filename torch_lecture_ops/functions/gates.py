"""The gates of a computational graph, each with the pattern in which gradients flow back through it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ..checks import wrong_type
from ..formula import Latex, latex, maximum, where
from .notation import gradient
from .operation import Operation, early_modes, is_beyond_functions, is_compiling, jit_traces, transforms_active
from .pointwise import Pointwise


class Add(Pointwise):
    """a + b. The distributor: both get dL/dy, summed to their shapes. Nothing is saved.

    Source: IISER Bhopal DSE316/616, 'Activation Functions and Optimizer', slide 'Previous class: Patterns in gradient
    flow' (after CS231n).
    Difference from torch: none.
    """

    @staticmethod
    def value(a: Any, b: Any) -> Any:
        return a + b

    @staticmethod
    def chain(g: Any) -> Any:
        return g, g


class Mul(Pointwise):
    """a b. The swap multiplier: a gets b dL/dy, b gets a dL/dy.

    Source: IISER Bhopal DSE316/616, 'Activation Functions and Optimizer', slide 'Previous class: Patterns in gradient
    flow' (after CS231n).
    Difference from torch: none.
    """

    @staticmethod
    def value(a: Any, b: Any) -> Any:
        return a * b

    @staticmethod
    def chain(g: Any, a: Any, b: Any) -> Any:
        return g * b, g * a


class Max(Pointwise):
    """max(a, b). The router: all of dL/dy goes to the larger one; of equal ones to a.

    NaN wins, and gets the gradient; of two NaN a does.

    Source: IISER Bhopal DSE316/616, 'Activation Functions and Optimizer', slide 'Previous class: Patterns in gradient
    flow' (after CS231n).
    Difference from torch: torch.maximum gives half of the gradient to each of two equal ones, and all of it to both of
    two NaN.
    """

    @staticmethod
    def value(a: Any, b: Any) -> Any:
        return maximum(a, b)

    @staticmethod
    def chain(g: Any, a: Any, b: Any) -> Any:
        # a wins unless it is a number that is not >= b
        return where(a >= b, g, where(a != a, g, 0.0)), where(a >= b, 0.0, where(a != a, 0.0, g))


class MatMul(Operation):
    """a b for matrices, vectors and batches of them, as `torch.matmul`.

    dL/da = dL/dy bᵀ and dL/db = aᵀ dL/dy: the shapes leave no other choice. Saves b for the one and a for
    the other.

    Source: IISER Bhopal DSE316/616, 'Activation Functions and Optimizer', slide 'Backprop with matrices'.
    Difference from torch: none.
    """

    tensors = 2
    spares = ((0,), (1,))

    @staticmethod
    def evaluate(inputs: tuple[Any, ...], by_kernel: bool) -> tuple[Tensor, tuple[Any, ...]]:
        return torch.matmul(*inputs), ()

    @staticmethod
    def keep(inputs: tuple[Any, ...], y: Tensor, kept: tuple[Any, ...]) -> tuple[Any, ...]:
        return inputs

    @staticmethod
    def pullback(
        g: Tensor, saved: tuple[Any, ...], options: tuple[Any, ...], needed: Sequence[bool], by_kernel: bool
    ) -> tuple[Tensor | None, ...]:
        a, b = saved
        if a.dim() == 1:  # a row
            a, g = a.unsqueeze(0), g.unsqueeze(-2 if b.dim() > 1 else -1)
        if b.dim() == 1:  # a column
            b, g = b.unsqueeze(1), g.unsqueeze(-1)
        da = _summed_product(g, b.mH, a.shape).reshape(saved[0].shape) if needed[0] else None
        db = _summed_product(a.mH, g, b.shape).reshape(saved[1].shape) if needed[1] else None
        return da, db

    @staticmethod
    def pushforward(tangents: tuple[Any, ...], saved: tuple[Any, ...], options: tuple[Any, ...]) -> Tensor:
        (a, b), (va, vb) = saved, tangents
        parts = [torch.matmul(*pair) for pair in ((va, b), (a, vb)) if pair[0] is not None and pair[1] is not None]
        return sum(parts[1:], parts[0])

    @staticmethod
    def latex() -> Latex:
        """The product of two matrices and their gradients, in LaTeX."""
        da, db, dy = map(gradient, "aby")
        return Latex((r"y = a\, b", rf"{da} = {dy}\, b^{{\top}}", rf"{db} = a^{{\top}}\, {dy}"))


def _summed_product(a: Tensor, b: Tensor, shape: Sequence[int]) -> Tensor:
    """a b, summed to this shape: for one matrix out of a batch by a single product over all its members.

    That adds up before it rounds, and needs no room for the products.
    """
    if len(shape) > 2 or a.dim() == b.dim() == 2:
        return (a @ b).sum_to_size(*shape)
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = (t.expand(*batch, *t.shape[-2:]) for t in (a, b))
    size = math.prod(batch) * a.shape[-1]
    return a.movedim(-2, 0).reshape(a.shape[-2], size) @ b.reshape(size, b.shape[-1])


class Copy(Function):
    """x, n times. The adder: x gets the sum of the gradients of its copies. Call it as `Copy.call(x, n)`.

    The copies are tensors of their own, so each may be changed in place. Saves nothing.

    Source: IISER Bhopal DSE316/616, 'Activation Functions and Optimizer', slide 'Previous class: Patterns in gradient
    flow' (after CS231n).
    Difference from torch: torch has no such function.
    """

    generate_vmap_rule = True
    call: Any

    @staticmethod
    def forward(x: Tensor, n: int) -> tuple[Tensor, ...]:
        return tuple([x.clone() for _ in range(n)])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.n = inputs[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return sum(gradients[1:], gradients[0]), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> tuple[Tensor, ...]:
        return tuple([tangent.clone() for _ in range(ctx.n)])

    @staticmethod
    def latex() -> Latex:
        """Two copies and the gradient, in LaTeX."""
        letters = {"dx": gradient("x"), "g": gradient("y_{1}"), "h": gradient("y_{2}")}
        return latex(lambda x: (x, x), ("y1", "y2")) + latex(
            lambda g, h: Copy.backward(None, g, h)[0], ("dx",), letters
        )


def _copy(x: Tensor, n: int) -> tuple[Tensor, ...]:
    if not isinstance(x, Tensor):
        raise wrong_type("Copy", "x", 1, "Tensor", x)
    # Compilers and tracers see the operators, which have the same gradient.
    is_followed = is_compiling() or jit_traces() or early_modes() or (transforms_active() and is_beyond_functions())
    return Copy.forward(x, n) if is_followed else Copy.apply(x, n)


Copy.call = staticmethod(_copy)
