"""The picture of a card, light and dark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .catalogue import Card


def into(folder: Path) -> Callable[[Card, str], str | None]:
    return lambda card, form: None
