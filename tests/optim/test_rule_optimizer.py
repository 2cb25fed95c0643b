"""The shell around the rules: what holds for every optimizer, and for rules that a user writes."""

import gc
import logging
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from torch_lecture_ops.formula import FormulaError, abs, maximum, minimum, sqrt, tanh, where
from torch_lecture_ops.optim import Buffer, RuleOptimizer

ON_DEVICE = pytest.mark.usefixtures("device")

SHAPES = [(), (3,), (70,), (4, 5)]
LOOP = dict(foreach=False, fused=False)


def plain(table, name, **more):
    return table.Case(name, table.cases[name][0] | more)


def stateful(table, name, **more):
    """With state, SGD included."""
    return plain(table, name, **({"momentum": 0.9} if name == "SGD" else {}) | more)


# --------------------------------------------------------------------------------------------- closure, hooks, profiler


def test_closure(name, asked, table):
    """Evaluated once, before the update, with gradients on; its loss is returned."""
    params = table.parameters(shapes=SHAPES)
    optimizer = plain(table, name).ours(params, **asked)
    calls = []

    def closure():
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = sum((p**2).sum() for p in params)
        loss.backward()
        return loss

    with torch.no_grad():
        before = sum((p**2).sum() for p in params)
        first = optimizer.step(closure)
        assert torch.equal(first, before)
        assert not torch.is_grad_enabled()
    second = optimizer.step(closure=closure)
    assert second < first
    assert calls == [True, True]
    assert optimizer.step() is None


@ON_DEVICE
def test_order_of_hooks(name, table):
    """As torch: all optimizers' pre-hooks, this one's, the step, this one's post-hooks, all optimizers'."""
    seen = {"ours": [], "torchs": []}
    for who, events in seen.items():
        params = table.parameters(shapes=SHAPES)
        optimizer = getattr(plain(table, name), who)(params)
        start = params[1].detach().clone()
        table.give_gradients(0, params)

        def hook(label, events=events, params=params, start=start):
            return lambda optimizer, args, kwargs: events.append((label, torch.equal(params[1], start)))

        handles = [
            register_optimizer_step_pre_hook(hook("every pre")),
            register_optimizer_step_post_hook(hook("every post")),
            optimizer.register_step_pre_hook(hook("pre")),
            optimizer.register_step_post_hook(hook("post")),
        ]
        optimizer.step()
        for handle in handles:
            handle.remove()
        optimizer.step()
    assert seen["ours"] == [("every pre", True), ("pre", True), ("post", False), ("every post", False)]
    assert seen["ours"] == seen["torchs"]


@ON_DEVICE
def test_a_hook_changes_the_gradients_and_the_closure(name, table):
    (p,) = table.parameters(shapes=[(3,)])
    optimizer = plain(table, name).ours([p])
    start = p.detach().clone()

    def clear(optimizer, args, kwargs):
        p.grad = None
        return (optimizer, lambda: 7.0), {}

    p.grad = torch.ones(3)
    optimizer.register_step_pre_hook(clear)
    assert optimizer.step() == 7.0
    assert torch.equal(p, start)


def test_profiler_sees_the_step(name, table):
    ranges = []
    for who in ("ours", "torchs"):
        params = table.parameters(shapes=SHAPES)
        table.give_gradients(0, params)
        optimizer = getattr(plain(table, name), who)(params)
        with torch.autograd.profiler.profile() as profile:
            optimizer.step()
        ranges.append([event.name for event in profile.function_events if event.name.startswith("Optimizer")])
    assert ranges[0] == ranges[1] == [f"Optimizer.step#{name}.step"]


# ----------------------------------------------------------------------------------------- schedulers, gradient scaling


def has_momentum(optimizer):
    return bool({"momentum", "betas"} & set(optimizer.defaults))


SCHEDULERS = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, step_size=2, gamma=0.5),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=5),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
    # These move momentum or beta1, too, if there is one.
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.01, step_size_up=2, cycle_momentum=has_momentum(o)),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.01, total_steps=8, cycle_momentum=has_momentum(o)),
}


@pytest.mark.not_interpreted
@pytest.mark.parametrize("schedule", SCHEDULERS.values(), ids=SCHEDULERS)
@pytest.mark.parametrize("as_tensor", [False, True], ids=["number", "tensor"])
def test_schedulers(name, asked, schedule, as_tensor, table):
    more = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
    rate = torch.tensor(0.005, dtype=torch.float64) if as_tensor else 0.005
    case, runs = plain(table, name, lr=rate, **more), []
    for make, flags in ((case.ours, asked), (case.torchs_loop, {})):
        params = table.parameters(shapes=SHAPES)
        optimizer = make(params, **flags)
        runs.append((params, optimizer, schedule(optimizer)))
    for step in range(6):
        table.give_gradients(step, *(params for params, _, _ in runs))
        for _, optimizer, scheduler in runs:
            optimizer.step()
            scheduler.step()
    assert runs[0][2].get_last_lr() == runs[1][2].get_last_lr()
    # Six steps, each to the same number or to its neighbour.
    got, expected = (table.entries(params, optimizer)["param"] for params, optimizer, _ in runs)
    assert table.distance(got, expected) <= 6


def test_gradient_scaling(name, asked, table):
    """The step that overflows is skipped, the others are as without scaling."""
    ours, theirs = table.parameters(shapes=SHAPES), table.parameters(shapes=SHAPES)
    case = stateful(table, name)
    mine, reference = case.ours(ours, **asked), case.ours(theirs, **asked)
    scaler = torch.amp.GradScaler(torch.get_default_device().type, init_scale=1024.0)
    for step in range(5):
        table.give_gradients(step, ours, theirs)
        scaler.scale(torch.ones(()))
        for p in ours:
            p.grad *= scaler.get_scale()
        if step == 2:
            ours[2].grad[5] = float("inf")
            before = [p.detach().clone() for p in ours]
        scaler.step(mine)
        scaler.update()
        if step == 2:
            assert all(map(torch.equal, ours, before))
        else:
            reference.step()
    assert scaler.get_scale() == 512.0
    got, expected = table.entries(ours, mine), table.entries(theirs, reference)
    for key, column in expected.items():  # scales are powers of two: nothing is rounded
        assert table.distance(got[key], column) == 0, key


# ------------------------------------------------------------------------------------------------------------ gradients


@pytest.mark.sweep
def test_gradients_are_not_written(case, engine, table):
    params = table.parameters(shapes=SHAPES)
    optimizer = case.ours(params, **engine.kwargs)
    for step in range(3):
        table.give_gradients(step, params)
        grads = [p.grad for p in params]
        kept, versions = [g.clone() for g in grads], [g._version for g in grads]
        optimizer.step()
        assert all(p.grad is g for p, g in zip(params, grads, strict=True))
        assert [g._version for g in grads] == versions
        assert all(map(torch.equal, grads, kept))
    state = [value for entries in optimizer.state.values() for value in entries.values()]
    assert not {t.data_ptr() for t in state} & {g.data_ptr() for g in grads}  # nor kept as state


def test_no_gradients(name, asked, table):
    """Nothing happens, and no state is made (but Adagrad's, with the optimizer)."""
    params = table.parameters(shapes=SHAPES)
    start = [p.detach().clone() for p in params]
    optimizer = stateful(table, name).ours(params, **asked)
    optimizer.step()
    assert all(map(torch.equal, params, start))
    assert any(optimizer.state.values()) == (name == "Adagrad")
    assert all(state["step"] == 0 for state in optimizer.state.values())
    assert optimizer.engine == ""


@pytest.mark.parametrize("shape", [(0,), (3, 0, 2)], ids=str)
def test_empty_parameters(name, asked, shape, table):
    params = [nn.Parameter(torch.empty(shape)), *table.parameters(shapes=[(3,)]), nn.Parameter(torch.empty(shape))]
    (alone,) = table.parameters(shapes=[(3,)])
    case = stateful(table, name)
    optimizer, reference = case.ours(params, **asked), case.ours([alone], **asked)
    for step in range(2):
        for p in params:
            p.grad = torch.full_like(p, step + 1.0)
        alone.grad = torch.full_like(alone, step + 1.0)
        optimizer.step()
        reference.step()
    assert torch.equal(params[1], alone)
    only = case.ours(params[:1], **asked)
    only.step()
    assert all(value.shape in (shape, ()) for value in only.state[params[0]].values())


def test_zero_grad(name, asked, table):
    params = table.parameters(shapes=SHAPES)
    optimizer = stateful(table, name).ours(params, **asked)
    for step in range(4):
        table.give_gradients(step, params)
        optimizer.step()
        grads = [p.grad for p in params]
        optimizer.zero_grad(set_to_none=step % 2 == 0)
        assert all((p.grad is None) if step % 2 == 0 else (p.grad is g) for p, g in zip(params, grads, strict=True))
        assert all(g.count_nonzero() == 0 for g in grads) or step % 2 == 0


def test_gradients_in_the_same_memory(name, asked, table):
    """zero_grad(set_to_none=False) and accumulation: the values count, not the address."""
    ours, theirs = table.parameters(shapes=SHAPES), table.parameters(shapes=SHAPES)
    case = stateful(table, name)
    mine, reference = case.ours(ours, **asked), case.ours(theirs, **asked)
    table.give_gradients(0, ours)
    for step in range(3):
        table.give_gradients(step, theirs)
        for p, q in zip(ours, theirs, strict=True):
            p.grad.copy_(q.grad)
        mine.step()
        reference.step()
    assert all(map(torch.equal, ours, theirs))


# ------------------------------------------------------------------------------------------ what happens to the tensors


def test_stale_saved_tensors_are_noticed(name, engine, table):
    """A step between forward and backward: the saved parameter is no longer what it was."""
    (p,) = table.parameters(shapes=[(70,)])
    optimizer = stateful(table, name).ours([p], **engine.kwargs)
    for _ in range(2):
        loss = (p**3).sum()
        version = p._version
        p.grad = torch.ones(70)
        optimizer.step()
        assert p._version > version
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_state_tells_autograd_too(name, engine, table):
    (p,) = table.parameters(shapes=[(70,)])
    optimizer = stateful(table, name).ours([p], **engine.kwargs)
    p.grad = torch.ones(70)
    optimizer.step()
    versions = {key: value._version for key, value in optimizer.state[p].items()}
    optimizer.step()
    assert all(value._version > versions[key] for key, value in optimizer.state[p].items())


@pytest.mark.sweep
def test_a_dropped_optimizer_frees_its_tensors(name, engine, table):
    params = table.parameters(shapes=SHAPES)
    optimizer = stateful(table, name).ours(params, **engine.kwargs)
    for step in range(3):
        table.give_gradients(step, params)
        optimizer.step()
    alive = [weakref.ref(t) for p in params for t in (p, p.grad, *optimizer.state[p].values())]
    del params, optimizer
    gc.collect()
    assert not any(ref() is not None for ref in alive)


def test_gradients_of_earlier_steps_are_freed(name, engine, table):
    """At once, without waiting for the garbage collector."""
    params = table.parameters(shapes=SHAPES)
    optimizer = stateful(table, name).ours(params, **engine.kwargs)
    for step in range(3):
        table.give_gradients(step, params)
        optimizer.step()
        alive = [weakref.ref(p.grad) for p in params]
        optimizer.zero_grad()
        assert not any(ref() is not None for ref in alive)


def swap_memory(params, optimizer):
    """Other addresses, all else as before."""
    for p in params:
        p.data = p.data.clone()


def swap_strides(params, optimizer):
    params[3].data = params[3].data.t().contiguous().t()


def swap_state(params, optimizer):
    for p in params:
        for key, value in optimizer.state[p].items():
            optimizer.state[p][key] = value * 2 if key != "step" else value + 3


def write_state(params, optimizer):
    for p in params:
        for key, value in optimizer.state[p].items():
            value.mul_(2) if key != "step" else value.add_(3)


def drop_state(params, optimizer):
    optimizer.state.pop(params[1])


def swap_gradients(params, optimizer):
    for p in params:
        p.grad = p.grad * 2


def stretch(params, optimizer):
    """A parameter of another size in the same place, its state dropped."""
    optimizer.state.pop(params[2])
    params[2].data = torch.linspace(1, 2, 33)
    params[2].grad = torch.linspace(1, 2, 33)


CHANGES = [swap_memory, swap_strides, swap_state, write_state, drop_state, swap_gradients, stretch]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changes_by_hand_are_seen(name, asked, change, table):
    """Nothing that was looked up in earlier steps goes on when it no longer holds."""
    case, runs = stateful(table, name), []
    for make, flags in ((case.ours, asked), (case.torchs_loop, {})):
        params = table.parameters(shapes=SHAPES)
        runs.append((params, make(params, **flags)))
    for step in range(4):
        for params, optimizer in runs:
            for number, p in enumerate(params):
                p.grad = table.values(p.shape, 0.5, 2, p.dtype, 10 * step + number)
            if step == 2:
                change(params, optimizer)
            optimizer.step()
    got, expected = (table.entries(*run) for run in runs)
    for key, column in expected.items():
        largest = {n: torch.full_like(t, table.flat(column.values()).abs().max()) for n, t in column.items()}
        # Four steps, each of one unit (parameters) or four (state) of the largest value: test_against_torch.py.
        assert table.distance(got[key], column, largest) <= (4 if key == "param" else 16), key


def test_two_optimizers_at_once(name, asked, table):
    """In turns, on the same parameters and on others: as torch."""
    runs = []
    for who, flags in (("ours", asked), ("torchs_loop", {})):
        params, others = table.parameters(shapes=SHAPES), table.parameters(shapes=[(70,), (3,)])
        makes = [getattr(case, who) for case in (stateful(table, name), stateful(table, name, weight_decay=0.125))]
        optimizers = [makes[0](params, **flags), makes[1](params, **flags), makes[1](others, **flags)]
        runs.append((params + others, optimizers))
    for step in range(3):
        for params, optimizers in runs:
            table.give_gradients(step, params)
            for optimizer in optimizers:
                optimizer.step()
    got, expected = (dict(enumerate(p.detach() for p in params)) for params, _ in runs)
    assert table.distance(got, expected) <= 6  # six steps, each to the same number or to its neighbour


# --------------------------------------------------------------------------------------------------------------- dtypes


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_are_computed_in_float32(case, engine, dtype, table):
    """One step in a half type is a step in float32 from the same values, rounded once."""
    halves = table.parameters(dtype, SHAPES)
    half = case.ours(halves, **engine.kwargs)
    for step in range(3):
        floats = [nn.Parameter(p.detach().float()) for p in halves]
        single = case.ours(floats, **engine.kwargs)
        for p, q in zip(halves, floats, strict=True):
            single.state[q].update({k: v.clone() if v.dtype != dtype else v.float() for k, v in half.state[p].items()})
            if not single.state[q]:
                del single.state[q]
        table.give_gradients(step, halves)
        for p, q in zip(halves, floats, strict=True):
            q.grad = p.grad.float()
        half.step()
        single.step()
        for p, q in zip(halves, floats, strict=True):
            assert torch.equal(p, q.to(dtype))
            for key, value in half.state[p].items():
                assert torch.equal(value, single.state[q][key].to(value.dtype)), key


def test_no_gradient_in_float16(name, asked, table):
    """torch's loop divides 0 by 0, for eps = 1e-8 is zero in float16."""
    p = nn.Parameter(torch.ones(70, dtype=torch.float16))
    p.grad = torch.zeros(70, dtype=torch.float16)
    stateful(table, name).ours([p], **asked).step()
    assert torch.equal(p, torch.ones(70, dtype=torch.float16))


def test_several_dtypes_in_a_group(name, engine, table):
    """Also when other parameters have gradients than at the step before, but as many."""
    with table.default_dtype(torch.float64):
        several_dtypes_in_a_group(name, engine, table)


def several_dtypes_in_a_group(name, engine, table):
    dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.float32, torch.complex64, torch.float16]
    case, runs = stateful(table, name), []
    for make, flags in ((case.ours, engine.kwargs), (case.torchs_loop, {})):
        params = [nn.Parameter(table.values((70,), 1, 2, dtype, number)) for number, dtype in enumerate(dtypes)]
        runs.append((params, make(params, **flags)))
    for step in range(6):
        table.give_gradients(step, *(params for params, _ in runs), without=[step, (step + 1) % 6] if step > 2 else [])
        for _, optimizer in runs:
            optimizer.step()
    for p, q in zip(*(params for params, _ in runs), strict=True):
        assert table.distance({0: p.detach()}, {0: q.detach()}) <= 6  # as always: one a step
    assert runs[0][1].engine == engine.name


# ------------------------------------------------------------------------------------------------------- differentiable


SCALARS = ("step", "mu_product")


@ON_DEVICE
def test_gradcheck_through_a_step(case, table):
    """With respect to the parameter, its gradient, the state and the learning rate."""
    (p,) = table.parameters(torch.float64, [(5,)])
    table.give_gradients(0, [p])
    optimizer = case.ours([p])
    optimizer.step()
    optimizer.step()
    state = {key: value.clone() for key, value in optimizer.state[p].items()}
    for number, key in enumerate(key for key in state if key not in SCALARS):
        # Apart, so that the maximum of amsgrad has a derivative, and centered with a variance far above zero.
        state[key] += 2 if number == 0 else 0.125 * number
    grown = {key: value.requires_grad_() for key, value in state.items() if key not in SCALARS}

    def step(p, g, lr, *values):
        p = p.clone()
        p.grad = g
        optimizer = case.ours([p], differentiable=True, lr=lr)
        optimizer.state[p].update(
            {key: value.clone() for key, value in state.items()}
            | {key: value.clone() for key, value in zip(grown, values, strict=True)}
        )
        optimizer.step()
        assert optimizer.engine == "loop"
        return (p, *(optimizer.state[p][key] for key in grown))

    rate = torch.tensor(float(case.kwargs["lr"]) or 0.02, dtype=torch.float64, requires_grad=True)
    start, gradient = p.detach().clone().requires_grad_(), p.grad.clone().requires_grad_()
    assert torch.autograd.gradcheck(step, (start, gradient, rate, *grown.values()))


# -------------------------------------------------------------------------------------------------------------- engines


def test_names_of_engines(name, compiling, table):
    for flags, engine in (
        ({}, compiling.name),
        (dict(fused=True), compiling.name),
        (dict(foreach=False), compiling.name),
        (dict(fused=False), "foreach"),
        (dict(foreach=True), "foreach"),
        (LOOP, "loop"),
        (dict(differentiable=True), "loop"),
    ):
        p = nn.Parameter(torch.ones(3), requires_grad=not flags.get("differentiable"))
        optimizer = plain(table, name).ours([p], **flags)
        assert optimizer.engine == ""
        p.grad = torch.ones(3)
        optimizer.step()
        assert optimizer.engine == engine, flags


@ON_DEVICE
def test_subclasses_of_tensors_take_a_safe_engine(name, table):
    class Mine(torch.Tensor):
        pass

    case = stateful(table, name)
    for flags, engine in (({}, "foreach"), (LOOP, "loop")):
        (q,) = table.parameters(shapes=[(70,)])
        p = nn.Parameter(q.detach().clone().as_subclass(Mine))
        optimizer, reference = case.ours([p], **flags), case.torchs_loop([q])
        for step in range(2):
            table.give_gradients(step, [p], [q])
            optimizer.step()
            reference.step()
        assert optimizer.engine == engine
        torch.testing.assert_close(p.detach().as_subclass(torch.Tensor), q.detach())


def test_fused_that_cannot_be_had(name, table):
    meta = nn.Parameter(torch.empty(3, device="meta"))
    meta.grad = torch.empty(3, device="meta")
    with pytest.raises(RuntimeError, match=rf"^{name}: fused=True cannot be had: .*use foreach=True"):
        plain(table, name).ours([meta], fused=True).step()
    plain(table, name).ours([meta]).step()


def test_fused_and_foreach_exclude_each_other(name, table):
    params = table.parameters(shapes=[(3,)])
    with pytest.raises(RuntimeError, match=r"^`fused` and `foreach` cannot be `True` together\.$"):
        plain(table, name).ours(params, fused=True, foreach=True)
    with pytest.raises(RuntimeError, match=r"^`fused` does not support `differentiable`$"):
        plain(table, name).ours(params, fused=True, differentiable=True)


def test_without_a_compiler(name, table, monkeypatch, caplog):
    """The next engine runs and says so once; what was asked for by name is refused."""
    from torch_lecture_ops import formula

    def missing(*_):
        raise formula.EngineUnavailable("no C compiler: 'cc' not found; install one or set CC")

    monkeypatch.setattr("torch_lecture_ops.formula.c_engine.kernel", missing)
    formula.note_fallback.cache_clear()
    case = stateful(table, name)
    ours, theirs = table.parameters(shapes=SHAPES), table.parameters(shapes=SHAPES)
    mine, reference = case.ours(ours), case.ours(theirs, foreach=True)
    with caplog.at_level(logging.WARNING, "torch_lecture_ops"):
        for step in range(3):
            table.give_gradients(step, ours, theirs)
            mine.step()
            reference.step()
    assert mine.engine == "foreach"
    assert all(map(torch.equal, ours, theirs))
    assert [record.getMessage() for record in caplog.records] == [
        "no compiled kernels: no C compiler: 'cc' not found; install one or set CC; foreach instead"
    ]
    with pytest.raises(RuntimeError, match=rf"^{name}: fused=True cannot be had: no C compiler"):
        case.ours(theirs, fused=True).step()
    formula.note_fallback.cache_clear()


@pytest.mark.parametrize("which", ["Adam", "RMSprop"])
def test_capturable_on_the_cpu(which, table):
    params = table.parameters(shapes=[(3,)])
    optimizer = plain(table, which).ours(params, capturable=True)
    optimizer.step()  # nobody has a gradient
    table.give_gradients(0, params)
    with pytest.raises(RuntimeError, match=rf"^{which}: capturable=True .* on the CPU; use capturable=False$"):
        optimizer.step()


# ------------------------------------------------------------------------------------------------------------ own rules


class Lion(RuleOptimizer):
    """p = p - η sign(β₁ m + (1 - β₁) g), m = β₂ m + (1 - β₂) g"""

    buffers = {"m": Buffer("exp_avg")}
    counts_steps = False

    def __init__(self, params, lr=0.02, betas=(0.5, 0.75), weight_decay=0.0, foreach=None, fused=None, **more):
        super().__init__(
            params, dict(lr=lr, betas=betas, weight_decay=weight_decay, foreach=foreach, fused=fused, **more)
        )

    @staticmethod
    def rule(p, g, m, *, lr, beta1, beta2):
        u = beta1 * m + (1 - beta1) * g
        return p - lr * where(u > 0, 1.0, where(u < 0, -1.0, 0.0)), beta2 * m + (1 - beta2) * g


def lion(p, g, m, n, t, lr=0.02, beta1=0.5, beta2=0.75, **_):
    return p - lr * np.sign(beta1 * m + (1 - beta1) * g), beta2 * m + (1 - beta2) * g, n


class Peak(RuleOptimizer):
    """Two buffers, a flag, the step, and most of the functions."""

    buffers = {"m": Buffer("mean"), "n": Buffer("peak")}

    def __init__(self, params, lr=0.02, mu=0.75, clip=False, foreach=None, fused=None, **more):
        super().__init__(params, dict(lr=lr, mu=mu, clip=clip, foreach=foreach, fused=fused, **more))

    @staticmethod
    def rule(p, g, m, n, *, lr, mu, t, clip: bool):
        m = mu * m + (1 - mu) * g
        n = maximum(mu * n, abs(g))
        step = tanh(m / (n + 1e-3)) / sqrt(t)
        if clip:
            step = minimum(maximum(step, -0.125), 0.125)
        return p - lr * step, m, n


def peak(p, g, m, n, t, lr=0.02, mu=0.75, clip=False, **_):
    m = mu * m + (1 - mu) * g
    n = np.maximum(mu * n, np.abs(g))
    step = np.tanh(m / (n + 1e-3)) / np.sqrt(t)
    return p - lr * (np.clip(step, -0.125, 0.125) if clip else step), m, n


OWN = [
    (Lion, lion, {}),
    (Lion, lion, dict(weight_decay=0.1)),
    (Lion, lion, dict(weight_decay=0.1, decoupled_weight_decay=True)),
    (Lion, lion, dict(maximize=True)),
    (Peak, peak, {}),
    (Peak, peak, dict(clip=True)),
    (Peak, peak, dict(clip=True, maximize=True, weight_decay=0.1)),
]


@pytest.mark.parametrize(("rule", "reference", "kwargs"), OWN, ids=lambda value: getattr(value, "__name__", str(value)))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_own_rules(rule, reference, kwargs, dtype, engine, table):
    """Against NumPy in float64, with the shell's weight decay and direction around."""
    params = table.parameters(dtype, SHAPES)
    optimizer = rule(params, **kwargs, **engine.kwargs)
    expected = [(p.detach().double().cpu().numpy(), np.zeros(p.shape), np.zeros(p.shape)) for p in params]
    decay = kwargs.get("weight_decay", 0)
    for t in range(1, 6):
        table.give_gradients(t, params)
        for number, (p, m, n) in enumerate(expected):
            g = params[number].grad.double().cpu().numpy() * (-1 if kwargs.get("maximize") else 1)
            if kwargs.get("decoupled_weight_decay"):
                p = p * (1 - 0.02 * decay)
            else:
                g = g + decay * p
            expected[number] = reference(p, g, m, n, t, **kwargs)
        optimizer.step()
        assert optimizer.engine == engine.name
        for got, row in zip(params, expected, strict=True):
            values = [got.detach(), *(v for key, v in optimizer.state[got].items() if key != "step")]
            for value, right in zip(values, row, strict=False):
                # Five steps of at most four units; values are of size 1 to 2, or sums of them that may cancel.
                limit = 2 * 20 * torch.finfo(dtype).eps
                np.testing.assert_allclose(value.double().cpu().numpy(), right, rtol=0, atol=limit)
    assert list(optimizer.state[params[0]]) == (["exp_avg"] if rule is Lion else ["step", "mean", "peak"])


def test_own_rules_and_checkpoints(engine, table):
    params, others = table.parameters(shapes=SHAPES), table.parameters(shapes=SHAPES)
    optimizer, other = Peak(params, **engine.kwargs), Peak(others, **engine.kwargs)
    for step in range(4):
        table.give_gradients(step, params, others)
        optimizer.step()
        if step < 2:
            other.step()
        else:
            again = Peak(others)
            again.load_state_dict(other.state_dict())
            again.step()
            other = again
    assert all(map(torch.equal, params, others))
    assert other.engine == engine.name


class RAdam(RuleOptimizer):
    """Rectified Adam, as a slide has it: in the first steps r is the root of a negative number, and nobody takes it."""

    buffers = {"m": Buffer("exp_avg"), "v": Buffer("exp_avg_sq")}

    def __init__(self, params, lr=0.02, betas=(0.9, 0.999), eps=1e-8, **more):
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, **more))

    @staticmethod
    def rule(p, g, m, v, *, lr, beta1, beta2, eps, t):
        return RAdam.rectified(p, g, m, v, sqrt, lr, beta1, beta2, eps, t)

    @staticmethod
    def rectified(p, g, m, v, root, lr, beta1, beta2, eps, t):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat = m / (1 - beta1**t)
        rho_inf = 2 / (1 - beta2) - 1
        rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
        r = root((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        adaptive = m_hat * sqrt(1 - beta2**t) / (sqrt(v) + eps)
        return p - lr * where(rho > 5, r * adaptive, m_hat), m, v


class RAdamByPower(RAdam):
    """The same with the root as a power, for which Python has complex numbers."""

    @staticmethod
    def rule(p, g, m, v, *, lr, beta1, beta2, eps, t):
        return RAdam.rectified(p, g, m, v, lambda x: x**0.5, lr, beta1, beta2, eps, t)


def assert_like_torchs_radam(table, step, pairs, beta2, count=10):
    """Steps of ours and torch's, on pairs of parameters: p, and the state by its keys."""
    theirs = torch.optim.RAdam([their for _, their in pairs], lr=0.02, betas=(0.9, beta2), foreach=False)
    for number in range(count):
        table.give_gradients(number, *zip(*pairs, strict=True))
        step()
        theirs.step()
        for our, their in pairs:
            torch.testing.assert_close(our.detach(), their.detach(), rtol=1e-13, atol=1e-13)


def radam_pairs(table):
    return list(zip(table.parameters(torch.float64, SHAPES), table.parameters(torch.float64, SHAPES), strict=True))


@pytest.mark.parametrize("rule", [RAdam, RAdamByPower])
@pytest.mark.parametrize("beta2", [0.999, 0.9, 0.6])  # with the last one, r is never taken
def test_the_root_of_a_negative_number_is_nan_where_nobody_takes_it(rule, beta2, engine, table):
    pairs = radam_pairs(table)
    optimizer = rule([our for our, _ in pairs], betas=(0.9, beta2), **engine.kwargs)
    assert_like_torchs_radam(table, optimizer.step, pairs, beta2)
    assert optimizer.engine == engine.name


@pytest.mark.parametrize("rule", [RAdam, RAdamByPower])
def test_the_same_in_a_compiled_step(rule, table):
    pairs = radam_pairs(table)
    optimizer = rule([our for our, _ in pairs], betas=(0.9, 0.999))
    assert_like_torchs_radam(table, torch.compile(optimizer.step, backend="eager"), pairs, 0.999)


@pytest.mark.parametrize("rule", [RAdam, RAdamByPower])
@pytest.mark.parametrize("as_tensor", [False, True], ids=["lr number", "lr tensor"])
def test_the_same_that_autograd_goes_through(rule, as_tensor, table):
    """Also with respect to a learning rate, a tensor among the numbers: of SGD's steps the gradient is m̂."""
    lr = torch.tensor(0.02, dtype=torch.float64, requires_grad=True) if as_tensor else 0.02
    pairs = [(our.detach().clone().requires_grad_().clone(), their) for our, their in radam_pairs(table)]
    optimizer = rule([our for our, _ in pairs], lr=lr, betas=(0.9, 0.9), differentiable=True)
    assert_like_torchs_radam(table, optimizer.step, pairs, 0.9)
    if as_tensor:
        (gradient,) = torch.autograd.grad(sum(our.sum() for our, _ in pairs), lr)
        assert gradient.isfinite()


def wrong(name, rule, buffers=None, **more):
    """An optimizer with this rule."""

    def __init__(self, params, lr=0.1, foreach=None, fused=None, **_):
        RuleOptimizer.__init__(self, params, dict(lr=lr, foreach=foreach, fused=fused))

    buffers = {"m": Buffer("mean")} if buffers is None else buffers
    members = {"rule": staticmethod(rule), "buffers": buffers, "__init__": __init__, "counts_steps": False}
    return type(name, (RuleOptimizer,), members | more)


def too_few(p, g, m, *, lr):
    return p - lr * g


def too_many(p, g, m, *, lr):
    return p - lr * g, m, m


def branches(p, g, m, *, lr):
    return (p - lr * g if g > 0 else p), m


def both(p, g, m, *, lr):
    return where(g > 0 and m > 0, p, p - lr * g), m


def in_place(p, g, m, *, lr):
    m += g
    return p - lr * m, m


def unknown(p, g, m, *, lr):
    return p - lr * torch.sin(g), m


def method(p, g, m, *, lr):
    return p - lr * g.sin(), m


def math_library(p, g, m, *, lr):
    return p - lr * np.sin(g), m


def nothing(p, g, m, *, lr):
    return p - lr * g, None


def text(p, g, m, *, lr):
    return p - "lr" * g, m


def from_outside(p, g, m, *, lr):
    return p - lr * g * torch.ones(3), m


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (too_few, "must return 2 values, got 1"),
        (too_many, "must return 2 values, got 3"),
        (branches, "cannot branch on values"),
        (both, "cannot branch on values"),
        (in_place, "must not write in place"),
        (unknown, "sin"),
        (method, "sin"),
        (math_library, "sin|ufunc"),
        (nothing, "NoneType"),
        (text, "str"),
        (from_outside, "tensor from outside"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_mistakes_in_a_rule(rule, says, compiling, table):
    params = table.parameters(shapes=SHAPES)
    table.give_gradients(0, params)
    start = [p.detach().clone() for p in params]
    with pytest.raises(FormulaError, match=rf"(?s)^Wrong: .*({says})"):
        wrong("Wrong", rule)(params).step()
    assert all(map(torch.equal, params, start))


@ON_DEVICE
@pytest.mark.parametrize("rule", [unknown, method], ids=lambda rule: rule.__name__)
def test_what_only_tensors_know_runs_on_the_loop(rule, table):
    """As the error says."""
    ours, theirs = table.parameters(shapes=SHAPES), table.parameters(shapes=SHAPES)
    table.give_gradients(0, ours, theirs)
    with pytest.raises(FormulaError, match="with foreach=False and fused=False it runs on tensors, as it stands"):
        wrong("Wrong", rule)(ours).step()
    wrong("Wrong", rule)(ours, foreach=False, fused=False).step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q - 0.1 * torch.sin(q.grad))


@ON_DEVICE
def test_in_place_on_tensors(table):
    """Noticed before anything is stored in the parameters."""
    params = table.parameters(shapes=SHAPES)
    table.give_gradients(0, params)
    start = [p.detach().clone() for p in params]
    with pytest.raises(FormulaError, match=r"^Wrong: a formula must not write in place; write m = m \+ g"):
        wrong("Wrong", in_place)(params, foreach=False, fused=False).step()
    assert all(map(torch.equal, params, start))


@pytest.mark.parametrize("rule", [too_few, too_many], ids=lambda rule: rule.__name__)
def test_number_of_results(rule, engine, table):
    params = table.parameters(shapes=SHAPES)
    table.give_gradients(0, params)
    with pytest.raises(FormulaError, match=r"^Wrong: .*must return 2 values"):
        wrong("Wrong", rule)(params, **engine.kwargs).step()


@ON_DEVICE
@pytest.mark.parametrize("rule", [branches, in_place, nothing], ids=lambda rule: rule.__name__)
def test_mistakes_that_lists_show(rule, table):
    params = table.parameters(shapes=SHAPES)
    table.give_gradients(0, params)
    with pytest.raises(FormulaError, match=r"^Wrong: "):
        wrong("Wrong", rule)(params, foreach=True).step()


SIGNATURES = [
    (lambda p, grad, m, *, lr: (p, m), r"^Wrong: the rule must take \(p, g, m, \*, \.\.\.\), got \(p, grad, m\)"),
    (lambda p, g, *, lr: p, r"^Wrong: the rule must take \(p, g, m, \*, \.\.\.\), got \(p, g\)"),
    (lambda p, g, m, lr: (p, m), r"^Wrong: the rule must take \(p, g, m, \*, \.\.\.\), got \(p, g, m, lr\)"),
    (lambda p, g, m, *, lr, t: (p, m), r"^Wrong: .*step t"),
    (lambda p, g, m, *, lr, rho: (p, m), r"^Wrong: .*rho"),
    (lambda p, g, m, *, lr, beta1: (p, m), r"^Wrong: .*beta1"),
    (lambda p, g, *m, lr: (p, m), r"^Wrong: "),
]


@pytest.mark.parametrize(("rule", "says"), SIGNATURES, ids=range(len(SIGNATURES)))
def test_mistakes_in_the_arguments_of_a_rule(rule, says, table):
    """Known when the optimizer is made."""
    with pytest.raises((FormulaError, ValueError), match=says):
        wrong("Wrong", rule)(table.parameters(shapes=[(3,)]))


def test_a_buffer_that_depends_on_no_key_of_the_group(table):
    with pytest.raises((FormulaError, ValueError), match=r"^Wrong: .*switched"):
        wrong("Wrong", lambda p, g, m, *, lr: (p, m), {"m": Buffer("mean", when="switched")})(table.parameters())


def test_classes_made_at_run_time_are_freed():
    """As Fabric makes one for each optimizer."""
    cls = type("Made", (optim.Adam,), {})
    cls([torch.zeros(1)])
    made = weakref.ref(cls)
    del cls
    gc.collect()
    assert made() is None
