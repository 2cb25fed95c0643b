"""ActivationMonitor against NumPy, and models of all kinds."""

import math

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.nn import functional as F

import torch_lecture_ops.nn
from torch_lecture_ops.callbacks import ActivationMonitor, activation_monitor
from torch_lecture_ops.callbacks.activation_monitor import activation_statistics
from torch_lecture_ops.nn.flat import FLAT, flat_of

STATISTICS = ["mean", "std", "percentile_98", "saturated", "dead"]

# class, is an output a at a flat end, is it flat at all
SLOPES = [
    (nn.ReLU, lambda a: a != a, lambda a: a == 0),
    (nn.ReLU6, lambda a: a == 6, lambda a: (a == 0) | (a == 6)),
    (nn.Sigmoid, lambda a: (a <= 0.05) | (a >= 0.95), None),
    (nn.Tanh, lambda a: abs(a) >= 0.97, None),
    (nn.Softsign, lambda a: abs(a) >= 0.97, None),
    (nn.Hardtanh, lambda a: abs(a) == 1, None),
    (nn.ELU, lambda a: a <= -0.95, None),
    (nn.LeakyReLU, lambda a: a != a, None),
    (nn.SiLU, lambda a: a != a, None),
    (nn.Hardswish, lambda a: a != a, lambda a: a == 0),
]


@pytest.mark.parametrize("cls, is_saturated, is_flat", SLOPES, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("space", [nn, torch_lecture_ops.nn], ids=["torch", "ours"])
def test_statistics_are_numpys(cls, is_saturated, is_flat, space):
    if not hasattr(space, cls.__name__):
        pytest.skip("torch's alone")
    layer = getattr(space, cls.__name__)()
    z = 3 * torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    z[:, :4], z[:, 4:7] = -50.0, 50.0  # units that are flat on all examples
    a = layer(z)
    expected = a.double().numpy()
    flat = (is_flat or is_saturated)(expected)
    reference = [expected.mean(), expected.std(), np.percentile(expected, 98)]
    reference += [is_saturated(expected).mean(), flat.all(0).mean()]
    found = activation_statistics(a, flat_of(layer), -1)
    np.testing.assert_allclose(found.numpy(), reference, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", FLAT)
def test_every_activation_is_known(train, kit, name):
    space = nn if hasattr(nn, name) else torch_lecture_ops.nn
    arguments = (8, 8) if name == "Maxout" else ()
    layer = getattr(space, name)(*arguments)
    monitor = ActivationMonitor(max_saturated=1, max_dead=1)
    train(monitor, kit.Classifier(nn.Sequential(nn.Linear(6, 8), layer, nn.Linear(8, 3))))
    assert all(set(record) == {"network.1"} for _, record in monitor.history)


class OnDevice(torch.Tensor):
    is_cpu = False


@pytest.mark.parametrize("shape", [(1,), (2, 1), (51,), (7, 11), (3, 2, 4, 5)])
@pytest.mark.parametrize("cls", [torch.Tensor, OnDevice])
def test_percentile_is_numpys(shape, cls):
    values = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = activation_monitor.percentile(values.flatten().as_subclass(cls), 0.98)
    assert found.item() == pytest.approx(np.percentile(values.numpy(), 98), rel=1e-12)


def test_units_are_channels_after_a_convolution():
    a = torch.zeros(5, 2, 3, 3)
    a[0, 0, 1, 1] = 1.0  # one place of one example lets the channel live
    relu = flat_of(nn.ReLU())
    assert activation_statistics(a, relu, -3)[-1] == 0.5
    assert activation_statistics(a, relu, -1)[-1] == pytest.approx(2 / 3)


def test_the_rows_of_a_convolutional_network(train, kit):
    torch.manual_seed(0)
    convolution, relu = nn.Conv1d(1, 4, 3), nn.ReLU()
    with torch.no_grad():
        convolution.bias[:3] = -100.0
    network = nn.Sequential(
        nn.Unflatten(1, (1, 6)), convolution, relu, nn.Flatten(), relu, nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)
    )
    monitor = ActivationMonitor(max_dead=0.8)
    train(monitor, kit.Classifier(network))
    record = monitor.history[0][1]
    assert list(record) == ["network.2", "network.2(2)", "network.6"]  # one ReLU in two places
    assert record["network.2"]["dead"] == 0.75  # of 4 channels
    assert record["network.2(2)"]["dead"] >= 0.75  # of 16 places
    assert list(record["network.6"]) == STATISTICS


def conv1d(x):
    """One of two channels is zero."""
    return F.conv1d(x, torch.tensor([[[1.0]], [[0.0]]]))


LAST = torch.eye(6)[:1]  # of six features the first alone is not zero

# What computes before a ReLU, from (2, 1, 6) to (2, 2, 6), and the fraction of its units that are dead.
UNITS = {
    "convolution": (conv1d, 1 / 2),
    "transposed": (lambda x: F.conv_transpose1d(x, torch.tensor([[[1.0], [0.0]]])), 1 / 2),
    "features, then convolution": (lambda x: conv1d(F.linear(x, torch.eye(6))), 1 / 2),
    "linear": (lambda x: F.linear(conv1d(x) + 1, LAST.T @ LAST), 5 / 6),
    "matrix": (lambda x: (conv1d(x) + 1) @ LAST.T @ LAST, 5 / 6),
    "einsum": (lambda x: torch.einsum("ijk,kl->ijl", conv1d(x) + 1, LAST.T @ LAST), 5 / 6),
    "LSTM": (lambda x: nn.LSTM(6, 6)(conv1d(x))[0].abs() * LAST, 5 / 6),
    "attention": (lambda x: nn.MultiheadAttention(6, 1)(*[conv1d(x)] * 3)[0].abs() * LAST, 5 / 6),
}


@pytest.mark.parametrize("compute, dead", UNITS.values(), ids=UNITS)
def test_units_are_those_of_who_computed_last(compute, dead):
    """Channels after a convolution, wherever it is called; entries of the last dimension after all else."""
    with torch.no_grad(), activation_monitor.Activations(nn.Identity()) as activations:
        F.relu(compute(torch.arange(1.0, 13.0).reshape(2, 1, 6)))
    assert activations.rows["relu"][-1] == pytest.approx(dead)


def test_time_goes_on(train, kit):
    """The record of step 0 is that of the network before training, the last one that after its last step."""
    model, probe = kit.Classifier(), kit.x[:20]
    with torch.no_grad():
        before = model.network[:2](probe).mean().item()
    monitor = ActivationMonitor(probe)
    train(monitor, model)
    with torch.no_grad():
        after = model.network[:2](probe).mean().item()
    means = [record["network.1"]["mean"] for _, record in monitor.history]
    assert [step for step, _ in monitor.history] == [0, 1, 3, 5, 7]
    assert (means[0], means[-1]) == pytest.approx((before, after), rel=1e-5)
    assert before != after


# ---------------------------------------------------------------- warnings


class Spoilt(LightningModule):
    """Five of the eight units of layer 1 are pushed out of reach in the second batch."""

    def __init__(self, kit, activation=nn.ReLU, bias=-1e3):
        super().__init__()
        self.network, self.bias = kit.mlp(activation), bias

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, batch_idx):
        if batch_idx == 1:
            with torch.no_grad():
                self.network[0].bias[:5] = self.bias
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_dead_units_are_told_once(train, kit):
    with pytest.warns(UserWarning, match="layer 1") as caught:
        train(ActivationMonitor(), Spoilt(kit))
    messages = [str(warning.message) for warning in caught if "ActivationMonitor" in str(warning.message)]
    assert messages == [
        "layer 1: 62 % of units dead; the learning rate 0.1 is likely too high (ActivationMonitor: network.1, step 1)"
    ]


def test_saturated_outputs_are_told(train, kit):
    with pytest.warns(UserWarning, match="layer 1: 6. % of outputs saturated; the learning rate 0.1 is likely"):
        train(ActivationMonitor(max_dead=1.0), Spoilt(kit, nn.Sigmoid, 1e3))


def test_what_is_not_finite_is_told(train, kit):
    with pytest.warns(UserWarning, match="layer 1: outputs are not finite; the learning rate 0.1"):
        train(ActivationMonitor(max_dead=1.0), Spoilt(kit, bias=math.nan))


def test_before_training_it_is_the_initial_weights(train, kit):
    model = kit.Classifier()
    with torch.no_grad():
        model.network[0].bias.fill_(-100.0)
    with pytest.warns(UserWarning, match="layer 1: 100 % of units dead; the initial weights are likely too large"):
        train(ActivationMonitor(), model)


ENDS = {
    "module": nn.Sigmoid(),
    "function": torch.sigmoid,
    "a view of it": lambda z: z.unsqueeze(1).sigmoid().flatten(),
    "in a dictionary": lambda z: {"p": z.sigmoid(), "z": z},
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_an_output_may_saturate(train, kit, end):
    """(Warnings are errors here.)"""

    class Yes(kit.Classifier):
        def forward(self, x):
            return end(self.network(x))

        def training_step(self, batch, batch_idx):
            a = self(batch[0])
            return F.binary_cross_entropy(a["p"] if isinstance(a, dict) else a, (batch[1] > 0).float())

    torch.manual_seed(0)
    model = Yes(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1), nn.Flatten(0)))
    if isinstance(end, nn.Module):
        model.end = end
    with torch.no_grad():
        model.network[2].bias.fill_(9.0)
    monitor = ActivationMonitor(max_dead=1.0)
    train(monitor, model)
    assert list(monitor.history[0][1].values())[-1]["saturated"] == 1.0


def test_a_resumed_training_does_not_repeat_itself(train, kit, tmp_path):
    with pytest.warns(UserWarning, match="62 % of units dead"):
        trainer = train(ActivationMonitor(), Spoilt(kit))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    train(ActivationMonitor(), Spoilt(kit), ckpt_path=tmp_path / "last.ckpt", max_epochs=2)


# ---------------------------------------------------------------- models


class Functional(LightningModule):
    def __init__(self, call, act=None):
        super().__init__()
        self.linear, self.call, self.act = nn.Linear(6, 3), call, act or nn.Identity()

    def forward(self, x):
        return self.act(self.call(self.linear(x)))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


# How it is called, the name of the row, and the module that does the same.
CALLS = {
    "F.relu": (F.relu, "relu", nn.ReLU()),
    "F.relu in place": (lambda x: F.relu(x, inplace=True), "relu", nn.ReLU()),
    "F.relu_": (F.relu_, "relu", nn.ReLU()),
    "torch.relu": (torch.relu, "relu", nn.ReLU()),
    "torch.relu_": (torch.relu_, "relu", nn.ReLU()),
    "Tensor.relu": (lambda x: x.relu(), "relu", nn.ReLU()),
    "Tensor.relu_": (lambda x: x.relu_(), "relu", nn.ReLU()),
    "ours relu": (torch_lecture_ops.nn.functional.relu, "relu", nn.ReLU()),
    "ours silu": (torch_lecture_ops.nn.functional.silu, "silu", nn.SiLU()),
    "ours elu": (lambda x: torch_lecture_ops.nn.functional.elu(x, 0.5), "elu", nn.ELU(0.5)),
    "ours maxout": (lambda x: torch_lecture_ops.nn.functional.maxout(x.repeat(1, 2), 2), "maxout", None),
    "F.leaky_relu": (F.leaky_relu, "leaky_relu", nn.LeakyReLU()),
    "torch.tanh": (torch.tanh, "tanh", nn.Tanh()),
    "F.tanh": (F.tanh, "tanh", nn.Tanh()),
    "torch.sigmoid": (torch.sigmoid, "sigmoid", nn.Sigmoid()),
    "Tensor.sigmoid_": (lambda x: x.sigmoid_(), "sigmoid", nn.Sigmoid()),
    "x * sigmoid": (lambda x: x * x.sigmoid(), "sigmoid", nn.Sigmoid()),
    "F.elu, alpha": (lambda x: F.elu(x, 0.5), "elu", nn.ELU(0.5)),
    "F.elu, alpha by name": (lambda x: F.elu(alpha=0.5, input=x), "elu", nn.ELU(0.5)),
    "F.elu": (F.elu, "elu", nn.ELU()),
    "torch.celu": (lambda x: torch.celu(x, 0.5), "celu", nn.CELU(0.5)),
    "F.hardtanh": (lambda x: F.hardtanh(x, -0.5, max_val=0.25), "hardtanh", nn.Hardtanh(-0.5, 0.25)),
    "F.hardtanh_": (lambda x: F.hardtanh_(x, -0.5, 0.25), "hardtanh", nn.Hardtanh(-0.5, 0.25)),
    "F.relu6": (F.relu6, "relu6", nn.ReLU6()),
    "F.hardsigmoid": (F.hardsigmoid, "hardsigmoid", nn.Hardsigmoid()),
    "F.logsigmoid": (F.logsigmoid, "log_sigmoid", nn.LogSigmoid()),
}


@pytest.mark.parametrize("call, name, same", CALLS.values(), ids=CALLS)
def test_activations_called_as_functions_have_rows(train, kit, call, name, same):
    """The numbers of a function are those of the module that does the same."""
    monitor, model = ActivationMonitor(kit.x, max_saturated=1.0, max_dead=1.0), Functional(call, nn.Tanh())
    with torch.no_grad():
        model.linear.weight.mul_(5.0)
        z = model.linear(kit.x)
    train(monitor, model)
    assert [list(record) for _, record in monitor.history] == [[name, "act"]] * 5
    if same is not None:
        expected = activation_statistics(same(z), flat_of(same), -1).tolist()
        assert list(monitor.history[0][1][name].values()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", FLAT)
def test_every_function_is_known(train, name):
    spelled = {"LeakyReLU": "leaky_relu", "LogSigmoid": "logsigmoid"}.get(name, name.lower())
    function = getattr(F, spelled, None) or getattr(torch_lecture_ops.nn.functional, spelled)
    arguments = {"prelu": (torch.ones(1),), "maxout": (1,)}.get(spelled, ())
    monitor = ActivationMonitor(max_saturated=1.0, max_dead=1.0)
    train(monitor, Functional(lambda x: function(x, *arguments)), max_steps=2)
    assert [[row.replace("_", "") for row in record] for _, record in monitor.history] == [[name.lower()]] * 2


class Block(nn.Module):
    """Functions and a module of the same name."""

    def __init__(self):
        super().__init__()
        self.linear, self.relu = nn.Linear(6, 6), nn.ReLU()

    def forward(self, x):
        return torch.tanh(F.relu(self.relu(F.relu(self.linear(x)))))


def test_rows_have_the_names_of_who_calls(train, kit):
    class Net(kit.Classifier):
        def forward(self, x):
            return self.network(F.relu(x))[:, :3].relu()

    shared = Block()
    network = nn.Sequential(shared, nn.ModuleDict({"inner": Block()}).inner, shared)
    monitor = ActivationMonitor(max_saturated=1.0, max_dead=1.0)
    train(monitor, Net(network), max_steps=2)
    blocks = [
        *("network.0.relu", "network.0.relu(2)", "network.0.relu(3)", "network.0.tanh"),
        *("network.1.relu", "network.1.relu(2)", "network.1.relu(3)", "network.1.tanh"),
        *("network.0.relu(4)", "network.0.relu(5)", "network.0.relu(6)", "network.0.tanh(2)"),
    ]
    assert [list(record) for _, record in monitor.history] == [["relu", *blocks, "relu(2)"]] * 2


def test_a_caller_that_fails_is_left(train, kit):
    class Fails(nn.Module):
        def forward(self, x):
            raise NotImplementedError

    class Tries(kit.Classifier):
        def forward(self, x):
            try:
                return self.fails(x)
            except NotImplementedError:
                return F.relu(self.network(x))

    model = Tries(nn.Linear(6, 3))
    model.fails = nn.Sequential(Fails())
    monitor = ActivationMonitor(max_dead=1.0)
    train(monitor, model)
    assert list(monitor.history[0][1]) == ["relu"]


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_scripted_part_is_not_seen(train, kit):
    network = nn.Sequential(torch.jit.script(nn.Sequential(nn.Linear(6, 8), nn.ReLU())), nn.Linear(8, 3), nn.Tanh())
    monitor = ActivationMonitor(max_saturated=1.0)
    train(monitor, kit.Classifier(network))
    assert list(monitor.history[0][1]) == ["network.2"]


@pytest.mark.parametrize("call", [lambda x: x.long().relu(), lambda x: torch.relu(x[:0])], ids=["integers", "empty"])
def test_what_has_no_statistics_has_no_row(train, call):
    monitor = ActivationMonitor(max_saturated=1.0, max_dead=1.0)
    train(monitor, Functional(lambda x: call(x).sum() + x, nn.Tanh()))
    assert list(monitor.history[0][1]) == ["act"]


def test_modules_are_not_taken_for_functions(train, kit):
    for activation in (nn.GELU, nn.SELU, torch_lecture_ops.nn.ReLU, torch_lecture_ops.nn.SiLU):
        train(ActivationMonitor(), kit.Classifier(kit.mlp(activation)))


def test_a_model_without_activations(train):
    with pytest.raises(MisconfigurationException, match=r"must run an activation module, .* F.relu, but ran none"):
        train(ActivationMonitor(), Functional(lambda x: 2 * x))


def test_an_activation_of_ones_own_class(train, kit):
    class Shifted(nn.ReLU):
        def forward(self, x):
            return super().forward(x - 1)

    monitor = ActivationMonitor(max_dead=1.0)
    train(monitor, kit.Classifier(kit.mlp(Shifted)))
    assert set(monitor.history[0][1]) == {"network.1", "network.3"}


def test_activations_in_place(train, kit):
    monitor = ActivationMonitor()
    train(monitor, kit.Classifier(kit.mlp(lambda: nn.ReLU(inplace=True))))
    assert monitor.history[-1][1]["network.1"]["mean"] > 0


def test_an_encoder_whose_fast_path_has_no_modules(train, kit):
    layer = nn.TransformerEncoderLayer(6, 2, 12, activation=nn.ReLU(), batch_first=True)
    network = nn.Sequential(nn.Unflatten(1, (1, 6)), nn.TransformerEncoder(layer, 2), nn.Flatten(), nn.Linear(6, 3))
    monitor = ActivationMonitor()
    train(monitor, kit.Classifier(network))
    assert list(monitor.history[0][1]) == ["network.1.layers.0.activation", "network.1.layers.1.activation"]
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_compiled_network(train, kit):
    monitor = ActivationMonitor()
    train(monitor, kit.Classifier(torch.compile(kit.mlp(), backend="eager")))
    assert [len(record) for _, record in monitor.history] == [2] * 5


# ---------------------------------------------------------------- probes


class Inputs(LightningModule):
    """forward(x, scale=...)"""

    def __init__(self, kit):
        super().__init__()
        self.network = kit.mlp()

    def forward(self, x, scale):
        return self.network(x) * scale

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0], 1.0), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_probe_of_several_arguments(train, kit):
    histories = []
    for probe in ((kit.x, 2.0), [kit.x, 2.0], dict(x=kit.x, scale=2.0)):
        monitor = ActivationMonitor(probe)
        train(monitor, Inputs(kit))
        histories.append(monitor.history)
    assert histories[0] == histories[1] == histories[2]


def test_without_a_probe_the_first_inputs_are_taken(train, kit, monkeypatch):
    monkeypatch.setattr(activation_monitor, "EXAMPLES", 5)
    by_itself, told = ActivationMonitor(), ActivationMonitor(kit.x[:5])
    train([by_itself], kit.Classifier())
    train([told], kit.Classifier())
    assert by_itself.history == told.history


@pytest.mark.parametrize("probe, shown", [(torch.zeros(4, 7), r"\(4, 7\)"), ({"y": torch.zeros(4, 6)}, "{'y': tensor")])
def test_a_probe_of_the_wrong_shape(train, kit, probe, shown):
    with pytest.raises(MisconfigurationException, match=f"Classifier.forward must take the probe batch, got .*{shown}"):
        train(ActivationMonitor(probe), kit.Classifier())


def test_a_model_without_forward(train, kit):
    class Bare(kit.Classifier):
        forward = LightningModule.forward

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.network(batch[0]), batch[1])

    with pytest.raises(MisconfigurationException, match="NotImplementedError"):
        train(ActivationMonitor(kit.x), Bare())


@pytest.mark.parametrize("name", ["max_saturated", "max_dead"])
def test_limits_out_of_range(name):
    with pytest.raises(ValueError, match=rf"ActivationMonitor: {name} must be in \[0, 1\], got 1.5"):
        ActivationMonitor(**{name: 1.5})


def test_a_model_in_shards(train, monkeypatch):
    monkeypatch.setattr(activation_monitor, "FSDPStrategy", SingleDeviceStrategy)
    with pytest.raises(MisconfigurationException, match=r"rank zero must hold the whole model .* SingleDeviceStrategy"):
        train(ActivationMonitor())
