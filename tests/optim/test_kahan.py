"""kahan=True: what rounding to a half type takes from a parameter is kept, and added at the next step."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from torch_lecture_ops import optim

ON_DEVICE = pytest.mark.usefixtures("device")

SHAPES = [(), (3,), (70,), (4, 5)]
HALF = (torch.bfloat16, torch.float16)
EACH_HALF = pytest.mark.parametrize("dtype", HALF, ids=str)
KEPT = ("step", "mu_product")  # never of a half type

# Every class, with all of its state: rows of keyword arguments.
ROWS = {
    "SGD": [
        dict(lr=0.002, momentum=0.9),
        dict(lr=0.002),
        dict(lr=0.002, momentum=0.9, nesterov=True, weight_decay=0.1, maximize=True),
        dict(lr=0.002, momentum=0.9, form="cs231n", weight_decay=0.1, decoupled_weight_decay=True),
    ],
    "Nesterov": [dict(lr=0.002, momentum=0.9), dict(lr=0.002, momentum=0.001, form="larson", weight_decay=0.1)],
    "Adagrad": [dict(lr=0.002), dict(lr=0.002, form="memoryless", weight_decay=0.1, decoupled_weight_decay=True)],
    "RMSprop": [dict(lr=0.0005, momentum=0.9, centered=True), dict(lr=0.002, form="larson", weight_decay=0.1)],
    "Adadelta": [dict(lr=0.5), dict(lr=0.002, form="larson", weight_decay=0.1, decoupled_weight_decay=True)],
    "Adam": [dict(lr=0.002, amsgrad=True), dict(lr=0.002, form="incomplete", weight_decay=0.1)],
    "AdamW": [dict(lr=0.002, amsgrad=True), dict(lr=0.002, weight_decay=0.1, form="larson", maximize=True)],
    "NAdam": [dict(lr=0.002), dict(lr=0.002, form="simple", weight_decay=0.1, decoupled_weight_decay=True)],
}
EACH_CLASS = pytest.mark.parametrize("which", ROWS)
EACH_ROW = pytest.mark.parametrize(("which", "kwargs"), [(which, row) for which, rows in ROWS.items() for row in rows])

# Learning rates of which no step moves a number of bfloat16 of size 1 to 2 (float16: the eighth of them).
SMALL = dict.fromkeys(ROWS, 1e-4) | dict(SGD=2e-5, Nesterov=2e-5, RMSprop=1e-5, Adagrad=5e-4, Adadelta=0.1)


def make(which, params, **more):
    return getattr(optim, which)(params, **ROWS[which][0] | more)


def steps(table, numbers, *runs):
    """The same gradients for several runs (params, optimizer)."""
    for number in numbers:
        table.give_gradients(number, *(params for params, _ in runs))
        for _, optimizer in runs:
            table.step(optimizer)


def both(p, optimizer):
    """What parameter and compensation hold together."""
    return p.detach().float() + optimizer.state[p]["compensation"].float()


def state_of(p, optimizer):
    return {key: value for key, value in optimizer.state.get(p, {}).items() if key != "compensation"}


@pytest.mark.not_interpreted
def test_steps_that_rounding_takes(asked):
    """100 steps of -0.001 lead from 1 to 0.9. torch in bfloat16 stays at 1, where half a unit is 0.002."""
    runs = []
    for make in (torch.optim.SGD, optim.SGD, lambda p, lr: optim.SGD(p, lr=lr, kahan=True, **asked)):
        p = nn.Parameter(torch.ones(70, dtype=torch.bfloat16))
        p.grad = torch.ones_like(p)
        optimizer = make([p], lr=1e-3)
        for _ in range(100):
            optimizer.step()
        runs.append((p, optimizer))
    (theirs, _), (plain, _), (ours, optimizer) = runs
    assert (theirs == 1).all()
    assert (plain == 1).all()
    assert (ours == torch.tensor(0.9).bfloat16()).all()
    # Of numbers below 1 at most 2⁻⁹ is left, of which the compensation loses 2⁻¹⁸ at each step.
    assert (both(ours, optimizer) - 0.9).abs().max() <= 100 * 2**-18


@pytest.mark.sweep
@EACH_HALF
@EACH_ROW
def test_a_step_is_one_of_float32(which, kwargs, dtype, engine, table):
    """From the sum of both, to the bit: the parameter is the result rounded once, the compensation what is left."""
    params = table.parameters(dtype, SHAPES)
    make = getattr(optim, which)
    optimizer = make(params, **kwargs, kahan=True, **engine.kwargs)
    for number in range(4):
        floats = [nn.Parameter(both(p, optimizer) if number else p.detach().float()) for p in params]
        single = make(floats, **kwargs, **engine.kwargs)
        table.give_gradients(number, params)
        for p, q in zip(params, floats, strict=True):
            q.grad = p.grad.float()
            state = state_of(p, optimizer).items()
            single.state[q].update({key: v.clone() if key in KEPT else v.float() for key, v in state})
        table.step(optimizer)
        table.step(single)
        assert optimizer.engine == engine.name
        for p, q in zip(params, floats, strict=True):
            assert torch.equal(p, q.to(dtype))
            assert torch.equal(optimizer.state[p]["compensation"], (q - p.float()).to(dtype))
            for key, value in state_of(p, optimizer).items():
                assert torch.equal(value, single.state[q][key].to(value.dtype)), key
    assert any(optimizer.state[p]["compensation"].count_nonzero() for p in params)


@pytest.mark.sweep
@pytest.mark.not_interpreted
@EACH_HALF
@EACH_CLASS
def test_small_steps_add_up(which, dtype, asked, table):
    """None of 100 steps moves a half number by itself; with kahan all of them count, to about 16 bits (float16: 22)."""
    lr = SMALL[which] * (1 if dtype == torch.bfloat16 else 0.125)
    ours, plain = table.parameters(dtype, SHAPES), table.parameters(dtype, SHAPES)
    floats = [nn.Parameter(p.detach().float()) for p in ours]
    starts = [p.detach().clone() for p in floats]
    optimizer, without = make(which, ours, lr=lr, kahan=True, **asked), make(which, plain, lr=lr, **asked)
    reference = make(which, floats, lr=lr, foreach=False, fused=False)
    table.give_gradients(0, ours, plain)
    for p, q in zip(ours, floats, strict=True):
        q.grad = p.grad.float()
    for _ in range(100):
        for each in (optimizer, without, reference):
            table.step(each)
        for q in floats:
            for key, value in reference.state[q].items():
                if key not in KEPT:
                    value.copy_(value.to(dtype))  # the states of the others are rounded
    unit = torch.finfo(dtype).eps / 2  # the largest part of a number that rounding takes
    for p, q, r, start in zip(ours, plain, floats, starts, strict=True):
        assert torch.equal(q.float(), start)
        # At each step as much of the compensation is lost, which is itself no larger part of the parameter.
        assert ((both(p, optimizer) - r).abs() <= 100 * unit**2 * r.abs()).all()
        assert ((r - start).abs() > 200 * unit**2 * r.abs()).all()


@pytest.mark.parametrize("order", ["C", "F", "sliced"])
@EACH_CLASS
def test_strides(which, order, asked, table):
    """Parameters that lie otherwise, with gradients that lie as usual: the same numbers."""
    lay = {
        "C": lambda t: t,
        "F": lambda t: t.t().contiguous().t(),
        "sliced": lambda t: torch.stack([t, t], -1)[..., 0],
    }[order]
    runs = []
    for layout in (lay, lambda t: t):
        start = table.values((4, 33), 1, 2, torch.bfloat16, 0)
        params = [nn.Parameter(layout(start))]
        runs.append((params, make(which, params, kahan=True, **asked)))
    steps(table, range(3), *runs)
    (((p,), ours), ((q,), theirs)) = runs
    assert p.stride() == lay(torch.empty(4, 33)).stride()
    assert torch.equal(p, q)
    assert torch.equal(ours.state[p]["compensation"], theirs.state[q]["compensation"])


@EACH_HALF
@EACH_CLASS
def test_infinite_and_nan_parameters(which, dtype, engine, table):
    """They stay what they are, the compensation stays zero, and their neighbours move."""
    odd = torch.tensor([float("inf"), -float("inf"), float("nan"), 1.0], dtype=dtype)
    p = nn.Parameter(odd.repeat(17))
    optimizer = make(which, [p], kahan=True, **engine.kwargs)
    for _ in range(3):
        p.grad = torch.ones_like(p)
        table.step(optimizer)
    torch.testing.assert_close(p.detach()[:3], odd[:3], rtol=0, atol=0, equal_nan=True)
    left = optimizer.state[p]["compensation"].reshape(17, 4)
    assert (left[:, :3] == 0).all()
    assert (both(p, optimizer).reshape(17, 4)[:, 3] < 1).all()


@EACH_HALF
def test_growing_beyond_the_largest_number(dtype, engine):
    """What is left counts up to there; from there on the parameter is infinite, and nothing is left."""
    largest = torch.finfo(dtype).max
    p = nn.Parameter(torch.full((70,), largest, dtype=dtype))
    optimizer = optim.SGD([p], lr=torch.finfo(dtype).eps * largest / 16, maximize=True, kahan=True, **engine.kwargs)
    p.grad = torch.ones_like(p)
    for _ in range(3):  # together three quarters of half a unit
        optimizer.step()
        assert (p == largest).all()
    assert (optimizer.state[p]["compensation"] > 0).all()
    for _ in range(3):
        optimizer.step()
        assert (p == float("inf")).all() or optimizer.state[p]["compensation"].isfinite().all()
    assert (p == float("inf")).all()
    assert (optimizer.state[p]["compensation"] == 0).all()


# ---------------------------------------------------------------------------------------------------- keys, checkpoints


@ON_DEVICE
@EACH_CLASS
def test_keys(which, table):
    """The group has kahan only if it is set; the compensation is the last of the state, of the parameter's kind."""
    params = table.parameters(torch.bfloat16, SHAPES)
    for value in (False, True):
        optimizer = make(which, params, kahan=value)
        assert ("kahan" in optimizer.param_groups[0]) == value
        steps(table, [0], (params, optimizer))
        assert all(("compensation" in optimizer.state[p]) == value for p in params)
    for p in params:
        *_, (key, left) = optimizer.state[p].items()
        assert key == "compensation"
        assert (left.dtype, left.shape, left.stride()) == (p.dtype, p.shape, p.stride())


def through_a_file(run):
    params, optimizer = run
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    others = [nn.Parameter(p.detach().clone()) for p in params]
    other = type(optimizer)(others)
    other.load_state_dict(torch.load(file, weights_only=True))
    return others, other


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda run: pickle.loads(pickle.dumps(run)),
    "file": through_a_file,
}


@ON_DEVICE
@pytest.mark.parametrize("copy_of", COPIES.values(), ids=COPIES)
@EACH_CLASS
def test_copies_go_on_alike(which, copy_of, table):
    params = table.parameters(torch.bfloat16, SHAPES)
    optimizer = make(which, params, kahan=True)
    steps(table, range(3), (params, optimizer))
    others, other = copy_of((params, optimizer))
    assert other.param_groups[0]["kahan"] is True
    steps(table, range(3, 6), (params, optimizer), (others, other))
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q)
        assert list(optimizer.state[p]) == list(other.state[q])
        assert all(map(torch.equal, optimizer.state[p].values(), other.state[q].values()))


@ON_DEVICE
def test_checkpoints_go_into_torch(name, table):
    """It goes on without the compensation, from the same state; and what it saves comes back."""
    params = table.parameters(torch.bfloat16, SHAPES)
    optimizer = make(name, params, kahan=True)
    steps(table, range(3), (params, optimizer))
    saved = copy.deepcopy(optimizer.state_dict())
    others, ours = ([nn.Parameter(p.detach().clone()) for p in params] for _ in range(2))
    theirs = getattr(torch.optim, name)(others, foreach=False)
    theirs.load_state_dict(copy.deepcopy(saved))
    assert theirs.state_dict()["param_groups"] == saved["param_groups"]
    plain = make(name, ours)
    saved["param_groups"][0]["kahan"] = False
    plain.load_state_dict(saved)
    steps(table, range(3, 5), (others, theirs), (ours, plain))
    for p, q in zip(ours, others, strict=True):
        # Two steps, each to the same number or to its neighbour.
        torch.testing.assert_close(p, q, rtol=2 * torch.finfo(torch.bfloat16).eps, atol=0)
    optimizer.load_state_dict(theirs.state_dict())
    assert optimizer.param_groups[0]["kahan"] is True


@ON_DEVICE
@pytest.mark.parametrize("which", ["SGD", "Adam"])
def test_checkpoints_that_know_nothing_of_it(which, table):
    """torch's checkpoint cannot say whether to compensate: what the optimizer was made with holds."""
    params, others = table.parameters(torch.bfloat16, SHAPES), table.parameters(torch.bfloat16, SHAPES)
    theirs, optimizer = getattr(torch.optim, which)(others, foreach=False), make(which, params, kahan=True)
    steps(table, range(2), (others, theirs))
    optimizer.load_state_dict(copy.deepcopy(theirs.state_dict()))
    steps(table, [2], (params, optimizer))
    assert optimizer.param_groups[0].get("kahan") is True
    assert all("compensation" in optimizer.state[p] for p in params)


# ----------------------------------------------------------------------------------------------------- groups, refusals

OTHERS = {
    "float32": lambda: [torch.ones(3)],
    "float64": lambda: [torch.ones(3, dtype=torch.float64)],
    "complex64": lambda: [torch.ones(3, dtype=torch.complex64)],
    "one of several": lambda: [torch.ones(3).bfloat16(), torch.ones(3)],
}


@ON_DEVICE
@pytest.mark.parametrize("others", OTHERS.values(), ids=OTHERS)
@EACH_CLASS
def test_only_for_half_types(which, others, table):
    """Refused when the optimizer is made, or the group added; then the optimizer is what it was, and goes on."""
    says = rf"^{which}: kahan=True compensates the rounding of float16 and bfloat16, got a parameter of torch\..*group"
    params = [nn.Parameter(tensor) for tensor in others()]
    with pytest.raises(ValueError, match=says):
        make(which, params, kahan=True)
    with pytest.raises(ValueError, match=says):
        make(which, [{"params": params, "kahan": True}])
    halves, alone = table.parameters(torch.bfloat16, SHAPES), table.parameters(torch.bfloat16, SHAPES)
    optimizer, reference = make(which, halves, kahan=True), make(which, alone, kahan=True)
    steps(table, [0], (halves, optimizer), (alone, reference))
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=says):
        optimizer.add_param_group({"params": params})
    assert optimizer.state_dict()["param_groups"] == before["param_groups"]
    assert not any(p in optimizer.state for p in params)
    steps(table, [1], (halves, optimizer), (alone, reference))
    assert all(map(torch.equal, halves, alone))
    optimizer.add_param_group({"params": params, "kahan": False})  # as the text says
    for p in params:
        p.grad = torch.ones_like(p)
    table.step(optimizer)
    assert not any("compensation" in optimizer.state[p] for p in params)


@EACH_CLASS
def test_groups(which, asked, table):
    """Half types with it beside others without it: each as it would alone."""
    runs = []
    for dtype, kahan in (
        (torch.bfloat16, True),
        (torch.float32, False),
        (torch.float16, True),
        (torch.bfloat16, False),
    ):
        params = table.parameters(dtype, SHAPES)
        runs.append((params, make(which, params, kahan=kahan, **asked), kahan))
    groups = [
        {"params": [nn.Parameter(p.detach().clone()) for p in params], "kahan": kahan} for params, _, kahan in runs
    ]
    together = make(which, groups, **asked)
    for number in range(3):
        for group, (params, optimizer, _) in zip(groups, runs, strict=True):
            table.give_gradients(number, group["params"], params)
            table.step(optimizer)
        table.step(together)
    for group, (params, _, kahan) in zip(groups, runs, strict=True):
        assert all(map(torch.equal, group["params"], params))
        assert all(("compensation" in together.state[p]) == kahan for p in group["params"])


@EACH_CLASS
def test_switched_in_the_middle(which, asked, table):
    """The rest of the state goes on (SGD's momentum does not start anew); switched off, so does the parameter."""
    ours, plain = table.parameters(torch.bfloat16, SHAPES), table.parameters(torch.bfloat16, SHAPES)
    runs = [(params, make(which, params, weight_decay=0, **asked)) for params in (ours, plain)]
    group = runs[0][1].param_groups[0]
    steps(table, range(2), *runs)
    assert all(map(torch.equal, ours, plain))
    for numbers, value in ((range(2, 5), True), (range(5, 7), False)):
        group["kahan"] = value
        steps(table, numbers, *runs)
        for p, q in zip(ours, plain, strict=True):
            mine, theirs = (state_of(p, optimizer) for p, (_, optimizer) in zip((p, q), runs, strict=True))
            assert list(mine) == list(theirs)
            assert all(map(torch.equal, mine.values(), theirs.values()))  # none of it depends on the parameter
            assert "compensation" in runs[0][1].state[p]
    assert any(runs[0][1].state[p]["compensation"].count_nonzero() for p in ours)


@EACH_CLASS
def test_gradients_are_not_written(which, engine, table):
    params = table.parameters(torch.bfloat16, SHAPES)
    optimizer = make(which, params, kahan=True, **engine.kwargs)
    for number in range(3):
        table.give_gradients(number, params)
        grads = [p.grad for p in params]
        kept, versions = [g.clone() for g in grads], [g._version for g in grads]
        table.step(optimizer)
        assert all(p.grad is g for p, g in zip(params, grads, strict=True))
        assert [g._version for g in grads] == versions
        assert all(map(torch.equal, grads, kept))


@EACH_CLASS
def test_without_a_gradient_nothing_moves(which, asked, table):
    """What is left waits with its parameter."""
    params = table.parameters(torch.bfloat16, SHAPES)
    optimizer = make(which, params, kahan=True, **asked)
    steps(table, range(2), (params, optimizer))
    kept = [(p.detach().clone(), optimizer.state[p]["compensation"].clone()) for p in params]
    table.give_gradients(2, params, without=[1, 2])
    table.step(optimizer)
    for number in (1, 2):
        p, (before, left) = params[number], kept[number]
        assert torch.equal(p, before)
        assert torch.equal(optimizer.state[p]["compensation"], left)
    assert not torch.equal(both(params[3], optimizer), kept[3][0].float() + kept[3][1].float())
