"""The vocabulary of formulas on every operand, and the engines' own functions over all floats."""

import math
import operator
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch

import torch_lecture_ops.formula as formula
from torch_lecture_ops.formula import (
    COMPILED,
    CLaunch,
    Formula,
    FormulaError,
    TensorList,
    foreach,
    loop,
    trace,
    triton_engine,
    where,
)
from torch_lecture_ops.formula.math import Double
from torch_lecture_ops.formula.triton_engine import TritonLaunch
from torch_lecture_ops.formula.writer import SMALL_POWERS

NAN, INF = math.nan, math.inf

# name -> arguments for which every library has a value
FUNCTIONS = {
    "abs": [(-2.5,), (0.0,), (3.0,)],
    "exp": [(-2.5,), (0.0,), (3.0,)],
    "expm1": [(-2.5,), (0.0,), (1e-9,), (3.0,)],
    "log": [(0.25,), (1.0,), (3.0,)],
    "log1p": [(-0.75,), (0.0,), (1e-9,), (3.0,)],
    "softplus": [(-2.5,), (0.0,), (1e-9,), (3.0,)],
    "sqrt": [(0.0,), (0.25,), (3.0,)],
    "tanh": [(-2.5,), (0.0,), (1e-9,), (3.0,)],
    "maximum": [(1.0, 2.0), (2.0, 1.0), (-1.0, -1.0)],
    "minimum": [(1.0, 2.0), (2.0, 1.0), (-1.0, -1.0)],
    "where": [(True, 1.0, 2.0), (False, 1.0, 2.0)],
}
CALLS = [pytest.param(name, row, id=f"{name}{row}") for name, rows in FUNCTIONS.items() for row in rows]

OPERATORS = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "pow": operator.pow,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "eq": operator.eq,
    "ne": operator.ne,
}
# Python asks a < b the other way round, as b > a
MIRRORED = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}


def numpy_function(name):
    return (lambda x: np.logaddexp(x, x.dtype.type(0))) if name == "softplus" else getattr(np, name)


def reference(name, row):
    return float(numpy_function(name)(*(np.float64(value) if type(value) is float else value for value in row)))


def as_tensors(row, shape):
    return [torch.full(shape, value, dtype=torch.bool if type(value) is bool else torch.float64) for value in row]


def ulps_float64(got, want):
    return abs(got - want) / math.ulp(want)


# ---------------------------------------------------------------------------------------------------- operands


@pytest.mark.parametrize("name, row", CALLS)
def test_numbers_give_a_number(name, row):
    got = getattr(formula, name)(*row)
    assert type(got) is float
    assert ulps_float64(got, reference(name, row)) <= 1  # two C libraries, each within 1 ulp and nearly always exact


@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3)])
@pytest.mark.parametrize("name, row", CALLS)
def test_tensors_give_a_tensor_of_their_shape(name, row, shape):
    got = getattr(formula, name)(*as_tensors(row, shape))
    assert got.shape == shape
    assert got.dtype == torch.float64
    assert all(ulps_float64(value, reference(name, row)) <= 2 for value in got.flatten().tolist())  # Sleef: 1 ulp


@pytest.mark.parametrize("name, row", CALLS)
def test_a_list_of_tensors_computes_like_each_of_its_tensors(name, row):
    shapes = [(), (3,), (0,), (2, 3)]
    lists = [TensorList(list(tensors)) for tensors in zip(*(as_tensors(row, shape) for shape in shapes), strict=True)]
    got = getattr(formula, name)(*lists)
    assert isinstance(got, TensorList)
    for tensor, shape in zip(got.tensors, shapes, strict=True):
        torch.testing.assert_close(tensor, getattr(formula, name)(*as_tensors(row, shape)), rtol=4e-16, atol=0)  # 2 ulp


@pytest.mark.parametrize("name", FUNCTIONS)
def test_symbols_give_one_line_of_a_program(name):
    arity = len(FUNCTIONS[name][0])
    program = trace(Formula(lambda *columns: getattr(formula, name)(*columns), ("array",) * arity, (0,)))
    *leaves, last = program.nodes
    assert [node.operation for node in leaves] == ["array"] * arity
    assert (last.operation, last.operands) == (name, tuple(range(arity)))


@pytest.mark.parametrize("name", ["maximum", "minimum"])
@pytest.mark.parametrize("make", [lambda v: torch.tensor([v]), lambda v: TensorList([torch.tensor([v])])])
def test_a_number_on_either_side(name, make):
    function, builtin = getattr(formula, name), {"maximum": max, "minimum": min}[name]
    for a, b in [(1.0, 2.0), (2.0, 1.0)]:
        for got in (function(make(a), b), function(a, make(b))):
            tensor = got.tensors[0] if isinstance(got, TensorList) else got
            assert tensor.tolist() == [builtin(a, b)]


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("other", [3.0, 2, torch.tensor(3.0, dtype=torch.float64)], ids=["float", "int", "0-dim"])
def test_operators_of_lists_both_ways_round(name, other):
    values = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)
    apply, many = OPERATORS[name], TensorList([values, values[:0], values[0]])
    for got, want in [
        (apply(many, other), apply(values, other)),
        (apply(other, many), apply(other, values)),
        (apply(many, many), apply(values, values)),
    ]:
        assert torch.equal(got.tensors[0], want)
        assert torch.equal(got.tensors[1], want[:0])
        assert torch.equal(got.tensors[2], want[0])


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("other", [3.0, 2, np.float64(3.0)], ids=["float", "int", "numpy"])
def test_operators_of_symbols_both_ways_round(name, other):
    apply = OPERATORS[name]
    forward = trace(Formula(lambda x: apply(x, other), ("array",), (0,))).nodes[-1]
    backward = trace(Formula(lambda x: apply(other, x), ("array",), (0,))).nodes
    number = float(other).hex()
    assert forward.operation == name
    assert forward.operands == (0, 1)
    order = [0, 1] if name in ("eq", "ne", *MIRRORED) else [1, 0]
    assert backward[-1].operation == MIRRORED.get(name, name)
    assert [backward[operand].operation for operand in backward[-1].operands] == [("array", "number")[k] for k in order]
    assert number in [node.operands[0] for node in backward]


def test_signs_and_abs_of_lists_and_symbols():
    many = TensorList([torch.tensor([-1.5, 0.0])])
    assert (-many).tensors[0].tolist() == [1.5, -0.0]
    assert (+many).tensors[0].tolist() == [-1.5, 0.0]
    assert abs(many).tensors[0].tolist() == [1.5, 0.0]
    program = trace(Formula(lambda x: abs(-(+x)), ("array",), (0,)))
    assert [node.operation for node in program.nodes] == ["array", "neg", "abs"]


@pytest.mark.parametrize("many", [TensorList([torch.ones(2)])], ids=["list"])
def test_lists_neither_branch_nor_change(many):
    with pytest.raises(FormulaError, match=r"cannot branch on values.*where\(condition, a, b\)"):
        bool(many > 0)
    with pytest.raises(FormulaError, match=r"must not write in place; write m = m \+ g"):
        many += 1
    assert hash(many) == hash(many)  # though == compares values


# ------------------------------------------------------------------------------------- NaN, inf and signed zero

PAIRS = [(NAN, 1.0), (1.0, NAN), (NAN, NAN), (INF, 1.0), (-INF, 1.0), (INF, -INF), (0.0, -1.0), (-0.0, -1.0)]
PAIRS += [(-0.0, 1.0), (1.0, -0.0)]


def compiled(launch, device, function, *arguments):
    columns = [[torch.tensor([value], device=device)] for value in arguments]
    out = torch.zeros(1, device=device)
    launch(Formula(function, ("array",) * len(arguments), (len(arguments),)))([*columns, [out]], ())
    return out.item()


EVALUATIONS = {
    "numbers": lambda function, *row: function(*row),
    "tensors": lambda function, *row: function(*(torch.tensor(value) for value in row)).item(),
    "number on the right": lambda function, a, b: function(torch.tensor(a), b).item(),
    "number on the left": lambda function, a, b: function(a, torch.tensor(b)).item(),
    "lists": lambda function, *row: function(*(TensorList([torch.tensor([v])]) for v in row)).tensors[0].item(),
    "list and number": lambda function, a, b: function(TensorList([torch.tensor([a])]), b).tensors[0].item(),
    "number and list": lambda function, a, b: function(a, TensorList([torch.tensor([b])])).tensors[0].item(),
    "C": pytest.param(partial(compiled, CLaunch, "cpu"), marks=pytest.mark.needs_compiler),
    "Triton": pytest.param(partial(compiled, TritonLaunch, "cpu"), marks=pytest.mark.needs_interpreter),
    "CUDA": pytest.param(partial(compiled, TritonLaunch, "cuda"), marks=pytest.mark.gpu),
}


def same(got, want):
    return math.isnan(want) if math.isnan(got) else (got == want and math.copysign(1, got) == math.copysign(1, want))


@pytest.mark.parametrize("evaluate", EVALUATIONS.values(), ids=EVALUATIONS)
@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_maximum_and_minimum_carry_nan_and_signed_zero(name, evaluate):
    for a, b in PAIRS:
        got, want = evaluate(getattr(formula, name), a, b), float(numpy_function(name)(a, b))
        assert same(got, want), (a, b)


@pytest.mark.parametrize("evaluate", EVALUATIONS.values(), ids=EVALUATIONS)
@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_two_zeros_give_a_zero(name, evaluate):  # of which sign, IEEE 754 leaves open
    for a in (0.0, -0.0):
        for b in (0.0, -0.0):
            assert evaluate(getattr(formula, name), a, b) == 0.0


@pytest.mark.parametrize(
    "evaluate", [EVALUATIONS[key] for key in ("numbers", "tensors", "lists", "C", "Triton", "CUDA")]
)
def test_where_takes_one_and_leaves_no_trace_of_the_other(evaluate):
    def selected(x, a, b):
        return formula.where(x > 0.0, a, b)

    for x, a, b, want in [
        (1.0, 2.0, NAN, 2.0),
        (-1.0, NAN, 2.0, 2.0),
        (1.0, -0.0, 1.0, -0.0),
        (-1.0, INF, -0.0, -0.0),
        (1.0, INF, -INF, INF),
        (NAN, 1.0, 2.0, 2.0),  # no comparison with NaN holds
        (1.0, NAN, 1.0, NAN),
    ]:
        assert same(evaluate(selected, x, a, b), want), (x, a, b)


# ------------------------------------------------------------ numbers at the edges: what IEEE 754 says, on every engine

NUMBERS = [0.0, 5e-324, 0.5, 1.0, 2.5, 3.0, 710.0, 746.0, 1e154, 1e308, INF, NAN]
NUMBERS = [sign * number for number in NUMBERS for sign in (1, -1)]  # 0 and -0 are neighbours, and not the same
UNARY = {name: getattr(formula, name) for name, rows in FUNCTIONS.items() if len(rows[0]) == 1} | {"neg": operator.neg}
BINARY = {name: OPERATORS[name] for name in ("add", "sub", "mul", "div", "pow")}
BINARY |= {name: getattr(formula, name) for name in ("maximum", "minimum")}
RUNS = [
    pytest.param(lambda *args: CLaunch(args[0])(*args[1:]), id="C", marks=pytest.mark.needs_compiler),
    pytest.param(lambda *args: TritonLaunch(args[0])(*args[1:]), id="Triton", marks=pytest.mark.needs_interpreter),
    pytest.param(foreach, id="foreach"),
    pytest.param(loop, id="loop"),
]
NUMPY_NAMES = {"sub": "subtract", "mul": "multiply", "div": "divide", "pow": "power", "neg": "negative"}


def rows_of_numbers(name):
    """The rows of arguments at the edges, and what NumPy makes of each in float64."""
    rows = [(a,) for a in NUMBERS] if name in UNARY else list(product(NUMBERS, NUMBERS))
    if name in ("maximum", "minimum"):  # of two zeros either is right
        rows = [(a, b) for a, b in rows if (a, b) != (0, 0)]
    with np.errstate(all="ignore"):  # of arrays: for the scalar 0.5 NumPy takes another function
        return rows, numpy_function(NUMPY_NAMES.get(name, name))(*map(np.array, zip(*rows, strict=True))).tolist()


def assert_same_numbers(rows, got, want, ulp):
    for row, a, b in zip(rows, got, want, strict=True):
        assert same(a, b) or (b != 0 and math.isfinite(b) and abs(a - b) <= ulp * math.ulp(b)), (row, a, b)


@pytest.mark.parametrize("name", [*UNARY, *BINARY])
def test_doubles_compute_as_those_of_numpy_do(name):
    """A float or integer on either side, and a Double as the result, whatever the other one is."""
    rows, want = rows_of_numbers(name)
    function = (UNARY | BINARY)[name]
    for kinds in [(Double,)] if name in UNARY else [(Double, Double), (Double, float), (float, Double)]:
        got = [function(*(kind(a) for kind, a in zip(kinds, row, strict=True))) for row in rows]
        assert {type(number) for number in got} <= ({float, Double} if name in ("maximum", "minimum") else {Double})
        assert_same_numbers(rows, got, want, 1)


@pytest.mark.parametrize("a, b", [(0, -1), (-2, 3), (3, 0), (0, 0), (-1, -3)])
@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "pow"])
def test_a_double_beside_an_integer(name, a, b):
    with np.errstate(all="ignore"):
        want = float(numpy_function(NUMPY_NAMES.get(name, name))(np.float64(a), np.float64(b)))
    for got in (OPERATORS[name](Double(a), b), OPERATORS[name](a, Double(b))):
        assert type(got) is Double
        assert same(got, want)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("make", [lambda t: t, lambda t: TensorList([t])], ids=["tensor", "list"])
def test_a_double_beside_tensors_is_a_float(name, make):
    x = make(torch.tensor([0.5, 2.0, 3.0]))
    for got, want in (
        (OPERATORS[name](Double(2.5), x), OPERATORS[name](2.5, x)),
        (OPERATORS[name](x, Double(2.5)), OPERATORS[name](x, 2.5)),
    ):
        assert type(got) is type(want)
        assert str(got) == str(want)


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_numbers_do_not_raise(name):
    rows, want = rows_of_numbers(name)
    assert_same_numbers(rows, [float(UNARY[name](a)) for (a,) in rows], want, 1)


@pytest.mark.parametrize("name", [*UNARY, *BINARY])
@pytest.mark.parametrize("run", RUNS)
def test_numbers_of_items_compute_as_those_of_numpy_do(name, run):
    """One item for each row of arguments; the result, by further operations, also beside an array."""
    function = (UNARY | BINARY)[name]
    rows, want = rows_of_numbers(name)

    def step(x, *numbers):
        y = function(*numbers)
        return x + (y - y), y

    kinds = ("array", *("scalar",) * len(rows[0]))
    columns = [[torch.ones(1, dtype=torch.float64) for _ in rows]]
    columns += [[torch.tensor(a, dtype=torch.float64) for a in column] for column in zip(*rows, strict=True)]
    run(Formula(step, kinds, (0, 1)), columns, ())
    assert_same_numbers(rows, [y.item() for y in columns[1]], want, 4)
    for x, y in zip(*columns[:2], strict=True):
        assert same(x.item(), 1.0 + (y.item() - y.item()))


# What raises in Python, or is complex there, in the midst of other operations; s is 1.
MIXED = [
    (lambda s: 1 / (1 - s), INF),
    (lambda s: -1 / (s - 1) + 5, -INF),
    (lambda s: 1 / -(s - s), -INF),
    (lambda s: (s - s) / (s - s), NAN),
    (lambda s: 1 / (1 / formula.log(s)), 0.0),
    (lambda s: (s - 2) ** 0.5 + s, NAN),
    (lambda s: formula.sqrt((s - 9) ** 0.5) * 2, NAN),
    (lambda s: formula.maximum((s - 9) ** 0.5, 1.0), NAN),
    (lambda s: formula.abs((s - 9) ** (1 / 3)), NAN),
    (lambda s: formula.where((s - 9) ** 0.5 > 0, 2.0, 3.0), 3.0),
    (lambda s: formula.where(s > 5, (s - 9) ** 0.5, s), 1.0),
    (lambda s: formula.where(s < 5, s, s / (s - 1)), 1.0),
    (lambda s: formula.exp(1000 * s) ** -1 + 2, 2.0),
    (lambda s: 2 / formula.minimum(1 / (s - s), 4.0), 0.5),
    (lambda s: (10 * s) ** 308 * 10, INF),
    (lambda s: (-10 * s) ** 309, -INF),
    (lambda s: (s - 1) ** -3, INF),
    (lambda s: (-(s - s)) ** -3, -INF),
]


@pytest.mark.parametrize("run", RUNS)
def test_what_python_has_no_number_for_in_the_midst_of_others(run):
    for rows in [[row] for row in MIXED] if run in (foreach, loop) else [MIXED]:  # one kernel for all

        def step(x, s, rows=rows):
            return tuple(x + function(s) for function, _ in rows)

        formula = Formula(step, ("array", "scalar"), tuple(range(2, 2 + len(rows))))
        outputs = [[torch.empty(2, dtype=torch.float64)] for _ in rows]
        run(formula, [[torch.zeros(2, dtype=torch.float64)], [torch.tensor(1.0, dtype=torch.float64)], *outputs], ())
        for (output,), (_, want) in zip(outputs, rows, strict=True):
            assert all(same(y, want) for y in output.tolist()), (MIXED.index(rows[0]), output, want)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("t, want", [(1.0, 7.0), (2.0, 1.0), (NAN, 1.0)])
def test_a_comparison_of_numbers_takes_one_of_two_arrays(run, t, want):
    """Also where each of them is stored in the place of the other, or one is a number."""

    def swapped(x, y, z, t):
        return where(t < 2, y, x), where(t < 2, x, y), where(t < 2, 7.0, x)

    columns = [[torch.full((n,), value) for n in (3, 0, 1)] for value in (1.0, 7.0, 5.0)]
    columns += [[torch.tensor(t) for _ in range(3)]]
    run(Formula(swapped, ("array",) * 3 + ("scalar",), (0, 1, 2)), columns, ())
    for x, y, z in zip(*columns[:3], strict=True):
        assert x.tolist() == [want] * len(x)
        assert y.tolist() == [8.0 - want] * len(x)
        assert z.tolist() == [want] * len(x)


@pytest.mark.parametrize("run", [foreach, loop])
def test_errors_of_a_formula_on_numbers_are_its_own(run):
    def wrong(x, s):
        return x + {}[s]

    with pytest.raises(KeyError) as raised:
        run(Formula(wrong, ("array", "scalar"), (0,)), [[torch.ones(1)], [torch.tensor(1.0)]], ())
    assert raised.value.__context__ is None


# ---------------------------------------------------------------------------- the engines' functions over all floats

every_compiler = pytest.mark.parametrize(
    "device",
    [
        pytest.param("cpu", marks=pytest.mark.needs_compiler),
        pytest.param("interpreter", marks=pytest.mark.needs_interpreter),
        pytest.param("cuda", marks=pytest.mark.gpu),
    ],
    indirect=True,
)


@pytest.fixture
def slow(device, monkeypatch):
    """Whether the interpreter computes. It does so with large blocks, which cost it as much as small ones."""
    slow = COMPILED[device].launch is TritonLaunch and device == "cpu"
    for name in ("BLOCK", "CHUNK") if slow else ():
        monkeypatch.setattr(triton_engine, name, 1 << 16)
    return slow


# Every 257th of all 2^32 bit patterns: an odd stride, so that every exponent sees every kind of mantissa; with the
# patterns around each power of two, and the points where the code of an engine changes its way. In the interpreter
# every 1021st.
STRIDE, STRIDE_OF_SLOW = 257, 1021
CHUNK = 1 << 20
TRANSCENDENTAL = ("exp", "expm1", "log", "log1p", "softplus", "tanh")


def neighbours(patterns, reach=4):
    wide = np.asarray(patterns, np.int64)[:, None] + np.arange(-reach, reach + 1)
    return (wide.ravel() % 2**32).astype(np.uint32)


def special_patterns():
    powers = np.arange(512, dtype=np.int64) << 23  # all exponents, both signs; 0, subnormals, infinities and NaNs
    turns = [0.3, 0.5, 1.0, 2**-24, 10.0, 16.6, 20.0, 87.3, 88.7228, 89.0, 103.97, 105.0, math.sqrt(0.5), math.sqrt(2)]
    turns = np.array([*turns, *(-np.array(turns)), *(np.arange(-152, 130) * math.log(2)), *np.arange(-150.5, 129.5)])
    return np.concatenate([neighbours(powers), neighbours(turns.astype(np.float32).view(np.uint32), 64)])


def all_patterns(slow):
    stride = STRIDE_OF_SLOW if slow else STRIDE
    for start in range(0, 2**32, CHUNK * stride):
        yield np.arange(start, min(start + CHUNK * stride, 2**32), stride, dtype=np.uint32)
    yield special_patterns()


def elementwise(function, source, target, device="cpu"):
    """A launch there of y = function(x) for one x and y, both on the CPU."""
    launch = COMPILED[device].launch(Formula(function, ("array",), (1,)))

    def run(x):
        y = torch.empty(x.shape, dtype=target, device=device)
        launch([[x.to(device, source)], [y]], ())
        return y.cpu()

    return run


def ulps(got, want, mantissa, smallest):
    """Distance in units in the last place of `want`; what is beyond the range counts as the next power of two."""
    limit = want.dtype.type(2.0) ** (127 if mantissa == 23 else 1023) * 2
    got, want = np.clip(got.astype(want.dtype), -limit, limit), np.clip(want, -limit, limit)
    _, exponent = np.frexp(want)
    unit = np.ldexp(want.dtype.type(1.0), np.maximum(exponent - 1 - mantissa, smallest))
    return np.abs(got - want) / unit


@every_compiler
@pytest.mark.parametrize("name", TRANSCENDENTAL)
def test_float32_functions_are_within_2_ulp_over_all_floats(name, device, slow):
    run, function = elementwise(getattr(formula, name), torch.float32, torch.float32, device), numpy_function(name)
    for patterns in all_patterns(slow):
        x = patterns.view(np.float32)
        got = run(torch.from_numpy(x)).numpy()
        with np.errstate(all="ignore"):
            want = function(x.astype(np.float64))
            nan = np.isnan(want)
            assert np.array_equal(np.isnan(got), nan)
            wrong_sign = (np.signbit(got) != np.signbit(want)) & ~nan
            assert not wrong_sign.any(), x[wrong_sign][:5]
            error = ulps(got[~nan], want[~nan], 23, -149)
        worst = error.argmax() if error.size else 0
        assert error.size == 0 or error[worst] <= 2, (name, float(x[~nan][worst]).hex(), error[worst])


# In float64 those of the C engine take as few operations as 2 ulp allow.
BOUNDS = {"exp": 1, "expm1": 1.5, "log": 1, "log1p": 1.5, "softplus": 2, "tanh": 2}
# Triton's exp and log are the vendor's (in the interpreter NumPy's), 1 ulp from the correctly rounded value. Kahan's
# expm1 and log1p divide by one of them and multiply: 1/2 ulp for each, and 1/2 for the difference of rounded numbers.
# softplus adds what the exponential inside errs by; tanh, one more sum and quotient.
TRITON_BOUNDS = {"exp": 1.5, "expm1": 3, "log": 1.5, "log1p": 3, "softplus": 4, "tanh": 4}


@every_compiler
@pytest.mark.parametrize("name", BOUNDS)
def test_float64_functions_are_good_to_a_few_ulp(name, device, slow):
    # The reference has 11 bits more than a double.
    bound = (BOUNDS if COMPILED[device].launch is CLaunch else TRITON_BOUNDS)[name]
    numbers = np.random.default_rng(0)
    patterns = numbers.integers(0, 2**64, 100_000, dtype=np.uint64)
    edges = [0.0, -0.0, INF, -INF, NAN, 5e-324, -5e-324, 2**-1022, -1.0, 1.0, 709.78, 709.79, -745.13, -745.14, 1e308]
    uniform, normal = numbers.uniform(-750, 750, 100_000), numbers.normal(size=100_000)
    small = np.exp(numbers.uniform(-40, 1, 100_000)) * numbers.choice([-1, 1], 100_000)
    x = np.concatenate([patterns.view(np.float64), uniform, normal, small, edges, *map(neighbours_of, TURNS)])
    got = elementwise(getattr(formula, name), torch.float64, torch.float64, device)(torch.from_numpy(x)).numpy()
    with np.errstate(all="ignore"):
        want = numpy_function(name)(x.astype(np.longdouble))
        nan = np.isnan(want)
        assert np.array_equal(np.isnan(got), nan)
        assert np.array_equal(np.signbit(got)[~nan], np.signbit(want)[~nan])
        assert ulps(got[~nan], want[~nan], 52, -1074).max() <= bound


# Where the double functions of the C engine change their way
TURNS = [sign * turn for sign in (1, -1) for turn in (0.0, 2.0**-54, 20.0, 40.0, 710.0, 1400.0, 2.0**53, 2.0**1023)]
TURNS += [math.sqrt(0.5) - 1, math.sqrt(2) - 1, math.sqrt(2), -1.0, 1e308]
TURNS += [k * math.log(2) / 2 for k in range(-50, 51)]


def neighbours_of(x, reach=8):
    """The doubles around x."""
    bits = np.array([x]).view(np.int64) + np.arange(-reach, reach + 1)
    return bits.view(np.float64)


def powers(base, exponent, dtype, device):
    """base ** exponent of two arrays, by the engine there."""
    launch = COMPILED[device].launch(Formula(lambda x, y: x**y, ("array", "array"), (2,)))
    columns = [[torch.from_numpy(values).to(device, dtype)] for values in (base, exponent)]
    out = torch.empty_like(columns[0][0])
    launch([*columns, [out]], ())
    return out.cpu().double().numpy()


# (Not with 2^53: as a float it is even, 2^53 - 1 is not.)
BASES = [0.0, 5e-324, 2.0**-1022, 2.0**-30, 0.5, 1 - 2.0**-20, 1.0, 1 + 2.0**-20, 1.5, 2.0, 3.0, 1e30, 1e308, INF, NAN]
BASES += [-base for base in BASES]
EXPONENTS = [0.0, 2.0**-30, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 63.0, 64.0, 1e5, 1e5 + 1, 1e30, 1e308, INF, NAN]
EXPONENTS += [-exponent for exponent in EXPONENTS]


@every_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_powers_are_those_of_c(dtype, device, slow):
    """Of negative numbers, zeros of both signs, infinities, NaN and subnormals, to integers, odd and even, and not."""
    base, exponent = (grid.ravel() for grid in np.meshgrid(BASES, EXPONENTS))
    base, exponent = (torch.from_numpy(t).to(dtype).double().numpy() for t in (base, exponent))
    got = powers(base, exponent, dtype, device)
    with np.errstate(all="ignore"):
        want = torch.from_numpy(np.power(base, exponent)).to(dtype).double().numpy()
    exact = (want == 0) | ~np.isfinite(want)
    for rows in zip(base[exact], exponent[exact], got[exact], want[exact], strict=True):
        assert same(*rows[2:]), rows
    info = torch.finfo(dtype)
    np.testing.assert_allclose(got, want, rtol=4 * info.eps, atol=info.tiny * info.eps)


@every_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("exponent", [*SMALL_POWERS, 0, 6, -4, 0.5], ids=str)
def test_powers_to_a_small_integer_are_those_of_c(exponent, dtype, device, slow):
    """Products with a rounding for each factor, also of reciprocals; over the whole range, subnormal powers too."""
    numbers = np.random.default_rng(0)
    bases = np.array([*BASES, *(sign * 2.0**e for e in (-500, -300, -126, -64, -43, 43, 64, 100) for sign in (1, -1))])
    around = np.outer(bases[np.abs(bases) < 1e300], numbers.uniform(1, 2, 20)).ravel()
    x = torch.from_numpy(np.concatenate([numbers.uniform(-2, 2, 5000), bases, around])).to(dtype)
    got = elementwise(lambda x: x**exponent, dtype, dtype, device)(x).double().numpy()
    with np.errstate(all="ignore"):
        exact = x.numpy().astype(np.longdouble) ** np.full(len(x), exponent, np.longdouble)
        want = torch.from_numpy(exact.astype(np.float64)).to(dtype).double().numpy()
        edge = (want == 0) | ~np.isfinite(want)
        for rows in zip(x[edge].tolist(), got[edge], want[edge], strict=True):
            assert same(*rows[1:]), rows
        roundings = max(2, exponent, -2 * exponent)
        info = torch.finfo(dtype)
        limit = roundings * info.eps * (np.abs(want) / 2 + info.tiny)
        assert (np.abs(got - exact) <= limit)[~edge].all()


@every_compiler
def test_powers_are_good_to_2_ulp(device, slow):
    """Also where the exponent is large, and with it what the logarithm errs by."""
    numbers = np.random.default_rng(0)
    base = np.concatenate([np.exp(numbers.uniform(-20, 20, 50_000)), 1 + numbers.normal(size=50_000) * 1e-3])
    exponent = np.concatenate([numbers.uniform(-30, 30, 50_000), numbers.uniform(-3e4, 3e4, 50_000)])
    got, want = powers(base, exponent, torch.float64, device), base.astype(np.longdouble) ** exponent
    regular = (want > 1e-300) & (want < 1e300)  # with a subnormal exponential, its own error is more
    assert ulps(got[regular], want[regular], 52, -1074).max() <= 2


@every_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("function, reference", [
    (formula.sqrt, np.sqrt),
    (lambda x: 3 / x, lambda x: x.dtype.type(3) / x),
    (lambda x: x / (x + 1), lambda x: x / (x + 1)),
], ids=["sqrt", "3 / x", "x / (x + 1)"])  # fmt: skip
def test_square_roots_and_quotients_are_correctly_rounded(function, reference, dtype, device, slow):
    x = torch.from_numpy(np.arange(0x3F800000, 0x40800000, 71 if slow else 7, dtype=np.int32).view(np.float32)).to(
        dtype
    ) * (1 / 3)
    assert torch.equal(elementwise(function, dtype, dtype, device)(x), torch.from_numpy(reference(x.numpy())))


# ------------------------------------------------------------------------------------------- half types in memory


def half_patterns(dtype):
    return torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)


def assert_same_bits(got, want):
    """Equal bit for bit, NaN for NaN."""
    integer = {2: torch.int16, 4: torch.int32}[got.element_size()]
    assert torch.equal(got.isnan(), want.isnan())
    equal = got.view(integer) == want.view(integer)
    assert (equal | want.isnan()).all()


@every_compiler
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_half_is_loaded_and_stored_exactly(dtype, device, slow):
    halves = half_patterns(dtype)
    loaded = elementwise(lambda x: x, dtype, torch.float32, device)(halves)
    assert_same_bits(loaded, halves.float())
    assert_same_bits(elementwise(lambda x: x, torch.float32, dtype, device)(loaded), halves)
    assert_same_bits(elementwise(lambda x: x, dtype, dtype, device)(halves), halves)


@every_compiler
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_floats_round_to_half_as_in_torch(dtype, device, slow):
    run = elementwise(lambda x: x, torch.float32, dtype, device)
    for patterns in all_patterns(slow):
        x = torch.from_numpy(patterns.view(np.float32))
        assert_same_bits(run(x), x.to(dtype))


@every_compiler
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halfway_between_two_halves_goes_to_the_even_one(dtype, device, slow):
    magnitudes = half_patterns(dtype)[: 2**15]  # from 0 up to infinity, then NaN
    finite = magnitudes[magnitudes.isfinite()].double()
    top = finite[-1] + (finite[-1] - finite[-2])  # where infinity stands in for the next number
    middle = ((finite + torch.cat([finite[1:], top[None]])) / 2).float()  # exact: one bit more than a half has
    odd = torch.arange(len(finite)) % 2 == 1
    for x, up in [
        (middle.nextafter(torch.tensor(0.0)), torch.zeros_like(odd)),
        (middle, odd),
        (middle.nextafter(torch.tensor(INF)), torch.ones_like(odd)),
    ]:
        want = magnitudes.view(torch.int16)[: len(finite)] + up.to(torch.int16)
        for sign in (1, -1):
            got = elementwise(lambda x: x, torch.float32, dtype, device)(sign * x)
            assert torch.equal(got.view(torch.int16).int() & 0x7FFF, want.int())
            assert torch.equal(got.signbit(), torch.full_like(odd, sign < 0))
