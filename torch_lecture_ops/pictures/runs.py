"""The way of an optimizer over a surface, and the rate that everybody is given by the same rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache, partial
from itertools import islice, takewhile
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from ..formula import Formula
from .choices import Factory, Racer, ahead, parse, racer
from .progress import progress
from .slices import network_slice
from .surfaces import SURFACES, Point, Surface

__all__ = ["RATES", "Descent", "descend", "fair_rate", "runs"]


def __dir__() -> list[str]:
    return __all__


# Values that differ by less, of their size, are equally low: the last places differ from machine to machine.
ROUNDING = 1e-14
# What everybody may choose from.
RATES = tuple(float(f"{digit}e{power}") for power in range(-4, 3) for digit in (1, 2, 5))


@dataclass(frozen=True, eq=False)
class Descent:
    """A run of an optimizer over a surface.

    Attributes:
        surface: where.
        points: the parameters before the first step and after each one, float64 of shape (steps + 1, 2). Nothing is
            clipped; after the first point that is not finite they are NaN.
        label: whose run it is.
        rate: the learning rate; None for what the optimizer was built with.
        by_rule: whether the rate is that of `fair_rate`.
    """

    surface: Surface
    points: Tensor
    label: str = ""
    rate: float | None = None
    by_rule: bool = False

    @cached_property
    def values(self) -> Tensor:
        """The surface at the points, float64 of shape (steps + 1,)."""
        return torch.tensor([height(self.surface, *point) for point in self.points.tolist()], dtype=torch.float64)

    @property
    def final(self) -> float:
        """The value after the last step; infinite if it is not finite."""
        last = height(self.surface, *self.points[-1].tolist())
        return last if math.isfinite(last) else math.inf

    @property
    def steps(self) -> int:
        return len(self.points) - 1

    @property
    def diverged(self) -> int | None:
        """The step at which a parameter or the value became infinite or NaN; None if none did."""
        finite = self.points.isfinite().all(1) & self.values.isfinite()
        return None if finite.all() else int((~finite).nonzero()[0])

    @property
    def left(self) -> int | None:
        """The step at which it left the picture for good; None if it is in it at the end."""
        inside = [self.surface.holds(x, y) for x, y in self.points.tolist()]
        last = max((step for step, is_inside in enumerate(inside) if is_inside), default=-1)
        return None if last == self.steps else last + 1


NETWORK = "network"


def resolved(surface: Surface | str, start: Point | None) -> tuple[Surface, Point]:
    """The surface, or that of a name (one of SURFACES, or "network", the `network_slice` of its defaults), with the
    start in its picture; and the start.

    Raises:
        ValueError: there is none of this name; a start that is no point.
        FileNotFoundError: there are no digits for the network.
    """
    if surface == NETWORK:
        surface = _network()
    if isinstance(surface, str):
        if surface not in SURFACES:
            raise ValueError(f"unknown surface {surface!r}, choose from {', '.join([*SURFACES, NETWORK])}")
        surface = SURFACES[surface]
    x, y = map(float, surface.start if start is None else start)
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"start must be two finite numbers, got {x}, {y}")
    return surface.around(x, y), (x, y)


@cache
def _network() -> Surface:
    return network_slice()


def descend(
    surface: Surface | str,
    optimizer: Factory,
    start: Point | None = None,
    steps: int = 200,
    schedule: Callable[[Optimizer], Any] | None = None,
    each_step: Callable[[Optimizer], None] | None = None,
) -> Descent:
    """Run an optimizer over a surface, in float64; on the same machine the same arguments give the same bits.

    The parameter is one tensor of two elements. Nesterov's gradient is that of the point ahead.

    Arguments:
        surface: where: a `Surface`, the name of one of SURFACES, or "network".
        optimizer: builds the optimizer from a list of parameters, such as `functools.partial(optim.Adam, lr=0.1)`.
        start: the first point; None for the surface's own.
        steps: how many.
        schedule: builds a scheduler from the optimizer, which is stepped after it.
        each_step: called with the optimizer before each step.

    Example:
        >>> from torch_lecture_ops import optim
        >>> run = descend("bowl", lambda parameters: optim.SGD(parameters, lr=0.5), start=(2.0, 1.0), steps=2)
        >>> run.points.tolist()
        [[2.0, 1.0], [1.0, 0.5], [0.5, 0.25]]
    """
    surface, start = resolved(surface, start)
    points = list(islice(_way(surface, optimizer, start, schedule, each_step), steps + 1))
    points += [[math.nan, math.nan]] * (steps + 1 - len(points))
    return Descent(surface, torch.tensor(points, dtype=torch.float64))


def _way(
    surface: Surface,
    optimizer: Factory,
    start: Point,
    schedule: Callable[[Optimizer], Any] | None = None,
    each_step: Callable[[Optimizer], None] | None = None,
) -> Iterator[list[float]]:
    """The points of a run, up to the first one that is not finite."""
    p = Parameter(torch.tensor(start, dtype=torch.float64))
    made = optimizer([p])
    scheduler = schedule(made) if schedule else None
    while True:
        yield (point := p.tolist())
        if not all(map(math.isfinite, point)):
            return
        if each_step:
            each_step(made)
        with ahead(made):
            gradient = slope_at(surface, *p.tolist())
        p.grad = torch.tensor(gradient, dtype=torch.float64)
        made.step()
        if scheduler:
            scheduler.step()


def height(surface: Surface, x: float, y: float) -> float:
    """f(x, y) as IEEE 754 has it, where Python's floats would raise an OverflowError."""
    try:
        return surface.value(x, y)
    except ArithmeticError:
        return Formula(surface.value, ("array", "array"), (2,))((x, y), ())[0]


def slope_at(surface: Surface, x: float, y: float) -> tuple[float, float]:
    """The slope there, likewise."""
    try:
        return surface.slope(x, y)
    except ArithmeticError:
        return Formula(surface.slope, ("array", "array"), (2, 3))((x, y), ())  # type: ignore[return-value]


def fair_rate(
    surface: Surface | str,
    optimizer: Factory,
    start: Point | None = None,
    steps: int = 200,
    rates: Iterable[float] = RATES,
) -> Descent:
    """The run with the best learning rate: of those `rates` whose run stays in the picture, the one whose value after
    the last step is the lowest; of those that get equally low but for rounding, the smallest. If all leave it, the
    lowest of all.

    The rule is the same for everybody, and the budget is that of the picture: who is tuned for 100 steps and shown for
    500, or given a rate by hand, is not compared. Without the condition rates win that throw a run far away, from where
    it returns by luck (on the valley RMSprop's is 500 then). A run that is not finite at its end is taken last.

    Example:
        >>> from torch_lecture_ops import optim
        >>> fair_rate("bowl", optim.SGD, steps=1).rate  # one step of 1 ends in the minimum
        1.0
    """
    (surface, start), rates = resolved(surface, start), sorted(rates)
    tried: list[Descent] = []
    for rate in rates:
        way = islice(_way(surface, partial(optimizer, lr=rate), start), steps + 1)
        points = list(takewhile(lambda point: surface.holds(*point), way))
        if len(points) > steps:
            tried.append(Descent(surface, torch.tensor(points, dtype=torch.float64), rate=rate, by_rule=True))
    for rate in rates if not tried else ():
        run = descend(surface, partial(optimizer, lr=rate), start, steps)
        tried.append(replace(run, rate=rate, by_rule=True))
    lowest = min(run.final for run in tried)
    return next(run for run in tried if run.final <= lowest + ROUNDING * abs(lowest))


def runs(
    surface: Surface | str,
    optimizers: Sequence[str] | Mapping[str, Factory],
    start: Point | None = None,
    steps: int = 200,
    rates: Mapping[str, float] | None = None,
) -> list[Descent]:
    """Everybody's run from the same point, each with the rate of `fair_rate` unless `rates` or the choice fixes it.

    Arguments:
        surface: where, or its name.
        optimizers: choices such as "adam:larson", or label -> what builds the optimizer from parameters and lr.
        start, steps: as in `descend`.
        rates: choice or label -> a rate for it.

    Raises:
        ValueError: an unknown surface or optimizer, or none; a rate for none of the optimizers.
    """
    surface, start = resolved(surface, start)
    racers = chosen_racers(optimizers, rates or {})
    named = progress(racers.items(), "choosing rates")
    if isinstance(optimizers, Mapping):
        return [_run_of(one, surface, start, steps) for _, one in named]
    return [_run_of_choice(name, one.rate, surface, start, steps) for name, one in named]


def chosen_racers(optimizers: Sequence[str] | Mapping[str, Factory], rates: Mapping[str, float]) -> dict[str, Racer]:
    """By choice or label, each with its rate if it is fixed; ValueError as in `runs`."""
    if isinstance(optimizers, Mapping):
        racers = {name: Racer(name, build, rates.get(name)) for name, build in optimizers.items()}
    else:
        rates = {str(parse(name)): rate for name, rate in rates.items()}
        found = {str(parse(text)): racer(text) for text in optimizers}
        racers = {name: one._replace(rate=rates.get(name, one.rate)) for name, one in found.items()}
    if unknown := set(rates) - set(racers):
        raise ValueError(f"a rate for {min(unknown)!r}, which is none of {', '.join(racers)}")
    if not racers:
        raise ValueError("runs: there must be at least one optimizer, got none")
    return racers


def _run_of(one: Racer, surface: Surface, start: Point, steps: int) -> Descent:
    if one.rate is None:
        run = fair_rate(surface, one.build, start, steps)
    else:
        run = replace(descend(surface, partial(one.build, lr=one.rate), start, steps), rate=one.rate)
    return replace(run, label=one.label)


@lru_cache(maxsize=256)  # the same race is drawn light and dark, and moving
def _run_of_choice(name: str, rate: float | None, surface: Surface, start: Point, steps: int) -> Descent:
    return _run_of(racer(name)._replace(rate=rate), surface, start, steps)
