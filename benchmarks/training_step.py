"""Times training steps, forward, backward and optimizer, of an MLP with our optimizers beside torch's.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --optimizer rmsprop,nadam --batch 128 --seconds 20
    python benchmarks/training_step.py --check           # exit status 1 if a floor is missed
    python benchmarks/training_step.py --device cuda     # with --graph: steps captured whole, see optimizer_step.py

The MLP is 784-512-512-10 with ReLU and cross-entropy, the digits are random. Every contender trains a model of its
own from the same weights on the same batch: ours, torch's default (`torch.optim.Adam(params)`), and every path of torch
that exists (loop, foreach, fused). "Torch's best" is the fastest of them all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from optimizer_step import CASES, TORCH_PATHS, our_optimizer, torch_optimizer
from side_by_side import (
    DTYPES,
    Spread,
    Verdict,
    add_graph,
    contender,
    measure,
    parse_common_options,
    parser_with_common_options,
    ratio,
    results_file,
    run,
    show_ratio,
    spread,
)
from torch import nn

from torch_lecture_ops.arguments import names_of, whole_number

PROGRAM = "training_step.py"

LEARNING_RATE = 1e-5

# Images per second of ours / of torch's best, CPU, float32, batch 32.
FLOORS = {"rmsprop": 1.1, "nadam": 1.1, "sgd": 0.95, "adam": 0.95}
FLOOR_BATCH = 32

COLUMNS = {"optimizer": -16, "ours": 10, "default": 10, "loop": 10, "foreach": 10, "fused": 10}
COLUMNS |= {"ours / best [quartiles]": 23, "floor": 5, "ours / default": 14}


@dataclass(frozen=True)
class Comparison:
    """A class: one line of the table. Images per second are the batch through the seconds of a step."""

    optimizer: str
    rounds: int
    images_per_second: dict[str, float]
    seconds: dict[str, Spread]
    best: str
    ratio: Spread  # torch's best / ours, in seconds: ours / torch's best in images per second
    default_ratio: Spread
    floor: float | None

    def cells(self) -> list[str]:
        rates = (self.images_per_second.get(path) for path in ("ours", "default", *TORCH_PATHS))
        shown = ["-" if rate is None else f"{rate:,.0f}" for rate in rates]
        floor = "-" if self.floor is None else f"{self.floor}"
        return [self.optimizer, *shown, show_ratio(self.ratio), floor, f"{self.default_ratio.median:.2f}"]

    def verdicts(self) -> list[Verdict]:
        if self.floor is None:
            return []
        text = f"{self.optimizer}: images per second, ours / {self.best} {self.ratio.median:.3f}, floor {self.floor}"
        return [(text, self.ratio.median >= self.floor)]


def compare_all(options: argparse.Namespace) -> Iterator[Comparison]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    model.to(options.device, DTYPES[options.dtype])
    images = torch.rand(options.batch, 784).to(options.device, DTYPES[options.dtype])
    labels = torch.randint(10, (options.batch,), device=options.device)
    for name in options.optimizer:
        yield compare(name, model, images, labels, options)


def compare(
    name: str, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, options: argparse.Namespace
) -> Comparison:
    def trained_by(make: Callable[..., torch.optim.Optimizer]) -> Callable[[], object]:
        own = deepcopy(model)
        optimizer = make(params=own.parameters(), lr=LEARNING_RATE, graph=options.graph)
        return contender(training_step(own, optimizer, images, labels), options)

    steps = {"ours": trained_by(partial(our_optimizer, CASES[name]))}
    for path in ("default", *TORCH_PATHS):
        with suppress(RuntimeError):  # there is no such path
            steps[path] = trained_by(partial(torch_optimizer, CASES[name], path))
    samples = measure(steps, options)
    best = min((path for path in steps if path != "ours"), key=lambda path: median(samples[path]))
    has_floor = (options.device, options.dtype, options.batch) == ("cpu", "float32", FLOOR_BATCH)
    return Comparison(
        optimizer=name,
        rounds=len(samples["ours"]),
        images_per_second={path: options.batch / median(times) for path, times in samples.items()},
        seconds={path: spread(times) for path, times in samples.items()},
        best=best,
        ratio=ratio(samples[best], samples["ours"]),
        default_ratio=ratio(samples["default"], samples["ours"]),
        floor=FLOORS.get(name) if has_floor else None,
    )


def training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor
) -> Callable[[], object]:
    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def main(argv: list[str] | None = None) -> int:
    parser = parser_with_common_options(PROGRAM, "Time training steps with our optimizers beside torch's.")
    add = parser.add_argument
    add("--optimizer", type=names_of(CASES), default=",".join(FLOORS), metavar="A,B", help=", ".join(CASES))
    add("--batch", type=whole_number, default=FLOOR_BATCH, metavar="N", help=f"images a step (default {FLOOR_BATCH})")
    add_graph(parser)
    options = parse_common_options(parser, argv)
    options.json = results_file(PROGRAM, options)
    return run(compare_all(options), COLUMNS, options, PROGRAM)


if __name__ == "__main__":
    sys.exit(main())
