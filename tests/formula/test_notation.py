"""Formulas in lines, LaTeX and JavaScript, whatever they are formulas of."""

import cProfile
import pstats

import javascript
import numpy as np
import pytest
import torch
from latex_reader import Reader, split

from torch_lecture_ops import formula
from torch_lecture_ops.formula import exp, latex, maximum, where
from torch_lecture_ops.formula.latex import LETTERS, letter_of


def of(name, *operands):
    """A formula of a and b: an operation on what the operands are made of them."""
    return lambda a, b: getattr(formula, name)(*(operand(a, b) for operand in operands))


def first(a, b):
    return a


def second(a, b):
    return b


def positive(a, b):
    return abs(a)


# Where both are numbers, a formula of two arguments for each operation of the vocabulary, and for precedence.
FORMULAS = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "floordiv": lambda a, b: a // b,
    "pow": lambda a, b: abs(a) ** b,
    "neg": lambda a, b: -a,
    **{name: of(name, first) for name in ("abs", "exp", "expm1", "tanh", "softplus")},
    **{name: of(name, positive) for name in ("log", "log1p", "sqrt")},
    "log1p of a negative": lambda a, b: formula.log1p(-1 / (1 + exp(-a))),
    **{name: of(name, first, second) for name in ("maximum", "minimum")},
    "lt": lambda a, b: where(a < b, a, 2.0),
    "le": lambda a, b: where(a <= b, a, 2.0),
    "gt": lambda a, b: where(a > b, a, 2.0),
    "ge": lambda a, b: where(a >= b, a, 2.0),
    "eq": lambda a, b: where(a == b, a, 2.0),
    "ne": lambda a, b: where(a != b, a, 2.0),
    "a - (b - a)": lambda a, b: a - (b - a),
    "a - -b": lambda a, b: a - -b,
    "a + -b": lambda a, b: a + -b,
    "a + -2": lambda a, b: a + -2.0,
    "a * -b": lambda a, b: a * -b,
    "-a * b": lambda a, b: -a * b,
    "-(a * b)": lambda a, b: -(a * b),
    "-(a + b)": lambda a, b: -(a + b),
    "-a**2": lambda a, b: -(a**2),
    "(-a)**2": lambda a, b: (-a) ** 2,
    "a * (b + 2)": lambda a, b: a * (b + 2),
    "2 * 3 * a": lambda a, b: 2.0 * 3.0 * a,
    "a * 0.25": lambda a, b: a * 0.25,
    "1 * a": lambda a, b: 1.0 * a * 1.0,
    "a * 1e-12": lambda a, b: a * 1e-12,
    "a * 2.5e-12": lambda a, b: a * 2.5e-12,
    "a / (b / 3)": lambda a, b: a / (b / 3),
    "(a / b)**2": lambda a, b: (a / b) ** 2,
    "exp(a)**2": lambda a, b: exp(a) ** 2,
    "abs(a)**b**2": lambda a, b: abs(a) ** (b**2),
    "(abs(a)**b)**2": lambda a, b: (abs(a) ** b) ** 2,
    "a * root of 2": lambda a, b: a * 2**0.5,
    "infinity": lambda a, b: maximum(a, -float("inf")),
    "nan": lambda a, b: where(a == a, b, float("nan")),
    "a choice in a choice": lambda a, b: where(a < 0, 1.0, where(b < 0, 2.0, 3.0)) - 1,
    "a choice for a choice": lambda a, b: where(a < 0, where(b < 0, 1.0, 2.0), 3.0),
}
POINTS = [(0.5, 1.5), (-0.5, 1.5), (-2.25, -0.75), (3.0, 3.0), (1.25, -2.0)]


def expected(function, a, b):
    """The value in double precision, by Python."""
    number = float if function is FORMULAS["floordiv"] else formula.math.Double
    return float(function(number(a), number(b)))


@pytest.mark.parametrize("name", FORMULAS)
def test_latex_is_read_back(name):
    (line,) = latex(FORMULAS[name])
    left, right, _ = split(line)
    assert left == "y"
    for a, b in POINTS:
        value = Reader({"a": np.float64(a), "b": np.float64(b)}).value(right)
        np.testing.assert_allclose(value, expected(FORMULAS[name], a, b), rtol=1e-14, err_msg=right)


@javascript.needs_node
@pytest.mark.parametrize("name", FORMULAS)
def test_javascript_is_run(name):
    text = formula.javascript(FORMULAS[name], "f")
    for a, b in POINTS:
        np.testing.assert_allclose(javascript.run(text, a, b), expected(FORMULAS[name], a, b), rtol=1e-14, err_msg=text)


def test_names_of_the_formula_are_lines():
    def silu(x):
        sigma = 1 / (1 + exp(-x))
        y = x * sigma
        return y * y

    assert latex(silu) == (r"\sigma = \frac{1}{1 + \mathrm{e}^{-x}}", r"y = x\, \sigma", r"y = y\, y")


def test_a_word_that_is_used_once_is_no_line():
    def once(x):
        step = x + 1
        return 2 * step

    def twice(x):
        step = x + 1
        return step * step

    assert latex(once) == (r"y = 2\, \left(x + 1\right)",)
    assert latex(twice) == (r"\mathrm{step} = x + 1", r"y = \mathrm{step}\, \mathrm{step}")


def test_a_word_stays_a_line_where_what_it_was_computed_from_has_changed():
    def late(p, m, g):
        step = 2 * m
        m = m + g
        return p - step, m

    def chain(p, m, g):
        step = 2 * m
        size = step + 1
        m = m + g
        return p - size, m

    assert latex(late, ("p", "m")) == (r"\mathrm{step} = 2\, m", "m = m + g", r"p = p - \mathrm{step}")
    assert latex(chain, ("p", "m"))[-2:] == ("m = m + g", r"p = p - \mathrm{size}")


def test_a_value_called_t_is_a_line():
    def value(x):
        t = x * x
        return t + 1

    assert latex(value) == (r"t = x\, x", "y = t + 1")


def test_an_argument_that_is_not_used_lends_its_name_to_nothing():
    for _ in range(100):  # where its place in memory might go to another value
        assert latex(lambda unused, x: formula.log1p(-formula.log1p(x))) == (
            r"y = \ln\left(1 - \ln\left(1 + x\right)\right)",
        )


def test_a_value_needed_after_its_name_is_gone():
    def unnamed(v, g):
        v, w = v + g, v
        return v, v - w

    def nameless(v, g):
        return v + g, (v + g) * v

    assert latex(unnamed, ("v", "p")) == ("w = v", "v = w + g", "p = v - w")
    assert latex(nameless, ("v", "p")) == (
        r"v_{\text{before}} = v",
        r"v = v_{\text{before}} + g",
        r"p = \left(v_{\text{before}} + g\right)\, v_{\text{before}}",
    )


def test_results_that_are_arguments_or_have_two_names():
    assert latex(lambda g: (g, g), ("a", "b")) == ("a = g", "b = g")
    assert latex(lambda g: (2 * g,) * 2, ("a", "b"))[1:] == ("b = a",)
    assert latex(lambda g: (1.0, -1.0), ("a", "b")) == ("a = 1", "b = -1")


def test_javascript_of_several_results_and_numbers():
    def value(x, new, *, default):
        total = x + new
        return total * default, total

    assert formula.javascript(value).splitlines() == [
        "function value(x, new_, {default_}) {",
        "    let result2 = x + new_;",
        "    let result1 = result2 * default_;",
        "    return [result1, result2];",
        "}",
    ]


def test_profilers_go_on():
    with cProfile.Profile() as profile:
        latex(abs_of_sum)
        abs_of_sum(1.0, 2.0)
    calls = {function[2]: row[0] for function, row in pstats.Stats(profile).stats.items()}
    assert calls["abs_of_sum"] == 1  # the symbolic run is none of its business


def abs_of_sum(a, b):
    return formula.abs(a + b)


@pytest.mark.parametrize(
    "function, says",
    [
        (lambda x: x if x > 0 else -x, "cannot branch on values"),
        (lambda x: x + torch.ones(1), "got Tensor"),
        (lambda x: "x", "got str"),
    ],
)
def test_what_is_no_formula(function, says):
    with pytest.raises(formula.FormulaError, match=says):
        latex(function)


def test_rows_have_no_javascript():
    with pytest.raises(formula.FormulaError, match="'row_sum' cannot be written in JavaScript"):
        formula.javascript(formula.row_sum)


@pytest.mark.parametrize("name", LETTERS)
def test_letters_of_the_notes_are_no_words(name):
    assert not letter_of(name).startswith(r"\mathrm")


def test_lines_stand_below_each_other():
    both = latex(lambda x: 2 * x) + latex(lambda x: x, ("z",))
    assert str(both) == "\\begin{aligned}\ny &= 2\\, x \\\\\nz &= x\n\\end{aligned}"
    assert both._repr_latex_() == f"$$\n{both}\n$$"
