"""torch.compile around a step: the optimizer runs its own kernels between the graphs, bit by bit as without.

Like torch's classes, which break the graph twice, it cannot be had with fullgraph=True.
"""

import copy

import pytest
import torch
import torch._dynamo
from torch import nn
from torch._dynamo.utils import counters
from torch.optim.lr_scheduler import StepLR

from torch_lecture_ops import optim

SHAPES = [(), (3,), (70,), (4, 5)]
MORE = {"SGD": dict(momentum=0.9), "RMSprop": dict(momentum=0.9, centered=True), "Adam": dict(amsgrad=True)}


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(error_on_recompile=True):  # what was compiled once holds for all later steps
        yield


def by_method(params, optimizer):
    return torch.compile(optimizer.step, backend="eager")


def by_function(params, optimizer):
    @torch.compile(backend="eager")
    def step():
        optimizer.step()

    return step


def with_operators_around(params, optimizer):
    """Something to compile before and after the step."""

    p = params[2]

    @torch.compile(backend="aot_eager")
    def step():
        before = p.detach() * 2
        optimizer.step()
        return before - p.detach() * 2

    return step


WAYS = {way.__name__: way for way in (by_method, by_function, with_operators_around)}
EACH_WAY = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def stateful(table, name):
    return table.Case(name, table.cases[name][0] | MORE.get(name, {}))


def assert_same(table, run, reference):
    got, expected = table.entries(*run), table.entries(*reference)
    assert list(got) == list(expected)
    for key, column in expected.items():
        assert list(got[key]) == list(column)
        for number, right in column.items():
            assert torch.equal(got[key][number], right), key
            assert (got[key][number].dtype, got[key][number].stride()) == (right.dtype, right.stride()), key


def in_lock_step(table, case, way, **flags):
    """Six steps, compiled and not, while a scheduler changes the learning rate and gradients come and go."""
    runs = []
    for compiles in (True, False):
        params = table.parameters(shapes=SHAPES)
        optimizer = case.ours(params, **flags)
        scheduler = StepLR(optimizer, step_size=2, gamma=0.5)
        runs.append((params, optimizer, scheduler, way(params, optimizer) if compiles else optimizer.step))
    for number in range(6):
        table.give_gradients(number, *(run[0] for run in runs), without=[1] if number in (0, 3) else [])
        for _, _, scheduler, step in runs:
            step()
            scheduler.step()
        assert_same(table, *(run[:2] for run in runs))
    return runs[0][1]


@EACH_WAY
@pytest.mark.parametrize("as_tensor", [False, True], ids=["lr number", "lr tensor"])
def test_compiled_steps_are_the_others(name, way, as_tensor, table):
    case = stateful(table, name)
    if as_tensor:
        case.kwargs["lr"] = torch.tensor(case.kwargs["lr"])
    in_lock_step(table, case, way)


def test_the_engine_is_the_one_asked_for(name, engine, table):
    case = table.Case(name, table.cases[name][0])
    assert in_lock_step(table, case, by_method, **engine.kwargs).engine == engine.name


def test_no_graph_holds_the_step(name, table):
    """One frame is looked at, once; nothing is compiled, however many parameters there are."""
    params = table.parameters()
    optimizer = table.Case(name, table.cases[name][0]).ours(params)
    step = torch.compile(optimizer.step, backend="eager")
    for number in range(4):
        table.give_gradients(number, params)
        step()
        assert counters["frames"] == {"total": 1, "ok": 1}
    assert "unique_graphs" not in counters["stats"]


@pytest.mark.parametrize("where", [optim, torch.optim], ids=["ours", "torchs"])
def test_fullgraph_is_refused(name, where, table):
    """Before anything has changed."""
    (p,) = table.parameters(shapes=[(3,)])
    table.give_gradients(0, [p])
    optimizer, start = getattr(where, name)([p]), p.detach().clone()
    state = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(optimizer.step, backend="eager", fullgraph=True)()
    assert torch.equal(p, start)
    assert repr(optimizer.state_dict()) == repr(state)


def train(way, case):
    """Parameters and state after four steps with a closure, some of it made by the compiled function itself."""
    torch.manual_seed(0)
    model, x = nn.Linear(5, 3), torch.randn(7, 5)
    optimizer = case.ours(model.parameters())

    def closure():
        optimizer.zero_grad()
        loss = model(x).square().sum()
        loss.backward()
        return loss

    def step():
        return optimizer.step(lambda: closure())

    compiled = torch.compile(optimizer.step if way == "method" else step, backend="eager")
    run = {"plain": step, "method": lambda: compiled(closure), "function": compiled}[way]
    losses = [run().item() for _ in range(4)]
    return losses, (list(model.parameters()), optimizer)


@pytest.mark.parametrize("way", ["method", "function"])
@pytest.mark.parametrize("which", ["SGD", "RMSprop", "Adam", "NAdam", "Nesterov"])
def test_closures(which, way, table):
    """Evaluated once a step, Nesterov's at the point ahead."""
    case = table.Case(which, dict(lr=0.01))
    losses, run = train(way, case)
    expected, reference = train("plain", case)
    assert losses == expected
    assert losses[-1] < losses[0]
    assert_same(table, run, reference)


def test_lookahead_in_a_compiled_function(table):
    """Which remembers that it looked, and leaves the parameters where they were."""
    runs = []
    for compiles in (True, False):
        (p,) = table.parameters(shapes=[(70,)])
        optimizer = optim.Nesterov([p], lr=0.05)

        def step(p=p, optimizer=optimizer):
            with optimizer.lookahead():
                p.grad = p.detach() * 2
            optimizer.step()

        run = torch.compile(step, backend="eager") if compiles else step
        with torch._dynamo.config.patch(error_on_recompile=False):  # what is around the step is the compiler's business
            for _ in range(4):
                run()
        runs.append(([p], optimizer))
    assert_same(table, *runs)


def added_group(params, optimizer, table):
    params += table.parameters(shapes=[(9,)])
    optimizer.add_param_group({"params": params[-1:], "lr": 0.001})


def loaded_state(params, optimizer, table):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def edited_group(params, optimizer, table):
    optimizer.param_groups[0].update(lr=0.001, weight_decay=0.5, maximize=True)


def moved_memory(params, optimizer, table):
    for p in params:
        p.data = p.data.clone()


CHANGES = [added_group, loaded_state, edited_group, moved_memory]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changes_in_the_middle_are_seen(name, change, table):
    runs = []
    for compiles in (True, False):
        params = table.parameters(shapes=SHAPES)
        optimizer = stateful(table, name).ours(params)
        step = torch.compile(optimizer.step, backend="eager") if compiles else optimizer.step
        for number in range(4):
            if number == 2:
                change(params, optimizer, table)
            table.give_gradients(number, params)
            step()
        runs.append((params, optimizer))
    assert_same(table, *runs)


def test_hooks_of_a_compiled_step(name, table):
    params, seen = table.parameters(shapes=SHAPES), []
    optimizer = table.Case(name, table.cases[name][0]).ours(params)
    table.give_gradients(0, params)
    optimizer.register_step_pre_hook(lambda *_: seen.append(("pre", torch.compiler.is_compiling())))
    optimizer.register_step_post_hook(lambda *_: seen.append(("post", torch.compiler.is_compiling())))
    step = torch.compile(optimizer.step, backend="eager")
    step()
    step()
    assert seen == [("pre", False), ("post", False)] * 2


def test_errors_of_a_compiled_step(name, table):
    """The optimizer's own, not the compiler's."""
    p = nn.Parameter(torch.ones(3, device="meta"))
    p.grad = torch.ones(3, device="meta")
    optimizer = stateful(table, name).ours([p], fused=True)
    with pytest.raises(RuntimeError) as expected:
        optimizer.step()
    with pytest.raises(type(expected.value)) as caught:
        torch.compile(optimizer.step, backend="eager")()
    assert str(caught.value) == str(expected.value)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["Adam", "RMSprop"])
def test_a_compiled_training_step(which, table):
    """Forward, backward and step in one function, by the compiler's own code."""
    x, y = torch.randn(16, 5), torch.randn(16, 3)
    models = [nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    runs = []
    for model in models:
        case = table.Case(which, dict(lr=0.005))
        optimizer = case.ours(model.parameters())

        def step(model=model, optimizer=optimizer):
            (model(x) - y).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        runs.append((step, optimizer))
    compiled = torch.compile(runs[0][0])
    with torch._dynamo.config.patch(error_on_recompile=False):  # as above
        for _ in range(10):
            compiled()
            runs[1][0]()
    # Two compilers round sums of 16 terms differently, 2e-7 a step of the gradients; ten steps move by at most 0.05.
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)
    assert runs[0][1].engine == runs[1][1].engine
