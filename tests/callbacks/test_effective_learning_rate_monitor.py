"""EffectiveLearningRateMonitor: the slides' step sizes, whatever the class."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from torch_lecture_ops import optim
from torch_lecture_ops.callbacks import EffectiveLearningRateMonitor, monitor

EPS = 1e-8

# Name -> optimizer and what its step multiplies the gradient with, from all gradients so far.
STEP_SIZES = {
    "SGD": (lambda space, params: space.SGD(params, lr=0.1), lambda gs: np.full_like(gs[-1], 0.1)),
    "Adagrad": (
        lambda space, params: space.Adagrad(params, lr=0.1, eps=EPS),
        lambda gs: 0.1 / (np.sqrt(sum(g**2 for g in gs)) + EPS),
    ),
    "RMSprop": (
        lambda space, params: space.RMSprop(params, lr=0.001, alpha=0.9),
        lambda gs: 0.001 / (np.sqrt(sum(0.1 * 0.9**k * g**2 for k, g in enumerate(reversed(gs)))) + EPS),
    ),
    "Adam": (  # β₁ = 0: without momentum
        lambda space, params: space.Adam(params, lr=0.01, betas=(0.0, 0.9)),
        lambda gs: (
            0.01 / (np.sqrt(sum(0.1 * 0.9**k * g**2 for k, g in enumerate(reversed(gs))) / (1 - 0.9 ** len(gs))) + EPS)
        ),
    ),
}


class KeepsGradients:
    def on_before_optimizer_step(self, optimizer):
        now = {name: p.grad.double().numpy().copy() for name, p in self.named_parameters()}
        self.gradients = [*getattr(self, "gradients", []), now]


@pytest.mark.parametrize("make, size", STEP_SIZES.values(), ids=STEP_SIZES)
@pytest.mark.parametrize("space", [torch.optim, optim], ids=["torch", "ours"])
def test_step_sizes_are_the_slides(train, kit, make, size, space):
    class Model(KeepsGradients, kit.Classifier):
        pass

    model = Model(kit.mlp(nn.Tanh), lambda params: make(space, params))
    watcher = EffectiveLearningRateMonitor(least=0.0)
    train(watcher, model, precision="64-true")
    assert [step for step, _ in watcher.history] == [1, 3, 5, 7]
    for step, record in watcher.history:
        for name, found in record.items():
            gs = [gradients[name] for gradients in model.gradients[: step + 1]]
            expected = np.percentile(size(gs)[gs[-1] != 0], [10, 50, 90])
            np.testing.assert_allclose([found["p10"], found["p50"], found["p90"]], expected, rtol=1e-6)
            assert found["lr"] == make(space, [torch.zeros(1, requires_grad=True)]).param_groups[0]["lr"]


def test_forms_of_the_notes(train, kit):
    class Model(KeepsGradients, kit.Classifier):
        pass

    model = Model(kit.mlp(nn.Tanh), lambda params: optim.Adagrad(params, lr=0.1, eps=0.01, form="memoryless"))
    watcher = EffectiveLearningRateMonitor(least=0.0)
    train(watcher, model, precision="64-true")
    for step, record in watcher.history:
        for name, found in record.items():
            g = model.gradients[step][name]
            assert found["p50"] == pytest.approx(np.median(0.1 / np.sqrt(g**2 + 0.01)), rel=1e-6)


def test_momentum_is_part_of_the_step(train, kit):
    class Model(KeepsGradients, kit.Classifier):
        pass

    model = Model(kit.mlp(nn.Tanh), lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9))
    watcher = EffectiveLearningRateMonitor(log_every_n_steps=1)
    train(watcher, model, precision="64-true")
    b = 0.0
    for (_, record), gradients in zip(watcher.history, model.gradients, strict=True):
        g = gradients["network.0.weight"]
        b = 0.9 * b + g
        assert record["network.0.weight"]["p50"] == pytest.approx(np.median(np.abs(0.1 * b / g)), rel=1e-6)


def test_elements_without_gradient_do_not_count(train, kit):
    model = kit.Classifier()
    with torch.no_grad():
        model.network[0].bias[:6] = -100.0  # dead units
        model.network[2].bias[:] = -100.0
    watcher = EffectiveLearningRateMonitor()
    train(watcher, model)
    record = watcher.history[-1][1]
    assert "network.0.weight" not in record
    assert record["network.4.bias"]["p10"] == pytest.approx(0.1, rel=1e-4)


def test_large_parameters_are_sampled():
    tensor = torch.arange(100_000.0).reshape(100, 1000)
    rng = torch.get_rng_state()
    drawn = monitor.sample(tensor)
    assert torch.equal(rng, torch.get_rng_state())
    assert drawn.shape == (monitor.SAMPLE,)
    assert torch.equal(drawn, monitor.sample(tensor.t().contiguous().t()))  # the same elements in any memory layout
    for q in (0.1, 0.5, 0.9):
        assert (drawn < q * 100_000).float().mean() == pytest.approx(q, abs=0.02)


def test_sparse_gradients(train, kit):
    network = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(8, 3))
    data = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.arange(128).reshape(64, 2) % 7, kit.labels), batch_size=8
    )
    watcher = EffectiveLearningRateMonitor()
    train(watcher, kit.Classifier(network, lambda params: torch.optim.SGD(params, lr=0.1)), data)
    assert watcher.history[0][1]["network.0.weight"]["p50"] == pytest.approx(0.1, rel=1e-3)


def test_a_shrinking_step_is_told(train, kit):
    class Grows(kit.Classifier):
        def training_step(self, batch, batch_idx):
            return (1000 if batch_idx > 3 else 1) * super().training_step(batch, batch_idx)

    model = Grows(optimizer=lambda params: optim.Adagrad(params, lr=1e-3))
    with pytest.warns(UserWarning, match="parameter network.* its step size shrank to .* from .*; if that is Adagrad"):
        train(EffectiveLearningRateMonitor(), model)


def test_a_schedule_may_shrink_the_step(train, kit):
    class Schedules(kit.Classifier):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.3)
            return [optimizer], [dict(scheduler=schedule, interval="step")]

    watcher = EffectiveLearningRateMonitor(least=0.5)
    train(watcher, Schedules(), precision="64-true")
    sizes = [record["network.4.weight"]["p50"] for _, record in watcher.history]
    assert sizes == pytest.approx([0.1 * 0.3**step for step in (1, 3, 5, 7)])


def test_steps_lost_to_rounding_are_told(train, kit):
    model = kit.Classifier(optimizer=lambda params: torch.optim.SGD(params, lr=1e-4))
    with pytest.warns(UserWarning, match="rounding to torch.bfloat16 undoes most steps; .* kahan=True"):
        train(EffectiveLearningRateMonitor(), model, precision="bf16-true")


@pytest.mark.parametrize("least", [-0.1, 1.1, math.nan])
def test_least_out_of_range(least):
    with pytest.raises(ValueError, match=r"EffectiveLearningRateMonitor: least must be in \[0, 1\]"):
        EffectiveLearningRateMonitor(least=least)
