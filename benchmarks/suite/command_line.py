"""The commands of mnist.py: what they train, what they print and write."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from papers import frame

from torch_lecture_ops.arguments import OneLineParser, each, fail, name_of, one_line, positive, whole_number
from torch_lecture_ops.without_the_compiler import without_the_compiler

from . import data
from .choices import LIBRARIES, available, checked, label, parse
from .data import DATASETS, DIGITS, PIXELS, SCALES, DataError, Digits
from .execution import (
    PROGRAM,
    check_scipy,
    check_writable,
    collect,
    fail_to_write,
    first_process_only,
    idle_schedules,
    open_store,
    processes,
    say,
    show_plan,
    train_all,
)
from .report import write_csv, write_json, write_loss_picture, write_report
from .run import Run
from .setting import Setting, grid
from .store import FILE
from .tables import Table, comparison, ranking, sensitivity, time_to_target

STRATEGIES = ("auto", "ddp")  # of Lightning's those that train in this very process, which keeps what it measures


@dataclass(frozen=True)
class Budget:
    """What is not said on the command line."""

    dataset: str
    epochs: int
    seeds: int


BUDGETS = {
    "smoke": Budget("subset", epochs=3, seeds=2),  # under a minute
    "short": Budget("mnist", epochs=5, seeds=5),  # minutes
    "paper": Budget("mnist", epochs=30, seeds=10),  # hours
}


# ---------------------------------------------------------------- values of options


def choices(kind: str, libraries: Sequence[str]) -> Callable[[str], list[str]]:
    """Parser of a comma-separated list of choices, see choices.py."""
    check = checked(kind, libraries)

    def parse_one(text: str) -> str:
        try:
            return check(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(one_line(error)) from None

    return each(parse_one)


def hidden(text: str) -> tuple[int, ...]:
    return tuple(whole_number(part) for part in text.split(","))


def networks(text: str) -> list[tuple[int, ...]]:
    """Widths with commas, networks with slashes."""
    return [hidden(part) for part in text.split("/")]


def batch_size(text: str) -> int | str:
    return "full" if text.lower() == "full" else whole_number(text)


def seeds(text: str) -> list[int]:
    """A count or, with a comma, a list."""
    if "," not in text:
        return list(range(whole_number(text)))
    return list(dict.fromkeys(whole_number(part, least=0) for part in text.rstrip(",").split(",")))


def learning_rates(text: str) -> list[float]:
    """A list, or low..high:count, evenly spaced in their logarithms."""
    if ".." not in text:
        return each(positive)(text)
    ends, _, count = text.partition(":")
    low, high = map(positive, ends.split("..", 1))
    if low >= high:
        raise argparse.ArgumentTypeError(f"the range {ends!r} is empty: write the lower end first")
    return [float(f"{rate:.6g}") for rate in np.geomspace(low, high, whole_number(count or "7", least=2))]


def percentage(text: str) -> float:
    if (value := positive(text)) > 100:
        raise argparse.ArgumentTypeError(f"must be a percentage, got {text!r}")
    return value


# ---------------------------------------------------------------- commands


@dataclass(frozen=True)
class Command:
    """What a command trains by default, and the tables it makes of it."""

    help: str
    tables: Callable[[Sequence[Run], argparse.Namespace], list[Table]]
    defaults: dict[str, str]
    libraries: tuple[str, ...] = ()  # (): as --library says


COMMANDS = {
    "compare": Command(
        "our classes beside torch's of the same name, from the same weights and batches (the default command)",
        lambda runs, options: [comparison(runs, "deviation" if options.budget == "smoke" else "interval")],
        dict(optimizer="sgd,rmsprop,adam", hidden="256,128"),
        LIBRARIES,
    ),
    "run": Command(
        "any grid; every point is tested against the first one",
        lambda runs, options: [ranking(runs)],
        dict(optimizer="sgd,rmsprop,adam", hidden="256,128"),
    ),
    "sensitivity": Command(
        "accuracy over a range of learning rates",
        lambda runs, options: [sensitivity(runs)],
        dict(optimizer="sgd,adagrad,rmsprop,adam", hidden="128", lr="1e-4..10:6"),
    ),
    "time-to-target": Command(
        "seconds and epochs until the test accuracy is that of --target; training ends there",
        lambda runs, options: [time_to_target(runs, options.target)],
        dict(optimizer="sgd,rmsprop,adam", hidden="512,512"),
    ),
}
REPORT = "report"
PAPER = "paper"
OTHERS = {
    REPORT: "tables and pictures of all results of a folder, once more",
    PAPER: "a published table beside ours, see papers/",
}
TARGETS = {"subset": "90,94", "mnist": "97,98", "fashion": "85,88"}


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    command, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("compare", argv)
    try:
        with without_the_compiler() if "--dry-run" in rest else nullcontext():
            return run_command(command, rest)
    except DataError as error:
        fail(PROGRAM, str(error), status=1)
    except KeyboardInterrupt:
        say(f"\n{PROGRAM}: interrupted", sys.stderr)
        return 130


def run_command(command: str, argv: list[str]) -> int:
    if command == REPORT:
        return report_again(argv)
    if command == PAPER:
        return frame.main(argv)
    if command not in COMMANDS:
        fail(PROGRAM, f"unknown command {command!r}, choose from {', '.join([*COMMANDS, *OTHERS])}", status=2)
    return train_and_report(command, argv)


def train_and_report(command: str, argv: list[str]) -> int:
    options = parse_options(argv, command)
    if (command, options.budget) != ("compare", "smoke"):
        check_scipy()
    digits = data.load(options.dataset, options.data_dir)
    plan = plan_of(options, digits)
    store = open_store(options)
    for line in idle_schedules(plan, digits):
        (print if options.dry_run else say)(line)
    if options.dry_run:
        show_plan(plan, digits, store)
        return 0
    check_writable(options.out)
    runs, status = collect(train_all(plan, digits, options, store))
    if runs:
        report(runs, options, digits)
    return status


def report_again(argv: list[str]) -> int:
    parser = OneLineParser(f"{PROGRAM}", description=OTHERS[REPORT], allow_abbrev=False)
    parser.add_argument("folder", type=Path, nargs="?", help="with results.jsonl, as --out of the other commands")
    parser.add_argument(
        "--target", type=each(percentage), default="97,98", metavar="X,Y", help="(default: %(default)s)"
    )
    options = parser.parse_args(argv)
    if options.folder is None:
        found = sorted(str(path.parent) for path in Path("runs").glob(f"*/{FILE}"))
        some = f"choose from {', '.join(found)}" if found else "runs/ has none yet: train first"
        fail(PROGRAM, f"{REPORT} needs the folder of the results; {some}", status=2)
    options.out = options.folder
    check_scipy()
    runs = list(open_store(options).runs.values())
    if not runs:
        fail(PROGRAM, f"no results in {options.folder}; train first, with --out {options.folder}", status=1)
    check_writable(options.out)
    tables = [ranking(runs), sensitivity(runs), time_to_target(runs, options.target)]
    if {run.setting.library for run in runs} == set(LIBRARIES):
        tables.insert(0, comparison(runs, "interval"))
    for table in tables:
        print(f"{table.title}\n\n{table.text()}\n")
    write_files(options.out, "Results", runs, tables, options.target)
    return 0


# ---------------------------------------------------------------- options


def parse_options(argv: list[str] | None, command: str = "compare") -> argparse.Namespace:
    chosen = COMMANDS[command]
    others = "\n".join(
        f"  {name:15} {text}" for name, text in ({k: c.help for k, c in COMMANDS.items()} | OTHERS).items()
    )
    parser = OneLineParser(
        PROGRAM,
        description=f"{command}: {chosen.help}.",
        epilog=f"commands, before the options:\n{others}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    of = "one or several, with commas, of %s (default: %%(default)s)"
    defaults = dict(optimizer="sgd", activation="relu", init="he_normal", loss="cross_entropy", schedule="none")
    for kind, default in (defaults | {"optimizer": chosen.defaults["optimizer"]}).items():
        names, parser_of = ", ".join(available(kind, chosen.libraries)), choices(kind, chosen.libraries)
        add(f"--{kind}", type=parser_of, default=default, metavar="A,B", help=of % names)
    widths = "layer widths, several networks with / (default: %(default)s)"
    add("--hidden", type=networks, default=chosen.defaults["hidden"], metavar="N,M", help=widths)
    sizes = "one or several; full: all training images (default: %(default)s)"
    add("--batch-size", type=each(batch_size), default="128", metavar="N", help=sizes)
    default = "%(default)s" if "lr" in chosen.defaults else "what suits each"
    rates = f"for all optimizers, one, several or low..high:count (default: {default})"
    add("--lr", type=learning_rates, default=chosen.defaults.get("lr"), metavar="X", help=rates)
    budgets = "; ".join(f"{name}: {b.dataset}, {b.epochs} epochs, {b.seeds} seeds" for name, b in BUDGETS.items())
    add("--budget", type=name_of(BUDGETS), default="smoke", metavar="B", help=f"{budgets} (default: %(default)s)")
    add("--seeds", type=seeds, metavar="N", help="how many, or with commas which (default: see --budget)")
    add("--epochs", type=whole_number, metavar="N", help="(default: see --budget)")
    full = "the 12,000 digits kept here, all 70,000, or Fashion-MNIST (default: see --budget)"
    add("--dataset", choices=DATASETS, help=full)
    add("--data-dir", type=Path, metavar="DIR", help="folder of MNIST/raw for --dataset mnist (default: runs/data)")
    scales = "of the pixels: [0, 1], [-0.5, 0.5], mean 0 and std 1, or AlgoPerf's (default: %(default)s)"
    add("--scale", choices=tuple(SCALES), default="unit", help=scales)
    if not chosen.libraries:
        add("--library", choices=LIBRARIES, default="ours", help="(default: %(default)s)")
    if command == "time-to-target":
        add("--target", type=each(percentage), metavar="X,Y", help="percent (default: 97,98; of the subset 90,94)")
    started = os.environ.get("LOCAL_WORLD_SIZE", "1")  # by torchrun, on this machine
    shares = "processes of this machine, each with its part of every batch (default: %(default)s)"
    add("--devices", type=whole_number, default=started, metavar="N", help=shares)
    add("--strategy", choices=STRATEGIES, default="auto", help="Lightning's for several devices (default: %(default)s)")
    add("--out", type=Path, metavar="DIR", help="folder for the results; what is there is not trained again")
    add("--dry-run", action="store_true", help="say what would be trained, and how long it takes")
    add("--no-progress", dest="progress", action="store_false", help="no progress bar")
    options = parser.parse_args(argv)
    options.command = command

    budget = BUDGETS[options.budget]
    options.dataset = options.dataset or budget.dataset
    options.epochs = options.epochs or budget.epochs
    options.seeds = options.seeds or list(range(budget.seeds))
    options.lr = options.lr or [None]
    options.libraries = chosen.libraries or (options.library,)
    if command == "time-to-target":
        options.target = sorted(options.target or map(float, TARGETS[options.dataset].split(",")))
    if options.dataset == "subset" and options.data_dir:
        parser.error("--data-dir goes with --dataset mnist")
    for kind in defaults:
        names = available(kind, options.libraries)
        for text in getattr(options, kind):
            if "+" not in text and (name := parse(text).name) not in names:
                beside = " to compare with" if chosen.libraries else ""
                parser.error(f"--{kind}: torch has no {label(kind, name)}{beside}, choose from {', '.join(names)}")
    if "LOCAL_WORLD_SIZE" in os.environ and options.devices != int(started):
        parser.error(f"--devices must be {started}, the --nproc-per-node of torchrun, got {options.devices}")
    count = processes(options)
    for size in options.batch_size:
        if size != "full" and size % count:
            parser.error(f"--batch-size must be a multiple of {count}, the number of processes, got {size}")
    options.data_dir = options.data_dir or Path("runs/data")
    main_job = command == "compare" and options.budget == "smoke"
    name = f"{datetime.now():mnist-%Y%m%d-%H%M%S}" if main_job else f"{command}-{options.budget}"
    options.out = options.out or Path("runs", name)
    return options


# ---------------------------------------------------------------- training


def plan_of(options: argparse.Namespace, digits: Digits) -> list[Setting]:
    """The runs, seed by seed, ours and torch's of a configuration one after the other."""
    count = processes(options)
    whole = len(digits.train_images) - len(digits.train_images) % count
    base = Setting(epochs=options.epochs, dataset=options.dataset, scale=options.scale, processes=count)
    if options.command == "time-to-target":
        base = replace(base, stop_at=max(options.target))
    axes = {name: getattr(options, name) for name in ("optimizer", "activation", "init", "loss", "schedule", "hidden")}
    axes["batch_size"] = [whole if size == "full" else min(size, whole) for size in options.batch_size]
    axes |= {"lr": options.lr, "library": options.libraries}
    try:
        return grid(base, axes, options.seeds)
    except ValueError as error:
        fail(PROGRAM, one_line(error), status=2)


# ---------------------------------------------------------------- files


@first_process_only
def report(runs: Sequence[Run], options: argparse.Namespace, digits: Digits) -> None:
    """Print the tables and write the files."""
    tables = COMMANDS[options.command].tables(runs, options)
    print(f"\n{heading(runs, options, digits)}\n")
    for table in tables:
        print(table.text())
    if options.command == "compare":
        write_comparison(runs, options)
    else:
        write_files(options.out, f"MNIST: {options.command}", runs, tables, getattr(options, "target", [97.0, 98.0]))
    if options.command == "time-to-target" and (seconds := seconds_since_start()):
        print(f"{seconds:.1f} s since the process was started")


def heading(runs: Sequence[Run], options: argparse.Namespace, digits: Digits) -> str:
    count = processes(options)
    whose = "" if count == 1 else f" of the first of {count} processes"
    spread = "± standard deviation" if options.command == "compare" and options.budget == "smoke" else "± 95 % interval"
    nets = " and ".join("-".join(map(str, [PIXELS, *widths, DIGITS])) for widths in options.hidden)
    return (
        f"MLP {nets}, batch size {' and '.join(map(str, options.batch_size))}, epochs {options.epochs}, "
        f"{len(digits.train_images):,} training and {len(digits.test_images):,} test images\n"
        f"Accuracy: mean {spread} over seeds {', '.join(map(str, options.seeds))}. "
        f"Times: medians{whose}, {torch.get_num_threads()} threads."
    )


def write_comparison(runs: Sequence[Run], options: argparse.Namespace) -> None:
    try:
        write_csv(options.out / "results.csv", runs)
        write_json(options.out / "results.json", runs, vars(options))
        write_loss_picture(options.out / "loss.png", runs)
    except OSError as error:
        fail_to_write(options.out, error)
    print(f"\nresults.csv, results.json and loss.png are in {options.out}")


def write_files(
    folder: Path, title: str, runs: Sequence[Run], tables: Sequence[Table], targets: Sequence[float]
) -> None:
    try:
        write_csv(folder / "results.csv", runs)
        names = write_report(folder, title, runs, tables, targets)
    except OSError as error:
        fail_to_write(folder, error)
    print(f"\n{', '.join(names)} and results.csv are in {folder}")


def seconds_since_start() -> float | None:
    """Since the system started this process, imports included; None where it does not say (not Linux)."""
    try:
        started = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, AttributeError, ValueError):
        return None
