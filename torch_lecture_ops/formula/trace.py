"""Run a formula once on symbols: what comes out is its straight-line program."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .math import Double, FormulaError, Operand, on_numbers

Kind = str  # "array", "scalar", "total" or "sum"


class Untraceable(FormulaError):
    """A formula uses something that only tensors know: no mistake as such, but it runs on the loop engine alone."""


@dataclass(frozen=True, eq=False)
class Formula:
    """A pure function together with what its arguments are and where its results go.

    `function(*columns, **hypers)` returns as many results as `stores` names columns. An engine runs it over many
    items (the tensors of a parameter list) at once; column k holds argument k of every item.

    Arguments:
        function: the formula; it knows neither device, dtype nor shape.
        columns: for each column it reads, "array" (elementwise) or "scalar" (one number an item, such as the step t).
        stores: for each result, the column it is stored in; a column after those read is a fresh output.
        outputs: what the fresh outputs are, if not all "array". A "total" is the sum of a number over all items; a
            "sum" has the sum over all rows for each place of a row (C engine).
        hypers: names of the numbers that are the same for all items (lr, eps, ...).
        name: whose formula it is, for error texts.
        remainder: the column that holds what rounding took from column 0, or None. The function does not see it: its
            first argument is the sum of both, and what the dtype of column 0 cannot hold of its new value goes into
            the remainder (Kahan's compensated summation). It is the last column.
    """

    function: Callable[..., Any]
    columns: tuple[Kind, ...]
    stores: tuple[int, ...]
    hypers: tuple[str, ...] = ()
    name: str = "formula"
    remainder: int | None = None
    outputs: tuple[Kind, ...] = ()

    def __call__(self, columns: tuple[Any, ...], hypers: tuple[Any, ...]) -> tuple[Any, ...]:
        """The results for one item, with the number of them checked. A FormulaError names the formula."""
        try:
            results = self._results(columns, hypers)
        except FormulaError as error:
            raise FormulaError(f"{self.name}: {error}") from None
        if len(results) != len(self.stores):
            raise FormulaError(f"{self.name}: the formula must return {len(self.stores)} results, got {len(results)}")
        for result in results:
            if not isinstance(result, (int, float, Tensor, Operand)):
                raise FormulaError(f"{self.name}: {_not_an_operand(result)}")
        return results

    def _results(self, columns: tuple[Any, ...], hypers: tuple[Any, ...]) -> tuple[Any, ...]:
        """With numbers as IEEE 754 has them: nearly always as Python has them; where that fails, once more as Doubles.

        It fails by an exception or, in powers, by complex numbers, with which most operations raise something.
        """
        try:
            results = self._evaluate(columns, hypers)
            if not any(map(_is_complex, results)) or any(map(_is_complex, columns)):
                return results
        except FormulaError:
            raise
        except Exception:
            if not any(map(_is_number, (*columns, *hypers))):
                raise
        return self._evaluate(map(_as_double, columns), map(_as_double, hypers))

    def _evaluate(self, columns: Iterable[Any], hypers: Iterable[Any]) -> tuple[Any, ...]:
        results = self.function(*columns, **dict(zip(self.hypers, hypers, strict=True)))
        return results if isinstance(results, tuple) else (results,)

    @property
    def written(self) -> frozenset[int]:
        """The columns that running the formula writes."""
        return frozenset(self.stores if self.remainder is None else (*self.stores, self.remainder))

    def kind(self, column: int) -> Kind:
        """What a column holds."""
        if column < len(self.columns):
            return self.columns[column]
        return self.outputs[column - len(self.columns)] if self.outputs else "array"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _as_double(value: Any) -> Any:
    return Double(value) if _is_number(value) else value


def _is_complex(value: Any) -> bool:
    return isinstance(value, complex) or (hasattr(value, "is_complex") and value.is_complex())


COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
REDUCTIONS = ("row_sum", "row_max")


class Symbol(Operand):
    """A value of the trace: an operation and the symbols it was computed from.

    `uniform` tells a value that is the same for all elements of an item. It is computed once, in double.
    """

    __slots__ = ("operands", "operation", "uniform")

    def __init__(self, operation: str, operands: tuple[Any, ...], uniform: bool) -> None:
        self.operation, self.operands, self.uniform = operation, operands, uniform

    def apply(self, operation: str, *operands: Any) -> Symbol:
        symbols = tuple(map(_symbol, operands))
        if operation not in ("where", "mul") and any(symbol.operation in COMPARISONS for symbol in symbols):
            raise FormulaError(f"a comparison goes into where(...) or is multiplied, it has no {operation!r}")
        uniform = all(symbol.uniform for symbol in symbols)
        if operation in REDUCTIONS or operation == "place":
            if uniform:
                raise FormulaError(f"{operation} needs what differs from element to element")
            return Symbol(operation, symbols, operation in REDUCTIONS)
        if operation == "entry":
            x, j = symbols
            if x.operation != "array" or not j.uniform:
                raise FormulaError("entry needs an argument of the formula, whose elements differ, and one place a row")
            return Symbol(operation, symbols, uniform=True)
        return Symbol(operation, symbols, uniform)

    def __repr__(self) -> str:
        return f"{self.operation}({', '.join(map(repr, self.operands))})"


def _symbol(value: Any) -> Symbol:
    if isinstance(value, Symbol):
        return value
    if isinstance(value, (int, float)):
        return Symbol("number", (float(value).hex(),), uniform=True)  # as text: 0.0 and -0.0 differ
    if isinstance(value, Tensor):
        raise FormulaError("a formula cannot use a tensor from outside; pass it as an argument")
    raise FormulaError(_not_an_operand(value))


def _not_an_operand(value: Any) -> str:
    return f"a formula computes with its arguments and numbers, got {type(value).__name__}"


@dataclass(frozen=True)
class Node:
    """One line of a program: an operation on earlier lines (by their numbers).

    Leaves are "array", "scalar" and "hyper" (operand: which one) and "number" (operand: its value,
    in hexadecimal).
    """

    operation: str
    operands: tuple[Any, ...]
    uniform: bool


LEAVES = ("array", "scalar", "hyper", "number")


@dataclass(frozen=True)
class Program:
    """A traced formula: every value computed once, in order; `results` are the numbers of the lines to be stored."""

    formula: Formula
    nodes: tuple[Node, ...]
    results: tuple[int, ...]

    def reads(self) -> tuple[frozenset[int], ...]:
        """The columns that each result is computed from."""
        of_line: list[frozenset[int]] = []
        for node in self.nodes:
            if node.operation in LEAVES:
                of_line.append(frozenset(node.operands if node.operation in ("array", "scalar") else ()))
            else:
                of_line.append(frozenset().union(*(of_line[line] for line in node.operands)))
        return tuple(of_line[line] for line in self.results)

    def scalars(self, given: Mapping[int, float], hypers: Sequence[Any]) -> dict[int, float]:
        """The results that go to scalar columns, by column, from the scalars that are given, by column."""
        values: dict[int, float] = {}
        leaves: dict[str, Callable[[Any], float]] = {
            "scalar": given.__getitem__,
            "hyper": lambda number: float(hypers[number]),
            "number": float.fromhex,
        }
        pairs = zip(self.formula.stores, self.results, strict=True)
        results = {column: line for column, line in pairs if self.formula.kind(column) == "scalar"}
        stack = list(results.values())
        while stack:
            node = self.nodes[stack[-1]]
            pending = [] if node.operation in LEAVES else [line for line in node.operands if line not in values]
            if pending:
                stack.extend(pending)
                continue
            line = stack.pop()
            if node.operation in LEAVES:
                values[line] = leaves[node.operation](node.operands[0])
            else:
                values[line] = on_numbers(node.operation, *(values[operand] for operand in node.operands))
        return {column: values[line] for column, line in results.items()}


def trace(formula: Formula) -> Program:
    """The program of a formula; a FormulaError names the formula and says what cannot be traced in it."""
    seen = formula.columns[: formula.remainder]
    columns = tuple(Symbol(kind, (k,), uniform=kind == "scalar") for k, kind in enumerate(seen))
    hypers = tuple(Symbol("hyper", (k,), uniform=True) for k in range(len(formula.hypers)))
    try:
        results = tuple(map(_symbol, formula(columns, hypers)))
        for column, result in zip(formula.stores, results, strict=True):
            if formula.kind(column) not in ("array", "sum") and not result.uniform:
                raise FormulaError(f"result for column {column} must be one number an item, got one an element")
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        text = str(error).removeprefix(f"{formula.name}: ")
        raise (FormulaError if isinstance(error, FormulaError) else Untraceable)(
            f"{formula.name}: the formula cannot be traced: {text} (a formula uses + - * / **, comparisons and the "
            "functions of torch_lecture_ops.formula)"
        ) from error
    return _flatten(formula, results)


def _flatten(formula: Formula, results: tuple[Symbol, ...]) -> Program:
    nodes: dict[Node, int] = {}  # equal lines are the same line
    line_of: dict[int, int] = {}  # id(symbol) -> line; the symbols live as long as `results`
    stack = list(reversed(results))
    while stack:  # not recursive: a formula may be deeper than Python's stack
        symbol = stack[-1]
        pending = []
        if symbol.operation not in LEAVES:
            pending = [operand for operand in symbol.operands if id(operand) not in line_of]
        if pending:
            stack.extend(reversed(pending))
            continue
        stack.pop()
        operands = symbol.operands
        if symbol.operation not in LEAVES:
            operands = tuple(line_of[id(operand)] for operand in operands)
        line_of[id(symbol)] = nodes.setdefault(Node(symbol.operation, operands, symbol.uniform), len(nodes))
    return Program(formula, tuple(nodes), tuple(line_of[id(result)] for result in results))
