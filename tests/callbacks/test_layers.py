"""What a layer is, for all monitors: who computes, not who owns a parameter."""

import math
import re

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from torch_lecture_ops import callbacks
from torch_lecture_ops.callbacks.layers import layers
from torch_lecture_ops.callbacks.monitor import tensors_in


def between(first, last, act=nn.Tanh):
    return nn.Sequential(first, act(), last)


class Softplus(nn.Module):
    """Keeps a weight positive; what it computes is no activation."""

    def forward(self, w):
        return F.softplus(w)


def positive(layer, part):
    parametrize.register_parametrization(layer, "weight", part)
    return layer


class Token(nn.Module):
    """A parameter of the network's own."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 6))
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x + self.token)))


class ByHand(nn.Module):
    """Computes with parameters alone."""

    def __init__(self):
        super().__init__()
        self.w, self.v = nn.Parameter(torch.randn(6, 8)), nn.Parameter(torch.randn(8, 3))

    def forward(self, x):
        return torch.tanh(x @ self.w) @ self.v


class Recurrent(nn.Module):
    def __init__(self, cls, choose):
        super().__init__()
        self.rnn, self.head, self.choose = cls(2, 4, batch_first=True), nn.Linear(4, 3), choose

    def forward(self, x):
        return self.head(F.relu(self.choose(*self.rnn(x.view(-1, 3, 2)))))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(2, 1, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        x = x.view(-1, 3, 2)
        return self.head(F.gelu(self.attention(x, x, x)[0].flatten(1)))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.head(F.silu(self.b(F.silu(self.a(x)))))


class Dictionary(nn.Linear):
    def forward(self, x):
        return {"z": super().forward(x), "nothing": None, "labels": torch.zeros(3, dtype=torch.long)}


class Halves(nn.Linear):
    """Two outputs of one node of the graph, of which the second is not used."""

    def forward(self, x):
        return super().forward(x).chunk(2, 1)


class Half(nn.Module):
    def __init__(self):
        super().__init__()
        self.halves = Halves(6, 6)

    def forward(self, x):
        return self.halves(x)[0].relu()


class Opened(nn.Module):
    """One layer that puts out a dictionary, one that is never called, one whose weight is used without it."""

    def __init__(self):
        super().__init__()
        self.layer, self.spare, self.lent = Dictionary(6, 3), nn.Linear(4, 5), nn.Linear(3, 3, bias=False)

    def forward(self, x):
        return F.linear(self.layer(x)["z"].sigmoid(), self.lent.weight)


class Residual(nn.Module):
    """A layer that holds another layer, and adds to it."""

    def __init__(self):
        super().__init__()
        self.base, self.low = nn.Linear(6, 6), nn.Parameter(torch.randn(6, 6))

    def forward(self, x):
        return self.base(x) + x @ self.low


def convolutional():
    return nn.Sequential(
        *(nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.LayerNorm((1, 2)), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(4, 3)),
    )


def twice():
    shared = nn.Linear(6, 6)
    return nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(6, 3))


def lstm(choose):
    return lambda: Recurrent(nn.LSTM, choose)


OF_LSTM, OF_GRU = (["rnn.weight_ih_l0", "rnn.weight_hh_l0"],) * 2
PARTS = ["parametrizations.weight.original0", "parametrizations.weight.original1"]

# Network; layer -> its weights, as torch names them; layers in the order of running; activations.
KINDS = {
    "weight_norm": (
        lambda: between(parametrizations.weight_norm(nn.Linear(6, 8)), parametrizations.weight_norm(nn.Linear(8, 3))),
        {"0": [f"0.{part}" for part in PARTS], "2": [f"2.{part}" for part in PARTS]},
        ["0", "2"],
        ["1"],
    ),
    "spectral_norm": (
        lambda: between(parametrizations.spectral_norm(nn.Linear(6, 8)), nn.Linear(8, 3)),
        {"0": ["0.parametrizations.weight.original"], "2": ["2.weight"]},
        ["0", "2"],
        ["1"],
    ),
    "orthogonal": (
        lambda: between(nn.Linear(6, 8), parametrizations.orthogonal(nn.Linear(8, 3))),
        {"0": ["0.weight"], "2": ["2.parametrizations.weight.original"]},
        ["0", "2"],
        ["1"],
    ),
    "convolution": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 6)), parametrizations.weight_norm(nn.Conv1d(1, 2, 4)), nn.ReLU(), nn.Flatten(1)
        ).append(nn.Linear(6, 3)),
        {"1": [f"1.{part}" for part in PARTS], "4": ["4.weight"]},
        ["1", "4"],
        ["2"],
    ),
    "old weight_norm and spectral_norm": (
        lambda: between(nn.utils.weight_norm(nn.Linear(6, 8)), nn.utils.spectral_norm(nn.Linear(8, 3))),
        {"0": ["0.weight_g", "0.weight_v"], "2": ["2.weight_orig"]},
        ["0", "2"],
        ["1"],
    ),
    "activation as a parametrization": (
        lambda: between(positive(nn.Linear(6, 8), nn.Softplus()), positive(nn.Linear(8, 3), Softplus())),
        {"0": ["0.parametrizations.weight.original"], "2": ["2.parametrizations.weight.original"]},
        ["0", "2"],
        ["1"],
    ),
    "parametrization with layers": (
        lambda: between(positive(nn.Linear(6, 8), nn.Linear(6, 6)), nn.Linear(8, 3)),
        {"0": ["0.parametrizations.weight.original", "0.parametrizations.weight.0.weight"], "2": ["2.weight"]},
        ["0", "2"],
        ["1"],
    ),
    "own parameter": (
        Token,
        {"": ["token"], "body": ["body.weight"], "head": ["head.weight"]},
        ["body", "head"],
        ["tanh"],
    ),
    "parameters alone": (ByHand, {"": ["w", "v"]}, [""], ["tanh"]),
    "layer around a layer": (
        lambda: between(Residual(), nn.Linear(6, 3)),
        {"0": ["0.low"], "0.base": ["0.base.weight"], "2": ["2.weight"]},
        ["0.base", "0", "2"],
        ["1"],
    ),
    "LSTM": (
        lstm(lambda out, _: out[:, -1]),
        {"rnn": OF_LSTM, "head": ["head.weight"]},
        ["rnn", "head"],
        ["relu"],
    ),
    "LSTM, its states": (
        lstm(lambda _, state: state[0][0] + state[1][0]),
        {"rnn": OF_LSTM, "head": ["head.weight"]},
        ["rnn", "head"],
        ["relu"],
    ),
    "GRU": (
        lambda: Recurrent(nn.GRU, lambda out, state: out[:, 0] + state[0]),
        {"rnn": OF_GRU, "head": ["head.weight"]},
        ["rnn", "head"],
        ["relu"],
    ),
    "attention": (
        Attention,
        {"attention": ["attention.in_proj_weight", "attention.out_proj.weight"], "head": ["head.weight"]},
        ["attention", "head"],
        ["gelu"],
    ),
    "tied": (Tied, {"a": ["a.weight"], "head": ["head.weight"]}, ["a", "b", "head"], ["silu", "silu(2)"]),
    "normalizations": (convolutional, {"1": ["1.weight"], "6": ["6.weight"]}, ["1", "6"], ["4"]),
    "twice": (twice, {"0": ["0.weight"], "4": ["4.weight"]}, ["0", "0(2)", "4"], ["1", "3"]),
    "not a tensor, not called": (
        Opened,
        {"layer": ["layer.weight"], "lent": ["lent.weight"]},
        ["layer"],
        ["sigmoid"],
    ),
    "an output that nobody uses": (Half, {"halves": ["halves.weight"]}, ["halves"], ["relu"]),
    "compiled": (
        lambda: between(torch.compile(nn.Linear(6, 8), backend="eager"), nn.Linear(8, 3)),
        {"0": ["0._orig_mod.weight"], "2": ["2.weight"]},
        None,
        ["1"],
    ),
    "scripted": (
        lambda: between(torch.jit.script(nn.Linear(6, 8)), nn.Linear(8, 3)),
        {"0": ["0.weight"], "2": ["2.weight"]},
        None,
        ["1"],
    ),
}


def gradients(kit, make, rows):
    """What autograd says of the first batch: of all parameters, and of what the modules of these rows put out."""
    torch.manual_seed(0)
    network, zs, runs = make(), {}, {}

    def keep(name):
        def hook(module, _, output):
            runs[name] = runs.get(name, 0) + 1
            zs[name if runs[name] == 1 else f"{name}({runs[name]})"] = [t for t in tensors_in(output) if t.grad_fn]

        return hook

    for name in {row.partition("(")[0] for row in rows}:
        network.get_submodule(name).register_forward_hook(keep(name))
    loss = F.cross_entropy(network(kit.x[:8]), kit.labels[:8])
    outputs = {
        row: torch.autograd.grad(loss, z, retain_graph=True, allow_unused=True) for row, z in zs.items() if row in rows
    }
    loss.backward()
    return {name: p.grad for name, p in network.named_parameters()}, outputs


def norm(grads):
    return math.sqrt(sum(float(g.double().square().sum()) for g in grads if g is not None))


@pytest.mark.filterwarnings("ignore:parameter network", "ignore:.*torch.nn.utils.weight_norm.*deprecated")
@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("make, weights, outputs, activations", KINDS.values(), ids=KINDS)
def test_rows(train, kit, make, weights, outputs, activations):
    band = dict(band=(0.0, math.inf))
    of_weights = callbacks.GradientMonitor(**band)
    of_outputs = [] if outputs is None else [callbacks.GradientMonitor("outputs", **band)]
    of_parameters = [callbacks.UpdateRatioMonitor((-math.inf, math.inf)), callbacks.EffectiveLearningRateMonitor(0.0)]
    of_activations = callbacks.ActivationMonitor(max_saturated=1.0, max_dead=1.0)
    reference, reference_of_outputs = gradients(kit, make, outputs or [])
    torch.manual_seed(0)
    model = kit.Classifier(make())
    train([of_weights, *of_outputs, *of_parameters, of_activations], model, log_every_n_steps=1, max_steps=2)

    rows = {f"network.{row}" if row else "network": norm(map(reference.get, ws)) for row, ws in weights.items()}
    inner = [value for row, value in rows.items() if row != "network" and row + ".base" not in rows]
    check(of_weights.history[0][1], rows, inner)
    for monitor in of_outputs:
        rows = {f"network.{row}".rstrip("."): norm(reference_of_outputs[row]) for row in outputs}
        inner = [value for row, value in rows.items() if row + ".base" not in rows]
        check(monitor.history[0][1], rows, inner)
    # What has no gradient, or but rounding, such as a bias before a normalization, need not have a row.
    trained = [name for name, grad in reference.items() if grad is not None and grad.abs().max() > 1e-6]
    names = ["network." + re.sub(r"parametrizations\.|_orig_mod\.", "", name) for name in trained]
    for monitor in of_parameters:
        assert set(names) <= set(monitor.history[-1][1])
        assert not [name for name in monitor.history[-1][1] if "parametrizations" in name or "_orig_mod" in name]
    assert [list(record) for _, record in of_activations.history] == [[f"network.{act}" for act in activations]] * 3


def check(record, rows, inner):
    """Names and norms of the rows, and the ratio of the first to the last of the layers without layers in them."""
    assert [name for name in record if name != "first_to_last"] == list(rows)
    for name, size in rows.items():
        assert record[name]["norm"] == pytest.approx(size, rel=1e-4)
    ratio = record.get("first_to_last", {}).get("ratio")
    assert ratio == (pytest.approx(inner[0] / inner[-1], rel=1e-4) if len(inner) > 1 else None)


@pytest.mark.filterwarnings("ignore:parameter network")
def test_layers_whose_shapes_come_with_the_first_batch(train, kit):
    monitors = [callbacks.ActivationMonitor(), callbacks.GradientMonitor(), callbacks.GradientMonitor("outputs")]
    monitors += [callbacks.UpdateRatioMonitor(), callbacks.EffectiveLearningRateMonitor()]
    for one in monitors:
        model = kit.Classifier(between(nn.LazyLinear(8), nn.LazyLinear(3)))
        train(one, model, log_every_n_steps=1, max_steps=2)
    rows = [[name for name in one.history[-1][1] if name != "first_to_last"] for one in monitors]
    parameters = [f"network.{name}" for name in ("0.weight", "0.bias", "2.weight", "2.bias")]
    assert rows == [["network.1"], *[["network.0", "network.2"]] * 2, parameters, parameters]


class Alone(LightningModule):
    """Computes with parameters of its own."""

    def __init__(self):
        super().__init__()
        self.w, self.v = nn.Parameter(torch.randn(6, 8)), nn.Parameter(torch.randn(8, 3))

    forward = ByHand.forward

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_the_lightning_module_is_a_layer_by_the_name_of_its_class(train):
    monitors = [callbacks.ActivationMonitor(), callbacks.GradientMonitor(), callbacks.GradientMonitor("outputs")]
    monitors += [callbacks.UpdateRatioMonitor((-math.inf, math.inf)), callbacks.EffectiveLearningRateMonitor(0.0)]
    train(monitors, Alone())
    rows = [list(monitor.history[-1][1]) for monitor in monitors]
    assert rows == [["tanh"], ["Alone"], ["Alone"], ["w", "v"], ["w", "v"]]


@pytest.mark.filterwarnings("ignore:parameter ")
def test_a_loss_is_no_output_of_a_layer(train):
    """A wrapper such as DDP calls the LightningModule for its training_step."""

    class Wrapped(Alone):
        def __call__(self, *args):
            if len(args) == 2:
                self.forward = lambda *args: self.training_step(*args)
            return super().__call__(*args)

        def training_step(self, batch, batch_idx):
            if "forward" not in vars(self):
                return self(batch, batch_idx)
            del self.forward
            return super().training_step(batch, batch_idx)

    monitor = callbacks.GradientMonitor("outputs")
    train(monitor, Wrapped())
    assert [list(record) for _, record in monitor.history] == [["Wrapped"]] * len(monitor.history)
    assert all(record["Wrapped"]["norm"] < 1 for _, record in monitor.history)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda layer: layer,
        lambda layer: torch.compile(layer, backend="eager"),
        nn.DataParallel,
        torch.distributed.algorithms._checkpoint.checkpoint_wrapper.checkpoint_wrapper,
    ],
    ids=["bare", "compiled", "DataParallel", "checkpoint"],
)
def test_wrappers_have_no_part_in_names(wrap):
    network = nn.Sequential(wrap(nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 3)))), wrap(nn.Linear(3, 1)))
    assert [(layer.name, len(layer.weights)) for layer in layers(network)] == [("0.0", 2), ("1", 1)]


def test_outputs_that_no_layer_puts_out_are_told(train, kit):
    class Lends(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, x):
            return F.linear(x, self.layer.weight)

    monitor = callbacks.GradientMonitor("outputs")
    with pytest.warns(
        UserWarning, match="of='outputs' found no output with a gradient, for Classifier called no module"
    ):
        train(monitor, kit.Classifier(Lends()))
    assert monitor.history == []


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_scripted_modules_keep_their_outputs_to_themselves(train, kit):
    network = nn.Sequential(torch.jit.script(nn.Linear(6, 3)))
    with pytest.raises(callbacks.gradient_monitor.MisconfigurationException, match="got a compiled or scripted model"):
        train(callbacks.GradientMonitor("outputs"), kit.Classifier(network))


def test_two_dimensional_normalizations_may_leave_the_band(train, kit):
    """(Warnings are errors here.)"""
    network = nn.Sequential(nn.Unflatten(1, (2, 3)), nn.LayerNorm((2, 3)), nn.Flatten(), nn.Linear(6, 3))
    with torch.no_grad():
        network[1].weight.fill_(1e-6)
    monitor = callbacks.UpdateRatioMonitor((-20.0, 3.0), log_every_n_steps=1)
    train(monitor, kit.Classifier(network), max_steps=1)
    assert monitor.history[0][1]["network.1.weight"]["log10_ratio"] > 3.0
