"""How long trainings take, before they are run."""

from __future__ import annotations

import time
from collections.abc import Iterable
from statistics import median

import torch

from .choices import build_optimizer, loss_function, parse
from .data import Batches, Digits
from .network import accuracy, build_mlp, train_step, warm_up_once
from .run import Run
from .setting import Setting, point
from .store import Store

TRIAL_SECONDS = 0.3  # of all trials together
LIGHTNING_STEP = 8e-4  # seconds that a step takes beyond its own, see epoch.py
LIGHTNING_FIT = 0.1


def estimate_seconds(plan: Iterable[Setting], digits: Digits, known: dict[Setting, Run]) -> dict[Setting, float]:
    """The seconds of a training of each point: as long as one took that differs by its seed alone; else by a trial."""
    points = dict.fromkeys(map(point, plan))
    tried = dict.fromkeys(map(alike, (one for one in points if one not in known)))
    epoch = {one: try_epoch(one, digits, TRIAL_SECONDS / len(tried)) for one in tried}
    return {
        one: one.epochs * (known[one].seconds_per_epoch if one in known else epoch[alike(one)]) + LIGHTNING_FIT
        for one in points
    }


def alike(setting: Setting) -> Setting:
    """What takes about as long: numbers change nothing, and torch's classes do not take much longer than ours."""
    same = dict(optimizer=parse(setting.optimizer).name, activation=setting.activation, loss=setting.loss)
    return Setting(**same, lr=0.01, hidden=setting.hidden, dropout=setting.dropout, batch_size=setting.batch_size)


def try_epoch(setting: Setting, digits: Digits, seconds: float) -> float:
    """The seconds of an epoch, from some of its steps."""
    warm_up_once(setting)
    torch.manual_seed(0)
    mlp = build_mlp(setting)
    optimizer = build_optimizer(mlp.parameters(), setting.optimizer, setting.library, setting.lr)
    loss = loss_function(setting.loss, setting.library)
    batches = Batches(digits.train_images, digits.train_labels, setting.batch_size, 0)
    times: list[float] = []
    for images, labels in batches:
        start = time.perf_counter()
        train_step(mlp, optimizer, loss, images, labels)
        times.append(time.perf_counter() - start)
        if sum(times) > seconds:
            break
    start = time.perf_counter()
    accuracy(mlp, digits.test_images, digits.test_labels)
    evaluation = time.perf_counter() - start
    return len(batches) * (median(times) + LIGHTNING_STEP) + evaluation


def known_runs(store: Store) -> dict[Setting, Run]:
    return {point(run.setting): run for run in store.runs.values()}


def show_duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
