"""The LaTeX of a card: what the formula itself prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch_lecture_ops.nn import init

from .catalogue import Card

# With which options beside the defaults the formula of a class is shown; the first line is that of the examples.
OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "SGD": (dict(momentum=0.9), dict(momentum=0.9, nesterov=True)),
    "RMSprop": ({}, dict(centered=True, momentum=0.9)),
    "Adam": ({}, dict(amsgrad=True)),
    "MomentumAnnealing": ({}, dict(form="sutskever")),
}
FORMS_WITH_OPTIONS = ("torch", "cs231n")  # the other forms know none of these


def written(card: Card, form: str) -> Iterator[tuple[str, str]]:
    """Each set of options in words, empty for the first, and the LaTeX of the formula with them."""
    if card.kind == "callbacks" or card.title in ("gain", "initialize"):
        return
    options = OPTIONS.get(card.title, ({},))
    first = options[0] if form in FORMS_WITH_OPTIONS or card.title == "SGD" else {}
    yield "", latex(card, form, first)
    for more in options[1:] if form in FORMS_WITH_OPTIONS else ():
        words = [f"{key}={value!r}" for key, value in more.items() if first.get(key) != value]
        yield ", ".join(words), latex(card, form, more)


def latex(card: Card, form: str, options: dict[str, Any]) -> str:
    if card.kind == "initialization":
        return str(init.latex(card.title.rstrip("_"), "relu" if card.title.startswith("he") else "tanh"))
    if card.kind == "optimizers":
        return str(card.value.latex(form=form, **options))
    return str(card.value.latex(**options))
