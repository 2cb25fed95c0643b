"""Formulas with reductions over rows, on the Triton engine: a program takes a few short rows, or one long one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from .engine import EngineUnavailable, built_once
from .trace import Formula, Node, trace
from .triton_engine import ALIGNMENT, BLOCK, WARPS, Function, OnDevice, functions, is_aligned, with_hypers
from .triton_source import HEAD, TRITON_MEMORY, TritonWriter, block
from .writer import Loops, at, bases, indented

TRITON_ROW_MEMORY = TRITON_MEMORY | {torch.int64: "tl.int64", torch.uint8: "tl.uint8"}
WIDEST = 4 * BLOCK  # elements of a row that a program has in its registers

# Row i of column k begins tk elements after row i - 1, and the first one fk bytes after the address ak; the last row
# may be shorter. Sums of numbers over all rows are left in `totals`, program by program. ALIGNED elements can be loaded
# at once (0: one). That an integer is a multiple of it the compiler learns from a division: it forgets tl.multiple_of
# of an argument.
_ROWS = """
{decorator}
def run({parameters}ROWS: tl.constexpr, BLOCK: tl.constexpr, ALIGNED: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    lane = tl.arange(0, BLOCK)[None, :]
    is_row = i < rows
{bases}
    n = tl.where(i == rows - 1, last, length)
    if ALIGNED:
        n = n // ALIGNED * ALIGNED
{aligned}
{pointers}
{lines}
"""


class TritonRowKernel:
    """A formula for rows with columns of certain dtypes. Knows addresses, no tensors. See `RowKernel`."""

    def __init__(self, formula: Formula, dtypes: tuple[torch.dtype, ...], interleaved: range = range(0)) -> None:
        if "sum" in formula.outputs:
            raise EngineUnavailable("the Triton engine has no sums over rows")
        self._what = formula, dtypes, interleaved
        self._totals = sum(kind == "total" for kind in formula.outputs)
        places = enumerate(bases(len(dtypes), interleaved))
        arrays = [(place, dtypes[column]) for place, column in places if formula.kind(column) == "array"]
        self._arrays = [place for place, _ in arrays]
        self._vector = ALIGNMENT // min((dtype.itemsize for _, dtype in arrays), default=1)
        built_once(_function, *self._what, True, ())  # says at once if there is no Triton

    def prepare(
        self, shape: tuple[int, int, int], steps: Iterable[tuple[int, int]], device: torch.device
    ) -> Callable[..., Sequence[Tensor]]:
        """As `RowKernel.prepare`. The totals are numbers on the device, and the hypers may be."""
        _, length, last = shape
        block = min(max(1 << (length - 1).bit_length(), ALIGNMENT), WIDEST)
        tile = max(1, BLOCK // block), block
        steps = list(steps)
        strides, firsts = zip(*(steps[place] for place in self._arrays), strict=True) if self._arrays else ((), ())
        are_multiples = not any(size % self._vector for size in (length, last, *strides))
        aligned = self._vector if are_multiples and is_aligned(firsts) else 0
        return partial(self._call, device, shape, tile, [*chain.from_iterable(steps)], aligned)

    def _call(
        self,
        device: torch.device,
        shape: tuple[int, int, int],
        tile: tuple[int, int],
        steps: list[int],
        aligned: int,
        addresses: Iterable[int],
        hypers: Sequence[Any],
    ) -> Sequence[Tensor]:
        rows, block = tile
        programs = -(-shape[0] // rows)
        sums = torch.empty(programs, self._totals, dtype=torch.float64, device=device) if self._totals else None
        if programs:
            addresses = list(addresses)
            own = aligned if aligned and is_aligned(addresses[place] for place in self._arrays) else 0
            integers = [0 if sums is None else sums.data_ptr(), *shape, *addresses, *steps]
            on_device, arguments = with_hypers(integers, hypers)
            built_once(_function, *self._what, shape[1] <= block, on_device)(
                device,
                programs,
                arguments,
                (rows, block, own),
                num_warps=rows * block * WARPS // BLOCK,
            )
        return () if sums is None else (sums[0] if programs == 1 else sums.sum(0)).unbind()


def _function(
    formula: Formula, dtypes: tuple[torch.dtype, ...], interleaved: range, whole: bool, on_device: OnDevice
) -> Function:
    return Function(functions(TritonRowWriter(formula, dtypes, interleaved, whole, dict(on_device)).source())["run"])


def triton_row_kernel(
    formula: Formula, dtypes: tuple[torch.dtype, ...], interleaved: range = range(0)
) -> TritonRowKernel:
    """The kernel of a formula, see `built_once`."""
    return built_once(TritonRowKernel, formula, dtypes, interleaved)


class TritonRowWriter(TritonWriter):
    """Writes the kernel of a formula of rows. What is one number a row is a column of a block, the rest a block.

    `whole`: a block holds whole rows, else a program goes over its row block by block, once for each of the `Loops`.
    """

    memory = TRITON_ROW_MEMORY

    def __init__(
        self,
        formula: Formula,
        dtypes: tuple[torch.dtype, ...],
        interleaved: range = range(0),
        whole: bool = False,
        on_device: Mapping[int, torch.dtype] | None = None,
    ) -> None:
        super().__init__(trace(formula), dtypes, (), on_device)
        self.interleaved, self.whole, self.loops = interleaved, whole, Loops(self.program)
        self.bases = bases(len(dtypes), interleaved)

    def source(self) -> str:
        steps = chain.from_iterable((f"t{column}", f"f{column}") for column in self.bases)
        integers = ["totals", "rows", "length", "last", *(f"a{column}" for column in self.bases), *steps]
        pointers = [f"c{column} += i * t{column}" for column in self.bases]
        aligned = []
        for column in self.arrays_in_memory():
            aligned.append(f"    c{column} = tl.multiple_of(c{column}, 16)")
            aligned.append(f"    t{column} = t{column} // ALIGNED * ALIGNED")
        lines = self.hypers()
        for column in self.scalars():
            lines.append(f"s{column} = tl.load(c{column}, mask=is_row, other=0).to(tl.float64)")
        for loop in range(self.loops.last + 1):
            lines += [f"n{line} = {self.uniform(self.nodes[line])}" for line in self.loops.uniforms(loop)]
            lines += self._loop(loop)
        for column, line in self.stored("scalar"):
            lines.append(f"tl.store(c{column}, (n{line}).to({self.memory[self.dtypes[column]]}), mask=is_row)")
        totals = self.stored("total")
        for place, (_, line) in enumerate(totals):
            own = f"totals.to(tl.pointer_type(tl.float64)) + tl.program_id(0) * {len(totals)} + {place}"
            lines.append(f"tl.store({own}, tl.sum(tl.where(is_row, n{line}, 0.0)))")
        return HEAD + _ROWS.format(
            **self.signature(integers),
            bases=block([self._pointer(column, f"(a{column} + f{column})") for column in self.bases]),
            pointers=block(pointers),
            aligned=block(aligned),
            lines=block(lines),
        )

    def arrays_in_memory(self) -> list[int]:
        """The columns in memory that hold something for each element."""
        return [column for column in self.bases if self.formula.kind(column) == "array"]

    def _loop(self, loop: int) -> list[str]:
        """The loop in which reductions and results are computed that cannot come earlier."""
        reductions, stored = self.loops.reductions(loop), self.loops.stored(loop)
        roots = [self.nodes[line].operands[0] for line in reductions] + [line for _, line in stored]
        if not roots:
            return []
        seen = len(self.table)
        body = [f"n{line} = {self.elementwise(self.nodes[line])}" for line in self.loops.needed(roots)]
        before, after = [], []
        for line in reductions:
            x = self.operand(self.nodes[line].operands[0])
            if self.nodes[line].operation == "row_sum":
                before.append(f"r{line} = tl.zeros([ROWS, BLOCK], tl.float64)")
                body.append(f"r{line} += tl.where(mask, ({x}).to(tl.float64), 0.0)")
                after.append(f"n{line} = tl.sum(r{line}, 1)[:, None]")
            else:
                before.append(f"r{line} = tl.full([ROWS, BLOCK], -float('inf'), {self.real})")
                before.append(f"bad{line} = tl.zeros([ROWS, BLOCK], tl.int32)")
                body.append(f"r{line} = tl.where(mask & ({x} > r{line}), {x}, r{line})")
                body.append(f"bad{line} = tl.where(mask & ({x} != {x}), 1, bad{line})")
                after.append(f"bad{line} = tl.max(bad{line}, 1)[:, None] > 0")
                after.append(f"n{line} = tl.where(bad{line}, float('nan'), tl.max(r{line}, 1)[:, None]).to(tl.float64)")
        for column, line in stored:
            body += self.store(column, self.operand(line))
        uniforms = [f"u{place} = ({self.table[place]}).to({self.real})" for place in range(seen, len(self.table))]
        body = ["mask = is_row & (j < n)", *body]
        if self.whole:  # the compiler finds what loops have in common: it is loaded and computed once
            body = ["j = lane", *body]
        else:
            body = ["for k in range(0, length, BLOCK):", *indented(["j = k + lane", *body])]
        return [*uniforms, *before, *body, *after]

    def uniform(self, node: Node) -> str:
        if node.operation != "entry":
            return super().uniform(node)
        (column,), place = self.nodes[node.operands[0]].operands, f"n{node.operands[1]}"
        inside = f"is_row & ({place} >= 0) & ({place} < n)"
        pointers = self.pointers(column, f"(tl.zeros([ROWS, 1], tl.int64) + ({place}).to(tl.int64))")
        return f'tl.load({pointers}, mask={inside}, other=float("nan")).to(tl.float64)'

    def elementwise(self, node: Node) -> str:
        return f"j.to({self.real})" if node.operation == "place" else super().elementwise(node)

    def load(self, column: int) -> str:
        return f"tl.load({self.pointers(column)}, mask=mask, other=0).to({self.real})"

    def pointers(self, column: int, index: str = "j") -> str:
        base, index = at(column, index, self.interleaved)
        return f"c{base} + {index}"

    def store(self, column: int, value: str) -> list[str]:
        return [f"tl.store({self.pointers(column)}, ({value}).to({self.memory[self.dtypes[column]]}), mask=mask)"]
