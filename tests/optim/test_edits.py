"""What users do to `state` and `param_groups` between two steps: it acts at the very next one, and frees what it drops.

A table of edits, each on torch's class and on ours, or on our loop engine for what torch lacks.
"""

import copy
import gc
import weakref
from collections import defaultdict

import pytest
import torch
from torch import nn

from torch_lecture_ops import optim

SHAPES = [(3,), (7, 5), (70,), (5, 5), (4,)]

# What torch has, compared with torch's loop, and what it has not, with ours; learning rates that move p by hundredths.
CASES = {
    "SGD": ("SGD", dict(lr=0.02, momentum=0.9, dampening=0.25)),
    "SGD without state": ("SGD", dict(lr=0.02)),
    "Adagrad": ("Adagrad", dict(lr=0.05, initial_accumulator_value=0.5)),
    "RMSprop": ("RMSprop", dict(lr=0.005, momentum=0.9, centered=True)),
    "Adadelta": ("Adadelta", dict(lr=1.0)),
    "Adam": ("Adam", dict(lr=0.02, amsgrad=True)),
    "AdamW": ("AdamW", dict(lr=0.02)),
    "NAdam": ("NAdam", dict(lr=0.02)),
}
OURS = {
    "Nesterov": ("Nesterov", dict(lr=0.02)),
    "Nesterov: larson": ("Nesterov", dict(lr=0.02, momentum=0.02, form="larson")),
    "SGD: cs231n": ("SGD", dict(lr=0.02, momentum=0.9, form="cs231n")),
    "RMSprop: larson": ("RMSprop", dict(lr=0.005, form="larson", initial_accumulator_value=1.0)),
    "NAdam: simple": ("NAdam", dict(lr=0.02, form="simple")),
    "Adam: kahan": ("Adam", dict(lr=0.02, kahan=True)),
}
STATELESS = {"SGD without state"}

EDITS = {}


def edit(function):
    EDITS[function.__name__] = function
    return function


@edit
def empty_the_state(optimizer, params):
    optimizer.state.clear()


@edit
def replace_the_state(optimizer, params):
    optimizer.state = defaultdict(dict)


@edit
def copy_the_state(optimizer, params):
    """Other dicts and tensors with the same values, in another order."""
    optimizer.state = defaultdict(dict, {p: copy.deepcopy(optimizer.state[p]) for p in reversed(list(optimizer.state))})


@edit
def delete_one_state(optimizer, params):
    optimizer.state.pop(params[1], None)


@edit
def delete_all_entries(optimizer, params):
    optimizer.state.get(params[1], {}).clear()


@edit
def swap_states(optimizer, params):
    """Of two parameters of one size, by the tensors."""
    (a, b) = (optimizer.state.get(p, {}) for p in (params[3], params[5]))
    for key in a:
        a[key], b[key] = b[key], a[key]


@edit
def replace_entries(optimizer, params):
    """By other tensors with other values."""
    for state in optimizer.state.values():
        for key, value in state.items():
            state[key] = value + 1 if key == "step" else value * 0.5


@edit
def write_entries(optimizer, params):
    for state in optimizer.state.values():
        for key, value in state.items():
            value.add_(1) if key == "step" else value.mul_(0.5)


@edit
def move_entries(optimizer, params):
    """As who lets the state wait elsewhere: other memory behind the same tensors."""
    for state in optimizer.state.values():
        for value in state.values():
            value.data = value.data.clone()


@edit
def turn_entries(optimizer, params):
    """Other strides; in the same memory those of the square."""
    state = optimizer.state.get(params[3], {})
    for key, value in state.items():
        if value.dim():
            value.copy_(value.t().clone())
            state[key] = value.t()


@edit
def drop_a_group(optimizer, params):
    optimizer.param_groups.pop()


@edit
def drop_a_group_and_its_state(optimizer, params):
    for p in optimizer.param_groups.pop(0)["params"]:
        optimizer.state.pop(p, None)


@edit
def reverse_the_groups(optimizer, params):
    optimizer.param_groups.reverse()


@edit
def replace_the_groups(optimizer, params):
    optimizer.param_groups = [dict(group, lr=group["lr"] / 2) for group in optimizer.param_groups]


@edit
def reverse_the_parameters(optimizer, params):
    for group in optimizer.param_groups:
        group["params"] = group["params"][::-1]


@edit
def move_a_parameter_to_another_group(optimizer, params):
    optimizer.param_groups[1]["params"].append(optimizer.param_groups[0]["params"].pop(0))


@edit
def add_a_group(optimizer, params):
    params.append(nn.Parameter(torch.linspace(1, 2, 6, dtype=params[0].dtype)))
    optimizer.add_param_group({"params": params[-1:], "weight_decay": 0.125})


@edit
def replace_a_parameter(optimizer, params):
    """Its state waits for one that is gone."""
    put(optimizer, params, 1, nn.Parameter(torch.linspace(1, 2, 9, dtype=params[0].dtype)))


@edit
def hand_over_the_state(optimizer, params):
    """To a parameter of other strides."""
    old = params[1]
    new = put(optimizer, params, 1, nn.Parameter(old.detach().t().contiguous().t()))
    if old in optimizer.state:
        optimizer.state[new] = optimizer.state.pop(old)


@edit
def grow_a_parameter(optimizer, params):
    """As Gaussian splatting does."""
    old, more = params[2], torch.linspace(1, 2, 5, dtype=params[0].dtype)
    state = optimizer.state.pop(old, None)
    new = put(optimizer, params, 2, nn.Parameter(torch.cat([old.detach(), more])))
    if state:
        optimizer.state[new] = {k: torch.cat([v, 0 * more]) if v.dim() else v for k, v in state.items()}


@edit
def grow_in_place(optimizer, params):
    """The same parameter, longer; its state is dropped."""
    optimizer.state.pop(params[2], None)
    params[2].data = torch.linspace(1, 2, 77, dtype=params[0].dtype)


@edit
def move_the_parameters(optimizer, params):
    for p in params:
        p.data = p.data.clone()


@edit
def turn_a_parameter(optimizer, params):
    params[1].data = params[1].data.t().contiguous().t()


@edit
def freeze_one(optimizer, params):
    params[1].requires_grad_(False)


@edit
def set_aside_and_put_back(optimizer, params):
    """A step with a new state between."""
    kept, optimizer.state = optimizer.state, defaultdict(dict)
    advance(optimizer, params, 77)
    optimizer.state = kept


def put(optimizer, params, number, new):
    """A parameter in the place of another one."""
    for group in optimizer.param_groups:
        group["params"] = [new if p is params[number] else p for p in group["params"]]
    params[number] = new
    return new


def advance(optimizer, params, number):
    """A step in which each parameter that is not frozen has a gradient of its own."""
    for place, p in enumerate(params):
        p.grad = torch.linspace(1, 2 + place, p.numel()).reshape(p.shape).to(p.dtype) / (1 + number % 3)
        if not p.requires_grad:
            p.grad = None
    with optimizer.lookahead() if isinstance(optimizer, optim.Nesterov) else torch.no_grad():
        pass
    optimizer.step()


def start(make, dtype):
    params = [
        nn.Parameter(torch.linspace(1, 2 + k, torch.Size(s).numel()).reshape(s).to(dtype))
        for k, s in enumerate([*SHAPES, (5, 5)])
    ]
    return make([{"params": params[:4]}, {"params": params[4:], "weight_decay": 0.25}]), params


def makers(which, kwargs, engine):
    ours = getattr(optim, which)
    is_late = which == "Adagrad" and torch.__version__.startswith("2.11.")  # makes state in its constructor alone
    if kwargs.keys() & {"form", "kahan"} or which == "Nesterov" or is_late:
        return lambda p: ours(p, **kwargs, **engine.kwargs), lambda p: ours(p, foreach=False, fused=False, **kwargs)
    torchs = getattr(torch.optim, which)
    return lambda p: ours(p, **kwargs, **engine.kwargs), lambda p: torchs(p, foreach=False, **kwargs)


@pytest.mark.sweep
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("change", EDITS.values(), ids=EDITS)
@pytest.mark.parametrize("row", [*CASES, *OURS])
def test_an_edit_acts_at_the_next_step(row, change, steps, engine):
    which, kwargs = (CASES | OURS)[row]
    dtype = torch.bfloat16 if kwargs.get("kahan") else torch.float32
    runs = []
    for make in makers(which, kwargs, engine):
        optimizer, params = start(make, dtype)
        for number in range(steps):
            advance(optimizer, params, number)
        change(optimizer, params)
        for number in range(2):
            advance(optimizer, params, steps + number)
        runs.append((optimizer, params))
    (got, params), (expected, others) = runs
    for p, q in zip(params, others, strict=True):
        assert_near(p.detach(), q.detach())
        assert list(got.state.get(p, {})) == list(expected.state.get(q, {}))
        for key, value in expected.state.get(q, {}).items():
            assert_near(got.state[p][key], value)
    assert len(got.param_groups) == len(expected.param_groups)


def assert_near(got, expected):
    """By a few units of the largest value: of a sum of terms that may cancel."""
    scale = expected.abs().max().item() if expected.numel() else 0.0
    torch.testing.assert_close(got, expected, rtol=0, atol=16 * torch.finfo(expected.dtype).eps * scale)


MISSING = {"None": lambda state, key: state.update({key: None}), "deleted": lambda state, key: state.pop(key)}


@pytest.mark.sweep
@pytest.mark.parametrize("miss", MISSING.values(), ids=MISSING)
@pytest.mark.parametrize("row", [row for row in (*CASES, *OURS) if row not in STATELESS])
def test_an_entry_that_is_missing_starts_anew(row, miss, engine):
    """One is as it was at first, the others go on. (torch's SGD likewise; the others of torch raise.)"""
    which, kwargs = (CASES | OURS)[row]
    dtype = torch.bfloat16 if kwargs.get("kahan") else torch.float32
    make = makers(which, kwargs, engine)[0]
    key = list(start_state(make, dtype))[-1]
    runs = []
    for by_hand in (False, True):
        optimizer, params = start(make, dtype)
        for number in range(2):
            advance(optimizer, params, number)
        state = optimizer.state[params[1]]
        if not by_hand:
            miss(state, key)
        elif which == "SGD" and key == "momentum_buffer":
            state.clear()
        else:
            state[key].fill_(initial(which, key, kwargs))
        advance(optimizer, params, 2)
        runs.append([params[1].detach(), *(optimizer.state[params[1]][k] for k in sorted(optimizer.state[params[1]]))])
    assert all(map(torch.equal, *runs))


def start_state(make, dtype):
    optimizer, params = start(make, dtype)
    for number in range(2):
        advance(optimizer, params, number)
    return optimizer.state[params[1]]


def initial(which, key, kwargs):
    return kwargs.get("initial_accumulator_value", 0.0) if key in ("sum", "square_avg") else float(key == "mu_product")


@pytest.mark.sweep
def test_a_number_for_a_tensor(name, engine, table):
    """As who sets the step back by hand."""
    runs = []
    for number_or_tensor in (int, torch.tensor):
        params = table.parameters(shapes=SHAPES)
        optimizer = table.Case(name, table.cases[name][0]).ours(params, **engine.kwargs)
        for number in range(2):
            advance(optimizer, params, number)
        for state in optimizer.state.values():
            if "step" in state:
                state["step"] = number_or_tensor(5.0)
        advance(optimizer, params, 2)
        runs.append(params)
        assert all(state.get("step", 6.0) == 6.0 for state in optimizer.state.values())
    assert all(map(torch.equal, *runs))


def test_what_is_no_tensor_is_refused():
    """With its name, and nothing has changed."""
    p = nn.Parameter(torch.ones(3))
    optimizer = optim.Adam([p])
    advance(optimizer, [p], 0)
    optimizer.state[p]["exp_avg"] = "a word"
    kept = p.detach().clone()
    with pytest.raises(TypeError, match=r"^Adam: 'exp_avg' in a parameter's state must be a tensor, got 'a word'$"):
        advance(optimizer, [p], 1)
    assert torch.equal(p, kept)


# ------------------------------------------------------------------------------------------------------- what is freed


def tensors_of(optimizer, params):
    return [t for p in params for t in (p, p.grad, *optimizer.state.get(p, {}).values())]


def pop_group(optimizer, params):
    for p in optimizer.param_groups.pop()["params"]:
        optimizer.state.pop(p, None)
    gone = tensors_of(optimizer, params[4:])
    del params[4:]
    return gone


def pop_state(optimizer, params):
    gone = [value for state in optimizer.state.values() for value in state.values()]
    optimizer.state.clear()
    return gone


def pop_states(optimizer, params):
    gone = list(optimizer.state.pop(params[2], {}).values())
    return gone


def other_entries(optimizer, params):
    """As who moves the state to another device to make room."""
    gone = [value for state in optimizer.state.values() for value in state.values()]
    for state in optimizer.state.values():
        for key, value in state.items():
            state[key] = value.clone()
    return gone


def other_parameters(optimizer, params):
    gone = tensors_of(optimizer, params[1:2])
    optimizer.state.pop(params[1], None)
    put(optimizer, params, 1, nn.Parameter(torch.ones(9)))
    return gone


def no_groups(optimizer, params):
    gone = tensors_of(optimizer, params)
    optimizer.state.clear()
    optimizer.param_groups.clear()
    params.clear()
    return gone


DROPS = [pop_group, pop_state, pop_states, other_entries, other_parameters, no_groups]


@pytest.mark.parametrize("drop", DROPS, ids=lambda drop: drop.__name__)
@pytest.mark.parametrize("row", [*CASES, *OURS])
@pytest.mark.sweep
def test_what_is_dropped_is_freed_at_once(row, drop, engine):
    """Without another step, and without the garbage collector."""
    which, kwargs = (CASES | OURS)[row]
    make = makers(which, kwargs, engine)[0]
    optimizer, params = start(make, torch.bfloat16 if kwargs.get("kahan") else torch.float32)
    for number in range(3):
        advance(optimizer, params, number)
    gc.collect()
    gc.disable()
    try:
        gone = [weakref.ref(tensor) for tensor in drop(optimizer, params)]
        assert gone or row in STATELESS
        assert not any(ref() is not None for ref in gone)
    finally:
        gc.enable()
    advance(optimizer, params, 3)


@pytest.mark.sweep
def test_parameters_may_be_swapped(name, engine, table):
    """As modules do it on request; torch refuses that for tensors that anybody refers to weakly."""
    params = table.parameters(shapes=SHAPES)
    optimizer = table.Case(name, table.cases[name][0]).ours(params, **engine.kwargs)
    for number in range(2):
        advance(optimizer, params, number)
    expected = [p.detach() + 1 for p in params]
    for p in params:
        p.grad = None
        torch.utils.swap_tensors(p, nn.Parameter(p.detach() + 1))
    assert all(map(torch.equal, params, expected))
    advance(optimizer, params, 2)


def test_the_engine_is_that_of_the_groups_that_are_left(table):
    params = table.parameters(shapes=SHAPES)
    groups = [{"params": params[:2]}, {"params": params[2:], "foreach": True}]
    optimizer = optim.Adam(groups, foreach=False, fused=False)
    advance(optimizer, params, 0)
    assert optimizer.engine == "foreach, loop"
    optimizer.param_groups.pop()
    advance(optimizer, params, 1)
    assert optimizer.engine == "loop"
