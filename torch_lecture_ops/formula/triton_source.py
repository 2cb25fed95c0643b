"""Write a program as Triton: one kernel, all reads, the arithmetic in registers, all writes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch

from .trace import Node, Program
from .writer import TEMPLATES, VOCABULARY, Writer, indented, is_comparison

# How Triton calls what lies in memory. Half types are computed with in float32.
TRITON_MEMORY = {
    torch.float32: "tl.float32",
    torch.float64: "tl.float64",
    torch.float16: "tl.float16",
    torch.bfloat16: "tl.bfloat16",
}

# The negative of 0 is -0, which 0 - x is not. A comparison is a number, 0 or 1, as in C.
_TEMPLATES = TEMPLATES | {
    "neg": "{0} * -1.0",
    "abs": "tl.abs({0})",
    "where": "tl.where({0} != 0, {1}, {2})",
    "maximum": "m.maximum({0}, {1})",
    "minimum": "m.minimum({0}, {1})",
}
_DOUBLE = _TEMPLATES | {name: f"m.{name}_double({{0}})" for name in VOCABULARY} | {"pow": "m.pow_double({0}, {1})"}
_DOUBLE |= {"exp": "tl.exp({0})", "log": "tl.log({0})", "sqrt": "tl.sqrt({0})"}
# Triton's own / and sqrt of float32 are approximations.
_FLOAT = _TEMPLATES | {name: f"m.{name}_float({{0}})" for name in VOCABULARY} | {"pow": "m.pow_float({0}, {1})"}
_FLOAT |= {"div": "tl.div_rn({0}, {1})", "sqrt": "tl.sqrt_rn({0})"}

HEAD = """\
import triton
import triton.language as tl
from torch_lecture_ops.formula import triton_math as m
"""

# Elements start..end of one item: whole blocks, whose loads are vectors, and what is left.
_SPAN = """
@triton.jit
def elements({columns}{uniforms}j, mask, MASKED: tl.constexpr):
{elements}

@triton.jit
def span({columns}{uniforms}start, end, BLOCK: tl.constexpr):
    lane = tl.arange(0, BLOCK)
    whole = start + (end - start) // BLOCK * BLOCK
    for k in range(start, whole, BLOCK):
        elements({columns}{uniforms}k + lane, lane < BLOCK, False)
    if whole < end:
        elements({columns}{uniforms}whole + lane, whole + lane < end, True)
"""

# A program takes CHUNK elements of one item. The table `chunks` has for each program its item and where it starts, and
# then for each item how many elements it has; column k of item i begins at addresses[k * items + i]. An item's numbers
# are read by all of its programs: the last one to have read them, which `done` tells, writes the new ones. All threads
# of a program have read before the barrier, and one counts it after.
_ITEMS = """
{decorator}
def run({parameters}CHUNK: tl.constexpr, BLOCK: tl.constexpr, ALIGNED: tl.constexpr):
    table = chunks.to(tl.pointer_type(tl.int64))
    item = tl.load(table + tl.program_id(0))
    start = tl.multiple_of(tl.load(table + programs + tl.program_id(0)), CHUNK)
    size = tl.load(table + 2 * programs + item)
    column = addresses.to(tl.pointer_type(tl.int64)) + item
{loads}
    if ALIGNED:
        pass  # a formula may touch no array
{aligned}
{lines}
    span({columns}{uniforms}start, tl.minimum(start + CHUNK, size), BLOCK)
{stores}
"""

_STORES = """\
    tl.debug_barrier()
    count = done.to(tl.pointer_type(tl.int32)) + item
    if tl.atomic_add(count, 1, sem="acq_rel") == tl.maximum(tl.cdiv(size, CHUNK), 1) - 1:
        tl.store(count, 0)
"""

# The same for a single item of arrays alone, whose columns begin at a0, a1, ...
_ONE = """
{decorator}
def run_one({parameters}BLOCK: tl.constexpr, ALIGNED: tl.constexpr):
{loads}
    if ALIGNED:
        pass  # a formula may touch no array
{aligned}
{lines}
    start = tl.program_id(0).to(tl.int64) * BLOCK
    span({columns}{uniforms}start, tl.minimum(start + BLOCK, size), BLOCK)
"""


class TritonWriter(Writer):
    """Writes Triton. Every argument is a number: an address, a size, or a number of the formula.

    Arguments:
        program, dtypes: what to write, for columns of these dtypes.
        on_host: the columns of numbers that come as arguments, since they do not lie on the device.
        on_device: the hypers that come as addresses, since they do, with their dtypes.
    """

    engine, once, double, single = "Triton", _DOUBLE, _DOUBLE, _FLOAT
    memory = TRITON_MEMORY

    def __init__(
        self,
        program: Program,
        dtypes: tuple[torch.dtype, ...],
        on_host: Collection[int] = (),
        on_device: Mapping[int, torch.dtype] | None = None,
    ) -> None:
        super().__init__(program, dtypes)
        self.on_host, self.on_device = on_host, on_device or {}
        self.real = "tl.float64" if self.is_double else "tl.float32"

    def source(self) -> str:
        """`run`, and `run_one` if there are arrays alone."""
        elements = block(self._elements())  # adds to the table
        names = {
            "columns": "".join(f"c{column}, " for column in self.arrays()),
            "uniforms": "".join(f"u{place}, " for place in range(len(self.table))),
        }
        text = HEAD + _SPAN.format(elements=elements, **names) + self._run(names)
        return text if self.scalars() or self.stored("scalar") else text + self._run_one(names)

    def _run(self, names: Mapping[str, str]) -> str:
        loads = [self._pointer(column, f"tl.load(column + {column} * items)") for column in self.arrays()]
        stores = []
        for column in self.scalars():
            if column in self.on_host:
                loads.append(f"s{column} = m.number(a{column})")
            else:
                loads.append(self._pointer(column, f"tl.load(column + {column} * items)"))
                loads.append(f"s{column} = tl.load(c{column}).to(tl.float64)")
        for column, line in self.stored("scalar"):
            if column not in self.on_host:
                stores.append(f"    tl.store(c{column}, n{line})")
        numbers = [f"a{column}" for column in self.scalars() if column in self.on_host]
        return _ITEMS.format(
            **self.signature(["chunks", "addresses", "done", "programs", "items"], numbers),
            loads=block(loads),
            stores=_STORES + block(stores) if stores else "",
            **self._body(names),
        )

    def _run_one(self, names: Mapping[str, str]) -> str:
        places = [f"a{column}" for column in range(len(self.dtypes))]
        loads = [self._pointer(column, f"a{column}") for column in self.arrays()]
        return _ONE.format(**self.signature(["size", *places]), loads=block(loads), **self._body(names))

    def _body(self, names: Mapping[str, str]) -> dict[str, str]:
        lines = [*self.hypers(), *self._uniforms()]
        lines += [f"u{place} = ({expression}).to({self.real})" for place, expression in enumerate(self.table)]
        aligned = [f"    c{column} = tl.multiple_of(c{column}, 16)" for column in self.arrays()]
        return {"lines": block(lines), "aligned": block(aligned), **names}

    def signature(self, integers: Sequence[str], numbers: Sequence[str] = ()) -> dict[str, str]:
        """The parameters of a kernel: integers, addresses of hypers among them; numbers, and the other hypers.

        Triton is not to look at their values, lest it builds a kernel anew for some of them.
        """
        hypers = range(len(self.formula.hypers))
        integers = [*integers, *(f"g{number}" for number in hypers if number in self.on_device)]
        numbers = [*numbers, *(f"g{number}" for number in hypers if number not in self.on_device)]
        types = [f'{name}: "i64", ' for name in integers] + [f'{name}: "fp64", ' for name in numbers]
        return {
            "parameters": "".join(types),
            "decorator": f"@triton.jit(do_not_specialize={[*integers, *numbers]})",
        }

    def hypers(self) -> list[str]:
        """The hypers in double, h0, h1, ..."""
        lines = []
        for number in range(len(self.formula.hypers)):
            value = f"m.number(g{number})"
            if number in self.on_device:
                memory = self.memory[self.on_device[number]]
                value = f"tl.load(g{number}.to(tl.pointer_type({memory}))).to(tl.float64)"
            lines.append(f"h{number} = {value}")
        return lines

    def _pointer(self, column: int, address: str) -> str:
        return f"c{column} = {address}.to(tl.pointer_type({self.memory[self.dtypes[column]]}))"

    def _uniforms(self) -> list[str]:
        return [f"n{line} = {self.uniform(node)}" for line, node in enumerate(self.nodes) if node.uniform]

    def _elements(self) -> list[str]:
        lines = [f"n{line} = {self.elementwise(node)}" for line, node in enumerate(self.nodes) if not node.uniform]
        for column, line in self.stored("array"):
            lines += self.store(column, self.operand(line))
        return lines

    def uniform(self, node: Node) -> str:
        return _as_number(node, super().uniform(node), "tl.float64")

    def elementwise(self, node: Node) -> str:
        return _as_number(node, super().elementwise(node), self.real)

    def hyper(self, number: int) -> str:
        return f"h{number}"

    def literal(self, number: str) -> str:
        value = float.fromhex(number)
        text = repr(value) if value - value == 0 else f'float("{value}")'
        return f"tl.full((), {text}, tl.float64)"

    def load(self, column: int) -> str:
        return f"m.load({self.pointers(column)}, mask, MASKED).to({self.real})"

    def pointers(self, column: int, index: str = "j") -> str:
        """Where the elements of a column lie."""
        return f"c{column} + {index}"

    def store(self, column: int, value: str) -> list[str]:
        """The lines that store a value, and what rounding took from it if that is kept."""
        memory, remainder = self.memory[self.dtypes[column]], self.formula.remainder
        lines = [f"v{column} = ({value}).to({memory})"]
        lines.append(f"m.store({self.pointers(column)}, v{column}, mask, MASKED)")
        if column == 0 and remainder is not None:
            lines.append(f"left = {value} - v0.to({self.real})")  # infinite or NaN with the value: nothing is left
            lines += self.store(remainder, "tl.where(left - left == 0, left, 0.0)")
        return lines


def _as_number(node: Node, expression: str, real: str) -> str:
    return f"({expression}).to({real})" if is_comparison(node) else expression


def block(lines: Sequence[str]) -> str:
    """The text of an indented block."""
    return "\n".join(indented(lines))
