"""A bar for what takes long."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable
from typing import TypeVar

T = TypeVar("T")


def progress(items: Collection[T], what: str) -> Iterable[T]:
    """The items, with a bar on a terminal that is cleared at the end; nothing is shown elsewhere or without tqdm."""
    if not sys.stderr.isatty():
        return items
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    return tqdm(items, desc=what, leave=False)
