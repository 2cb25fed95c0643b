"""Times an epoch of the MNIST suite, Lightning and our Adam, beside a bare loop with torch's fused Adam.

    python benchmarks/epoch.py
    python benchmarks/epoch.py --rounds 20 --check       # exit status 1 if the floor is missed

The MLP is 784-512-512-10 with ReLU and cross-entropy, the batches have 128 of 60,000 images. They are random, as large
as MNIST: all of it lies in memory, and batches are gathered from there. Each of the four trains a model of its own from
the same weights on the same batches, in turns:

    bare, torch          for images, labels in batches: zero_grad, forward, backward, torch.optim.Adam(fused=True).step
    bare, ours           the same loop with our Adam, ReLU and cross-entropy
    Lightning, torch     the Trainer of the suite with torch's classes, torch.optim.Adam(fused=True)
    Lightning, ours      the suite as it is

An epoch is all its batches, without the test that follows. What a call of `fit` takes beside that is shown, too.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from side_by_side import Spread, Verdict, order_of_round, ratio, results_file, run, show_ratio, show_seconds, spread
from suite.choices import LIBRARIES, build_optimizer
from suite.data import DIGITS, PIXELS, Batches, Digits
from suite.network import build_mlp
from suite.run import ALONE
from suite.setting import Setting

from torch_lecture_ops.arguments import OneLineParser, whole_number

if TYPE_CHECKING:  # takes seconds to import, which a typing error need not wait for
    from suite.training import Classifier

PROGRAM = "epoch.py"
IMAGES, TESTS = 60_000, 100
OPTIMIZERS = {"ours": "adam", "torch": "adam:fused=true"}
BASE, SUITE = "bare, torch", "Lightning, ours"
CEILING = 1.10  # of the seconds of SUITE / those of BASE

COLUMNS = {"": -18, "epoch": 10, "beside it": 10, "a step": 10, "/ bare, torch": 20}


@dataclass(frozen=True)
class Contender:
    """A line of the table."""

    name: str
    rounds: int
    seconds: Spread  # of an epoch
    beside: float  # of a call, beside its epoch
    seconds_per_step: float
    ratio: Spread
    ceiling: float | None

    def cells(self) -> list[str]:
        times = map(show_seconds, (self.seconds.median, self.beside, self.seconds_per_step))
        return [self.name, *times, show_ratio(self.ratio)]

    def verdicts(self) -> list[Verdict]:
        if self.ceiling is None:
            return []
        text = f"{self.name} / {BASE} {self.ratio.median:.3f}, at most {self.ceiling}"
        return [(text, self.ratio.median <= self.ceiling)]


def bare_epoch(classifier: Classifier) -> float:
    """A loop as one writes it by hand; its seconds."""
    digits, setting, mlp, optimizer = classifier.digits, classifier.setting, classifier.mlp, classifier.optimizer
    start = time.perf_counter()
    for images, labels in Batches(digits.train_images, digits.train_labels, setting.batch_size, setting.seed):
        optimizer.zero_grad()
        classifier.loss(mlp(images), labels).backward()
        optimizer.step()
    return time.perf_counter() - start


def suite_epoch(classifier: Classifier) -> float:
    from suite.training import fit

    fit(classifier, ALONE)
    return classifier.epoch_seconds[-1]


def contenders(images: int) -> dict[str, Callable[[], float]]:
    """Each trains an epoch and returns its seconds."""
    from suite.training import Classifier

    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(images, PIXELS, generator=generator)
    labels = torch.randint(DIGITS, (images,), generator=generator)
    digits = Digits(pixels, labels, pixels[:TESTS], labels[:TESTS])
    made: dict[str, Callable[[], float]] = {}
    for loop, epoch in (("bare", bare_epoch), ("Lightning", suite_epoch)):
        for library in reversed(LIBRARIES):
            setting = Setting(optimizer=OPTIMIZERS[library], library=library, hidden=(512, 512), lr=1e-3, epochs=1)
            mlp = build_mlp(setting)
            optimizer = build_optimizer(mlp.parameters(), setting.optimizer, library, setting.lr)
            made[f"{loop}, {library}"] = partial(epoch, Classifier(mlp, optimizer, digits, setting))
    return made


def measure(options: argparse.Namespace) -> Iterator[Contender]:
    epochs = contenders(options.images)
    seconds: dict[str, list[float]] = {name: [] for name in epochs}
    beside: dict[str, list[float]] = {name: [] for name in epochs}
    for number in range(-1, options.rounds):  # the first round compiles kernels
        for name in order_of_round(list(epochs), number + 1):
            start = time.perf_counter()
            inside = epochs[name]()
            if number >= 0:
                seconds[name].append(inside)
                beside[name].append(time.perf_counter() - start - inside)
    steps = -(-options.images // Setting().batch_size)
    for name, samples in seconds.items():
        middle = spread(samples)
        yield Contender(
            name=name,
            rounds=options.rounds,
            seconds=middle,
            beside=spread(beside[name]).median,
            seconds_per_step=middle.median / steps,
            ratio=ratio(samples, seconds[BASE]),
            ceiling=CEILING if name == SUITE else None,
        )


def main(argv: list[str] | None = None) -> int:
    parser = OneLineParser(PROGRAM, description="Time an epoch of the suite beside a bare loop.", allow_abbrev=False)
    add = parser.add_argument
    add("--rounds", type=whole_number, default=7, metavar="N", help="epochs of each (default %(default)s)")
    add("--images", type=whole_number, default=IMAGES, metavar="N", help="of an epoch (default %(default)s)")
    add("--json", type=Path, metavar="PATH", help="file for the results (default: in runs/)")
    add("--check", action="store_true", help=f"exit with 1 if the suite takes more than {CEILING} times the bare loop")
    parser.set_defaults(device="cpu", dtype="float32", graph=False, capability=None)
    options = parser.parse_args(argv)
    options.json = results_file(PROGRAM, options)
    return run(measure(options), COLUMNS, options, PROGRAM)


if __name__ == "__main__":
    sys.exit(main())
