"""Run a formula over lists of tensors again and again, without examining twice what has been seen."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Sequence
from itertools import accumulate, chain
from operator import is_
from typing import ClassVar

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.nn import Parameter

from .engine import EngineUnavailable
from .trace import Formula

PLAIN = frozenset((Tensor, Parameter))  # other subclasses hide their memory from a kernel


class Launch:
    """Runs a formula over lists of tensors of one device, again and again, by a compiled kernel.

    Seen are the same tensor objects at the same addresses. A tensor that is not dense, or lies otherwise than the
    first one of its item, goes through a dense copy. Fresh tensors (gradients) are examined each time, and none of
    them is kept alive.

    Arguments:
        formula: what to compute. Its first column is an array: it gives each item its shape.
        fresh: the columns that hold other tensors at every call; no result may be stored there.
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
            alike: the caller knows that the first column holds the same tensors as at the call before, and that the
                fresh ones look like those (see `Alike`).

        Raises:
            EngineUnavailable: the engine does not compute on such tensors, or cannot run here.
            ValueError: the tensors of an item differ in their number of elements, or columns in their length.
        """
        if len(set(map(len, columns))) != 1 or len(hypers) != len(self._formula.hypers):
            raise ValueError(
                f"{self._formula.name}: columns of one length and {len(self._formula.hypers)} hypers are needed, "
                f"got columns of {list(map(len, columns))} and {len(hypers)} hypers"
            )
        if not columns[0]:
            return
        if not self._is_bound(columns, alike):
            self._bind(columns)
            alike = False
        if not alike:
            unwell = [number for number in self._fresh if not self._lies_well(number, columns[number])]
            if (unwell or not self._fresh) and not self._lies_as_bound(columns[0]):
                self._bind(columns)  # a shape changed, but not the address
            self._unwell = {number: self._misfits(number, columns[number]) for number in unwell}
        table = self._table
        for number in self._fresh:
            table[number * self._count : (number + 1) * self._count] = array("Q", addresses_of(columns[number]))
        copies = self._copies(columns, self._odd | self._unwell)
        if copies:
            table = table[:]
            for (number, item), copy in copies.items():
                table[number * self._count + item] = copy.data_ptr()
        self.run(columns, table, hypers)
        increment_version(self._written)  # the kernel wrote behind autograd's back
        for (number, item), copy in copies.items():
            if number in self._formula.written:
                columns[number][item].copy_(copy)

    def _is_bound(self, columns: Sequence[list[Tensor]], alike: bool) -> bool:
        if len(columns[0]) != self._count:
            return False
        for number, seen, addresses in self._seen:
            column = columns[number]
            if addresses_of(column) != addresses:
                return False
            if not (alike and number == 0) and not all(map(is_, column, seen)):
                return False
        return True

    def _lies_as_bound(self, firsts: list[Tensor]) -> bool:
        return (
            list(map(Tensor.stride, firsts)) == self._first_strides
            and list(map(Tensor.numel, firsts)) == self.numels
            and {tensor.dtype for tensor in firsts} == {self.dtypes[0]}
        )

    def _bind(self, columns: Sequence[list[Tensor]]) -> None:
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
        self._first_strides = list(map(Tensor.stride, firsts))
        self._strides = [(t if is_dense(t) else torch.empty_like(t, device="meta")).stride() for t in firsts]
        self.numels = list(map(Tensor.numel, firsts))
        self.starts = array("q", accumulate(self.numels, initial=0))
        self.prepare(columns)
        stable = [number for number in range(len(columns)) if number not in self._fresh]
        self._odd = {number: self._misfits(number, columns[number]) for number in stable if number in arrays}
        self._seen = [(number, list(columns[number]), addresses_of(columns[number])) for number in stable]
        self._written = [tensor for number, seen, _ in self._seen if number in self._formula.written for tensor in seen]
        self._table = array("Q", chain.from_iterable(map(addresses_of, columns)))
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
