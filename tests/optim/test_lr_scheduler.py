"""The schedules against NumPy's float64, torch's own where equal in meaning, and as parts of larger runs."""

import copy
import functools
import inspect
import io
import itertools
import math
import pickle
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torch_lecture_ops import optim
from torch_lecture_ops.optim import lr_scheduler
from torch_lecture_ops.optim.lr_scheduler import (
    ClosedFormLR,
    ExponentialDecay,
    InverseTimeDecay,
    MomentumAnnealing,
    PowerCooling,
    StepDecay,
)

# class, arguments, the formula on the slide
DECAYS = [
    (StepDecay, dict(), lambda eta0, t: eta0 * 0.5 ** np.floor(t / 10)),
    (StepDecay, dict(drop=0.1, every=3), lambda eta0, t: eta0 * 0.1 ** np.floor(t / 3)),
    (StepDecay, dict(drop=1, every=1), lambda eta0, t: eta0),
    (ExponentialDecay, dict(k=0.1), lambda eta0, t: eta0 * np.exp(-0.1 * t)),
    (ExponentialDecay, dict(k=0), lambda eta0, t: eta0),
    (InverseTimeDecay, dict(k=0.3), lambda eta0, t: eta0 / (1 + 0.3 * t)),
    (PowerCooling, dict(epsilon=0.05), lambda eta0, t: eta0 ** (1 + t * 0.05)),
    (PowerCooling, dict(epsilon=0.2, floor=1e-4), lambda eta0, t: np.maximum(eta0 ** (1 + t * 0.2), 1e-4)),
]
MOMENTA = [
    (MomentumAnnealing, dict(steps=20), lambda t: 0.5 + 0.49 * np.minimum(t / 20, 1)),
    (MomentumAnnealing, dict(start=0.9, end=0.0, steps=7), lambda t: 0.9 - 0.9 * np.minimum(t / 7, 1)),
    (
        MomentumAnnealing,
        dict(form="sutskever", steps=4),
        lambda t: np.minimum(1 - 2.0 ** (-1 - np.log2(np.floor(t / 4) + 1)), 0.99),
    ),
    (
        MomentumAnnealing,
        dict(form="sutskever", steps=1, end=0.9),
        lambda t: np.minimum(1 - 2.0 ** (-1 - np.log2(t + 1)), 0.9),
    ),
]
EACH_DECAY = pytest.mark.parametrize(("cls", "kwargs", "formula"), DECAYS)
EACH_MOMENTUM = pytest.mark.parametrize(("cls", "kwargs", "mu"), MOMENTA)
EACH = pytest.mark.parametrize(("cls", "kwargs"), [row[:2] for row in DECAYS + MOMENTA])

# torch's classes and ours, by what is annealed
WITH_MOMENTUM = [(torch.optim.SGD, {}), (optim.SGD, {}), (optim.Nesterov, {"momentum": 0.9}), (optim.RMSprop, {})]
WITH_MOMENTUM += [(torch.optim.RMSprop, {})]
WITH_BETAS = [(getattr(place, name), {}) for place in (torch.optim, optim) for name in ("Adam", "AdamW", "NAdam")]
WITHOUT = [getattr(place, name) for place in (torch.optim, optim) for name in ("Adagrad", "Adadelta")]


def parameter(value=1.0):
    w = torch.nn.Parameter(torch.tensor([value, -value]))
    w.grad = torch.tensor([0.5, -0.25])
    return w


def sgd(*lrs, **kwargs):
    """One group for each learning rate."""
    return torch.optim.SGD([dict(params=[parameter()], lr=lr) for lr in lrs], **dict(momentum=0.9) | kwargs)


def state(optimizer):
    """The learning rate and the momentum of each group, as numbers."""
    groups = optimizer.param_groups
    moments = [group["betas"][0] if "betas" in group else group.get("momentum", 0.0) for group in groups]
    return [(float(group["lr"]), float(mu)) for group, mu in zip(groups, moments, strict=True)]


def run(optimizer, scheduler, steps):
    """What `state` is before each of the steps, and after the last."""
    states = [state(optimizer)]
    for _ in range(steps):
        with getattr(optimizer, "lookahead", nullcontext)():  # Nesterov asks for it
            pass
        optimizer.step()
        scheduler.step()
        states.append(state(optimizer))
    return states


def lrs(optimizer, scheduler, steps):
    """Learning rates, (steps + 1, groups)."""
    return np.array([[lr for lr, _ in states] for states in run(optimizer, scheduler, steps)])


def test_the_tables_have_every_class():
    classes = {c for _, c in inspect.getmembers(lr_scheduler, inspect.isclass) if c.__module__ == lr_scheduler.__name__}
    assert {row[0] for row in DECAYS + MOMENTA} | {ClosedFormLR} == classes


# ------------------------------------------------------------------------------------------------------- the formulas


@EACH_DECAY
def test_decay_is_the_formula_in_every_group(cls, kwargs, formula):
    etas0 = np.array([0.1, 0.02])
    optimizer = sgd(*etas0)
    got = lrs(optimizer, cls(optimizer, **kwargs), 40)
    np.testing.assert_allclose(got, formula(etas0, np.arange(41.0)[:, None]) * np.ones((41, 2)), rtol=1e-13)
    assert {mu for _, mu in state(optimizer)} == {0.9}


@EACH_MOMENTUM
@pytest.mark.parametrize(("make", "options"), WITH_MOMENTUM + WITH_BETAS)
def test_momentum_is_the_formula_and_learning_rates_stay(cls, kwargs, mu, make, options):
    optimizer = make([dict(params=[parameter()], lr=0.1), dict(params=[parameter()], lr=0.01)], **options)
    rest = [group.get("betas", (0, 0))[1:] for group in optimizer.param_groups]
    got = np.array(run(optimizer, cls(optimizer, **kwargs), 30))
    np.testing.assert_allclose(got[:, :, 1], mu(np.arange(31.0))[:, None] * np.ones((31, 2)), rtol=1e-13, atol=1e-15)
    np.testing.assert_array_equal(got[:, :, 0], [[0.1, 0.01]] * 31)
    assert rest == [group.get("betas", (0, 0))[1:] for group in optimizer.param_groups]


def test_momentum_reaches_its_ends_exactly():
    optimizer = sgd(0.1)
    momenta = [mu for ((_, mu),) in run(optimizer, MomentumAnnealing(optimizer, 0.1, 0.7, steps=3), 4)]
    assert momenta[0] == 0.1
    assert momenta[3:] == [0.7, 0.7]


def test_sutskevers_250_updates():
    scheduler = MomentumAnnealing(sgd(0.1), form="sutskever")
    expected = {0: 0.5, 249: 0.5, 250: 0.75, 500: 5 / 6, 750: 0.875, 12499: 0.99, 10**6: 0.99}
    assert {t: scheduler.mu(t) for t in expected} == expected


@given(st.floats(1e-6, 0.99), st.integers(0, 300), st.sampled_from(DECAYS))
def test_decays_start_at_eta0_never_rise_and_never_go_below_zero(eta0, t, row):
    cls, kwargs, formula = row
    scheduler = cls(sgd(max(eta0, 2e-4)), **kwargs)
    (eta0,) = scheduler.base_lrs
    assert scheduler.eta(eta0, 0) == eta0
    assert 0 <= scheduler.eta(eta0, t + 1) <= scheduler.eta(eta0, t)
    np.testing.assert_allclose(scheduler.eta(eta0, t), formula(eta0, float(t)), rtol=1e-12)


@given(st.floats(0, 0.99), st.floats(0, 0.99), st.integers(1, 10**4), st.integers(0, 10**5), st.booleans())
def test_momenta_stay_between_start_and_end(a, b, steps, t, linear):
    start, end = (a, b) if linear else sorted((a, b))
    scheduler = MomentumAnnealing(sgd(0.1), start, end, steps, "linear" if linear else "sutskever")
    assert min(start, end) - 1e-16 <= scheduler.mu(t) <= max(start, end) + 1e-16
    assert scheduler.mu(0) == pytest.approx(start, rel=1e-15)


@pytest.mark.parametrize(
    ("ours", "torchs"),
    [
        (
            lambda o: StepDecay(o, drop=0.3, every=4),
            lambda o: torch.optim.lr_scheduler.StepLR(o, 4, 0.3),
        ),
        (
            lambda o: ExponentialDecay(o, k=0.2),
            lambda o: torch.optim.lr_scheduler.ExponentialLR(o, math.exp(-0.2)),
        ),
        (
            lambda o: InverseTimeDecay(o, k=0.2),
            lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + 0.2 * t)),
        ),
    ],
)
def test_torchs_twins(ours, torchs):
    a, b = sgd(0.1, 0.5), sgd(0.1, 0.5)
    np.testing.assert_allclose(lrs(a, ours(a), 25), lrs(b, torchs(b), 25), rtol=1e-12)


def test_rounding_errors_do_not_add_up():
    optimizer = sgd(0.1)
    scheduler = ExponentialDecay(optimizer, k=1e-3)
    assert lrs(optimizer, scheduler, 5000)[-1, 0] == 0.1 * math.exp(-1e-3 * 5000)


@pytest.mark.parametrize("cls", [ExponentialDecay, InverseTimeDecay])
def test_what_falls_to_zero_stays_there(cls):
    optimizer = sgd(0.1, 0.0)
    assert (lrs(optimizer, cls(optimizer, k=1e308), 5)[2:] <= 1e-300).all()


# ---------------------------------------------------------------------------------------------- tensors, groups, kinds


@EACH_DECAY
@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_tensor_is_filled_in_place(cls, kwargs, formula, shape):
    lr = torch.full(shape, 0.1, dtype=torch.float64)
    optimizer = optim.Adam([parameter()], lr=lr)
    scheduler = cls(optimizer, **kwargs)
    for t in range(1, 12):
        optimizer.step()
        scheduler.step()
        assert optimizer.param_groups[0]["lr"] is lr
        assert lr.item() == pytest.approx(float(formula(0.1, float(t))), rel=1e-14)
    (last,) = scheduler.get_last_lr()
    assert last is not lr
    assert torch.equal(last, lr)
    assert optimizer.param_groups[0]["initial_lr"].item() == 0.1


def test_a_float32_tensor_does_not_drift():
    optimizer = torch.optim.Adam([parameter()], lr=torch.tensor(0.1))
    scheduler = ExponentialDecay(optimizer, k=1e-3)
    lrs(optimizer, scheduler, 1000)
    torch.testing.assert_close(optimizer.param_groups[0]["lr"], torch.tensor(0.1 * math.exp(-1)), rtol=1e-7, atol=0)


@pytest.mark.parametrize(
    ("lr", "initial"),
    [
        (torch.tensor(0.1, dtype=torch.float64), 0.1),
        (torch.tensor([0.1], dtype=torch.float64), 0.1),
        (torch.tensor([0.1], dtype=torch.float64), torch.tensor(0.1, dtype=torch.float64)),
        (0.1, torch.tensor(0.1, dtype=torch.float64)),
    ],
)
def test_initial_lr_of_the_other_type(lr, initial):
    optimizer = torch.optim.Adam([dict(params=[parameter()], initial_lr=initial)], lr=lr)
    scheduler = InverseTimeDecay(optimizer, k=1.0)
    assert lrs(optimizer, scheduler, 4)[-1, 0] == pytest.approx(0.02, rel=1e-15)
    assert isinstance(optimizer.param_groups[0]["lr"], type(lr))


@pytest.mark.parametrize("cls", [torch.optim.Adam, optim.Adam])
def test_betas_that_are_tensors_are_filled_in_place(cls):
    betas = (torch.tensor(0.9), torch.tensor(0.999))
    optimizer = cls([parameter()], lr=torch.tensor(0.1), betas=betas, foreach=False)
    momenta = [mu for ((_, mu),) in run(optimizer, MomentumAnnealing(optimizer, 0.5, 0.75, steps=2), 3)]
    assert momenta == [0.5, 0.625, 0.75, 0.75]
    assert optimizer.param_groups[0]["betas"][0] is betas[0]
    assert optimizer.param_groups[0]["betas"][1].item() == pytest.approx(0.999)


def test_a_momentum_that_is_a_tensor_is_filled_in_place():
    mu = torch.tensor(0.9)
    optimizer = sgd(0.1)
    optimizer.param_groups[0]["momentum"] = mu
    MomentumAnnealing(optimizer, 0.5, steps=2)
    assert optimizer.param_groups[0]["momentum"] is mu
    assert mu.item() == 0.5


@EACH_DECAY
@pytest.mark.parametrize("tensor", [False, True])
def test_a_group_added_later_goes_on_from_its_own_learning_rate(cls, kwargs, formula, tensor):
    of = functools.partial(torch.tensor, dtype=torch.float64) if tensor else float
    optimizer = torch.optim.Adam([parameter()], lr=of(0.1))
    scheduler = cls(optimizer, **kwargs)
    lrs(optimizer, scheduler, 5)
    optimizer.add_param_group(dict(params=[parameter()], lr=of(0.02)))
    optimizer.add_param_group(dict(params=[parameter()]))  # with the default, the same tensor as that of the first
    begins = np.array([0.02, float(optimizer.defaults["lr"])])
    got = lrs(optimizer, scheduler, 12)
    times = np.arange(5.0, 18.0)[:, None]
    np.testing.assert_allclose(got[:, :1], formula(0.1, times) * np.ones_like(times), rtol=1e-12)
    if "floor" not in kwargs:  # which stops the products
        expected = begins * formula(begins, times) / formula(begins, 5.0) * np.ones((13, 2))
        np.testing.assert_allclose(got[:, 1:], expected, rtol=1e-12)
    assert len(scheduler.get_last_lr()) == len(scheduler.base_lrs) == 3


def test_momentum_of_a_group_added_later():
    optimizer = sgd(0.1)
    scheduler = MomentumAnnealing(optimizer, 0.5, 0.75, steps=2)
    optimizer.add_param_group(dict(params=[parameter()], momentum=0.3))
    assert [mu for _, mu in run(optimizer, scheduler, 1)[-1]] == [0.625, 0.625]


def test_a_snapshot_of_the_state_is_not_changed_by_groups_added_later():
    optimizer = sgd(0.1)
    scheduler = StepDecay(optimizer)
    before = scheduler.state_dict()
    optimizer.add_param_group(dict(params=[parameter()]))
    run(optimizer, scheduler, 1)
    assert before["base_lrs"] == [0.1]


def test_groups_cannot_be_removed():
    optimizer = sgd(0.1, 0.2)
    scheduler = StepDecay(optimizer)
    del optimizer.param_groups[1]
    optimizer.step()
    with pytest.raises(ValueError, match=r"^StepDecay: the optimizer must keep its 2 parameter groups, got 1$"):
        scheduler.step()


@EACH
@pytest.mark.parametrize(("make", "options"), WITH_MOMENTUM + WITH_BETAS)
def test_every_optimizer_trains_with_every_schedule(cls, kwargs, make, options):
    w = parameter()
    optimizer = make([w], lr=0.01, **options)
    run(optimizer, cls(optimizer, **kwargs), 15)
    assert w.isfinite().all()
    assert (w != torch.tensor([1.0, -1.0])).all()


@EACH_MOMENTUM
@pytest.mark.parametrize("which", ["SGD", "RMSprop", "Adam", "AdamW", "NAdam"])
def test_our_optimizers_follow_the_momentum_as_torchs(cls, kwargs, mu, which):
    weights = []
    for place in (torch.optim, optim):
        weights.append(parameter())
        optimizer = getattr(place, which)(weights[-1:], lr=0.01)
        run(optimizer, cls(optimizer, **kwargs), 20)
    torch.testing.assert_close(*weights)


@pytest.mark.parametrize("which", ["SGD", "Adam", "AdamW", "NAdam"])
def test_a_momentum_may_grow_from_zero(which):
    test_our_optimizers_follow_the_momentum_as_torchs(MomentumAnnealing, dict(start=0, end=0.9, steps=5), None, which)


def test_a_momentum_of_our_rmsprop_may_grow_from_zero():
    w = parameter()
    p, g = w.detach().double().numpy(), w.grad.double().numpy()
    optimizer = optim.RMSprop([w], lr=0.01)
    run(optimizer, MomentumAnnealing(optimizer, 0, 0.9, steps=5), 10)
    v = b = np.zeros(2)
    for t in range(10):
        v = 0.99 * v + 0.01 * g**2
        step = g / (np.sqrt(v) + 1e-8)
        b = 0.9 * min(t / 5, 1) * b + step if t else np.zeros(2)  # without momentum nothing is remembered
        p = p - 0.01 * (b if t else step)
    np.testing.assert_allclose(w.detach(), p, rtol=1e-5)


@pytest.mark.parametrize("make", WITHOUT)
def test_no_momentum_to_anneal(make):
    message = rf"^MomentumAnnealing: the optimizer must have momentum or betas, got {make.__name__} with lr, "
    with pytest.raises(ValueError, match=message):
        MomentumAnnealing(make([parameter()], lr=0.1), steps=10)


# ------------------------------------------------------------------------------------------------------------- resumed


@EACH
@pytest.mark.parametrize("at", [0, 1, 7])
@pytest.mark.parametrize("make", [torch.optim.Adam, optim.SGD])
def test_a_run_goes_on_from_its_state_dicts(cls, kwargs, at, make):
    def begin():
        w = [parameter(), parameter(2.0)]
        options = dict(momentum=0.9) if make is optim.SGD else {}
        optimizer = make([dict(params=[w[0]], lr=0.1), dict(params=[w[1]], lr=0.02)], **options)
        return optimizer, w

    optimizer, straight = begin()
    expected = run(optimizer, cls(optimizer, **kwargs), at + 10)

    optimizer, _ = begin()
    scheduler = cls(optimizer, **kwargs)
    run(optimizer, scheduler, at)
    saved = io.BytesIO()
    torch.save([optimizer.state_dict(), scheduler.state_dict(), [g["params"] for g in optimizer.param_groups]], saved)
    saved.seek(0)
    first, second, params = torch.load(saved, weights_only=True)

    optimizer, w = begin()
    other = {key: 1 for key in kwargs if key == "k"}  # what it is built with does not matter
    scheduler = cls(optimizer, **kwargs | other)
    optimizer.load_state_dict(first)
    scheduler.load_state_dict(second)
    for into, (value,) in zip(w, params, strict=True):
        into.data.copy_(value)
    assert run(optimizer, scheduler, 10) == expected[at:]
    for a, b in zip(w, straight, strict=True):
        assert torch.equal(a, b)


@EACH
@pytest.mark.parametrize("t", [1, 9, 25])
@pytest.mark.parametrize("restored", [False, True])
def test_a_run_goes_on_from_last_epoch(cls, kwargs, t, restored):
    optimizer = sgd(0.1, 0.02)
    expected = run(optimizer, cls(optimizer, **kwargs), t + 5)
    again = sgd(0.1, 0.02)
    for group, lr, (eta, mu) in zip(again.param_groups, (0.1, 0.02), expected[t], strict=True):
        group["initial_lr"] = lr
        if restored:
            group |= dict(lr=eta, momentum=mu)
    scheduler = cls(again, **kwargs, last_epoch=t - 1)
    assert scheduler.last_epoch == t
    if cls is MomentumAnnealing:
        expected = [[(lr, mu) for (_, mu), lr in zip(groups, (0.1, 0.02), strict=True)] for groups in expected]
    assert run(again, scheduler, 5) == expected[t:]


@EACH
def test_last_epoch_needs_initial_lr(cls, kwargs):
    with pytest.raises(KeyError, match="param 'initial_lr' is not specified in param_groups"):
        cls(sgd(0.1), **kwargs, last_epoch=3)


@EACH
def test_state_is_plain_and_without_the_optimizer(cls, kwargs):
    numbers = {key: getattr(np, f"{type(value).__name__}64", type(value))(value) for key, value in kwargs.items()}
    scheduler = cls(sgd(0.1), **numbers)
    saved = scheduler.state_dict()
    assert "optimizer" not in saved
    assert set(kwargs) < set(saved)
    for value in itertools.chain.from_iterable(v if isinstance(v, list) else [v] for v in saved.values()):
        assert type(value) in (int, float, str, bool)


@EACH
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_copies_go_on_alone(cls, kwargs, copied):
    optimizer = optim.SGD([parameter()], lr=0.1, momentum=0.9)
    scheduler = cls(optimizer, **kwargs)
    run(optimizer, scheduler, 3)
    other = copied(scheduler)
    assert run(other.optimizer, other, 5) == run(optimizer, scheduler, 5)


# ------------------------------------------------------------------------------------------------- with other schedules


@EACH_DECAY
@pytest.mark.parametrize("ours_first", [True, False])
def test_chained_with_torchs(cls, kwargs, formula, ours_first):
    if "floor" in kwargs:
        return  # the product with a floor is below
    optimizer = sgd(0.1, 0.02)
    makes = [lambda o: cls(o, **kwargs), lambda o: lr_scheduler.ConstantLR(o, 0.1, 5)]
    parts = [make(optimizer) for make in (makes if ours_first else makes[::-1])]
    got = lrs(optimizer, lr_scheduler.ChainedScheduler(parts, optimizer), 20)
    t = np.arange(21.0)[:, None]
    expected = formula(np.array([0.1, 0.02]), t) * np.where(t < 5, 0.1, 1.0)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_chained_with_one_another():
    optimizer = sgd(0.1)
    parts = [StepDecay(optimizer, every=3), MomentumAnnealing(optimizer, steps=4), InverseTimeDecay(optimizer, k=0.5)]
    got = np.array(run(optimizer, lr_scheduler.ChainedScheduler(parts), 9))[:, 0]
    t = np.arange(10.0)
    np.testing.assert_allclose(got[:, 0], 0.1 * 0.5 ** np.floor(t / 3) / (1 + 0.5 * t), rtol=1e-12)
    np.testing.assert_allclose(got[:, 1], 0.5 + 0.49 * np.minimum(t / 4, 1), rtol=1e-12)


def test_a_chain_goes_on_from_its_state_dict():
    def chain():
        optimizer = sgd(0.1)
        parts = [PowerCooling(optimizer, 0.1, 1e-3), StepDecay(optimizer, every=3)]
        return optimizer, lr_scheduler.ChainedScheduler([*parts, MomentumAnnealing(optimizer, steps=9)])

    optimizer, scheduler = chain()
    run(optimizer, scheduler, 6)
    saved = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    expected = run(optimizer, scheduler, 6)
    optimizer, scheduler = chain()
    optimizer.load_state_dict(saved[0])
    scheduler.load_state_dict(saved[1])
    assert run(optimizer, scheduler, 6) == expected


def test_a_learning_rate_changed_by_hand_is_taken_over():
    optimizer = sgd(0.1)
    scheduler = InverseTimeDecay(optimizer, k=1.0)
    run(optimizer, scheduler, 1)
    optimizer.param_groups[0]["lr"] *= 0.01
    np.testing.assert_allclose(lrs(optimizer, scheduler, 2)[:, 0], [0.0005, 0.001 / 3, 0.00025], rtol=1e-14)


@EACH_DECAY
def test_in_sequence_after_a_warm_up(cls, kwargs, formula):
    optimizer = sgd(0.1, 0.02)
    parts = [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=4), cls(optimizer, **kwargs)]
    scheduler = lr_scheduler.SequentialLR(optimizer, parts, milestones=[4])
    got = lrs(optimizer, scheduler, 20)
    etas0, t = np.array([0.1, 0.02]), np.arange(21.0)[:, None]
    expected = np.where(t < 4, etas0 * (0.1 + 0.9 * t / 4), formula(etas0, np.maximum(t - 4, 0)))
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@EACH_DECAY
def test_in_sequence_before_another(cls, kwargs, formula):
    optimizer = sgd(0.1)
    parts = [cls(optimizer, **kwargs), lr_scheduler.ConstantLR(optimizer, 0.5, 100)]
    got = lrs(optimizer, lr_scheduler.SequentialLR(optimizer, parts, milestones=[6]), 9)[:, 0]
    t = np.arange(10.0)
    np.testing.assert_allclose(got, np.where(t < 6, formula(0.1, t), 0.05), rtol=1e-12)


def test_momenta_in_sequence():
    optimizer = sgd(0.1)
    parts = [MomentumAnnealing(optimizer, 0.5, 0.9, steps=4), MomentumAnnealing(optimizer, 0.25, 0.25, steps=1)]
    states = run(optimizer, lr_scheduler.SequentialLR(optimizer, parts, milestones=[6]), 8)
    np.testing.assert_allclose([mu for ((_, mu),) in states], [0.5, 0.6, 0.7, 0.8, 0.9, 0.9, 0.25, 0.25, 0.25])
    assert {lr for ((lr, _),) in states} == {0.1}


def test_with_plateaus():
    optimizer = sgd(0.1)
    decay, plateau = StepDecay(optimizer, every=2), lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=0)
    for loss in (1.0, 1.0, 0.5, 0.25):
        optimizer.step()
        decay.step()
        plateau.step(loss)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**2 * 0.1)


def test_a_formula_of_ones_own_may_begin_elsewhere():
    class WarmUp(ClosedFormLR):
        def eta(self, eta0, t):
            return eta0 * min((t + 1) / 4, 1)

    optimizer = sgd(0.1)
    scheduler = WarmUp(optimizer)
    np.testing.assert_allclose(lrs(optimizer, scheduler, 5)[:, 0], [0.025, 0.05, 0.075, 0.1, 0.1, 0.1])


def test_the_base_has_no_formula():
    with pytest.raises(NotImplementedError):
        ClosedFormLR(sgd(0.1))


# ------------------------------------------------------------------------------------------- torch's ways and mistakes


def test_a_drop_in_for_torchs_module():
    names = set(torch.optim.lr_scheduler.__all__)
    assert names <= set(lr_scheduler.__all__)
    assert all(getattr(lr_scheduler, name) is getattr(torch.optim.lr_scheduler, name) for name in names)
    assert optim.lr_scheduler is lr_scheduler
    assert all(issubclass(row[0], torch.optim.lr_scheduler.LRScheduler) for row in DECAYS + MOMENTA)


@EACH
def test_torchs_warnings(cls, kwargs):
    optimizer = sgd(0.1)
    scheduler = cls(optimizer, **kwargs)
    with pytest.warns(UserWarning, match=r"please use `get_last_lr\(\)`") as record:
        scheduler.get_lr()
    assert record[0].filename == __file__
    with pytest.warns(UserWarning, match=r"`lr_scheduler.step\(\)` before `optimizer.step\(\)`"):
        scheduler.step()


@EACH_DECAY
def test_step_of_an_epoch(cls, kwargs, formula):
    optimizer = sgd(0.1)
    scheduler = cls(optimizer, **kwargs)
    optimizer.step()
    with pytest.warns(UserWarning, match="The epoch parameter"):
        scheduler.step(17)
    assert scheduler.get_last_lr() == [pytest.approx(float(formula(0.1, 17.0)), rel=1e-14)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: StepDecay(o, drop=0.0), r"^StepDecay: drop must be in \(0, 1\], got 0.0$"),
        (lambda o: StepDecay(o, drop=1.5), r"^StepDecay: drop must be in \(0, 1\], got 1.5$"),
        (lambda o: StepDecay(o, drop=math.nan), r"^StepDecay: drop must be in \(0, 1\], got nan$"),
        (lambda o: StepDecay(o, drop="0.5"), r"^StepDecay: drop must be in \(0, 1\], got '0.5'$"),
        (lambda o: StepDecay(o, drop=True), r"^StepDecay: drop must be in \(0, 1\], got True$"),
        (lambda o: StepDecay(o, every=0), r"^StepDecay: every must be an integer of at least 1, got 0$"),
        (lambda o: StepDecay(o, every=2.0), r"^StepDecay: every must be an integer of at least 1, got 2.0$"),
        (lambda o: StepDecay(o, last_epoch=-2), r"^StepDecay: last_epoch must be an integer of at least -1, got -2$"),
        (lambda o: ExponentialDecay(o, k=-1), r"^ExponentialDecay: k must be finite and not negative, got -1$"),
        (lambda o: ExponentialDecay(o, None), r"^ExponentialDecay: k must be finite and not negative, got None$"),
        (lambda o: InverseTimeDecay(o, math.inf), r"^InverseTimeDecay: k must be finite and not negative, got inf$"),
        (lambda o: PowerCooling(o, -0.1), r"^PowerCooling: epsilon must be finite and not negative, got -0.1$"),
        (lambda o: PowerCooling(o, 0.1, -1), r"^PowerCooling: floor must be finite and not negative, got -1$"),
        (lambda o: PowerCooling(o, 0.1, 0.2), r"^PowerCooling: the first .* at least floor = 0.2, got 0.1$"),
        (lambda o: MomentumAnnealing(o, start=1, steps=1), r"^MomentumAnnealing: start must be in \[0, 1\), got 1$"),
        (lambda o: MomentumAnnealing(o, end=-0.1, steps=1), r"^MomentumAnnealing: end must be in \[0, 1\), got -0.1$"),
        (MomentumAnnealing, r"^MomentumAnnealing: steps must be an integer of at least 1, got None$"),
        (lambda o: MomentumAnnealing(o, steps=0), r"^MomentumAnnealing: steps must be an integer .* 1, got 0$"),
        (
            lambda o: MomentumAnnealing(o, form="cosine", steps=1),
            r"^MomentumAnnealing: form must be 'linear' or 'sutskever', got 'cosine'$",
        ),
        (
            lambda o: MomentumAnnealing(o, 0.9, 0.5, form="sutskever"),
            r"^MomentumAnnealing: start must be at most end = 0.5 for 'sutskever', got 0.9$",
        ),
    ],
)
def test_bad_arguments(make, message):
    optimizer = sgd(0.1)
    with pytest.raises(ValueError, match=message):
        make(optimizer)
    assert state(optimizer) == [(0.1, 0.9)]


@pytest.mark.parametrize("lr", [1.0, 3.0, torch.tensor(1.0), torch.tensor([2.0])])
def test_power_cooling_would_not_cool(lr):
    message = rf"^PowerCooling: the first learning rates must be below 1, .*, got {float(lr)}$"
    with pytest.raises(ValueError, match=message):
        PowerCooling(torch.optim.Adam([dict(params=[parameter()], lr=lr)]), epsilon=0.1)
    optimizer = sgd(0.1)
    scheduler = PowerCooling(optimizer, epsilon=0.1)
    optimizer.add_param_group(dict(params=[parameter()], lr=lr))
    optimizer.step()
    with pytest.raises(ValueError, match=message):
        scheduler.step()


@EACH
def test_not_an_optimizer(cls, kwargs):
    with pytest.raises(TypeError, match=r"^SimpleNamespace is not an Optimizer$"):
        cls(SimpleNamespace(param_groups=[]), **kwargs)


# ----------------------------------------------------------------------------------------------------------- Lightning


def fit(lightning, folder, epochs, interval, make, resume=None):
    """Train on 4 batches an epoch; what LearningRateMonitor has logged, and the optimizer."""

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 1)

        def training_step(self, batch, number):
            return self.linear(batch[0]).square().mean()

        def configure_optimizers(self):
            optimizer = make(self.parameters())
            chain = [MomentumAnnealing(optimizer, 0.5, 0.9, steps=8), InverseTimeDecay(optimizer, k=1.0)]
            scheduler = lr_scheduler.ChainedScheduler(chain)
            return dict(optimizer=optimizer, lr_scheduler=dict(scheduler=scheduler, interval=interval))

    class Logger(lightning.loggers.logger.DummyLogger):
        seen = []

        def log_metrics(self, metrics, step=None):
            self.seen.append(metrics)

    logger = Logger()
    logger.seen = []
    monitor = lightning.callbacks.LearningRateMonitor(logging_interval=interval, log_momentum=True)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=logger,
        log_every_n_steps=1,
        callbacks=[monitor],
    )
    data = torch.utils.data.TensorDataset(torch.ones(8, 3))
    trainer.fit(Module(), torch.utils.data.DataLoader(data, batch_size=2), ckpt_path=resume)
    trainer.save_checkpoint(folder / "last.ckpt")
    return [seen for seen in logger.seen if any(key.startswith("lr-") for key in seen)], trainer.optimizers[0]


@pytest.mark.filterwarnings("ignore")  # Lightning's own
@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("cls", [optim.SGD, optim.Adam])
def test_lightning_steps_logs_and_resumes(cls, interval, lightning, tmp_path):
    make, name = functools.partial(cls, lr=0.1), cls.__name__
    seen, optimizer = fit(lightning, tmp_path, 3, interval, make)
    t = np.arange(12.0 if interval == "step" else 3.0)
    np.testing.assert_allclose([row[f"lr-{name}"] for row in seen], 0.1 / (1 + t), rtol=1e-12)
    np.testing.assert_allclose([row[f"lr-{name}-momentum"] for row in seen], 0.5 + 0.4 * np.minimum(t / 8, 1))

    fit(lightning, tmp_path, 1, interval, make)
    rest, again = fit(lightning, tmp_path, 3, interval, make, resume=tmp_path / "last.ckpt")
    assert rest == seen[len(seen) // 3 :]
    assert state(again) == state(optimizer)
