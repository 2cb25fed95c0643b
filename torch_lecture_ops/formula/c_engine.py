"""The C engine: one call for all items of a list of CPU tensors."""

from __future__ import annotations

import ctypes
import os
from array import array
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, get_num_threads

from .c_compiler import load
from .c_source import MEMORY, c_source
from .engine import built_once
from .launch import Launch
from .trace import Formula, trace

GRAIN = 32768  # elements below which a second thread costs more than it brings

_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True  # OpenMP's threads stayed in the parent: a parallel region here would wait for them forever


os.register_at_fork(after_in_child=_after_fork)


def threads_for(elements: int) -> int:
    """How many threads of torch's pool a kernel takes."""
    return 1 if elements < GRAIN or _forked else get_num_threads()


# PyCFunction_NewEx(method, self, module)
_new_builtin = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)(
    ("PyCFunction_NewEx", ctypes.pythonapi)
)


def method(library: ctypes.CDLL, name: str) -> int:
    """Where a library has the description of one of its built-in functions."""
    return ctypes.addressof(ctypes.c_char.in_dll(library, name))


def builtin(description: int, table: bytes = b"") -> Callable[..., tuple[float, ...]]:
    """The built-in function of this description, with what its C text takes for its table."""
    return _new_builtin(description, table, None)


class Kernel:
    """A formula compiled for columns of certain dtypes. Knows addresses, no tensors.

    `one(elements, threads, address, ..., hyper, ...)` runs over a single item, for those who cannot afford more.
    """

    def __init__(self, formula: Formula, dtypes: tuple[torch.dtype, ...]) -> None:
        library = load(c_source(trace(formula), dtypes))
        self.one, self._many = builtin(method(library, "run_one")), builtin(method(library, "run_many"))

    def __call__(self, starts: array[int], addresses: array[int], hypers: Iterable[float]) -> None:
        """Run over the items, whose elements are starts[i]..starts[i + 1]; `addresses` goes column by column."""
        (start, length), (columns, _) = starts.buffer_info(), addresses.buffer_info()
        self._many(length - 1, start, columns, threads_for(starts[-1]), *hypers)

    def run_arrays(
        self, device: torch.device, elements: int, addresses: Iterable[int], hypers: Iterable[float]
    ) -> None:
        """Run over so many elements of columns that are all arrays."""
        self.one(elements, threads_for(elements), *addresses, *hypers)


def kernel(formula: Formula, dtypes: tuple[torch.dtype, ...]) -> Kernel:
    """The kernel of a formula, see `built_once`."""
    return built_once(Kernel, formula, dtypes)


class CLaunch(Launch):
    """The launches of the C engine: over CPU tensors."""

    name, where = "C", "the CPU"
    memory, devices = MEMORY, ("cpu",)

    def prepare(self, columns: Sequence[list[Tensor]]) -> None:
        self._kernel = kernel(self._formula, self.dtypes)

    def run(self, columns: Sequence[list[Tensor]], table: array[int], hypers: Sequence[float]) -> None:
        self._kernel(self.starts, table, hypers)
