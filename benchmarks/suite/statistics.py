"""Means with confidence intervals, and paired tests against a first row.

SciPy computes quantiles and tests; it is imported where they are asked for, which the main job does not.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

LEVEL = 0.05


@dataclass(frozen=True)
class Estimate:
    """A mean over n seeds: standard deviation and half-width of the 95 % confidence interval, None of a single one."""

    mean: float
    n: int
    std: float | None
    half_width: float | None

    @property
    def interval(self) -> tuple[float, float]:
        """The mean alone where there is no interval."""
        return self.mean - (self.half_width or 0.0), self.mean + (self.half_width or 0.0)

    def __str__(self) -> str:
        digits = 2 if abs(self.mean) >= 1 else 4  # of percents two; a training loss is smaller
        return f"{self.mean:.{digits}f}" + ("" if self.half_width is None else f" ± {self.half_width:.{digits}f}")


def estimate(values: Sequence[float]) -> Estimate:
    """By Student's t: the values are taken for normally distributed."""
    n = len(values)
    if n < 2:
        return Estimate(mean(values), n, None, None)
    std = stdev(values)
    return Estimate(mean(values), n, std, t_quantile(n - 1) * std / math.sqrt(n))


def t_quantile(degrees: int) -> float:
    """What 95 % of Student's t lie within."""
    from scipy import stats

    return float(stats.t.ppf(1 - LEVEL / 2, degrees))


def paired_p(first: Mapping[int, float], other: Mapping[int, float]) -> float | None:
    """Two-sided p-value of the paired t-test over the seeds both have; None for fewer than two pairs.

    Differences that are all the same have no variance: p is 1 where they are 0, else 0.
    """
    from scipy import stats

    seeds = [seed for seed in first if seed in other]
    if len(seeds) < 2:
        return None
    differences = [other[seed] - first[seed] for seed in seeds]
    if len(set(differences)) == 1:
        return float(differences[0] == 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # differences that are nearly the same
        return float(stats.ttest_rel([other[seed] for seed in seeds], [first[seed] for seed in seeds]).pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction: among many rows some differ from the first by chance."""
    order = sorted((index for index, p in enumerate(p_values) if p is not None), key=lambda index: p_values[index])
    corrected: list[float | None] = list(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected
