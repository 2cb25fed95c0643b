"""What writing a program as text has in common, whatever the language; and the loops that a formula of rows takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import torch

from .math import FormulaError
from .trace import COMPARISONS, LEAVES, REDUCTIONS, Node, Program

Templates = dict[str, str]

OPERATORS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
OPERATORS |= {"eq": "==", "ne": "!="}
TEMPLATES: Templates = {operation: f"{{0}} {symbol} {{1}}" for operation, symbol in OPERATORS.items()}
VOCABULARY = ("exp", "expm1", "log", "log1p", "softplus", "tanh")

# Powers of elements to these are products, within a rounding for each factor: x^5 is (x x) (x x) x. (The others are the
# library's, within 1 ulp and ten times as slow.) Of a negative one the factors are 1 / x: a product of x might overflow
# where the power is a number.
SMALL_POWERS = (-3, -2, -1, 1, 2, 3, 4, 5)


class Writer:
    """Writes a program line by line: line k is the variable nk.

    What is the same for all elements of an item is computed once, in double, and what the loop over the elements needs
    of it is rounded to its dtype: `table` has these expressions, the loop has them as u0, u1, ...
    """

    engine: ClassVar[str]
    once: ClassVar[Templates]  # an operation once an item, in double precision, on operands {0}, {1}, ...
    double: ClassVar[Templates]  # the same for each element
    single: ClassVar[Templates]

    def __init__(self, program: Program, dtypes: tuple[torch.dtype, ...]) -> None:
        self.program, self.dtypes = program, dtypes
        self.formula, self.nodes = program.formula, program.nodes
        arrays = [dtype for column, dtype in enumerate(dtypes) if self.formula.kind(column) == "array"]
        self.is_double = torch.float64 in arrays
        self.table: list[str] = []

    def arrays(self) -> list[int]:
        """The array columns that the loop touches."""
        read = {node.operands[0] for node in self.nodes if node.operation == "array"}
        return [column for column in sorted(read | self.formula.written) if self.formula.kind(column) == "array"]

    def scalars(self) -> list[int]:
        """The columns of numbers that are read."""
        return [column for column, kind in enumerate(self.formula.columns) if kind == "scalar"]

    def stored(self, kind: str) -> list[tuple[int, int]]:
        """The columns of this kind that are stored, with the line that goes there."""
        pairs = zip(self.formula.stores, self.program.results, strict=True)
        return [(column, line) for column, line in pairs if self.formula.kind(column) == kind]

    def uniform(self, node: Node) -> str:
        """A value that is the same for all elements of an item, in double."""
        kind, operands = node.operation, node.operands
        if kind == "scalar":
            return f"s{operands[0]}"
        if kind == "hyper":
            return self.hyper(operands[0])
        if kind == "number":
            return self.literal(operands[0])
        return self._template(self.once, kind).format(*(f"n{operand}" for operand in operands))

    def elementwise(self, node: Node) -> str:
        """A value of each element."""
        kind, operands = node.operation, node.operands
        if kind == "array":
            column, remainder = operands[0], self.formula.remainder
            return f"{self.load(0)} + {self.load(remainder)}" if remainder and column == 0 else self.load(column)
        if kind == "div" and self.nodes[operands[1]].uniform:  # one division an item, not one an element
            return f"{self.operand(operands[0])} * u{self._place(f'1.0 / n{operands[1]}')}"
        templates = self.double if self.is_double else self.single
        if kind == "pow" and (exponent := small_power(self.nodes, node)):
            factor = self.operand(operands[0])
            if exponent < 0:
                one = f"u{self._place(self.literal((1.0).hex()))}"
                factor = f"({self._template(templates, 'div').format(one, factor)})"
            squares, rest = divmod(abs(exponent), 2)
            return " * ".join([f"({factor} * {factor})"] * squares + [factor] * rest)
        return self._template(templates, kind).format(*map(self.operand, operands))

    def operand(self, line: int) -> str:
        """A line as the loop over the elements uses it."""
        return f"u{self._place(f'n{line}')}" if self.nodes[line].uniform else f"n{line}"

    def load(self, column: int) -> str:
        """The element of a column."""
        raise NotImplementedError

    def hyper(self, number: int) -> str:
        """A number that is the same for all items."""
        raise NotImplementedError

    def literal(self, number: str) -> str:
        """A number, given in hexadecimal."""
        raise NotImplementedError

    def _template(self, templates: Templates, operation: str) -> str:
        if operation not in templates:
            raise FormulaError(f"{self.formula.name}: the {self.engine} engine does not know {operation!r}")
        return templates[operation]

    def _place(self, expression: str) -> int:
        if expression not in self.table:
            self.table.append(expression)
        return self.table.index(expression)


def small_power(nodes: Sequence[Node], node: Node) -> int:
    """The exponent of a power that is written as a product; 0 of another one."""
    exponent = nodes[node.operands[1]]
    number = float.fromhex(exponent.operands[0]) if exponent.operation == "number" else math.nan
    return int(number) if number in SMALL_POWERS else 0


class Loops:
    """The loops over a row that a program takes: one for each reduction of reductions, and one for the rest.

    Softmax takes three: the maximum; the sum of the exponentials; the quotients. `available` has, for each line, the
    first loop in which it can be computed; `last` is the number of the last loop.
    """

    def __init__(self, program: Program) -> None:
        self._program, self._nodes = program, program.nodes
        self.available: list[int] = []
        for node in program.nodes:
            earlier = [self.available[k] for k in node.operands] if node.operation not in LEAVES else []
            self.available.append(max(earlier, default=0) + (node.operation in REDUCTIONS))
        self.last = max(self.available, default=0)

    def reductions(self, loop: int) -> list[int]:
        """The lines that this loop reduces to."""
        return [
            line
            for line, node in enumerate(self._nodes)
            if node.operation in REDUCTIONS and self.available[line] == loop + 1
        ]

    def uniforms(self, loop: int) -> list[int]:
        """The lines, one number a row, that can be computed before this loop and not earlier."""
        return [
            line
            for line, node in enumerate(self._nodes)
            if node.uniform and self.available[line] == loop and node.operation not in REDUCTIONS
        ]

    def stored(self, loop: int) -> list[tuple[int, int]]:
        """The columns of arrays and sums that this loop stores, with the line that goes there."""
        formula = self._program.formula
        return [
            (column, line)
            for column, line in zip(formula.stores, self._program.results, strict=True)
            if formula.kind(column) in ("array", "sum") and self.stored_in(column, line) == loop
        ]

    def needed(self, roots: Iterable[int], is_there: Callable[[int], bool] = lambda line: False) -> list[int]:
        """The lines of each element that a loop computes for these, in order; `is_there` tells what need not be."""
        needed: set[int] = set()
        stack = list(roots)
        while stack:
            line = stack.pop()
            node = self._nodes[line]
            if line not in needed and not node.uniform:
                needed.add(line)
                is_leaf = node.operation in LEAVES or node.operation == "place" or is_there(line)
                stack.extend(() if is_leaf else node.operands)
        return sorted(needed)

    def stored_in(self, column: int, line: int) -> int:
        """The loop that stores a result: at once, or last if it overwrites what loops between may still read."""
        return self.last if column < len(self._program.formula.columns) else self.available[line]


def bases(count: int, interleaved: range) -> list[int]:
    """Those of so many columns that have a memory of their own: of interleaved ones, a, b, a, b, ..., the first."""
    return [column for column in range(count) if column not in interleaved[1:]]


def at(column: int, index: str, interleaved: range) -> tuple[int, str]:
    """In the memory of which column an element lies, and at which index there."""
    if column not in interleaved:
        return column, index
    return interleaved[0], f"{index} * {len(interleaved)} + {column - interleaved[0]}"


def is_comparison(node: Node) -> bool:
    """Whether a line is true or false."""
    return node.operation in COMPARISONS


def indented(lines: Iterable[str]) -> list[str]:
    """The lines of a block."""
    return ["    " + line for line in lines]
