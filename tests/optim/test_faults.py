"""Trainings that end badly: killed in the middle and taken up again; stopped by a loss that is not a number.

This file is a script too: it trains what is to be killed.
"""

import logging
import os
import signal
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("lightning.pytorch")

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

import torch_lecture_ops
from torch_lecture_ops import optim
from torch_lecture_ops.optim import lr_scheduler

CLASSES = {
    "SGD": dict(lr=0.05, momentum=0.9, nesterov=True),
    "Nesterov": dict(lr=0.05),
    "Adagrad": dict(lr=0.05, lr_decay=0.1),
    "RMSprop": dict(lr=0.002, momentum=0.9, centered=True),
    "Adadelta": dict(lr=0.9),
    "Adam": dict(lr=0.02, amsgrad=True),
    "AdamW": dict(lr=0.02),
    "NAdam": dict(lr=0.02, weight_decay=0.1),
}
SCHEDULES = {
    "StepDecay": dict(every=4),
    "ExponentialDecay": dict(k=0.1),
    "InverseTimeDecay": dict(k=0.1),
    "PowerCooling": dict(epsilon=0.02),
    "MomentumAnnealing": dict(steps=9),
}
WITHOUT_MOMENTUM = ("Adagrad", "Adadelta")

# Every class with all schedules at once, which multiply; and every schedule alone.
RUNS = [
    (which, [name for name in SCHEDULES if not (name == "MomentumAnnealing" and which in WITHOUT_MOMENTUM)])
    for which in CLASSES
]
RUNS += [("Adam", [name]) for name in SCHEDULES]

EPOCH, EPOCHS, SAVED_EVERY = 5, 3, 3  # in batches; in epochs; in steps
KILLED_IN = (8, 12)  # the steps, by turns: after the checkpoint of 6 in the second epoch, of 9 in the third


def network():
    """The same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))


class Batches:
    """Shuffled anew for each epoch; a checkpoint in the middle of one keeps how far it came."""

    def __init__(self):
        self.generator, self.next, self.order = torch.Generator().manual_seed(1), EPOCH, []
        self.rows = torch.randn(8 * EPOCH, 5, generator=self.generator)

    def __len__(self):
        return EPOCH

    def __iter__(self):
        if self.next == EPOCH:
            self.next, self.order = 0, torch.randperm(len(self.rows), generator=self.generator).tolist()
        while self.next < EPOCH:
            self.next += 1
            yield self.rows[self.order[8 * self.next - 8 : 8 * self.next]]

    def state_dict(self):
        return {"generator": self.generator.get_state(), "next": self.next, "order": self.order}

    def load_state_dict(self, state):
        self.generator.set_state(state["generator"])
        self.next, self.order = state["next"], state["order"]


class Module(LightningModule):
    def __init__(self, which, schedules=(), where=optim, spoilt=None):
        super().__init__()
        self.network, self.which, self.schedules, self.where = network(), which, schedules, where
        self.spoilt = spoilt  # the step whose loss is not a number
        self.starts = []  # the steps at which a training began

    def on_train_start(self):
        self.starts.append(self.global_step)

    def training_step(self, x):
        loss = (self.network(x) - x[:, :1]).square().mean()
        loss = loss * float("nan") if self.global_step == self.spoilt else loss
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        optimizer = getattr(self.where, self.which)(self.parameters(), **CLASSES[self.which])
        schedulers = [getattr(lr_scheduler, name)(optimizer, **SCHEDULES[name]) for name in self.schedules]
        return [optimizer], [{"scheduler": scheduler, "interval": "step"} for scheduler in schedulers]


class Kill(Callback):
    """Ends this process as kill -9 does, in the middle of a step: after the backward pass."""

    def __init__(self, step):
        self.step = step

    def on_after_backward(self, trainer, module):
        if trainer.global_step == self.step - 1:
            os.kill(os.getpid(), signal.SIGKILL)


def fit(module, callbacks=(), resume=None, **settings):
    """Trains the module; returns the trainer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's own, and its advice
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=EPOCHS,
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            **settings,
        )
        trainer.fit(module, Batches(), ckpt_path=resume)
    return trainer


def checkpoints(folder):
    return ModelCheckpoint(folder, every_n_train_steps=SAVED_EVERY, save_last=True)


def result(trainer):
    """Parameters, state, hyper-parameters and the schedule."""
    (optimizer,) = trainer.optimizers
    schedules = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
    return trainer.lightning_module.state_dict(), optimizer.state_dict(), schedules


def assert_same(got, expected):
    """Bit by bit; NaN is like NaN."""
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)
    elif isinstance(expected, dict):
        assert list(got) == list(expected)
        for key in expected:
            assert_same(got[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            assert_same(one, other)
    else:
        assert got == expected


@pytest.fixture(autouse=True)
def _silent():
    """Lightning without its remarks on the machine."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


# --------------------------------------------------------------------------------------------------------------- killed


@pytest.fixture(name="killed", scope="module")
def _killed(tmp_path_factory):
    """A folder with the checkpoints of all runs, each of which was killed."""
    folder = tmp_path_factory.mktemp("killed")
    package = str(Path(torch_lecture_ops.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": package, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.needs_compiler
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")
@pytest.mark.parametrize("number", range(len(RUNS)), ids=[f"{which}-{'-'.join(names)}" for which, names in RUNS])
def test_a_killed_training_goes_on_from_its_last_checkpoint(number, killed):
    """And ends where one ends that nobody killed, bit by bit."""
    module = Module(*RUNS[number])
    trainer = fit(module, resume=killed / str(number) / "last.ckpt")
    assert module.starts == [(step_of(number) - 1) // SAVED_EVERY * SAVED_EVERY]
    expected = fit(Module(*RUNS[number]))
    assert trainer.global_step == expected.global_step == EPOCH * EPOCHS
    assert_same(result(trainer), result(expected))
    assert trainer.optimizers[0].engine == expected.optimizers[0].engine == "c"


def step_of(number):
    """In which step this run is killed."""
    return KILLED_IN[number % len(KILLED_IN)]


def main(folder):
    """Train each run until it is killed, in a process of its own.

    Forked, for to import torch and Lightning anew would take most of the time. Nothing was computed here before, so
    there are no threads that a fork could lose.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    for number, run in enumerate(RUNS):
        child = os.fork()
        if child == 0:
            try:
                fit(Module(*run), [checkpoints(Path(folder) / str(number)), Kill(step_of(number))])
            except BaseException:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)  # it should not come here
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status != -signal.SIGKILL:
            sys.exit(f"{run}: ended with {status} instead of being killed in step {step_of(number)}")


# -------------------------------------------------------------------------------------------------------- not a number

SPOILT = EPOCH + 2  # steps before it: it is in the second epoch


def modules(which, **options):
    """Ours, and torch's if there is one."""
    return [Module(which, where=where, **options) for where in (optim, torch.optim) if hasattr(where, which)]


@pytest.mark.parametrize("which", CLASSES)
def test_detect_anomaly_stops_before_the_step(which):
    """With one error for both libraries. Parameters, Nesterov's too, and state are those of the step before."""
    errors = set()
    for module, unspoilt in zip(modules(which, spoilt=SPOILT), modules(which), strict=True):
        with pytest.raises(RuntimeError, match="returned nan values") as error:
            fit(module, detect_anomaly=True)
        errors.add(str(error.value))
        assert module.trainer.global_step == SPOILT
        assert_same(result(module.trainer), result(fit(unspoilt, max_steps=SPOILT)))
    assert len(errors) == 1


@pytest.mark.parametrize("which", CLASSES)
def test_early_stopping_sees_the_loss(which):
    """At the end of its epoch. By then every parameter is NaN, with torch's optimizers too."""
    for module in modules(which, spoilt=SPOILT):
        stopping = EarlyStopping("loss", check_finite=True, check_on_train_epoch_end=True)
        trainer = fit(module, [stopping])
        assert stopping.stopped_epoch == SPOILT // EPOCH
        assert trainer.global_step == EPOCH * (stopping.stopped_epoch + 1)
        assert all(p.isnan().all() for p in module.parameters())


if __name__ == "__main__":
    main(*sys.argv[1:])
