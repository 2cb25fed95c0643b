"""Nesterov: the gradient is taken at the point ahead, and the parameters never stay there."""

import copy
import importlib
import pickle
import re
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from torch_lecture_ops.optim import Nesterov

ON_DEVICE = pytest.mark.usefixtures("device")

SHAPES = [(), (3,), (70,), (4, 5)]
REFUSED = re.escape(
    "Nesterov: the gradient must be that of the point ahead; give step a closure, or compute the gradient inside of "
    "`with optimizer.lookahead():`"
)

# form -> the slow way in NumPy: the point ahead, and the step from the gradient there; s is v or the gradient before.
FORMS = {
    "torch": (lambda p, s, lr, mu: p + mu * s, lambda p, s, g, lr, mu: (p + mu * s - lr * g, mu * s - lr * g)),
    "larson": (lambda p, s, lr, mu: p - lr * s, lambda p, s, g, lr, mu: (p - (mu * g + lr * s), g)),
}
KEY = {"torch": "velocity", "larson": "grad_before"}
EACH_FORM = pytest.mark.parametrize("form", FORMS)

# How a step may be asked for. `gradient` computes the gradients where the parameters are now, and returns the loss.
ASKED = {}


def asking(way):
    ASKED[way.__name__] = way
    return way


@asking
def by_closure(optimizer, gradient):
    return optimizer.step(gradient)


@asking
def by_keyword(optimizer, gradient):
    return optimizer.step(closure=gradient)


@asking
def by_hand(optimizer, gradient):
    with optimizer.lookahead():
        loss = gradient()
    assert optimizer.step() is None
    return loss


EACH_WAY = pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)


def quadratic(params, seen=None):
    """A closure for J = Σ p² k / 2, k growing from 1 to 2: its gradient depends on the point."""

    def closure():
        loss = 0.0
        for p in params:
            k = torch.linspace(1, 2, p.numel(), dtype=torch.float64).to(p.dtype).reshape(p.shape)
            p.grad = k * p.detach()
            loss = loss + (p.grad * p.detach().conj()).real.sum() / 2
        if seen is not None:
            seen.append([p.detach().clone() for p in params])
        return loss

    return closure


def bits(tensor):
    return tensor.detach().contiguous().view(torch.uint8) if tensor.dim() else bits(tensor.reshape(1))


def assert_bits(got, expected):
    for a, b in zip(got, expected, strict=True):
        assert a.stride() == b.stride()
        assert torch.equal(bits(a), bits(b))


def started(table, dtype=torch.float32, form="torch", **kwargs):
    """Parameters and an optimizer that has a velocity."""
    params = table.parameters(dtype, SHAPES)
    optimizer = Nesterov(params, lr=0.1, form=form, **kwargs)
    optimizer.step(quadratic(params))
    return params, optimizer


# -------------------------------------------------------------------------------------------------------- the formula


@EACH_WAY
@EACH_FORM
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_against_numpy(form, ask, dtype, engine, table):
    """On a quadratic, where a gradient from the wrong place would lead elsewhere."""
    lr, mu = 0.1, 0.75 if form == "torch" else 0.125
    ahead, step = FORMS[form]
    params, seen = table.parameters(dtype, SHAPES), []
    optimizer = Nesterov(params, lr=lr, momentum=mu, form=form, **engine.kwargs)
    expected = [(p.detach().double().cpu().numpy().copy(), np.zeros(p.shape)) for p in params]
    for _ in range(10):
        losses = 0.0
        for number, (p, s) in enumerate(expected):
            k = np.linspace(1, 2, p.size).reshape(p.shape)
            point = ahead(p, s, lr, mu)
            losses += (k * point**2).sum() / 2
            expected[number] = (*step(p, s, k * point, lr, mu), point)[:2]
        loss = ask(optimizer, quadratic(params, seen))
        assert optimizer.engine == engine.name
        # Ten steps of a few units of values of at most 2, which the quadratic draws together; the loss sums 94 of them.
        limit = 40 * torch.finfo(dtype).eps
        np.testing.assert_allclose(loss.double().cpu().numpy(), losses, rtol=limit)
        for got, (p, s) in zip(params, expected, strict=True):
            np.testing.assert_allclose(got.detach().double().cpu().numpy(), p, rtol=0, atol=limit)
            np.testing.assert_allclose(optimizer.state[got][KEY[form]].double().cpu().numpy(), s, rtol=0, atol=limit)
    assert len(seen) == 10


@ON_DEVICE
def test_forms_part_from_momentum(table):
    """Without the look ahead it is ordinary momentum, which goes elsewhere."""
    runs = [(params, Nesterov(params, lr=0.1)) for params in (table.parameters(shapes=SHAPES) for _ in range(2))]
    for _ in range(3):
        runs[0][1].step(quadratic(runs[0][0]))
        quadratic(runs[1][0])()
        with runs[1][1].lookahead():
            pass
        runs[1][1].step()
    assert not any(map(torch.allclose, *(params for params, _ in runs)))


@EACH_WAY
@EACH_FORM
def test_evaluated_ahead_returned_once(form, ask, asked, table):
    """One call a step, at p + μ v (larson: p - η g_before), with gradients on; the loss of that point is returned."""
    params = table.parameters(torch.float64, SHAPES)
    optimizer = Nesterov(params, lr=0.1, momentum=0.5, form=form, **asked)
    for number in range(3):
        seen, grad_mode = [], []
        state = [optimizer.state[p].get(KEY[form], torch.zeros_like(p)) for p in params]
        expected = [(p + (0.5 if form == "torch" else -0.1) * s).detach() for p, s in zip(params, state, strict=True)]

        def closure(seen=seen, grad_mode=grad_mode):
            grad_mode.append(torch.is_grad_enabled())
            return quadratic(params, seen)()

        loss = ask(optimizer, closure)
        assert len(seen) == 1
        assert grad_mode == [True]
        for point, right in zip(seen[0], expected, strict=True):
            torch.testing.assert_close(point, right, rtol=1e-15, atol=0)
        at_point = [nn.Parameter(point) for point in seen[0]]
        assert torch.equal(loss, quadratic(at_point)())
        assert number == 0 or not any(map(torch.equal, seen[0], params))


def test_what_the_closure_returns(table):
    params, optimizer = started(table)
    for value in (None, 7.0, "text", {"loss": 1.0}):
        assert optimizer.step(lambda value=value: (quadratic(params)(), value)[1]) is value


@ON_DEVICE
def test_settings_around(table):
    """maximize goes up; weight decay, of both kinds, is that of p; each with the gradient of the point ahead."""
    for kwargs in (dict(maximize=True), dict(weight_decay=0.5), dict(weight_decay=0.5, decoupled_weight_decay=True)):
        params, optimizer = started(table, torch.float64, momentum=0.5, **kwargs)
        before = [(p.detach().clone(), optimizer.state[p]["velocity"].clone()) for p in params]
        optimizer.step(quadratic(params))
        for got, (p, v) in zip(params, before, strict=True):
            g = torch.linspace(1, 2, p.numel(), dtype=torch.float64).reshape(p.shape) * (p + 0.5 * v)
            if kwargs.get("decoupled_weight_decay"):
                p = p * (1 - 0.1 * 0.5)
            elif "weight_decay" in kwargs:
                g = g + 0.5 * p
            else:
                g = -g
            torch.testing.assert_close(got.detach(), p + 0.5 * v - 0.1 * g, rtol=1e-14, atol=1e-15)


# ------------------------------------------------------------------------------------------------------ the look ahead


@ON_DEVICE
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64], ids=str
)
@EACH_FORM
def test_parameters_come_back_to_the_bit(form, dtype, table):
    """Whatever rounding would make of p + μ v - μ v; also after an exception, which goes on to the caller."""
    params, optimizer = started(table, dtype, form)
    with torch.no_grad():
        params[2][:4] = torch.tensor([-0.0, float("inf"), float("nan"), 1e-7])
    kept = [p.detach().clone() for p in params]
    states = copy.deepcopy(list(optimizer.state.values()))
    with optimizer.lookahead():
        assert not any(map(torch.equal, params, kept))
    assert_bits(params, kept)

    def fails():
        assert not any(map(torch.equal, params, kept))
        raise KeyError("mine")

    for ask in (by_hand, by_closure):
        with pytest.raises(KeyError, match="mine"):
            ask(optimizer, fails)
        assert_bits(params, kept)
    for got, state in zip(optimizer.state.values(), states, strict=True):
        assert_bits(got.values(), state.values())
    assert all(p.is_leaf and p.requires_grad for p in params)


@ON_DEVICE
def test_odd_strides_come_back(table):
    whole = torch.linspace(1, 2, 77).reshape(11, 7)
    around = whole.clone()
    params = [
        nn.Parameter(whole[1:9, 2:5].t()),
        nn.Parameter(torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last)),
    ]
    optimizer = Nesterov(params, lr=0.1)
    optimizer.step(quadratic(params))
    kept = [p.detach().clone() for p in params]
    strides = [p.stride() for p in params]
    with optimizer.lookahead():
        for p, before in zip(params, kept, strict=True):
            torch.testing.assert_close(p.detach(), before + 0.9 * optimizer.state[p]["velocity"])
    assert all(map(torch.equal, params, kept))
    assert [p.stride() for p in params] == strides
    outside = torch.ones(11, 7, dtype=torch.bool)
    outside[1:9, 2:5] = False
    assert torch.equal(whole[outside], around[outside])


def test_a_step_without_a_look_ahead(asked, table):
    """Refused once there is a velocity, and nothing changes; the first step needs none. A look is good for one step."""
    params = table.parameters(shapes=SHAPES)
    optimizer = Nesterov(params, lr=0.1, **asked)
    quadratic(params)()
    optimizer.step()  # the velocity is zero: here and ahead are the same
    for _ in range(2):
        quadratic(params)()
        kept = [(p.detach().clone(), optimizer.state[p]["velocity"].clone()) for p in params]
        with pytest.raises(RuntimeError, match=rf"^{REFUSED}$"):
            optimizer.step()
        for p, (before, velocity) in zip(params, kept, strict=True):
            assert torch.equal(p, before)
            assert torch.equal(optimizer.state[p]["velocity"], velocity)
        by_hand(optimizer, quadratic(params))
    by_closure(optimizer, quadratic(params))
    with pytest.raises(RuntimeError, match=rf"^{REFUSED}$"):
        optimizer.step()


@ON_DEVICE
def test_a_first_step_without_gradients_is_none(table):
    params = table.parameters(shapes=SHAPES)
    optimizer = Nesterov(params, lr=0.1)
    optimizer.step()
    quadratic(params)()
    optimizer.step()
    assert all(optimizer.state[p]["velocity"].count_nonzero() for p in params)


@ON_DEVICE
@pytest.mark.parametrize("by", ["gradient", "closure"])
def test_a_step_inside_of_the_look_ahead(by, table):
    """Refused: at the end of the block it would be undone, p would stay where it is for ever and only v would grow."""
    params, optimizer = started(table)
    kept = [(p.detach().clone(), optimizer.state[p]["velocity"].clone()) for p in params]
    with optimizer.lookahead():
        quadratic(params)()
        with pytest.raises(RuntimeError, match=r"^Nesterov: "):
            optimizer.step(quadratic(params) if by == "closure" else None)
    for p, (before, velocity) in zip(params, kept, strict=True):
        assert torch.equal(p, before)
        assert torch.equal(optimizer.state[p]["velocity"], velocity)


def test_a_look_that_failed_is_none(table):
    """Who catches the exception has no gradient of the point ahead."""
    _, optimizer = started(table)
    with pytest.raises(KeyError), optimizer.lookahead():
        raise KeyError
    with pytest.raises(RuntimeError, match=rf"^{REFUSED}$"):
        optimizer.step()


@ON_DEVICE
def test_backward_after_the_look_ahead_is_noticed():
    """What autograd saved of the point ahead is no longer there."""
    p = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = Nesterov([p], lr=0.1)
    optimizer.step(quadratic([p]))
    with optimizer.lookahead():
        loss = (p**3).sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# ------------------------------------------------------------------------------------------- closures that do nothing

NOT_COMPUTED = re.escape(
    "Nesterov: the gradient must be that of the point ahead, but the closure computed none there; call backward in it, "
    "or compute the gradient inside of `with optimizer.lookahead():`"
)
ADDED = r"^Nesterov: the closure added to a gradient from before.*callbacks\.NesterovLookahead$"


def loss_of(params):
    return sum((k * p**2).sum() for k, p in enumerate(params, 1))


def nothing(params):
    pass


def clip(params):
    """As hooks of wrappers do, inside of the closure that they pass."""
    nn.utils.clip_grad_norm_(params, 0.125)


def evaluate_only(params):
    with torch.no_grad():
        return loss_of(params)


@pytest.mark.parametrize("closure", [nothing, clip, evaluate_only], ids=lambda closure: closure.__name__)
@pytest.mark.parametrize("zeroed", [True, False])
def test_a_closure_that_computes_no_gradient(closure, zeroed, asked, table):
    """Refused like no closure, and nothing changes; the first step needs none."""
    params = table.parameters(shapes=SHAPES)
    optimizer = Nesterov(params, lr=0.1, **asked)
    loss_of(params).backward()
    optimizer.step(lambda: closure(params))
    for _ in range(2):
        if zeroed:
            optimizer.zero_grad()
            loss_of(params).backward()
        kept = [(p.detach().clone(), optimizer.state[p]["velocity"].clone()) for p in params]
        with pytest.raises(RuntimeError, match=rf"^{NOT_COMPUTED}$"):
            optimizer.step(lambda: closure(params))
        for p, (before, velocity) in zip(params, kept, strict=True):
            assert torch.equal(p, before)
            assert torch.equal(optimizer.state[p]["velocity"], velocity)
    with optimizer.lookahead():
        optimizer.zero_grad()
        loss_of(params).backward()
    optimizer.step(lambda: closure(params))  # as Lightning passes one in manual optimization
    with pytest.raises(RuntimeError, match=rf"^{REFUSED}$"):
        optimizer.step()


def with_none(params, optimizer):
    optimizer.zero_grad()
    loss_of(params).backward()


def with_zeros(params, optimizer):
    optimizer.zero_grad(set_to_none=False)
    loss_of(params).backward()


def with_zeros_by_hand(params, optimizer):
    for p in params:
        if p.grad is not None:
            p.grad.zero_()
    loss_of(params).backward()


def in_two_parts(params, optimizer):
    optimizer.zero_grad()
    (loss_of(params) / 2).backward()
    (loss_of(params) / 2).backward()


def assigned(params, optimizer):
    for p, g in zip(params, torch.autograd.grad(loss_of(params), params), strict=True):
        p.grad = g


def the_same_numbers(params, optimizer):
    """That the gradient is what it was does not mean that nobody computed it."""
    optimizer.zero_grad()
    sum(p.sum() for p in params).backward()


def of_some(params, optimizer):
    """The others have none."""
    optimizer.zero_grad()
    loss_of(params[1:]).backward()


def none_at_all(params, optimizer):
    optimizer.zero_grad()


def penalized(params, optimizer):
    gradients = torch.autograd.grad(loss_of(params), params, create_graph=True)
    optimizer.zero_grad()
    (loss_of(params) + sum((g**2).sum() for g in gradients)).backward()


COMPUTING = [with_none, with_zeros, with_zeros_by_hand, in_two_parts, assigned, the_same_numbers, of_some, none_at_all]
COMPUTING += [penalized]


@pytest.mark.parametrize("before", ["", "none", "zeros"])
@pytest.mark.parametrize("compute", COMPUTING, ids=lambda compute: compute.__name__)
def test_closures_that_compute_gradients(compute, before, table):
    """Whatever lies in the gradients before: as by hand, and without a word; who returns nothing is as good."""
    runs = []
    for by in (by_closure, by_hand):
        params = table.parameters(torch.float64, SHAPES)
        optimizer = Nesterov(params, lr=0.01)
        for _ in range(4):
            if before:
                optimizer.zero_grad(set_to_none=before == "none")
            by(optimizer, lambda params=params, optimizer=optimizer: compute(params, optimizer))
        runs.append(params)
    assert all(map(torch.equal, *runs))


def test_a_closure_that_adds_to_a_gradient_from_here(table):
    """It is evaluated ahead, but what it adds to is not: said, with what to do."""
    params = table.parameters(shapes=SHAPES)
    optimizer = Nesterov(params, lr=0.01)
    for number in range(3):
        optimizer.zero_grad()
        loss_of(params).backward()
        if number:
            with pytest.warns(UserWarning, match=ADDED):
                optimizer.step(lambda: loss_of(params).backward())
        else:
            optimizer.step(lambda: loss_of(params).backward())  # the velocity is zero: here and ahead are the same
    optimizer.zero_grad()
    for _ in range(2):
        with optimizer.lookahead():
            loss_of(params).backward()
    optimizer.step(lambda: loss_of(params).backward())  # both were ahead


def test_gradients_of_before_are_freed_while_a_closure_runs(table):
    """The old and the new ones do not live at once."""
    params, optimizer = started(table)
    for _ in range(2):
        seen = []

        def closure(seen=seen):
            old = [weakref.ref(p.grad) for p in params]
            optimizer.zero_grad()
            seen.extend(ref() is not None for ref in old)
            loss_of(params).backward()

        optimizer.step(closure)
        assert seen == len(params) * [False]
        assert not any(p._backward_hooks for p in params)


def test_a_look_inside_of_a_look(table):
    _, optimizer = started(table)
    with optimizer.lookahead(), pytest.raises(RuntimeError, match=r"^Nesterov: .*twice"), optimizer.lookahead():
        pass


# ------------------------------------------------------------------------------------------------------------- wrappers


class Forwarding:
    """As Fabric's and Lightning's: a class made at run time, not initialized, that forwards what it does not have."""

    def __init__(self, optimizer):
        self.wrapped = optimizer
        self.__class__ = type("Forwarding" + type(optimizer).__name__, (type(self), type(optimizer)), {})

    def step(self, closure=None):
        return self.wrapped.step(closure=closure or (lambda: None))

    def __getattr__(self, name):
        return getattr(self.wrapped, name)


class Copying:
    """As Fabric's once was: with what the optimizer had in its __dict__."""

    def __init__(self, optimizer):
        self.__dict__ = {key: value for key, value in vars(optimizer).items() if key not in ("step", "state_dict")}
        self.__class__ = type("Copying" + type(optimizer).__name__, (type(self), type(optimizer)), {})
        self.wrapped = optimizer

    def step(self, closure=None):
        return self.wrapped.step(closure) if closure else self.wrapped.step()


class Proxy:
    """As accelerate's: no optimizer at all, but all of one's attributes."""

    def __init__(self, optimizer):
        self.wrapped = optimizer

    def step(self, closure=None):
        return self.wrapped.step(closure)

    def __getattr__(self, name):
        return getattr(self.wrapped, name)


@ON_DEVICE
@pytest.mark.parametrize("load", [False, True], ids=["", "after a load"])
@pytest.mark.parametrize("wrap", [Forwarding, Copying, Proxy], ids=lambda wrap: wrap.__name__)
def test_wrappers(wrap, load, table):
    """The look ahead is that of the optimizer inside, by closure and by hand; a step without it is refused."""
    ours, others = (table.parameters(shapes=SHAPES) for _ in range(2))
    optimizer, reference = Nesterov(ours, lr=0.1), Nesterov(others, lr=0.1)
    wrapper = wrap(optimizer)
    if load:
        for each in (optimizer, reference):
            each.load_state_dict(copy.deepcopy(started(table)[1].state_dict()))
    for way in (by_closure, by_hand, by_hand, by_closure):
        for each, params in ((wrapper, ours), (reference, others)):
            way(each, quadratic(params))
        assert all(map(torch.equal, ours, others))
        quadratic(ours)()
        with pytest.raises(RuntimeError, match=r"^Nesterov: the gradient must be that of the point ahead"):
            wrapper.step()
        assert all(map(torch.equal, ours, others))
    with wrapper.lookahead(), pytest.raises(RuntimeError, match=r"^Nesterov: a step inside of `lookahead`"):
        optimizer.step()


@ON_DEVICE
def test_lightnings_wrappers(lightning, table):
    """Fabric's optimizer; by closure and by hand."""
    ours, others = (table.parameters(shapes=SHAPES) for _ in range(2))
    reference = Nesterov(others, lr=0.1)
    fabric = importlib.import_module("lightning.fabric").Fabric(accelerator="cpu", devices=1)
    wrapper = fabric.setup_optimizers(Nesterov(ours, lr=0.1))
    assert isinstance(wrapper, Nesterov)
    for way in (by_closure, by_hand, by_hand):
        for each, params in ((wrapper, ours), (reference, others)):
            way(each, quadratic(params))
        assert all(map(torch.equal, ours, others))
    quadratic(ours)()
    with pytest.raises(RuntimeError, match=rf"^{REFUSED}$"):
        wrapper.step()


# ------------------------------------------------------------------------------------------------------- in real loops


def regression(seed=0):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.rand(p.shape, generator=generator, device="cpu") - 0.5)
    x = torch.rand(32, 3, generator=generator, device="cpu").to(torch.get_default_device())
    return model, x, x.sum(1, keepdim=True).sin()


def closure_of(model, x, y, optimizer):
    """As Lightning's: zero_grad, the loss, backward, return."""

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        return loss

    return closure


@pytest.mark.not_interpreted
@EACH_FORM
def test_training_by_closure_and_by_hand(form, asked):
    """To the bit the same; the loss falls."""
    runs = []
    for way in (by_closure, by_hand):
        model, x, y = regression()
        optimizer = Nesterov(model.parameters(), lr=0.1, momentum=0.9 if form == "torch" else 0.1, form=form, **asked)
        closure = closure_of(model, x, y, optimizer)
        losses = [way(optimizer, closure).item() for _ in range(50)]
        assert losses[-1] < losses[0] / 10
        runs.append((losses, [p.detach() for p in model.parameters()]))
    assert runs[0][0] == runs[1][0]
    assert all(map(torch.equal, runs[0][1], runs[1][1]))


def test_gradient_scaling(asked, table):
    """GradScaler steps without a closure. The step that overflows is skipped; the others are as without scaling."""
    ours, theirs = table.parameters(shapes=SHAPES), table.parameters(shapes=SHAPES)
    optimizer, reference = (Nesterov(params, lr=0.1, **asked) for params in (ours, theirs))
    scaler = torch.amp.GradScaler(torch.get_default_device().type, init_scale=1024.0)
    for number in range(5):
        with optimizer.lookahead():
            quadratic(ours)()
            scaler.scale(torch.ones(()))
        for p in ours:
            p.grad *= scaler.get_scale()
        before = [p.detach().clone() for p in ours]
        if number == 2:
            ours[2].grad[5] = float("inf")
        scaler.step(optimizer)
        scaler.update()
        if number == 2:
            assert all(map(torch.equal, ours, before))
        else:
            reference.step(quadratic(theirs))
    assert scaler.get_scale() == 512.0
    assert all(map(torch.equal, ours, theirs))  # scales are powers of two: nothing is rounded


def test_groups(asked, table):
    """Each looks ahead along its own momentum, and in its own form."""
    settings = [
        dict(momentum=0.5),
        dict(momentum=0.9, lr=0.2),
        dict(form="larson", momentum=0.125),
        dict(maximize=True),
    ]
    groups = [{"params": table.parameters(torch.float64, SHAPES), **kwargs} for kwargs in settings]
    alone = [table.parameters(torch.float64, SHAPES) for _ in settings]
    optimizers = [Nesterov(p, **dict(lr=0.1) | kwargs, **asked) for p, kwargs in zip(alone, settings, strict=True)]
    together = Nesterov(groups[:3], lr=0.1, **asked)
    together.add_param_group(groups[3])
    for _ in range(4):
        together.step(quadratic([p for group in groups for p in group["params"]]))
        for params, optimizer in zip(alone, optimizers, strict=True):
            optimizer.step(quadratic(params))
    for group, params in zip(groups, alone, strict=True):
        assert all(map(torch.equal, group["params"], params))


def test_frozen_and_late_parameters(asked):
    """Without a gradient p stays where it is; frozen, its velocity waits and still leads ahead."""
    params = [nn.Parameter(torch.full((3,), 1.0, dtype=torch.float64)) for _ in range(3)]
    present, frozen, late = params
    optimizer = Nesterov(params, lr=0.1, momentum=0.5, **asked)
    seen = []

    def closure(without):
        def closure():
            quadratic(params, seen)()
            for p in without:
                p.grad = None

        return closure

    optimizer.step(closure([late]))
    kept = [p.detach().clone() for p in params]
    optimizer.step(closure([frozen, late]))
    assert torch.equal(seen[-1][2], torch.ones(3))
    torch.testing.assert_close(seen[-1][1], kept[1] + 0.5 * optimizer.state[frozen]["velocity"], rtol=1e-15, atol=0)
    assert not torch.equal(present, kept[0])
    assert torch.equal(frozen, kept[1])
    assert torch.equal(late, torch.ones(3))
    assert late not in optimizer.state
    optimizer.step(closure([]))
    assert torch.equal(seen[-1][2], torch.ones(3))  # its first gradient is that of where it is
    alone = nn.Parameter(torch.full((3,), 1.0, dtype=torch.float64))
    once = Nesterov([alone], lr=0.1, momentum=0.5, **asked)
    once.step(quadratic([alone]))
    assert torch.equal(late, alone)
    once.step(quadratic([alone]))
    assert torch.equal(frozen, alone)


@EACH_FORM
def test_complex_parameters_are_pairs_of_real_ones(form, asked, table):
    params = table.parameters(torch.complex128, SHAPES)
    pairs = [nn.Parameter(torch.view_as_real(p.detach()).clone()) for p in params]
    runs = [(p, Nesterov(p, lr=0.1, momentum=0.5, form=form, **asked)) for p in (params, pairs)]
    for _ in range(3):
        for values, optimizer in runs:

            def closure(values=values):
                for number, p in enumerate(values):
                    p.grad = (number + 1) * p.detach()

            optimizer.step(closure)
    for p, pair in zip(params, pairs, strict=True):
        assert torch.equal(torch.view_as_real(p), pair)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@EACH_FORM
def test_half_types_are_computed_in_float32(form, dtype, asked, table):
    """The point ahead and the step are those of float32, each rounded once."""
    params, optimizer = started(table, dtype, form, **asked)
    floats, single = [nn.Parameter(p.detach().float()) for p in params], None
    single = Nesterov(floats, lr=0.1, form=form, **asked)
    for p, q in zip(params, floats, strict=True):
        single.state[q].update({key: value.float() for key, value in optimizer.state[p].items()})
    with optimizer.lookahead(), single.lookahead():
        for p, q in zip(params, floats, strict=True):
            assert torch.equal(p, q.to(dtype))
        quadratic(params)()
    for p, q in zip(params, floats, strict=True):
        q.grad = p.grad.float()
    optimizer.step()
    single.step()
    for p, q in zip(params, floats, strict=True):
        assert torch.equal(p, q.to(dtype))
        assert torch.equal(optimizer.state[p][KEY[form]], single.state[q][KEY[form]].to(dtype))


def test_several_dtypes_look_ahead_together(asked, table):
    dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.float16, torch.float32]
    params = [nn.Parameter(table.values((70,), 1, 2, dtype, number)) for number, dtype in enumerate(dtypes)]
    alone = [nn.Parameter(p.detach().clone()) for p in params]
    together, optimizers = Nesterov(params, lr=0.1, **asked), [Nesterov([p], lr=0.1, **asked) for p in alone]
    for _ in range(3):
        together.step(quadratic(params))
        for p, optimizer in zip(alone, optimizers, strict=True):
            optimizer.step(quadratic([p]))
    assert all(map(torch.equal, params, alone))


# ---------------------------------------------------------------------------------------------------- copies, schedules

COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda run: pickle.loads(pickle.dumps(run))}


def reloaded(run):
    params, optimizer = run
    others = [nn.Parameter(p.detach().clone()) for p in params]
    other = Nesterov(others, form=optimizer.param_groups[0].get("form", "torch"))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return others, other


@ON_DEVICE
@pytest.mark.parametrize("copy_of", [*COPIES.values(), reloaded], ids=[*COPIES, "state_dict"])
@EACH_FORM
def test_copies_go_on_alike(form, copy_of, table):
    """Also in that a velocity that was loaded asks for a look ahead."""
    params, optimizer = started(table, form=form, momentum=0.25)
    others, other = copy_of((params, optimizer))
    with pytest.raises(RuntimeError, match=rf"^{REFUSED}$"):
        other.step()
    for _ in range(3):
        seen, expected = [], []
        other.step(quadratic(others, seen))
        optimizer.step(quadratic(params, expected))
        assert all(map(torch.equal, seen[0], expected[0]))
    assert all(map(torch.equal, params, others))


@ON_DEVICE
def test_momentum_that_changes(table):
    """A scheduler moves it between steps: the look is along the new one, as the step is."""
    params = table.parameters(torch.float64, SHAPES)
    optimizer = Nesterov(params, lr=0.1, momentum=0.5)
    scheduler = torch.optim.lr_scheduler.CyclicLR(optimizer, 0.01, 0.1, step_size_up=2, base_momentum=0.5)
    for _ in range(4):
        (group,) = optimizer.param_groups
        before = [(p.detach().clone(), optimizer.state[p].get("velocity", torch.zeros(()))) for p in params]
        before = [(p, v.clone()) for p, v in before]
        seen = []
        optimizer.step(quadratic(params, seen))
        for point, got, (p, v) in zip(seen[0], params, before, strict=True):
            torch.testing.assert_close(point, p + group["momentum"] * v, rtol=1e-15, atol=1e-15)
            torch.testing.assert_close(got.detach(), point - group["lr"] * got.grad, rtol=1e-15, atol=1e-15)
        scheduler.step()
