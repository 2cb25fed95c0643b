"""Handwritten digits for the pictures that need a trained network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["digits", "read_idx"]


def __dir__() -> list[str]:
    return __all__


SUBSET = Path(__file__).parents[2] / "benchmarks" / "data" / "mnist_subset.npz"  # of a checkout
MNIST = Path("MNIST", "raw")  # as torchvision lays it


def digits(folder: Path | str | None = None, count: int = 500) -> tuple[Tensor, Tensor]:
    """The first training images of MNIST, float64 of shape (count, 784) in [0, 1], and their labels.

    Arguments:
        folder: the `root` of torchvision's MNIST, which holds MNIST/raw; None for the digits that a checkout of
            torch_lecture_ops has.
        count: how many.

    Raises:
        FileNotFoundError: there are none.
    """
    try:
        if folder is None:
            with SUBSET.open("rb") as stream, np.load(stream) as file:
                images, labels = (torch.from_numpy(file[f"train_{name}"][:count]) for name in ("images", "labels"))
        else:
            raw = Path(folder) / MNIST
            images, labels = (read_idx(raw / f"train-{kind}-ubyte")[:count] for kind in ("images-idx3", "labels-idx1"))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"digits: there are none in {error.filename}; name a folder that holds {MNIST}, such as the one to which "
            "torchvision.datasets.MNIST(folder, download=True) downloads it, or take those of a checkout"
        ) from None
    return images.flatten(1).double() / 255, labels.long()


def read_idx(path: Path) -> Tensor:
    """The bytes of a file of MNIST's format: its fourth byte counts the dimensions, whose sizes follow."""
    contents = path.read_bytes()
    shape = np.frombuffer(contents, ">u4", count=contents[3], offset=4)
    return torch.from_numpy(np.frombuffer(contents, np.uint8, offset=4 + shape.nbytes).reshape(shape).copy())
