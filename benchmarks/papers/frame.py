"""What the tables of papers share: their form, their command, and the verdict.

A table is a file here with a `TABLE`. A row is a published number and the setting that repeats it; it is inside the
band if the 95 % confidence interval of ours and the band around the published number have a point in common. The band
is the paper's own spread where it has one, else what the table says. A claim is an order of two rows that the paper
states in words, tested by the paired seeds.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path

from suite import data
from suite.data import DATASETS, Digits
from suite.execution import (
    PROGRAM,
    check_scipy,
    check_writable,
    collect,
    fail_to_write,
    open_store,
    show_plan,
    train_all,
)
from suite.report import replacing, write_csv
from suite.run import Run
from suite.setting import Setting, check, machine, versions
from suite.statistics import LEVEL, estimate, paired_p
from suite.tables import Table, show_p

from torch_lecture_ops.arguments import OneLineParser, fail, name_of, one_line, whole_number

# In the order in which `paper all` runs them.
NAMES = ("zeiler_2012", "elu_2015", "glorot_2010", "larson", "algoperf_mnist", "maxout_2013")


@dataclass(frozen=True)
class Row:
    """A number of the table, None where the paper has a figure only; `low` to `high` is its band."""

    label: str
    setting: Setting
    published: float | None = None
    low: float = math.nan
    high: float = math.nan
    differences: str = ""  # of this row alone


@dataclass(frozen=True)
class Claim:
    """In the paper's words: the quantity of the first row is smaller than that of the second."""

    text: str
    smaller: str
    larger: str


@dataclass(frozen=True)
class Budget:
    dataset: str
    epochs: int | Mapping[str, int]  # by the label of a row where they differ
    seeds: int
    reduced: str  # what is less than in the paper, in words

    def epochs_of(self, row: Row) -> int:
        return self.epochs if isinstance(self.epochs, int) else self.epochs[row.label]


@dataclass(frozen=True)
class PaperTable:
    title: str
    source: str
    status: str  # "published": read in the source; "reported": recalled, to be checked before it is quoted
    dataset: str  # the paper's; on another one its numbers are printed, but there is no verdict
    protocol: str
    band: str
    differences: str
    quantity: str
    rows: Sequence[Row]
    budgets: Mapping[str, Budget]
    measure: Callable[[Run], float] = lambda run: 100.0 - run.test_accuracy
    claims: Sequence[Claim] = ()
    extras: Callable[[Digits, int], list[Table]] = field(default=lambda digits, seeds: [])  # need no training


def around(published: float, relative: float, least: float) -> dict[str, float]:
    """A number and its band: so many parts of it to both sides, but at least so much."""
    half = max(relative * published, least)
    return dict(published=published, low=published - half, high=published + half)


# ---------------------------------------------------------------- ours beside the paper's


def values_of(runs: Sequence[Run], measure: Callable[[Run], float]) -> dict[int, float]:
    """By seed; without the runs that diverged or did not get where the measure looks."""
    measured = {run.setting.seed: measure(run) for run in runs if not run.diverged}
    return {seed: value for seed, value in measured.items() if math.isfinite(value)}


def results(table: PaperTable, runs_of: Mapping[str, Sequence[Run]], budget: Budget) -> list[Table]:
    """The table of the rows that have runs, and that of the claims."""
    comparable = budget.dataset == table.dataset
    rows = []
    for row in table.rows:
        if runs := runs_of.get(row.label):
            differences = "; ".join(filter(None, (row.differences, "" if comparable else f"{budget.dataset}")))
            cells = [
                row.label,
                "-" if row.published is None else f"{row.published:g}",
                *ours(row, runs, table, comparable),
            ]
            rows.append([*cells, differences or "see below"])
    columns = ["", table.status, "ours, mean ± 95 % (n seeds)", "inside the band?", "differences of protocol"]
    reduced = f" Budget reduced: {budget.reduced}." if budget.reduced else ""
    note = (
        f"{table.quantity}. {table.source}.\nProtocol: {table.protocol}.\nBand: {table.band}.\n"
        f"Differences: {table.differences}.{reduced}"
    )
    tables = [Table(table.title, columns, rows, note)]
    if claims := [claim for claim in table.claims if claim.smaller in runs_of and claim.larger in runs_of]:
        tables.append(claim_table(table, claims, runs_of))
    return tables


def ours(row: Row, runs: Sequence[Run], table: PaperTable, comparable: bool) -> list[str]:
    """Mean and interval, and the verdict."""
    values = list(values_of(runs, table.measure).values())
    missing = len(runs) - len(values)
    has_verdict = row.published is not None and comparable
    if not values:
        return [f"none of {len(runs)} seeds", "no" if has_verdict else "-"]
    mean = estimate(values)
    shown = f"{mean} ({len(values)}{f' of {len(runs)}' if missing else ''})"
    if not has_verdict:
        return [shown, "-"]
    low, high = mean.interval
    return [shown, "yes" if low <= row.high and high >= row.low and not missing else "no"]


def claim_table(table: PaperTable, claims: Sequence[Claim], runs_of: Mapping[str, Sequence[Run]]) -> Table:
    rows = []
    for claim in claims:
        smaller, larger = (values_of(runs_of[label], table.measure) for label in (claim.smaller, claim.larger))
        p = paired_p(smaller, larger)
        shared = [seed for seed in smaller if seed in larger]
        difference = sum(larger[seed] - smaller[seed] for seed in shared) / len(shared) if shared else math.nan
        verdict = "-" if p is None else "tie" if p >= LEVEL else "holds" if difference > 0 else "the opposite"
        rows.append([claim.text, f"{difference:.3g}", show_p(p), verdict])
    return Table(f"{table.title}: claims", ["the paper's words", "difference", "p", "here"], rows)


# ---------------------------------------------------------------- command


def load(name: str) -> PaperTable:
    return import_module(f"papers.{name}").TABLE


def main(argv: list[str]) -> int:
    options = parse_options(argv)
    check_scipy()
    if not options.dry_run:
        check_writable(options.out)
    status = 0
    for name in NAMES if options.name == "all" else [options.name]:
        status = reproduce(name, load(name), options)
        if status:
            break
    return status


def parse_options(argv: list[str]) -> argparse.Namespace:
    parser = OneLineParser(PROGRAM, description="paper: a published table beside ours.", allow_abbrev=False)
    add = parser.add_argument
    add("name", type=name_of([*NAMES, "all"]), nargs="?", help=", ".join([*NAMES, "all"]))
    add("--budget", type=name_of(("smoke", "short", "paper")), default="smoke", metavar="B", help="smoke, short, paper")
    add("--seeds", type=whole_number, metavar="N", help="how many (default: see --budget)")
    add("--epochs", type=whole_number, metavar="N", help="(default: see --budget)")
    add("--dataset", choices=DATASETS, help="(default: see --budget)")
    add("--data-dir", type=Path, default="runs/data", metavar="DIR", help="folder of MNIST/raw (default: %(default)s)")
    add("--out", type=Path, metavar="DIR", help="folder for the results (default: runs/papers-<budget>)")
    add("--dry-run", action="store_true", help="say what would be trained, and how long it takes")
    add("--no-progress", dest="progress", action="store_false", help="no progress bar")
    parser.set_defaults(devices=1, strategy="auto")
    options = parser.parse_args(argv)
    if options.name is None:
        parser.error(f"paper needs the name of a table, choose from {', '.join([*NAMES, 'all'])}")
    options.out = options.out or Path("runs", f"papers-{options.budget}")
    return options


def reproduce(name: str, table: PaperTable, options: argparse.Namespace) -> int:
    """Train what is missing of a table, print it and write it; the exit status."""
    budget = cut(table.budgets[options.budget], options)
    digits = data.load(budget.dataset, options.data_dir)
    plan = plan_of(table, budget, digits)
    store = open_store(options)
    if options.dry_run:
        print(f"{table.title}\n")
        show_plan(list(plan), digits, store)
        return 0
    runs, status = collect(train_all(list(plan), digits, options, store))
    if runs:
        runs_of: dict[str, list[Run]] = {}
        for run in runs:
            for label in plan[run.setting]:
                runs_of.setdefault(label, []).append(run)
        tables = results(table, runs_of, budget) + table.extras(digits, budget.seeds)
        print("\n" + "\n\n".join(f"{each.title}\n\n{each.text()}" for each in tables))
        try:
            write_csv(options.out / f"{name}.csv", runs)
            with replacing(options.out / f"{name}.md") as file:
                file.write(page(table, tables))
        except OSError as error:
            fail_to_write(options.out, error)
        print(f"\n{name}.md and {name}.csv are in {options.out}\n")
    return status


def cut(budget: Budget, options: argparse.Namespace) -> Budget:
    """The budget with what the command line says; `reduced` says it, too."""
    chosen = {key: value for key in ("seeds", "epochs", "dataset") if (value := getattr(options, key))}
    said = ", ".join(f"{key} {value}" for key, value in chosen.items())
    return replace(budget, **chosen, reduced="; ".join(filter(None, (budget.reduced, said))))


def plan_of(table: PaperTable, budget: Budget, digits: Digits) -> dict[Setting, list[str]]:
    """The runs, seed by seed, and the rows that each is for."""
    plan: dict[Setting, list[str]] = {}
    for seed in range(budget.seeds):
        for row in table.rows:
            epochs, size = budget.epochs_of(row), min(row.setting.batch_size, len(digits.train_images))
            changes = dict(seed=seed, dataset=budget.dataset, epochs=epochs, batch_size=size)
            plan.setdefault(replace(row.setting, **changes), []).append(row.label)
    for setting in plan:
        try:
            check(setting)
        except ValueError as error:
            fail(PROGRAM, f"{table.title}: {one_line(error)}", status=2)
    return plan


def page(table: PaperTable, tables: Sequence[Table]) -> str:
    """As Markdown, with machine and versions."""
    parts = [each.markdown(level=1 if each.title == table.title else 2) for each in tables]
    where = ", ".join(f"{key} {value}" for key, value in (machine() | versions()).items())
    return "\n\n".join([*parts, f"Measured on: {where}"]) + "\n"
