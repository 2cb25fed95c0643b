"""Every form of every optimizer against its formula in NumPy, and what the forms have to do with each other."""

import copy
import pickle
from collections import defaultdict

import numpy as np
import pytest
import torch
from numpy import sqrt
from torch import nn

from torch_lecture_ops import optim

ON_DEVICE = pytest.mark.usefixtures("device")

SHAPES = [(), (3,), (70,), (4, 5)]
STEPS = 5

# The slow way: p, g and the results are arrays of float64; s holds the state by its keys, zero at first; t is the
# number of the step, from 1 on.


def sgd(p, g, s, t, lr, momentum, dampening=0.0, nesterov=False):
    b = s["momentum_buffer"] = g if t == 1 else momentum * s["momentum_buffer"] + (1 - dampening) * g
    return p - lr * (g + momentum * b if nesterov else b)


def sgd_cs231n(p, g, s, t, lr, momentum, nesterov=False):
    before = s["velocity"]
    v = s["velocity"] = momentum * before - lr * g
    return p - momentum * before + (1 + momentum) * v if nesterov else p + v


def sgd_larson(p, g, s, t, lr, momentum):
    before, s["grad_before"] = s["grad_before"], g
    return p - (lr * g + momentum * before)


def nesterov(p, g, s, t, lr, momentum=0.9):
    s["velocity"] = momentum * s["velocity"] - lr * g
    return p + s["velocity"]


def nesterov_larson(p, g, s, t, lr, momentum):
    before, s["grad_before"] = s["grad_before"], g
    return p - (momentum * g + lr * before)


def adagrad(p, g, s, t, lr, lr_decay=0.0, initial_accumulator_value=0.0, eps=1e-10):
    s["sum"] = (initial_accumulator_value if t == 1 else s["sum"]) + g**2
    return p - lr / (1 + (t - 1) * lr_decay) * g / (sqrt(s["sum"]) + eps)


def adagrad_larson(p, g, s, t, lr, gamma=1.0, initial_accumulator_value=0.0, eps=1e-10):
    s["sum"] = gamma * (initial_accumulator_value if t == 1 else s["sum"]) + g**2
    return p - lr * g / sqrt(s["sum"] + eps)


def adagrad_memoryless(p, g, s, t, lr, eps=1e-10):
    return p - lr * g / sqrt(g**2 + eps)


def rmsprop(p, g, s, t, lr, alpha=0.99, eps=1e-8, momentum=0.0, centered=False, initial_accumulator_value=0.0):
    before = initial_accumulator_value if t == 1 else s["square_avg"]
    v = s["square_avg"] = alpha * before + (1 - alpha) * g**2
    mean = s["grad_avg"] = alpha * s["grad_avg"] + (1 - alpha) * g
    step = g / (sqrt(v - mean**2 if centered else v) + eps)
    b = s["momentum_buffer"] = momentum * s["momentum_buffer"] + step
    return p - lr * b


def rmsprop_larson(p, g, s, t, lr, alpha=0.99, eps=1e-8, initial_accumulator_value=0.0):
    """With 1 TensorFlow's: ms = ms + (g² - ms) (1 - ρ), var = var - lr g / √(ms + ε), ms = 1 at first."""
    before = initial_accumulator_value if t == 1 else s["square_avg"]
    v = s["square_avg"] = before + (g**2 - before) * (1 - alpha)
    return p - lr * g / sqrt(v + eps)


def adadelta(p, g, s, t, lr, rho=0.9, eps=1e-6):
    v = s["square_avg"] = rho * s["square_avg"] + (1 - rho) * g**2
    delta = sqrt(s["acc_delta"] + eps) / sqrt(v + eps) * g
    s["acc_delta"] = rho * s["acc_delta"] + (1 - rho) * delta**2
    return p - lr * delta


def adadelta_larson(p, g, s, t, lr, rho=0.9, eps=1e-6):
    v = s["square_avg"] = rho * s["square_avg"] + (1 - rho) * g**2
    late = s["exp_avg"]
    s["exp_avg"] = rho * late + (1 - rho) * g
    return p - lr * late / sqrt(v + eps)


def averages(g, s, betas):
    for key, beta, value in (("exp_avg", betas[0], g), ("exp_avg_sq", betas[1], g**2)):
        s[key] = beta * s[key] + (1 - beta) * value
    return s["exp_avg"], s["exp_avg_sq"]


def adam(p, g, s, t, lr, betas=(0.9, 0.999), eps=1e-8, amsgrad=False):
    m, v = averages(g, s, betas)
    if amsgrad:
        v = s["max_exp_avg_sq"] = np.maximum(s["max_exp_avg_sq"], v)
    return p - lr * (m / (1 - betas[0] ** t)) / (sqrt(v / (1 - betas[1] ** t)) + eps)


def adam_incomplete(p, g, s, t, lr, betas=(0.9, 0.999), eps=1e-8):
    m, v = averages(g, s, betas)
    return p - lr * m / (sqrt(v) + eps)


def adam_larson(p, g, s, t, lr, betas=(0.9, 0.999), eps=1e-8):
    m, v = averages(g, s, betas)
    return p - lr * (m / (1 - betas[0] ** t)) / sqrt(v / (1 - betas[1] ** t) + eps)


def nadam(p, g, s, t, lr, betas=(0.9, 0.999), eps=1e-8, momentum_decay=4e-3):
    m, v = averages(g, s, betas)
    mu, after = (betas[0] * (1 - 0.96 ** (n * momentum_decay) / 2) for n in (t, t + 1))
    product = s["mu_product"] = (1.0 if t == 1 else s["mu_product"]) * mu
    m_hat = after * m / (1 - product * after) + (1 - mu) * g / (1 - product)
    return p - lr * m_hat / (sqrt(v / (1 - betas[1] ** t)) + eps)


def nadam_simple(p, g, s, t, lr, betas=(0.9, 0.999), eps=1e-8):
    m, v = averages(g, s, betas)
    m_hat = betas[0] * m / (1 - betas[0] ** (t + 1)) + (1 - betas[0]) * g / (1 - betas[0] ** t)
    return p - lr * m_hat / (sqrt(v / (1 - betas[1] ** t)) + eps)


# class, form -> the formula, rows of keyword arguments (the first one runs with weight decay and maximize around it,
# too), the keys of the state after the first row. An eps of 0.5 tells whether it stands in the root.
FORMS = {
    ("SGD", "torch"): (
        sgd,
        [dict(lr=0.02, momentum=0.9), dict(lr=0.02, momentum=0.5, dampening=0.25), dict(momentum=0.9, nesterov=True)],
        ["momentum_buffer"],
    ),
    ("SGD", "cs231n"): (
        sgd_cs231n,
        [dict(lr=0.02, momentum=0.9), dict(lr=0.02, momentum=0.9, nesterov=True)],
        ["velocity"],
    ),
    ("SGD", "larson"): (sgd_larson, [dict(lr=0.02, momentum=0.01)], ["grad_before"]),
    ("Nesterov", "torch"): (nesterov, [dict(lr=0.02), dict(lr=0.02, momentum=0.5)], ["velocity"]),
    ("Nesterov", "larson"): (nesterov_larson, [dict(lr=0.02, momentum=0.01)], ["grad_before"]),
    ("Adagrad", "torch"): (
        adagrad,
        [dict(lr=0.05, eps=0.5), dict(lr=0.05, lr_decay=0.25, initial_accumulator_value=0.75)],
        ["step", "sum"],
    ),
    ("Adagrad", "larson"): (
        adagrad_larson,
        [dict(lr=0.05, eps=0.5), dict(lr=0.05, gamma=0.5, initial_accumulator_value=0.75)],
        ["step", "sum"],
    ),
    ("Adagrad", "memoryless"): (adagrad_memoryless, [dict(lr=0.02, eps=0.5)], ["step"]),
    ("RMSprop", "torch"): (
        rmsprop,
        [
            dict(lr=0.02, eps=0.5),
            dict(lr=0.005, momentum=0.9),
            dict(lr=0.005, alpha=0.75, centered=True),
            dict(lr=0.02, initial_accumulator_value=0.75),
        ],
        ["step", "square_avg"],
    ),
    ("RMSprop", "larson"): (
        rmsprop_larson,
        [
            dict(lr=0.02, eps=0.5),
            dict(lr=0.005, alpha=0.75),
            dict(lr=0.1, alpha=0.9, eps=1e-10, initial_accumulator_value=1.0),
        ],
        ["step", "square_avg"],
    ),
    ("Adadelta", "torch"): (
        adadelta,
        [dict(lr=0.02, eps=0.5), dict(lr=8.0, rho=0.5)],
        ["step", "square_avg", "acc_delta"],
    ),
    ("Adadelta", "larson"): (
        adadelta_larson,
        [dict(lr=0.02, eps=0.5), dict(lr=0.02, rho=0.5)],
        ["step", "square_avg", "exp_avg"],
    ),
    ("Adam", "torch"): (
        adam,
        [dict(lr=0.02, eps=0.5), dict(lr=0.02, betas=(0.5, 0.75), amsgrad=True)],
        ["step", "exp_avg", "exp_avg_sq"],
    ),
    ("Adam", "incomplete"): (
        adam_incomplete,
        [dict(lr=0.02, eps=0.5), dict(lr=0.005, betas=(0.5, 0.75))],
        ["step", "exp_avg", "exp_avg_sq"],
    ),
    ("Adam", "larson"): (
        adam_larson,
        [dict(lr=0.02, eps=0.5), dict(lr=0.02, betas=(0.5, 0.75))],
        ["step", "exp_avg", "exp_avg_sq"],
    ),
    ("NAdam", "torch"): (
        nadam,
        [dict(lr=0.02, eps=0.5), dict(lr=0.02, betas=(0.5, 0.75), momentum_decay=0.5)],
        ["step", "mu_product", "exp_avg", "exp_avg_sq"],
    ),
    ("NAdam", "simple"): (
        nadam_simple,
        [dict(lr=0.02, eps=0.5), dict(lr=0.02, betas=(0.5, 0.75))],
        ["step", "exp_avg", "exp_avg_sq"],
    ),
}
FORMS |= {("AdamW", form): row for (name, form), row in FORMS.items() if name == "Adam"}
AROUND = [{}, dict(weight_decay=0.1, maximize=True), dict(weight_decay=0.1, decoupled_weight_decay=True)]
ROWS = [
    (which, form, reference, kwargs | around)
    for (which, form), (reference, rows, _) in FORMS.items()
    for number, kwargs in enumerate(rows)
    for around in (AROUND if number == 0 and which != "AdamW" else AROUND[:1])
]
EACH_FORM = pytest.mark.parametrize(("which", "form"), FORMS, ids=str)


def first_row(which, form):
    return copy.deepcopy(FORMS[which, form][1][0])


def around(formula, decay, decoupled, maximize):
    """The shell's part: the sign of the gradient and both kinds of weight decay."""

    def step(p, g, s, t, lr=1e-3, **numbers):
        g = -g if maximize else g
        if decoupled:
            p = p * (1 - lr * decay)
        else:
            g = g + decay * p
        return formula(p, g, s, t, lr, **numbers)

    return step


def steps(table, numbers, *runs):
    """The same gradients for several runs (params, optimizer)."""
    for number in numbers:
        table.give_gradients(number, *(params for params, _ in runs))
        for _, optimizer in runs:
            table.step(optimizer)


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("which", "form", "reference", "kwargs"), ROWS, ids=lambda v: getattr(v, "__name__", str(v)))
def test_forms_are_their_formulas(which, form, reference, kwargs, dtype, engine, table):
    kwargs, shell = dict(kwargs), dict(weight_decay=0.0, decoupled_weight_decay=False, maximize=False)
    if which == "AdamW":
        shell |= dict(weight_decay=0.01, decoupled_weight_decay=True)
    with table.default_dtype(dtype):
        params = table.parameters(dtype, SHAPES)
        optimizer = getattr(optim, which)(params, form=form, **kwargs, **engine.kwargs)
        expected = [p.detach().double().cpu().numpy().copy() for p in params]
        states = [defaultdict(float) for _ in params]
        shell = [kwargs.pop(key, value) for key, value in shell.items()]
        step = around(reference, *shell)
        for t in range(1, STEPS + 1):
            steps(table, [t], (params, optimizer))
            assert optimizer.engine == engine.name
            for number, p in enumerate(params):
                expected[number] = step(expected[number], p.grad.double().cpu().numpy(), states[number], t, **kwargs)
        got = table.entries(params, optimizer)
    for key, column in got.items():
        if key == "step":
            assert all(value == STEPS for value in column.values())
            continue
        right = dict(enumerate(expected)) if key == "param" else {n: s[key] for n, s in enumerate(states)}
        size = max(np.abs(value).max() for value in right.values())
        # A step is the rounding of the parameter and a tenth of the error of what is added; a state has up to eight
        # roundings a step, of half a unit each. Adadelta's acc_delta averages squares, which count them twice.
        units = STEPS * {"param": 1, "acc_delta": 8}.get(key, 4)
        for number, value in column.items():
            limit = units * torch.finfo(dtype).eps * size
            np.testing.assert_allclose(value.double().cpu().numpy(), right[number], rtol=0, atol=limit, err_msg=key)


@ON_DEVICE
@EACH_FORM
def test_state_of_a_form(which, form, table):
    """What the form needs, in the order of the class, and of the parameter's dtype."""
    params = table.parameters(torch.bfloat16, SHAPES)
    optimizer = getattr(optim, which)(params, form=form, **first_row(which, form))
    steps(table, [0], (params, optimizer))
    for p in params:
        assert list(optimizer.state[p]) == FORMS[which, form][2]
        for key, value in optimizer.state[p].items():
            scalar = key in ("step", "mu_product")
            assert (value.shape, value.dtype) == (((), torch.float32) if scalar else (p.shape, torch.bfloat16))


# --------------------------------------------------------------------------------------------- what equals what, when

SAME = {
    "SGD: cs231n": (("SGD", dict(form="cs231n", momentum=0.9)), ("SGD", dict(momentum=0.9))),
    "SGD: cs231n, nesterov": (
        ("SGD", dict(form="cs231n", momentum=0.9, nesterov=True)),
        ("SGD", dict(momentum=0.9, nesterov=True)),
    ),
    "SGD: cs231n without momentum": (("SGD", dict(form="cs231n")), ("SGD", dict())),
    "SGD: larson without momentum": (("SGD", dict(form="larson")), ("SGD", dict())),
    "Nesterov without momentum": (("Nesterov", dict(momentum=0.0)), ("SGD", dict())),
    "Nesterov: larson is SGD: larson, the letters swapped": (
        ("Nesterov", dict(form="larson", lr=0.03, momentum=0.02)),
        ("SGD", dict(form="larson", lr=0.02, momentum=0.03)),
    ),
    "Adagrad: larson, nothing leaks": (("Adagrad", dict(form="larson", eps=0.0)), ("Adagrad", dict(eps=0.0))),
    "Adagrad: larson, all leaks": (
        ("Adagrad", dict(form="larson", gamma=0.0, eps=0.5)),
        ("Adagrad", dict(form="memoryless", eps=0.5)),
    ),
    "Adagrad: memoryless": (
        ("Adagrad", dict(form="memoryless", eps=0.5)),
        ("RMSprop", dict(form="larson", alpha=0.0, eps=0.5)),
    ),
    "RMSprop: larson without eps": (("RMSprop", dict(form="larson", eps=0.0)), ("RMSprop", dict(eps=0.0))),
    "Adadelta that keeps all": (("Adadelta", dict(rho=1.0)), ("SGD", dict())),
    "Adam: larson without eps": (("Adam", dict(form="larson", eps=0.0)), ("Adam", dict(eps=0.0))),
    "Adam: incomplete without momentum": (
        ("Adam", dict(form="incomplete", betas=(0.0, 0.75))),
        ("RMSprop", dict(alpha=0.75)),
    ),
    "AdamW: larson": (
        ("AdamW", dict(form="larson")),
        ("Adam", dict(form="larson", weight_decay=0.01, decoupled_weight_decay=True)),
    ),
    "NAdam: simple is a schedule that has come to its end": (
        ("NAdam", dict(form="simple")),
        ("NAdam", dict(momentum_decay=1e6)),
    ),
    "NAdam: simple without momentum": (
        ("NAdam", dict(form="simple", betas=(0.0, 0.75))),
        ("Adam", dict(betas=(0.0, 0.75))),
    ),
}


def pair(table, *pairs):
    """Runs of float64, each with its class and keyword arguments."""
    runs = []
    for which, kwargs in pairs:
        params = table.parameters(torch.float64, SHAPES)
        runs.append((params, getattr(optim, which)(params, **dict(lr=0.02) | kwargs)))
    return runs


def assert_same(*runs):
    for p, q in zip(*(params for params, _ in runs), strict=True):
        # 20 steps of one unit, on parameters of size 1 to 4.
        torch.testing.assert_close(p, q, rtol=0, atol=20 * 4 * torch.finfo(torch.float64).eps)


@ON_DEVICE
@pytest.mark.parametrize("pairs", SAME.values(), ids=SAME)
def test_the_same_by_another_name(pairs, table):
    with table.default_dtype(torch.float64):
        runs = pair(table, *pairs)
        steps(table, range(20), *runs)
    assert_same(*runs)


@ON_DEVICE
@pytest.mark.parametrize("nesterov", [False, True])
def test_velocity_holds_the_learning_rate(nesterov, table):
    """cs231n: the steps of the past keep their learning rate. torch: they get the new one. Apart by the past alone."""
    runs = pair(table, *(("SGD", dict(form=form, momentum=0.5, nesterov=nesterov)) for form in ("cs231n", "torch")))
    steps(table, range(20), *runs)
    assert_same(*runs)
    past = [optimizer.state[p]["velocity"].clone() for params, optimizer in runs[:1] for p in params]
    for _, optimizer in runs:
        optimizer.param_groups[0]["lr"] = 0.01
    steps(table, range(20, 21), *runs)
    for p, q, v in zip(*(params for params, _ in runs), past, strict=True):
        # v = μ v - η g: torch's μ v is half of it. nesterov: (1 + μ) v - μ v_before, where torch has μ² v / 2 for μ² v.
        more = 0.25 * v * (0.5 if nesterov else 1)
        torch.testing.assert_close(p - q, more, rtol=0, atol=1e-13)
        assert not torch.allclose(p, q, atol=1e-4)


@ON_DEVICE
def test_incomplete_adam_becomes_adam(table):
    """The step is Adam's times (1 - β₁ᵗ) / √(1 - β₂ᵗ): 3.2 times as long at first, as long in the end."""
    for t in (1, 10, 100, 1000, 40000):
        with table.default_dtype(torch.float64):
            runs = pair(table, ("Adam", dict(form="incomplete", eps=0.0)), ("Adam", dict(eps=0.0)))
            steps(table, [0], *runs)
            starts = [p.detach().clone() for p in runs[0][0]]
            for params, optimizer in runs:
                for p, start in zip(params, starts, strict=True):
                    p.data.copy_(start)
                    optimizer.state[p]["step"].fill_(t - 1)
            steps(table, [1], *runs)
        factor = (1 - 0.9**t) / (1 - 0.999**t) ** 0.5
        for p, q, start in zip(*(params for params, _ in runs), starts, strict=True):
            # A difference of parameters of size 2, of 2e-2: 1e-14 of it are rounded.
            torch.testing.assert_close(p - start, factor * (q - start), rtol=1e-12, atol=1e-14)
            assert torch.equal(p, q) == (t == 40000)


@ON_DEVICE
def test_adadelta_of_larson_is_one_step_late(table):
    """Its first step leads nowhere; from then on it goes along the gradients before the last."""
    params = table.parameters(torch.float64, SHAPES)
    starts = [p.detach().clone() for p in params]
    optimizer = optim.Adadelta(params, lr=0.02, rho=0.0, eps=0.0, form="larson")
    steps(table, [0], (params, optimizer))
    assert all(map(torch.equal, params, starts))
    first = [p.grad for p in params]
    steps(table, [1], (params, optimizer))
    for p, start, g in zip(params, starts, first, strict=True):
        torch.testing.assert_close(p.detach(), start - 0.02 * g / p.grad.abs(), rtol=1e-15, atol=0)


@ON_DEVICE
@pytest.mark.parametrize("form", ["torch", "cs231n"])
def test_nesterov_sees_what_sgd_lives_at(form):
    """The parameters of SGD(nesterov=True) are the points ahead p + μ v of Nesterov, on a quadratic."""
    slope = torch.tensor([4.0, 1.0, 0.25], dtype=torch.float64)
    p, q = (nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)) for _ in range(2))
    literal = optim.Nesterov([p], lr=0.1, momentum=0.9)
    other = optim.SGD([q], lr=0.1, momentum=0.9, nesterov=True, form=form)
    for _ in range(50):
        seen = []

        def closure(seen=seen):
            seen.append(p.detach().clone())
            p.grad = slope * p.detach()

        literal.step(closure)
        # 50 steps, each of a few units of parameters of size 3; the quadratic draws errors together.
        torch.testing.assert_close(seen[0], q.detach(), rtol=0, atol=1e-13)
        q.grad = slope * q.detach()
        other.step()
        torch.testing.assert_close(p + 0.9 * literal.state[p]["velocity"], q.detach(), rtol=0, atol=1e-13)
    assert (p - q).abs().max() > 1e-4  # and yet they are not the same points


# ----------------------------------------------------------------------------------------------------------- mistakes

NOT_THERE = [
    ("SGD", "cs231n", dict(dampening=0.5)),
    ("SGD", "cs231n", dict(dampening=0.5, momentum=0.9)),
    ("SGD", "larson", dict(dampening=0.5)),
    ("SGD", "larson", dict(nesterov=True, momentum=0.9)),
    ("Adagrad", "torch", dict(gamma=0.5)),
    ("Adagrad", "larson", dict(lr_decay=0.5)),
    ("Adagrad", "memoryless", dict(lr_decay=0.5)),
    ("Adagrad", "memoryless", dict(gamma=0.5)),
    ("Adagrad", "memoryless", dict(initial_accumulator_value=0.5)),
    ("RMSprop", "larson", dict(momentum=0.5)),
    ("RMSprop", "larson", dict(centered=True)),
    ("Adam", "incomplete", dict(amsgrad=True)),
    ("Adam", "larson", dict(amsgrad=True)),
    ("AdamW", "incomplete", dict(amsgrad=True)),
    ("AdamW", "larson", dict(amsgrad=True)),
    ("NAdam", "simple", dict(momentum_decay=0.5)),
]


@pytest.mark.parametrize(("which", "form", "kwargs"), NOT_THERE, ids=str)
def test_what_a_form_does_not_have(which, form, kwargs):
    """Nothing that is set is ignored: neither for all parameters nor for a group of them."""
    (key, value), *_ = kwargs.items()
    says = rf"^{which}: form='{form}' has no {key}, got {key}={value}$"
    p, q = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    make = getattr(optim, which)
    with pytest.raises(ValueError, match=says):
        make([p], form=form, **kwargs)
    with pytest.raises(ValueError, match=says):
        make([{"params": [p], "form": form, **kwargs}])
    optimizer = make([p])
    with pytest.raises(ValueError, match=says):
        optimizer.add_param_group({"params": [q], "form": form, **kwargs})
    assert len(optimizer.param_groups) == 1
    assert q not in optimizer.state


@EACH_FORM
def test_unknown_forms(which, form):
    p, q = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    valid = ", ".join(repr(form) for name, form in FORMS if name == which)
    says = rf"^{which}: form must be one of {valid}, got 'lason'$"
    make = getattr(optim, which)
    with pytest.raises(ValueError, match=says):
        make([p], form="lason")
    optimizer = make([p], form=form)
    with pytest.raises(ValueError, match=says):
        optimizer.add_param_group({"params": [q], "form": "lason"})
    assert len(optimizer.param_groups) == 1


def test_gamma_is_checked():
    p = nn.Parameter(torch.ones(3))
    for gamma in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=rf"^Adagrad: gamma must be in \[0, 1\], got {gamma}$"):
            optim.Adagrad([p], form="larson", gamma=gamma)


# ------------------------------------------------------------------------------------------------- groups, checkpoints

COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda run: pickle.loads(pickle.dumps(run))}


def reloaded(run):
    params, optimizer = run
    others = [nn.Parameter(p.detach().clone()) for p in params]
    form = optimizer.param_groups[0].get("form", "torch")
    other = type(optimizer)(others, form=form)
    other.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
    return others, other


@ON_DEVICE
@pytest.mark.parametrize("copy_of", [*COPIES.values(), reloaded], ids=[*COPIES, "state_dict"])
@EACH_FORM
def test_copies_go_on_in_the_same_form(which, form, copy_of, table):
    params = table.parameters(shapes=SHAPES)
    optimizer = getattr(optim, which)(params, form=form, **first_row(which, form))
    for first in (0, 3):  # before the first step, too
        others, other = copy_of((params, optimizer))
        got, expected = (o.state_dict()["param_groups"] for o in (other, optimizer))
        assert got == expected
        assert [list(group) for group in got] == [list(group) for group in expected]
        steps(table, range(first, first + 3), (params, optimizer), (others, other))
        assert all(map(torch.equal, params, others))
        for p, q in zip(params, others, strict=True):
            assert list(optimizer.state[p]) == list(other.state[q])
            assert all(map(torch.equal, optimizer.state[p].values(), other.state[q].values()))


OTHER_FORMS = [
    (which, form, other) for which, form in FORMS for name, other in FORMS if name == which and other != form
]


@ON_DEVICE
@pytest.mark.parametrize(("which", "form", "other"), OTHER_FORMS, ids=str)
def test_a_state_of_another_form(which, form, other, table):
    """Buffers of one form mean nothing to another one: refused, and nothing is changed."""
    params, others = table.parameters(shapes=SHAPES), table.parameters(shapes=SHAPES)
    saved, optimizer = getattr(optim, which)(params, form=form), getattr(optim, which)(others, form=other)
    steps(table, [0], (params, saved), (others, optimizer))
    before = copy.deepcopy(optimizer.state_dict())
    says = rf"^{which}: the state_dict has form='{form}', the optimizer form='{other}'; make both alike$"
    with pytest.raises(ValueError, match=says):
        optimizer.load_state_dict(saved.state_dict())
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for number, state in before["state"].items():
        assert list(after["state"][number]) == list(state)
        assert all(map(torch.equal, after["state"][number].values(), state.values()))


@pytest.mark.parametrize("which", dict.fromkeys(name for name, _ in FORMS))
def test_a_form_for_each_group(which, asked, table):
    """Each group goes as an optimizer of its own would; a group that comes later, too."""
    forms = [form for name, form in FORMS if name == which]
    groups, alone = [], []
    for form in forms:
        params, kwargs = table.parameters(shapes=SHAPES), first_row(which, form)
        groups.append({"params": table.parameters(shapes=SHAPES), "form": form, **kwargs})
        alone.append((params, getattr(optim, which)(params, form=form, **kwargs, **asked)))
    together = getattr(optim, which)(copy.copy(groups[:-1]), **asked)
    together.add_param_group(groups[-1])
    for number in range(3):
        for group, (params, optimizer) in zip(groups, alone, strict=True):
            table.give_gradients(number, group["params"], params)
            table.step(optimizer)
        table.step(together)
    for group, (params, optimizer) in zip(groups, alone, strict=True):
        assert all(map(torch.equal, group["params"], params))
        for p, q in zip(group["params"], params, strict=True):
            assert list(together.state[p]) == list(optimizer.state[q])
    again = getattr(optim, which)([{"params": g["params"], "form": g["form"]} for g in groups], **asked)
    again.load_state_dict(together.state_dict())
    assert [group["form"] for group in again.param_groups] == forms


NESTEROV_KEYS = ["params", "lr", "momentum", "weight_decay", "maximize", "foreach", "differentiable", "fused"]


@EACH_FORM
def test_keys_of_a_group(which, form):
    """Those of torch's class; of what torch does not have, only what is set or what the form asks for."""
    p = nn.Parameter(torch.ones(3))
    default = optim.Nesterov([p]) if which == "Nesterov" else getattr(torch.optim, which)([p])
    keys = NESTEROV_KEYS if which == "Nesterov" else list(default.param_groups[0])
    optimizer = getattr(optim, which)([p], form=form)
    asked = {"form": form} | ({"gamma": 1.0} if (which, form) == ("Adagrad", "larson") else {})
    more = {} if form == "torch" else asked
    (group,) = optimizer.param_groups
    assert sorted(group) == sorted([*keys, *more])
    assert [key for key in group if key in keys] == keys
    assert {key: group[key] for key in more} == more
    full = getattr(optim, which)([p.bfloat16().detach()], form=form, decoupled_weight_decay=True, kahan=True)
    assert set(full.param_groups[0]) == {*group, "decoupled_weight_decay", "kahan"}


def test_a_subclass_that_hides_options():
    class Slow(optim.Adagrad):
        def __init__(self, params):
            super().__init__(params, lr=1e-3, form="larson", gamma=0.9)

    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    slow = Slow([p])
    slow.step()
    torch.testing.assert_close(p.detach(), torch.full((3,), 1 - 1e-3))
    again = Slow([p])
    again.load_state_dict(slow.state_dict())
    assert again.param_groups[0]["gamma"] == 0.9
