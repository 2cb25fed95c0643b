"""Tracing: what program comes out of a formula, and what is refused."""

import math

import numpy as np
import pytest
import torch

from torch_lecture_ops.formula import Formula, FormulaError, abs, exp, maximum, sqrt, trace, where


def program_of(function, columns="aa", stores=(0,), hypers=(), name="Rule"):
    kinds = {"a": "array", "s": "scalar"}
    return trace(Formula(function, tuple(kinds[letter] for letter in columns), stores, tuple(hypers), name))


def operations(program):
    return [node.operation for node in program.nodes]


# ------------------------------------------------------------------------------------------------------- programs


def test_lines_stand_in_the_order_of_computing_and_results_point_at_them():
    program = program_of(lambda x, y: (x + y, (x + y) * y), stores=(0, 1))
    assert operations(program) == ["array", "array", "add", "mul"]
    assert [node.operands for node in program.nodes] == [(0,), (1,), (0, 1), (2, 1)]
    assert program.results == (2, 3)


def test_every_operand_stands_above_its_line():
    program = program_of(lambda x, y: (sqrt(x * y) - exp(-x) / (y + 1), maximum(x, y)), stores=(0, 1))
    for number, node in enumerate(program.nodes):
        if node.operation not in ("array", "number"):
            assert all(operand < number for operand in node.operands)


def test_each_value_is_computed_once():
    def formula(x, y):
        a = (x - y) ** 2
        b = (x - y) ** 2
        return a + b, sqrt(a) * sqrt(b)

    counts = {name: operations(program_of(formula, stores=(0, 1))).count(name) for name in ("sub", "pow", "sqrt")}
    assert counts == {"sub": 1, "pow": 1, "sqrt": 1}


def test_what_each_result_is_computed_from():
    program = program_of(lambda x, y, t, *, k: (k * x, (x * y) * t, 2 * t, k + 1), "aas", (0, 1, 2, 3), ["k"])
    assert program.reads() == ({0}, {0, 1, 2}, {2}, set())


def test_what_differs_is_kept_apart():
    program = program_of(lambda x, y: (x - y) * (y - x))
    assert operations(program).count("sub") == 2


def test_a_value_that_no_result_needs_is_not_computed():
    def formula(x, y):
        exp(x)
        return x + 1

    assert operations(program_of(formula)) == ["array", "number", "add"]


def test_one_result_stored_twice_is_one_line():
    program = program_of(lambda x, y: (x * y, x * y), stores=(0, 1))
    assert program.results == (2, 2)


@pytest.mark.parametrize("function, uniform", [
    (lambda x, t, lr: x * (lr / (1 - 0.9**t)), {"hyper", "scalar", "number", "pow", "sub", "div"}),
    (lambda x, t, lr: x * sqrt(lr), {"hyper", "sqrt"}),
    (lambda x, t, lr: where(t > 1, x, lr), {"scalar", "number", "gt", "hyper"}),
    (lambda x, t, lr: x * lr * t, {"hyper", "scalar"}),  # from the left: x * lr is one value an element
    (lambda x, t, lr: x + 0.5, {"number"}),
])  # fmt: skip
def test_what_is_the_same_for_all_elements_is_uniform(function, uniform):
    program = program_of(function, "as", hypers=["lr"])
    assert {node.operation for node in program.nodes if node.uniform} == uniform


def test_zeros_of_both_signs_are_two_constants():
    program = program_of(lambda x, y: (x + 0.0, x + -0.0, y * 0.0), stores=(0, 1, 2))
    constants = [node.operands[0] for node in program.nodes if node.operation == "number"]
    assert sorted(constants) == ["-0x0.0p+0", "0x0.0p+0"]


@pytest.mark.parametrize("value", [0.1, 1e-45, 5e-324, 1e308, math.inf, -math.inf, 3, True, np.float64(0.1)])
def test_constants_keep_every_bit(value):
    program = program_of(lambda x, y: x * value)
    (constant,) = [node.operands[0] for node in program.nodes if node.operation == "number"]
    assert float.fromhex(constant) == value


def test_the_same_constant_is_one_line_even_nan():
    program = program_of(lambda x, y: x * math.nan + math.nan)
    assert operations(program).count("number") == 1


def test_a_formula_may_be_deeper_than_the_stack_of_python():
    depth = 50_000

    def formula(x, y):
        for _ in range(depth):
            x = x * y + 1
        return x

    program = program_of(formula)
    assert len(program.nodes) == 3 + 2 * depth
    assert program.results == (len(program.nodes) - 1,)


def test_flags_are_resolved_when_tracing():
    def formula(nesterov):
        return lambda p, g: p - (g + 0.9 * g if nesterov else g)

    assert operations(program_of(formula(False))) == ["array", "array", "sub"]
    assert operations(program_of(formula(True))) == ["array", "array", "number", "mul", "add", "sub"]


def test_none_may_pass_through_a_formula_as_an_argument():
    program = program_of(lambda x, y, missing=None: x if missing is None else missing)
    assert operations(program) == ["array"]


def test_a_single_result_needs_no_tuple():
    assert program_of(lambda x, y: x).results == program_of(lambda x, y: (x,)).results == (0,)


def test_hypers_come_by_name():
    program = program_of(lambda x, *, eps, lr: x * lr + eps, "a", hypers=("lr", "eps"))
    assert [node.operands for node in program.nodes if node.operation == "hyper"] == [(0,), (1,)]
    assert [node.operation for node in program.nodes[:3]] == ["array", "hyper", "mul"]


# --------------------------------------------------------------------------------------------------------- refusals


def branches(x, y):
    return x if x > y else y


def loops(x, y):
    while x > 1:
        x = x / 2
    return x


def writes_in_place(x, y):
    x += y
    return x


def is_neither(x, y):
    return x if x > 0 and y > 0 else y


REFUSED = [
    (branches, r"cannot branch on values.*write where\(condition, a, b\)"),
    (loops, r"cannot branch on values.*'while'"),
    (is_neither, r"cannot branch on values.*'and'"),
    (writes_in_place, r"must not write in place; write m = m \+ g instead of m \+= g"),
    (lambda x, y: max(x, y), "cannot branch on values"),
    (lambda x, y: None, "computes with its arguments and numbers, got NoneType"),
    (lambda x, y: x * None, "computes with its arguments and numbers, got NoneType"),
    (lambda x, y: x * "2", "computes with its arguments and numbers, got str"),
    (lambda x, y: x * 1j, "computes with its arguments and numbers, got complex"),
    (lambda x, y: [1.0] * x, "computes with its arguments and numbers, got list"),
    (lambda x, y: x * torch.ones(3), "cannot use a tensor from outside; pass it as an argument"),
    (lambda x, y: torch.ones(3) * x, "cannot use a tensor from outside; pass it as an argument"),
    (lambda x, y: x * np.ones(3), "computes with its arguments and numbers, got ndarray"),
    (lambda x, y: torch.sin(x), r"sin\(\).*uses \+ - \* / \*\*, comparisons and the functions of torch_lecture_ops"),
    (lambda x, y: math.sqrt(x), r"real number.*uses \+ - \* / \*\*, comparisons and the functions of torch_lecture"),
    (lambda x, y: np.sin(x), "uses .* the functions of torch_lecture_ops"),
    (lambda x, y: x.sqrt(), "'sqrt'.* the functions of torch_lecture_ops"),
    (lambda x, y: float(x), "uses .* the functions of torch_lecture_ops"),
    (lambda x, y: x[0], "uses .* the functions of torch_lecture_ops"),
    (lambda x, y: x // y, "uses .* the functions of torch_lecture_ops"),
    (lambda x, y: x @ y, "uses .* the functions of torch_lecture_ops"),
    (lambda x: x, "positional argument"),
    (lambda x, y: (x, y), "must return 1 results, got 2"),
    (lambda x, y: (), "must return 1 results, got 0"),
]


@pytest.mark.parametrize("function, text", REFUSED, ids=[text for _, text in REFUSED])
def test_a_refusal_names_the_formula_and_says_what_to_do(function, text):
    with pytest.raises(FormulaError, match=f"^Rule: .*{text}") as error:
        program_of(function)
    assert str(error.value).count("Rule: ") == 1
    assert isinstance(error.value, TypeError)


def test_a_result_for_a_scalar_must_be_one_number_an_item():
    with pytest.raises(FormulaError, match=r"^Rule: .*column 1 must be one number an item, got one an element"):
        program_of(lambda x, t: (x, x + t), "as", stores=(0, 1))


def test_the_engines_of_torch_refuse_a_wrong_number_of_results_too():
    formula = Formula(lambda x: (x, x), ("array",), (0,), name="Rule")
    with pytest.raises(FormulaError, match=r"^Rule: the formula must return 1 results, got 2"):
        formula((torch.ones(2),), ())


def test_the_functions_do_not_hide_those_of_python():
    assert abs(-1) == 1.0
    assert maximum(1, 2) == 2


@pytest.mark.parametrize("function", [lambda x: (x > 0) + (x > 1), lambda x: x - (x > 0), lambda x: -(x > 0)])
def test_comparisons_are_no_numbers(function):
    """torch refuses some of this arithmetic and does the rest in bool: True + True is True."""
    with pytest.raises(FormulaError, match=r"mine: .*a comparison goes into where\(\.\.\.\) or is multiplied"):
        trace(Formula(function, ("array",), (0,), name="mine"))


@pytest.mark.parametrize("function", [lambda x: x * (1 / 0), lambda x: x * 10**400])
def test_impossible_numbers_name_the_formula(function):
    with pytest.raises(FormulaError, match="mine: the formula cannot be traced"):
        trace(Formula(function, ("array",), (0,), name="mine"))
