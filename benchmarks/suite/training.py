"""One training with Lightning's Trainer, and what is measured of it."""

from __future__ import annotations

import math
import os
import signal
import time
import warnings
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities.warnings import PossibleUserWarning
from torch import Tensor, nn

from .choices import build_layer, build_optimizer, build_schedules, fill, loss_function
from .data import DIGITS, PIXELS, Batches, Digits
from .setting import Setting

PARTS = 10  # of an epoch, whose mean losses are kept


@dataclass(frozen=True)
class Execution:
    """How trainings are run, which determines no number but times."""

    devices: int = 1
    strategy: str = "auto"
    progress: bool = False


@dataclass(frozen=True)
class Run:
    """One training and what came out of it."""

    setting: Setting
    engine: str  # which one of ours ran; empty for torch
    test_accuracy: float  # percent, after the last epoch
    train_loss: float  # mean over the last epoch
    seconds_per_epoch: float  # median over epochs, training only
    microseconds_per_step: float  # median over steps, `optimizer.step` without forward and backward
    diverged: bool  # some loss was NaN or infinite
    test_accuracies: list[float]  # after every epoch
    epoch_seconds: list[float]
    losses: list[float]  # means over tenths of an epoch, or over batches where an epoch has fewer than ten

    def seconds_to(self, target: float) -> tuple[int, float] | None:
        """Epochs and seconds of training until the test accuracy was at least this."""
        for epoch, accuracy in enumerate(self.test_accuracies, start=1):
            if accuracy >= target:
                return epoch, sum(self.epoch_seconds[:epoch])
        return None

    def flat(self) -> dict[str, Any]:
        """With the fields of the setting among its own, as tables have it."""
        row = asdict(self)
        return row.pop("setting") | row


def build_mlp(setting: Setting) -> nn.Sequential:
    """784 - hidden - 10 with the activation in between; weights from the seed, biases zero."""
    generator = torch.Generator().manual_seed(setting.seed)
    of_pixels, of_hidden = setting.dropout
    layers: list[nn.Module] = [nn.Dropout(of_pixels)] if of_pixels else []
    for n_in, n_out in pairwise([PIXELS, *setting.hidden]):
        layer, linear = build_layer(n_in, n_out, setting.activation, setting.library)
        fill(linear, setting.init, setting.activation, generator)
        layers += layer if isinstance(layer, nn.Sequential) else [layer]
        layers += [nn.Dropout(of_hidden)] if of_hidden else []
    output = nn.Linear([PIXELS, *setting.hidden][-1], DIGITS)
    fill(output, setting.init, setting.activation, generator)
    return nn.Sequential(*layers, output)


class Classifier(LightningModule):
    """Trains an MLP; keeps all losses, the accuracy after each epoch and the time of every step and epoch."""

    def __init__(self, mlp: nn.Sequential, optimizer: torch.optim.Optimizer, digits: Digits, setting: Setting) -> None:
        super().__init__()
        self.mlp, self.optimizer, self.digits, self.setting = mlp, optimizer, digits, setting
        self.loss = loss_function(setting.loss, setting.library)
        # Nesterov's gradients are those ahead of the parameters.
        self.where = getattr(optimizer, "lookahead", nullcontext)
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
        with self.where():
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


@torch.no_grad()
def limit_norms(mlp: nn.Sequential, largest: float) -> None:
    """Shrink the weights into each unit to this norm where they exceed it."""
    for weight in (parameter for parameter in mlp.parameters() if parameter.ndim == 2):
        weight.copy_(torch.renorm(weight, p=2, dim=0, maxnorm=largest))


@torch.no_grad()
def accuracy(mlp: nn.Sequential, images: Tensor, labels: Tensor) -> float:
    """Percentage of images whose label is the largest output."""
    mlp.eval()
    correct = int((mlp(images).argmax(1) == labels).sum())
    mlp.train()
    return 100.0 * correct / len(labels)


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


def machines() -> int:
    """How many take part; torchrun tells."""
    return int(os.environ.get("GROUP_WORLD_SIZE", 1))


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


def train(setting: Setting, digits: Digits, execution: Execution = Execution(), name: str = "") -> Run:
    """Train one network on digits that are scaled as the setting asks, and measure it.

    The runs of a seed are paired: they see the same batches in the same order, and their weights are the same random
    draw, scaled as init and activation ask.
    """
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
