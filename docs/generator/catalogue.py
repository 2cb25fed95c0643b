"""Which public names there are, and which page shows each of them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any

from torch.autograd import Function

import torch_lecture_ops
from torch_lecture_ops import functions, nn, optim
from torch_lecture_ops.nn import functional, init, losses
from torch_lecture_ops.optim import lr_scheduler

from . import docstrings

# Folder of the cards -> heading
KINDS = {
    "optimizers": "Optimizers",
    "schedules": "Schedules",
    "activations": "Activations",
    "gates": "Gates",
    "losses": "Losses",
    "initialization": "Initialization",
    "callbacks": "Callbacks",
}
BASES = functions.Elementwise, functions.Pointwise, functions.Rowwise, optim.RuleOptimizer, lr_scheduler.ClosedFormLR


@dataclass(frozen=True)
class Card:
    """A page for one formula: `names` are all public names of it, the one with the formula first."""

    kind: str
    title: str
    names: tuple[str, ...]
    forms: tuple[str, ...] = field(default=())

    @property
    def page(self) -> str:
        return f"{self.kind}/{self.title.split(',')[0].lower().strip('_')}"

    @property
    def value(self) -> Any:
        return value_of(self.names[0])


@cache
def modules() -> dict[str, ModuleType]:
    """The public modules by name: the package, its packages, and the modules that `dir` shows of these."""
    packages = [p.name for p in pkgutil.iter_modules(torch_lecture_ops.__path__, "torch_lecture_ops.") if p.ispkg]
    found = [torch_lecture_ops, *map(importlib.import_module, packages)]
    for module in found:  # which grows
        shown = [getattr(module, name) for name in dir(module)]
        found += [value for value in shown if isinstance(value, ModuleType) and value not in found]
    return {module.__name__: module for module in found}


@cache
def public_names() -> tuple[str, ...]:
    """Every public name that is no module, with its module."""
    return tuple(
        f"{module.__name__}.{name}"
        for module in modules().values()
        for name in module.__all__
        if not isinstance(getattr(module, name), ModuleType)
    )


def value_of(name: str) -> Any:
    module, _, last = name.rpartition(".")
    return getattr(modules()[module], last)


@cache
def cards() -> tuple[Card, ...]:
    return (*_optimizers(), *_schedules(), *_functions(), *_initialization(), *_callbacks())


def card_of(name: str) -> Card | None:
    """The card that shows this public name, if one does."""
    return next((card for card in cards() if name in card.names), None)


def without_card(module: str) -> list[str]:
    """The public names of a module that only the reference shows."""
    names = [name for name in public_names() if name.rpartition(".")[0] == module]
    return [name for name in names if card_of(name) is None]


def _classes(module: ModuleType, base: type) -> Iterator[tuple[str, type]]:
    """The public classes of a module that are formulas of this kind: its own, and no bases."""
    for name in module.__all__:
        value = getattr(module, name)
        is_own = getattr(value, "__module__", "").startswith("torch_lecture_ops")
        if inspect.isclass(value) and issubclass(value, base) and is_own and value not in BASES:
            yield f"{module.__name__}.{name}", value


def _optimizers() -> Iterator[Card]:
    for name, value in _classes(optim, optim.RuleOptimizer):
        yield Card("optimizers", value.__name__, (name,), tuple(vars(value).get("forms", ())))


def _schedules() -> Iterator[Card]:
    for name, value in _classes(lr_scheduler, lr_scheduler.LRScheduler):
        yield Card("schedules", value.__name__, (name,))


def _functions() -> Iterator[Card]:
    """A card holds the Function and what computes with it, as their docstrings say."""
    layers = {f"{nn.__name__}.{name}": getattr(nn, name) for name in nn.__all__}
    users = {name: layer for name, layer in layers.items() if inspect.isclass(layer)}
    users |= {f"{functional.__name__}.{name}": getattr(functional, name) for name in functional.__all__}
    for name, value in _classes(functions, Function):
        using = [user for user, its in users.items() if _function_of(its) is value]
        if value.__module__.endswith(".gates"):
            yield Card("gates", value.__name__, (name, *using))
        else:
            is_loss = any(users[user].__module__ == losses.__name__ for user in using)
            title = ", ".join(users[user].__name__ for user in using if inspect.isclass(users[user]))
            yield Card("losses" if is_loss else "activations", title, (name, *using))


def _function_of(user: Any) -> Any:
    """The Function that a module or a function computes with: the first that its docstring names."""
    text = getattr(user, "__doc__", None) or ""
    if found := re.search(r"`torch_lecture_ops\.functions\.(\w+)`", text):
        return getattr(functions, found[1])
    found = re.search(r"`torch_lecture_ops\.nn\.functional\.(\w+)`", text)
    return _function_of(getattr(functional, found[1])) if found else None


def _initialization() -> Iterator[Card]:
    for name in init.__all__:
        if docstrings.source(getattr(init, name)):
            beside = ("Report", "Layer") if name == "initialize" else ()
            yield Card("initialization", name, tuple(f"{init.__name__}.{shown}" for shown in (name, *beside)))


def _callbacks() -> Iterator[Card]:
    callbacks = modules()["torch_lecture_ops.callbacks"]
    for name in callbacks.__all__:
        yield Card("callbacks", name, (f"{callbacks.__name__}.{name}",))
