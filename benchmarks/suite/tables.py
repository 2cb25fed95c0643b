"""Tables of runs: ours beside torch's, a ranking, learning rates, times to a target. As text and as HTML."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import mean, median, stdev
from typing import Any

from .choices import LIBRARIES
from .run import Run
from .setting import Setting, labels, pair, point
from .statistics import LEVEL, Estimate, estimate, holm, paired_p

Groups = dict[Setting, list[Run]]  # runs that differ by their seeds alone

# Of the page that report.py styles, in pixels: what is between the margins of a window of 1200, and of its columns.
WINDOW, FIRST_COLUMN, PADDING, CHARACTER = 1130, 240, 24, 12
NO_BREAK = "\u00a0"


@dataclass(frozen=True)
class Table:
    title: str
    columns: Sequence[str]  # the first one to the left
    rows: Sequence[Sequence[str]]
    note: str = ""

    def text(self) -> str:
        columns = [
            align(cells, "<" if number == 0 else ">")
            for number, cells in enumerate(zip(self.columns, *self.rows, strict=True))
        ]
        lines = ["   ".join(row).rstrip() for row in zip(*columns, strict=True)]
        return "\n".join([*lines, *([f"\n{self.note}"] if self.note else [])])

    def markdown(self, level: int) -> str:
        lines = [f"| {' | '.join(cells)} |" for cells in (self.columns, ["---"] * len(self.columns), *self.rows)]
        return "\n".join([f"{'#' * level} {self.title}\n", *lines, *([f"\n{self.note}"] if self.note else [])])

    def html(self) -> str:
        def row(tag: str, cells: Sequence[str], block: Iterable[int]) -> str:
            shown = (html.escape(cells[number]).replace(" ± ", f"{NO_BREAK}±{NO_BREAK}") for number in block)
            return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in shown) + "</tr>"

        def table(block: Sequence[int]) -> str:
            body = "\n".join(row("td", cells, block) for cells in self.rows)
            return f"<table>\n{row('th', self.columns, block)}\n{body}\n</table>"

        note = f"<p>{html.escape(self.note)}</p>" if self.note else ""
        return "\n".join(map(table, self.blocks())) + note

    def blocks(self) -> list[list[int]]:
        """The numbers of the columns that a window of 1200 pixels has room for side by side; the first in all blocks.

        A column takes as much as its longest word: cells are broken at blanks, but for those around ±.
        """
        blocks: list[list[int]] = []
        room = 0
        for number in range(1, len(self.columns)):
            cells = (self.columns[number], *(row[number] for row in self.rows))
            words = (word for cell in cells for word in cell.replace(" ± ", "_±_").split())
            width = PADDING + CHARACTER * max(map(len, words), default=0)
            if not blocks or width > room:
                blocks.append([0])
                room = WINDOW - FIRST_COLUMN
            blocks[-1].append(number)
            room -= width
        return blocks


def align(cells: Sequence[str], side: str) -> list[str]:
    """Pad to the widest, to the left "<" or to the right ">"."""
    width = max(map(len, cells))
    return [f"{cell:{side}{width}}" for cell in cells]


def grouped(runs: Iterable[Run]) -> Groups:
    """In order of first appearance."""
    groups: Groups = {}
    for run in runs:
        groups.setdefault(point(run.setting), []).append(run)
    return groups


# ---------------------------------------------------------------- cells


def finished(runs: Iterable[Run]) -> list[Run]:
    return [run for run in runs if not run.diverged]


def accuracies(runs: Iterable[Run]) -> dict[int, float]:
    """Of the runs that did not diverge, by seed."""
    return {run.setting.seed: run.test_accuracy for run in finished(runs)}


def accuracy_of(runs: Sequence[Run]) -> Estimate | None:
    """None if all have diverged."""
    values = list(accuracies(runs).values())
    return estimate(values) if values else None


def show_accuracy(runs: Sequence[Run], spread: str = "interval") -> str:
    """The mean of what did not diverge, and how many did.

    spread: "interval", that of 95 % confidence, or "deviation", the standard deviation.
    """
    values = list(accuracies(runs).values())
    gone = len(runs) - len(values)
    said = f"{gone} of {len(runs)} diverged"
    if not values:
        return said if len(runs) > 1 else "diverged"
    shown = show_deviation(values) if spread == "deviation" else str(estimate(values))
    return f"{shown} ({said})" if gone else shown


def show_deviation(values: Sequence[float]) -> str:
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def show_p(p: float | None) -> str:
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def verdict(p: float | None, difference: float) -> str:
    """Against the first row: ≈ is a tie."""
    if p is None:
        return "-"
    return "≈" if p >= LEVEL else "better" if difference > 0 else "worse"


P_NOTE = (
    "p: paired t-test over the seeds against the first row{corrected}; ≈ is a tie at 5 %. Means are of the runs that "
    "did not diverge; where some did, there is no test."
)


# ---------------------------------------------------------------- ours beside torch's


def comparison(runs: Sequence[Run], spread: str = "deviation") -> Table:
    """A row per configuration, ours | torch; "-" for what was not run. With intervals also the paired test."""
    groups = grouped(runs)
    names = labels(map(pair, groups))
    rows = []
    for one, name in names.items():
        pairs = [groups.get(replace(one, library=library), []) for library in LIBRARIES]
        cells = [
            [show_accuracy(group, spread) if group else "-" for group in pairs],
            [f"{median(run.seconds_per_epoch for run in group):.3f}" if group else "-" for group in pairs],
            [f"{median(run.microseconds_per_step for run in group):.0f}" if group else "-" for group in pairs],
        ]
        test = [] if spread == "deviation" else [test_of_pair(*pairs)]
        rows.append([name, *(f"{ours}|{torch}" for ours, torch in cells), *test])
    columns = ["", "test accuracy, %", "s per epoch", "µs per optimizer step"]
    columns += [] if spread == "deviation" else ["ours against torch, p"]
    return Table("Ours beside torch's", columns, in_halves(rows))


def summary(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The numbers of the comparison, for programs."""
    groups = grouped(runs)
    names = labels(map(pair, groups))
    rows = []
    for one, group in groups.items():
        values = list(accuracies(group).values())
        rows.append(
            dict(
                configuration=names[pair(one)],
                library=one.library,
                seeds=len(group),
                diverged=len(group) - len(values),
                accuracy_mean=mean(values) if values else None,
                accuracy_std=stdev(values) if len(values) > 1 else None,
                seconds_per_epoch=median(run.seconds_per_epoch for run in group),
                microseconds_per_step=median(run.microseconds_per_step for run in group),
            )
        )
    return rows


def test_of_pair(ours: Sequence[Run], torchs: Sequence[Run]) -> str:
    if len(finished(ours)) < len(ours) or len(finished(torchs)) < len(torchs):
        return "-"
    p = paired_p(accuracies(torchs), accuracies(ours))
    return "-" if p is None else f"{show_p(p)}{' ≈' if p >= LEVEL else ''}"


def in_halves(rows: list[list[str]]) -> list[list[str]]:
    """Cells "a|b" padded to "a | b", so that their bars stand below each other, under a row that says what they are."""
    columns = []
    for cells in zip(*rows, strict=True):
        if all("|" in cell for cell in cells):
            halves = zip(*(cell.split("|") for cell in ("|".join(LIBRARIES), *cells)), strict=True)
            columns.append([" | ".join(pair) for pair in zip(*(align(half, ">") for half in halves), strict=True)])
        else:
            columns.append(["", *cells])
    return [list(row) for row in zip(*columns, strict=True)]


# ---------------------------------------------------------------- a ranking


def ranking(runs: Sequence[Run]) -> Table:
    """A row per point of the grid, each tested against the first one."""
    groups = grouped(runs)
    names = labels(groups)
    first = next(iter(groups.values()))

    def p_of(group: Sequence[Run]) -> float | None:
        complete = not any(run.diverged for run in (*first, *group))
        return paired_p(accuracies(first), accuracies(group)) if complete and group is not first else None

    p_values = holm([p_of(group) for group in groups.values()])
    rows = []
    for (one, group), p in zip(groups.items(), p_values, strict=True):
        ours, base = accuracy_of(group), accuracy_of(first)
        difference = ours.mean - base.mean if ours and base else 0.0
        losses = [run.train_loss for run in finished(group)]
        rows.append(
            [
                names[one],
                f"{len(group)}",
                show_accuracy(group),
                "first" if group is first else verdict(p, difference),
                show_p(p),
                f"{mean(losses):.4f}" if losses else "-",
                f"{median(run.seconds_per_epoch for run in group):.3f}",
                f"{median(run.microseconds_per_step for run in group):.0f}",
            ]
        )
    columns = ["", "seeds", "test accuracy, %, ± 95 %", "", "p", "training loss", "s per epoch", "µs per step"]
    corrected = ", by Holm corrected for their number" if len(groups) > 2 else ""
    return Table("Ranking", columns, rows, P_NOTE.format(corrected=corrected))


# ---------------------------------------------------------------- learning rates


def without(setting: Setting, *names: str) -> Setting:
    """As `point`, whatever these fields are."""
    return replace(point(setting), **{name: getattr(Setting(), name) for name in names})


def by_learning_rate(runs: Iterable[Run]) -> dict[Setting, dict[float, list[Run]]]:
    """For each configuration its runs by learning rate, in order."""
    curves: dict[Setting, dict[float, list[Run]]] = {}
    for run in runs:
        curve = curves.setdefault(without(run.setting, "lr"), {})
        curve.setdefault(run.setting.lr, []).append(run)
    return {one: dict(sorted(curve.items())) for one, curve in curves.items()}


def sensitivity(runs: Sequence[Run]) -> Table:
    """A row per configuration, a column per learning rate; the best of a row has a star."""
    curves = by_learning_rate(runs)
    rates = sorted({rate for curve in curves.values() for rate in curve})
    names = labels(curves)
    rows = []
    for one, curve in curves.items():
        means = {rate: accuracy_of(group).mean for rate, group in curve.items() if accuracies(group)}
        best = max(means, key=means.__getitem__, default=None)
        cells = (
            show_accuracy(curve[rate]) + (" *" if rate == best else "") if rate in curve else "-" for rate in rates
        )
        rows.append([names[one], *cells])
    note = "Test accuracy, %, mean ± 95 % confidence interval of the runs that did not diverge; * the best of its row."
    return Table("Learning rates", ["learning rate", *(f"{rate:.3g}" for rate in rates)], rows, note)


# ---------------------------------------------------------------- times to a target


def time_to_target(runs: Sequence[Run], targets: Sequence[float]) -> Table:
    """A row per point: how many seeds got there, and their median time. A seed that did not counts as infinite."""
    groups = grouped(runs)
    names = labels(groups)
    columns = [""]
    for target in targets:
        columns += [f"{target:g} %: reached", "epochs", "seconds"]
    rows = []
    for one, group in groups.items():
        row = [names[one]]
        for target in targets:
            reached = [run.seconds_to(target) for run in group]
            epochs, seconds = zip(*(each or (math.inf, math.inf) for each in reached), strict=True)
            row += [f"{sum(each is not None for each in reached)} of {len(group)}", show_time(epochs, 0)]
            row += [show_time(seconds, 1)]
        rows.append(row)
    note = "Medians over the seeds [fastest, slowest], training alone; the test images are tried after each epoch."
    return Table("Time to target", columns, rows, note)


def show_time(values: Sequence[float], digits: int) -> str:
    def show(value: float) -> str:
        return "-" if math.isinf(value) else f"{value:.{digits}f}"

    return f"{show(median(values))} [{show(min(values))}, {show(max(values))}]"
