"""Writes data/mnist_subset.npz: 1,000 training and 200 test images of each MNIST digit.

    python benchmarks/make_mnist_subset.py --data-dir DIR

DIR is the folder of torchvision's MNIST/raw, to which the full set is downloaded if it is not there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

SUBSET = Path(__file__).parent / "data" / "mnist_subset.npz"
SEED = 0
TRAIN_PER_DIGIT, TEST_PER_DIGIT = 1000, 200


def choose(labels: np.ndarray, per_digit: int) -> np.ndarray:
    """Ascending indices of `per_digit` random images of each digit."""
    # RandomState rather than default_rng: NumPy promises that its stream never changes.
    random = np.random.RandomState(SEED)
    chosen = [random.permutation(np.flatnonzero(labels == digit))[:per_digit] for digit in range(10)]
    return np.sort(np.concatenate(chosen))


def make_subset(data_dir: Path) -> dict[str, np.ndarray]:
    """The four arrays of the file, all uint8: {train,test}_images (n, 28, 28) and {train,test}_labels (n,)."""
    from torchvision.datasets import MNIST  # takes seconds to import

    arrays = {}
    for part, per_digit in (("train", TRAIN_PER_DIGIT), ("test", TEST_PER_DIGIT)):
        full = MNIST(data_dir, train=part == "train", download=True)
        images, labels = full.data.numpy(), full.targets.numpy()
        chosen = choose(labels, per_digit)
        arrays[f"{part}_images"] = images[chosen]
        arrays[f"{part}_labels"] = labels[chosen].astype(np.uint8)
    return arrays


def main() -> None:
    parser = argparse.ArgumentParser(description="Choose the MNIST subset that benchmarks/mnist.py uses by default.")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of torchvision's MNIST/raw")
    parser.add_argument("--out", type=Path, default=SUBSET, help="file to write (default: data/ beside this script)")
    arguments = parser.parse_args()
    np.savez_compressed(arguments.out, **make_subset(arguments.data_dir))
    print(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
