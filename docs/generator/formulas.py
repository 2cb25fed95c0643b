"""The LaTeX of a card: what the formula itself prints."""

from __future__ import annotations

from .catalogue import Card


def latex(card: Card, form: str) -> str:
    if not hasattr(card.value, "latex"):
        return ""
    return str(card.value.latex(form=form) if card.kind == "optimizers" else card.value.latex())
