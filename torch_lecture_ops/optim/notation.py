"""A rule as it is written elsewhere: in LaTeX like the slide, in JavaScript as a plain function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..formula import Formula
from ..formula.javascript import JavaScript, function_of, identifier, literal, statements
from ..formula.latex import Latex, taken, written
from ..formula.lines import Line, Term, in_order, lines, terms, watched
from ..formula.writer import indented
from .rule import STEP, Buffer, Group, Rule, hypers


class Step(NamedTuple):
    """The step of a group in lines; p and the state afterwards by their letters; the values of its numbers."""

    lines: list[Line]
    results: dict[str, Term]
    numbers: dict[str, Any]

    @property
    def state(self) -> tuple[str, ...]:
        """The letters of the state that it keeps."""
        return tuple(name for name in self.results if name != "p")


def step_of(rule: Rule, group: Group, letters: Mapping[Buffer, str], first: bool = False) -> Step:
    """The step as a group asks for it. Kahan's compensation, of which the rule knows nothing, is not in it."""
    update = rule.update(group, first)
    known = {**letters, STEP: "t"}
    state = tuple(known[buffer] for buffer in update.buffers if buffer in known)
    numbers = dict(zip(update.formula.hypers, hypers(update.formula, group), strict=True))
    arguments = {name: Term("name", name) for name in ("p", "g", *state, *numbers)}
    columns = [arguments[name] for name in ("p", "g", *state)]
    values, variables = watched(
        rule.function.__code__,
        lambda: update.formula.function(*columns, **{name: arguments[name] for name in numbers}),
    )
    results = dict(zip(("p", *state), values, strict=True))
    return Step(in_order(values, variables, arguments, tuple(results)), results, numbers)


def latex(rule: Rule, group: Group, letters: Mapping[Buffer, str]) -> Latex:
    """The lines of a step; before them, where the first step is another, what is so only there."""
    step = step_of(rule, group, letters)
    always = written(_without_count(step.lines))
    if not rule.asks_first:
        return always
    first = step_of(rule, group, letters, first=True)
    differs = {name for name in step.state if not _alike(step.results[name], first.results[name], {})}
    values = {step.results[name]: first.results[name] for name in differs}
    if not _alike(step.results["p"], first.results["p"], values):
        differs.add("p")
    at_first = written([line for line in first.lines if line.name in differs or line.name not in first.results])
    return Latex((*(rf"{line} \quad \text{{at first}}" for line in at_first if line not in always), *always))


def _without_count(lines: list[Line]) -> list[Line]:
    """The lines without the counting of steps, if nothing depends on it."""
    others = [line for line in lines if line.name != "t"]
    return lines if any("t" in map(line.names.get, taken(line)) for line in others) else others


def _alike(term: Term, other: Term, values: Mapping[Term, Term]) -> bool:
    """Whether two values are computed alike, if certain terms of the first stand for terms of the second."""
    if term in values:
        return values[term] is other
    if term.operation != other.operation or len(term.operands) != len(other.operands):
        return False
    if term.is_leaf:
        return term.operands == other.operands
    return all(_alike(a, b, values) for a, b in zip(term.operands, other.operands, strict=True))


def javascript(name: str, rule: Rule, group: Group, letters: Mapping[Buffer, str]) -> str:
    """The step of one element: ({p, g and the state, by letter}, {numbers}) -> {p and the state}."""
    step = step_of(rule, group, letters)
    known = ("p", "g", *step.state, *step.numbers)
    body = statements(step.lines, known)
    starts: dict[str, Any] = {letter: _start(buffer, group) for buffer, letter in letters.items()} | {"t": 0.0}
    if rule.asks_first and step.state:  # then the state has no value at first, by which that is known
        at_first = statements(step_of(rule, group, letters, first=True).lines, known)
        body = [f"if ({step.state[0]} === undefined) {{", *indented(at_first), "} else {", *indented(body), "}"]
        starts = {}
    state = _with_defaults({letter: starts.get(letter) for letter in known if letter not in step.numbers})
    numbers = _with_defaults(step.numbers)
    return function_of(name, (f"{{{state}}}", f"{{{numbers}}} = {{}}"), body, f"{{{', '.join(step.results)}}}")


def value_in_javascript(formula: Formula, group: Group) -> str:
    """A formula of one element, (p and the state by letter, numbers), as a function without a name: its value."""
    numbers = dict(zip(formula.hypers, hypers(formula, group), strict=True))
    arguments = terms(formula.function)
    letters = ", ".join(name if name == "p" else f"{name} = 0" for name in arguments if name not in numbers)
    (line,) = lines(formula.function, arguments, ("p",))
    return function_of("", (f"{{{letters}}}", f"{{{_with_defaults(numbers)}}} = {{}}"), (), JavaScript().value(line))


def _start(buffer: Buffer, group: Group) -> float:
    return group[buffer.initial] if isinstance(buffer.initial, str) else buffer.initial


def _with_defaults(values: Mapping[str, Any]) -> str:
    """Arguments as they stand in an object; None for one without a default."""
    return ", ".join(identifier(name) + ("" if v is None else f" = {literal(float(v))}") for name, v in values.items())
