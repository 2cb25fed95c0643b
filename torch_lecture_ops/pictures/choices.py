"""What can be chosen, as it is written on a command line, and how each choice is built.

A choice is a name with settings after colons, `adam`, `adam:larson`, `adadelta:rho=0.95:eps=1e-6`; a word alone is the
form of an optimizer. Settings are the keyword arguments of the class, several numbers with slashes:
`adam:betas=0.8/0.99`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.optim import Optimizer

from .. import optim
from ..optim import lr_scheduler

__all__ = ["OPTIMIZERS", "SCHEDULES", "Choice", "Factory", "Racer", "Schedule", "ahead", "parse", "racer", "show"]


def __dir__() -> list[str]:
    return __all__


Factory = Callable[..., Optimizer]  # of parameters and, by name, lr


class Choice(NamedTuple):
    name: str
    settings: dict[str, Any]

    def __str__(self) -> str:
        """As on the command line, settings in order: two ways to write the same are the same."""
        return ":".join([self.name, *(f"{key}={show(value)}" for key, value in sorted(self.settings.items()))])

    def words(self) -> list[str]:
        """The settings as in a table: a form by its name alone."""
        settings = sorted(self.settings.items())
        return [show(value) if key == "form" else f"{key}={show(value)}" for key, value in settings]


def show(value: Any) -> str:
    return "/".join(map(show, value)) if isinstance(value, tuple) else str(value).lower()


def parse(text: str) -> Choice:
    """Of text with any name; ValueError for settings that are none."""
    name, *parts = text.strip().lower().split(":")
    settings: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not key or (equals and not value):
            raise ValueError(f"{text!r}: settings are written key=value, got {part!r}")
        settings.update({key: parse_value(value)} if equals else {"form": key})
    return Choice(name, settings)


def parse_value(text: str) -> Any:
    if "/" in text:
        return tuple(map(parse_value, text.split("/")))
    if text in ("true", "false"):
        return text == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            pass
    return text


# ---------------------------------------------------------------- optimizers

OPTIMIZERS: dict[str, type[Optimizer]] = {
    name.lower(): cls
    for name in optim.__all__
    if issubclass(cls := getattr(optim, name), Optimizer) and cls is not optim.RuleOptimizer
}


class Racer(NamedTuple):
    """An optimizer of a picture: the word for it, how it is built, and its learning rate if the choice has one."""

    label: str
    build: Factory
    rate: float | None = None


def racer(text: str) -> Racer:
    """The optimizer of a choice: `momentum` is SGD with μ = 0.9, the other names are those of the classes.

    Raises:
        ValueError: there is no such optimizer, or it does not have these settings.
    """
    choice = parse(text)
    classes = {"sgd": optim.SGD, "momentum": optim.SGD} | OPTIMIZERS
    if choice.name not in classes:
        raise ValueError(f"unknown optimizer {choice.name!r}, choose from {', '.join(classes)}")
    cls: Any = classes[choice.name]
    settings = ({"momentum": 0.9} if choice.name == "momentum" else {}) | choice.settings
    build = partial(cls, **settings)
    try:
        build([torch.zeros(1)])
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{text!r}: {error}") from None
    rate = choice.settings.pop("lr", None)
    name = "Momentum" if choice.name == "momentum" else cls.__name__
    return Racer(" ".join([name, *choice.words()]), build, rate)


def ahead(optimizer: Optimizer) -> AbstractContextManager[None]:
    """Where gradients are computed: Nesterov's are those ahead of the parameters."""
    return getattr(optimizer, "lookahead", nullcontext)()


# ---------------------------------------------------------------- schedules


class Schedule(NamedTuple):
    cls: type[lr_scheduler.LRScheduler] | None
    defaults: dict[str, float] = {}


SCHEDULES = {
    "none": Schedule(None),
    "step": Schedule(lr_scheduler.StepDecay),
    "exponential": Schedule(lr_scheduler.ExponentialDecay, dict(k=0.1)),
    "inverse": Schedule(lr_scheduler.InverseTimeDecay, dict(k=0.1)),
    "power": Schedule(lr_scheduler.PowerCooling, dict(epsilon=0.05)),
    "annealing": Schedule(lr_scheduler.MomentumAnnealing, dict(steps=10)),
}
