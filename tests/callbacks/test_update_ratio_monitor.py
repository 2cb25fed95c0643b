"""UpdateRatioMonitor against NumPy."""

import math

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

from torch_lecture_ops import optim
from torch_lecture_ops.callbacks import UpdateRatioMonitor


class Copies(Callback):
    """The parameters after every batch, the first entry before."""

    def __init__(self):
        self.values = []

    def on_train_start(self, trainer, pl_module):
        self.copy(pl_module)

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.copy(pl_module)

    def copy(self, module):
        self.values.append({name: p.detach().double().numpy().copy() for name, p in module.named_parameters()})


OPTIMIZERS = {
    "SGD": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
    "AdamW": lambda params: optim.AdamW(params, lr=0.01),
    "Nesterov": lambda params: optim.Nesterov(params, lr=0.05),
    "larson": lambda params: optim.Adadelta(params, lr=0.01, form="larson"),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_ratios_are_numpys(train, kit, optimizer):
    monitor, copies = UpdateRatioMonitor(band=(-math.inf, math.inf)), Copies()
    train([monitor, copies], kit.Classifier(optimizer=optimizer), gradient_clip_val=0.1)
    assert [step for step, _ in monitor.history] == [1, 3, 5, 7]
    for step, record in monitor.history:
        before, after = copies.values[step : step + 2]
        assert list(record) == list(before)
        for name, found in record.items():
            ratio = np.linalg.norm(after[name] - before[name]) / np.linalg.norm(before[name])
            # After Larson's Adadelta, one step late, the first step is none.
            assert found["log10_ratio"] == pytest.approx(np.log10(ratio), abs=1e-4)


def test_what_does_not_move_and_what_was_zero(train, kit):
    model = kit.Classifier()
    with torch.no_grad():
        model.network[0].bias.zero_()
        model.network[2].bias.fill_(-100.0)  # no gradient comes through
        model.network[2].weight.mul_(0.01)
    model.network[4].bias.requires_grad_(False)
    monitor = UpdateRatioMonitor(band=(-math.inf, math.inf), log_every_n_steps=1)
    train(monitor, model)
    first = {name: found["log10_ratio"] for name, found in monitor.history[0][1].items()}
    assert first["network.2.weight"] == -math.inf
    assert math.isnan(first["network.0.bias"])  # was zero and did not move
    assert "network.4.bias" not in first


def test_a_zero_parameter_that_moves_has_no_bound(train, kit):
    model = kit.Classifier()
    torch.nn.init.zeros_(model.network[4].weight)
    monitor = UpdateRatioMonitor(band=(-math.inf, 3.0), log_every_n_steps=1)
    train(monitor, model)
    assert monitor.history[0][1]["network.4.weight"]["log10_ratio"] == math.inf


def test_a_zero_weight_that_does_not_move_is_no_reason_to_warn(train, kit):
    """(Warnings are errors here.)"""
    model = kit.Classifier()
    with torch.no_grad():
        model.network[0].weight.zero_()
        model.network[2].bias.fill_(-100.0)  # no gradient comes through
    monitor = UpdateRatioMonitor(band=(-math.inf, math.inf), log_every_n_steps=1)
    train(monitor, model)
    assert math.isnan(monitor.history[0][1]["network.0.weight"]["log10_ratio"])


@pytest.mark.parametrize("lr, side", [(3.0, "high"), (1e-7, "low")])
def test_a_rate_too_high_or_too_low_is_told(train, kit, lr, side):
    model = kit.Classifier(optimizer=lambda params: torch.optim.SGD(params, lr=lr))
    said = rf"parameter network.[024].weight: .* % of its norm; the learning rate {lr:g} is likely too {side}"
    with pytest.warns(UserWarning, match=said):
        train(UpdateRatioMonitor(), model, max_steps=2)


def test_a_band_upside_down():
    with pytest.raises(ValueError, match=r"UpdateRatioMonitor: band must be .* low <= high, got \(-1, -5\)"):
        UpdateRatioMonitor(band=(-1, -5))
