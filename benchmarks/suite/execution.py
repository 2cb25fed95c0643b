"""Plans of trainings: shown, executed, kept. What there is to say to the user is said here."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NoReturn, TextIO

from torch_lecture_ops.arguments import fail

from .choices import first_change, parse
from .data import Digits
from .duration import estimate_seconds, known_runs, show_duration
from .run import Execution, Run
from .setting import Setting, labels, pair, point
from .store import Store
from .tables import Table

PROGRAM = "mnist.py"


def first_process_only(function: Callable[..., None]) -> Callable[..., None]:
    """The function, which does nothing in all processes but the first one."""

    @wraps(function)
    def wrapped(*args: Any) -> None:
        from lightning.pytorch.utilities.rank_zero import rank_zero_only

        rank_zero_only(function)(*args)

    return wrapped


def machines() -> int:
    """How many take part; torchrun tells."""
    return int(os.environ.get("GROUP_WORLD_SIZE", 1))


def processes(options: argparse.Namespace) -> int:
    """On all machines."""
    return machines() * options.devices


def show_plan(plan: Sequence[Setting], digits: Digits, store: Store) -> None:
    names = labels(plan)
    left = [setting for setting in plan if store.find(setting, digits.digest) is None]
    seconds = estimate_seconds(left, digits, known_runs(store))
    rows = []
    for one, name in names.items():
        count = sum(point(setting) == one for setting in plan)
        missing = sum(point(setting) == one for setting in left)
        time_left = show_duration(missing * seconds[one]) if missing else "-"
        rows.append([name, f"{count}", f"{count - missing}", f"{one.epochs}", time_left])
    print(Table("Plan", ["", "runs", "done", "epochs", "time left"], rows).text())
    total = show_duration(sum(seconds[point(setting)] for setting in left))
    print(f"\n{len(plan)} runs, of which {len(plan) - len(left)} are in {store.path}; the others take about {total}.")


LOOK_AHEAD = 1000  # steps of a schedule


def idle_schedules(plan: Iterable[Setting], digits: Digits) -> list[str]:
    """What to say of schedules that change nothing as long as the trainings of the plan last."""
    said = []
    for one in dict.fromkeys(map(pair, plan)):
        for part in one.schedule.split("+"):
            name, settings = parse(part)
            if name == "none":
                continue
            per = settings.get("per", "epoch")
            steps = one.epochs * (1 if per == "epoch" else math.ceil(len(digits.train_images) / one.batch_size))
            change = first_change(part, one.optimizer, one.lr, steps + LOOK_AHEAD)
            if change is None or change >= steps:
                units = {"epoch": "epochs", "batch": "batches"}[per]
                first = "its first change comes after " + (f"{change}" if change else f"more than {steps + LOOK_AHEAD}")
                said.append(f"schedule {part} has no effect yet in {steps} {units}: {first}")
    return list(dict.fromkeys(said))


def train_all(plan: Sequence[Setting], digits: Digits, options: argparse.Namespace, store: Store) -> Iterator[Run]:
    """The runs of a plan, from the store or trained."""
    from . import training

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
        run = training.train(setting, scaled[setting.scale], execution, name)
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


@first_process_only
def keep(store: Store, run: Run, digits: Digits, options: argparse.Namespace) -> None:
    try:
        store.append(run, digits.digest)
    except OSError as error:
        fail_to_write(options.out, error)


@first_process_only
def check_writable(folder: Path) -> None:
    """Make the folder for the results and try it, before training rather than after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        fail_to_write(folder, error)


def fail_to_write(folder: Path, error: OSError) -> NoReturn:
    fail(PROGRAM, f"cannot write to {folder}: {error.strerror}; name another folder with --out", status=1)


@first_process_only
def say(text: str, file: TextIO | None = None) -> None:
    print(text, file=file, flush=True)
