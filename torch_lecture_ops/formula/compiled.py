"""Which engine compiles for which devices."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import torch

from .c_engine import CLaunch, kernel
from .c_rows import ROW_MEMORY, row_kernel
from .c_source import MEMORY
from .launch import Launch
from .trace import Formula
from .triton_engine import TritonArrays, TritonLaunch
from .triton_rows import TRITON_ROW_MEMORY, triton_row_kernel
from .triton_source import TRITON_MEMORY


class Engine(NamedTuple):
    """A compiling engine, by its parts.

    Arguments:
        name: how an optimizer calls it.
        launch: what runs a formula over lists of tensors, again and again.
        arrays: the kernel of a formula of arrays, for tensors that lie alike: what has `run_arrays`.
        rows: the kernel of a formula of rows: what has `prepare`.
        grain: how many elements of a long, plain run of memory one row should have.
        dtypes: what it computes with.
        row_dtypes: what columns of rows may also be.
        longest_sum: how long rows may be that are summed for each place ("sum", see `Formula`).
    """

    name: str
    launch: type[Launch]
    arrays: Callable[[Formula, tuple[torch.dtype, ...]], Any]
    rows: Callable[[Formula, tuple[torch.dtype, ...], range], Any]
    grain: int
    dtypes: Collection[torch.dtype]
    row_dtypes: Collection[torch.dtype]
    longest_sum: int


# A row of a run is what one thread does at least; or one block of a program. The C engine keeps a row of sums for each
# such piece of the elements: they take a small part of the memory of these as long as a piece has many rows.
C = Engine("c", CLaunch, kernel, row_kernel, 32768, MEMORY, ROW_MEMORY, 2048)
TRITON = Engine("triton", TritonLaunch, TritonArrays, triton_row_kernel, 4096, TRITON_MEMORY, TRITON_ROW_MEMORY, 0)
COMPILED = {"cpu": C, "cuda": TRITON}  # by the type of the device
