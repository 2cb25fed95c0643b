"""The digits: the committed subset or the full MNIST, all of it in memory, and its batches."""

from __future__ import annotations

import hashlib
import math
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from torch_lecture_ops.arguments import one_line
from torch_lecture_ops.pictures.digits import read_idx

SUBSET = Path(__file__).parents[1] / "data" / "mnist_subset.npz"
PIXELS, DIGITS = 28 * 28, 10
DATASETS = ("subset", "mnist", "fashion")
FILES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]

# What is subtracted from pixels in [0, 1], and then divided by: "standard" has the mean and the standard deviation of
# the full MNIST; "algoperf" the same numbers for pixels of 0 to 255, as they come, which leaves a mean of 108.
SCALES = {
    "unit": (0.0, 1.0),
    "centred": (0.5, 1.0),
    "standard": (0.1307, 0.3081),
    "algoperf": (0.1307 / 255, 0.3081 / 255),
}


class DataError(Exception):
    """Why there are no digits, in one line that says what to do."""


@dataclass(frozen=True)
class Digits:
    """Images as rows of pixels in [0, 1], float32 (n, 784), and labels, int64 (n,)."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    @cached_property
    def digest(self) -> str:
        """Names exactly these digits."""
        digest = hashlib.sha256()
        for field in fields(self):
            digest.update(getattr(self, field.name).numpy())
        return digest.hexdigest()[:16]

    def scaled(self, scale: str) -> Digits:
        shift, divisor = SCALES[scale]
        if (shift, divisor) == (0.0, 1.0):
            return self
        train, test = ((images - shift) / divisor for images in (self.train_images, self.test_images))
        return replace(self, train_images=train, test_images=test)


def as_digits(train_images: Tensor, train_labels: Tensor, test_images: Tensor, test_labels: Tensor) -> Digits:
    """From MNIST's own form: bytes of shape (n, 28, 28) and labels of shape (n,)."""
    for images, labels in ((train_images, train_labels), (test_images, test_labels)):
        if images.shape != (len(labels), 28, 28) or not 0 <= labels.min() <= labels.max() < DIGITS:
            raise ValueError("not images of 28 x 28 with labels 0 to 9")
    train, test = (images.flatten(1).float() / 255 for images in (train_images, test_images))
    return Digits(train, train_labels.long(), test, test_labels.long())


def load(dataset: str, folder: Path) -> Digits:
    """The digits of this name; DataError if they cannot be had. `folder` is not needed for the subset."""
    return load_subset() if dataset == "subset" else load_full(dataset, folder)


def load_subset(path: Path = SUBSET) -> Digits:
    """The digits that come with the suite."""
    try:
        with path.open("rb") as stream, np.load(stream) as file:
            return as_digits(**{field.name: torch.from_numpy(file[field.name]) for field in fields(Digits)})
    # All that NumPy, zipfile and torch raise for a file that is missing, cut short, altered or something else.
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"cannot read {path}: {one_line(error)}; restore it from git or with make_mnist_subset.py"
        ) from error


def load_full(dataset: str, folder: Path) -> Digits:
    """The full MNIST or Fashion-MNIST in torchvision's layout, downloaded if it is not there."""
    name = {"mnist": "MNIST", "fashion": "FashionMNIST"}[dataset]
    files = [folder / name / "raw" / file for file in FILES]
    absent = not files[0].exists()
    try:
        if not all(file.exists() for file in files):
            from torchvision import datasets  # takes seconds to import

            getattr(datasets, name)(folder, download=True)
        return as_digits(*map(read_idx, files))
    except (OSError, ValueError, RuntimeError, IndexError) as error:
        trouble = "is not there and cannot be downloaded" if absent else "is incomplete or damaged"
        raise DataError(
            f"{name} in {folder} {trouble} ({one_line(error)}); "
            f"name the folder that holds {name}/raw with --data-dir, or take --dataset subset"
        ) from error


class Batches:
    """Shuffled batches of tensors in memory: pass number n has the n-th order drawn from the seed.

    Of several processes each has its part of every batch. All parts are equally large, so that the mean of their
    gradients is the gradient of the batch: `batch_size` is a multiple of the number of processes, and a pass leaves
    out the last images of its order, fewer than there are processes.

    A DataLoader fetches and collates image by image, which would take longer than the training itself.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, batch_size: int, seed: int, process: int = 0, processes: int = 1
    ) -> None:
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.process, self.processes = process, processes
        self.count = len(images) - len(images) % processes
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return math.ceil(self.count / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.images), generator=self.generator)
        for rows in order[: self.count].split(self.batch_size):
            part = rows[self.process :: self.processes]
            yield self.images[part], self.labels[part]
