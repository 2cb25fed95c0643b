r"""Formulas in LaTeX, as short lists of lines like the slide, with the notes' letters.

>>> from torch_lecture_ops.formula import exp
>>> print(latex(lambda x: x / (1 + exp(-x)), results=("y",))[0])
y = \frac{x}{1 + \mathrm{e}^{-x}}
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from .lines import Line, Term, lines, occurring, terms
from .notation import ATOM, COMPARISON, NEGATIVE, POWER, PRODUCT, SUM, Notation, Pattern

# Names of arguments, and of values on the way, whose letter in the notes is another. All others follow from the name.
LETTERS = {
    "lr": r"\eta",
    "lr_decay": "d",
    "eps": r"\varepsilon",
    "momentum": r"\mu",
    "dampening": r"\tau",
    "weight_decay": r"\lambda",
    "momentum_decay": r"\psi",
    "mu": r"\mu_{t}",
    "mu_next": r"\mu_{t+1}",
    "mu_product": r"\Pi",
    "negative_slope": "a",
    "drop": "d",
    "every": r"t_{d}",
    "epsilon": r"\varepsilon",
}
GREEK = {
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "kappa", "lambda", "mu", "nu", "xi", "pi",
    "rho", "sigma", "tau", "phi", "chi", "psi", "omega",
}  # fmt: skip
ACCENTS = {"hat": r"\hat", "avg": r"\bar", "mean": r"\bar"}


class Latex(tuple[str, ...]):
    r"""Lines of LaTeX, without the dollars. As a text, and in a notebook, they stand below each other at their = signs.

    For people and typesetters: sympy's parse_latex (1.14) silently takes the hat of a moment for a factor, and does
    not know cases.

    >>> print(Latex((r"v = \mu v - \eta g", "p = p + v")))
    \begin{aligned}
    v &= \mu v - \eta g \\
    p &= p + v
    \end{aligned}
    """

    __slots__ = ()

    def __add__(self, other: tuple[str, ...]) -> Latex:  # type: ignore[override]
        return Latex((*self, *other))

    def __str__(self) -> str:
        aligned = (re.sub(r" (=|\\sim) ", r" &\1 ", line, count=1) for line in self)
        return "\\begin{aligned}\n" + " \\\\\n".join(aligned) + "\n\\end{aligned}"

    def _repr_latex_(self) -> str:
        return f"$$\n{self}\n$$"


class LatexNotation(Notation):
    """Fractions as fractions, products without a sign, functions of rows over the whole row."""

    language = "LaTeX"
    parentheses = (r"\left(", r"\right)")
    patterns = {
        "add": Pattern("{0} + {1}", SUM, (SUM, PRODUCT)),
        "sub": Pattern("{0} - {1}", SUM, (SUM, PRODUCT)),
        "neg": Pattern("-{0}", NEGATIVE, (PRODUCT,)),
        "mul": Pattern(r"{0}\, {1}", PRODUCT, (NEGATIVE, PRODUCT)),
        "div": Pattern(r"\frac{{{0}}}{{{1}}}", POWER, (COMPARISON, COMPARISON)),
        "floordiv": Pattern(r"\left\lfloor \frac{{{0}}}{{{1}}} \right\rfloor", POWER, (COMPARISON, COMPARISON)),
        "pow": Pattern("{0}^{{{1}}}", POWER, (ATOM, COMPARISON)),
        "sqrt": Pattern(r"\sqrt{{{0}}}", POWER, (COMPARISON,)),
        "exp": Pattern(r"\mathrm{{e}}^{{{0}}}", POWER, (COMPARISON,)),
        "expm1": Pattern(r"\mathrm{{e}}^{{{0}}} - 1", SUM, (COMPARISON,)),
        "log": Pattern(r"\ln\left({0}\right)", POWER, (COMPARISON,)),
        "softplus": Pattern(r"\ln\left(1 + \mathrm{{e}}^{{{0}}}\right)", POWER, (COMPARISON,)),
        "tanh": Pattern(r"\tanh\left({0}\right)", POWER, (COMPARISON,)),
        "abs": Pattern(r"\left|{0}\right|", POWER, (COMPARISON,)),
        "maximum": Pattern(r"\max\left({0}, {1}\right)", POWER, (COMPARISON, COMPARISON)),
        "minimum": Pattern(r"\min\left({0}, {1}\right)", POWER, (COMPARISON, COMPARISON)),
        "row_sum": Pattern(r"\sum\left({0}\right)", POWER, (COMPARISON,)),
        "row_max": Pattern(r"\max\left({0}\right)", POWER, (COMPARISON,)),
        "place": Pattern("j", ATOM, (COMPARISON,)),
        "entry": Pattern("{0}_{{{1}}}", ATOM, (ATOM, COMPARISON)),
    } | {
        operation: Pattern(f"{{0}} {sign} {{1}}", COMPARISON, (SUM, SUM))
        for operation, sign in {"lt": "<", "le": r"\le", "gt": ">", "ge": r"\ge", "eq": "=", "ne": r"\ne"}.items()
    }

    def __init__(self, letters: Mapping[str, str]) -> None:
        self._letters = letters

    def name(self, name: str) -> tuple[str, int]:
        letter = self._letters.get(name) or letter_of(name)
        return letter, POWER if letter.startswith(r"\frac") else ATOM

    def is_word(self, name: str) -> bool:
        """Whether a name has no letter."""
        return self.name(name)[0].startswith(r"\mathrm")

    def number(self, number: float) -> str:
        if number != number:
            return r"\mathrm{NaN}"
        if math.isinf(number):
            return r"\infty"
        if not number.is_integer() and math.sqrt(round(number**2)) == number:
            return rf"\sqrt{{{round(number**2)}}}"  # as the notes write it
        mantissa, _, exponent = f"{number!r}".removesuffix(".0").partition("e")
        if not exponent:
            return mantissa
        power = f"10^{{{int(exponent)}}}"
        return power if mantissa == "1" else rf"{{{mantissa} \cdot {power}}}"

    def pieces(self, term: Term, names: Mapping[Term, str]) -> tuple[str, int]:
        if term in names or term.is_leaf:
            return super().pieces(term, names)
        first, *others = term.operands
        if term.operation == "log1p":
            return self.pieces(Term("log", Term("add", Term("number", 1.0), first)), names)
        if term.operation == "add" and others[0].operation == "neg" and others[0] not in names:
            return self.pieces(Term("sub", first, *others[0].operands), names)
        if term.operation == "mul" and any(map(_is_one, term.operands)):
            return self.pieces(others[0] if _is_one(first) else first, names)
        if term.operation == "where":
            rows = [rf"{value} & {condition}" for condition, value in self._cases(term, names)]
            return r"\begin{cases} " + r" \\ ".join(rows) + r" \end{cases}", POWER
        text, tightness = super().pieces(term, names)
        # A product whose second factor begins with a digit would read as a number.
        return re.sub(r"\\, (?=\d|\{\d)", r"\\cdot ", text) if term.operation == "mul" else text, tightness

    def _cases(self, term: Term, names: Mapping[Term, str]) -> Iterator[tuple[str, str]]:
        """The conditions of a choice and the values under them; a choice between what is left goes on."""
        condition, value, other = term.operands
        yield self.write(condition, names, COMPARISON), self.write(value, names, COMPARISON)
        if other.operation == "where" and other not in names:
            yield from self._cases(other, names)
        else:
            yield r"\text{else}", self.write(other, names, COMPARISON)


def _is_one(term: Term) -> bool:
    return term.operation == "number" and term.operands[0] == 1


def letter_of(name: str) -> str:
    r"""The letter for a name: "lr" is η; else m_hat is m̂, beta1 is β₁, v_max has a subscript.

    >>> [letter_of(name) for name in ("lr", "m_hat", "beta1", "v_max", "g_before")]
    ['\\eta', '\\hat{m}', '\\beta_{1}', 'v_{\\max}', 'g_{\\text{before}}']
    """
    if name in LETTERS:
        return LETTERS[name]
    base, *rest = name.strip("_").split("_")
    word, digits = re.fullmatch(r"(.*?)(\d*)", base).groups()  # type: ignore[union-attr]
    letter = rf"\{word}" if word in GREEK else word if len(word) == 1 else rf"\mathrm{{{word}}}"
    for accent in rest:
        letter = f"{ACCENTS[accent]}{{{letter}}}" if accent in ACCENTS else letter
    below = [*filter(None, [digits]), *(map(_subscript, (part for part in rest if part not in ACCENTS)))]
    return f"{letter}_{{{','.join(below)}}}" if below else letter


def _subscript(word: str) -> str:
    return word if len(word) == 1 or word.isdigit() else rf"\{word}" if word in ("max", "min") else rf"\text{{{word}}}"


def written(lines: Sequence[Line], letters: Mapping[str, str] | None = None) -> Latex:
    """Lines of a formula in LaTeX.

    A value that is used once and whose name is a word, not a letter, is not on the slide: it becomes a part of the line
    that uses it, if what it is computed from still has its name there.
    """
    notation = LatexNotation(letters or {})
    uses = Counter(line.names[term] for line in lines for term in taken(line))
    inlined = {line.name for line in lines if notation.is_word(line.name) and uses[line.name] == 1}
    once_named = {term for line in lines for term in line.names}
    for line in lines:
        if any(term in once_named for term in _leaves(line, inlined)):
            inlined -= {line.names[term] for term in taken(line)}
    return Latex(
        f"{notation.name(line.name)[0]} = {notation.value(line._replace(names=_without(line.names, inlined)))}"
        for line in lines
        if line.name not in inlined
    )


def taken(line: Line) -> list[Term]:
    """The terms that stand in a line by their names."""
    return [line.value] if line.value in line.names else occurring(line.value, line.names)


def _leaves(line: Line, inlined: Collection[str]) -> Iterator[Term]:
    """The leaves that a line would have without a name, if these names became parts of it."""
    names, stack = _without(line.names, inlined), [] if line.value in line.names else [line.value]
    while stack:
        term = stack.pop()
        if term not in names and term.is_leaf:
            yield term
        elif term not in names or term is line.value:
            stack.extend(term.operands)


def _without(names: Mapping[Term, str], some: Collection[str]) -> dict[Term, str]:
    return {term: name for term, name in names.items() if name not in some}


def latex(
    function: Callable[..., Any],
    results: Sequence[str] = ("y",),
    letters: Mapping[str, str] | None = None,
    **flags: Any,
) -> Latex:
    """A formula in LaTeX.

    Arguments:
        function: a formula; its arguments are called as in its signature.
        results: what its results are called.
        letters: how names are written, if not by `letter_of`.
        flags: values of arguments that are not to be written as letters, such as Python bools.

    Raises:
        FormulaError: the function computes with what a formula does not have.
    """
    return written(lines(function, terms(function) | flags, results), letters)
