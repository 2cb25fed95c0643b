"""A setting: everything chosen for one training. Grids of settings, and the key a result is kept under."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from importlib.metadata import version
from itertools import product
from typing import Any

import numpy as np
import torch

import torch_lecture_ops

from .choices import build_optimizer, build_schedules, initial_lr, label


@dataclass(frozen=True)
class Setting:
    """Choices as in choices.py; numbers that follow from others (a full batch, a default lr) are filled in."""

    optimizer: str = "sgd"
    activation: str = "relu"
    init: str = "he_normal"
    loss: str = "cross_entropy"
    schedule: str = "none"
    hidden: tuple[int, ...] = (256, 128)
    batch_size: int = 128
    lr: float = 0.1
    epochs: int = 3
    dropout: tuple[float, float] = (0.0, 0.0)  # of the pixels, of the hidden units
    max_norm: float = 0.0  # of the weights of one unit, after every step; 0: none
    scale: str = "unit"  # of the pixels, see data.SCALES
    dataset: str = "subset"
    stop_at: float | None = None  # percent of the test images: training ends with the epoch that gets there
    library: str = "ours"
    processes: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("hidden", "dropout"):  # lists in JSON
            object.__setattr__(self, name, tuple(getattr(self, name)))


AXES = tuple(field.name for field in fields(Setting) if field.name not in ("seed", "library", "processes"))


def grid(base: Setting, axes: Mapping[str, Sequence[Any]], seeds: Sequence[int]) -> list[Setting]:
    """All combinations, seed by seed, so that an interrupted comparison is complete for the seeds it has.

    Raises:
        ValueError: a combination cannot be built: a library without the class, a schedule that does not go with the
            optimizer; a grid without points.
    """
    settings = []
    for seed, *values in product(seeds, *axes.values()):
        setting = replace(base, seed=seed, **dict(zip(axes, values, strict=True)))
        settings.append(replace(setting, lr=initial_lr(setting.optimizer, setting.lr)))
    for setting in {point(setting): setting for setting in settings}.values():
        check(setting)
    if not settings:
        raise ValueError("the grid is empty: " + ", ".join(f"{len(axis)} x {name}" for name, axis in axes.items()))
    return settings


def check(setting: Setting) -> None:
    """ValueError if optimizer and schedule cannot be built together."""
    parameters = [torch.zeros(1)]
    try:
        optimizer = build_optimizer(parameters, setting.optimizer, setting.library, setting.lr)
        build_schedules(optimizer, setting.schedule)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{setting.optimizer}, schedule {setting.schedule}: {error}") from None


def point(setting: Setting) -> Setting:
    """What the seeds of a row of a table have in common."""
    return replace(setting, seed=0)


def pair(setting: Setting) -> Setting:
    """What ours and torch's of a row of a comparison have in common."""
    return replace(setting, seed=0, library="ours")


ALWAYS = ("optimizer", "activation", "init")


def labels(settings: Iterable[Setting]) -> dict[Setting, str]:
    """A name for each point: optimizer, activation and init, and whatever else is not the same in all."""
    points = list(dict.fromkeys(map(point, settings)))
    shown = [name for name in (*AXES, "library") if name in ALWAYS or varies(name, points)]
    return {one: " ".join(filter(None, (show(name, getattr(one, name)) for name in shown))) for one in points}


def varies(name: str, points: Iterable[Setting]) -> bool:
    """Learning rates: those of one optimizer, since each has its own default."""
    values: dict[str, set[Any]] = {}
    for one in points:
        values.setdefault(one.optimizer if name == "lr" else "", set()).add(getattr(one, name))
    return any(len(several) > 1 for several in values.values())


def show(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name in ALWAYS:
        return label(name, value)
    if name == "hidden":
        return "-".join(map(str, value))
    if name in ("library", "loss", "dataset"):
        return str(value)
    return f"{name.replace('_', ' ')} {value:g}" if isinstance(value, float) else f"{name.replace('_', ' ')} {value}"


# ---------------------------------------------------------------- what else determines the numbers


@cache
def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": version("lightning"),
        "numpy": np.__version__,
        "torch_lecture_ops": torch_lecture_ops.__version__,
    }


def machine() -> dict[str, Any]:
    return {
        "platform": platform.platform(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def key(setting: Setting, digest: str) -> str:
    """Names the result: the same where setting, digits, versions, vector units and threads are the same.

    The last two change the order of sums, and so the rounding.
    """
    rounding = {name: machine()[name] for name in ("cpu", "threads")}
    contents = {"setting": asdict(setting), "digits": digest, "versions": versions(), **rounding}
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()[:24]
