"""A small training and what the tests of all callbacks ask of it."""

import csv
import warnings
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.warnings import PossibleUserWarning
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torch_lecture_ops import optim

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
LABELS = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()


def mlp(activation=nn.ReLU):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 3))


class Classifier(LightningModule):
    """Trains a network with an optimizer made of its parameters."""

    def __init__(self, network=None, optimizer=lambda params: optim.SGD(params, lr=0.1)):
        super().__init__()
        self.network = mlp() if network is None else network
        self.make_optimizer = optimizer

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, batch_idx):
        x, labels = batch
        return nn.functional.cross_entropy(self(x), labels)

    def configure_optimizers(self):
        return self.make_optimizer(self.parameters())


class TwoOptimizers(Classifier):
    """Trains by hand: two halves, each with its own optimizer, taken as Lightning wraps it or bare."""

    def __init__(self, is_wrapped=True):
        super().__init__()
        self.automatic_optimization = False
        self.is_wrapped = is_wrapped

    def training_step(self, batch, batch_idx):
        optimizers = self.optimizers(use_pl_optimizer=self.is_wrapped)
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        for optimizer in optimizers:
            optimizer.step()

    def configure_optimizers(self):
        first, second = self.network[:2], self.network[2:]
        return optim.Adam(first.parameters(), lr=0.01), torch.optim.SGD(second.parameters(), lr=0.1)


def batches(x=X, labels=LABELS):
    return DataLoader(TensorDataset(x, labels), batch_size=8)


@pytest.fixture
def train(tmp_path):
    """train(callbacks, model, **options of the Trainer) fits and returns the Trainer."""

    def train(callbacks=(), model=None, data=None, **options):
        ckpt_path = options.pop("ckpt_path", None)
        defaults = dict(
            accelerator="cpu",
            logger=CSVLogger(tmp_path),
            max_epochs=1,
            log_every_n_steps=2,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        callbacks = list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=PossibleUserWarning)  # Lightning's advice
            trainer = Trainer(**{**defaults, "callbacks": callbacks, **options})
            model = Classifier() if model is None else model
            trainer.fit(model, batches() if data is None else data, ckpt_path=ckpt_path)
        return trainer

    return train


@pytest.fixture
def rows():
    """rows(trainer): the lines of the CSV that hold something of a key, as {key: number}, and their steps."""

    def rows(trainer, prefix):
        with open(f"{trainer.logger.log_dir}/metrics.csv", newline="") as file:
            found = [{key: float(value) for key, value in line.items() if value != ""} for line in csv.DictReader(file)]
        return [line for line in found if any(key.startswith(prefix + "/") for key in line)]

    return rows


@pytest.fixture
def kit():
    return SimpleNamespace(
        Classifier=Classifier, TwoOptimizers=TwoOptimizers, mlp=mlp, batches=batches, x=X, labels=LABELS
    )
