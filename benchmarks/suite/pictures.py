"""Pictures of runs, light and dark, to be read from the last row of a lecture hall: large letters, thick lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle
from pathlib import Path
from statistics import mean

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from torch_lecture_ops.pictures.style import canvas, legend_below

from .choices import LIBRARIES
from .run import Run
from .setting import AXES, Setting, labels, pair, point
from .statistics import estimate
from .tables import Groups, accuracies, accuracy_of, by_learning_rate, finished, grouped, without

LINES = 8  # that a picture holds; of more, those of the best results
STYLES = ("-", "--", ":", "-.")


def over_seeds(groups: Iterable[Sequence[Run]]) -> str:
    """What is averaged, in words."""
    counts = {len(group) for group in groups}
    return f"mean over {' or '.join(map(str, sorted(counts)))} seed{'' if counts == {1} else 's'}"


def few(groups: Groups, score: Callable[[Sequence[Run]], float]) -> tuple[Groups, str]:
    """The best groups, as many as a picture holds, and words for what was left out."""
    if len(groups) <= LINES:
        return groups, ""
    best = sorted(groups, key=lambda one: score(groups[one]), reverse=True)[:LINES]
    return {one: group for one, group in groups.items() if one in best}, f" (the best {LINES} of {len(groups)})"


def mean_accuracy(group: Sequence[Run]) -> float:
    return accuracy.mean if (accuracy := accuracy_of(group)) else -math.inf


def band(curves: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and half-width of the 95 % confidence interval at each place; of a single curve no width."""
    estimates = [estimate(values) for values in zip(*curves, strict=True)]
    return np.array([e.mean for e in estimates]), np.array([e.half_width or 0.0 for e in estimates])


# ---------------------------------------------------------------- loss curves


def loss_curves(runs: Sequence[Run]) -> Figure:
    groups, left_out = few(grouped(runs), mean_accuracy)
    names = labels(groups)
    figure, (panel,) = canvas(f"Training loss{left_out}\n{over_seeds(groups.values())}, band: 95 % interval")
    for one, group in groups.items():
        curves = [run.losses for run in group if not run.diverged]
        if not curves:
            panel.plot([], [], "x", label=f"{names[one]}: diverged")
            continue
        shortest = min(map(len, curves))  # the others stopped at their target later
        middle, half = band([curve[:shortest] for curve in curves])
        places = (np.arange(shortest) + 0.5) * len(group[0].test_accuracies) / len(group[0].losses)
        gone = f" ({len(group) - len(curves)} of {len(group)} diverged)" if len(curves) < len(group) else ""
        (line,) = panel.plot(places, middle, label=names[one] + gone)
        low = np.maximum(middle - half, middle / 3)  # the axis is logarithmic
        panel.fill_between(places, low, middle + half, color=line.get_color(), alpha=0.2)
    panel.set(xlabel="epoch", ylabel="loss", yscale="log")
    legend_below(panel)
    return figure


def compared_losses(runs: Sequence[Run]) -> Figure:
    """Ours wide and pale, torch's thin and dashed on top: both show where they agree. A panel for what is not the
    optimizer, a colour per optimizer."""
    groups = grouped(runs)
    panels_of: dict[Setting, list[Setting]] = {}
    for one in groups:
        panels_of.setdefault(without(one, "optimizer", "lr", "library"), []).append(one)
    names = labels(panels_of)
    optimizers = list(dict.fromkeys((one.optimizer, one.lr) for one in groups))
    columns = min(2, len(panels_of))
    rows = math.ceil(len(panels_of) / columns)
    figure = Figure(figsize=(2 + 8 * columns, 1 + 6 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for panel, (common, members) in zip(grid, panels_of.items(), strict=False):
        shown = labels(map(pair, members))
        for one in members:
            losses = np.mean([run.losses for run in groups[one]], axis=0)
            epochs = len(groups[one][0].test_accuracies)
            style = dict(lw=7, alpha=0.4) if one.library == LIBRARIES[0] else dict(lw=2.2, ls="--")
            colour = f"C{optimizers.index((one.optimizer, one.lr))}"
            places = (np.arange(len(losses)) + 0.5) * epochs / len(losses)
            panel.plot(places, losses, color=colour, label=f"{shown[pair(one)].split()[0]}, {one.library}", **style)
        panel.set(title=names[common].partition(" ")[2], xlabel="epoch", ylabel="training loss", yscale="log")
        panel.label_outer()
    for panel in grid[len(panels_of) :]:
        panel.set_visible(False)
    handles, names = grid[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2 * columns, frameon=False)
    figure.suptitle(f"Training loss, {over_seeds(groups.values())}")
    return figure


# ---------------------------------------------------------------- learning rates


def learning_rates(runs: Sequence[Run]) -> Figure | None:
    """Accuracy over the learning rate; crosses at the bottom where runs diverged. None without a range to show."""
    curves = {one: curve for one, curve in by_learning_rate(runs).items() if len(curve) >= 3}
    if not curves:
        return None
    score = {one: max(map(mean_accuracy, curve.values())) for one, curve in curves.items()}
    best = sorted(curves, key=score.__getitem__, reverse=True)[:LINES]
    left_out = f" (the best {LINES} of {len(curves)})" if len(curves) > LINES else ""
    names = labels(curves)
    averaged = over_seeds(group for one in best for group in curves[one].values())
    figure, (panel,) = canvas(f"Sensitivity to the learning rate{left_out}\n{averaged}, band: 95 % interval")
    floor = min((accuracy for run in runs if not run.diverged for accuracy in [run.test_accuracy]), default=0.0)
    for number, one in enumerate(best):
        shown = {
            rate: estimate(list(accuracies(group).values())) for rate, group in curves[one].items() if accuracies(group)
        }
        intervals = [np.clip(e.interval, 0.0, 100.0) for e in shown.values()]
        (line,) = panel.plot(list(shown), [e.mean for e in shown.values()], "o-", label=names[one])
        panel.fill_between(list(shown), *np.reshape(intervals, (-1, 2)).T, color=line.get_color(), alpha=0.2)
        gone = [rate for rate, group in curves[one].items() if any(run.diverged for run in group)]
        panel.plot(gone, [floor - 2 - 1.5 * number] * len(gone), "x", mew=4, ms=13, color=line.get_color())
    panel.set(xlabel="learning rate (× diverged)", ylabel="test accuracy, %", xscale="log")
    panel.xaxis.set_major_locator(LogLocator())
    panel.xaxis.set_minor_formatter(NullFormatter())
    legend_below(panel)
    return figure


# ---------------------------------------------------------------- heat maps

PAIRS = [("optimizer", "lr"), ("activation", "init"), ("optimizer", "activation"), ("optimizer", "init")]
PAIRS += [("optimizer", "batch_size"), ("optimizer", "hidden"), ("optimizer", "schedule"), ("optimizer", "loss")]


def heat_maps(runs: Sequence[Run]) -> Figure | None:
    """The mean accuracy for two axes of the grid at a time, over seeds and the other axes; None if no two axes vary.

    A cross is where some run diverged; means are of the others.
    """
    varied = [axis for axis in (*AXES, "library", "seed") if len({getattr(run.setting, axis) for run in runs}) > 1]
    maps = [axes for axes in PAIRS if set(axes) <= set(varied)]
    if not maps:
        return None
    figure, panels = canvas(rows=len(maps))
    for panel, (down, across) in zip(panels, maps, strict=True):
        cells: dict[tuple, list[Run]] = {}
        for run in runs:
            cells.setdefault((getattr(run.setting, down), getattr(run.setting, across)), []).append(run)
        rows, columns = (in_order(keys) for keys in zip(*cells, strict=True))
        values = np.full((len(rows), len(columns)), np.nan)
        for (row, column), group in cells.items():
            if done := finished(group):
                values[rows.index(row), columns.index(column)] = mean(run.test_accuracy for run in done)
        image = panel.imshow(values, cmap="viridis", aspect="auto")
        middle = (np.nanmin(values) + np.nanmax(values)) / 2 if np.isfinite(values).any() else 0.0
        for (i, row), (j, column) in ((a, b) for a in enumerate(rows) for b in enumerate(columns)):
            shown = f"{values[i, j]:.1f}" if np.isfinite(values[i, j]) else ""
            gone = "×" if any(run.diverged for run in cells.get((row, column), [])) else ""
            text = f"{shown} {gone}".strip()
            ink = "black" if values[i, j] > middle else "white"
            panel.text(
                j, i, text, ha="center", va="center", color=ink if np.isfinite(values[i, j]) else None, fontsize=17
            )
        others = ", ".join(axis.replace("_", " ") for axis in varied if axis not in (down, across))
        over = f"\nmean over {others}" if others else ""
        panel.set(title=f"Test accuracy, %: {down} and {across.replace('_', ' ')} (× diverged){over}")
        panel.set_xticks(range(len(columns)), [tick(column) for column in columns], rotation=30, ha="right")
        panel.set_yticks(range(len(rows)), [tick(row) for row in rows])
        panel.grid(False)
        figure.colorbar(image, ax=panel)
    return figure


def in_order(keys: Iterable) -> list:
    """Numbers by size, names as they came."""
    unique = list(dict.fromkeys(keys))
    return sorted(unique) if all(isinstance(key, (int, float)) for key in unique) else unique


def tick(value: object) -> str:
    return (
        f"{value:.3g}"
        if isinstance(value, float)
        else "-".join(map(str, value))
        if isinstance(value, tuple)
        else str(value)
    )


# ---------------------------------------------------------------- time to target


def target_profile(runs: Sequence[Run], targets: Sequence[float]) -> Figure | None:
    """Which part of the runs has reached the target after how many seconds; None if no run did."""
    targets = [target for target in targets if any(run.seconds_to(target) for run in runs)]
    if not targets:
        return None
    names = labels(map(point, (run.setting for run in runs)))
    figure, panels = canvas(rows=len(targets))
    for panel, target in zip(panels, targets, strict=True):
        groups, left_out = few(grouped(runs), lambda group, target=target: -first_time(group, target))
        for (one, group), style in zip(groups.items(), cycle(STYLES), strict=False):
            times = sorted(reached[1] for run in group if (reached := run.seconds_to(target)))
            parts = [(number + 1) / len(group) for number in range(len(times))]
            panel.step([0, *times], [0, *parts], style, where="post", label=names[one], marker="o", alpha=0.9)
        panel.set(title=f"{target:g} % reached{left_out}", xlabel="seconds of training", ylabel="part of the seeds")
        panel.set_ylim(-0.03, 1.05)
        legend_below(panel)
    return figure


def first_time(group: Sequence[Run], target: float) -> float:
    return min((reached[1] for run in group if (reached := run.seconds_to(target))), default=math.inf)


# ---------------------------------------------------------------- files


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=110)
