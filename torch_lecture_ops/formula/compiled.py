"""Which engine compiles for which devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from .c_engine import CLaunch, kernel
from .c_rows import row_kernel
from .launch import Launch
from .trace import Formula
from .triton_engine import TritonArrays, TritonLaunch
from .triton_rows import triton_row_kernel


class Engine(NamedTuple):
    """A compiling engine, by its parts.

    Arguments:
        name: how an optimizer calls it.
        launch: what runs a formula over lists of tensors, again and again.
        arrays: the kernel of a formula of arrays, for tensors that lie alike: what has `run_arrays`.
        rows: the kernel of a formula of rows: what has `prepare`.
        grain: how many elements of a long, plain run of memory one row should have.
    """

    name: str
    launch: type[Launch]
    arrays: Callable[[Formula, tuple[torch.dtype, ...]], Any]
    rows: Callable[[Formula, tuple[torch.dtype, ...], range], Any]
    grain: int


C = Engine("c", CLaunch, kernel, row_kernel, 32768)  # what one thread does at least
TRITON = Engine("triton", TritonLaunch, TritonArrays, triton_row_kernel, 4096)  # one block of a program
COMPILED = {"cpu": C, "cuda": TRITON}  # by the type of the device
