"""The shell around functions of several tensors, element by element, with broadcasting and a sum or mean at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from typing import Any

import torch
from torch import Tensor, empty_like, scalar_tensor

from ..formula import COMPILED, PLAIN, Formula, Latex, row_sum, trace
from .elementwise import numbers_of, tensors_of
from .notation import of_chain, of_value
from .operation import CPU, Column, Number, Operation, RowFormula, Total, as_number, lying_as, upcast

# How an operand lies beside the others: an element for each, the same row for all rows, one number a row, or for all.
Part = str  # "array", "row", "scalar" or "number"
_KINDS = {"array": "array", "row": "array", "scalar": "scalar"}  # of a column
_SUMMED = {"array": "array", "row": "sum", "scalar": "scalar", "number": "total"}  # of a column of gradients


class Pointwise(Operation):
    """A function of several tensors made of two formulas: its value and what it does to a gradient.

        z = value(x, y, ...)          dL/dx, dL/dy, ... = chain(dL/dz, x, y, ...)

    `chain(g, x, y, ...)` takes the tensors by the names that `value` has for them, and only those it needs. Saved are
    those that occur in a gradient that is wanted. Keyword-only arguments of both are numbers. Tensors are broadcast
    against each other, and a gradient is summed to the shape of its tensor.

    Call it with the tensors, the numbers and, last, the reduction: "none", "mean" or "sum" over all elements. A
    kernel adds in double.

    >>> from torch_lecture_ops.formula import maximum, where
    >>> class Hinge(Pointwise):
    ...     @staticmethod
    ...     def value(a, y):
    ...         return maximum(1 - a * y, 0)
    ...     @staticmethod
    ...     def chain(g, a, y):
    ...         return where(a * y < 1, -y * g, 0.0), where(a * y < 1, -a * g, 0.0)
    >>> a, y = torch.tensor([0.5, 2.0], requires_grad=True), torch.tensor([1.0, 1.0])
    >>> Hinge.call(a, y, "sum").backward()
    >>> a.grad
    tensor([-1.,  0.])
    """

    value: Any  # static methods of the subclass
    chain: Any

    def __init_subclass__(cls) -> None:
        cls.rule = _Rule(cls.__name__, cls.value, cls.chain)
        super().__init_subclass__()

    @classmethod
    def latex(cls) -> Latex:
        """The value, and the gradients from that of the value, in LaTeX, written from the formulas themselves.

        The value is y, or a script l where y is a target.
        """
        tensors = tensors_of(cls.value)
        y = "loss" if "y" in tensors else "y"
        return of_value(cls.value, y) + of_chain(cls.chain, y, tensors)


class _Rule:
    """What a `Pointwise` is made of, apart from its class: the compiler cannot look into that of a Function."""

    def __init__(self, name: str, value: Callable[..., Any], chain: Callable[..., Any]) -> None:
        self.name, self.value, self.chain = name, value, chain
        self.names, self.numbers = tensors_of(value), numbers_of(value)
        (_, *taken), self.chosen = tensors_of(chain), numbers_of(chain)  # what chain takes of both
        if unknown := {*taken, *self.chosen}.difference(self.names, self.numbers):
            raise TypeError(f"{name}: chain asks for {unknown.pop()!r}, which the value does not have")
        self.tensors = len(self.names)
        self.taken = [self.names.index(name) for name in taken]
        slope = self._slope()
        value_alone = Formula(value, ("array",) * self.tensors, (self.tensors,), self.numbers, name)
        self.spares, self.formulas = self._spares(slope), (value_alone, slope)
        self._kernel_of_value, self._kernel_of_chain = cache(self._value_of_rows), cache(self._chain_of_rows)
        self.arrays: tuple[Part, ...] = ("array",) * self.tensors

    def _slope(self) -> Formula:
        """The chain as a formula of elements."""
        columns = ("array",) * (1 + len(self.taken))
        stores = tuple(range(len(columns), len(columns) + self.tensors))
        return Formula(self.chain, columns, stores, self.chosen, f"{self.name}'s slope")

    def _spares(self, slope: Formula) -> Sequence[Collection[int]]:
        """The tensors that do not occur in each gradient."""
        reads = trace(slope).reads()
        return [{*range(self.tensors)}.difference(self.taken[k - 1] for k in read if k) for read in reads]

    def evaluate(self, inputs: tuple[Any, ...], by_kernel: bool) -> tuple[Tensor, tuple[Any, ...]]:
        tensors, numbers, reduction = inputs[: self.tensors], inputs[self.tensors : -1], inputs[-1]
        y = self._value_by_kernel(tensors, numbers, reduction) if by_kernel else None
        if y is None:
            y = self.value(*map(upcast, tensors), **dict(zip(self.numbers, numbers, strict=True)))
            y = y if reduction == "none" else getattr(y, reduction)()  # integers are added in int64
            y = y.to(_dtype_of(tensors)) if y.is_floating_point() or y.is_complex() else y
        return y, ()

    def keep(self, inputs: tuple[Any, ...], y: Tensor, kept: tuple[Any, ...]) -> tuple[Any, ...]:
        return inputs[: self.tensors]

    def pullback(
        self, g: Tensor, saved: tuple[Any, ...], options: tuple[Any, ...], needed: Sequence[bool], by_kernel: bool
    ) -> tuple[Tensor | None, ...]:
        numbers, reduction = options[:-1], options[-1]
        at_hand = reduction == "none" or (g.is_cpu and saved[0].is_cpu) or g.device == saved[0].device
        if by_kernel and self.taken and at_hand:
            gradients = self._gradients_by_kernel(g, saved, numbers, reduction, tuple(needed))
            if gradients is not None:
                return gradients
        shapes = [t.shape for t in saved]
        full = torch.broadcast_shapes(*shapes)
        if reduction == "mean":
            g = upcast(g) / max(1, math.prod(full))
        return tuple(
            [
                gradient.expand(full).sum_to_size(shape) if is_needed else None
                for gradient, shape, is_needed in zip(self._chained(g, saved, numbers), shapes, needed, strict=True)
            ]
        )

    def pushforward(self, tangents: tuple[Any, ...], saved: tuple[Any, ...], options: tuple[Any, ...]) -> Tensor:
        # The Jacobians are diagonal: what chain makes of a gradient for x, it makes of a tangent of x.
        numbers, reduction = options[:-1], options[-1]
        full = torch.broadcast_shapes(*[t.shape for t in saved])
        parts = [
            self._chained(tangent.expand(full), saved, numbers, conjugate=False)[k]
            for k, tangent in enumerate(tangents)
            if tangent is not None
        ]
        tangent = sum(parts[1:], parts[0])
        return tangent if reduction == "none" else getattr(tangent, reduction)()

    def _chained(
        self, g: Tensor, saved: Sequence[Tensor], numbers: Sequence[Any], conjugate: bool = True
    ) -> tuple[Any, ...]:
        """The gradients in full shape; where complex numbers meet, backward takes the conjugates of the slopes."""
        conjugate = conjugate and g.is_complex()
        given = dict(zip(self.numbers, numbers, strict=True))
        own = {name: given[name] for name in self.chosen}
        taken = [upcast(saved[k]) for k in self.taken]
        gradients = self.chain(upcast(g.conj() if conjugate else g), *taken, **own)
        return tuple([d.conj() for d in gradients]) if conjugate else gradients

    def _value_by_kernel(self, tensors: Sequence[Tensor], numbers: Sequence[Number], reduction: str) -> Tensor | None:
        elementwise = reduction == "none"
        seen = self._kernel_of_value(self.arrays, elementwise).seen_like(tensors)
        if seen is not None and elementwise:
            y = empty_like(tensors[0])
            return None if seen.run((*tensors, y), numbers) is None else y
        if seen is not None:
            totals = seen.run(tensors, (*numbers, _count(seen.elements, reduction)))
            return None if totals is None else _as_tensor(totals[0], tensors[0].dtype)
        lie = _layout(tensors)
        if lie is None:
            return None
        formula, columns = self._kernel_of_value(lie.parts, elementwise), lie.columns
        z = empty_like(lie.like) if elementwise else None
        if z is not None:
            columns = [*columns, (z, lie.shape[1], 0)]
        watched = tensors if lie.is_plain else ()
        hypers = [*numbers, *lie.numbers] + ([] if elementwise else [_count(lie.like.numel(), reduction)])
        done = formula.run(lie.shape, columns, hypers, watched=watched)
        if done is None:
            return None
        return _reduced(done[0], lie.like, reduction) if z is None else z

    def _gradients_by_kernel(
        self, g: Tensor, saved: Sequence[Tensor], numbers: Sequence[Number], reduction: str, needed: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...] | None:
        elementwise = reduction == "none"
        watched = (g, *saved) if elementwise else saved
        seen = self._kernel_of_chain(self.arrays, needed, elementwise).seen_like(watched)
        if seen is not None:
            given = numbers if elementwise else (*numbers, as_number(g), _count(seen.elements, reduction))
            results = [empty_like(saved[0]) if is_needed else None for is_needed in needed]
            done = seen.run([*watched, *[t for t in results if t is not None]], given)
            return None if done is None else tuple(results)
        lie = _layout(saved)
        if lie is None or (elementwise and g.dtype is not lie.like.dtype):
            return None
        hypers, columns = [*numbers, *lie.numbers], list(lie.columns)
        if elementwise:
            columns.insert(0, (lying_as(empty_like(lie.like), g), lie.shape[1], 0))
        else:
            hypers += [as_number(g), _count(lie.like.numel(), reduction)]
        targets: list[Tensor | None] = []
        for part, tensor, is_needed in zip(lie.parts, saved, needed, strict=True):
            target = None
            if is_needed and part != "number":
                target = lie.target(part, tensor)
                columns.append((target, {"array": lie.shape[1], "row": 0, "scalar": 1}[part], 0))
            targets.append(target)
        formula = self._kernel_of_chain(lie.parts, needed, elementwise)
        totals = formula.run(lie.shape, columns, hypers, watched=watched if lie.is_plain else ())
        if totals is None:
            return None
        sums = iter(totals)
        gradients: list[Tensor | None] = []
        for part, target, tensor, is_needed in zip(lie.parts, targets, saved, needed, strict=True):
            if not is_needed:
                gradients.append(None)
            elif target is None:
                gradients.append(_as_tensor(next(sums), tensor.dtype).reshape(tensor.shape))
            else:
                gradients.append(lie.summed(part, target, tensor))
        return tuple(gradients)

    def _value_of_rows(self, parts: tuple[Part, ...], elementwise: bool) -> RowFormula:
        """The value, or its sum over all elements, for operands that lie so."""

        def function(*columns: Any, **numbers: Any) -> Any:
            own = {name: numbers[name] for name in self.numbers}
            y = self.value(*_operands(columns, parts, numbers), **own)
            return y if elementwise else row_sum(y) / numbers["count"]

        columns = tuple(_KINDS[part] for part in parts if part != "number")
        outputs = ("array" if elementwise else "total",)
        hypers = self._hypers(parts) + ("count",) * (not elementwise)
        return RowFormula(Formula(function, columns, (len(columns),), hypers, self.name, outputs=outputs))

    def _chain_of_rows(self, parts: tuple[Part, ...], needed: tuple[bool, ...], elementwise: bool) -> RowFormula:
        """The gradients that are needed, each summed as far as its operand is the same; g a column or one number."""
        order = [k for k, part in enumerate(parts) if needed[k] and part != "number"]
        order += [k for k, part in enumerate(parts) if needed[k] and part == "number"]  # totals come last

        def function(*columns: Any, **numbers: Any) -> Any:
            g, *others = columns if elementwise else (numbers["g"] / numbers["count"], *columns)
            own = {name: numbers[name] for name in self.chosen}
            operands = _operands(others, parts, numbers)
            gradients = self.chain(g, *[operands[k] for k in self.taken], **own)
            return tuple(gradients[k] if parts[k] in ("array", "row") else row_sum(gradients[k]) for k in order)

        columns = ("array",) * elementwise + tuple(_KINDS[part] for part in parts if part != "number")
        outputs = tuple(_SUMMED[parts[k]] for k in order)
        stores = tuple(range(len(columns), len(columns) + len(order)))
        hypers = self._hypers(parts) + ("g", "count") * (not elementwise)
        formula = Formula(function, columns, stores, hypers, f"{self.name}'s slope", outputs=outputs)
        return RowFormula(formula)

    def _hypers(self, parts: tuple[Part, ...]) -> tuple[str, ...]:
        return (*self.numbers, *(f"operand{k}" for k, part in enumerate(parts) if part == "number"))


def rows_of_run(count: int, device: torch.device) -> tuple[int, int, int]:
    """The shape, as for `RowFormula.run`, of so many elements that lie one behind the other."""
    grain = COMPILED[device.type].grain
    rows, length = -(-count // grain), min(count, grain)
    return rows, length, count - (rows - 1) * length


def _count(elements: int, reduction: str) -> int:
    """What the sum over all elements is divided by."""
    return 1 if reduction == "sum" else max(1, elements)


def _reduced(total: Total, like: Tensor, reduction: str) -> Tensor:
    """The loss; the mean over nothing is NaN."""
    loss = _as_tensor(total, like.dtype)
    return loss if reduction == "sum" or like.numel() else torch.full_like(loss, math.nan)


def _as_tensor(total: Total, dtype: torch.dtype) -> Tensor:
    return scalar_tensor(total, dtype=dtype, device=CPU) if isinstance(total, float) else total.to(dtype)


def _operands(columns: Sequence[Any], parts: tuple[Part, ...], numbers: dict[str, Any]) -> list[Any]:
    """What the parts stand for: the columns in turn, numbers taken from their place among the hypers."""
    column = iter(columns)
    return [numbers[f"operand{k}"] if part == "number" else next(column) for k, part in enumerate(parts)]


def _dtype_of(tensors: Sequence[Tensor]) -> torch.dtype:
    """What these are promoted to."""
    first, *others = tensors
    if all(t.dtype is first.dtype for t in others):
        return first.dtype
    like = reduce(lambda a, b: a.new_empty((1,) * max(a.dim(), b.dim()), dtype=torch.result_type(a, b)), tensors)
    return like.dtype


@dataclass
class _Layout:
    """Operands as rows of one length, in the order of memory.

    parts: how each operand lies. like: an operand of full shape. shape: rows, length, last (see `RowFormula`).
    columns: the operands that are columns. numbers: the others. order: the dimensions as memory has them. lead:
    how many of them are divided into rows. is_plain: all operands are contiguous and of one shape.
    """

    parts: tuple[Part, ...]
    like: Tensor
    shape: tuple[int, int, int]
    columns: list[Column]
    numbers: list[Number]
    order: list[int]
    lead: int
    is_plain: bool = False

    def target(self, part: Part, tensor: Tensor) -> Tensor:
        """Where the gradient of an operand goes: of full shape as the operands lie, a row, or a number for each row."""
        if part == "row":
            return tensor.new_empty(self.shape[1])
        if part == "scalar":
            return torch.empty(self.shape[0], dtype=torch.float64, device=tensor.device)
        is_summed = tensor.shape != self.like.shape and tensor.dtype not in (torch.float32, torch.float64)
        return empty_like(self.like, dtype=torch.float32 if is_summed else None)

    def summed(self, part: Part, target: Tensor, tensor: Tensor) -> Tensor:
        """The gradient of the shape of its tensor."""
        if part in ("row", "scalar"):
            varies = [(place < self.lead) == (part == "scalar") for place in range(len(self.order))]
            sizes = [self.like.shape[d] if here else 1 for d, here in zip(self.order, varies, strict=True)]
            inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
            target = target.view(sizes).permute(inverse)
        return target.sum_to_size(tensor.shape).to(tensor.dtype)


def _layout(tensors: Sequence[Tensor]) -> _Layout | None:
    """How these tensors can be taken by a kernel, or None."""
    dtype, device = tensors[0].dtype, tensors[0].device
    if device.type not in COMPILED or dtype not in COMPILED[device.type].dtypes:
        return None
    if any(t.dtype is not dtype or t.device != device or type(t) not in PLAIN for t in tensors):
        return None
    flat = _flat_layout(tensors)  # nearly always
    if flat is not None:
        return flat
    full = torch.broadcast_shapes(*[t.shape for t in tensors])
    like = next((t for t in tensors if t.shape == full), None)
    return None if like is None or like.numel() == 0 else _layout_of_rows(tensors, empty_like(like))


def _flat_layout(tensors: Sequence[Tensor]) -> _Layout | None:
    """Contiguous operands of the first one's shape, and numbers: one run of memory, divided among threads."""
    first = tensors[0]
    shape, count = first.shape, first.numel()
    sizes = rows_of_run(count, first.device)
    length = sizes[1]
    parts: list[Part] = []
    columns: list[Column] = []
    numbers: list[Number] = []
    for tensor in tensors:
        if tensor.shape == shape and tensor.is_contiguous():
            parts.append("array")
            columns.append((tensor, length, 0))
        elif tensor.numel() == 1 and tensor.dim() <= len(shape):
            parts.append("number")
            numbers.append(as_number(tensor))
        else:
            return None
    return _Layout(tuple(parts), first, sizes, columns, numbers, [], 0, is_plain=not numbers)


def _layout_of_rows(tensors: Sequence[Tensor], like: Tensor) -> _Layout:
    full, strides = like.shape, like.stride()
    order = sorted(range(like.dim()), key=lambda d: -strides[d])
    sizes = [full[d] for d in order]
    # The longest run of last dimensions over which every operand either varies everywhere or stays the same.
    aligned = [t.reshape((1,) * (like.dim() - t.dim()) + t.shape).permute(order) for t in tensors]
    lead = like.dim()
    runs: list[bool | None] = [None] * len(tensors)
    while lead > 0:
        here = [None if sizes[lead - 1] == 1 else t.shape[lead - 1] > 1 for t in aligned]
        if any(None not in pair and pair[0] != pair[1] for pair in zip(runs, here, strict=True)):
            break
        runs = [varies if run is None else run for run, varies in zip(runs, here, strict=True)]
        lead -= 1
    length, rows = math.prod(sizes[lead:]), math.prod(sizes[:lead])
    parts: list[Part] = []
    columns: list[Column] = []
    numbers: list[Number] = []
    for tensor, view, varies in zip(tensors, aligned, runs, strict=True):
        if tensor.shape == full:
            parts.append("array")
            columns.append((lying_as(like, tensor), length, 0))
        elif tensor.numel() == 1:
            parts.append("number")
            numbers.append(as_number(tensor))
        elif varies:
            is_same = all(size == 1 for size in view.shape[:lead])
            is_summed = is_same and lead > 0 and length <= COMPILED[like.device.type].longest_sum
            parts.append("row" if is_summed else "array")
            run = view.expand(view.shape if is_same else sizes).contiguous()
            columns.append((run, 0 if is_same else length, 0))
        else:
            parts.append("scalar")
            columns.append((view.expand(*sizes[:lead], *view.shape[lead:]).contiguous(), 1, 0))
    if not lead and rows == 1:  # one run of memory: divided among threads
        shape = rows_of_run(length, like.device)
        columns = [(column, shape[1], 0) for column, _, _ in columns]
        return _Layout(tuple(parts), like, shape, columns, numbers, order, lead)
    return _Layout(tuple(parts), like, (rows, length, length), columns, numbers, order, lead)
