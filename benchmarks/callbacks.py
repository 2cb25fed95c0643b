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
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from side_by_side import (
    Spread,
    Verdict,
    parse_common_options,
    parser_with_common_options,
    ratio,
    results_file,
    run,
    show_seconds,
    spread,
)
from torch import Tensor, nn

from torch_lecture_ops.arguments import names_of, whole_number

PROGRAM = "callbacks.py"


def monitor(name: str, **options: Any) -> Any:
    from torch_lecture_ops import callbacks

    return getattr(callbacks, name)(**options)


MONITORS: dict[str, Callable[[Tensor], Any]] = {
    "activation": lambda probe: monitor("ActivationMonitor", probe=probe),
    "gradient": lambda probe: monitor("GradientMonitor"),
    "gradient-of-outputs": lambda probe: monitor("GradientMonitor", of="outputs"),
    "update-ratio": lambda probe: monitor("UpdateRatioMonitor"),
    "effective-learning-rate": lambda probe: monitor("EffectiveLearningRateMonitor"),
}
ALL = "all"

CEILING = 0.05  # of the time without, for each monitor; CPU, float32, batch 128, interval 50
CEILING_BATCH = 128
INTERVAL = 50  # the Trainer's default

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


def measure_all(options: argparse.Namespace) -> Iterator[Cost]:
    from turns import train_in_turns  # with Lightning, which takes seconds to import

    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
    probe = torch.rand(300, 784)
    monitors = {name: make(probe) for name, make in MONITORS.items() if {name, ALL} & set(options.monitor)}
    chosen = {name: list(monitors.values()) if name == ALL else [monitors[name]] for name in options.monitor}
    samples = train_in_turns(mlp, {"without": [], **chosen}, options, INTERVAL)
    has_ceiling = (options.device, options.dtype, options.batch) == ("cpu", "float32", CEILING_BATCH)
    without = samples["without"]
    for name in chosen:
        quotient = ratio(samples[name], without)
        yield Cost(
            monitor=name,
            rounds=len(without),
            seconds={"without": spread(without), "with": spread(samples[name])},
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
    return run(measure_all(options), COLUMNS, options, PROGRAM)


if __name__ == "__main__":
    sys.exit(main())
