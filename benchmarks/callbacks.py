"""Times training with the monitors beside training without, at the Trainer's default interval of 50 steps.

    python benchmarks/callbacks.py
    python benchmarks/callbacks.py --monitor activation,all --batch 32 --seconds 20
    python benchmarks/callbacks.py --check               # exit status 1 if a monitor costs more than it may
    python benchmarks/callbacks.py --device cuda

The MLP is 784-256-128-10 with ReLU, cross-entropy and our Adam, the digits are random; Lightning trains it, with a
CSVLogger. The contenders take turns of 50 steps within one training, each with one measurement, so that neighbours in
a quotient are a tenth of a second apart. What happens before the first step is not timed. The probe batch of
ActivationMonitor has 300 examples. On CUDA, too, turns are timed by the clock of the host, which waits for the device
between two of them: a training is Lightning's Python above all.
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from tempfile import TemporaryDirectory

import torch
from arguments import names_of, whole_number
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from side_by_side import (
    LEAST_ROUNDS,
    Spread,
    Verdict,
    order_of_round,
    parse_common_options,
    parser_with_common_options,
    ratio,
    results_file,
    run,
    show_seconds,
    spread,
)
from torch import Tensor, nn

from torch_lecture_ops import optim
from torch_lecture_ops.callbacks import (
    ActivationMonitor,
    EffectiveLearningRateMonitor,
    GradientMonitor,
    UpdateRatioMonitor,
)

PROGRAM = "callbacks.py"

MONITORS: dict[str, Callable[[Tensor], Callback]] = {
    "activation": ActivationMonitor,
    "gradient": lambda probe: GradientMonitor(),
    "gradient-of-outputs": lambda probe: GradientMonitor(of="outputs"),
    "update-ratio": lambda probe: UpdateRatioMonitor(),
    "effective-learning-rate": lambda probe: EffectiveLearningRateMonitor(),
}
ALL = "all"

CEILING = 0.05  # of the time without, for each monitor; CPU, float32, batch 128, interval 50
CEILING_BATCH = 128
INTERVAL = 50  # the Trainer's default
WARM_UP = 2  # rounds
PRECISIONS = {"float32": "32-true", "float64": "64-true", "float16": "16-true", "bfloat16": "bf16-true"}

COLUMNS = {"monitor": -24, "rounds": 6, "step without": 12, "step with": 12, "cost, % [quartiles]": 22, "ceiling": 7}


@dataclass(frozen=True)
class Cost:
    """A monitor, or all together: one line of the table."""

    monitor: str
    rounds: int
    seconds: dict[str, Spread]  # of a training step, "without" and "with"
    cost: Spread  # what is added, as a fraction of the time without
    ceiling: float | None

    def cells(self) -> list[str]:
        without, with_it = (show_seconds(self.seconds[side].median) for side in ("without", "with"))
        shown = "{:.2f} [{:.2f}, {:.2f}]".format(*(100 * x for x in (self.cost.median, self.cost.low, self.cost.high)))
        ceiling = "-" if self.ceiling is None else f"{100 * self.ceiling:g} %"
        return [self.monitor, str(self.rounds), without, with_it, shown, ceiling]

    def verdicts(self) -> list[Verdict]:
        if self.ceiling is None:
            return []
        text = f"{self.monitor}: costs {100 * self.cost.median:.2f} % of the training, ceiling {100 * self.ceiling:g} %"
        return [(text, self.cost.median <= self.ceiling)]


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
    """Gives the contenders the callbacks of the Trainer in turns of INTERVAL steps, and takes the time of each."""

    def __init__(self, contenders: dict[str, list[Callback]], batches: Batches, seconds: float) -> None:
        self.contenders, self.batches, self.seconds = contenders, batches, seconds
        self.samples: dict[str, list[float]] = {name: [] for name in contenders}
        self.queue: list[str] = []
        self.round = -WARM_UP
        self.name = ""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        # What the last batch of a turn had written to the logger has been saved by now.
        if batch_idx % INTERVAL:
            return
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self.name and self.round > 0:
            self.samples[self.name].append((now - self.start) / INTERVAL)
        if not self.queue:
            self.queue = order_of_round(list(self.contenders), self.round)
            self.round += 1
            if self.round == 1:
                self.end = now + self.seconds
            self.batches.is_over = self.round > LEAST_ROUNDS and now > self.end
        self.name = self.queue.pop(0)
        trainer.callbacks = [*self.contenders[self.name], self]
        self.start = time.perf_counter()


def measure_all(options: argparse.Namespace) -> Iterator[Cost]:
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
    probe = torch.rand(300, 784)
    monitors = {name: make(probe) for name, make in MONITORS.items() if {name, ALL} & set(options.monitor)}
    chosen = {name: list(monitors.values()) if name == ALL else [monitors[name]] for name in options.monitor}
    batches = Batches(options.batch)
    turns = Turns({"without": [], **chosen}, batches, options.seconds * len(chosen))
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

    has_ceiling = (options.device, options.dtype, options.batch) == ("cpu", "float32", CEILING_BATCH)
    without = turns.samples["without"]
    for name in chosen:
        quotient = ratio(turns.samples[name], without)
        yield Cost(
            monitor=name,
            rounds=len(without),
            seconds={"without": spread(without), "with": spread(turns.samples[name])},
            cost=Spread(quotient.median - 1, quotient.low - 1, quotient.high - 1),
            ceiling=CEILING if has_ceiling and name != ALL else None,
        )


def main(argv: list[str] | None = None) -> int:
    parser = parser_with_common_options(PROGRAM, "Time training with the monitors beside training without.")
    add = parser.add_argument
    known = [*MONITORS, ALL]
    add("--monitor", type=names_of(known), default=",".join(known), metavar="A,B", help=", ".join(known))
    add("--batch", type=whole_number, default=CEILING_BATCH, metavar="N", help="images a step (default %(default)s)")
    options = parse_common_options(parser, argv)
    options.json = results_file(PROGRAM, options)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    return run(measure_all(options), COLUMNS, options, PROGRAM)


if __name__ == "__main__":
    sys.exit(main())
