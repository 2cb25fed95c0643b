"""The tables shared by the tests of the optimizers, and what they all need: parameters, gradients, a distance.

A test that takes `case` runs for every optimizer and every row of its table; `name`, for every optimizer once;
`engine`, for every engine wherever it runs; `compiling`, for those that compile; `asked`, for the keyword arguments
that ask for each engine, or for none; `case_dtype`, for every row with float64, float32 and one of the half types.

With `engine`, `compiling`, `asked` or `device` a test makes its tensors where these compute, on the default device.
"""

import copy
import logging
from collections import namedtuple
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

from torch_lecture_ops import optim
from torch_lecture_ops.functions.operation import IS_TORCH_2_11


def wide(value):
    """A hyper-parameter as a tensor: of float64, for torch computes step sizes in the dtype of the learning rate."""
    return torch.tensor(value, dtype=torch.float64)


# Every optimizer that torch has too -> rows of keyword arguments. The learning rates move parameters of size 1 to 2 by
# a few hundredths a step: more than the resolution of bfloat16, and so little that values of both signs stay apart.
CASES = {
    "SGD": [
        dict(lr=0.02),
        dict(lr=0.0),
        dict(lr=0.02, maximize=True),
        dict(lr=0.02, weight_decay=0.1),
        dict(lr=0.02, momentum=0.9),
        dict(lr=0.02, momentum=0.9, dampening=0.5),
        dict(lr=0.02, momentum=0.9, nesterov=True),
        dict(lr=0.02, momentum=0.5, nesterov=True, weight_decay=0.1, maximize=True),
        dict(lr=0.02, momentum=0.5, dampening=-0.25, weight_decay=0.1, maximize=True),
        dict(lr=wide(0.02)),
        dict(lr=wide([0.02]), momentum=0.9, nesterov=True),
    ],
    "Adagrad": [
        dict(lr=0.05),
        dict(lr=0.05, lr_decay=0.5),
        dict(lr=0.05, initial_accumulator_value=0.75),
        dict(lr=0.05, eps=0.5),
        dict(lr=0.05, eps=0.0, maximize=True),
        dict(lr=0.05, weight_decay=0.1),
        dict(lr=0.05, weight_decay=0.1, maximize=True, lr_decay=0.25, initial_accumulator_value=0.25),
        dict(lr=wide(0.05)),
        dict(lr=wide(0.05), lr_decay=0.5),
    ],
    "Adadelta": [
        dict(lr=8.0),
        dict(lr=8.0, rho=0.5),
        dict(lr=0.5, rho=0.0, eps=0.01),
        dict(lr=8.0, eps=1e-5),
        dict(lr=8.0, maximize=True),
        dict(lr=8.0, weight_decay=0.1),
        dict(lr=0.5, weight_decay=0.1, maximize=True, rho=0.75, eps=0.01),
        dict(lr=wide(8.0)),
        dict(lr=wide(8.0), rho=0.5),
    ],
    "Adam": [
        dict(lr=0.02),
        dict(lr=0.02, betas=(0.5, 0.75)),
        dict(lr=0.02, betas=(0.0, 0.0)),
        dict(lr=0.02, eps=0.5),
        dict(lr=0.02, eps=0.0),
        dict(lr=0.02, maximize=True),
        dict(lr=0.02, weight_decay=0.1),
        dict(lr=0.02, weight_decay=0.1, decoupled_weight_decay=True),
        dict(lr=0.02, amsgrad=True),
        dict(lr=0.02, amsgrad=True, weight_decay=0.1, maximize=True, betas=(0.5, 0.75)),
        dict(lr=0.02, amsgrad=True, weight_decay=0.1, maximize=True, decoupled_weight_decay=True),
        dict(lr=wide(0.02)),
        dict(lr=wide(0.02), betas=(wide(0.5), wide(0.75))),
        dict(lr=wide(0.02), weight_decay=0.1, decoupled_weight_decay=True),
    ],
    "AdamW": [
        dict(lr=0.02),
        dict(lr=0.02, weight_decay=0.5),
        dict(lr=0.02, weight_decay=0.0),
        dict(lr=0.02, betas=(0.5, 0.75), eps=0.5),
        dict(lr=0.02, amsgrad=True, maximize=True),
        dict(lr=wide(0.02)),
        dict(lr=wide(0.02), betas=(wide(0.5), wide(0.75))),
        dict(lr=wide(0.02), weight_decay=0.1),
    ],
    "NAdam": [
        dict(lr=0.02),
        dict(lr=0.02, betas=(0.5, 0.75)),
        dict(lr=0.02, betas=(0.0, 0.0)),
        dict(lr=0.02, eps=0.5),
        dict(lr=0.02, momentum_decay=0.5),
        dict(lr=0.02, momentum_decay=0.0),
        dict(lr=0.02, maximize=True),
        dict(lr=0.02, weight_decay=0.1),
        dict(lr=0.02, weight_decay=0.1, decoupled_weight_decay=True),
        dict(lr=0.02, weight_decay=0.1, decoupled_weight_decay=True, maximize=True, momentum_decay=0.25),
        dict(lr=wide(0.02)),
        dict(lr=wide(0.02), weight_decay=0.1, decoupled_weight_decay=True),
    ],
    "RMSprop": [
        dict(lr=0.005),
        dict(lr=0.005, alpha=0.5),
        dict(lr=0.005, alpha=0.0, eps=0.0),
        dict(lr=0.005, eps=0.5),
        dict(lr=0.005, maximize=True),
        dict(lr=0.005, weight_decay=0.1),
        dict(lr=0.005, momentum=0.9),
        dict(lr=0.005, centered=True),
        dict(lr=0.005, centered=True, momentum=0.5, alpha=0.75),
        dict(lr=0.005, centered=True, momentum=0.9, weight_decay=0.1, maximize=True),
        dict(lr=wide(0.005), momentum=0.9),
    ],
}

ENGINES = {"c": dict(fused=True), "foreach": dict(foreach=True), "loop": dict(foreach=False, fused=False)}
HALF = (torch.bfloat16, torch.float16)

# Around the widths of vectors (4 to 64 elements) and below them.
SHAPES = ((), (1,), (2,), (3,), (5,), (7,), (8,), (9,), (15,), (16,), (17,), (31,), (4, 8), (33,), (47,), (63,), (8, 8))
SHAPES += ((65,), (70,))

Engine = namedtuple("Engine", "name kwargs place")  # what optimizers call it, how they are asked, for `computing`

# Row of the tests -> engine. The interpreter takes a hundred times as long: its other engines are those of the CPU.
PLACES = {
    **{name: Engine(name, kwargs, "cpu") for name, kwargs in ENGINES.items()},
    "triton": Engine("triton", dict(fused=True), "interpreter"),
    "triton-cuda": Engine("triton", dict(fused=True), "cuda"),
    "foreach-cuda": Engine("foreach", ENGINES["foreach"], "cuda"),
    "loop-cuda": Engine("loop", ENGINES["loop"], "cuda"),
}
# Nobody asked: the compiling engine of the place.
UNASKED = {"default": Engine("c", {}, "cpu"), "default-cuda": Engine("triton", {}, "cuda")}


# Marks of tests -> where they do not run.
NOWHERE = {"not_interpreted": "interpreter", "host": "cuda"}


def pytest_configure(config):
    config.addinivalue_line("markers", "host: something beside the optimizer needs the CPU")


def engine_rows(engines, without):
    marks = {"interpreter": [pytest.mark.needs_interpreter], "cuda": [pytest.mark.gpu]}
    rows = []
    for row, engine in engines.items():
        if engine.place in without:
            continue
        needs = [pytest.mark.needs_compiler] if row == "c" else marks.get(engine.place, [])
        rows.append(pytest.param(engine, marks=needs, id=row))
    return rows


class Case(namedtuple("Case", "name kwargs")):
    """An optimizer and keyword arguments, for our class and torch's."""

    def ours(self, params, **more):
        return getattr(optim, self.name)(params, **copy.deepcopy(self.kwargs) | more)

    def torchs(self, params, **more):
        optimizer = getattr(torch.optim, self.name)(params, **copy.deepcopy(self.kwargs) | more)
        if self.name == "Adagrad" and IS_TORCH_2_11:
            optimizer.register_step_pre_hook(_complete)
        return optimizer

    def torchs_loop(self, params, **more):
        """torch's reference implementation; the others have defects (test_defects.py)."""
        return self.torchs(params, foreach=False, **more)

    def __repr__(self):
        return ",".join([self.name, *(f"{key}={_short(value)}" for key, value in self.kwargs.items())])


def _complete(adagrad, args, kwargs):
    """Make the state that parameters lack. (In torch 2.11 the constructor alone does.)"""
    for group in adagrad.param_groups:
        if missing := [p for p in group["params"] if not adagrad.state.get(p)]:
            adagrad.state.update(type(adagrad)([group | {"params": missing}]).state)


def _short(value):
    if isinstance(value, torch.Tensor):
        return f"tensor{value.tolist()}"
    return "(" + " ".join(map(_short, value)) + ")" if isinstance(value, tuple) else str(value)


def half(case, row):
    """One of the half types. Not float16 where torch, which computes in it, rounds an eps that counts by 5 %."""
    return torch.bfloat16 if case.name == "Adadelta" and case.kwargs.get("eps", 0) < 1e-3 else HALF[row % 2]


def named(dtype):
    return str(dtype).removeprefix("torch.")


def pytest_generate_tests(metafunc):
    cases = [Case(name, kwargs) for name, rows in CASES.items() for kwargs in rows]
    dtypes = [(case, d) for row, case in enumerate(cases) for d in (torch.float64, torch.float32, half(case, row))]
    without = [place for mark, place in NOWHERE.items() if metafunc.definition.get_closest_marker(mark)]
    tables = {
        "case": [pytest.param(case, id=repr(case)) for case in cases],
        "name": list(CASES),
        "engine": engine_rows(PLACES, without),
        "compiling": engine_rows({row: e for row, e in PLACES.items() if e.kwargs.get("fused")}, without),
        "asked": engine_rows(UNASKED | PLACES, without),
        "case_dtype": [pytest.param((case, d), id=f"{case!r}-{named(d)}") for case, d in dtypes],
    }
    if {"case_dtype", "engine"} <= set(metafunc.fixturenames):
        rows = [
            pytest.param(*of.values, *by.values, marks=by.marks, id=f"{of.id}-{by.id}")
            for number, of in enumerate(tables.pop("case_dtype"))
            for by in tables["engine"]
            # The interpreter takes one dtype a case, in turns.
            if by.values[0].place != "interpreter" or number % 3 == number // 3 % 3
        ]
        del tables["engine"]
        metafunc.parametrize(("case_dtype", "engine"), rows, indirect=["engine"])
    for argument, rows in tables.items():
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, rows, indirect=argument in ("engine", "compiling", "asked"))


@pytest.fixture(name="working", scope="session")
def _working(computing):
    """A context: compute at a place, and make tensors there."""

    @contextmanager
    def working(place):
        with computing(place) as device, on(device):
            if device == "cuda":
                torch.cuda.manual_seed(0)
            yield device

    return working


def on(device):
    """Make tensors on this device. (No mode for the CPU: a mode slows down every call of torch.)"""
    return nullcontext() if device == "cpu" else torch.device(device)


def _engine(request, working):
    with working(request.param.place):
        yield request.param


engine, compiling = (pytest.fixture(name=name)(_engine) for name in ("engine", "compiling"))


@pytest.fixture
def asked(request, working):
    with working(request.param.place):
        yield request.param.kwargs


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, working):
    """For tests of the optimizers as they are by default: another one than that of the other tests."""
    with working(request.param) as device:
        yield device


@contextmanager
def default_dtype(dtype):
    """For float64, torch's default as well: the numbers of the state (step, mu_product) then have it, too."""
    try:
        torch.set_default_dtype(torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32)
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def seeded():
    torch.default_generator.manual_seed(0)  # the CPU's alone: torch.manual_seed keeps a stack for each device


def values(shape, low, high, dtype, seed):
    """Random numbers of magnitude low to high and either sign: none is so small that a rounding error counts double.

    The same ones on every device: drawn on the CPU.
    """
    drawn = dict(generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float64, device="cpu")
    if dtype.is_complex:
        shape = (*shape, 2)
    size = low + (high - low) * torch.rand(shape, **drawn)
    signed = size * (1 - 2 * torch.randint(0, 2, shape, **drawn))
    return (torch.view_as_complex(signed) if dtype.is_complex else signed).to(torch.get_default_device(), dtype)


def parameters(dtype=torch.float32, shapes=SHAPES):
    """Parameters of magnitude 1 to 2; the same at every call."""
    return [torch.nn.Parameter(values(shape, 1, 2, dtype, seed)) for seed, shape in enumerate(shapes)]


def give_gradients(step, *models, without=()):
    """Each model (a list of parameters) gets the same gradients, of magnitude 1/2 to 2, for this step."""
    for params in models:
        for number, p in enumerate(params):
            gradient = values(p.shape, 0.5, 2, p.dtype, 1000 * (step + 1) + number)
            p.grad = None if number in without else gradient.to(p.device)


def step(optimizer):
    """A step with the gradients that there are, as if they were those of the point ahead that Nesterov asks for."""
    with optimizer.lookahead() if isinstance(optimizer, optim.Nesterov) else nullcontext():
        pass
    optimizer.step()


def entries(params, optimizer):
    """Name -> number of the parameter -> tensor, for the parameters and every entry of their state."""
    columns = {"param": {number: p.detach() for number, p in enumerate(params)}}
    for number, p in enumerate(params):
        for key, value in optimizer.state.get(p, {}).items():
            columns.setdefault(key, {})[number] = value
    return columns


def flat(tensors):
    """All elements of tensors, wherever they are, as one vector of float64 on the CPU."""
    tensors = [torch.view_as_real(t) if t.is_complex() else t for t in tensors]
    return torch.cat([t.detach().reshape(-1).double().cpu() for t in tensors])


def distance(ours, theirs, before=()):
    """How far ours is from theirs, in units of the dtype's eps times the larger of the old and the new value.

    A step adds something to the old value (not there: zero), so this is the unit of its rounding error even where old
    and added cancel. Equal values, infinite or NaN as well, are at distance 0.
    """
    if not theirs:
        return 0.0
    dtype = next(iter(theirs.values())).dtype
    a, b = flat(ours.values()), flat(theirs.values())
    old = flat(before[number] if number in before else torch.zeros_like(t) for number, t in theirs.items())
    size = torch.maximum(torch.maximum(a.abs(), b.abs()), old.abs())
    same = (a == b) | (a.isnan() & b.isnan())
    units = (a - b).abs() / (size * torch.finfo(dtype).eps)
    return torch.where(same, 0.0, units).nan_to_num(float("inf")).max().item()


@pytest.fixture(scope="session")
def table():
    """What a test module needs of this file besides the rows: modules of tests cannot import from each other."""
    return SimpleNamespace(
        cases=CASES,
        shapes=SHAPES,
        engines=ENGINES,
        default_dtype=default_dtype,
        Case=Case,
        values=values,
        parameters=parameters,
        give_gradients=give_gradients,
        step=step,
        entries=entries,
        flat=flat,
        distance=distance,
    )


@pytest.fixture(name="lightning", scope="module")
def _lightning():
    """Lightning, without its advice in the log."""
    lightning = pytest.importorskip("lightning.pytorch")
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    yield lightning
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
