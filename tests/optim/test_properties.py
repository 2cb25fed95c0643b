"""Whatever the shapes, strides, dtypes and settings are, and whatever changes between two steps: the formula holds.

Random parameters on the fast engines against the loop engine in float64; then runs of many steps.
"""

import gc
import sys
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from torch_lecture_ops import optim

LOOP = dict(foreach=False, fused=False)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

# class -> settings at first, and what may be changed in the group between two steps. Learning rates move parameters of
# size 1 to 2 by a few hundredths a step.
DECAYS = [dict(weight_decay=0.1), dict(weight_decay=0.0)]
CLASSES = {
    "SGD": (
        [dict(lr=0.02), dict(lr=0.02, momentum=0.9)],
        [dict(lr=0.04), dict(momentum=0.5), dict(momentum=0.0), dict(momentum=0.9, nesterov=True), dict(maximize=True)],
    ),
    "Nesterov": ([dict(lr=0.02)], [dict(lr=0.04), dict(momentum=0.5), dict(momentum=0.0), dict(maximize=True)]),
    "Adagrad": ([dict(lr=0.05)], [dict(lr=0.02), dict(lr_decay=0.5), dict(eps=0.5), dict(maximize=True)]),
    "RMSprop": (
        [dict(lr=0.005), dict(lr=0.002, centered=True)],
        [dict(lr=0.002), dict(momentum=0.5), dict(momentum=0.0), dict(centered=True), dict(centered=False)],
    ),
    "Adadelta": ([dict(lr=1.0)], [dict(lr=0.5), dict(rho=0.5), dict(maximize=True)]),
    "Adam": (
        [dict(lr=0.02), dict(lr=0.02, amsgrad=True)],
        [dict(lr=0.01), dict(betas=(0.5, 0.75)), dict(amsgrad=True), dict(amsgrad=False), dict(maximize=True)],
    ),
    "AdamW": ([dict(lr=0.02, weight_decay=0.1)], [dict(lr=0.01), dict(amsgrad=True), dict(maximize=True)]),
    "NAdam": ([dict(lr=0.02)], [dict(lr=0.01), dict(momentum_decay=0.5), dict(decoupled_weight_decay=True)]),
}


def reverse(t):
    return t.permute(tuple(reversed(range(t.dim()))))


# How a tensor may lie in memory, its values being the same.
LAYOUTS = {
    "contiguous": lambda t: t,
    "transposed": lambda t: reverse(reverse(t).contiguous()),
    "sliced": lambda t: torch.stack([t, t], -1)[..., 0],
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t,
    "at an offset": lambda t: torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape),
}

# How far a step may lead from the one in float64, in units of the dtype's eps times the larger of the old and the new
# value (test_against_torch.py says why: a parameter comes to the right number or to its neighbour, a state to one a few
# roundings away, and a square counts them twice).
LIMITS = {"param": 1, "acc_delta": 8}
LIMIT_STATE = 4
LIMIT_DECAY = 1  # on top of it: decoupled, it rounds the parameter and its factor first
LIMIT_HALF = 0.51  # computed in float32, whose errors are 2⁻¹⁰ of such a unit or less, and rounded once


@st.composite
def shapes(draw):
    """Up to four dimensions and 70 elements."""
    sizes, room = [], 70
    for _ in range(draw(st.integers(0, 4))):
        sizes.append(draw(st.integers(0, min(room, 70 if not sizes else 9))))
        room = room // max(sizes[-1], 1)
    return tuple(draw(st.permutations(sizes)))


@st.composite
def runs(draw, which):
    """Parameters (shape, layout, dtype), the settings at first, and steps (edits, without, layouts of gradients)."""
    start, edits = CLASSES[which]
    layouts = st.sampled_from(list(LAYOUTS))
    dtypes = st.sampled_from(draw(st.sampled_from([DTYPES[:1], DTYPES[1:2], DTYPES[2:3], DTYPES[3:], DTYPES])))
    params = draw(st.lists(st.tuples(shapes(), layouts, dtypes), min_size=1, max_size=4))
    edit = st.sampled_from([{}, {}, *edits, *DECAYS])
    missing = st.sets(st.integers(0, len(params) - 1), max_size=len(params) - 1)
    each = st.tuples(edit, st.one_of(st.just(set()), missing), st.lists(layouts, min_size=4, max_size=4))
    return params, draw(st.sampled_from(start)), draw(st.lists(each, min_size=1, max_size=4))


def units(got, right, before):
    """The largest distance of two tensors; numbers below the smallest normal one are as far apart as that one's."""
    if not got.numel():
        return 0.0
    info, right, got = torch.finfo(got.dtype), right.double(), got.double()
    size = torch.maximum(torch.maximum(got.abs(), right.abs()), before.double().abs())
    return ((got - right).abs() / (info.eps * size.clamp_min(info.tiny))).max().item()


def in_float64(optimizer, params):
    """The loop engine in float64, from the same parameters, gradients, state and settings."""
    (group,) = optimizer.param_groups
    wide = [nn.Parameter(p.detach().to(torch.float64, copy=True)) for p in params]
    reference = type(optimizer)(wide)
    reference.param_groups[0].update({key: value for key, value in group.items() if key != "params"} | LOOP)
    for p, q in zip(params, wide, strict=True):
        q.grad = None if p.grad is None else p.grad.double()
        state = optimizer.state.get(p, {})
        scalars = ("step", "mu_product")
        copied = {k: v.to(v.dtype if k in scalars else torch.float64, copy=True) for k, v in state.items()}
        if copied:
            reference.state[q] = copied
    return wide, reference


def assert_a_step(optimizer, params, without, table):
    """Every parameter and state as in float64; those without a gradient as before, and gradients untouched."""
    wide, reference = in_float64(optimizer, params)
    (group,) = optimizer.param_groups
    decays = group.get("decoupled_weight_decay") and group["weight_decay"]
    entries = [{"param": p.detach(), **optimizer.state.get(p, {})} for p in params]
    before = [{key: value.clone() for key, value in row.items()} for row in entries]
    strides = [p.stride() for p in params]
    gradients = [None if p.grad is None else p.grad.clone() for p in params]
    table.step(optimizer)
    table.step(reference)
    assert [p.stride() for p in params] == strides
    for number, (p, q, g) in enumerate(zip(params, wide, gradients, strict=True)):
        got = {"param": p.detach(), **optimizer.state.get(p, {})}
        if number in without:
            assert list(got) == list(before[number])
            assert all(map(torch.equal, got.values(), before[number].values()))
            continue
        assert torch.equal(p.grad, g)
        expected = {"param": q.detach(), **reference.state.get(q, {})}
        assert list(got) == list(expected)
        for key, value in got.items():
            if key == "step":
                assert torch.equal(value, expected[key])
                continue
            half = value.dtype in (torch.bfloat16, torch.float16)
            limit = LIMIT_HALF if half else LIMITS.get(key, LIMIT_STATE) + (LIMIT_DECAY if decays else 0)
            old = before[number].get(key, torch.zeros_like(value))
            assert units(value, expected[key], old) <= limit, key


def check(which, run, engine, table):
    specs, kwargs, steps = run
    params = [
        nn.Parameter(LAYOUTS[layout](table.values(shape, 1, 2, dtype, number)))
        for number, (shape, layout, dtype) in enumerate(specs)
    ]
    optimizer = getattr(optim, which)(params, **kwargs, **table.engines[engine])
    for step, (edit, without, layouts) in enumerate(steps):
        optimizer.param_groups[0].update(edit)
        table.give_gradients(step, params, without=without)
        for p, layout in zip(params, layouts, strict=False):
            p.grad = p.grad if p.grad is None else LAYOUTS[layout](p.grad)
        assert_a_step(optimizer, params, without, table)
        assert optimizer.engine == engine


# The same examples at every run. The C engine builds a kernel for every setting that it has not seen: fewer examples.
ALIKE = settings(derandomize=True, database=None)


@pytest.mark.needs_compiler
@pytest.mark.parametrize("which", CLASSES)
@settings(ALIKE, max_examples=10)
@given(data=st.data())
def test_c_engine(which, data, table):
    check(which, data.draw(runs(which)), "c", table)


@pytest.mark.parametrize("which", CLASSES)
@settings(ALIKE, max_examples=60)
@given(data=st.data())
def test_foreach_engine(which, data, table):
    check(which, data.draw(runs(which)), "foreach", table)


# ----------------------------------------------------------------------------------------------------------- many steps


def regression():
    """A small model of float64, and 50 batches of noisy points that no parameters fit exactly."""
    drawn = dict(generator=torch.Generator().manual_seed(0), dtype=torch.float64, device="cpu")
    device = torch.get_default_device()
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.rand(p.shape, **drawn) - 0.5)
    x, noise = (torch.randn(shape, **drawn).to(device) for shape in ((50, 8, 3), (50, 8, 1)))
    return model, x, x.sum(2, keepdim=True) + noise


def train(model, optimizer, x, y, steps):
    for step in steps:
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x[step % 50]), y[step % 50]).backward()
        optimizer.param_groups[0]["lr"] *= 0.9995
        optimizer.step()


def memory():
    """Blocks of memory that Python holds, and tensors that live."""
    gc.collect()
    return sys.getallocatedblocks(), sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


LONG = {
    "SGD": dict(lr=0.02, momentum=0.9, nesterov=True),
    "Adagrad": dict(lr=0.05, lr_decay=0.01),
    "RMSprop": dict(lr=0.005, momentum=0.5, centered=True),
    "Adadelta": dict(lr=1.0, weight_decay=0.01),
    "Adam": dict(lr=0.02, amsgrad=True),
    "AdamW": dict(lr=0.02),
    "NAdam": dict(lr=0.02, weight_decay=0.01, decoupled_weight_decay=True),
}


@cache
def where_torch_leads(name, device):
    """The parameters after 2000 steps of torch's class, on the default device; the default dtype is float64."""
    model, x, y = regression()
    optimizer = getattr(torch.optim, name)(model.parameters(), foreach=False, **LONG[name])
    train(model, optimizer, x, y, range(2000))
    return [p.detach() for p in model.parameters()]


@pytest.mark.not_interpreted
@pytest.mark.slow
def test_2000_steps(name, engine, table):
    """No tensor and no memory more than after the first 200; and the parameters are where torch leads them."""
    model, x, y = regression()
    with table.default_dtype(torch.float64):
        optimizer = getattr(optim, name)(model.parameters(), **LONG[name], **engine.kwargs)
        train(model, optimizer, x, y, range(200))
        blocks, tensors = memory()
        train(model, optimizer, x, y, range(200, 2000))
        blocks_after, tensors_after = memory()
        want = where_torch_leads(name, torch.get_default_device())
    assert optimizer.engine == engine.name
    assert tensors_after == tensors
    assert blocks_after - blocks < 600  # a third of one a step: Python's own free lists grow by some dozens
    for p, q in zip(model.parameters(), want, strict=True):
        # Errors of 1e-16 a step feed back into the gradients. Here they do not grow beyond 2000 of themselves.
        torch.testing.assert_close(p, q, rtol=0, atol=2000 * torch.finfo(torch.float64).eps)
