"""A training with Lightning in which sets of callbacks take turns: what callbacks.py measures.

Imported when it is run: Lightning takes seconds to import.
"""

from __future__ import annotations

import argparse
import gc
import logging
import time
import warnings
from collections.abc import Iterator
from itertools import cycle
from tempfile import TemporaryDirectory

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from side_by_side import LEAST_ROUNDS, order_of_round
from torch import Tensor, nn

from torch_lecture_ops import optim

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

WARM_UP = 2  # rounds
PRECISIONS = {"float32": "32-true", "float64": "64-true", "float16": "16-true", "bfloat16": "bf16-true"}


class Batches:
    """A few batches again and again, so that their preparation takes no time, until told to stop."""

    def __init__(self, batch: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.rand(8, batch, 784, generator=generator)
        self.labels = torch.randint(10, (8, batch), generator=generator)
        self.is_over = False

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for pair in cycle(zip(self.images, self.labels, strict=True)):
            if self.is_over:
                return
            yield pair


class Classifier(LightningModule):
    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, images: Tensor) -> Tensor:
        return self.mlp(images)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optim.Adam(self.parameters())


class Turns(Callback):
    """Gives the contenders the callbacks of the Trainer in turns of `interval` steps, and takes the time of each."""

    def __init__(
        self, contenders: dict[str, list[Callback]], batches: Batches, seconds: float, interval: int
    ) -> None:
        self.contenders, self.batches, self.seconds, self.interval = contenders, batches, seconds, interval
        self.samples: dict[str, list[float]] = {name: [] for name in contenders}
        self.queue: list[str] = []
        self.round = -WARM_UP
        self.name = ""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        # What the last batch of a turn had written to the logger has been saved by now.
        if batch_idx % self.interval:
            return
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self.name and self.round > 0:
            self.samples[self.name].append((now - self.start) / self.interval)
        if not self.queue:
            self.queue = order_of_round(list(self.contenders), self.round)
            self.round += 1
            if self.round == 1:
                self.end = now + self.seconds
            self.batches.is_over = self.round > LEAST_ROUNDS and now > self.end
        self.name = self.queue.pop(0)
        trainer.callbacks = [*self.contenders[self.name], self]
        self.start = time.perf_counter()


def train_in_turns(
    mlp: nn.Module, contenders: dict[str, list[Callback]], options: argparse.Namespace, interval: int
) -> dict[str, list[float]]:
    """The seconds of a training step with each contender's callbacks, one value a round."""
    batches = Batches(options.batch)
    turns = Turns(contenders, batches, options.seconds * (len(contenders) - 1), interval)
    monitors = {id(callback): callback for callbacks in contenders.values() for callback in callbacks}
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice, and the monitors', of digits without meaning
        trainer = Trainer(
            accelerator="gpu" if options.device == "cuda" else "cpu",
            devices=1,
            precision=PRECISIONS[options.dtype],
            max_epochs=1,
            callbacks=[*monitors.values(), turns],
            logger=CSVLogger(folder),
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        gc.disable()  # a collection would be paid by whoever happens to run
        try:
            trainer.fit(Classifier(mlp), batches)
        finally:
            gc.enable()
    return turns.samples
