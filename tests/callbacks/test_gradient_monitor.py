"""GradientMonitor against NumPy and autograd."""

import math

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.nn import functional as F

from torch_lecture_ops.callbacks import GradientMonitor
from torch_lecture_ops.callbacks.gradient_monitor import density, gradient_statistics


def reference(*grads, bins=33):
    g = np.concatenate([np.asarray(grad, dtype=np.float64).ravel() for grad in grads])
    rms = math.sqrt((g**2).mean())
    inside = np.clip(g, -3.999999 * rms, 3.999999 * rms)
    counts, _ = np.histogram(inside, bins=bins, range=(-4 * rms, 4 * rms))
    return [np.linalg.norm(g), rms, *counts]


@pytest.mark.parametrize("bins", [2, 32, 41])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_statistics_are_numpys(bins, dtype):
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(shape, generator=generator, dtype=dtype) ** 3 for shape in ((50, 40), (30,))]
    found = gradient_statistics(grads, bins).tolist()
    np.testing.assert_allclose(found, reference(*(g.numpy() for g in grads), bins=bins), rtol=1e-5)
    assert sum(found[2:]) == 2030


def test_a_large_layer_has_the_histogram_of_a_sample():
    g = torch.randn(300, 400, generator=torch.Generator().manual_seed(0))
    size, rms, *counts = gradient_statistics([g], 33).tolist()
    assert (size, rms) == pytest.approx(tuple(reference(g.numpy())[:2]), rel=1e-5)
    fractions = np.array(reference(g.numpy())[2:]) / g.numel()
    np.testing.assert_allclose(np.array(counts) / sum(counts), fractions, atol=0.02)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_has_no_histogram(bad):
    size, rms, *counts = gradient_statistics([torch.tensor([1.0, bad, -1.0])], 4).tolist()
    assert not math.isfinite(size)
    assert not math.isfinite(rms)
    assert counts == [0, 0, 0, 0]


def test_zeros_and_complex_numbers_and_a_scale():
    assert gradient_statistics([torch.zeros(5)], 3).tolist() == [0, 0, 0, 5, 0]
    size, rms, *counts = gradient_statistics([torch.tensor([3 + 4j])], 4, scale=2.0).tolist()
    assert (size, rms, sum(counts)) == pytest.approx((2.5, 2.5 / math.sqrt(2), 2))


def test_density_integrates_to_one():
    middles, height = density(norm=1.0, rms=0.5, histogram=[1, 0, 6, 1])
    assert middles == [-1.5, -0.5, 0.5, 1.5]
    assert sum(h for h in height if h == h) == pytest.approx(1.0)
    assert math.isnan(height[1])


class Autograd(Callback):
    """What autograd says of the first batch."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0:
            zs, z = [], batch[0]
            for layer in pl_module.network:
                z = layer(z)
                zs += [z] if isinstance(layer, nn.Linear) else []
            loss = F.cross_entropy(z, batch[1])
            self.dz = torch.autograd.grad(loss, zs, retain_graph=True)
            self.dw = torch.autograd.grad(loss, [layer.weight for layer in pl_module.network[::2]])


@pytest.mark.parametrize("of", ["weights", "outputs"])
def test_rows_are_autograds(train, of):
    autograd, monitor = Autograd(), GradientMonitor(of=of)
    train([autograd, monitor], gradient_clip_val=1e-3)  # comes later
    expected = [reference(g.numpy()) for g in (autograd.dw if of == "weights" else autograd.dz)]
    step, record = monitor.history[0]
    assert step == 0
    assert list(record) == ["network.0", "network.2", "network.4", "first_to_last"]
    for name, row in zip(list(record)[:3], expected, strict=True):
        found = record[name]
        np.testing.assert_allclose([found["norm"], found["rms"], *found["histogram"]], row, rtol=1e-4)
    assert record["first_to_last"]["ratio"] == pytest.approx(expected[0][0] / expected[2][0], rel=1e-4)


def test_accumulated_gradients_are_means(train, kit):
    whole, parts = GradientMonitor(), GradientMonitor()
    train(whole, kit.Classifier())
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(kit.x, kit.labels), batch_size=4)
    train(parts, kit.Classifier(), data, accumulate_grad_batches=2)
    for (step, one), (same_step, other) in zip(whole.history, parts.history, strict=True):
        assert step == same_step
        assert one["network.0"]["norm"] == pytest.approx(other["network.0"]["norm"], rel=1e-4)


def test_every_optimizer_has_its_own_ratio(train, kit):
    monitor = GradientMonitor()
    model = kit.TwoOptimizers()
    train(monitor, model)
    record = monitor.history[-1][1]
    assert set(record["first_to_last"]) == {"ratio-1"}  # the first has one layer only
    ratio = record["network.2"]["norm"] / record["network.4"]["norm"]
    assert record["first_to_last"]["ratio-1"] == pytest.approx(ratio)


def test_a_layer_that_runs_twice(train, kit):
    shared = nn.Linear(6, 6)
    monitor = GradientMonitor(of="outputs")
    train(monitor, kit.Classifier(nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(6, 3))))
    assert list(monitor.history[0][1]) == ["network.0", "network.0(2)", "network.4", "first_to_last"]


def test_frozen_layers_have_no_rows(train, kit):
    model = kit.Classifier()
    model.network[0].requires_grad_(False)
    monitor = GradientMonitor()
    train(monitor, model)
    assert list(monitor.history[0][1]) == ["network.2", "network.4", "first_to_last"]


def test_sparse_gradients(train, kit):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(8, 3))
    data = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.arange(128).reshape(64, 2) % 7, kit.labels), batch_size=8
    )
    model = kit.Classifier(network, lambda params: torch.optim.SGD(params, lr=0.1))
    monitor = GradientMonitor()
    train(monitor, model, data)
    assert sum(monitor.history[0][1]["network.0"]["histogram"]) == 36


# ---------------------------------------------------------------- warnings and errors


def deep(kit, activation, scale):
    torch.manual_seed(0)
    layers = [layer for _ in range(8) for layer in (nn.Linear(6, 6), activation())]
    network = nn.Sequential(*layers, nn.Linear(6, 3))
    with torch.no_grad():
        for layer in network[::2]:
            layer.weight.mul_(scale)
    return kit.Classifier(network)


def test_vanishing_gradients_are_told(train, kit):
    with pytest.warns(UserWarning, match="gradients vanish: the first layer's have .* times the norm of the last"):
        train(GradientMonitor(), deep(kit, nn.Sigmoid, 1.0))


def test_exploding_gradients_are_told(train, kit):
    with pytest.warns(UserWarning, match="gradients explode: .* the initial weights are likely too large"):
        train(GradientMonitor(of="outputs"), deep(kit, nn.Identity, 20.0), max_steps=1)


def test_what_is_not_finite_is_told(train, kit):
    model = kit.Classifier()
    with torch.no_grad():
        model.network[2].weight[0, 0] = math.nan
    with pytest.warns(UserWarning, match="layer 1: gradients are not finite; the learning rate 0.1 is likely too high"):
        train(GradientMonitor(), model)


def test_a_model_without_layers(train, kit):
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return x[:, :3] * self.scale

    with pytest.raises(MisconfigurationException, match="the model must have a weight of two or more dimensions"):
        train(GradientMonitor(), kit.Classifier(Scale()))


def test_a_compiled_model_keeps_its_outputs_to_itself(train, kit):
    compiled = torch.compile(kit.mlp(), backend="eager")
    with pytest.raises(MisconfigurationException, match="of='outputs' needs modules that run one by one"):
        train(GradientMonitor(of="outputs"), kit.Classifier(compiled))
    monitor = GradientMonitor()
    train(monitor, kit.Classifier(compiled))
    assert len(monitor.history[0][1]) == 4


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(of="biases"), "of must be 'weights' or 'outputs', got 'biases'"),
        (dict(bins=1), "bins must be at least 2, got 1"),
        (dict(band=(2.0, 1.0)), r"band must be two numbers, 0 <= low <= high, got \(2.0, 1.0\)"),
    ],
)
def test_mistakes(options, said):
    with pytest.raises(ValueError, match=f"GradientMonitor: {said}"):
        GradientMonitor(**options)
