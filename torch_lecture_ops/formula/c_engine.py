"""The C engine: one call for all items of a list of CPU tensors."""

from __future__ import annotations

import ctypes
import os
from array import array
from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate, chain
from operator import is_
from struct import Struct
from typing import Any, TypeVar

import torch
from torch import Tensor, get_num_threads
from torch.autograd.graph import increment_version
from torch.nn import Parameter

from .c_compiler import EngineUnavailable, load
from .c_source import MEMORY, c_source
from .trace import Formula, trace

K = TypeVar("K")

PLAIN = frozenset((Tensor, Parameter))  # other subclasses hide their memory from a kernel
GRAIN = 32768  # elements below which a second thread costs more than it brings

_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True  # OpenMP's threads stayed in the parent: a parallel region here would wait for them forever


os.register_at_fork(after_in_child=_after_fork)


def threads_for(elements: int) -> int:
    """How many threads of torch's pool a kernel takes."""
    return 1 if elements < GRAIN or _forked else get_num_threads()


class Kernel:
    """A formula compiled for columns of certain dtypes. Knows addresses, no tensors.

    `run_one(pack(elements, threads, address, ..., hyper, ...))` is the compiled function for a single item, for those
    who cannot afford more: each argument of a C function would cost as much time as all of a block of bytes.
    """

    def __init__(self, formula: Formula, dtypes: tuple[torch.dtype, ...]) -> None:
        library = load(c_source(trace(formula), dtypes))
        self._run = library.run
        self._run.argtypes = [ctypes.c_int64, *[ctypes.c_void_p] * 3, ctypes.c_int]
        self.run_one: Callable[[bytes], int] = library.run_one
        library.run_one.argtypes = [ctypes.c_char_p]
        self.pack = Struct(f"{2 + len(dtypes)}q{len(formula.hypers)}d").pack

    def __call__(self, starts: array[int], addresses: array[int], hypers: Sequence[float]) -> None:
        """Run over the items, whose elements are starts[i]..starts[i + 1]; `addresses` goes column by column."""
        numbers = array("d", hypers)
        failed = self._run(
            len(starts) - 1,
            starts.buffer_info()[0],
            addresses.buffer_info()[0],
            numbers.buffer_info()[0],
            threads_for(starts[-1]),
        )
        if failed:
            raise MemoryError("no memory for the table of a kernel")


@cache
def _kernel_or_reason(build: Callable[..., Any], *what: Any) -> Any:
    try:
        return build(*what)
    except EngineUnavailable as reason:
        return reason


def built_once(build: Callable[..., K], *what: Any) -> K:
    """The kernel built of this, once a process; what failed once raises the same EngineUnavailable again."""
    found = _kernel_or_reason(build, *what)
    if isinstance(found, EngineUnavailable):
        raise EngineUnavailable(*found.args)
    return found


def kernel(formula: Formula, dtypes: tuple[torch.dtype, ...]) -> Kernel:
    """The kernel of a formula, see `built_once`."""
    return built_once(Kernel, formula, dtypes)


def supports(tensor: Tensor) -> bool:
    """Whether the engine computes on such a tensor: its memory holds its values, as float numbers, on the CPU."""
    return (
        type(tensor) in PLAIN
        and tensor.is_cpu
        and tensor.dtype in MEMORY
        and tensor.layout is torch.strided
        and not tensor.is_neg()
    )


def is_dense(tensor: Tensor) -> bool:
    """Its memory holds every element once, in whatever order: a loop over the memory is a loop over the elements."""
    return tensor.is_contiguous() or torch.empty_like(tensor, device="meta").stride() == tensor.stride()


class CLaunch:
    """Runs a formula over lists of tensors, again and again, and does not examine twice what it has seen.

    Seen are the same tensor objects at the same addresses. A tensor that is not dense, or lies otherwise than the
    first one of its item, goes through a dense copy. Fresh tensors (gradients) are examined each time, and none of
    them is kept alive.

    Arguments:
        formula: what to compute. Its first column is an array: it gives each item its shape.
        fresh: the columns that hold other tensors at every call; no result may be stored there.
    """

    def __init__(self, formula: Formula, fresh: Sequence[int] = ()) -> None:
        self._formula, self._fresh = formula, tuple(fresh)
        self._count = 0  # of items; 0: not bound

    def __call__(self, columns: Sequence[list[Tensor]], hypers: Sequence[float], alike: bool = False) -> None:
        """Store the results of the formula in the columns that it names.

        Arguments:
            columns: the tensors, column by column.
            hypers: the numbers of the formula.
            alike: the caller knows that the first column holds the same tensors as at the call before, and that the
                fresh ones look like those (see `Alike`).

        Raises:
            EngineUnavailable: a tensor is not a float tensor of the CPU, or there is no compiler.
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
            table[number * self._count : (number + 1) * self._count] = array("Q", _addresses(columns[number]))
        copies = self._copies(columns, self._odd | self._unwell)
        if copies:
            table = table[:]
            for (number, item), copy in copies.items():
                table[number * self._count + item] = copy.data_ptr()
        self._kernel(self._starts, table, hypers)
        increment_version(self._written)  # the kernel wrote behind autograd's back
        for (number, item), copy in copies.items():
            if number in self._formula.written:
                columns[number][item].copy_(copy)

    def _is_bound(self, columns: Sequence[list[Tensor]], alike: bool) -> bool:
        if len(columns[0]) != self._count:
            return False
        for number, seen, addresses in self._seen:
            column = columns[number]
            if _addresses(column) != addresses:
                return False
            if not (alike and number == 0) and not all(map(is_, column, seen)):
                return False
        return True

    def _lies_as_bound(self, firsts: list[Tensor]) -> bool:
        return (
            list(map(Tensor.stride, firsts)) == self._first_strides
            and list(map(Tensor.numel, firsts)) == self._numels
            and {tensor.dtype for tensor in firsts} == {self._dtypes[0]}
        )

    def _bind(self, columns: Sequence[list[Tensor]]) -> None:
        self._count = 0  # stays so if something raises here
        arrays = [number for number in range(len(columns)) if self._formula.kind(number) == "array"]
        self._dtypes = tuple(column[0].dtype for column in columns)
        for number, column in enumerate(columns):
            for tensor in column:
                if not supports(tensor) or (number not in arrays and tensor.itemsize < 4):
                    raise EngineUnavailable(
                        "the C engine computes on strided float tensors of the CPU, got "
                        f"{type(tensor).__name__}, {tensor.dtype}, {tensor.layout}, device {tensor.device}"
                    )
                if tensor.dtype != self._dtypes[number]:
                    raise EngineUnavailable(
                        f"the C engine takes one dtype a column, got {self._dtypes[number]} and {tensor.dtype}"
                    )
                if number not in arrays and tensor.numel() != 1:
                    raise ValueError(f"{self._formula.name}: a scalar is one number, got shape {tuple(tensor.shape)}")
        self._kernel = kernel(self._formula, self._dtypes)
        firsts = columns[0]
        self._first_strides = list(map(Tensor.stride, firsts))
        self._strides = [(t if is_dense(t) else torch.empty_like(t, device="meta")).stride() for t in firsts]
        self._numels = list(map(Tensor.numel, firsts))
        self._starts = array("q", accumulate(self._numels, initial=0))
        stable = [number for number in range(len(columns)) if number not in self._fresh]
        self._odd = {number: self._misfits(number, columns[number]) for number in stable if number in arrays}
        self._seen = [(number, list(columns[number]), _addresses(columns[number])) for number in stable]
        self._written = [tensor for number, seen, _ in self._seen if number in self._formula.written for tensor in seen]
        self._table = array("Q", chain.from_iterable(map(_addresses, columns)))
        self._count = len(firsts)

    def _lies_well(self, number: int, column: list[Tensor]) -> bool:
        """No fresh tensor is a misfit: found out fast, since nearly always so. (A gradient's device cannot differ.)"""
        return (
            list(map(Tensor.stride, column)) == self._strides
            and list(map(Tensor.numel, column)) == self._numels
            and {tensor.dtype for tensor in column} == {self._dtypes[number]}
            and not any(map(Tensor.is_neg, column))  # negated lazily: a view, the signs in memory are the old ones
        )

    def _misfits(self, number: int, column: list[Tensor]) -> list[int]:
        """The items whose tensor in this column lies otherwise than their first one would if it were dense."""
        misfits = []
        for item, tensor in enumerate(column):
            if tensor.numel() != self._numels[item]:
                raise ValueError(
                    f"{self._formula.name}: a tensor of shape {tuple(tensor.shape)} cannot go with one of "
                    f"{self._numels[item]} elements"
                )
            same = tensor.stride() == self._strides[item] and tensor.dtype is self._dtypes[number]
            if not same or not supports(tensor):
                misfits.append(item)
        return misfits

    def _copies(self, columns: Sequence[list[Tensor]], misfits: dict[int, list[int]]) -> dict[tuple[int, int], Tensor]:
        """Dense copies of misfits, by column and item."""
        return {
            (number, item): torch.empty_strided(
                columns[0][item].shape, self._strides[item], dtype=self._dtypes[number]
            ).copy_(columns[number][item])
            for number, items in misfits.items()
            for item in items
        }


def _addresses(column: list[Tensor]) -> list[int]:
    return list(map(Tensor.data_ptr, column))
