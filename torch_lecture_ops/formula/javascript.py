"""Formulas in JavaScript, as plain functions that compute in double precision."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from .lines import Line, in_order, run, terms
from .notation import ATOM, COMPARISON, NEGATIVE, POWER, PRODUCT, SUM, Notation, Pattern
from .trace import COMPARISONS
from .writer import OPERATORS, indented

# Python's names that JavaScript keeps for itself.
RESERVED = {
    "arguments", "case", "catch", "const", "debugger", "default", "delete", "do", "enum", "eval", "export", "extends",
    "false", "function", "implements", "instanceof", "interface", "let", "new", "null", "package", "private",
    "protected", "public", "static", "super", "switch", "this", "throw", "true", "typeof", "undefined", "var", "void",
}  # fmt: skip


def _call(name: str, operands: int = 1) -> Pattern:
    places = ", ".join(f"{{{place}}}" for place in range(operands))
    return Pattern(f"Math.{name}({places})", ATOM, (COMPARISON,) * operands)


class JavaScript(Notation):
    """Operators, and the functions of Math."""

    language = "JavaScript"
    patterns = {
        "add": Pattern("{0} + {1}", SUM, (SUM, PRODUCT)),
        "sub": Pattern("{0} - {1}", SUM, (SUM, PRODUCT)),
        "neg": Pattern("-{0}", NEGATIVE, (ATOM,)),
        "mul": Pattern("{0} * {1}", PRODUCT, (NEGATIVE, POWER)),
        "div": Pattern("{0} / {1}", PRODUCT, (NEGATIVE, POWER)),
        "floordiv": Pattern("Math.floor({0} / {1})", ATOM, (PRODUCT, POWER)),
        "pow": Pattern("{0} ** {1}", POWER, (ATOM, ATOM)),
        "log": _call("log"),
        "softplus": Pattern("(Math.max({0}, 0) + Math.log1p(Math.exp(-Math.abs({0}))))", ATOM, (COMPARISON,)),
        "maximum": _call("max", 2),
        "minimum": _call("min", 2),
        "where": Pattern("({0} ? {1} : {2})", ATOM, (COMPARISON, COMPARISON, COMPARISON)),
    }
    patterns |= {name: _call(name) for name in ("sqrt", "exp", "expm1", "log1p", "tanh", "abs")}
    patterns |= {
        operation: Pattern(f"{{0}} {sign} {{1}}", COMPARISON, (SUM, SUM))
        for operation, sign in {**OPERATORS, "eq": "===", "ne": "!=="}.items()
        if operation in COMPARISONS
    }

    def name(self, name: str) -> tuple[str, int]:
        return identifier(name), ATOM

    def number(self, number: float) -> str:
        if number != number:
            return "NaN"
        return "Infinity" if number == float("inf") else repr(number).removesuffix(".0")


def identifier(name: str) -> str:
    """A name as JavaScript takes it."""
    return f"{name}_" if name in RESERVED else name


def literal(number: float) -> str:
    """A number as JavaScript takes it."""
    return f"-{literal(-number)}" if number < 0 else JavaScript().number(float(number))


def statements(of_lines: Iterable[Line], declared: Iterable[str] = ()) -> list[str]:
    """Lines of a formula as statements; names that are not declared yet are, where they are first set."""
    notation, known = JavaScript(), set(declared)
    done = []
    for line in of_lines:
        done.append(f"{'' if line.name in known else 'let '}{identifier(line.name)} = {notation.value(line)};")
        known.add(line.name)
    return done


def javascript(function: Callable[..., Any], name: str | None = None) -> str:
    """A formula as the text of a JavaScript function of the same arguments.

    It returns the result, or an array of several. Keyword-only arguments are taken from an object, after the others.

    Arguments:
        function: a formula of elements, not of rows.
        name: of the JavaScript function; None for that of the Python function.

    Raises:
        FormulaError: the function computes with what a formula, or JavaScript, does not have.

    >>> from torch_lecture_ops.formula import exp
    >>> def silu(x):
    ...     sigma = 1 / (1 + exp(-x))
    ...     return x * sigma
    >>> print(javascript(silu))
    function silu(x) {
        let sigma = 1 / (1 + Math.exp(-x));
        let result = x * sigma;
        return result;
    }
    """
    parameters = inspect.signature(function).parameters.values()
    arguments = [identifier(p.name) for p in parameters if p.kind is not p.KEYWORD_ONLY]
    if numbers := [identifier(p.name) for p in parameters if p.kind is p.KEYWORD_ONLY]:
        arguments.append(f"{{{', '.join(numbers)}}}")
    known = terms(function)
    values, variables = run(function, known)
    results = [f"result{number}" for number in range(1, 1 + len(values))] if len(values) > 1 else ["result"]
    body = statements(in_order(values, variables, known, results), known)
    returned = results[0] if len(results) == 1 else f"[{', '.join(results)}]"
    return function_of(name or function.__name__, arguments, body, returned)


def function_of(name: str, arguments: Iterable[str], body: Iterable[str], returned: str) -> str:
    """A JavaScript function as text."""
    body = indented((*body, f"return {returned};"))
    return "\n".join((f"function {name}({', '.join(arguments)}) {{", *body, "}"))
