"""Checks of the types of arguments, in torch's words, for functions, modules, initialization and optimizers alike.

A call with a small tensor is mostly lookups: functions look at the usual type themselves and come here with the rest.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor


def wrong_type(who: str, name: str, position: int, wanted: str, value: Any) -> TypeError:
    """The TypeError for an argument of another type than the wanted one; position 0 is one that has a name only."""
    place = f" (position {position})" if position else ""
    given = type(value)
    module = "" if given.__module__ in ("builtins", "__main__") else f"{given.__module__}."
    return TypeError(f"{who}(): argument '{name}'{place} must be {wanted}, not {module}{given.__qualname__}")


def check_tensors(who: str, **tensors: Any) -> None:
    """Raise TypeError for what is no tensor; the arguments stand in their order, from the first on."""
    for position, (name, value) in enumerate(tensors.items(), start=1):
        if not isinstance(value, Tensor):
            raise wrong_type(who, name, position, "Tensor", value)


def check_integer(who: str, name: str, position: int, value: Any) -> None:
    """Raise TypeError for what is no integer; True and False are none, nor are arrays."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or getattr(value, "ndim", 0) != 0:
        raise wrong_type(who, name, position, "int", value)


def is_number(value: Any) -> bool:
    """Whether it is one real number, of Python, of NumPy or another that can be converted; text is none."""
    if isinstance(value, (int, float, torch.SymInt, torch.SymFloat)):
        return True
    if isinstance(value, (str, bytes, bytearray)):
        return False
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def check_number(who: str, name: str, position: int, value: Any) -> None:
    """Raise TypeError for what is no real number."""
    if not is_number(value):
        raise wrong_type(who, name, position, "Number", value)


def check_choice(who: str, name: str, value: Any, choices: Collection[str]) -> None:
    """Raise ValueError for what is none of these words."""
    if not isinstance(value, str) or value not in choices:
        *most, last = map(repr, choices)
        raise ValueError(f"{who}: {name} must be {', '.join(most)} or {last}, got {value!r}")
