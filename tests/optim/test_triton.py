"""What holds for the Triton engine alone, or for CUDA alone: sizes, layouts, numbers on the host, graphs, streams.

All else is in the tests of every engine, which run on it, too.
"""

import copy
import inspect
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from torch_lecture_ops import optim
from torch_lecture_ops.formula import COMPILED, triton_engine
from torch_lecture_ops.formula.compiled import TRITON

LOOP = dict(foreach=False, fused=False)
gpu = pytest.mark.gpu

# Every form of every class, with all of its state and, in turns, what the shell puts around.
DECOUPLED = dict(weight_decay=0.1, decoupled_weight_decay=True)
ROWS = [
    ("SGD", dict(lr=0.02)),
    ("SGD", dict(lr=0.02, momentum=0.9, dampening=0.5, weight_decay=0.1)),
    ("SGD", dict(lr=0.02, momentum=0.9, nesterov=True, maximize=True)),
    ("SGD", dict(lr=0.02, momentum=0.9, form="cs231n", **DECOUPLED)),
    ("SGD", dict(lr=0.02, momentum=0.9, form="cs231n", nesterov=True)),
    ("SGD", dict(lr=0.02, momentum=0.01, form="larson")),
    ("Nesterov", dict(lr=0.02)),
    ("Nesterov", dict(lr=0.02, momentum=0.01, form="larson", weight_decay=0.1)),
    ("Adagrad", dict(lr=0.05, lr_decay=0.25, initial_accumulator_value=0.75)),
    ("Adagrad", dict(lr=0.05, form="larson", gamma=0.5, maximize=True)),
    ("Adagrad", dict(lr=0.05, form="memoryless", eps=0.5, **DECOUPLED)),
    ("RMSprop", dict(lr=0.005, weight_decay=0.1)),
    ("RMSprop", dict(lr=0.005, momentum=0.9, centered=True)),
    ("RMSprop", dict(lr=0.005, form="larson", **DECOUPLED)),
    ("Adadelta", dict(lr=8.0, eps=1e-3, maximize=True)),
    ("Adadelta", dict(lr=0.02, eps=0.5, form="larson")),
    ("Adam", dict(lr=0.02, weight_decay=0.1)),
    ("Adam", dict(lr=0.02, amsgrad=True)),
    ("Adam", dict(lr=0.02, form="incomplete", maximize=True)),
    ("Adam", dict(lr=0.02, form="larson", **DECOUPLED)),
    ("AdamW", dict(lr=0.02, amsgrad=True)),
    ("AdamW", dict(lr=0.02, form="incomplete")),
    ("AdamW", dict(lr=0.02, form="larson", maximize=True)),
    ("NAdam", dict(lr=0.02, momentum_decay=0.5, weight_decay=0.1)),
    ("NAdam", dict(lr=0.02, form="simple", **DECOUPLED)),
]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
IDS = [",".join([which, *(f"{key}={value}" for key, value in kwargs.items())]) for which, kwargs in ROWS]
EACH_ROW = pytest.mark.parametrize(("which", "kwargs"), ROWS, ids=IDS)
# The dtypes in turns.
EACH_ROW_AND_DTYPE = pytest.mark.parametrize(
    ("which", "kwargs", "dtype"), [(*row, DTYPES[number % 4]) for number, row in enumerate(ROWS)], ids=IDS
)
WITH_NUMBERS = [row for row in ROWS if row[0] not in ("SGD", "Nesterov")]
EACH_WITH_NUMBERS = pytest.mark.parametrize(("which", "kwargs"), WITH_NUMBERS, ids=str)


PLACES = [pytest.param("interpreter", marks=pytest.mark.needs_interpreter), pytest.param("cuda", marks=gpu)]


@pytest.fixture(params=PLACES)
def place(request, working):
    """Where the Triton engine runs."""
    with working(request.param):
        yield request.param


class OnHost(TRITON.launch):
    """As on CUDA, where the numbers of an item lie on the CPU; for the interpreter, where all is there."""

    def is_on_host(self, scalar):
        return True


@pytest.fixture(params=["host", "device"])
def numbers(request, place, monkeypatch):
    """Where the numbers of an item (step, mu_product) are, as the keyword arguments that ask for it."""
    if request.param == "device":
        return dict(fused=True)
    if place == "interpreter":
        monkeypatch.setitem(COMPILED, "cpu", TRITON._replace(launch=OnHost))
    return {}


def make(which, params, *kwargs):
    merged = {}
    for each in kwargs:
        merged |= each
    return getattr(optim, which)(params, **merged)


def steps(optimizers, times=1):
    """With the gradients that are there, also for Nesterov, which asks for those of the point ahead."""
    for _ in range(times):
        for optimizer in optimizers:
            with getattr(optimizer, "lookahead", nullcontext)():
                pass
            optimizer.step()


def assert_near(table, run, reference, count):
    """After so many steps of one unit (parameters), four (state) or eight (squares): see test_against_torch.py.

    In units of the largest number of an entry: where numbers cancel, the errors of those before remain.
    """
    got, expected = table.entries(*run), table.entries(*reference)
    assert list(got) == list(expected)
    for key, column in expected.items():
        assert list(got[key]) == list(column)
        largest = {n: torch.full_like(t, table.flat(column.values()).abs().max()) for n, t in column.items()}
        units = count * {"param": 1, "step": 0, "acc_delta": 8}.get(key, 4)
        assert table.distance(got[key], column, largest) <= units, key


def assert_bits(table, run, reference):
    got, expected = table.entries(*run), table.entries(*reference)
    assert list(got) == list(expected)
    for key, column in expected.items():
        for number, right in column.items():
            assert torch.equal(got[key][number], right), (key, number)


# --------------------------------------------------------------------------------------- against the loop, every layout


@EACH_ROW_AND_DTYPE
def test_every_size_is_the_loops(which, kwargs, dtype, place, table):
    """Of 0 to 70 elements, all in one list. (In the interpreter every fifth, which ones depends on the row.)"""
    sizes = range(71) if place == "cuda" else range(ROWS.index((which, kwargs)) % 5, 71, 5)
    ours, theirs = (table.parameters(dtype, [(size,) for size in sizes]) for _ in range(2))
    mine, reference = make(which, ours, kwargs), make(which, theirs, kwargs, LOOP)
    for step in range(2):
        table.give_gradients(step, ours, theirs)
        steps([mine, reference])
    assert mine.engine == "triton"
    assert_near(table, (ours, mine), (theirs, reference), 2)


LAYOUTS = {
    "as usual": lambda t: t.clone(),
    "transposed": lambda t: t.t().contiguous().t(),
    "sliced": lambda t: torch.stack([t, t], -1)[..., 0],
    "in a wider one": lambda t: torch.cat([t, t], 1)[:, 1 : 1 + t.shape[1]],
    "at an odd element": lambda t: torch.cat([t.flatten()[:1], t.flatten()])[1:].view(t.shape),
    "expanded": lambda t: t[:1].expand(t.shape),
    "negated lazily": lambda t: torch._neg_view(-t),
}
FOR_PARAMETERS = [name for name in LAYOUTS if name not in ("expanded", "negated lazily")]


@EACH_ROW_AND_DTYPE
def test_every_layout_is_the_loops(which, kwargs, dtype, place, table):
    """Of parameters and gradients, which change theirs from step to step; none moves what lies between."""
    starts = [table.values((5, 7), 1, 2, dtype, seed) for seed in range(len(FOR_PARAMETERS))]
    ours, theirs = (
        [nn.Parameter(LAYOUTS[name](start)) for name, start in zip(FOR_PARAMETERS, starts, strict=True)]
        for _ in range(2)
    )
    mine, reference = make(which, ours, kwargs), make(which, theirs, kwargs, LOOP)
    layouts = list(LAYOUTS.values())
    for step in range(3):
        for number, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            g = table.values((5, 7), 0.5, 2, dtype, 10 * step + number)
            p.grad, q.grad = (layouts[(3 * step + number) % len(layouts)](g) for _ in range(2))
        kept = [p.grad.clone() for p in ours]
        steps([mine, reference])
        assert all(torch.equal(p.grad, g) for p, g in zip(ours, kept, strict=True))
    assert mine.engine == "triton"
    assert_near(table, (ours, mine), (theirs, reference), 3)


@EACH_ROW
def test_long_parameters_are_the_loops(which, kwargs, place, table):
    """Of several programs: the last one to have read the numbers of a parameter writes the new ones."""
    sizes = [triton_engine.CHUNK + 1, 5]
    ours, theirs = (table.parameters(torch.float32, [(size,) for size in sizes]) for _ in range(2))
    mine, reference = make(which, ours, kwargs, dict(fused=True)), make(which, theirs, kwargs, LOOP)
    for step in range(2):
        table.give_gradients(step, ours, theirs)
        steps([mine, reference])
    assert_near(table, (ours, mine), (theirs, reference), 2)


# ------------------------------------------------------------------------------------------- numbers, on host or device


@EACH_WITH_NUMBERS
def test_different_numbers_of_steps(which, kwargs, numbers, table):
    """Gradients that come late, or stay away for a while: each parameter has a step of its own."""
    shapes, first = [(3,), (70,), (), (0,), (4, 5), (33,)], [0, 0, 1, 1, 3, 3]
    ours, theirs = table.parameters(shapes=shapes), table.parameters(shapes=shapes)
    mine, reference = make(which, ours, kwargs, numbers), make(which, theirs, kwargs, LOOP)
    for step in range(5):
        late = [number for number, start in enumerate(first) if step < start]
        table.give_gradients(step, ours, theirs, without=[*late, *([1] if step == 2 else [])])
        steps([mine, reference])
        assert mine.engine == "triton"
    assert_near(table, (ours, mine), (theirs, reference), 5)
    assert [mine.state[p]["step"].item() for p in ours] == [5, 4, 4, 4, 2, 2]


def test_numbers_in_double(numbers, table):
    """A run of float64 keeps its product of momenta in double, whatever the default at later steps."""
    ours, theirs = table.parameters(torch.float64), table.parameters(torch.float64)
    with table.default_dtype(torch.float64):
        mine, reference = optim.NAdam(ours, **numbers), optim.NAdam(theirs, **LOOP)
        table.give_gradients(0, ours, theirs)
        steps([mine, reference])
    steps([mine, reference], 3)
    for p, q in zip(ours, theirs, strict=True):
        got, expected = mine.state[p]["mu_product"], reference.state[q]["mu_product"]
        assert got.dtype == torch.float64
        # Four factors, each rounded; β ** 0.004 t by pow, which is good to a unit or two.
        torch.testing.assert_close(got, expected, rtol=16 * 2**-52, atol=0, check_device=False)


def test_nothing_depends_on_the_default_device(name, numbers, table):
    """An optimizer makes its tensors where its parameters are, or on the CPU."""
    case = table.Case(name, table.cases[name][0])
    params, others = table.parameters(shapes=[(3,), (70,)]), table.parameters(shapes=[(3,), (70,)])
    mine, reference = case.ours(params, **numbers), case.ours(others, **numbers)
    for step in range(3):
        table.give_gradients(step, params, others)
        with torch.device("meta"):
            mine.step()
        reference.step()
    assert mine.engine == "triton"
    assert_bits(table, (params, mine), (others, reference))


def test_kernels_are_built_once(name, numbers, table, monkeypatch):
    """Not anew for another learning rate or step, nor for any other number of the group; nor the tables of a launch."""
    written, built = [], []
    write, build = triton_engine.functions, triton_engine.Function._build
    monkeypatch.setattr(triton_engine, "functions", lambda text: written.append(text) or write(text))
    monkeypatch.setattr(triton_engine.Function, "_build", lambda *given: built.append(given) or build(*given))
    case = table.Case(name, table.cases[name][0] | dict(weight_decay=0.1))
    params = table.parameters(shapes=[(3,), (70,)])
    optimizer = case.ours(params, **numbers)
    before = None
    for step in range(6):
        table.give_gradients(step, params)
        optimizer.step()
        if step == 1:  # the first one may be another formula
            before = len(written), len(built)
        group = optimizer.param_groups[0]
        for key in ("lr", "eps", "weight_decay", "alpha", "rho", "lr_decay", "momentum_decay"):
            if key in group:
                group[key] = [1.0, 0.75, 0.5, 0.25, 1e-3, 0.125][step]
        if "betas" in group:
            group["betas"] = (0.5 / (step + 1), 1 - 0.5 / (step + 1))
    assert optimizer.engine == "triton"
    assert (len(written), len(built)) == before


# -------------------------------------------------------------------------------------------- where CUDA's numbers are

FLAGS = [{}, dict(foreach=True), LOOP, dict(fused=True), dict(capturable=True), dict(capturable=True, foreach=True)]
NUMBERED = ["Adagrad", "Adadelta", "Adam", "AdamW", "NAdam", "RMSprop"]
FUSED_IN_TORCH = ("Adam", "AdamW")


def allowed(which, where=optim):
    known = inspect.signature(getattr(where, which)).parameters
    return [flags for flags in FLAGS if set(flags) <= set(known)]


@gpu
@pytest.mark.parametrize(
    ("which", "flags"), [(which, flags) for which in NUMBERED for flags in allowed(which)], ids=str
)
def test_where_the_numbers_are(which, flags):
    """As in torch: on the CPU, with capturable=True or fused=True beside the parameter."""
    kind = "cuda" if flags.get("capturable") or flags.get("fused") else "cpu"
    for where in (optim, torch.optim):
        theirs = where is torch.optim
        if theirs and (flags not in allowed(which, where) or (flags.get("fused") and which not in FUSED_IN_TORCH)):
            continue
        p = nn.Parameter(torch.ones(3, device="cuda"))
        p.grad = torch.ones_like(p)
        optimizer = getattr(where, which)([p], **flags)
        optimizer.step()
        numbers = [value for key, value in optimizer.state[p].items() if key in ("step", "mu_product")]
        assert [value.device.type for value in numbers] == [kind] * (2 if which == "NAdam" else 1), where


# -------------------------------------------------------------------------------------------------------- CUDA graphs

# What keeps the step on the device. (SGD and Nesterov have none.)
CAPTURABLE = {which: dict(capturable=True) for which in ("Adadelta", "Adam", "AdamW", "NAdam", "RMSprop")}
SHAPES = [(), (3,), (70,), (0,), (4, 5), (20011,)]


def on_cuda(table, dtype=torch.float32):
    with torch.device("cuda"):
        params = table.parameters(dtype, SHAPES)
        table.give_gradients(0, params)
    return params


def give(table, step, *models):
    """Other gradients in the same memory."""
    for params in models:
        for number, p in enumerate(params):
            p.grad.copy_(table.values(p.shape, 0.5, 2, p.dtype, 1000 * (step + 1) + number))


def warmed_up(*optimizers, times=3):
    """Steps on a side stream, as torch asks for before a capture."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        steps(optimizers, times)
    torch.cuda.current_stream().wait_stream(side)


def captured(optimizer):
    graph = torch.cuda.CUDAGraph()
    touched = torch.zeros(1, device="cuda")
    with torch.cuda.graph(graph):
        touched.add_(1)  # torch warns of a graph that is empty
        steps([optimizer])
    return graph


@gpu
@EACH_ROW_AND_DTYPE
def test_replayed_steps_are_steps(which, kwargs, dtype, table):
    """Parameters, state and numbers, to the bit; the learning rate is a tensor, written between replays."""
    flags = CAPTURABLE.get(which, dict(fused=True))
    runs, rates = [], []
    for _ in range(2):
        rates.append(torch.tensor(kwargs["lr"], dtype=torch.float64, device="cuda"))
        params = on_cuda(table, dtype)
        runs.append((params, make(which, params, kwargs, flags, dict(lr=rates[-1]))))
    (ours, mine), (theirs, reference) = runs
    warmed_up(mine, reference)
    graph = captured(mine)
    torch.cuda.synchronize()
    assert_bits(table, *runs)  # a capture does nothing
    for step in range(4):
        give(table, step, ours, theirs)
        for rate in rates:
            rate.mul_(0.5)
        graph.replay()
        steps([reference])
        torch.cuda.synchronize()
        assert_bits(table, *runs)
    assert mine.engine == "triton"


@gpu
def test_a_graph_between_steps(name, table):
    """Replays and plain steps in turns, and a second graph of the same optimizer."""
    case, flags = table.Case(name, table.cases[name][0]), CAPTURABLE.get(name, dict(fused=True))
    runs = [(params, case.ours(params, **flags)) for params in (on_cuda(table) for _ in range(2))]
    (ours, mine), (theirs, reference) = runs
    warmed_up(mine, reference)
    graphs = [captured(mine), captured(mine)]
    for step, way in enumerate([graphs[0].replay, mine.step, graphs[1].replay, graphs[0].replay, mine.step]):
        give(table, step, ours, theirs)
        way()
        reference.step()
    torch.cuda.synchronize()
    assert_bits(table, *runs)


@gpu
@pytest.mark.parametrize("times", [1, 2])
def test_whole_iterations_in_graphs(name, table, times):
    """Gradients come from the graph's memory, other than before; two graphs, with one iteration or two in each."""
    case, flags = table.Case(name, table.cases[name][0]), CAPTURABLE.get(name, dict(fused=True))
    runs = [(params, case.ours(params, **flags)) for params in (on_cuda(table) for _ in range(2))]

    def iterate(params, optimizer):
        for _ in range(times):
            optimizer.zero_grad(set_to_none=True)
            sum((p.sin() * p).sum() for p in params).backward()
            optimizer.step()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for run in runs:
            iterate(*run)
    torch.cuda.current_stream().wait_stream(side)
    graphs = [torch.cuda.CUDAGraph() for _ in range(2)]
    for graph in graphs:
        with torch.cuda.graph(graph):
            iterate(*runs[0])
    for graph in [*graphs, *graphs]:
        graph.replay()
        iterate(*runs[1])
    torch.cuda.synchronize()
    assert_bits(table, *runs)


@gpu
@EACH_WITH_NUMBERS
def test_a_step_on_the_host_is_not_captured(which, kwargs, table):
    """torch's words; nothing has changed, and the optimizer goes on."""
    runs = [(params, make(which, params, kwargs)) for params in (on_cuda(table) for _ in range(2))]
    (_, mine), (_, reference) = runs
    warmed_up(mine, reference)
    says = rf"^Attempting CUDA graph capture of step\(\) for an instance of {which} but .* capturable is False"
    with pytest.raises(RuntimeError, match=says):
        captured(mine)
    torch.cuda.synchronize()
    assert_bits(table, *runs)
    steps([mine, reference], 2)
    torch.cuda.synchronize()
    assert_bits(table, *runs)


@gpu
@pytest.mark.parametrize("order", [(optim, torch.optim), (torch.optim, optim)], ids=["into torch", "from torch"])
@pytest.mark.parametrize("which", CAPTURABLE)
def test_checkpoints_with_numbers_on_the_device(which, order, table):
    """Three steps with one library, then three with the other, which loads its state: as with the first alone."""
    runs = []
    for where in order:
        params = on_cuda(table)
        # foreach=False: torch's loop; in ours the engine that compiles may run as well.
        runs.append((params, getattr(where, which)(params, lr=0.02, capturable=True, foreach=False)))
    (params, optimizer), (others, other) = runs
    steps([optimizer], 3)
    with torch.no_grad():
        torch._foreach_copy_(others, params)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in range(3):
        give(table, step, params, others)
        steps([optimizer, other])
    assert all(state["step"].is_cuda for state in other.state.values())
    assert_near(table, *runs, 3)
    assert {run.engine for _, run in runs if hasattr(run, "engine")} == {"triton"}


# ------------------------------------------------------------------------------------------------- streams, two devices


@gpu
@pytest.mark.parametrize("flags", [{}, dict(fused=True)], ids=str)
def test_one_optimizer_on_two_streams(name, flags, table):
    """In turns, each waiting for the other."""
    case = table.Case(name, table.cases[name][0])
    runs = [(params, case.ours(params, **flags)) for params in (on_cuda(table) for _ in range(2))]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    for step in range(6):
        give(table, step, *(params for params, _ in runs))
        stream = streams[step % 2]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            runs[0][1].step()
        torch.cuda.current_stream().wait_stream(stream)
        runs[1][1].step()
    torch.cuda.synchronize()
    assert_bits(table, *runs)


@gpu
@pytest.mark.parametrize("flags", [{}, dict(fused=True)], ids=str)
def test_two_optimizers_on_two_streams(name, flags, table):
    """At the same time, by the same kernel: they share nothing that a launch writes."""
    case = table.Case(name, table.cases[name][0])
    shapes = [(300, 1000), (7,), (100, 100)]

    def run():
        with torch.device("cuda"):
            params = table.parameters(shapes=shapes)
            table.give_gradients(0, params)
        return params, case.ours(params, **flags)

    runs, alone = [run(), run()], run()
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream())
    for _ in range(20):
        for stream, (_, optimizer) in zip(streams, runs, strict=True):
            with torch.cuda.stream(stream):
                optimizer.step()
    torch.cuda.synchronize()
    steps([alone[1]], 20)
    torch.cuda.synchronize()
    for each in runs:
        assert_bits(table, each, alone)


@gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one CUDA device")
@pytest.mark.parametrize("flags", [{}, dict(fused=True), dict(foreach=True)], ids=str)
def test_parameters_on_two_devices(name, flags, table):
    """In one list, as a model in parts has them; whichever is the current one."""
    case, runs = table.Case(name, table.cases[name][0]), []
    for more in (flags, LOOP):
        start = table.parameters(shapes=[(3,), (70,), (5, 5), (33,)])
        params = [nn.Parameter(p.detach().to(f"cuda:{number % 2}")) for number, p in enumerate(start)]
        runs.append((params, case.ours(params, **more)))
    for step in range(4):
        table.give_gradients(step, *(params for params, _ in runs))
        with torch.cuda.device(step % 2):
            steps([optimizer for _, optimizer in runs])
    for index in range(2):
        torch.cuda.synchronize(index)
    assert_near(table, *runs, 4)
