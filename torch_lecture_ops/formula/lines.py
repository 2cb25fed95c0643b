"""A formula as lines, as on the slide: each a name and what it stands for, found by running the formula on terms.

The names are those that the formula itself gives to its intermediate values: what a local variable holds when the
function returns has its name, what has none is a part of the line that it occurs in.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from types import CodeType
from typing import Any, NamedTuple, TypeVar

from .math import FormulaError, Operand

T = TypeVar("T")
_order = count()


class Term(Operand):
    """A value as it is written: an operation and the terms it was computed from, or the leaf "name" or "number".

    `order` is larger than that of every term made before it. Besides what every operand knows, terms have // (for
    schedules, which count whole epochs).
    """

    __slots__ = ("operands", "operation", "order")

    def __init__(self, operation: str, *operands: Any) -> None:
        self.operation, self.operands, self.order = operation, operands, next(_order)

    def apply(self, operation: str, *operands: Any) -> Term:
        return Term(operation, *map(_term, operands))

    def __floordiv__(self, other: Any) -> Term:
        return self.apply("floordiv", self, other)

    def __rfloordiv__(self, other: Any) -> Term:
        return self.apply("floordiv", other, self)

    @property
    def is_leaf(self) -> bool:
        return self.operation in ("name", "number")


def _term(value: Any) -> Term:
    if isinstance(value, Term):
        return value
    if isinstance(value, (int, float)):
        return Term("number", float(value))
    raise FormulaError(f"a formula computes with its arguments and numbers, got {type(value).__name__}")


class Attributes:
    """An object each of whose attributes is a term of that name, but for those given."""

    def __init__(self, **given: Any) -> None:
        self.__dict__.update(given)

    def __getattr__(self, name: str) -> Term:
        if name.startswith("__"):
            raise AttributeError(name)
        self.__dict__[name] = term = Term("name", name)
        return term


def terms(function: Callable[..., Any]) -> dict[str, Any]:
    """A term for each argument of a function, by its name."""
    return {name: Term("name", name) for name in inspect.signature(function).parameters}


class Line(NamedTuple):
    """name = value. A term in the value that an earlier line defines, or that is an argument, stands in it by name."""

    name: str
    value: Term
    names: Mapping[Term, str]  # what terms are called when this line is computed


def lines(function: Callable[..., Any], arguments: Mapping[str, Any], results: Sequence[str]) -> list[Line]:
    """The lines of `function`, called with `arguments` by name, whose results are to be called `results`."""
    values, variables = run(function, arguments)
    return in_order(values, variables, arguments, results)


def run(function: Callable[..., Any], arguments: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The results of a formula, and what its variables held when it returned."""
    values, variables = watched(getattr(function, "__code__", None), lambda: function(**arguments))
    return values if isinstance(values, tuple) else (values,), variables


def watched(code: CodeType | None, call: Callable[[], T]) -> tuple[T, dict[str, Any]]:
    """What a call returns, and what the variables of the function with this code held when it returned last.

    In a thread of its own: a profiler that runs elsewhere cannot be set aside and put back (until Python 3.11,
    sys.setprofile does not take back what sys.getprofile returns under cProfile).
    """
    variables: dict[str, Any] = {}

    def see(frame: Any, event: str, argument: Any) -> None:
        if event == "return" and frame.f_code is code:
            variables.clear()
            variables.update(frame.f_locals)

    def run() -> T:
        sys.setprofile(see)
        try:
            return call()
        finally:
            sys.setprofile(None)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result(), variables


def in_order(
    values: Sequence[Any], variables: Mapping[str, Any], arguments: Mapping[str, Any], results: Sequence[str]
) -> list[Line]:
    """The lines that lead to the values, in the order in which they were computed.

    A value that is asked for under one name while it already bears another one gets a line of its own, and one that is
    needed after its name has gone to its successor is kept under another name first: v_before = v.
    """
    wanted = [(name, _term(value)) for name, value in zip(results, values, strict=True) if value is not None]
    found = [(name, value) for name, value in variables.items() if isinstance(value, Term)]
    named: dict[Term, str] = {}
    steps: list[tuple[str, Term]] = []
    # Of several names of a value that of an argument counts first, then that of a result.
    for name, term in sorted((*wanted, *found), key=lambda pair: (pair[0] not in arguments, pair[0] not in results)):
        if not term.is_leaf and term not in named:
            named[term] = name
            steps.append((name, term))
    needed = _reached(term for _, term in wanted)
    steps = sorted((step for step in steps if step[1] in needed), key=lambda step: step[1].order)
    steps += [(name, term) for name, term in wanted if named.get(term) != name and arguments.get(name) is not term]
    return _with_names(steps, named, variables, arguments)


def _reached(terms: Iterable[Term]) -> set[Term]:
    reached: set[Term] = set()
    stack = list(terms)
    while stack:
        term = stack.pop()
        if term not in reached:
            reached.add(term)
            if not term.is_leaf:
                stack.extend(term.operands)
    return reached


def _with_names(
    steps: list[tuple[str, Term]], named: dict[Term, str], variables: Mapping[str, Any], arguments: Mapping[str, Any]
) -> list[Line]:
    holder = {name: term for name, term in arguments.items() if isinstance(term, Term)}
    names = {term: name for name, term in holder.items()}
    done: list[Line] = []
    for number, (name, term) in enumerate(steps):
        old = holder.get(name)
        if old is not None and old in _reads(steps[number + 1 :], {**named, **names}):
            kept = next((n for n, v in variables.items() if v is old and n not in holder), f"{name}_before")
            done.append(Line(kept, old, dict(names)))
            holder[kept], names[old] = old, kept
        seen = dict(names)
        if old is not None and names[old] == name:
            del names[old]
        done.append(Line(name, term, seen))
        holder[name] = term
        names.setdefault(term, name)
    return done


def _reads(steps: Sequence[tuple[str, Term]], names: Mapping[Term, str]) -> set[Term]:
    """The terms that these steps take by their names."""
    read: set[Term] = set()
    for name, value in steps:
        is_copy = value.is_leaf or names.get(value, name) != name
        read.update([value] if is_copy else occurring(value, names))
    return read


def occurring(value: Term, names: Mapping[Term, str]) -> list[Term]:
    """The terms that stand by their names in what a value is computed from, as often as they do."""
    found: list[Term] = []
    stack = [] if value.is_leaf else list(value.operands)
    while stack:
        term = stack.pop()
        if term in names:
            found.append(term)
        elif not term.is_leaf:
            stack.extend(term.operands)
    return found
