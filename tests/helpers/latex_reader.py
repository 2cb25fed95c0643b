"""Reads LaTeX back: evaluates what the package writes, on numbers or, for functions of a row, on NumPy's rows."""

import re

import numpy as np

FUNCTIONS = {r"\ln": np.log, r"\tanh": np.tanh, r"\sum": lambda row: np.sum(row, -1, keepdims=True)}
CHOICES = {r"\max": np.maximum, r"\min": np.minimum}
COMPARISONS = {"<": np.less, r"\le": np.less_equal, ">": np.greater, r"\ge": np.greater_equal, "=": np.equal}
COMPARISONS |= {r"\ne": np.not_equal}


def split(line):
    """The left side of a line, its right side, and whether it holds for the first step only."""
    left, right = line.split(" = ", 1)
    return left, right.removesuffix(r" \quad \text{at first}"), right.endswith(r"\text{at first}")


class Reader:
    """The value of an expression, letter -> value given. `times` is what juxtaposed factors mean."""

    def __init__(self, letters, times=np.multiply):
        self.letters, self.times = letters, times

    def value(self, text):
        self.text, self.place = text, 0
        with np.errstate(all="ignore"):
            value = self.sum()
        assert not self.rest(), f"not understood: {self.rest()!r} of {text!r}"
        return value

    def rest(self):
        return self.text[self.place :].lstrip()

    def skips(self, *tokens):
        """Go past one of the tokens, if it comes next; which one."""
        for token in tokens:
            is_word = re.match(r"\\[a-z]+$", token)
            if self.rest().startswith(token) and not (is_word and self.rest()[len(token) :][:1].isalpha()):
                self.place = len(self.text) - len(self.rest()) + len(token)
                return token
        return None

    def must(self, token):
        assert self.skips(token), f"{token!r} expected at {self.rest()!r} of {self.text!r}"

    def inside(self, left, right):
        self.must(left)
        value = self.sum()
        self.must(right)
        return value

    def sum(self):
        value = self.product()
        while sign := self.skips("+", "-"):
            other = self.product()
            value = value + other if sign == "+" else value - other
        return value

    def product(self):
        if self.skips("-"):
            return -self.product()
        value = self.power()
        while self.skips(r"\,", r"\cdot"):
            value = self.times(value, self.power())
        return value

    def power(self):
        value = self.base()
        if self.skips(r"^{\top}"):
            return np.swapaxes(value, -1, -2)
        if self.skips("^"):
            return np.power(value, self.inside("{", "}"))
        return value

    def base(self):
        if letter := self.skips(*sorted(self.letters, key=len, reverse=True)):
            value = self.letters[letter]
            if self.skips("_{"):
                place = int(np.ravel(self.sum())[0])
                self.must("}")
                return value[..., place : place + 1]
            return value
        if number := re.match(r"\d+(\.\d+)?", self.rest()):
            self.must(number[0])
            return np.float64(number[0])
        if self.skips(r"\infty"):
            return np.float64("inf")
        if self.skips(r"\mathrm{NaN}"):
            return np.float64("nan")
        if self.skips(r"\frac"):
            above = self.inside("{", "}")
            return np.divide(above, self.inside("{", "}"))
        if self.skips(r"\sqrt"):
            return np.sqrt(self.inside("{", "}"))
        if self.skips(r"\mathrm{e}^"):
            return np.exp(self.inside("{", "}"))
        if self.skips(r"\left\lfloor"):
            value = self.sum()
            self.must(r"\right\rfloor")
            return np.floor(value)
        if self.rest().startswith(r"\left|"):
            return np.abs(self.inside(r"\left|", r"\right|"))
        if name := self.skips(*FUNCTIONS):
            return FUNCTIONS[name](self.inside(r"\left(", r"\right)"))
        if name := self.skips(*CHOICES):
            self.must(r"\left(")
            values = [self.sum()]
            while self.skips(","):
                values.append(self.sum())
            self.must(r"\right)")
            return CHOICES[name](*values) if len(values) > 1 else np.max(values[0], -1, keepdims=True)
        if self.skips(r"\begin{cases}"):
            return self.cases()
        if self.rest().startswith("{"):
            return self.inside("{", "}")
        return self.inside(r"\left(", r"\right)")

    def cases(self):
        value = self.sum()
        self.must("&")
        if self.skips(r"\text{else}"):
            self.must(r"\end{cases}")
            return value
        left = self.sum()
        sign = self.skips(*sorted(COMPARISONS, key=len, reverse=True))
        condition = COMPARISONS[sign](left, self.sum())
        self.must(r"\\")
        return np.where(condition, value, self.cases())
