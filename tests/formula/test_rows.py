"""The row engines against NumPy in extended precision: reductions over rows, for every shape, layout and dtype."""

import math
import threading
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import torch_lecture_ops.formula as vocabulary
from torch_lecture_ops.formula import (
    CLaunch,
    EngineUnavailable,
    Formula,
    FormulaError,
    c_rows,
    entry,
    exp,
    foreach,
    log,
    place,
    row_kernel,
    row_max,
    row_sum,
    trace,
    where,
)
from torch_lecture_ops.formula.c_engine import GRAIN
from torch_lecture_ops.formula.c_rows import ROW_MEMORY, RowKernel
from torch_lecture_ops.formula.compiled import COMPILED, TRITON
from torch_lecture_ops.formula.triton_engine import BLOCK
from torch_lecture_ops.formula.triton_rows import TRITON_ROW_MEMORY, WIDEST

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
needs_compiler = pytest.mark.needs_compiler
# By the engine of each place; what is about threads and costly values is the C engine's alone.
every_row_engine = pytest.mark.parametrize(
    "device",
    [
        pytest.param("cpu", marks=needs_compiler),
        pytest.param("interpreter", marks=pytest.mark.needs_interpreter),
        pytest.param("cuda", marks=pytest.mark.gpu),
    ],
    indirect=True,
)
INF, NAN = math.inf, math.nan
KINDS = {"a": "array", "s": "scalar", "t": "total"}
GUARD = 16  # elements around an output that must stay as they were


@pytest.fixture
def threads():
    """Sets the number of threads; afterwards it is what it was."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


class InNumPy:
    """The vocabulary of formulas on arrays whose last dimension is a row."""

    exp, expm1, log, log1p, sqrt, tanh = np.exp, np.expm1, np.log, np.log1p, np.sqrt, np.tanh
    abs, maximum, minimum, where = np.abs, np.maximum, np.minimum, np.where

    @staticmethod
    def row_sum(x):
        return x.sum(-1, keepdims=True)

    @staticmethod
    def row_max(x):
        return x.max(-1, keepdims=True, initial=-INF)

    @staticmethod
    def place(x):
        return np.broadcast_to(np.arange(x.shape[-1], dtype=x.dtype), x.shape)

    @staticmethod
    def entry(x, j):
        wall = np.full((*x.shape[:-1], 1), NAN)
        j = np.broadcast_to(j, wall.shape).astype(int)
        return np.take_along_axis(np.concatenate([wall, x, wall], -1), j.clip(-1, x.shape[-1]) + 1, -1)


class Case:
    """A formula of rows, written for any vocabulary f: `function(f, *columns, **hypers)`.

    Columns are "a" (an array, in [0.5, 2]) and "s" (one number a row, in [0.5, 2]); outputs also "t" (a total). `ulps`
    is the sum of the roundings on the longest way from an argument to a result, in units in the last place of
    max(|result|, floor): the values on the way are about 1, and where nothing cancels the floor is 0.
    """

    def __init__(self, name, function, columns, outputs, ulps, floor=1, **hypers):
        stores = tuple(range(len(columns), len(columns) + len(outputs)))
        kinds, self.outputs = tuple(KINDS[letter] for letter in columns), tuple(KINDS[letter] for letter in outputs)
        self.function, self.hypers, self.ulps, self.floor = function, hypers, ulps, floor
        bound = partial(function, vocabulary)
        self.formula = Formula(bound, kinds, stores, tuple(hypers), name, outputs=self.outputs)

    @property
    def kinds(self):
        return self.formula.columns


def moments(f, x, *, n, eps):
    """Three loops, of which each needs the one before; mean and variance are results, too."""
    mean = f.row_sum(x) / n
    variance = f.row_sum((x - mean) ** 2) / n
    return (x - mean) / f.sqrt(variance + eps), mean, variance


def softmax(f, x):
    e = f.exp(x - f.row_max(x))
    return e / f.row_sum(e)


def log_softmax(f, x):
    shifted = x - f.row_max(x)
    return shifted - f.log(f.row_sum(f.exp(shifted)))


def kept(f, x, y):
    """Three costly values, of which each is wanted in several loops, the last one two loops after its first use."""
    e, t = f.exp(-x), f.tanh(y)
    largest = f.row_max(e * t)
    p = f.log1p(e * largest)
    total = f.row_sum(p * t)
    return e * t / (1 + total), p + e, largest, total


def late(f, x):
    """A costly value that is wanted after a reduction first, and once more after the next one."""
    m = f.row_max(x)
    e = f.exp(x) * m / 8
    return e / (1 + f.row_max(e)), f.row_max(e)


def attention(f, x, v, a):
    """A reduction of reductions, with a scalar of the row in between."""
    weights = softmax(f, a * x)
    mean = f.row_sum(weights * v)
    return weights * (v - mean), mean, f.row_sum(weights * (v - mean) ** 2), mean * a


def entries(f, x, s):
    """Where there is no such place, NaN, the only number that differs from itself."""
    found = f.entry(x, 2), f.entry(x, s * 0 + 40) * s, f.entry(x, -1)
    return tuple(f.where(number == number, number, 0.25) for number in found)


CASES = [
    Case("row_sum", lambda f, x: f.row_sum(x), "a", "s", 0.5, floor=0),
    Case("row_max", lambda f, x: f.row_max(x), "a", "s", 0),
    Case("place", lambda f, x: f.place(x) / 4096, "a", "a", 0),  # within the range of float16
    Case("ramp", lambda f, x: (x * f.place(x) / 64, f.row_max(f.place(x) * x)), "a", "as", 0.5, floor=0),
    Case("shift", lambda f, x: x - f.row_max(x), "a", "a", 0.5),
    # exp errs by 2 ulp and the rounding of x - max, the reciprocal of the sum and the product by 1/2 each
    Case("softmax", softmax, "a", "a", 3.5, floor=0),
    Case("log_softmax", log_softmax, "a", "a", 3.5),
    # The mean is about 1 and rounded to the dtype of the loop; divided by a deviation of 0.4 that makes 1.25 ulp, with
    # those of x - mean, of the reciprocal and the product.
    Case("moments", moments, "a", "ass", 4, n=64.0, eps=2.0**-6),
    Case("kept", kept, "aa", "aass", 8),
    Case("late", late, "a", "as", 4),
    Case("attention", attention, "aas", "asst", 10),
    Case("scalars", lambda f, a, x, b: (a * x + b, a * b, a), "sas", "ast", 1.5, floor=0),
    Case("one", lambda f, x: (1.0, 0.25, 0.5), "a", "ast", 0),
    Case("same", lambda f, x, s: (x, s, s), "as", "ast", 0),
    Case("broadcast", lambda f, x: f.row_max(x), "a", "a", 0),
    Case("branch", lambda f, x, s: f.where(x > s, x, f.row_max(f.where(x <= s, x, 0.0))), "as", "a", 0),
    Case("label", lambda f, x, s: f.row_sum(f.where(f.place(x) == s * 0 + 2, x, 0.0)), "as", "s", 0),
    Case("entry", entries, "as", "sss", 0.5),
    Case("dot", lambda f, x, y, *, scale: f.row_sum(x * y) * scale, "aa", "t", 2, scale=0.125),
]
NAMED = {case.formula.name: case for case in CASES}
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.formula.name)


def compute_dtype(dtypes):
    return torch.float64 if torch.float64 in dtypes else torch.float32


def scalar_dtype(dtype):
    """Of what is one number a row: a sum may leave the range of float16."""
    return torch.float32 if dtype is torch.float16 else dtype


def sample(kinds, shape, dtype, seed=0, device="cpu"):
    """A tensor for each column, contiguous: rows one after the other, the last one maybe shorter."""
    rows, length, last = shape
    count = (rows - 1) * length + last if rows else 0
    generator = torch.Generator().manual_seed(seed)
    tensors = []
    for kind in kinds:
        values = torch.rand(count if kind == "array" else rows, generator=generator, dtype=torch.float64) * 1.5 + 0.5
        tensors.append(values.to(device, dtype))
    return tensors


def guarded(size, dtype, device="cpu"):
    """An output between guards: all of it, and the part to be written."""
    whole = torch.full((size + 2 * GUARD,), 77, dtype=dtype, device=device)
    return whole, whole[GUARD : GUARD + size]


def launch(formula, shape, columns, numbers=(), interleaved=range(0)):
    """Run the kernel of their place over columns given as (first element, distance of the rows); the totals.

    Those that come as tensors are numbers in double, on the device of the columns.
    """
    dtypes = [tensor.dtype for tensor, _ in columns]
    if interleaved:
        dtypes[interleaved[0] : interleaved[0] + 1] = [dtypes[interleaved[0]]] * len(interleaved)
    device = columns[0][0].device
    kernel = COMPILED[device.type].rows(formula, tuple(dtypes), interleaved)
    call = kernel.prepare(shape, [(stride, 0) for _, stride in columns], device)
    totals = call([tensor.data_ptr() for tensor, _ in columns], numbers)
    if COMPILED[device.type].rows is not row_kernel:
        assert all((t.dtype, t.shape, t.device) == (torch.float64, (), device) for t in totals)
    return [float(total) for total in totals]


def compute(case, shape, columns, dtype):
    """The outputs in memory, and the totals; what lies around the outputs must not have changed."""
    rows, length, last = shape
    count = (rows - 1) * length + last if rows else 0
    wholes, outputs = [], []
    for kind in case.outputs:
        if kind != "total":
            size, output_dtype = (count, dtype) if kind == "array" else (rows, scalar_dtype(dtype))
            whole, output = guarded(size, output_dtype, columns[0].device)
            wholes.append(whole)
            outputs.append((output, length if kind == "array" else 1))
    inputs = [(t, length if kind == "array" else 1) for kind, t in zip(case.kinds, columns, strict=True)]
    totals = launch(case.formula, shape, [*inputs, *outputs], tuple(case.hypers.values()))
    for whole in wholes:
        assert (whole[:GUARD] == 77).all()
        assert (whole[-GUARD:] == 77).all()
    return [output for output, _ in outputs], list(totals)


def reference(case, shape, columns):
    """The same in extended precision: all rows but the last one, then that."""
    rows, length, last = shape
    parts = [(slice(0, rows - 1), rows - 1, length), (slice(rows - 1, rows), 1, last)]
    outputs, totals = [[] for kind in case.outputs if kind != "total"], [0] * case.outputs.count("total")
    for chosen, count, size in parts if rows else ():
        arguments = []
        for kind, tensor in zip(case.kinds, columns, strict=True):
            values = tensor.double().cpu().numpy().astype(np.longdouble)
            if kind == "array":
                start = chosen.start * length
                arguments.append(values[start : start + count * size].reshape(count, size))
            else:
                arguments.append(values[chosen].reshape(count, 1))
        with np.errstate(all="ignore"):
            results = case.function(InNumPy, *arguments, **case.hypers)
        results = results if isinstance(results, tuple) else (results,)
        output, total = iter(outputs), 0
        for kind, result in zip(case.outputs, results, strict=True):
            if kind == "total":
                totals[total] += np.broadcast_to(result, (count, 1)).sum()
                total += 1
            else:
                shape_of = (count, size if kind == "array" else 1)
                next(output).append(np.broadcast_to(result, shape_of).reshape(-1))
    return [np.concatenate(output) if output else np.zeros(0) for output in outputs], totals


def assert_close(case, shape, results, expected, dtype, text=""):
    """Within the ulps of the case, half an ulp of what is stored, and what adding n numbers may cost.

    n positive numbers added one by one in double err by n/2 ulp of a double at most.
    """
    (outputs, totals), (wanted, sums) = results, expected
    rows, length, _ = shape
    eps = torch.finfo(compute_dtype([dtype])).eps
    for got, want in zip(outputs, wanted, strict=True):
        value, want = got.double().cpu().numpy(), want.astype(np.float64)
        assert (np.isfinite(value) == np.isfinite(want)).all(), text
        odd = ~np.isfinite(want)
        np.testing.assert_array_equal(value[odd], want[odd], text)
        value, want = value[~odd], want[~odd]
        magnitude, store = np.maximum(np.abs(want), case.floor), torch.finfo(got.dtype)
        stored = store.eps / 2 * np.maximum(np.abs(want), store.smallest_normal)
        allowed = (case.ulps * eps + length * 2.0**-53) * magnitude + stored
        off = np.abs(value - want)
        assert (off <= allowed).all(), (text, np.max(off - allowed))
    for got, want in zip(totals, sums, strict=True):
        np.testing.assert_allclose(got, np.float64(want), rtol=case.ulps * eps + rows * (length + 1) * 2.0**-53, atol=0)


SMALL = [(3, length, max(0, length - 2)) for length in range(71)] + [(1, length, length) for length in range(0, 71, 7)]
SMALL += [(0, 0, 0), (0, 5, 5), (1, 0, 0), (4, 0, 0), (5, 4, 0)]
LARGE = [(1, 40_003, 40_003), (2, 20_000, 17), (5_000, 7, 7), (40_000, 1, 1), (40, 300, 299), (70_000, 0, 0)]
# For the interpreter, which takes its time: every dtype has a quarter of the lengths, and all of them together have
# all; as large ones those at which a program of Triton takes more rows, fewer threads or another turn of a loop.
SLOW = {dtype: SMALL[k:71:4] + SMALL[-5:] for k, dtype in enumerate(DTYPES)}
SLOW_LARGE = [
    (70, 16, 16),
    (2, 48, 48),
    (5, BLOCK, BLOCK - 1),
    (2, WIDEST, 1),
    (2, WIDEST + 1, WIDEST),
    (1, 2 * WIDEST + 17, 0),
]


def in_interpreter(device):
    return device == "cpu" and COMPILED["cpu"].rows is not row_kernel


@pytest.mark.sweep
@every_row_engine
@every_dtype
@every_case
def test_formulas_agree_with_numpy_over_lengths_0_to_70(case, dtype, device):
    for shape in SLOW[dtype] if in_interpreter(device) else SMALL:
        columns = sample(case.kinds, shape, dtype, device=device)
        results = compute(case, shape, columns, dtype)
        assert_close(case, shape, results, reference(case, shape, columns), dtype, str(shape))


@pytest.mark.sweep
@every_row_engine
@every_dtype
@every_case
def test_formulas_agree_with_numpy_over_large_rows_and_many_rows(case, dtype, device):
    for shape in SLOW_LARGE if in_interpreter(device) else LARGE + SLOW_LARGE:
        columns = sample(case.kinds, shape, dtype, device=device)
        results = compute(case, shape, columns, dtype)
        assert_close(case, shape, results, reference(case, shape, columns), dtype, str(shape))


@needs_compiler
@every_case
def test_the_number_of_threads_changes_no_bit(case, threads):
    for shape in [(4, 3 * GRAIN, 100), (9 * GRAIN, 1, 1), (1_000, 333, 5), (200_000, 0, 0)]:
        columns = sample(case.kinds, shape, torch.float32)
        found = []
        for number in (1, 2, 3, 8):
            threads(number)
            found.append(compute(case, shape, columns, torch.float32))
        outputs, totals = found[0]
        for others, other_totals in found[1:]:
            assert other_totals == totals
            assert all(torch.equal(a, b) for a, b in zip(outputs, others, strict=True))


# ------------------------------------------------------------------------------------- the same on torch's operators


@every_dtype
@every_case
def test_the_formula_on_tensors_gives_the_same_numbers(case, dtype):
    for length in (1, 2, 7, 64):
        shape = (5, length, length)
        columns = sample(case.kinds, shape, dtype)
        tensors = [
            t.view(5, length if kind == "array" else 1).to(compute_dtype([dtype]))
            for kind, t in zip(case.kinds, columns, strict=True)
        ]
        results = case.formula(tuple(tensors), tuple(case.hypers.values()))
        wanted, sums = reference(case, shape, columns)
        outputs, total, eps = iter(wanted), iter(sums), torch.finfo(compute_dtype([dtype])).eps
        for kind, result in zip(case.outputs, results, strict=True):
            if kind == "total":
                got, want = np.float64(torch.as_tensor(result).expand(5, 1).double().sum()), np.float64(next(total))
            else:
                size = (5, length if kind == "array" else 1)
                got = torch.as_tensor(result).expand(size).double().numpy().reshape(-1)
                want = next(outputs).astype(np.float64)
            # torch adds a row in its own dtype: n/2 ulp more. Its exp, tanh and division are as good as ours.
            allowed = (case.ulps + length / 2 + 1) * eps * np.maximum(np.abs(want), case.floor)
            assert (np.abs(got - want) <= allowed).all(), (length, np.max(np.abs(got - want)))


def test_places_on_tensors_are_as_exact_as_the_row():
    x = torch.rand(2, 7, dtype=torch.float64)
    expected = x.numpy() * np.exp(-np.arange(7) / 3)
    np.testing.assert_allclose((x * exp(-place(x) / 3)).numpy(), expected, rtol=1e-15)  # 4 roundings of 1.1e-16


# ------------------------------------------------------------------------------------------------------- dtypes


SCALAR_DTYPES = [*DTYPES, torch.int64, torch.uint8]


@pytest.mark.sweep
@every_row_engine
@pytest.mark.parametrize("scalar", SCALAR_DTYPES, ids=str)
@pytest.mark.parametrize("array", SCALAR_DTYPES, ids=str)
def test_columns_of_every_dtype_go_together(array, scalar, device):
    """Small integers, which all of them hold exactly: every result is exact."""

    def formula(x, s):
        return x + s, 2 * s + 1, row_sum(x * s), row_max(x) - s, row_sum(x * s)

    outputs = ("array", "scalar", "scalar", "scalar", "total")
    formula = Formula(formula, ("array", "scalar"), tuple(range(2, 7)), outputs=outputs)
    x, s = torch.arange(21, device=device).reshape(3, 7) % 5 + 3, torch.tensor([1, 0, 3], device=device)
    columns = [(x.to(array), 7), (s.to(scalar), 1), (torch.empty_like(x, dtype=array), 7)]
    columns += [(torch.empty_like(s, dtype=dtype), 1) for dtype in (scalar, scalar, scalar)]
    totals = launch(formula, (3, 7, 7), columns)
    expected = [x + s[:, None], 2 * s + 1, (x * s[:, None]).sum(1), x.amax(1) - s]
    for (got, _), want in zip(columns[2:], expected, strict=True):
        assert got.tolist() == want.tolist()
    assert list(totals) == [(x * s[:, None]).sum().item()]


@every_row_engine
def test_a_label_of_any_size_is_compared_exactly(device):
    """Scalar columns are read in double: integers up to 2^53, and the places of a row up to 2^24 in float32."""
    formula = Formula(
        lambda x, t: (where(place(x) == t, 1.0, 0.0), where(t == 2.0**40 + 1, 1.0, 0.0)),
        ("array", "scalar"),
        (2, 3),
        outputs=("array", "scalar"),
    )
    labels = torch.tensor([0, 4, -1, 2**40 + 1, 2**40, 5, -(2**63)], device=device)
    x, hot, big = torch.zeros(7, 5, device=device), torch.empty(7, 5, device=device), torch.empty(7, device=device)
    launch(formula, (7, 5, 5), [(x, 5), (labels, 1), (hot, 5), (big, 1)])
    assert hot.nonzero().tolist() == [[0, 0], [1, 4]]
    assert big.tolist() == [0, 0, 0, 1, 0, 0, 0]


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (7, 15), (300, 16), (5000, 17), (129, 1000), (2, GRAIN + 3)])
def test_sums_over_rows(shape, dtype, threads):
    """For each place of a row, in double and rounded once; with results of the other kinds beside, for any threads."""
    rows, length = shape
    x, y = (torch.randn(shape).to(dtype) for _ in range(2))
    a, s = torch.randn(length).to(dtype), torch.randn(rows).to(dtype)
    formula = Formula(
        lambda x, y, a, s: (x * y, a * x, s * (x - row_sum(y)), row_sum(x), row_sum(y)),
        ("array", "array", "array", "scalar"),
        (4, 5, 6, 7, 8),
        outputs=("sum", "array", "sum", "scalar", "total"),
    )
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    seen = []
    for number in (1, 2, 5):
        threads(number)
        sums = [torch.full((length + 2 * GUARD,), 7, dtype=dtype) for _ in range(2)]
        array, of_rows = torch.empty(shape, dtype=dtype), torch.empty(rows, dtype=dtype)
        inner = [total[GUARD : GUARD + length] for total in sums]
        columns = [(x, length), (y, length), (a, 0), (s, 1)]
        columns += [(inner[0], 0), (array, length), (inner[1], 0), (of_rows, 1)]
        totals = launch(formula, (rows, length, length), columns)
        assert all((total[k] == 7).all() for total in sums for k in (slice(GUARD), slice(GUARD + length, None)))
        seen.append([*inner, array, of_rows, torch.tensor(totals)])
    for other in seen[1:]:
        assert all(map(torch.equal, seen[0], other))
    means = y.double().sum(-1, keepdim=True).to(wide)
    terms = x.to(wide) * y.to(wide), s.to(wide)[:, None] * (x.to(wide) - means)
    for got, of_rows, rounded in zip(seen[0], terms, (0, 2 * torch.finfo(wide).eps), strict=False):  # s (x - Σ y) is
        want, size = of_rows.double().sum(0), of_rows.double().abs().sum(0)
        limit = torch.finfo(dtype).eps / 2 * want.abs() + (1e-15 * rows + rounded) * size + torch.finfo(dtype).tiny
        assert ((got.double() - want).abs() <= limit).all()


@pytest.mark.needs_interpreter
def test_the_triton_engine_has_no_sums_over_rows():
    formula = Formula(lambda x: x, ("array",), (1,), outputs=("sum",))
    with pytest.raises(EngineUnavailable, match="no sums over rows"):
        TRITON.rows(formula, (torch.float32,) * 2, range(0))


@needs_compiler
def test_a_long_row_knows_its_places():
    """Up to 2^24, as far as a float32 counts; beyond, to the nearest float32."""
    length = 2**24 + 8
    formula = Formula(lambda x, t: row_sum(where(place(x) == t, x, 0.0)), ("array", "scalar"), (2,), outputs=("total",))
    x, places = torch.zeros(length, dtype=torch.uint8), torch.arange(length).float()
    x[-16:] = torch.arange(1, 17)
    for k in (*range(1, 17), length):
        totals = launch(formula, (1, length, length), [(x, length), (torch.tensor([length - k]), 1)])
        assert list(totals) == [x[places == float(length - k)].sum()]


@every_row_engine
def test_half_types_are_computed_in_float32_and_rounded_once(device):
    x = torch.tensor([[1.0, 2.0**-9]] * 2, dtype=torch.bfloat16, device=device)  # 1 + 2^-9 is no bfloat16
    formula = Formula(lambda x: (row_sum(x) - 1, row_sum(x)), ("array",), (1, 2), outputs=("scalar", "total"))
    y = torch.empty(2, dtype=torch.bfloat16, device=device)
    totals = launch(formula, (2, 2, 2), [(x, 2), (y, 1)])
    assert y.tolist() == [2.0**-9] * 2
    assert list(totals) == [2 + 2.0**-8]


def test_the_row_engines_hold_labels_and_bytes():
    assert set(ROW_MEMORY) == set(TRITON_ROW_MEMORY) == set(SCALAR_DTYPES)


class OnDevice(torch.Tensor):
    """A hyper that the kernel reads itself. In the interpreter it can read what lies on the CPU."""

    is_cpu = False


@every_row_engine
@pytest.mark.parametrize("chosen", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_hypers_may_be_numbers_on_the_device(dtype, chosen, device):
    """Such as the upstream gradient of a loss: nobody waits for them. As a hyper of the C engine they are numbers."""
    formula = Formula(
        lambda x, *, g, n: (g / n * x, row_sum(x) / n, row_sum(x) * g),
        ("array",),
        (1, 2, 3),
        ("g", "n"),
        outputs=("array", "scalar", "total"),
    )
    x = torch.arange(1.0, 16.0, device=device).reshape(3, 5)
    hypers = [
        torch.tensor(h, dtype=dtype, device=device).as_subclass(OnDevice) if at else h
        for h, at in zip((0.5, 4.0), chosen, strict=True)
    ]
    for turn in (1, 2):  # the same kernel, with another number in the same place
        y, sums = torch.empty_like(x), torch.empty(3, device=device)
        totals = launch(formula, (3, 5, 5), [(x, 5), (y, 5), (sums, 1)], hypers)
        assert torch.equal(y, x * (0.5 * turn / 4))
        assert torch.equal(sums, x.sum(1) / 4)
        assert totals == [0.5 * turn * 120]
        hypers[0] *= 2


# ------------------------------------------------------------------------------------------------------- totals


TOTAL = Formula(lambda x: row_sum(x), ("array",), (1,), outputs=("total",))
TOTAL_OF_SCALARS = Formula(lambda s: (s, 1.0), ("scalar",), (1, 2), outputs=("total", "total"))


@needs_compiler
@pytest.mark.parametrize("length", [1, 3, 784, GRAIN, 10**7])
def test_totals_are_added_in_double(length):
    """10^7 equal numbers: one by one, float32 would be 10 % off, and pairwise 1e-7."""
    count, value = 10**7, torch.tensor(0.1).item()
    x = torch.full((count,), value)
    rows = -(-count // length)
    (total,) = launch(TOTAL, (rows, length, count - (rows - 1) * length), [(x, length)])
    # Each of count additions errs by 2^-53 at most, in one direction for equal numbers in the worst case; blocks of
    # GRAIN numbers, added up in blocks, bring that down to GRAIN + count / GRAIN additions.
    assert abs(total / (count * value) - 1) <= (max(GRAIN, length) + count / GRAIN) * 2.0**-53


@needs_compiler
def test_totals_of_scalars_and_of_constants():
    count = 1_000_003
    s = torch.full((count,), 0.1)
    total, ones = launch(TOTAL_OF_SCALARS, (count, 0, 0), [(s, 1)])
    assert ones == count
    assert abs(total / (count * s[0].double().item()) - 1) <= (GRAIN + count / GRAIN) * 2.0**-53


@needs_compiler
@pytest.mark.parametrize("shape", [(7, GRAIN, 3), (100_000, 5, 2), (2, 10**6, 10**6), (300_000, 1, 1), (65, 512, 511)])
def test_totals_do_not_depend_on_the_number_of_threads(shape, threads):
    """Bit for bit, over numbers of all magnitudes, whose sum depends on every change of order."""
    (x,) = sample(("array",), shape, torch.float32)
    x = torch.exp((x - 1.25) * 60) * torch.where(x > 1.2, 1.0, -1.0)
    found = set()
    for number in (1, 2, 3, 4, 7, 16):
        threads(number)
        found |= {launch(TOTAL, shape, [(x, shape[1])])[0] for _ in range(3)}
    assert len(found) == 1


@every_row_engine
def test_no_rows_have_the_total_0(device):
    assert launch(TOTAL, (0, 7, 7), [(torch.empty(0, device=device), 7)]) == [0.0]


@every_row_engine
@pytest.mark.parametrize("shape", [(37, 333, 5), (300, 3, 2), (3, 2 * WIDEST + 1, 17), (1, 100, 100)], ids=str)
def test_totals_of_many_programs_are_added_in_double_and_always_alike(shape, device):
    """1 + 2^-30 is no float32; and twice the same bits, over numbers whose sum depends on every change of order."""
    (x,) = sample(("array",), shape, torch.float32, device=device)
    x = torch.exp((x - 1.25) * 60) * torch.where(x > 1.2, 1.0, -1.0)
    found = [launch(TOTAL, shape, [(x, shape[1])]) for _ in range(2)]
    assert found[0] == found[1]
    off = abs(found[0][0] - math.fsum(x.tolist()))
    assert off <= x.double().abs().sum().item() * len(x) ** 0.5 * 2.0**-53  # roundings that add up at random
    ones, tiny = torch.ones_like(x), 2.0**-30
    ones[:1] += 1
    ones[1:] *= tiny
    assert launch(TOTAL, shape, [(ones, shape[1])]) == [2 + (len(x) - 1) * tiny]


@every_row_engine
def test_rows_of_no_elements(device):
    outputs = ("scalar", "scalar", "total")
    formula = Formula(lambda x: (row_sum(x), row_max(x), row_sum(x)), ("array",), (1, 2, 3), outputs=outputs)
    x, sums, largest = (torch.empty(count, device=device) for count in (0, 3, 3))
    totals = launch(formula, (3, 0, 0), [(x, 0), (sums, 1), (largest, 1)])
    assert (sums.tolist(), largest.tolist(), list(totals)) == ([0] * 3, [-INF] * 3, [0])


# ------------------------------------------------------------------------------------------------------- layouts


CENTER = Case("center", lambda f, x, y: (x - f.row_max(x * y), f.row_sum(x * y)), "aa", "as", 1)


@every_row_engine
@every_dtype
def test_one_row_serves_all_rows(dtype, device):
    x, w = sample(("array", "array"), (6, 9, 9), dtype, device=device)
    out, sums = x.new_empty(6, 9), x.new_empty(6, dtype=scalar_dtype(dtype))
    launch(CENTER.formula, (6, 9, 9), [(x, 9), (w[:9], 0), (out, 9), (sums, 1)])
    expected = compute(CENTER, (6, 9, 9), [x, w[:9].repeat(6)], dtype)[0]
    assert torch.equal(out.view(-1), expected[0])
    assert torch.equal(sums, expected[1])


@every_row_engine
def test_one_scalar_serves_all_rows(device):
    formula = Formula(lambda x, s: (x * s, s), ("array", "scalar"), (2, 3), outputs=("array", "total"))
    x, out = torch.rand(5, 3, device=device), torch.empty(5, 3, device=device)
    totals = launch(formula, (5, 3, 3), [(x, 3), (torch.tensor([2.5], device=device), 0), (out, 3)])
    assert torch.equal(out, x * 2.5)
    assert list(totals) == [12.5]


@every_row_engine
@every_dtype
@pytest.mark.parametrize("distance", [9, 10, 40, -9, -13])
def test_rows_may_lie_apart_and_backwards(distance, dtype, device):
    """The distance of the rows is anything, in elements; between them nothing is written."""
    rows, length, last = 5, 9, 4
    x, y = sample(("array", "array"), (rows, length, length), dtype, device=device)
    begin = 0 if distance > 0 else -distance * (rows - 1)
    whole, wide = guarded(abs(distance) * rows + length, dtype, device)
    many_sums = torch.full((3 * rows,), 77, dtype=scalar_dtype(dtype), device=device)
    spread = torch.full_like(wide, NAN)
    starts = [begin + i * distance for i in range(rows)]
    for i, start in enumerate(starts):
        spread[start : start + length] = x[i * length : (i + 1) * length]
    columns = [(spread[begin:], distance), (y, length), (wide[begin:], distance), (many_sums, 3)]
    launch(CENTER.formula, (rows, length, last), columns)
    expected, sums = compute(CENTER, (rows, length, last), [x, y], dtype)[0]
    written = torch.zeros_like(wide, dtype=torch.bool)
    for i, start in enumerate(starts):
        n = last if i == rows - 1 else length
        assert torch.equal(wide[start : start + n], expected[i * length : i * length + n])
        written[start : start + n] = True
    assert (wide[~written] == 77).all()
    assert (whole[:GUARD] == 77).all()
    assert (whole[-GUARD:] == 77).all()
    assert torch.equal(many_sums[::3], sums)
    assert (many_sums.view(rows, 3)[:, 1:] == 77).all()


@every_row_engine
@every_dtype
def test_a_result_may_overwrite_its_own_argument(dtype, device):
    formula = Formula(partial(softmax, vocabulary), ("array",), (0,))
    case = NAMED["softmax"]
    for shape in [(3, 5, 2), (2, 300, 300)]:
        (x,) = sample(("array",), shape, dtype, device=device)
        (expected,), _ = compute(case, shape, [x], dtype)
        launch(formula, shape, [(x, shape[1])])
        assert torch.equal(x, expected)


@every_row_engine
def test_a_scalar_may_overwrite_itself(device):
    formula = Formula(lambda s, x: (s + row_sum(x), x - s), ("scalar", "array"), (0, 1))
    s, x = torch.tensor([1.0, 2.0], device=device), torch.tensor([[1.0, 2.0], [3.0, 4.0]], device=device)
    launch(formula, (2, 2, 2), [(s, 1), (x, 2)])
    assert s.tolist() == [4.0, 9.0]
    assert x.tolist() == [[0.0, 1.0], [1.0, 2.0]]


@every_row_engine
def test_a_result_that_comes_early_does_not_change_what_later_loops_read(device):
    """The first result is there before the sum, the second one after it: both are of the argument as it was."""
    formula = Formula(lambda x: (2 * x, x - row_sum(x)), ("array",), (0, 1))
    x, y = torch.tensor([[1.0, 2.0], [3.0, 4.0]], device=device), torch.empty(2, 2, device=device)
    launch(formula, (2, 2, 2), [(x, 2), (y, 2)])
    assert x.tolist() == [[2.0, 4.0], [6.0, 8.0]]
    assert y.tolist() == [[-2.0, -1.0], [-4.0, -3.0]]


# ------------------------------------------------------------------------------------------------- interleaved columns


SINGLE = torch.float32


def winner_of(k):
    def formula(*pieces):
        y, index = pieces[0], 0 * pieces[0]
        for number, x in enumerate(pieces[1:], 1):
            index, y = where(x > y, float(number), index), where(x > y, x, y)
        return y, index, row_sum(y)

    outputs = ("array", "array", "scalar")
    return Formula(formula, ("array",) * k, (k, k + 1, k + 2), name=f"winner of {k}", outputs=outputs)


def routed_to(k):
    def formula(g, index, s):
        return (s, *(where(index == number, g * s, 0.0) for number in range(k)))

    outputs = ("scalar", *["array"] * k)
    columns = ("array", "array", "scalar")
    return Formula(formula, columns, tuple(range(3, 4 + k)), name=f"routed to {k}", outputs=outputs)


@pytest.mark.sweep
@every_row_engine
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("k", range(1, 10))
def test_interleaved_columns_as_inputs_and_as_outputs(k, dtype, device):
    """k columns that lie in one, a, b, c, a, b, c, ...: at the beginning for reading, at the end for writing."""
    value, slope = winner_of(k), routed_to(k)
    shapes = [(1, 1, 1), (1, 70, 70), (3, 5, 2), (2, 33, 33), (4, 200, 0), (2, GRAIN, 11)]
    for rows, length, last in shapes[k % 3 :: 3] if in_interpreter(device) else shapes:
        count = (rows - 1) * length + last
        x = torch.randint(-9, 9, (count, k), generator=torch.Generator().manual_seed(k)).to(device, dtype)
        y, index, sums = (x.new_empty(n, dtype=t) for n, t in ((count, dtype), (count, torch.uint8), (rows, SINGLE)))
        columns = [(x, length * k), (y, length), (index, length), (sums, 1)]
        launch(value, (rows, length, last), columns, interleaved=range(k))
        expected, where_it_is = (t.to(device) for t in x.double().cpu().max(1))  # of equal ones CUDA takes any
        assert torch.equal(y, expected.to(dtype))
        assert torch.equal(index.long(), where_it_is)  # the first of equal ones
        parts = [expected[i * length : (i + 1) * length].sum().item() for i in range(rows)]
        assert sums.tolist() == parts

        g, s = torch.arange(1, count + 1).remainder(50).to(device, dtype), torch.full_like(sums, 2.0)
        whole, dx = guarded(count * k, dtype, device)
        columns = [(g, length), (index, length), (s, 1), (torch.empty_like(s), 1), (dx, length * k)]
        launch(slope, (rows, length, last), columns, interleaved=range(4, 4 + k))
        assert torch.equal(dx.view(count, k), torch.nn.functional.one_hot(where_it_is, k) * (2 * g[:, None]))
        assert (whole[:GUARD] == 77).all()
        assert (whole[-GUARD:] == 77).all()


@every_row_engine
def test_interleaved_columns_are_reduced_each_by_itself(device):
    k = 3

    def apart(a, b, c):
        return row_sum(a), row_max(b), row_sum(place(c) * c)

    formula = Formula(apart, ("array",) * k, (3, 4, 5), outputs=("scalar",) * k)
    x = torch.arange(24.0, device=device).reshape(2, 4, k)
    results = [torch.empty(2, device=device) for _ in range(k)]
    launch(formula, (2, 4, 4), [(x, 12), *((r, 1) for r in results)], interleaved=range(k))
    assert results[0].tolist() == x[..., 0].sum(1).tolist()
    assert results[1].tolist() == x[..., 1].amax(1).tolist()
    assert results[2].tolist() == (x[..., 2] * torch.arange(4, device=device)).sum(1).tolist()


# ------------------------------------------------------------------------------------------------- costly values


@needs_compiler
@pytest.mark.parametrize("name, functions", [("softmax", ["exp"]), ("kept", ["exp", "tanh", "log1p"])])
def test_a_costly_value_is_computed_once(name, functions, monkeypatch):
    """In the C text its function is called as often as the one sum is added to: once, in each version of the loops."""
    case, texts, load = NAMED[name], [], c_rows.load
    monkeypatch.setattr(c_rows, "load", lambda source: texts.append(source) or load(source))
    RowKernel(case.formula, (torch.float32,) * len(case.kinds + case.outputs))
    (row,) = (text.partition("static void row(")[2].partition("\n}\n")[0] for text in texts)
    assert {row.count(f"{function}_float(") for function in functions} == {row.count(" += ")}


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("length", [63, 64, 65, 66, 1_000])
def test_values_are_kept_for_rows_of_any_length(length, dtype):
    """Few values are kept on the stack, many on the heap; one in a result, if it has the type to compute with."""
    for name in ("softmax", "kept", "late", "attention"):
        case, shape = NAMED[name], (70, length, length - 1)
        columns = sample(case.kinds, shape, dtype)
        results = compute(case, shape, columns, dtype)
        assert_close(case, shape, results, reference(case, shape, columns), dtype)


@needs_compiler
def test_no_memory_for_the_rows():
    """2^50 values cannot be kept. (There are no rows, so nothing else is touched.)"""
    half = torch.empty(0, dtype=torch.float16)  # a result in which no float can be kept
    with pytest.raises(MemoryError, match="no memory for what a kernel keeps"):
        launch(NAMED["softmax"].formula, (0, 2**50, 2**50), [(half, 0), (half, 0)])


# ------------------------------------------------------------------------------------------------- special values


LARGEST = Formula(
    lambda x: (row_max(x), row_sum(x), x - row_max(x)), ("array",), (1, 2, 3), outputs=("scalar", "scalar", "array")
)
ROWS_OF_VALUES = [
    [1.0, 3.0, 2.0],
    [-INF, -5.0, -INF],
    [-INF, -INF, -INF],
    [INF, 1.0, -INF],
    [INF, INF, 0.0],
    [NAN, 1.0, 2.0],
    [1.0, 2.0, NAN],
    [NAN, INF, -INF],
    [NAN, NAN, NAN],
    [-0.0, -0.0, -0.0],
]


@every_row_engine
@every_dtype
@pytest.mark.parametrize("position", [0, 1, 7, 15, 16, 63, 64, 99])
def test_special_values_in_a_row(dtype, position, device):
    """NaN wins, wherever in the vectors or their remainder it stands, and stays in its row."""
    values = torch.tensor(ROWS_OF_VALUES, dtype=dtype)
    rows = torch.full((len(values), 102), -INF, dtype=dtype)
    rows[:, position : position + 3] = values
    rows[-1] = -0.0
    largest, sums, shifted = torch.empty(len(rows)), torch.empty(len(rows)), torch.empty_like(rows)
    columns = [(t.to(device), step) for t, step in ((rows, 102), (largest, 1), (sums, 1), (shifted, 102))]
    launch(LARGEST, (len(rows), 102, 102), columns)
    largest, sums, shifted = (t.cpu() for t, _ in columns[1:])
    wanted = rows.float().amax(1)
    assert torch.equal(largest.isnan(), wanted.isnan())
    assert largest[~wanted.isnan()].tolist() == wanted[~wanted.isnan()].tolist()
    torch.testing.assert_close(sums, rows.float().sum(1), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(shifted, (rows.float() - wanted[:, None]).to(dtype), rtol=0, atol=0, equal_nan=True)


@every_row_engine
def test_nan_in_one_row_is_in_the_total_and_in_no_other_row(device):
    outputs = ("array", "total", "total")
    formula = Formula(lambda x: (softmax(vocabulary, x), row_sum(x), 1.0), ("array",), (1, 2, 3), outputs=outputs)
    x = torch.rand(500, 70, device=device)
    x[123, 45] = NAN
    y = torch.empty_like(x)
    total, ones = launch(formula, (500, 70, 70), [(x, 70), (y, 70)])
    assert math.isnan(total)
    assert ones == 500
    assert y.isnan().any(1).nonzero().tolist() == [[123]]


@every_row_engine
def test_the_largest_of_extreme_numbers(device):
    formula = Formula(lambda x: (row_max(x), row_sum(x)), ("array",), (1, 2), outputs=("scalar", "total"))
    for dtype in (torch.float32, torch.float64):
        info = torch.finfo(dtype)
        tiny = info.smallest_normal / 2
        values = [[-info.max, -info.max], [tiny, -info.max], [info.max, info.max]]
        x, largest = torch.tensor(values, dtype=dtype, device=device), torch.empty(3, dtype=dtype, device=device)
        totals = launch(formula, (3, 2, 2), [(x, 2), (largest, 1)])
        assert largest.tolist() == [-info.max, tiny, info.max]
        # In float32 a sum beyond the range of the dtype is still a double.
        assert totals[0] == pytest.approx(-info.max) if dtype is torch.float32 else not math.isfinite(totals[0])


# ------------------------------------------------------------------------------------------------------- mistakes


def traced(function, columns="a", outputs="a", hypers=()):
    stores = tuple(range(len(columns), len(columns) + len(outputs)))
    kinds = tuple(KINDS[letter] for letter in columns)
    return trace(Formula(function, kinds, stores, hypers, "Rule", outputs=tuple(KINDS[letter] for letter in outputs)))


MISTAKES = [
    (lambda x, s, lr: x * row_sum(s), "row_sum needs what differs from element to element"),
    (lambda x, s, lr: x * row_max(s), "row_max needs what differs from element to element"),
    (lambda x, s, lr: x * place(s), "place needs what differs from element to element"),
    (lambda x, s, lr: x * row_sum(lr), "row_sum needs what differs from element to element"),
    (lambda x, s, lr: x * row_sum(row_sum(x)), "row_sum needs what differs from element to element"),
    (lambda x, s, lr: x * place(row_max(x)), "place needs what differs from element to element"),
    (lambda x, s, lr: x * row_sum(1.0), "row_sum needs what differs from element to element"),
    (lambda x, s, lr: x * row_max(2), "row_max needs what differs from element to element"),
    (lambda x, s, lr: x * place(0.5), "place needs what differs from element to element"),
    (lambda x, s, lr: x * entry(x + 1, s), "entry needs an argument of the formula, whose elements differ, and one"),
    (lambda x, s, lr: x * entry(x, x), "entry needs an argument of the formula, whose elements differ, and one place"),
    (lambda x, s, lr: x * entry(s, s), "entry needs an argument of the formula, whose elements differ, and one place"),
    (lambda x, s, lr: x * row_sum(x > s), r"a comparison goes into where\(...\) or is multiplied, it has no 'row_sum'"),
    (lambda x, s, lr: x if row_sum(x) > 0 else s, r"cannot branch on values .* write where\(condition, a, b\)"),
    (lambda x, s, lr: (x, row_sum(x)), "the formula must return 1 results, got 2"),
    (lambda x, s, lr: x + torch.ones(3), "a formula cannot use a tensor from outside; pass it as an argument"),
]


@pytest.mark.parametrize("function, text", MISTAKES, ids=range(len(MISTAKES)))
def test_what_cannot_be_a_formula_of_rows_says_so(function, text):
    with pytest.raises(FormulaError, match=f"^Rule: .*{text}"):
        traced(function, "as", "a", ("lr",))


@pytest.mark.parametrize("output", ["s", "t"])
@pytest.mark.parametrize("function", [lambda x: x, lambda x: x - row_max(x), place], ids=["x", "shift", "place"])
def test_one_number_a_row_is_needed_where_one_is_stored(function, output):
    with pytest.raises(FormulaError, match=r"^Rule: .* must be one number an item, got one an element"):
        traced(function, "a", output)


ROW_FORMULAS = {
    "row_sum": lambda p, g: (p - g / row_sum(g),),
    "row_max": lambda p, g: (p - row_max(g),),
    "place": lambda p, g: (p - g * place(g),),
    "entry": lambda p, g: (p - g * entry(g, 0),),
}


@needs_compiler
@pytest.mark.parametrize("operation", ROW_FORMULAS)
def test_an_optimizer_has_no_rows_on_the_c_engine(operation):
    """A parameter is one run of memory there; the error names rule and operation."""
    formula = Formula(ROW_FORMULAS[operation], ("array", "array"), (0,), name="Rule")
    p, g = torch.ones(2, 3), torch.ones(2, 3)
    with pytest.raises(FormulaError, match=f"^Rule: the C engine does not know '{operation}'"):
        CLaunch(formula)([[p], [g]], ())
    assert p.tolist() == torch.ones(2, 3).tolist()


@pytest.mark.parametrize("operation", ROW_FORMULAS)
def test_an_optimizer_has_no_rows_on_the_foreach_engine(operation):
    formula = Formula(ROW_FORMULAS[operation], ("array", "array"), (0,), name="Rule")
    with pytest.raises(FormulaError, match=f"^Rule: .*{operation}"):
        foreach(formula, [[torch.ones(2, 3)], [torch.ones(2, 3)]], ())


def test_a_kernel_that_could_not_be_built_says_so_again_without_trying(monkeypatch):
    tries = []

    def fail(source):
        tries.append(source)
        raise EngineUnavailable("no compiler here")

    monkeypatch.setattr(c_rows, "load", fail)
    formula = Formula(lambda x: row_sum(x), ("array",), (1,), outputs=("scalar",))
    for _ in range(3):
        with pytest.raises(EngineUnavailable, match=r"^no compiler here$"):
            row_kernel(formula, (torch.float32, torch.float32))
    assert len(tries) == 1


@needs_compiler
def test_a_kernel_is_built_once_for_its_dtypes_and_columns():
    formula = Formula(lambda a, b: a + b, ("array", "array"), (2,))
    dtypes = (torch.float32,) * 3
    assert row_kernel(formula, dtypes) is row_kernel(formula, dtypes, range(0))
    assert row_kernel(formula, dtypes) is not row_kernel(formula, dtypes, range(2))
    assert row_kernel(formula, dtypes) is not row_kernel(formula, (torch.float64,) * 3)


# ------------------------------------------------------------------------------------------------------- at once


@needs_compiler
def test_several_python_threads_at_once():
    """The kernel has no state: each call finds its own rows."""
    case, wrong = NAMED["kept"], []
    columns = [sample(case.kinds, (300, 100, 7), torch.float32, seed) for seed in range(4)]
    expected = [compute(case, (300, 100, 7), each, torch.float32) for each in columns]

    def work(number):
        for _ in range(30):
            outputs, _ = compute(case, (300, 100, 7), columns[number], torch.float32)
            if not all(map(torch.equal, outputs, expected[number][0])):
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


# ------------------------------------------------------------------------------------------------------- any shape


# The place of a test is the same for all of its examples.
ANYTHING = dict(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


@every_row_engine
@settings(max_examples=150, **ANYTHING)
@given(
    name=st.sampled_from(["softmax", "moments", "kept", "attention", "scalars"]),
    dtype=st.sampled_from(DTYPES),
    rows=st.integers(0, 40),
    length=st.integers(0, 200),
    cut=st.integers(0, 200),
    seed=st.integers(0, 9),
)
def test_any_shape(name, dtype, rows, length, cut, seed, device):
    case = NAMED[name]
    shape = (rows, length, max(0, length - cut))
    columns = sample(case.kinds, shape, dtype, seed, device)
    assert_close(case, shape, compute(case, shape, columns, dtype), reference(case, shape, columns), dtype)


@every_row_engine
@settings(max_examples=100, **ANYTHING)
@given(
    rows=st.integers(1, 20),
    length=st.integers(1, 90),
    gaps=st.lists(st.integers(0, 9), min_size=3, max_size=3),
    offset=st.integers(0, 7),
    alike=st.booleans(),
)
def test_any_layout(rows, length, gaps, offset, alike, device):
    """Rows at any distance and from any address on: the same bits as rows that lie together."""
    x, y = sample(("array", "array"), (rows, length, length), torch.float32, device=device)
    y = y[:length].repeat(rows) if alike else y
    expected, sums = compute(CENTER, (rows, length, length), [x, y], torch.float32)[0]
    spread = []
    for values, gap in zip((x, y, torch.zeros_like(x)), gaps, strict=True):
        wide = torch.full((offset + rows * (length + gap),), NAN, device=device)
        view = wide[offset:].view(rows, length + gap)
        view[:, :length] = values.view(rows, length)
        spread.append((wide[offset:], length + gap, view[:, :length]))
    columns = [(wide, 0 if alike and number == 1 else stride) for number, (wide, stride, _) in enumerate(spread)]
    found = torch.empty(rows, device=device)
    launch(CENTER.formula, (rows, length, length), [*columns, (found, 1)])
    assert torch.equal(spread[2][2].reshape(-1), expected)
    assert torch.equal(found, sums)


@every_row_engine
@settings(max_examples=60, **ANYTHING)
@given(
    values=st.lists(st.floats(width=32, allow_subnormal=True), min_size=1, max_size=100),
    length=st.integers(1, 20),
)
def test_any_values(values, length, device):
    """The largest is exact and the sum is that of doubles, over any floats, infinite and NaN among them."""
    rows = -(-len(values) // length)
    last = len(values) - (rows - 1) * length
    formula, x = ANY, torch.tensor(values, device=device)
    largest, sums = x.new_empty(rows), x.new_empty(rows, dtype=torch.float64)
    launch(formula, (rows, length, last), [(x, length), (largest, 1), (sums, 1)])
    for i in range(rows):
        row = x[i * length : (i + 1) * length].double()
        torch.testing.assert_close(largest[i].double(), row.amax(), rtol=0, atol=0, equal_nan=True)
        scale = row.abs().sum().item()
        allowed = scale * len(row) * 2.0**-53 if math.isfinite(scale) else 0
        torch.testing.assert_close(sums[i], row.sum(), rtol=0, atol=allowed, equal_nan=True)


ANY = Formula(lambda x: (row_max(x), row_sum(x)), ("array",), (1, 2), outputs=("scalar", "scalar"))


def test_the_logarithm_of_a_sum_of_exponentials_on_numbers_of_any_size():
    """What the chain of a maximum and a sum is for: nothing overflows, and far from 0 nothing is lost."""
    x = torch.tensor([[1e4, 1e4 + 1, 1e4 + 2], [-1e4, -1e4, -1e4]], dtype=torch.float64)
    m = row_max(x)
    value = m + log(row_sum(exp(x - m)))
    np.testing.assert_allclose(value.numpy()[:, 0] - [1e4, -1e4], [2.4076059644443806, math.log(3)], rtol=1e-12)
