"""The engines against a reference in NumPy float64, over dtypes, sizes and layouts, and what they promise besides."""

import gc
import math
import threading
import weakref
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import torch_lecture_ops.formula as vocabulary
from torch_lecture_ops.formula import CLaunch, EngineUnavailable, Formula, FormulaError, exp, foreach, log, loop, where
from torch_lecture_ops.formula.c_engine import GRAIN
from torch_lecture_ops.formula.c_engine import kernel as c_kernel
from torch_lecture_ops.formula.triton_engine import BLOCK, CHUNK, TritonLaunch


class NumbersOnHost(TritonLaunch):
    """With numbers of the items on the CPU, as no kernel can read them elsewhere: they are arguments of a launch."""

    def is_on_host(self, scalar):
        return True


class OnDevice(torch.Tensor):
    """A hyper that the kernel reads itself. In the interpreter it can read what lies on the CPU."""

    is_cpu = False


class HypersOnDevice(TritonLaunch):
    """With hypers that are tensors on the device, one of each dtype in turn that holds it exactly."""

    def __call__(self, columns, hypers, alike=False):
        device = columns[0][0].device if columns[0] else None
        tensors = [torch.tensor(h, dtype=torch.float64, device=device).as_subclass(OnDevice) for h in hypers]
        super().__call__(columns, [t.float() if t.float() == t else t for t in tensors], alike)


LAUNCHES = {
    "c": CLaunch,
    "triton": TritonLaunch,
    "triton, numbers on the host": NumbersOnHost,
    "triton, hypers on the device": HypersOnDevice,
}
ENGINES = {
    name: lambda formula, columns, hypers=(), fresh=(), launch=launch: launch(formula, fresh)(columns, hypers)
    for name, launch in LAUNCHES.items()
} | {
    "foreach": lambda formula, columns, hypers=(), fresh=(): foreach(formula, columns, hypers),
    "loop": lambda formula, columns, hypers=(), fresh=(): loop(formula, columns, hypers),
}
MARKS = {"cpu": (), "interpreter": pytest.mark.needs_interpreter, "cuda": pytest.mark.gpu}


def engines(*names):
    """A parameter of these engines, each at the places where it computes."""
    rows = []
    for name in names:
        for place in ("interpreter", "cuda") if name.startswith("triton") else ("cpu",):
            marks = pytest.mark.needs_compiler if name == "c" else MARKS[place]
            rows.append(pytest.param(name, place, marks=marks, id=name if place == "cpu" else f"{name}, {place}"))
    return pytest.mark.parametrize("engine, device", rows, indirect=["device"])


def numbers_at(engine, device):
    """Where the numbers of the items are to lie."""
    return "cpu" if engine == "triton, numbers on the host" else device


every_engine = engines("c", "foreach", "loop", "triton")
every_launch = engines("c", "triton")
every_way_of_numbers = engines("c", "foreach", "loop", *(name for name in LAUNCHES if name != "c"))
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture
def threads():
    """Sets the number of threads; afterwards it is what it was."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def bits(tensor):
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.contiguous().view(integer)


def in_float64(column):
    return [tensor.double().cpu().numpy().copy() for tensor in column]


def on(device, *columns):
    """The same numbers there. (They are drawn on the CPU: the same ones everywhere.)"""
    return [[tensor.to(device) for tensor in column] for column in columns]


# ----------------------------------------------------------------------- every operation, every engine, every dtype

# An operation as text, for the vocabulary `f` of torch_lecture_ops.formula or of NumPy, and how many ulp of its dtype
# the result may be off, computed in float32 or float64. x and y are arrays, x in [-2, 2] and y in [0.5, 2]; h is a
# hyper. 0: exact. 0.5: one operation, rounded as IEEE 754 says. 1.5: an operand was rounded before (a hyper, a
# reciprocal). 2: what exp and its like are allowed. pow: the library's 1, and |ln y| more from the rounded exponent.
OPERATIONS = {
    "x": 0,
    "x + y": 0.5,
    "x - y": 0.5,
    "x * y": 0.5,
    "x / y": 0.5,
    "-x": 0,
    "+x": 0,
    "x + 0.5": 0.5,
    "0.5 + x": 0.5,
    "x - 0.5": 0.5,
    "0.5 - x": 0.5,
    "x * 3": 0.5,
    "3 * x": 0.5,
    "x / 3": 1.5,
    "3 / y": 1.5,  # torch: the reciprocal of y, times 3
    "x * h": 1.5,
    "h * x": 1.5,
    "x / h": 1.5,
    "h / y": 1.5,
    "x * (1 / (1 - h))": 1.5,
    "x ** 2": 0.5,
    "x ** 3": 1.5,
    "y ** -1": 1.5,
    "y ** 0.5": 1.5,
    "y ** h": 2.5,
    "h ** y": 2.5,
    "2 ** x": 1.5,
    "y ** x": 2.5,
    "f.abs(x)": 0,
    "f.sqrt(y)": 1,  # torch: MKL's, within 1 ulp (0.75 seen); the C engine's is exact, see test_math
    "f.exp(x)": 2,
    "f.expm1(x)": 2,
    "f.log(y)": 2,
    "f.log1p(y)": 2,
    "f.softplus(x)": 2,
    "f.tanh(x)": 2.5,  # float64: glibc's 2 from the correctly rounded value
    "f.maximum(x, y)": 0,
    "f.minimum(x, y)": 0,
    "f.maximum(x, 0)": 0,
    "f.minimum(0.5, x)": 0,
    "f.where(x > 0, x, y)": 0,
    "f.where(x > y, x, 0.5)": 0,
    "f.where(x <= 0.25, 2, x)": 0,
    "(x < y) * x": 0,
    "(x <= y) * x": 0,
    "x * (x > 0.25)": 0,
    "x * (x >= y)": 0,
    "x * (x == y)": 0,
    "x - 0.5 * (x < y)": 0.5,
    "(0 < x) * y": 0,
    "x > y": 0,
    "x == x": 0,
}
SIZES = range(71)
EDGES = [BLOCK - 1, BLOCK, BLOCK + 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 17]  # of what Triton's programs take

NUMPY = SimpleNamespace(**{**vars(np), "softplus": lambda x: np.logaddexp(x, x.dtype.type(0))})


def evaluate(text, f, x, y, h):
    return eval(text, {"f": f, "x": x, "y": y, "h": h})


def in_ulps(got, want, dtype):
    """The distance in units in the last place, of `dtype` at `want`."""
    info = torch.finfo(dtype)
    _, exponent = np.frexp(want)
    unit = np.ldexp(info.eps, exponent - 1)
    return np.abs(got - want) / np.maximum(unit, info.tiny * info.eps)


def samples(dtype, seed=0):
    """x and y of every size; among them zeros of both signs, equal ones and powers of two."""
    generator = torch.Generator().manual_seed(seed)
    x = [torch.rand(n, generator=generator, dtype=torch.float64) * 4 - 2 for n in SIZES]
    y = [torch.rand(n, generator=generator, dtype=torch.float64) * 1.5 + 0.5 for n in SIZES]
    for a, b in zip(x, y, strict=True):
        a[7::9], a[8::9], a[5::11] = 0.0, -0.0, b[5::11]
        b[3::10] = 1.0
    return [a.to(dtype) for a in x], [b.to(dtype) for b in y]


@every_dtype
@every_engine
def test_every_operation_is_within_its_ulps_over_sizes_0_to_70(engine, device, dtype):
    h, texts = 0.7, list(OPERATIONS)

    def function(x, y, h):
        return tuple(evaluate(text, vocabulary, x, y, h) for text in texts)

    columns = samples(dtype)
    if (engine, device) == ("triton", "cpu") and dtype is not torch.float32:  # the interpreter takes 0.1 s an item
        columns = [column[DTYPES.index(dtype) :: 4] for column in columns]
    x, y = on(device, *columns)
    outputs = [[torch.full_like(t, math.nan) for t in x] for _ in texts]
    formula = Formula(function, ("array", "array"), tuple(range(2, 2 + len(texts))), ("h",))
    ENGINES[engine](formula, [x, y, *outputs], (h,))
    # Half types are computed in float32 and rounded once more; in float64 the reference itself is rounded.
    rounding = 0.0 if dtype == torch.float32 else 0.5
    for text, output in zip(texts, outputs, strict=True):
        allowed = rounding + OPERATIONS[text] * (2**-10 if dtype.itemsize == 2 else 1)
        for a, b, got in zip(in_float64(x), in_float64(y), in_float64(output), strict=True):
            want = evaluate(text, NUMPY, a, b, h).astype(np.float64)
            assert not np.isnan(got).any(), text
            assert (in_ulps(got, want, dtype) <= allowed).all(), (text, in_ulps(got, want, dtype).max())


@every_dtype
@every_engine
def test_special_values_come_out_as_in_numpy(engine, device, dtype):
    largest, smallest = torch.finfo(dtype).max, torch.finfo(dtype).tiny
    special = [0.0, -0.0, 1.0, -1.0, 0.5, math.inf, -math.inf, math.nan, largest, smallest]
    x, y = map(torch.flatten, torch.meshgrid(*[torch.tensor(special, dtype=dtype)] * 2, indexing="ij"))
    texts = ["x + y", "x - y", "x * y", "x / y", "x * 0.5", "x / 0.5", "f.abs(x)", "-x", "f.sqrt(x)", "x ** 2"]
    texts += ["f.exp(x)", "f.expm1(x)", "f.log(x)", "f.log1p(x)", "f.softplus(x)", "f.tanh(x)"]
    texts += ["f.where(x < y, x, y)", "x < y", "x != y"]
    outputs = [[torch.empty_like(x, device=device)] for _ in texts]

    def function(x, y):
        return tuple(evaluate(text, vocabulary, x, y, None) for text in texts)

    formula = Formula(function, ("array", "array"), tuple(range(2, 2 + len(texts))))
    ENGINES[engine](formula, [*on(device, [x], [y]), *outputs], ())
    for text, (got,) in zip(texts, on("cpu", *outputs), strict=True):
        with np.errstate(all="ignore"):
            want = torch.from_numpy(evaluate(text, NUMPY, x.double().numpy(), y.double().numpy(), None)).double()
        want = want.to(torch.promote_types(dtype, torch.float32)).to(dtype)
        # 2 ulp and 1/2 more; equal where infinite, NaN or 0, signs included
        torch.testing.assert_close(got, want, rtol=3 * torch.finfo(dtype).eps, atol=0, equal_nan=True, msg=text)
        exact = (want == 0) | want.isinf()
        assert torch.equal(got[exact].signbit(), want[exact].signbit()), text


# ---------------------------------------------------------------------------------------------- formulas of all kinds


def momentum(p, g, b, *, lr, mu):
    b = mu * b + g
    return p - lr * b, b


def adam(p, g, m, v, t, *, lr):
    t = t + 1
    m = 0.9 * m + 0.1 * g
    v = 0.999 * v + 0.001 * g**2
    return p - lr * (m / (1 - 0.9**t)) / (vocabulary.sqrt(v / (1 - 0.999**t)) + 1e-8), m, v, t


def swap(x, y):
    return y, x


def keep_the_old(x, y):
    return x - 0.25 * y, x


def constants(x, y):
    return 0.5, y * 0 + 1


def leaky(x, g):
    return where(x > 0, x, 0.25 * x), (x > 0) * g + (x <= 0) * (0.25 * g)


class Row:
    """A formula, its reference on NumPy float64 arrays, and what it runs on.

    Columns are "a": an array, in [0.5, 2]; "s": a scalar an item, 0, 1, 2, ... `ulps` is the sum of the roundings of
    the longest way from an argument to a result, all intermediate values being about 1.
    """

    def __init__(self, function, columns, stores, ulps, reference=None, **hypers):
        kinds = tuple({"a": "array", "s": "scalar"}[letter] for letter in columns)
        self.formula = Formula(function, kinds, stores, tuple(hypers), function.__name__)
        self.reference, self.hypers, self.ulps = reference or function, tuple(hypers.values()), ulps


def adam_reference(p, g, m, v, t, lr):
    t = t + 1
    m, v = 0.9 * m + (1 - 0.9) * g, 0.999 * v + (1 - 0.999) * g * g
    m_hat, v_hat = m / (1 - 0.9**t), v / (1 - 0.999**t)
    return p - lr * m_hat / (np.sqrt(v_hat) + 1e-8), m, v, t


def leaky_reference(x, g):
    slope = np.where(x > 0, 1.0, 0.25)
    return slope * x, slope * g


ROWS = [
    Row(momentum, "aaa", (0, 2), 3, lambda p, g, b, lr, mu: (p - lr * (mu * b + g), mu * b + g), lr=2**-6, mu=0.9),
    Row(adam, "aaaas", (0, 2, 3, 4), 8, adam_reference, lr=1e-3),
    Row(swap, "aa", (0, 1), 0),
    Row(keep_the_old, "aa", (0, 1), 1),
    Row(constants, "aa", (0, 1), 0, lambda x, y: (np.full_like(x, 0.5), np.ones_like(y))),
    Row(leaky, "aa", (0, 1), 0.5, leaky_reference),
]


@pytest.mark.sweep
@every_dtype
@every_way_of_numbers
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.formula.name)
def test_formulas_agree_with_the_reference_over_three_steps(row, engine, device, dtype):
    generator = torch.Generator().manual_seed(0)
    # How numbers and hypers come has nothing to do with the size of an item; and the interpreter takes its time.
    is_some = engine.startswith("triton,") or ((engine, device) == ("triton", "cpu") and dtype is not torch.float32)
    sizes = SIZES[DTYPES.index(dtype) :: 7] if is_some else SIZES
    columns = [
        [torch.tensor(float(n % 3), device=numbers_at(engine, device)) for n in sizes]
        if kind == "scalar"
        else [(torch.rand(n, generator=generator) * 1.5 + 0.5).to(device, dtype) for n in sizes]
        for kind in row.formula.columns
    ]
    if row.formula.function is adam:  # v of a later step than m: steps of about lr, nothing cancels
        columns[3] = [v * 1e-3 + 1 for v in columns[3]]
    for _ in range(3):
        before = [in_float64(column) for column in columns]
        ENGINES[engine](row.formula, columns, row.hypers, (1,) if 1 not in row.formula.stores else ())
        for item in range(len(sizes)):
            want = row.reference(*(column[item] for column in before), *row.hypers)
            for column, value in zip(row.formula.stores, want, strict=True):
                (got,) = in_float64([columns[column][item]])
                if row.formula.columns[column] == "scalar":
                    assert got == value
                else:
                    allowed = row.ulps + (0.5 if dtype.itemsize == 2 and row.ulps else 0)
                    assert (in_ulps(got, value, dtype) <= allowed).all(), (column, in_ulps(got, value, dtype).max())


@every_dtype
@every_launch
def test_compiled_sums_and_products_equal_the_loop_bit_for_bit(engine, device, dtype):
    generator = torch.Generator().manual_seed(0)
    sizes = [*SIZES, *EDGES] if engine == "triton" else SIZES
    columns = on(device, *([torch.randn(n, generator=generator).to(dtype) for n in sizes] for _ in range(3)))
    loops = [[tensor.clone() for tensor in column] for column in columns]
    launch = LAUNCHES[engine](MOMENTUM, fresh=(1,))
    for _ in range(3):
        launch(columns, (0.1, 0.9))
        loop(MOMENTUM, loops, (0.1, 0.9))
    for got, want in zip(columns, loops, strict=True):
        assert all(map(torch.equal, got, want))


@every_launch
def test_columns_of_several_dtypes_are_computed_in_the_widest(engine, device):
    x = torch.full((5,), 1 + 2**-10, dtype=torch.float16, device=device)
    y = torch.full((5,), 2.0**-40, dtype=torch.float64, device=device)
    out = torch.zeros_like(y)
    ENGINES[engine](Formula(lambda x, y: x + y, ("array", "array"), (2,)), [[x], [y], [out]])
    assert out.tolist() == [1 + 2**-10 + 2**-40] * 5


@every_way_of_numbers
@pytest.mark.parametrize("step", [torch.float32, torch.float64])
def test_a_scalar_of_each_item_is_read_and_written_in_double(engine, device, step):
    formula = Formula(lambda p, t: (p + 1 / (t + 1), t + 1), ("array", "scalar"), (0, 1))
    steps = [0, 0, 5, 5, 0, 2**24 - 2, 1]  # equal neighbours and others
    p = [torch.zeros(3, dtype=torch.float64, device=device) for _ in steps]
    t = [torch.tensor(float(k), dtype=step, device=numbers_at(engine, device)) for k in steps]
    ENGINES[engine](formula, [p, t], ())
    assert [tensor.item() for tensor in t] == [k + 1 for k in steps]
    assert [tensor.tolist() for tensor in p] == [[1 / (k + 1)] * 3 for k in steps]


@every_engine
def test_one_of_the_two_is_selected_and_the_other_leaves_no_trace(engine, device):
    x = torch.tensor([-1.0, 0.0, 1.0, math.e], device=device)
    formula = Formula(lambda x: where(x > 0, log(x), exp(x)), ("array",), (0,))
    ENGINES[engine](formula, [[x]])
    torch.testing.assert_close(x.cpu(), torch.tensor([math.exp(-1), 1.0, 0.0, 1.0]))


def advance(p, g, t):
    return p + g / (t + 1), t + 1


@engines("triton", "triton, numbers on the host")
def test_numbers_of_an_item_change_once_all_of_its_programs_have_read_them(engine, device):
    """An item of many chunks has as many programs; an empty one has one, too. Twice, as their count starts anew."""
    formula = Formula(advance, ("array", "array", "scalar"), (0, 2))
    launch, sizes = LAUNCHES[engine](formula), [*EDGES, 0, 1]
    p, g = ([torch.full((n,), number, device=device) for n in sizes] for number in (0.0, 1.0))
    t = [torch.zeros((), device=numbers_at(engine, device)) for _ in sizes]
    for steps in (1, 2):
        launch([p, g, t], ())
        assert [tensor.item() for tensor in t] == [steps] * len(sizes)
        assert all((tensor == {1: 1.0, 2: 1.5}[steps]).all() for tensor in p)


# -------------------------------------------------------------------------------------------------------------- layouts

MOMENTUM = Formula(momentum, ("array", "array", "array"), (0, 2), ("lr", "mu"), "momentum")
SHAPE = (2, 3, 4, 5)
DOUBLE = Formula(lambda x: 2 * x, ("array",), (1,))
UNTOUCHED = 12345.0


def view_in(base, offset, shape, strides):
    return base.as_strided(shape, strides, offset)


def memory(cells, dtype, device="cpu"):
    return torch.full((cells,), UNTOUCHED, dtype=dtype, device=device)


# name -> (memory, view of SHAPE in it)
LAYOUTS = {
    "contiguous": lambda base: view_in(base, 0, SHAPE, (60, 20, 5, 1)),
    "offset": lambda base: view_in(base, 3, SHAPE, (60, 20, 5, 1)),
    "transposed": lambda base: view_in(base, 0, SHAPE, (1, 2, 6, 24)),
    "channels last": lambda base: view_in(base, 0, SHAPE, (60, 1, 15, 3)),
    "permuted": lambda base: view_in(base, 1, SHAPE, (4, 40, 1, 8)),
    "rows with gaps": lambda base: view_in(base, 1, SHAPE, (84, 28, 7, 1)),
    "columns with gaps": lambda base: view_in(base, 1, SHAPE, (120, 40, 10, 2)),
    "first dimension with gaps": lambda base: view_in(base, 0, SHAPE, (61, 20, 5, 1)),
    "odd strides": lambda base: view_in(base, 5, SHAPE, (211, 71, 17, 3)),
    "odd strides, permuted": lambda base: view_in(base, 5, SHAPE, (3, 97, 7, 331)),
}
EXPANDED = {
    "one number": lambda base: view_in(base, 2, SHAPE, (0, 0, 0, 0)),
    "one row": lambda base: view_in(base, 2, SHAPE, (0, 0, 0, 1)),
    "one column": lambda base: view_in(base, 2, SHAPE, (15, 5, 1, 0)),
    "windows that overlap": lambda base: view_in(base, 2, SHAPE, (4, 3, 2, 1)),
}


def laid_out(layout, dtype, seed, device="cpu"):
    """A tensor of random values in this layout, and the memory in which it lies."""
    base = memory(2000, dtype, device)
    tensor = layout(base)
    values = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)).to(dtype)
    if layout in EXPANDED.values():
        base.copy_(torch.randn(2000, generator=torch.Generator().manual_seed(seed)))
    else:
        tensor.copy_(values)
    return tensor, base


def check_layouts(run, p, g, b, hypers=(0.1, 0.9)):
    """Runs momentum and compares with dense copies; each of p, g and b is a tensor and the memory around it."""
    tensors, bases = [t for t, _ in (p, g, b)], [base for _, base in (p, g, b)]
    dense = [[t.contiguous().clone()] for t in tensors]
    before, values = [base.clone() for base in bases], [t.clone() for t in tensors]
    loop(MOMENTUM, dense, hypers)
    run([[t] for t in tensors], hypers)
    for got, (want,) in zip(tensors, dense, strict=True):
        assert torch.equal(got, want)  # sums and products round alike everywhere
    for number in (0, 2):
        tensors[number].copy_(values[number])
    for base, old in zip(bases, before, strict=True):
        assert torch.equal(base, old), "memory around a tensor was written"


@every_engine
@pytest.mark.parametrize("second", [*LAYOUTS, *EXPANDED])
@pytest.mark.parametrize("first", LAYOUTS)
def test_layouts_of_parameter_gradient_and_buffer_may_differ(engine, device, first, second):
    layouts = LAYOUTS[first], {**LAYOUTS, **EXPANDED}[second], LAYOUTS.get(second, LAYOUTS[first])
    p, g, b = (laid_out(layout, torch.float32, seed, device) for seed, layout in enumerate(layouts))
    check_layouts(lambda columns, hypers: ENGINES[engine](MOMENTUM, columns, hypers, (1,)), p, g, b)


@every_dtype
@every_launch
def test_layouts_of_every_dtype(engine, device, dtype):
    for name in ("transposed", "columns with gaps", "odd strides"):
        layouts = map(LAYOUTS.__getitem__, (name, "channels last", "contiguous"))
        p, g, b = (laid_out(layout, dtype, seed, device) for seed, layout in enumerate(layouts))
        check_layouts(LAUNCHES[engine](MOMENTUM, fresh=(1,)), p, g, b)


@every_launch
def test_layouts_mixed_in_one_call_and_changing_from_call_to_call(engine, device):
    launch = LAUNCHES[engine](MOMENTUM, fresh=(1,))
    names = list(LAYOUTS)
    p = [laid_out(LAYOUTS[name], torch.float32, 0, device)[0] for name in names]
    b = [laid_out(LAYOUTS[name], torch.float32, 2, device)[0] for name in names[::-1]]
    for turn in range(len(names)):
        g = [laid_out(LAYOUTS[name], torch.float32, turn, device)[0] for name in names[turn:] + names[:turn]]
        dense = [[tensor.contiguous().clone() for tensor in column] for column in (p, g, b)]
        loop(MOMENTUM, dense, (0.1, 0.9))
        launch([p, g, b], (0.1, 0.9))
        assert all(map(torch.equal, p + b, dense[0] + dense[2]))


@every_dtype
@every_launch
@pytest.mark.parametrize("name", LAYOUTS)
def test_fresh_outputs_are_written_in_any_layout(engine, device, name, dtype):
    x, (out, base) = torch.randn(SHAPE).to(device, dtype), laid_out(LAYOUTS[name], dtype, 0, device)
    before, values = base.clone(), out.clone()
    ENGINES[engine](DOUBLE, [[x], [out]])
    assert torch.equal(out, 2 * x)
    out.copy_(values)
    assert torch.equal(base, before)


@st.composite
def views(draw, shape, device):
    """A tensor of this shape in larger memory: dimensions in any order, steps and gaps, an offset."""
    order = draw(st.permutations(range(len(shape))))
    strides, extent = [0] * len(shape), 1
    for dimension in order:
        strides[dimension] = extent * draw(st.integers(1, 3)) + draw(st.integers(0, 2))
        extent = strides[dimension] * max(shape[dimension] - 1, 0) + extent
    offset = draw(st.integers(0, 3))
    base = memory(offset + extent + 3, torch.float32, device)
    tensor = view_in(base, offset, shape, strides)
    tensor.copy_(torch.arange(tensor.numel()).reshape(shape) - draw(st.integers(0, 9)))
    return tensor, base


# The place of a test is the same for all of its examples.
ANYTHING = dict(derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@every_launch
@settings(max_examples=150, **ANYTHING)
@given(data=st.data())
def test_any_shape_and_strides(engine, device, data):
    shape = tuple(data.draw(st.lists(st.integers(0, 5), max_size=4)))
    p, g, b = (data.draw(views(shape, device)) for _ in range(3))
    check_layouts(LAUNCHES[engine](MOMENTUM, fresh=(1,)), p, g, b)


@every_launch
@settings(max_examples=50, **ANYTHING)
@given(sizes=st.lists(st.integers(0, 200), min_size=1, max_size=40), seed=st.integers(0, 5))
def test_any_list_of_sizes(engine, device, sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    columns = on(device, *([torch.randn(n, generator=generator) for n in sizes] for _ in range(3)))
    wants = [[tensor.clone() for tensor in column] for column in columns]
    ENGINES[engine](MOMENTUM, columns, (0.1, 0.9), (1,))
    foreach(MOMENTUM, wants, (0.1, 0.9))
    assert all(map(torch.equal, columns[0] + columns[2], wants[0] + wants[2]))


@every_engine
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0), (1, 1, 1)])
def test_small_shapes(engine, device, shape):
    p, g, b = (torch.full(shape, number, device=device) for number in (1.0, 2.0, 3.0))
    ENGINES[engine](MOMENTUM, [[p], [g], [b]], (0.5, 0.5), (1,))
    assert torch.equal(p, torch.full_like(p, -0.75))
    assert torch.equal(b, torch.full_like(b, 3.5))


@every_way_of_numbers
def test_no_items_at_all(engine, device):
    ENGINES[engine](MOMENTUM, [[], [], []], (0.5, 0.5), (1,))


@every_way_of_numbers
def test_thousands_of_items_each_with_its_own_step(engine, device):
    count = 200 if engine.startswith("triton") and device == "cpu" else 5000  # the interpreter takes 1 ms an item
    formula = Formula(lambda p, g, t, lr: (p - lr * g / (t + 1), t + 1), ("array", "array", "scalar"), (0, 2), ("lr",))
    p, g = [torch.ones(k % 4) for k in range(count)], [torch.ones(k % 4) for k in range(count)]
    p, g = on(device, p, g)
    t = [torch.tensor(float(k // 3), device=numbers_at(engine, device)) for k in range(count)]
    ENGINES[engine](formula, [p, g, t], (0.5,), (1,))
    assert [tensor.item() for tensor in t] == [k // 3 + 1 for k in range(count)]
    for k, tensor in enumerate(p):
        want = 1 - np.float32(0.5) / np.float32(k // 3 + 1)  # off by the roundings of a reciprocal, a product, a sum
        assert np.allclose(tensor.cpu().numpy(), want, rtol=3 * 2**-24, atol=2 * 2**-24)


# -------------------------------------------------------------------------------------------------------------- threads

LISTS = {
    "one large tensor": [3 * GRAIN + 17],
    "one just large enough": [GRAIN],
    "one element less": [GRAIN - 1],
    "large between small": [1, 0, 5, GRAIN + 1, 0, 63, 64, 65, GRAIN + 63, 0],
    "many small ones": [k % 70 for k in range(3000)],
}


@pytest.mark.needs_compiler
@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("sizes", LISTS.values(), ids=LISTS)
def test_several_threads_give_the_bits_of_one(sizes, count, threads):
    formula = Formula(lambda x, y: (exp(-x) / (y + 1), x * y), ("array", "array"), (0, 1))
    results = []
    for number in (1, count):
        threads(number)
        generator = torch.Generator().manual_seed(0)
        columns = [[torch.randn(n, generator=generator) for n in sizes] for _ in range(2)]
        CLaunch(formula)(columns, ())
        results.append([bits(tensor) for column in columns for tensor in column])
    assert all(map(torch.equal, *results))


@pytest.mark.needs_compiler
def test_two_python_threads_with_their_own_launches_do_not_meet(threads):
    threads(2)

    def run(seed, results):
        generator = torch.Generator().manual_seed(seed)
        columns = [[torch.randn(n, generator=generator) for n in (GRAIN + seed, 7, 100)] for _ in range(3)]
        launch = CLaunch(MOMENTUM, fresh=(1,))
        for _ in range(50):
            columns[1] = [g.clone() for g in columns[1]]
            launch(columns, (1e-3, 0.9))
        results[seed] = columns[0] + columns[2]

    alone, together = {}, {}
    for seed in (1, 2):
        run(seed, alone)
    workers = [threading.Thread(target=run, args=(seed, together)) for seed in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert together.keys() == alone.keys()
    for seed in (1, 2):
        assert all(map(torch.equal, together[seed], alone[seed]))


@pytest.mark.needs_compiler
def test_two_python_threads_build_the_same_kernel_at_once():
    formula = Formula(lambda x: x * 1.25 + 0.125, ("array",), (0,))  # nobody else's
    barrier, results = threading.Barrier(2), []

    def run():
        x = torch.ones(3)
        barrier.wait(60)
        CLaunch(formula)([[x]], ())
        results.append(x.tolist())

    workers = [threading.Thread(target=run) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert results == [[1.375] * 3] * 2


@pytest.mark.needs_compiler
def test_other_python_threads_run_while_a_kernel_does():
    x = torch.full((2_000_000,), 1.5, dtype=torch.float64)
    one = c_kernel(Formula(lambda x, *, a: x**a, ("array",), (0,), ("a",)), (x.dtype,)).one
    worker = threading.Thread(target=one, args=(x.numel(), 1, x.data_ptr(), 2.01))
    seen_half_done = 0
    worker.start()
    while worker.is_alive():
        seen_half_done += bool(x[0] != 1.5 and x[-1] == 1.5)
    assert seen_half_done
    assert (x != 1.5).all()


@pytest.mark.needs_compiler
def test_no_memory_for_the_table_of_a_kernel():
    """The numbers of 2^50 items cannot be kept. (Nothing is touched before.)"""
    kernel = c_kernel(Formula(lambda x, *, a: x * a, ("array",), (0,), ("a",)), (torch.float32,))
    with pytest.raises(MemoryError, match="no memory for what a kernel keeps"):
        kernel._many(2**50, 0, 0, 1, 0.5)


@pytest.mark.needs_compiler
@pytest.mark.parametrize(
    "arguments, error, text",
    [
        ((), TypeError, "a kernel takes 4 arguments, got 0"),
        ((3, 1, 0), TypeError, "a kernel takes 4 arguments, got 3"),
        ((3, 1, 0, 1.0, 1.0), TypeError, "a kernel takes 4 arguments, got 5"),
        ((3, 1, 1.5, 1.0), TypeError, "float"),
        ((3, 1, 2**70, 1.0), OverflowError, "too big"),
        ((3, 1, 0, "1"), TypeError, "str"),
        ((3, 1, 0, None), TypeError, "NoneType"),
        ((3, "x", 1.5, None), TypeError, "str"),
    ],
    ids=str,
)
def test_a_call_of_a_kernel_with_other_arguments_is_an_error_and_touches_nothing(arguments, error, text):
    one = c_kernel(Formula(lambda x, *, a: x * a, ("array",), (0,), ("a",)), (torch.float32,)).one
    with pytest.raises(error, match=text):
        one(*arguments)


# ------------------------------------------------------------------------------------- one launch, changing tensors

ADD = Formula(lambda x, g: x + g, ("array", "array"), (0,), name="Add")


def replaced(p, g):
    return [torch.ones_like(t) for t in p], g


def with_other_data(p, g):
    for tensor in p:
        tensor.data = tensor.new_ones(4)
    return p, g


def one_with_other_data(p, g):
    p[1].data = p[1].new_ones(4)
    return p, g


def with_fewer_items(p, g):
    return p[:1], g[:1]


def with_more_items(p, g):
    return [*p, p[0].new_ones(9)], [*g, g[0].new_ones(9)]


def in_another_order(p, g):
    return p[::-1], g[::-1]


def of_another_dtype(p, g):
    return [t.double() for t in p], [t.double() for t in g]


def with_data_of_another_dtype(p, g):
    for tensor in p:
        tensor.data = tensor.data.half()
    return p, [t.half() for t in g]


def of_other_sizes(p, g):
    for tensor in p:
        tensor.data = tensor.new_ones(70)
    return p, [t.new_ones(70) for t in g]


def with_gaps(p, g):
    for tensor in p:
        tensor.data = tensor.new_ones(4, 3)[:, 1]
    return p, g


def reshaped_in_place(p, g):
    for tensor in p:
        tensor.data = tensor.data.view(2, 2).t()
    return p, [torch.arange(4.0, device=t.device).view(2, 2) for t in g]


CHANGES = [
    replaced,
    with_other_data,
    one_with_other_data,
    with_fewer_items,
    with_more_items,
    in_another_order,
    of_another_dtype,
    with_data_of_another_dtype,
    of_other_sizes,
    with_gaps,
    reshaped_in_place,
]


@every_launch
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_launch_follows_its_tensors(engine, device, change):
    launch = LAUNCHES[engine](ADD, fresh=(1,))
    p, g = on(device, [torch.zeros(4) for _ in range(3)], [torch.full((4,), 1.0 + k) for k in range(3)])
    for _ in range(2):
        launch([p, g], ())
    old, old_values = list(p), [t.clone() for t in p]
    addresses = [t.data_ptr() for t in p]
    p, g = change(p, g)
    for _ in range(2):
        want = [a + b for a, b in zip(p, g, strict=True)]
        launch([p, g], ())
        assert all(map(torch.equal, p, want))
    for tensor, address, values in zip(old, addresses, old_values, strict=True):
        if tensor.data_ptr() == address and not any(tensor is t for t in p):
            assert torch.equal(tensor, values), "a tensor that was taken out is still written"


@every_launch
def test_gradients_change_layout_and_memory_at_every_call(engine, device):
    gradients = [
        torch.ones(3, 4, device=device),
        torch.ones(4, 3, device=device).t(),
        torch.tensor(1.0, device=device).expand(3, 4),
        torch.ones(3, 8, device=device)[:, ::2],
        torch.ones(3, 4, dtype=torch.float64, device=device),
        torch.ones(3, 4, dtype=torch.float16, device=device),
        torch._neg_view(-torch.ones(3, 4, device=device)),
    ]
    for order in (gradients, gradients[::-1]):
        launch = LAUNCHES[engine](ADD, fresh=(1,))
        p = [torch.zeros(3, 4, device=device), torch.zeros(4, 3, device=device).t()]
        for calls, g in enumerate(order, 1):
            launch([p, [g, g]], ())
            assert all(torch.equal(t, torch.full_like(t, float(calls))) for t in p)


@every_launch
def test_a_launch_is_usable_after_an_error(engine, device):
    launch = LAUNCHES[engine](ADD, fresh=(1,))
    p = [torch.zeros(4, device=device), torch.zeros(5, device=device)]
    bads = on(device, [torch.ones(4), torch.ones(6)], [torch.ones(4)])
    for bad in bads:
        for _ in range(2):
            with pytest.raises(ValueError, match="Add"):
                launch([p, bad], ())
    launch([p, [torch.ones_like(t) for t in p]], ())
    assert [t.tolist() for t in p] == [[1.0] * 4, [1.0] * 5]


# --------------------------------------------------------------------------------------------- autograd and lifetimes

TARGETS = {
    "dense": lambda device: torch.ones(4, requires_grad=True, device=device),
    "with gaps": lambda device: torch.ones(4, 3, device=device)[:, 1].requires_grad_(),
}


def again_and_again(engine, formula):
    """What runs the formula at every call: where an engine has launches, the same one."""
    return LAUNCHES[engine](formula, (1,)) if engine in LAUNCHES else partial(ENGINES[engine], formula)


@every_engine
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_saved_tensor_that_was_overwritten_is_noticed_in_backward(engine, device, target):
    p = target(device)
    with torch.enable_grad():
        loss = (p * p).sum()
    ENGINES[engine](ADD, [[p], [torch.ones(4, device=device)]], (), (1,))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@every_engine
def test_versions_count_what_was_written_and_nothing_else(engine, device):
    p, g, b = ([torch.ones(4, device=device)] for _ in range(3))
    run = again_and_again(engine, MOMENTUM)
    for calls in (1, 2, 3):
        run([p, g, b], (0.1, 0.9))
        assert p[0]._version == b[0]._version == calls
        assert g[0]._version == 0


@every_engine
@pytest.mark.parametrize("strides", [(4, 1), (1, 4), (8, 2), (0, 0)])
def test_no_gradient_is_kept_alive(engine, device, strides):
    run = again_and_again(engine, MOMENTUM)
    p, b = torch.ones(4, 4, device=device), torch.ones(4, 4, device=device)
    for _ in range(3):
        g = torch.ones(32, device=device).as_strided((4, 4), strides)
        alive = weakref.ref(g)
        run([[p], [g], [b]], (0.1, 0.9))
        del g
        assert alive() is None


@every_launch
def test_a_dropped_launch_frees_what_it_wrote(engine, device):
    p, g = torch.ones(4, device=device), torch.ones(4, device=device)
    launch = LAUNCHES[engine](ADD, fresh=(1,))
    launch([[p], [g]], ())
    alive = weakref.ref(p)
    del launch, p
    gc.collect()
    assert alive() is None


@every_launch
def test_inference_mode(engine, device):
    with torch.inference_mode():
        p = torch.zeros(3, device=device)
        ENGINES[engine](ADD, [[p], [torch.ones_like(p)]], (), (1,))
        assert p.tolist() == [1.0] * 3


@every_engine
def test_gradients_and_parameters_that_require_grad(engine, device):
    p = torch.zeros(4, requires_grad=True, device=device)
    g = torch.ones(4, requires_grad=True, device=device)
    ENGINES[engine](ADD, [[p], [g]], (), (1,))
    assert p.tolist() == [1.0] * 4
    assert p.is_leaf


def test_the_loop_can_be_differentiated():
    with torch.enable_grad():
        x, g = torch.tensor([2.0], requires_grad=True), torch.tensor([3.0], requires_grad=True)
        y = x.clone()
        loop(Formula(lambda x, g: x - 0.5 * g**2, ("array", "array"), (0,)), [[y], [g]], ())
        y.backward()
    assert (x.grad.item(), g.grad.item()) == (1.0, -3.0)


# --------------------------------------------------------------------------------------------------------------- errors

ONES = [torch.ones(4), torch.ones(4)]
UNAVAILABLE = {
    "integers": [torch.ones(4), torch.ones(4, dtype=torch.int64)],
    "complex": [torch.ones(4), torch.ones(4, dtype=torch.complex64)],
    "meta": [torch.ones(4), torch.ones(4, device="meta")],
    "sparse": [torch.ones(4), torch.ones(4).to_sparse()],
}


SCALED = Formula(lambda p, t: (p * t, t + 1), ("array", "scalar"), (0, 1), name="Scaled")


@every_launch
@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize("tensors", UNAVAILABLE.values(), ids=UNAVAILABLE)
def test_tensors_that_an_engine_cannot_take(engine, device, tensors, column):
    columns = [ONES, ONES]
    columns[column] = tensors
    columns = [[t if t.is_meta else t.to(device) for t in tensors] for tensors in columns]
    with pytest.raises(
        EngineUnavailable, match=f"the {LAUNCHES[engine].name} engine computes on strided float tensors"
    ):
        ENGINES[engine](ADD, columns, (), (1,))


@every_launch
def test_a_column_of_two_dtypes_is_for_no_engine_that_compiles(engine, device):
    columns = on(device, [torch.ones(4), torch.ones(4, dtype=torch.float64)], ONES)
    with pytest.raises(EngineUnavailable, match=r"one dtype a column, got torch\.float32 and torch\.float64"):
        ENGINES[engine](ADD, columns, (), (1,))


@every_launch
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_a_scalar_must_be_float_or_double(engine, device, dtype):
    columns = on(device, [torch.ones(3)], [torch.ones((), dtype=dtype)])
    with pytest.raises(EngineUnavailable):
        ENGINES[engine](SCALED, columns)


@every_launch
@pytest.mark.parametrize("shape", [(0,), (2,)])
def test_a_scalar_must_be_one_number(engine, device, shape):
    columns = on(device, [torch.ones(3)], [torch.ones(shape)])
    with pytest.raises(ValueError, match=r"^Scaled: a scalar is one number, got shape \(\d,\)"):
        ENGINES[engine](SCALED, columns)


@every_launch
@pytest.mark.parametrize("fresh", [(), (1,)])
@pytest.mark.parametrize("sizes", [(3, 4), (4, 5), (4, 0)])
def test_another_number_of_elements_is_an_error(engine, device, sizes, fresh):
    columns = on(device, ONES, [torch.ones(n) for n in sizes])
    with pytest.raises(ValueError, match=r"^Add: a tensor of shape \(\d,\) cannot go with one of 4 elements"):
        ENGINES[engine](ADD, columns, (), fresh)


@pytest.mark.gpu
def test_numbers_of_the_items_lie_all_on_the_host_or_none():
    p, t = [torch.ones(3, device="cuda") for _ in range(2)], [torch.ones(()), torch.ones((), device="cuda")]
    with pytest.raises(EngineUnavailable, match="numbers of the items that lie all on the CPU or none"):
        TritonLaunch(SCALED)([p, t], ())
    with pytest.raises(EngineUnavailable, match="strided float tensors of one device"):
        TritonLaunch(ADD, (1,))([p, [torch.ones(3)] * 2], ())


@every_engine
@pytest.mark.parametrize("columns, hypers", [
    ([ONES, ONES[:1], ONES], (0.1, 0.9)),
    ([ONES[:1], ONES, ONES], (0.1, 0.9)),
    ([ONES, ONES, ONES], (0.1,)),
    ([ONES, ONES, ONES], (0.1, 0.9, 0.5)),
])  # fmt: skip
def test_columns_of_two_lengths_and_missing_hypers_are_errors(engine, device, columns, hypers):
    copies = [[tensor.to(device, copy=True) for tensor in column] for column in columns]
    with pytest.raises(ValueError, match=r"columns of one length|zip\(\) argument"):
        ENGINES[engine](MOMENTUM, copies, hypers, (1,))


@every_engine
def test_a_wrong_number_of_results_is_an_error_of_the_formula(engine, device):
    formula = Formula(lambda x, y: x, ("array", "array"), (0, 1), name="Rule")
    with pytest.raises(FormulaError, match=r"^Rule: .*must return 2 results, got 1"):
        ENGINES[engine](formula, on(device, ONES, ONES))


@every_launch
def test_an_unknown_operation_is_an_error_of_the_formula(engine, device):
    formula = Formula(lambda x: x.apply("cosh", x), ("array",), (0,), name="Rule")
    with pytest.raises(FormulaError, match=f"^Rule: the {LAUNCHES[engine].name} engine does not know 'cosh'"):
        ENGINES[engine](formula, [[torch.ones(3, device=device)]])
