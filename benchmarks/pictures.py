"""Times the pictures as commands: whole processes, from the shell's prompt to the file.

    python benchmarks/pictures.py
    python benchmarks/pictures.py --check      # exit status 1 if a ceiling is missed

The race has 8 optimizers and 200 steps, and finds a rate for each of them by trying 21.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from side_by_side import Spread, Verdict, results_file, run, show_seconds, spread

from torch_lecture_ops.arguments import OneLineParser, fail, whole_number

PROGRAM = "pictures.py"
COLUMNS = {"picture": -28, "seconds": 10, "from": 10, "to": 10, "at most": 10}
# The arguments of `python -m torch_lecture_ops.pictures` -> the most seconds it may take.
PICTURES = {
    "race --format png": 5.0,
    "race --format gif": 20.0,
    "race --format html": 5.0,
    "valley": None,
    "zigzag": None,
    "saddle": None,
    "momentum-forms": None,
    "nesterov": None,
    "activation": None,
    "schedule": None,
}


@dataclass(frozen=True)
class Picture:
    """A line of the table."""

    arguments: str
    seconds: Spread
    ceiling: float | None

    def cells(self) -> list[str]:
        times = self.seconds.median, self.seconds.low, self.seconds.high, self.ceiling
        return [self.arguments, *map(show_seconds, times)]

    def verdicts(self) -> list[Verdict]:
        if self.ceiling is None:
            return []
        text = f"{self.arguments} {self.seconds.median:.1f} s, at most {self.ceiling:g}"
        return [(text, self.seconds.median <= self.ceiling)]


def measure(options: argparse.Namespace) -> Iterator[Picture]:
    for arguments, ceiling in PICTURES.items():
        yield Picture(arguments, spread([seconds_of(arguments) for _ in range(options.rounds)]), ceiling)


def seconds_of(arguments: str) -> float:
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch_lecture_ops.pictures", *arguments.split(), "--out", folder]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - start
    if done.returncode:
        fail(PROGRAM, f"{arguments} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}", status=1)
    return seconds


def main(argv: list[str] | None = None) -> int:
    parser = OneLineParser(PROGRAM, description="Time the pictures as commands.", allow_abbrev=False)
    add = parser.add_argument
    add("--rounds", type=whole_number, default=3, metavar="N", help="runs of each (default %(default)s)")
    add("--json", type=Path, metavar="PATH", help="file for the results (default: in runs/)")
    add("--check", action="store_true", help="exit with 1 if a picture takes longer than it may")
    parser.set_defaults(device="cpu", dtype="float32", graph=False, capability=None)
    options = parser.parse_args(argv)
    options.json = results_file(PROGRAM, options)
    return run(measure(options), COLUMNS, options, PROGRAM)


if __name__ == "__main__":
    sys.exit(main())
