"""How long trainings take, before they are run."""

from __future__ import annotations

import time
from statistics import median

import torch

from .choices import build_optimizer, loss_function
from .data import Batches, Digits
from .setting import Setting, point
from .store import Store
from .training import Run, accuracy, build_mlp

TRIAL_SECONDS = 0.2
LIGHTNING_STEP = 8e-4  # seconds that a step takes beyond its own, see epoch.py
LIGHTNING_FIT = 0.1


def estimate_seconds(setting: Setting, digits: Digits, known: dict[Setting, Run]) -> float:
    """As long as a run took that differs by its seed alone; else by trying some steps."""
    if found := known.get(point(setting)):
        return found.seconds_per_epoch * setting.epochs
    torch.manual_seed(0)
    mlp = build_mlp(setting)
    optimizer = build_optimizer(mlp.parameters(), setting.optimizer, setting.library, setting.lr)
    loss = loss_function(setting.loss, setting.library)
    batches = Batches(digits.train_images, digits.train_labels, setting.batch_size, 0)
    times: list[float] = []
    for number, (images, labels) in enumerate(batches):
        start = time.perf_counter()
        optimizer.zero_grad()
        loss(mlp(images), labels).backward()
        optimizer.step()
        times.append(time.perf_counter() - start)  # the first one compiles kernels: the median takes no notice
        if number and sum(times[1:]) > TRIAL_SECONDS:
            break
    start = time.perf_counter()
    accuracy(mlp, digits.test_images, digits.test_labels)
    evaluation = time.perf_counter() - start
    return setting.epochs * (len(batches) * (median(times) + LIGHTNING_STEP) + evaluation) + LIGHTNING_FIT


def known_runs(store: Store) -> dict[Setting, Run]:
    return {point(run.setting): run for run in store.runs.values()}


def show_duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
