"""Initialization against the notes' table, torch.nn.init, closed forms and Monte Carlo."""

import copy
import doctest
import logging
import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from torch_lecture_ops import nn as our_nn
from torch_lecture_ops.nn import init

# (ours, uniform, default gain, default mode)
FILLERS = [
    (init.glorot_uniform_, True, 1.0, "average"),
    (init.glorot_normal_, False, 1.0, "average"),
    (init.he_uniform_, True, math.sqrt(2), "forward"),
    (init.he_normal_, False, math.sqrt(2), "forward"),
]
EACH_FILLER = pytest.mark.parametrize("fill", [row[0] for row in FILLERS], ids=lambda f: f.__name__)

# Slide 'Glorot and He Initialization'.
GAINS = {"linear": 1.0, "tanh": 1.0, "sigmoid": 4.0, "relu": math.sqrt(2), "silu": math.sqrt(2)}

# name, param, gain; of maxout the known moments of the largest of k numbers
FAMILIES = [
    ("leaky_relu", None, math.sqrt(2 / (1 + 0.01**2))),
    ("leaky_relu", 0.2, math.sqrt(2 / (1 + 0.2**2))),
    ("leaky_relu", 0, math.sqrt(2)),
    ("prelu", None, math.sqrt(2 / (1 + 0.25**2))),
    ("prelu", -1.0, 1.0),
    ("elu", None, init.gain(F.elu)),
    ("elu", 0.5, init.gain(lambda z: F.elu(z, 0.5))),
    ("elu", 0.0, math.sqrt(2)),
    ("maxout", None, 1.0),
    ("maxout", 1, 1.0),
    ("maxout", 3, 1 / math.sqrt(1 + math.sqrt(3) / (2 * math.pi))),
    ("maxout", 4, 1 / math.sqrt(1 + math.sqrt(3) / math.pi)),
]

VARIANCES = {
    "average": lambda n_in, n_out: 2 / (n_in + n_out),
    "forward": lambda n_in, n_out: 1 / n_in,
    "backward": lambda n_in, n_out: 1 / n_out,
}

# weight shape, (n_in, n_out)
FANS = [
    ((30, 784), (784, 30)),
    ((1, 1), (1, 1)),
    ((7, 1), (1, 7)),
    ((8, 3, 5), (15, 40)),
    ((16, 3, 5, 5), (75, 400)),
    ((4, 2, 3, 3, 3), (54, 108)),
]
EACH_SHAPE = pytest.mark.parametrize("shape", [shape for shape, _ in FANS], ids=str)


def seeded(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


# ----------------------------------------------------------------------------------------------------------------- gain


@pytest.mark.parametrize("activation", GAINS)
def test_gain_is_the_notes_table(activation):
    assert init.gain(activation) == GAINS[activation]


def test_the_other_names():
    assert init.gain("softmax") == 1.0
    assert init.gain("leaky_relu") == nn.init.calculate_gain("leaky_relu")


@pytest.mark.parametrize(("name", "param", "expected"), FAMILIES)
def test_gain_of_a_family(name, param, expected):
    assert init.gain(name, param) == pytest.approx(expected, rel=1e-12, abs=0)


@given(st.floats(-10, 10), st.sampled_from(["leaky_relu", "prelu"]))
def test_gain_of_any_slope_is_torchs_and_the_expectation(a, name):
    assert init.gain(name, a) == nn.init.calculate_gain("leaky_relu", a)
    assert init.gain(name, a) == pytest.approx(init.gain(lambda z: F.leaky_relu(z, a)), rel=1e-12)


def pdf(x):  # of N(0, 1)
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def cdf(x):
    return (1 + math.erf(x / math.sqrt(2))) / 2


ELU_POWER = 0.5 + math.exp(2) * cdf(-2) - 2 * math.exp(0.5) * cdf(-1) + 0.5
HARDTANH_POWER = 1 - 2 * pdf(1)  # E[z²; |z| < 1] + P(|z| > 1)


@pytest.mark.parametrize(
    ("f", "expected"),
    [
        (lambda z: z, 1.0),
        (torch.relu, math.sqrt(2)),
        (torch.abs, 1.0),
        (torch.sign, 1.0),
        (torch.exp, math.exp(-1)),
        (torch.sin, 1 / math.sqrt((1 - math.exp(-2)) / 2)),
        (lambda z: 3 * z + 4, 1 / 5),
        (lambda z: z**3, 1 / math.sqrt(15)),
        (nn.functional.elu, 1 / math.sqrt(ELU_POWER)),
        (nn.functional.hardtanh, 1 / math.sqrt(HARDTANH_POWER)),
        (nn.LeakyReLU(0.2), nn.init.calculate_gain("leaky_relu", 0.2)),
        (nn.functional.selu, 1.0),  # self-normalizing by construction
        (torch.tanh, 1.5925374197228312),  # 30-digit quadrature
        (torch.sigmoid, 1.8462285453386054),
        (nn.functional.silu, 1.6765324703310913),
    ],
)
def test_gain_of_a_function_is_its_gaussian_expectation(f, expected):
    assert init.gain(f) == pytest.approx(expected, rel=1e-12, abs=0)


def test_gain_of_a_kink_or_jump_between_the_nodes_keeps_the_stated_accuracy():
    c = 0.3
    kink = (1 + c * c) * cdf(-c) - c * pdf(c)  # E[(z − c)₊²]
    assert init.gain(lambda z: (z - c).relu()) == pytest.approx(kink**-0.5, rel=1e-7)
    assert init.gain(lambda z: (z > c).double()) == pytest.approx(cdf(-c) ** -0.5, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cls", [nn.PReLU, our_nn.PReLU])
def test_gain_of_a_module_with_parameters_leaves_it_alone(cls, dtype):
    prelu, calls = cls(init=0.25, dtype=dtype), []
    prelu.register_forward_hook(lambda *args: calls.append(args))
    assert init.gain(prelu) == pytest.approx(math.sqrt(2 / (1 + 0.25**2)), rel=1e-12)
    assert prelu.weight.dtype == dtype
    assert prelu.weight.grad is None
    assert calls == []


def test_gain_ignores_the_default_device():
    with torch.device("meta"):
        assert init.gain(torch.relu) == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize(
    ("activation", "message"),
    [
        ("gelu", r"^gain: activation must be one of 'linear', 'tanh', .* or an elementwise function, got 'gelu'$"),
        (None, r"^gain: activation must be one of .*, got None$"),
        (["relu"], r"^gain: activation must be one of .*, got \['relu'\]$"),
        (torch.sum, r"^gain: activation must keep the shape \(49152,\), got \(\)$"),
        (torch.zeros_like, r"^gain: E\[f\(z\)²\] must be positive and finite, got 0.0$"),
        (torch.log, r"^gain: E\[f\(z\)²\] must be positive and finite, got nan$"),
        (lambda z: torch.exp(z**4), r"^gain: E\[f\(z\)²\] must be positive and finite, got inf$"),
    ],
)
def test_gain_errors(activation, message):
    with pytest.raises(ValueError, match=message):
        init.gain(activation)


@pytest.mark.parametrize(
    ("activation", "param", "message"),
    [
        ("leaky_relu", "steep", r"^gain: negative_slope steep not a valid number$"),
        ("leaky_relu", True, r"^gain: negative_slope True not a valid number$"),
        ("prelu", math.nan, r"^gain: weight nan not a valid number$"),
        ("elu", math.inf, r"^gain: alpha inf not a valid number$"),
        ("maxout", 2.5, r"^gain: pieces must be an integer of at least 1, got 2.5$"),
        ("maxout", 0, r"^gain: pieces must be an integer of at least 1, got 0$"),
        ("relu", 0.1, r"^gain: param must be None for all but 'leaky_relu', .*, got 0.1 for 'relu'$"),
        (torch.relu, 0.1, r"^gain: param must be None for all but 'leaky_relu', .*, got 0.1 for <built-in"),
    ],
)
def test_param_errors(activation, param, message):
    with pytest.raises(ValueError, match=message):
        init.gain(activation, param)


# ----------------------------------------------------------------------------------------------------- the four fillers

# ours, the arguments, torch's
TWINS = [
    (init.glorot_uniform_, {}, lambda w, g: nn.init.xavier_uniform_(w, generator=g)),
    (init.glorot_normal_, {}, lambda w, g: nn.init.xavier_normal_(w, generator=g)),
    (init.he_uniform_, {}, lambda w, g: nn.init.kaiming_uniform_(w, nonlinearity="relu", generator=g)),
    (init.he_normal_, {}, lambda w, g: nn.init.kaiming_normal_(w, nonlinearity="relu", generator=g)),
    *[
        (fill, {"activation": a}, lambda w, g, x=xavier, a=a: x(w, gain=GAINS[a], generator=g))
        for fill, xavier in [
            (init.glorot_uniform_, nn.init.xavier_uniform_),
            (init.glorot_normal_, nn.init.xavier_normal_),
        ]
        for a in GAINS
    ],
    *[
        (
            fill,
            {"activation": a, "mode": mode},
            lambda w, g, k=kaiming, a=a, m=fan: k(w, mode=m, nonlinearity=a, generator=g),
        )
        for fill, kaiming in [(init.he_uniform_, nn.init.kaiming_uniform_), (init.he_normal_, nn.init.kaiming_normal_)]
        for a in ("relu", "linear")  # the gains that torch shares
        for mode, fan in [("forward", "fan_in"), ("backward", "fan_out")]
    ],
    *[
        (fill, {"activation": "leaky_relu", "param": a}, lambda w, g, k=kaiming, a=a: k(w, a, generator=g))
        for fill, kaiming in [(init.he_uniform_, nn.init.kaiming_uniform_), (init.he_normal_, nn.init.kaiming_normal_)]
        for a in (0, 0.01, 0.2, math.sqrt(5))  # the last one is what nn.Linear begins with
    ],
]


@pytest.mark.not_interpreted
@EACH_SHAPE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("fill", "kwargs", "twin"), TWINS)
def test_numbers_are_torchs_to_the_last_bit(fill, kwargs, twin, dtype, shape, device):
    weight = partial(torch.empty, shape, dtype=dtype, device=device)
    torch.manual_seed(0)
    ours = fill(weight(), **kwargs)
    torch.manual_seed(0)
    assert torch.equal(ours, twin(weight(), None))

    ours = fill(weight(), generator=seeded(3, device), **kwargs)
    assert torch.equal(ours, twin(weight(), seeded(3, device)))


@pytest.mark.parametrize(("fill", "uniform", "gain", "mode"), FILLERS)
def test_defaults(fill, uniform, gain, mode):
    activation = "tanh" if gain == 1.0 else "relu"
    ours = fill(torch.empty(20, 30), generator=seeded())
    assert torch.equal(ours, fill(torch.empty(20, 30), activation, mode, seeded()))


@pytest.mark.parametrize("mode", VARIANCES)
@pytest.mark.parametrize("activation", GAINS)
@pytest.mark.parametrize(("fill", "uniform"), [row[:2] for row in FILLERS])
def test_standard_deviation_and_bounds(fill, uniform, activation, mode):
    n_in, n_out = 500, 200
    w = fill(torch.empty(n_out, n_in, dtype=torch.float64), activation, mode, seeded())
    std = GAINS[activation] * math.sqrt(VARIANCES[mode](n_in, n_out))
    assert w.mean().item() == pytest.approx(0.0, abs=0.02 * std)  # 100 000 samples: 6 standard errors
    assert w.std().item() == pytest.approx(std, rel=0.015)
    if uniform:
        bound = math.sqrt(3) * std
        assert 0.999 * bound < w.abs().max().item() <= bound
    else:
        assert w.abs().max().item() > 3.5 * std


def test_the_uniform_bounds_printed_on_the_slide():
    n_in, n_out = 100, 50
    for activation, gain in [("tanh", 1), ("sigmoid", 4), ("relu", math.sqrt(2)), ("silu", math.sqrt(2))]:
        w = init.glorot_uniform_(torch.empty(n_out, n_in), activation, generator=seeded())
        assert w.abs().max().item() == pytest.approx(gain * math.sqrt(6 / (n_in + n_out)), rel=1e-3)


def test_the_second_argument_of_the_slides_normal_is_a_standard_deviation():
    # Printed: N(0, 4·√(1/n)). As a variance it would give √(0.4) = 0.63 here.
    w = init.glorot_normal_(torch.empty(300, 100), "sigmoid", "forward", seeded())
    assert w.std().item() == pytest.approx(0.4, rel=0.02)


def test_relu_takes_both_fans_on_the_slide_and_one_in_the_paper():
    n_in, n_out = 400, 100
    slide = init.glorot_normal_(torch.empty(n_out, n_in), "relu", generator=seeded())
    paper = init.he_normal_(torch.empty(n_out, n_in), generator=seeded())
    assert (slide / paper).mean().item() == pytest.approx(math.sqrt(2 * n_in / (n_in + n_out)), rel=1e-5)


@pytest.mark.parametrize(("shape", "fans"), FANS, ids=str)
@pytest.mark.parametrize("mode", VARIANCES)
def test_fans(shape, fans, mode):
    assert fans == nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))
    # The same random numbers at two scales: their ratio is the standard deviation.
    std = math.sqrt(VARIANCES[mode](*fans))
    unit = torch.empty(shape, dtype=torch.float64).normal_(generator=seeded())
    ours = init.glorot_normal_(torch.empty(shape, dtype=torch.float64), "linear", mode, seeded())
    torch.testing.assert_close(ours, std * unit, rtol=1e-12, atol=0)


# layer, whether it is transposed, groups, (n_in, n_out) counted by hand
CONVOLUTIONS = [
    (nn.Conv1d(6, 4, 5, bias=False), False, 1, (30, 20)),
    (nn.Conv2d(6, 4, (3, 5), groups=2, bias=False), False, 2, (45, 30)),
    (nn.Conv2d(6, 6, 3, groups=6, bias=False), False, 6, (9, 9)),
    (nn.ConvTranspose1d(6, 4, 5, bias=False), True, 1, (30, 20)),
    (nn.ConvTranspose2d(6, 4, (3, 5), groups=2, bias=False), True, 2, (45, 30)),
    (nn.ConvTranspose3d(6, 4, 2, bias=False), True, 1, (48, 32)),
]
EACH_CONVOLUTION = pytest.mark.parametrize(("layer", "transposed", "groups", "fans"), CONVOLUTIONS, ids=str)


@EACH_CONVOLUTION
@pytest.mark.parametrize("mode", VARIANCES)
def test_fans_of_convolutions(layer, transposed, groups, fans, mode):
    w = layer.weight.detach().clone()
    ours = init.glorot_normal_(w, "linear", mode, seeded(), transposed=transposed, groups=groups)
    unit = torch.empty_like(w).normal_(generator=seeded())
    torch.testing.assert_close(ours, math.sqrt(VARIANCES[mode](*fans)) * unit)


@EACH_CONVOLUTION
def test_fans_count_the_connections(layer, transposed, groups, fans):
    """With weights 1, an input of ones gives n_in at every output, and likewise back: away from the borders."""
    layer = copy.deepcopy(layer)
    nn.init.ones_(layer.weight)
    x = torch.ones(1, layer.in_channels, *[15] * (layer.weight.dim() - 2), requires_grad=True)
    y = layer(x)
    y.sum().backward()
    middle = (0, 0, *[7] * (layer.weight.dim() - 2))
    assert (y[middle].item(), x.grad[middle].item()) == fans


@EACH_FILLER
@pytest.mark.parametrize("groups", [0, -1, 4])
def test_groups_must_divide(fill, groups):
    message = rf"^{fill.__name__}: groups must divide the first of the dimensions \(6, 2, 3\), got {groups}$"
    with pytest.raises(ValueError, match=message):
        fill(torch.empty(6, 2, 3), groups=groups)


def test_he_keeps_the_power_of_a_deep_relu_net_and_glorot_loses_it():
    torch.manual_seed(0)
    n, depth = 256, 20
    power = {}
    for fill, activation in [(init.he_normal_, "relu"), (init.glorot_normal_, "tanh")]:
        a = torch.randn(512, n)
        for _ in range(depth):
            a = torch.relu(a @ fill(torch.empty(n, n), activation).T)
        power[fill.__name__] = a.square().mean().item()
    assert 0.2 < power["he_normal_"] < 5.0
    assert power["glorot_normal_"] < 5 * 2.0**-depth


@EACH_FILLER
def test_a_function_is_an_activation(fill):
    w, unit = (fill(torch.empty(5, 4), a, generator=seeded()) for a in (torch.tanh, "linear"))
    torch.testing.assert_close(w, 1.5925374197228312 * unit)


@EACH_FILLER
def test_fills_the_leaf_in_place_without_autograd(fill):
    w = nn.Parameter(torch.zeros(4, 3))
    version = w._version
    assert fill(w) is w
    assert w.requires_grad
    assert w.is_leaf
    assert w.grad_fn is None
    assert w._version > version
    assert w.count_nonzero() == w.numel()


@EACH_FILLER
def test_generator_reproduces_and_leaves_the_global_one_alone(fill):
    state = torch.get_rng_state()
    first, again, other = (fill(torch.empty(6, 5), generator=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


@EACH_FILLER
def test_strided_and_half_weights(fill):
    base = torch.full((6, 8), 9.0)
    w = base.T[::2]  # (4, 6), not contiguous
    assert fill(w, generator=seeded()) is w
    assert torch.all(base[:, 1::2] == 9.0)
    assert not torch.any(base[:, ::2] == 9.0)
    assert fill(torch.empty(6, 5, dtype=torch.float16)).isfinite().all()
    assert fill(torch.empty(6, 5, device="meta")).is_meta


@EACH_FILLER
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (4, 3, 0)])
def test_empty_weight_is_a_no_op_with_torchs_warning(fill, shape):
    w = torch.empty(shape)
    with pytest.warns(UserWarning, match=r"^Initializing zero-element tensors is a no-op$") as record:
        assert fill(w) is w
    assert record[0].filename == __file__


TOO_FLAT = "Fan in and fan out can not be computed for tensor with fewer than 2 dimensions"  # torch's words


@EACH_FILLER
@pytest.mark.parametrize(
    ("shape", "kwargs", "message"),
    [
        ((2, 3), {"mode": "fan_in"}, r"{}: mode must be 'average', 'forward' or 'backward', got 'fan_in'$"),
        ((3,), {}, r"{}: " + TOO_FLAT + r", got shape \(3,\)$"),
        ((), {}, r"{}: " + TOO_FLAT + r", got shape \(\)$"),
        ((2, 3), {"activation": "softplus"}, r"gain: activation must be one of .*, got 'softplus'$"),
    ],
)
def test_filler_errors_leave_the_weight_alone(fill, shape, kwargs, message):
    w = torch.full(shape, 7.0)
    with pytest.raises(ValueError, match="^" + message.format(fill.__name__)):
        fill(w, **kwargs)
    assert torch.all(w == 7.0)


# --------------------------------------------------------------------------- the derivations of the notes, Monte Carlo


def through(f, fill, activation, mode="average", depth=10, width=500, size=1.0, examples=256):
    """(variance of the activations of each layer, sensitivities at the input), where those of the output are unit."""
    g = seeded()
    x = (size * torch.randn(examples, width, generator=g)).requires_grad_()
    a = x
    variances = [a.var().item()]
    for _ in range(depth):
        a = f(a @ fill(torch.empty(width, width), activation, mode, g).T)
        variances.append(a.var().item())
    a.backward(torch.randn(a.shape, generator=g))
    return np.array(variances), x.grad


@EACH_FILLER
@pytest.mark.parametrize("mode", VARIANCES)
def test_the_variance_is_kept_within_10_percent_over_10_tanh_layers(fill, mode):
    # Signals of size 0.05: the derivation takes tanh z ≈ z.
    variances, dx = through(torch.tanh, fill, "tanh", mode, size=0.05)
    np.testing.assert_allclose(variances / variances[0], 1.0, atol=0.1)
    assert dx.var().item() == pytest.approx(1.0, abs=0.1)


def test_tanh_is_not_linear_for_unit_signals_and_the_solved_gain_takes_that_in():
    lost, _ = through(torch.tanh, init.glorot_normal_, "tanh")
    kept, _ = through(torch.tanh, init.glorot_normal_, torch.tanh)
    assert lost[-1] < 0.07
    np.testing.assert_allclose(kept[5:], 1 / init.gain(torch.tanh) ** 2, rtol=0.05)  # E[tanh² z] = 0.394


def test_sigmoid_with_gain_1_starves_the_first_layers_and_the_notes_4_feeds_them():
    _, starved = through(torch.sigmoid, init.glorot_normal_, "linear")
    _, fed = through(torch.sigmoid, init.glorot_normal_, "sigmoid")
    assert 1e-7 < starved.abs().mean().item() < 1e-6  # 4e-7: about 0.25¹⁰
    assert 4e-3 < fed.abs().mean().item() < 1.5e-2  # 7e-3


@pytest.mark.parametrize("family", [row for row in FAMILIES if row[0] in ("leaky_relu", "prelu", "elu")], ids=str)
def test_he_with_the_gain_of_a_family_keeps_the_power(family):
    name, param, _ = family
    f = F.elu if name == "elu" else F.leaky_relu
    g = seeded()
    powers = []
    for _ in range(20):  # nets: the power of one is off by a fifth
        z = torch.randn(64, 200, generator=g)
        for _ in range(3):
            a = f(z, init.FAMILIES[name].default if param is None else param)
            z = a @ init.he_normal_(torch.empty(200, 200), name, generator=g, param=param).T
        powers.append(z.square().mean().item())
    assert np.mean(powers) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_he_keeps_the_power_through_maxout(pieces):
    g = seeded()
    model = nn.Sequential(*[our_nn.Maxout(300, 300, pieces) for _ in range(5)])
    power = init.gain("maxout", pieces) ** -2  # of the largest of `pieces` unit signals
    x = torch.randn(256, 300, generator=g) * power**0.5
    y = init.initialize(model, generator=g)(x)
    assert y.square().mean().item() == pytest.approx(power, rel=0.15)


@pytest.mark.parametrize(("a", "expected"), [(1.5, "explodes"), (0.5, "vanishes"), (1.0, "stays")])
def test_the_slides_matrices_explode_and_vanish(a, expected):
    w, x, length = a * torch.eye(2), torch.tensor([1.0, -2.0]), 50
    for _ in range(length):
        x = w @ x
    torch.testing.assert_close(x, a**length * torch.tensor([1.0, -2.0]))
    size = x.norm().item()
    assert {"explodes": size > 1e8, "vanishes": size < 1e-14, "stays": size == pytest.approx(5**0.5)}[expected]


def normal(seed, size, mean=0.0, std=1.0):
    return np.random.default_rng(seed).normal(mean, std, size)


@pytest.mark.parametrize(("mean_w", "mean_a"), [(0.0, 0.0), (0.0, 1.5), (2.0, 0.0), (2.0, 1.5)])
def test_variance_of_an_independent_product(mean_w, mean_a):
    w, a = normal(0, 10**6, mean_w, 0.5), normal(1, 10**6, mean_a, 0.8)
    expected = mean_w**2 * a.var() + mean_a**2 * w.var() + w.var() * a.var()
    assert (w * a).var() == pytest.approx(expected, rel=0.01)


def test_variance_of_a_neurons_sum_and_the_slides_standard_deviation_of_4():
    n = 100
    w = init.glorot_normal_(torch.empty(2000, n, dtype=torch.float64), "sigmoid", "forward", seeded()).numpy()
    a = normal(1, (n, 500))
    z = w @ a
    assert z.var() == pytest.approx(n * w.var() * a.var(), rel=0.02)
    assert z.std() == pytest.approx(4.0, rel=0.02)


def test_backward_the_sigmoids_slope_of_a_quarter_takes_the_4_back():
    n_out = 400
    w = init.glorot_normal_(torch.empty(n_out, 300, dtype=torch.float64), "sigmoid", "backward", seeded()).numpy()
    v = 0.25 * normal(1, (1000, n_out)) @ w
    assert v.std() == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize(("width", "kept"), [(1000, True), (2000, False), (500, False)])
def test_equal_weight_variances_do_not_keep_the_variance_of_activations(width, kept):
    # "Is this a good idea?" No: 1/1000 is right for 1000 inputs only.
    w = normal(0, (200, width), std=1000**-0.5)
    ratio = (w @ normal(1, (width, 500))).var()
    assert ratio == pytest.approx(width / 1000, rel=0.05)
    assert (ratio == pytest.approx(1.0, rel=0.05)) == kept


def test_relu_is_not_symmetric_and_he_corrects_that():
    z = normal(0, 10**6)
    a = np.maximum(z, 0)
    assert a.mean() == pytest.approx(1 / math.sqrt(2 * math.pi), rel=0.01)  # not 0: Var[wa] takes E[a²], not Var[a]
    assert np.mean(a**2) == pytest.approx(0.5, rel=0.01)
    assert a.var() == pytest.approx(0.5 - 1 / (2 * math.pi), rel=0.01)
    assert init.gain("relu") ** 2 * np.mean(a**2) == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize("mode", ["forward", "backward"])
@EACH_CONVOLUTION
def test_convolutions_keep_the_variance(layer, transposed, groups, fans, mode):
    """Forward or backward, in the middle of the picture."""
    g = seeded()
    layer, spatial = copy.deepcopy(layer), layer.weight.dim() - 2
    kinds = dict(generator=g, transposed=transposed, groups=groups)
    kept = []
    for _ in range(60):
        init.glorot_normal_(layer.weight, "linear", mode, **kinds)
        x = torch.randn(4, layer.in_channels, *[14] * spatial, generator=g, requires_grad=True)
        y = layer(x)
        (dx,) = torch.autograd.grad(y, x, torch.randn(y.shape, generator=g))
        kept.append((y if mode == "forward" else dx)[(..., *[slice(5, 9)] * spatial)].square().mean().item())
    assert np.mean(kept) == pytest.approx(1.0, rel=0.1)


# ----------------------------------------------------------------------------------------------------------- initialize


class ReLU(nn.Module):  # stands for a ReLU that is not torch's
    def forward(self, x):
        return x.clamp(min=0)


# activation module, its name, what scheme="auto" makes of it
FOLLOWERS = [
    (nn.ReLU, "relu", init.he_normal_),
    (ReLU, "relu", init.he_normal_),
    (nn.SiLU, "silu", init.he_normal_),
    (nn.Tanh, "tanh", init.glorot_uniform_),
    (nn.Sigmoid, "sigmoid", init.glorot_uniform_),
    (nn.Softmax, "softmax", init.glorot_uniform_),
    (nn.LogSoftmax, "softmax", init.glorot_uniform_),
    (nn.LeakyReLU, "leaky_relu", init.he_normal_),
    (nn.PReLU, "prelu", init.he_normal_),
    (nn.ELU, "elu", init.he_normal_),
    (nn.GELU, F.gelu, init.he_normal_),
    (nn.SELU, F.selu, init.he_normal_),
    (nn.ReLU6, F.relu6, init.he_normal_),
    (nn.Hardtanh, F.hardtanh, init.glorot_uniform_),
    (nn.Softsign, F.softsign, init.glorot_uniform_),
    (nn.Identity, "linear", init.glorot_uniform_),
    (nn.Dropout, "linear", init.glorot_uniform_),
    (our_nn.Affine, "linear", init.glorot_uniform_),
    (our_nn.Sigmoid, "sigmoid", init.glorot_uniform_),
    (our_nn.Tanh, "tanh", init.glorot_uniform_),
    (our_nn.ReLU, "relu", init.he_normal_),
    (our_nn.LeakyReLU, "leaky_relu", init.he_normal_),
    (our_nn.PReLU, "prelu", init.he_normal_),
    (our_nn.ELU, "elu", init.he_normal_),
    (our_nn.SiLU, "silu", init.he_normal_),
    (our_nn.Softmax, "softmax", init.glorot_uniform_),
    (our_nn.LogSoftmax, "softmax", init.glorot_uniform_),
]

# a module with a number, name, the number
NUMBERED = [
    (nn.LeakyReLU(0.2), "leaky_relu", 0.2),
    (our_nn.LeakyReLU(0.3, inplace=True), "leaky_relu", 0.3),
    (nn.PReLU(init=0.5), "prelu", 0.5),
    (our_nn.PReLU(5, init=0.5), "prelu", 0.5),
    (nn.ELU(0.5), "elu", 0.5),
    (our_nn.ELU(2.0), "elu", 2.0),
]


def linears(model):
    return [m for m in model.modules() if isinstance(m, init.LAYERS)]


def check(model, expected, **kwargs):
    """Initialize `model` and compare each Linear with (filler, activation) drawn from the same generator."""
    assert init.initialize(model, generator=seeded(), **kwargs) is model
    g = seeded()
    assert len(linears(model)) == len(expected)
    for linear, (fill, activation) in zip(linears(model), expected, strict=True):
        assert torch.equal(linear.weight, fill(torch.empty_like(linear.weight), activation, generator=g))
        assert linear.bias is None or linear.bias.count_nonzero() == 0


@pytest.mark.parametrize(("module", "name", "fill"), FOLLOWERS)
def test_auto_sees_the_activation_behind_each_linear(module, name, fill):
    model = nn.Sequential(
        nn.Linear(6, 5), module(), nn.Linear(5, 4, bias=False), nn.Dropout(0.1), module(), nn.Linear(4, 3)
    )
    check(model, [(fill, name), (fill, name), (init.glorot_uniform_, "linear")])


def test_followers_have_all_activations_of_ours_and_of_the_gains():
    ours = {module for module, _, _ in FOLLOWERS if module.__module__ == our_nn.ReLU.__module__}
    assert {cls.__name__ for cls in ours} | {"Maxout"} == set(our_nn.modules.__all__)
    assert {name for _, name, _ in FOLLOWERS if isinstance(name, str)} | {"maxout"} == {*init.GAINS, *init.FAMILIES}


@pytest.mark.parametrize(("module", "name", "param"), NUMBERED, ids=str)
def test_auto_takes_the_modules_slope_or_alpha(module, name, param):
    model = init.initialize(nn.Sequential(nn.Linear(6, 5), module), generator=seeded())
    expected = init.he_normal_(torch.empty(5, 6), name, generator=seeded(), param=param)
    torch.testing.assert_close(model[0].weight, expected)


def test_auto_takes_the_mean_square_of_the_slopes_of_channels():
    module = nn.PReLU(2)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([1.0, 0.0]))
    (layer,) = reported(nn.Sequential(nn.Linear(6, 2), module))
    assert layer.gain == pytest.approx(math.sqrt(2 / (1 + 0.5)))


def test_auto_knows_subclasses():
    class Own(nn.LeakyReLU):
        pass

    (layer,) = reported(nn.Sequential(nn.Linear(6, 2), Own(0.5)))
    assert layer.activation == "leaky_relu(0.5)"


def test_the_gain_of_a_module_is_solved_unseen_by_its_hooks():
    gelu, calls = nn.GELU(), []
    gelu.register_forward_hook(lambda *args: calls.append(args))
    (layer,) = reported(nn.Sequential(nn.Linear(6, 2), gelu))
    assert (layer.activation, calls) == ("GELU", [])
    assert layer.gain == init.gain(F.gelu)


def test_maxout_is_before_its_own_linear():
    model = nn.Sequential(nn.Linear(6, 5), our_nn.Maxout(5, 4, 3), nn.ReLU(), nn.Linear(4, 2), nn.Tanh())
    layers = reported(model)
    assert [layer.name for layer in layers] == ["0", "1.linear", "3"]
    assert [layer.activation for layer in layers] == ["linear", "maxout(3)", "tanh"]
    assert [layer.scheme for layer in layers] == ["glorot_uniform", "he_normal", "glorot_uniform"]
    assert layers[1].gain == init.gain("maxout", 3)


@pytest.mark.parametrize("scheme", ["auto", "glorot_uniform", "glorot_normal", "he_uniform", "he_normal"])
@EACH_CONVOLUTION
def test_convolutions_are_initialized(layer, transposed, groups, fans, scheme):
    model = nn.Sequential(copy.deepcopy(layer), nn.BatchNorm1d(4), nn.LeakyReLU(0.2))
    (row,) = reported(model, scheme=scheme)
    fill = getattr(init, ("he_normal" if scheme == "auto" else scheme) + "_")
    options = dict(generator=seeded(), param=0.2, transposed=transposed, groups=groups)
    expected = fill(torch.empty_like(layer.weight), "leaky_relu", **options)
    assert torch.equal(model[0].weight, expected)
    # Uniform numbers keep the bound √3 σ.
    assert (model[0].weight.abs() <= (math.sqrt(3) * 1.0001 if "uniform" in scheme else 6) * row.std).all()


def test_a_convolutional_net():
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 8, 5), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        nn.ConvTranspose2d(8, 4, 3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(16, 10),
        nn.Softmax(1),
    )
    assert [(layer.name, layer.activation, layer.scheme) for layer in reported(net)] == [
        ("0.0", "relu", "he_normal"),
        ("1", "tanh", "glorot_uniform"),
        ("4", "softmax", "glorot_uniform"),
    ]


@pytest.mark.parametrize("scheme", ["glorot_uniform", "glorot_normal", "he_uniform", "he_normal"])
def test_scheme_is_taken_by_name(scheme):
    model = nn.Sequential(nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 4))
    fill = getattr(init, scheme + "_")
    check(model, [(fill, "sigmoid"), (fill, "linear")], scheme=scheme)


@pytest.mark.parametrize(
    ("activation", "fill"),
    [
        ("relu", init.he_normal_),
        ("silu", init.he_normal_),
        ("tanh", init.glorot_uniform_),
        ("sigmoid", init.glorot_uniform_),
        ("linear", init.glorot_uniform_),
        (torch.sin, init.glorot_uniform_),
        ("elu", init.he_normal_),
        ("maxout", init.he_normal_),
        ("softmax", init.glorot_uniform_),
        (F.gelu, init.he_normal_),
        (nn.LeakyReLU(0.3), init.he_normal_),
    ],
)
def test_activation_named_by_the_user_holds_for_every_linear(activation, fill):
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
    check(model, [(fill, activation), (fill, activation)], activation=activation)


def test_only_the_first_activation_behind_a_linear_counts():
    check(nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.ReLU()), [(init.glorot_uniform_, "tanh")])
    check(nn.Sequential(nn.Sigmoid(), nn.Linear(3, 3)), [(init.glorot_uniform_, "linear")])


def test_one_activation_object_may_serve_many_layers():
    act = nn.ReLU()
    model = nn.Sequential(nn.Linear(4, 4), act, nn.Sequential(nn.Linear(4, 4), act), nn.Linear(4, 2))
    check(model, [(init.he_normal_, "relu"), (init.he_normal_, "relu"), (init.glorot_uniform_, "linear")])


def test_a_linear_used_twice_is_drawn_once():
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.Tanh(), shared, nn.ReLU(), nn.Linear(4, 2))
    check(model, [(init.glorot_uniform_, "tanh"), (init.glorot_uniform_, "linear")])


def test_a_bare_linear_is_a_model():
    check(nn.Linear(4, 3), [(init.glorot_uniform_, "linear")])


def test_other_parameters_are_untouched():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2),
        nn.Flatten(),
        nn.Linear(8, 4),
        nn.PReLU(),
        nn.Embedding(3, 2),
        our_nn.Affine(2.0, 1.0, learnable=True),
        nn.LSTM(2, 2),
        nn.Bilinear(2, 2, 2),
        nn.ParameterList([torch.randn(3, 2)]),
    )
    before = {k: v.clone() for k, v in model.state_dict().items()}
    init.initialize(model)
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"0.weight", "0.bias", "3.weight", "3.bias"}
    assert all(p.requires_grad and p.is_leaf for p in model.parameters())


def test_tied_weights_are_drawn_once_for_the_first_that_has_them():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh())
    model[2].weight = model[0].weight
    (layer,) = reported(model)
    assert (layer.name, layer.activation) == ("0", "relu")
    assert torch.equal(model[2].weight, init.he_normal_(torch.empty(4, 4), generator=seeded()))
    assert model[2].bias.count_nonzero() == 0


def test_a_model_on_the_meta_device_is_gone_through():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 3), nn.PReLU(), nn.Conv1d(3, 2, 1))
    report = init.Report()
    assert init.initialize(model, report=report.extend)[0].weight.is_meta
    assert report[0].gain == init.gain("prelu")


def reported(model, **kwargs):
    """What `initialize` reports, a list of layers."""
    report = init.Report()
    init.initialize(model, generator=kwargs.pop("generator", seeded()), report=report.extend, **kwargs)
    return report


def a_model():
    fc = nn.Sequential()
    fc.add_module("fc", nn.Linear(8, 4))
    return nn.ModuleList([nn.Conv2d(3, 8, 5), nn.ReLU(), fc, nn.Tanh(), our_nn.Maxout(4, 2, 3)])


def test_the_report_is_a_table():
    assert str(reported(a_model())) == (
        "layer     weight   activation  gain    scheme          std\n"
        "0         8×3×5×5  relu        1.414   he_normal       0.1633\n"
        "2.fc      4×8      tanh        1       glorot_uniform  0.4082\n"
        "4.linear  6×4      maxout(3)   0.8854  he_normal       0.4427"
    )


def test_the_report_tells_what_the_weights_are():
    model = a_model()
    for layer in reported(model):
        w = model.get_parameter(f"{layer.name}.weight")
        assert layer.shape == w.shape
        assert w.std().item() == pytest.approx(layer.std, rel=0.4)


def test_a_bare_layer_in_the_report():
    assert str(reported(nn.Linear(4, 3))).splitlines()[1].startswith("(model)  3×4")


def test_the_report_goes_to_the_log_unless_asked_for(capsys, caplog):
    with caplog.at_level(logging.INFO, "torch_lecture_ops"):
        init.initialize(a_model())
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("torch_lecture_ops", "INFO")
    assert record.getMessage().startswith("layer ")
    assert capsys.readouterr().out == ""
    init.initialize(a_model(), report=print)
    assert capsys.readouterr().out.startswith("layer ")
    assert len(caplog.records) == 1


def test_initialize_follows_the_global_seed():
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    torch.manual_seed(0)
    first = [p.clone() for p in init.initialize(model).parameters()]
    torch.manual_seed(0)
    again = init.initialize(model).parameters()
    assert all(torch.equal(p, q) for p, q in zip(first, again, strict=True))


NO_LAYER = r"^initialize: the model must contain an nn.Linear or nn.Conv, got {} without one$"


@pytest.mark.parametrize(
    ("model", "kwargs", "message"),
    [
        (nn.Bilinear(1, 1, 1), {}, NO_LAYER.format("Bilinear")),
        (nn.Sequential(), {}, NO_LAYER.format("Sequential")),
        (nn.Linear(2, 2), {"scheme": "he"}, r"^initialize: scheme must be 'auto', 'glorot_uniform', .*, got 'he'$"),
        (nn.Linear(2, 2), {"activation": "gelu"}, r"^gain: activation must be one of .*, got 'gelu'$"),
    ],
)
def test_initialize_errors_leave_the_model_alone(model, kwargs, message):
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=message):
        init.initialize(model, **kwargs)
    assert all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))


NO_PARAMETER = r"^initialize: weight and bias of every Linear and Conv must be Parameters with a shape, got {} in '2'; "


def test_a_lazy_linear_needs_its_shape_first():
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.LazyLinear(3))
    before = model[0].weight.clone()
    with pytest.raises(ValueError, match=NO_PARAMETER.format("UninitializedParameter")):
        init.initialize(model)
    assert torch.equal(model[0].weight, before)
    model(torch.zeros(1, 6))
    check(model, [(init.he_normal_, "relu"), (init.glorot_uniform_, "linear")])


@pytest.mark.parametrize(
    "wrap",
    [
        parametrizations.weight_norm,
        lambda m: prune.random_unstructured(m, "weight", 0.5),
        lambda m: prune.random_unstructured(m, "bias", 0.5),
    ],
)
def test_a_weight_that_is_computed_cannot_be_filled(wrap):
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), wrap(nn.Linear(5, 3)))
    with pytest.raises(ValueError, match=NO_PARAMETER.format("Tensor")):
        init.initialize(model)


def test_examples_of_the_docstrings():
    torch.manual_seed(0)
    results = doctest.testmod(init)
    assert results.attempted > 0
    assert results.failed == 0
