"""Schedules in LaTeX: read back, they are the formulas."""

import numpy as np
import pytest
import torch
from latex_reader import Reader, split

from torch_lecture_ops.formula.latex import letter_of
from torch_lecture_ops.optim import lr_scheduler

ROWS = [
    (lr_scheduler.StepDecay, dict(drop=0.5, every=3), {}),
    (lr_scheduler.ExponentialDecay, dict(k=0.25), {}),
    (lr_scheduler.InverseTimeDecay, dict(k=0.25), {}),
    (lr_scheduler.PowerCooling, dict(epsilon=0.25, floor=1e-4), {}),
    (lr_scheduler.MomentumAnnealing, dict(start=0.5, end=0.75, steps=4), {}),
    (lr_scheduler.MomentumAnnealing, dict(start=0.5, end=0.9, steps=2), dict(form="sutskever")),
]


@pytest.mark.parametrize("cls, numbers, form", ROWS)
def test_read_back(cls, numbers, form):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.0)
    scheduler = cls(optimizer, **numbers, **form)
    key = "momentum" if cls is lr_scheduler.MomentumAnnealing else "lr"
    letters = {letter_of(name): np.float64(value) for name, value in numbers.items()} | {r"\eta_{0}": np.float64(0.1)}
    for t in range(12):
        letters["t"] = np.float64(t)
        for left, right, _ in map(split, cls.latex(**form)):
            letters[left] = value = Reader(letters).value(right)
        assert left == {"lr": r"\eta", "momentum": r"\mu_{t}"}[key]
        np.testing.assert_allclose(value, optimizer.param_groups[0][key], rtol=1e-14)
        optimizer.step()
        scheduler.step()


def test_every_schedule_of_ours_is_there():
    ours = {name for name in lr_scheduler.__all__ if hasattr(getattr(lr_scheduler, name), "latex")}
    assert ours - {"ClosedFormLR"} == {cls.__name__ for cls, _, _ in ROWS}


def test_one_of_a_user():
    class InverseRootDecay(lr_scheduler.ClosedFormLR):
        def eta(self, eta0, t):
            return eta0 / (1 + self.slowness * t) ** 0.5

    assert InverseRootDecay.latex() == (r"\eta = \frac{\eta_{0}}{\left(1 + \mathrm{slowness}\, t\right)^{0.5}}",)


def test_no_such_form():
    with pytest.raises(ValueError, match="form must be 'linear' or 'sutskever', got 'cosine'"):
        lr_scheduler.MomentumAnnealing.latex("cosine")
