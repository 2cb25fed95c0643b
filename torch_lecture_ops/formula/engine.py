"""What the engines that compile have in common: that they may be missing here, and build nothing twice."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

K = TypeVar("K")


class EngineUnavailable(RuntimeError):
    """An engine cannot run here; the text says what is missing."""


@cache
def note_fallback(reason: str, instead: str) -> None:
    """Say in the log of "torch_lecture_ops", once a process, what runs instead of compiled kernels, and why."""
    logging.getLogger("torch_lecture_ops").warning("no compiled kernels: %s; %s instead", reason, instead)


@cache
def _kernel_or_reason(build: Callable[..., Any], *what: Any) -> Any:
    try:
        return build(*what)
    except EngineUnavailable as reason:
        return reason


def built_once(build: Callable[..., K], *what: Any) -> K:
    """The kernel built of this, once a process; what failed once raises the same EngineUnavailable again."""
    found = _kernel_or_reason(build, *what)
    if isinstance(found, EngineUnavailable):
        raise EngineUnavailable(*found.args)
    return found
