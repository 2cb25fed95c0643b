"""Initialization against the notes' table, torch.nn.init, closed forms and Monte Carlo."""

import doctest
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

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


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ----------------------------------------------------------------------------------------------------------------- gain


@pytest.mark.parametrize("activation", GAINS)
def test_gain_is_the_notes_table(activation):
    assert init.gain(activation) == GAINS[activation]


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


def test_gain_of_a_module_with_parameters_needs_no_graph():
    prelu = nn.PReLU(init=0.25).double()
    assert init.gain(prelu) == pytest.approx(math.sqrt(2 / (1 + 0.25**2)), rel=1e-12)
    assert prelu.weight.grad is None


def test_gain_ignores_the_default_device():
    with torch.device("meta"):
        assert init.gain(torch.relu) == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize(
    ("activation", "message"),
    [
        ("gelu", r"^gain: activation must be one of 'linear', 'tanh', .* or an elementwise function, got 'gelu'$"),
        (None, r"^gain: activation must be one of .*, got None$"),
        (torch.sum, r"^gain: activation must keep the shape \(49152,\), got \(\)$"),
        (torch.zeros_like, r"^gain: E\[f\(z\)²\] must be positive and finite, got 0.0$"),
        (torch.log, r"^gain: E\[f\(z\)²\] must be positive and finite, got nan$"),
        (lambda z: torch.exp(z**4), r"^gain: E\[f\(z\)²\] must be positive and finite, got inf$"),
    ],
)
def test_gain_errors(activation, message):
    with pytest.raises(ValueError, match=message):
        init.gain(activation)


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
]


@EACH_SHAPE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("fill", "kwargs", "twin"), TWINS)
def test_numbers_are_torchs_to_the_last_bit(fill, kwargs, twin, dtype, shape):
    torch.manual_seed(0)
    ours = fill(torch.empty(shape, dtype=dtype), **kwargs)
    torch.manual_seed(0)
    assert torch.equal(ours, twin(torch.empty(shape, dtype=dtype), None))

    ours = fill(torch.empty(shape, dtype=dtype), generator=seeded(3), **kwargs)
    assert torch.equal(ours, twin(torch.empty(shape, dtype=dtype), seeded(3)))


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
    (nn.Identity, "linear", init.glorot_uniform_),
    (nn.Dropout, "linear", init.glorot_uniform_),
]


def linears(model):
    return [m for m in model.modules() if isinstance(m, nn.Linear)]


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
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 4), nn.PReLU(), nn.Embedding(3, 2)
    )
    before = {k: v.clone() for k, v in model.state_dict().items()}
    init.initialize(model)
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"3.weight", "3.bias"}
    assert all(p.requires_grad and p.is_leaf for p in model.parameters())


def test_initialize_follows_the_global_seed():
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    torch.manual_seed(0)
    first = [p.clone() for p in init.initialize(model).parameters()]
    torch.manual_seed(0)
    again = init.initialize(model).parameters()
    assert all(torch.equal(p, q) for p, q in zip(first, again, strict=True))


@pytest.mark.parametrize(
    ("model", "kwargs", "message"),
    [
        (nn.Conv2d(1, 1, 1), {}, r"^initialize: the model must contain an nn.Linear, got Conv2d without one$"),
        (nn.Sequential(), {}, r"^initialize: the model must contain an nn.Linear, got Sequential without one$"),
        (nn.Linear(2, 2), {"scheme": "he"}, r"^initialize: scheme must be 'auto', 'glorot_uniform', .*, got 'he'$"),
        (nn.Linear(2, 2), {"activation": "gelu"}, r"^gain: activation must be one of .*, got 'gelu'$"),
    ],
)
def test_initialize_errors_leave_the_model_alone(model, kwargs, message):
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=message):
        init.initialize(model, **kwargs)
    assert all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))


NO_PARAMETER = r"^initialize: the weight of every Linear must be a Parameter with a shape, got {} in '2'; run a lazy "


def test_a_lazy_linear_needs_its_shape_first():
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.LazyLinear(3))
    before = model[0].weight.clone()
    with pytest.raises(ValueError, match=NO_PARAMETER.format("UninitializedParameter")):
        init.initialize(model)
    assert torch.equal(model[0].weight, before)
    model(torch.zeros(1, 6))
    check(model, [(init.he_normal_, "relu"), (init.glorot_uniform_, "linear")])


@pytest.mark.parametrize(
    "wrap", [parametrizations.weight_norm, lambda m: prune.random_unstructured(m, "weight", 0.5)]
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
