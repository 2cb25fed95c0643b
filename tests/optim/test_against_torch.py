"""Every optimizer in lock-step with the class of the same name in torch.optim."""

import inspect

import pytest
import torch
from torch import nn

from torch_lecture_ops import optim

# How far one step from the same state may lead from torch's, in units of `distance`.
# Parameters: they change by a small part of themselves, so the two changes, each exact to a few units of its own, lead
# to the same number or to its neighbour.
# State: eight or fewer roundings, of half a unit each, stand one after the other in torch's way and in ours, and they
# are not the same ones: torch has lerp, addcmul and addcdiv where the slide has sums, products and quotients, we have
# reciprocals where the divisor is one number, and of half types torch rounds every intermediate result.
# Adadelta's acc_delta averages the square of a step of as many roundings: a square counts them twice.
LIMITS = {"param": 1, "step": 0, "acc_delta": 8}
LIMIT_STATE = 4

STEPS = 10
FROZEN, LATE = 2, 4  # numbers of two parameters


def without_gradient(step, count):
    """At step 2 nobody has a gradient; one parameter is frozen for two steps, another gets its first one late."""
    if step == 2:
        return range(count)
    return [*([FROZEN] if step in (4, 5) else []), *([LATE] if step < 6 else [])]


def layout(column):
    return [(number, t.dtype, t.shape, t.stride()) for number, t in column.items()]


def assert_one_step_is_torchs(table, ours, mine, theirs, reference, before):
    """Compare all entries, then make ours equal, so that the next step starts from the same state."""
    got, expected = table.entries(ours, mine), table.entries(theirs, reference)
    assert list(got) == list(expected)
    assert len(mine.state) == len(reference.state)
    for key, column in expected.items():
        assert layout(got[key]) == layout(column), key
        far = table.distance(got[key], column, before.get(key, {}))
        assert far <= LIMITS.get(key, LIMIT_STATE), key
        for number, right in column.items():
            got[key][number].copy_(right)


def in_lock_step(table, case, engine, dtype, steps, shapes, without):
    with table.default_dtype(dtype):
        _in_lock_step(table, case, engine, dtype, steps, shapes, without)


def _in_lock_step(table, case, engine, dtype, steps, shapes, without):
    ours, theirs = table.parameters(dtype, shapes), table.parameters(dtype, shapes)
    # fused=True makes the step float32, whatever the default.
    asked = {} if engine.kwargs.get("fused") and torch.get_default_dtype() == torch.float64 else engine.kwargs
    mine, reference = case.ours(ours, **asked), case.torchs_loop(theirs)
    for step in range(steps):
        table.give_gradients(step, ours, theirs, without=without(step, len(ours)))
        before = {
            key: {number: t.clone() for number, t in column.items()}
            for key, column in table.entries(theirs, reference).items()
        }
        mine.step()
        reference.step()
        assert mine.engine == engine.name
        assert_one_step_is_torchs(table, ours, mine, theirs, reference, before)


def shapes_for(engine, table):
    """Fewer for the interpreter. In Triton all of them are one block; test_triton.py has every size."""
    return table.shapes[::4] if engine.place == "interpreter" else table.shapes


@pytest.mark.sweep
def test_every_step_is_torchs(case_dtype, engine, table):
    case, dtype = case_dtype
    in_lock_step(table, case, engine, dtype, STEPS, shapes_for(engine, table), without_gradient)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_complex_parameters_are_torchs(name, dtype, engine, table):
    """As pairs of real numbers."""
    kwargs = table.cases[name][-2] | dict(weight_decay=0.1)
    in_lock_step(table, table.Case(name, kwargs), engine, dtype, 4, [(), (3,), (8, 9)], lambda step, count: [])


@pytest.mark.not_interpreted
def test_large_parameters_in_several_threads_are_torchs(name, engine, table):
    """Above 32768 elements the C engine divides the elements among threads, whatever the bounds of the parameters."""
    shapes = [(20011,), (3,), (), (151, 200), (40001,)]
    for kwargs in table.cases[name][-3:-1]:
        in_lock_step(table, table.Case(name, kwargs), engine, torch.float32, 3, shapes, lambda step, count: [])


def test_infinite_and_nan_gradients_lead_where_torchs_lead(case, engine, table):
    """Also gradients that are zero, subnormal, or so small or large that their square is the end of the range."""
    kinds = torch.tensor([float("inf"), -float("inf"), float("nan"), 0.0, -0.0, 1e-40, -1e-30, 1e19, 1.0] * 3)
    ours, theirs = (nn.Parameter(torch.linspace(-2, 2, 27)) for _ in range(2))
    mine, reference = case.ours([ours], **engine.kwargs), case.torchs_loop([theirs])
    ours.grad, theirs.grad = kinds.clone(), kinds.clone()
    mine.step()
    reference.step()
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert torch.equal(ours.isinf(), theirs.isinf())
    for key, value in reference.state[theirs].items():
        # torch's lerp makes a NaN of an infinite gradient for weights from 1/2 on
        assert torch.equal(mine.state[ours][key].isfinite().cpu(), value.isfinite().cpu()), key


def test_lr_tensor_is_lr_number(name, engine, table):
    """Whatever the tensor's dtype and shape, and also when its value changes from step to step."""
    for dtype, shape in [(torch.float32, ()), (torch.float64, ()), (torch.float32, (1,)), (torch.float64, (1,))]:
        rate = torch.full(shape, 0.125, dtype=dtype)
        ours, theirs = (table.parameters(shapes=shapes_for(engine, table)) for _ in range(2))
        case = table.Case(name, table.cases[name][0])
        mine = case.ours(ours, **engine.kwargs | dict(lr=rate))
        reference = case.ours(theirs, **engine.kwargs | dict(lr=0.125))
        for step in range(4):
            table.give_gradients(step, ours, theirs)
            mine.step()
            reference.step()
            rate.mul_(0.5)
            reference.param_groups[0]["lr"] *= 0.5
        got, expected = table.entries(ours, mine), table.entries(theirs, reference)
        for key, column in expected.items():
            # Rates and halves are exact in every dtype; the order of multiplying by the rate is not, in foreach.
            assert table.distance(got[key], column) <= 2, (dtype, shape, key)


@pytest.mark.not_interpreted
def test_training_goes_as_torchs(name, engine, table):
    """100 steps of logistic regression, where every error feeds back into the gradients."""
    case = table.Case(name, table.cases[name][0])
    drawn = dict(generator=torch.Generator().manual_seed(0), dtype=torch.float64, device="cpu")
    x, noise = (torch.randn(shape, **drawn).to(torch.get_default_device()) for shape in ((64, 5), (64, 1)))
    y = (x.sum(1, keepdim=True) + noise > 0).double()
    models = [nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1)).double() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = case.ours(models[0].parameters(), **engine.kwargs), case.torchs_loop(models[1].parameters())
    losses = []
    for _ in range(100):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(model(x), y)
            loss.backward()
            with table.default_dtype(torch.float64):
                optimizer.step()
        losses.append(loss.item())
    # Errors of 1e-16 a step; the rules that divide by the size of the gradient amplify them where it is near zero.
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    assert losses[-1] < losses[0]


# ------------------------------------------------------------------------------------------------------ names and kinds


def test_every_class_that_torch_has_too_is_in_the_table(table):
    both = [name for name in optim.__all__ if hasattr(torch.optim, name)]
    assert sorted(both) == sorted(table.cases)


# What every class of ours has; in torch, only some have the first two.
EVERYWHERE = {"fused": None, "decoupled_weight_decay": False, "form": "torch", "kahan": False}
ADDED = {
    "AdamW": {"decoupled_weight_decay": True},
    "Adagrad": {"gamma": 1.0},
    "RMSprop": {"initial_accumulator_value": 0.0},
}


def test_signature_is_torchs(name):
    """Names, order, kinds and defaults; what we add are keywords."""
    ours, theirs = (inspect.signature(getattr(where, name)).parameters for where in (optim, torch.optim))
    got = [(p.name, p.kind, p.default) for p in ours.values() if p.name in theirs]
    assert got == [(p.name, p.kind, p.default) for p in theirs.values()]
    added = [p for p in ours.values() if p.name not in theirs]
    expected = {key: value for key, value in (EVERYWHERE | ADDED.get(name, {})).items() if key not in theirs}
    assert {p.name: p.default for p in added} == expected
    assert all(p.kind is p.KEYWORD_ONLY for p in added)


def test_groups_and_defaults_are_torchs(case, table):
    mine, reference = case.ours(table.parameters()), case.torchs(table.parameters())
    assert mine.defaults == reference.defaults
    assert list(mine.defaults) == list(reference.defaults)
    for got, expected in zip(mine.param_groups, reference.param_groups, strict=True):
        assert list(got) == list(expected)
        assert {**got, "params": None} == {**expected, "params": None}
    assert repr(mine) == repr(reference)


@pytest.mark.parametrize("default", [torch.float32, torch.float64], ids=str)
def test_step_has_torchs_dtype(name, engine, default, table):
    """The default dtype if that is float64, else float32; always float32 if fused. Only then on the device."""
    fused = bool(engine.kwargs.get("fused"))
    known = inspect.signature(getattr(torch.optim, name)).parameters
    params, case = table.parameters(torch.bfloat16, [(3,)]), table.Case(name, table.cases[name][0])
    table.give_gradients(0, params)
    with table.default_dtype(default):
        mine = case.ours(params, **engine.kwargs)
        reference = case.torchs(params, **{key: value for key, value in engine.kwargs.items() if key in known})
        mine.step()
        reference.step()
    assert list(mine.state) == list(reference.state)
    for state in mine.state.values():
        for key in {"step", "mu_product"} & set(state):
            assert (state[key].dtype, state[key].shape) == (torch.float32 if fused and key == "step" else default, ())
            if not fused or "fused" in known:
                assert state[key].dtype == reference.state[params[0]][key].dtype
            assert state[key].device == (params[0].device if fused else torch.device("cpu"))


def test_product_of_momenta_in_float32(engine, table):
    """NAdam in float64 with its default state: torch uses Π as rounded to float32, we before it is rounded."""
    ours, theirs = table.parameters(torch.float64), table.parameters(torch.float64)
    mine, reference = optim.NAdam(ours, lr=0.02, **engine.kwargs), torch.optim.NAdam(theirs, lr=0.02, foreach=False)
    for step in range(5):
        table.give_gradients(step, ours, theirs)
        mine.step()
        reference.step()
    for p, q in zip(ours, theirs, strict=True):
        # torch rounds the factor and the product, we the product.
        torch.testing.assert_close(
            mine.state[p]["mu_product"].cpu(), reference.state[q]["mu_product"].cpu(), rtol=5 * 2**-23, atol=0
        )
        # Π < 0.5 is rounded by 2^-26 at most, and 1 - Π > 0.5 divides steps of 0.02 times at most 2, five times.
        torch.testing.assert_close(p, q, rtol=0, atol=5 * 0.04 * 2**-25)
