"""What writing lines has in common, whatever the notation: names, precedence, parentheses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

from .lines import Line, Term
from .math import FormulaError

# How tightly an expression holds together; what holds less tightly than its place asks for gets parentheses.
COMPARISON, SUM, NEGATIVE, PRODUCT, POWER, ATOM = range(6)


class Pattern(NamedTuple):
    """How an operation is written: a format of its operands, how tight the whole is, and how tight they must be."""

    text: str
    tightness: int
    operands: tuple[int, ...]


class Notation:
    """Writes terms. A subclass has a pattern for each operation, and says how names and numbers look."""

    language: ClassVar[str]
    patterns: ClassVar[Mapping[str, Pattern]]
    parentheses: ClassVar[tuple[str, str]] = ("(", ")")

    def name(self, name: str) -> tuple[str, int]:
        """A name, and how tight it is."""
        return name, ATOM

    def number(self, number: float) -> str:
        """A number that is not negative."""
        raise NotImplementedError

    def value(self, line: Line) -> str:
        """The right side of a line."""
        return self.write(line.value, line.names, COMPARISON)

    def write(self, term: Term, names: Mapping[Term, str], tightness: int) -> str:
        """A term, in parentheses if its place asks for a tightness that it does not have."""
        text, own = self.pieces(term, names)
        left, right = self.parentheses
        return text if own >= tightness else f"{left}{text}{right}"

    def pieces(self, term: Term, names: Mapping[Term, str]) -> tuple[str, int]:
        """A term, and how tight it is."""
        if term in names:
            return self.name(names[term])
        if term.operation == "name":
            return self.name(term.operands[0])
        if term.operation == "number":
            number = term.operands[0]
            return (f"-{self.number(-number)}", NEGATIVE) if number < 0 else (self.number(number), ATOM)
        if term.operation not in self.patterns:
            raise FormulaError(f"{term.operation!r} cannot be written in {self.language}")
        pattern = self.patterns[term.operation]
        operands = [self.write(o, names, t) for o, t in zip(term.operands, pattern.operands, strict=True)]
        return pattern.text.format(*operands), pattern.tightness
