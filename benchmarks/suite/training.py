"""One training with Lightning's Trainer, and what is measured of it.

Imported when something is trained: Lightning takes seconds to import.
"""

from __future__ import annotations

import logging
import math
import signal
import time
import warnings
from statistics import median
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities.warnings import PossibleUserWarning
from torch import Tensor, nn

from torch_lecture_ops.pictures.choices import ahead

from .choices import build_optimizer, build_schedules, loss_function
from .data import Batches, Digits
from .execution import machines
from .network import accuracy, build_mlp, limit_norms, warm_up_once
from .run import ALONE, Execution, Run
from .setting import Setting, point

for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.WARNING)  # no notes on devices and processes, no tips

PARTS = 10  # of an epoch, whose mean losses are kept


class Classifier(LightningModule):
    """Trains an MLP; keeps all losses, the accuracy after each epoch and the time of every step and epoch."""

    def __init__(self, mlp: nn.Sequential, optimizer: torch.optim.Optimizer, digits: Digits, setting: Setting) -> None:
        super().__init__()
        self.mlp, self.optimizer, self.digits, self.setting = mlp, optimizer, digits, setting
        self.loss = loss_function(setting.loss, setting.library)
        self.losses: list[Tensor] = []
        self.test_accuracies: list[float] = []
        self.step_seconds: list[float] = []
        self.epoch_seconds: list[float] = []

    def configure_optimizers(self) -> Any:
        return [self.optimizer], build_schedules(self.optimizer, self.setting.schedule)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        loss = self.loss(self.mlp(images), labels)
        self.losses.append(loss.detach())
        return loss

    # By default Lightning has `optimizer.step` call the closure, which does forward and backward. Called beforehand, it
    # stays out of the measured time, and so does what Lightning does around it: together more than a small step takes.
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        with ahead(self.optimizer):
            optimizer_closure()
        start = time.perf_counter()
        self.optimizer.step()
        self.step_seconds.append(time.perf_counter() - start)
        if self.setting.max_norm:
            limit_norms(self.mlp, self.setting.max_norm)

    def on_train_epoch_start(self) -> None:
        self.epoch_start = time.perf_counter()

    def on_train_epoch_end(self) -> None:
        self.epoch_seconds.append(time.perf_counter() - self.epoch_start)
        self.test_accuracies.append(accuracy(self.mlp, self.digits.test_images, self.digits.test_labels))
        if self.setting.stop_at is not None and self.test_accuracies[-1] >= self.setting.stop_at:
            self.trainer.should_stop = True


class NamedBar(TQDMProgressBar):
    """Lightning's bar under the name of the run, cleared at its end."""

    def __init__(self, name: str) -> None:
        super().__init__(refresh_rate=10)
        self.name = name

    def init_train_tqdm(self) -> Any:
        bar = super().init_train_tqdm()
        bar.leave = False
        return bar

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(f"{self.name}, epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")

    def get_metrics(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        return {"loss": f"{module.losses[-1]:.3f}"}


def fit(classifier: Classifier, execution: Execution, bar: NamedBar | None = None) -> Tensor:
    """Lightning's training on the CPU, without its files, its advice and its way out on Ctrl-C; the losses."""
    digits, setting = classifier.digits, classifier.setting
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec")  # Lightning 2.6 uses what torch 2.15 deprecates
        warnings.filterwarnings("ignore", category=PossibleUserWarning)  # there is a GPU, too
        trainer = Trainer(
            accelerator="cpu",
            devices=execution.devices,
            num_nodes=machines(),
            strategy=execution.strategy,
            max_epochs=setting.epochs,
            callbacks=bar,
            enable_progress_bar=bar is not None,
            enable_model_summary=False,
            enable_checkpointing=False,
            logger=False,
        )
        part = trainer.global_rank, trainer.world_size
        batches = Batches(digits.train_images, digits.train_labels, setting.batch_size, setting.seed, *part)
        try:
            trainer.fit(classifier, batches)
            return trainer.strategy.reduce(torch.stack(classifier.losses), reduce_op="mean")
        except SystemExit:  # Lightning's answer to Ctrl-C; from then on it ignores the signal
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt from None


def train(setting: Setting, digits: Digits, execution: Execution = ALONE, name: str = "") -> Run:
    """Train one network on digits that are scaled as the setting asks, and measure it.

    The runs of a seed are paired: they see the same batches in the same order, and their weights are the same random
    draw, scaled as init and activation ask.
    """
    warm_up_once(point(setting))
    torch.manual_seed(setting.seed)  # for dropout
    mlp = build_mlp(setting)
    optimizer = build_optimizer(mlp.parameters(), setting.optimizer, setting.library, setting.lr)
    classifier = Classifier(mlp, optimizer, digits, setting)
    losses = fit(classifier, execution, NamedBar(name) if execution.progress else None).numpy()
    by_epoch = losses.reshape(len(classifier.test_accuracies), -1)
    return Run(
        setting=setting,
        engine=getattr(optimizer, "engine", ""),
        test_accuracy=classifier.test_accuracies[-1],
        train_loss=float(by_epoch[-1].mean()),
        seconds_per_epoch=median(classifier.epoch_seconds),
        microseconds_per_step=1e6 * median(classifier.step_seconds),
        diverged=not math.isfinite(losses.sum()),
        test_accuracies=classifier.test_accuracies,
        epoch_seconds=classifier.epoch_seconds,
        losses=thin(by_epoch),
    )


def thin(by_epoch: np.ndarray) -> list[float]:
    """The mean losses of the parts of each epoch."""
    parts = np.array_split(by_epoch, min(PARTS, by_epoch.shape[1]), axis=1)
    return np.stack([part.mean(1) for part in parts], axis=1).ravel().tolist()
