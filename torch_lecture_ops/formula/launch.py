"""Run a formula over lists of tensors again and again, without examining twice what has been seen."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Sequence
from itertools import accumulate, chain
from typing import ClassVar

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.nn import Parameter

from .alike import Alike
from .engine import EngineUnavailable
from .trace import Formula

PLAIN = frozenset((Tensor, Parameter))  # other subclasses hide their memory from a kernel


class Launch:
    """Runs a formula over lists of tensors of one device, again and again, by a compiled kernel.

    What was found out about tensors holds for others that look the same (see `Alike`), wherever they lie; none of them
    is kept alive. A tensor that is not dense, or lies otherwise than the first one of its item, goes through a dense
    copy.

    Arguments:
        formula: what to compute. Its first column is an array: it gives each item its shape.
        fresh: the columns whose tensors may look otherwise at every call; no result may be stored there.
    """

    name: ClassVar[str]  # of the engine
    where: ClassVar[str]  # its tensors lie
    memory: ClassVar[Collection[torch.dtype]]  # the dtypes that it knows
    devices: ClassVar[Collection[str]]  # the types of devices

    def __init__(self, formula: Formula, fresh: Sequence[int] = ()) -> None:
        self._formula, self._fresh = formula, tuple(fresh)
        self._count = 0  # of items; 0: not bound

    def supports(self, tensor: Tensor) -> bool:
        """Whether the engine computes on such a tensor: its memory, on the right device, holds its values."""
        return (
            type(tensor) in PLAIN
            and tensor.device.type in self.devices
            and tensor.dtype in self.memory
            and tensor.layout is torch.strided
            and not tensor.is_neg()
        )

    def supports_scalar(self, tensor: Tensor) -> bool:
        """The same for what is one number an item."""
        return self.supports(tensor) and tensor.itemsize >= 4

    def prepare(self, columns: Sequence[list[Tensor]]) -> None:
        """Build what runs over these columns."""
        raise NotImplementedError

    def run(self, columns: Sequence[list[Tensor]], table: array[int], hypers: Sequence[float]) -> None:
        """Run over the columns, which lie at the addresses of the table."""
        raise NotImplementedError

    def __call__(self, columns: Sequence[list[Tensor]], hypers: Sequence[float], alike: bool = False) -> None:
        """Store the results of the formula in the columns that it names.

        Arguments:
            columns: the tensors, column by column.
            hypers: the numbers of the formula.
            alike: the caller knows that all tensors look as they did at the call before.

        Raises:
            EngineUnavailable: the engine does not compute on such tensors, or cannot run here.
            ValueError: the tensors of an item differ in their number of elements, or columns in their length.
        """
        if not (alike and self._count):
            if len(set(map(len, columns))) != 1 or len(hypers) != len(self._formula.hypers):
                raise ValueError(
                    f"{self._formula.name}: columns of one length and {len(self._formula.hypers)} hypers are needed, "
                    f"got columns of {list(map(len, columns))} and {len(hypers)} hypers"
                )
            if not columns[0]:
                return
            if not self._is_bound(columns):
                self._bind(columns)
            unwell = [number for number in self._fresh if not self._lies_well(number, columns[number])]
            self._to_copy = self._odd | {number: self._misfits(number, columns[number]) for number in unwell}
        table = self._table
        for number, column in enumerate(columns):
            addresses = addresses_of(column)
            if addresses != self._addresses[number]:
                table[number * self._count : (number + 1) * self._count] = array("Q", addresses)
                self._addresses[number] = addresses
        copies = self._copies(columns, self._to_copy) if self._to_copy else {}
        if copies:
            table = table[:]
            for (number, item), copy in copies.items():
                table[number * self._count + item] = copy.data_ptr()
        self.run(columns, table, hypers)
        for number in self._written:  # the kernel wrote behind autograd's back
            increment_version(columns[number])
        for (number, item), copy in copies.items():
            if number in self._formula.written:
                columns[number][item].copy_(copy)

    def _is_bound(self, columns: Sequence[list[Tensor]]) -> bool:
        """Whether the tensors of the columns that are not fresh look as they did when they were examined."""
        return len(columns[0]) == self._count and all(looks_so(columns[number]) for number, looks_so in self._seen)

    def _bind(self, columns: Sequence[list[Tensor]]) -> None:
        """Examine the tensors and build what runs over them."""
        self._count = 0  # stays so if something raises here
        arrays = [number for number in range(len(columns)) if self._formula.kind(number) == "array"]
        self.dtypes = tuple(column[0].dtype for column in columns)
        self.device = columns[0][0].device
        for number, column in enumerate(columns):
            supports = self.supports if number in arrays else self.supports_scalar
            for tensor in column:
                if number in self._fresh:
                    tensor = tensor.resolve_neg()  # one that is negated lazily will be copied
                if not supports(tensor) or (number in arrays and tensor.device != self.device):
                    raise EngineUnavailable(
                        f"the {self.name} engine computes on strided float tensors of {self.where}, got "
                        f"{type(tensor).__name__}, {tensor.dtype}, {tensor.layout}, device {tensor.device}"
                    )
                if tensor.dtype != self.dtypes[number]:
                    raise EngineUnavailable(
                        f"the {self.name} engine takes one dtype a column, got {self.dtypes[number]} and {tensor.dtype}"
                    )
                if number not in arrays and tensor.numel() != 1:
                    raise ValueError(f"{self._formula.name}: a scalar is one number, got shape {tuple(tensor.shape)}")
        firsts = columns[0]
        self._strides = [(t if is_dense(t) else torch.empty_like(t, device="meta")).stride() for t in firsts]
        self.numels = list(map(Tensor.numel, firsts))
        self.starts = array("q", accumulate(self.numels, initial=0))
        self.prepare(columns)
        stable = [number for number in range(len(columns)) if number not in self._fresh]
        odd = {number: self._misfits(number, columns[number]) for number in stable if number in arrays}
        self._odd = {number: items for number, items in odd.items() if items}
        self._seen = [(number, Alike(columns[number])) for number in stable]
        self._written = [number for number in stable if number in self._formula.written]
        self._addresses = list(map(addresses_of, columns))
        self._table = array("Q", chain.from_iterable(self._addresses))
        self._count = len(firsts)

    def _lies_well(self, number: int, column: list[Tensor]) -> bool:
        """No fresh tensor is a misfit: found out fast, since nearly always so. (A gradient's device cannot differ.)"""
        return (
            list(map(Tensor.stride, column)) == self._strides
            and list(map(Tensor.numel, column)) == self.numels
            and {tensor.dtype for tensor in column} == {self.dtypes[number]}
            and not any(map(Tensor.is_neg, column))  # negated lazily: a view, the signs in memory are the old ones
        )

    def _misfits(self, number: int, column: list[Tensor]) -> list[int]:
        """The items whose tensor in this column lies otherwise than their first one would if it were dense."""
        misfits = []
        for item, tensor in enumerate(column):
            if tensor.numel() != self.numels[item]:
                raise ValueError(
                    f"{self._formula.name}: a tensor of shape {tuple(tensor.shape)} cannot go with one of "
                    f"{self.numels[item]} elements"
                )
            same = tensor.stride() == self._strides[item] and tensor.dtype is self.dtypes[number]
            if not same or not self.supports(tensor):
                misfits.append(item)
        return misfits

    def _copies(self, columns: Sequence[list[Tensor]], misfits: dict[int, list[int]]) -> dict[tuple[int, int], Tensor]:
        """Dense copies of misfits, by column and item."""
        return {
            (number, item): torch.empty_strided(
                columns[0][item].shape, self._strides[item], dtype=self.dtypes[number], device=self.device
            ).copy_(columns[number][item])
            for number, items in misfits.items()
            for item in items
        }


def is_dense(tensor: Tensor) -> bool:
    """Its memory holds every element once, in whatever order: a loop over the memory is a loop over the elements."""
    return tensor.is_contiguous() or torch.empty_like(tensor, device="meta").stride() == tensor.stride()


def addresses_of(column: list[Tensor]) -> list[int]:
    """Where the tensors begin."""
    return list(map(Tensor.data_ptr, column))
