"""Plans of trainings: shown, executed, kept. What there is to say to the user is said here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import NoReturn, TextIO

from arguments import fail
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from .data import Digits
from .duration import estimate_seconds, known_runs, show_duration
from .setting import Setting, labels, pair, point
from .store import Store
from .tables import Table
from .training import Execution, Run, machines, train

PROGRAM = "mnist.py"


def processes(options: argparse.Namespace) -> int:
    """On all machines."""
    return machines() * options.devices


def show_plan(plan: Sequence[Setting], digits: Digits, store: Store) -> None:
    known = known_runs(store)
    names = labels(plan)
    left = [setting for setting in plan if store.find(setting, digits.digest) is None]
    seconds: dict[Setting, float] = {}
    for setting in left:
        if point(setting) not in seconds:
            seconds[point(setting)] = estimate_seconds(setting, digits, known)
    rows = []
    for one, name in names.items():
        count = sum(point(setting) == one for setting in plan)
        missing = sum(point(setting) == one for setting in left)
        time_left = show_duration(missing * seconds[one]) if missing else "-"
        rows.append([name, f"{count}", f"{count - missing}", f"{one.epochs}", time_left])
    print(Table("Plan", ["", "runs", "done", "epochs", "time left"], rows).text())
    total = show_duration(sum(seconds[point(setting)] for setting in left))
    print(f"\n{len(plan)} runs, of which {len(plan) - len(left)} are in {store.path}; the others take about {total}.")


def train_all(plan: Sequence[Setting], digits: Digits, options: argparse.Namespace, store: Store) -> Iterator[Run]:
    """The runs of a plan, from the store or trained."""
    execution = Execution(options.devices, options.strategy, options.progress)
    names, width = labels(map(pair, plan)), len(str(len(plan)))
    # All processes of a training must train the same: those of other machines may not see what is stored.
    stored = {} if processes(options) > 1 else {one: run for one in plan if (run := store.find(one, digits.digest))}
    if stored:
        say(f"{len(stored)} of {len(plan)} runs are in {store.path} already")
    scaled: dict[str, Digits] = {}
    for number, setting in enumerate(plan, start=1):
        if setting in stored:
            yield stored[setting]
            continue
        name = f"[{number:{width}}/{len(plan)}] {names[pair(setting)]}, seed {setting.seed}, {setting.library}"
        if setting.scale not in scaled:
            scaled = {setting.scale: digits.scaled(setting.scale)}
        run = train(setting, scaled[setting.scale], execution, name)
        keep(store, run, digits, options)
        result = "diverged" if run.diverged else f"{run.test_accuracy:.2f} %"
        say(f"{name}: {result}, {run.seconds_per_epoch:.2f} s per epoch")
        yield run


def collect(source: Iterator[Run]) -> tuple[list[Run], int]:
    """The runs until the end or Ctrl-C, and the exit status."""
    runs: list[Run] = []
    try:
        for run in source:
            runs.append(run)
    except KeyboardInterrupt:
        say(f"\n{PROGRAM}: interrupted; runs finished: {len(runs)}", sys.stderr)
        return runs, 130
    return runs, 0


# ---------------------------------------------------------------- what must be there, and files


def check_scipy() -> None:
    """Before training rather than after."""
    if find_spec("scipy") is None:
        fail(PROGRAM, "intervals and tests need SciPy: pip install scipy", status=1)


def open_store(options: argparse.Namespace) -> Store:
    """The results of the folder; says which lines are damaged."""
    try:
        store = Store(options.out)
    except OSError as error:
        fail(PROGRAM, f"cannot read {options.out}: {error.strerror}; name another folder with --out", status=1)
    if store.damaged:
        lines = f"line {', '.join(map(str, store.damaged))}"
        say(f"{PROGRAM}: {store.path}: {lines} damaged, ignored; these runs are repeated", sys.stderr)
    return store


@rank_zero_only
def keep(store: Store, run: Run, digits: Digits, options: argparse.Namespace) -> None:
    try:
        store.append(run, digits.digest)
    except OSError as error:
        fail_to_write(options.out, error)


@rank_zero_only
def check_writable(folder: Path) -> None:
    """Make the folder for the results and try it, before training rather than after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        fail_to_write(folder, error)


def fail_to_write(folder: Path, error: OSError) -> NoReturn:
    fail(PROGRAM, f"cannot write to {folder}: {error.strerror}; name another folder with --out", status=1)


@rank_zero_only
def say(text: str, file: TextIO | None = None) -> None:
    print(text, file=file, flush=True)
