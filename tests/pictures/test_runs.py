"""Runs over surfaces: those of the real classes, to the bit; rates by the rule; divergence told, nothing clipped."""

import math
from functools import partial

import pytest
import torch

from torch_lecture_ops import optim
from torch_lecture_ops.optim import lr_scheduler
from torch_lecture_ops.pictures import RATES, SURFACES, Surface, descend, fair_rate, runs
from torch_lecture_ops.pictures.choices import OPTIMIZERS, racer

EVERYBODY = ["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adadelta", "adam", "adamw", "nadam"]
every_racer = pytest.mark.parametrize("text", EVERYBODY)


def test_every_optimizer_of_the_package_can_race():
    assert set(EVERYBODY) == {*OPTIMIZERS, "momentum"}


@every_racer
def test_a_run_is_a_training_of_the_class(text):
    """Beside a loop as a user writes it, with gradients of autograd."""
    build = partial(racer(text).build, lr=0.01)
    run = descend("camel", build, steps=30)
    p = torch.nn.Parameter(torch.tensor(SURFACES["camel"].start, dtype=torch.float64))
    optimizer, points = build([p]), [p.detach().clone()]

    def closure():
        optimizer.zero_grad()
        loss = SURFACES["camel"].value(*p)
        loss.backward()
        return loss

    for _ in range(30):
        optimizer.step(closure)
        points.append(p.detach().clone())
    torch.testing.assert_close(run.points, torch.stack(points), rtol=1e-9, atol=1e-12)


@every_racer
def test_the_same_again_to_the_bit(text):
    first, second = (descend("beale", partial(racer(text).build, lr=0.001), steps=50) for _ in range(2))
    assert torch.equal(first.points, second.points)
    assert torch.equal(first.values, second.values)
    assert first.steps == 50
    assert first.points.dtype is torch.float64


@every_racer
@pytest.mark.parametrize("name", ["valley", "beale"])
def test_the_rate_is_the_best_of_those_that_stay_in_the_picture(name, text):
    build, surface = racer(text).build, SURFACES[name]
    chosen = fair_rate(name, build, steps=25)
    all_runs = {rate: descend(surface, partial(build, lr=rate), steps=25) for rate in RATES}
    inside = {rate: run for rate, run in all_runs.items() if all(surface.holds(*p) for p in run.points.tolist())}
    best = min(run.final for run in inside.values())
    assert chosen.rate == min(rate for rate, run in inside.items() if run.final == best)
    assert torch.equal(chosen.points, all_runs[chosen.rate].points)
    assert chosen.by_rule


def test_where_all_leave_the_picture_the_lowest_is_taken():
    def leave(x, y):
        return -x

    slope = Surface("slope", leave, lambda x, y: (-1.0, 0.0), (), (-1.0, 1.0, -1.0, 1.0), (0.0, 0.0), "falls for ever")
    chosen = fair_rate(slope, optim.SGD, steps=3, rates=[1.0, 2.0, 5.0])
    assert (chosen.rate, chosen.left) == (5.0, 1)


@pytest.mark.parametrize("lr, left, diverged", [(0.05, None, None), (0.11, None, None), (0.2, 2, None), (1e200, 1, 1)])
def test_divergence_is_told_and_nothing_is_clipped(lr, left, diverged):
    run = descend("valley", partial(optim.SGD, lr=lr), start=(-4.0, 0.5), steps=6)
    assert (run.left, run.diverged) == (left, diverged)
    expected = [[-4.0 * (1 - lr) ** n, 0.5 * (1 - 20 * lr) ** n] for n in range(2 if diverged else 7)]
    torch.testing.assert_close(run.points[: len(expected)], torch.tensor(expected, dtype=torch.float64))
    assert math.isfinite(run.final) == (diverged is None)
    assert len(run.points) == len(run.values) == 7


def test_a_start_outside_of_the_picture_widens_it():
    run = fair_rate("bowl", optim.SGD, start=(2.0, 7.0), steps=4)
    assert run.surface.box == (-3.0, 3.0, -2.0, 7.4)
    assert (run.rate, run.left, run.points[0].tolist()) == (1.0, None, [2.0, 7.0])


def test_who_comes_back_has_not_left():
    run = descend("valley", partial(optim.SGD, lr=0.1, momentum=0.9), steps=100)
    assert run.points[:, 0].max() > 2.0  # beyond the right edge
    assert run.left is None


def test_a_scheduler_steps_with_the_run():
    run = descend("bowl", partial(optim.SGD, lr=0.5), (1.0, 0.0), 2, lambda o: lr_scheduler.StepDecay(o, every=1))
    assert run.points[:, 0].tolist() == [1.0, 0.5, 0.375]


def test_runs_have_labels_and_rates():
    found = runs("bowl", ["sgd", "momentum", "adam:larson", "sgd:lr=0.3"], steps=5, rates={"ADAM:form=larson": 0.2})
    assert [run.label for run in found] == ["SGD", "Momentum", "Adam larson", "SGD"]
    assert [run.by_rule for run in found] == [True, True, False, False]
    assert [run.rate for run in found[2:]] == [0.2, 0.3]
    assert torch.equal(found[3].points, descend("bowl", partial(optim.SGD, lr=0.3), steps=5).points)


def test_own_optimizers_race_too():
    found = runs("bowl", {"mine": partial(torch.optim.Adam, amsgrad=True), "SGD": optim.SGD}, steps=5)
    assert [run.label for run in found] == ["mine", "SGD"]


@pytest.mark.parametrize("arguments, message", [
    (("bwol", ["sgd"]), "unknown surface 'bwol', choose from bowl, valley, saddle"),
    (("bowl", ["sgd"], (math.nan, 1.0)), "start must be two finite numbers, got nan, 1.0"),
    (("bowl", ["adma"]), "unknown optimizer 'adma', choose from sgd, momentum, nesterov"),
    (("bowl", ["adam:larsn"]), "'adam:larsn': .*larsn"),
    (("bowl", ["adam:beta=1"]), "'adam:beta=1': .*beta"),
    (("bowl", []), "there must be at least one optimizer, got none"),
    (("bowl", ["adam:betas="]), "settings are written key=value"),
    (("bowl", ["adam"], None, 5, {"sgd": 1.0}), "a rate for 'sgd', which is none of adam"),
])  # fmt: skip
def test_errors_say_what_there_is(arguments, message):
    with pytest.raises(ValueError, match=message):
        runs(*arguments)
