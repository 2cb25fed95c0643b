"""A card for every formula: where it stands, LaTeX, picture, difference from torch, a ten-line example, the code."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from textwrap import dedent, indent
from typing import Any

from . import catalogue, docstrings, examples, formulas
from .catalogue import KINDS, Card
from .reference import entry, heading, link

TABLES = {
    "optimizers": "Each class has the signature, the defaults, the options, the errors and the checkpoints of torch's "
    "class of the same name, and a keyword ``form=`` for the formulas of the notes that differ from torch's.",
    "schedules": "``optim.lr_scheduler`` has all of ``torch.optim.lr_scheduler``, and these subclasses of its "
    "``LRScheduler``; t counts their steps, epochs or batches. The learning rates are the formula, not a product of "
    "steps, until something else changes them; then they go on from there, so that ``ChainedScheduler`` works. "
    ":py:obj:`ClosedFormLR <torch_lecture_ops.optim.lr_scheduler.ClosedFormLR>` makes a schedule of any formula.",
    "activations": "Each is a module in ``nn``, a function in ``nn.functional`` and a ``torch.autograd.Function`` with "
    "a hand-written backward in ``functions``.",
    "gates": "The gates of a computational graph and the patterns in which gradients flow back through them, in "
    "``nn.functional`` and, as Functions, in ``functions``.",
    "losses": "Each is a module in ``nn``, a function in ``nn.functional`` and a ``torch.autograd.Function`` in "
    "``functions``.",
    "initialization": "Weights whose variance keeps that of the signal from layer to layer: ``nn.init``.",
    "callbacks": "Lightning callbacks that look into a network while it trains and change nothing of it: "
    '``pip install ".[lightning]"`` in the checkout, and ``".[plot]"`` for their pictures.',
}


def pages(pictures: Callable[[Card, str], str | None], run: bool = True) -> Iterator[tuple[str, str]]:
    """Path and text of every page. `pictures` gives the file of a card's form, without theme and ending.

    `run`: whether examples run, so that the page shows what they print.
    """
    for card in catalogue.cards():
        yield card.page, _page(card, pictures, run)
    for kind in KINDS:
        yield f"{kind}/index", _table(kind)


def _page(card: Card, pictures: Callable[[Card, str], str | None], run: bool) -> str:
    name = card.names[0]
    parts = [heading(card.title, "="), *_card(card, "torch", card.value, _rule(card), name, pictures, run)]
    for form in card.forms:
        function = card.value.forms[form]
        parts += [heading(f'form="{form}"', "-")]
        parts += _card(card, form, function, [function], name, pictures, run)
    parts += [heading("Reference", "-"), *map(entry, card.names)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _card(
    card: Card,
    form: str,
    documented: Any,
    code: list[Any],
    name: str,
    pictures: Callable[[Card, str], str | None],
    run: bool,
) -> Iterator[str]:
    def linked(inner: str) -> str:
        return link(inner, name.rpartition(".")[0])

    yield docstrings.escaped(docstrings.summary(documented), linked)
    for options, latex in formulas.written(card, form):
        yield (f"``{options}``:\n\n" if options else "") + f".. math::\n\n{indent(latex, '    ')}"
    yield _picture(pictures(card, form), f"{card.title}, {form}" if card.forms else card.title)
    told = docstrings.source(documented), docstrings.difference(documented)
    fields = dict(zip(("Lecture and slide", "Difference from torch"), told, strict=True))
    yield "\n".join(f":{key}: {docstrings.escaped(text, linked)}" for key, text in fields.items() if text)
    text = examples.example(card, form)
    yield ".. rubric:: Example\n\n" + docstrings.code(text.rstrip())
    if run and card.kind != "callbacks" and (printed := examples.output(text)[0]):
        yield docstrings.code(printed.rstrip(), "text")
    if code:
        yield ".. rubric:: The code\n\n" + docstrings.code("\n\n".join(map(_source, code)).rstrip())


FORMULAS = ("rule", "value", "slope", "chain", "push", "eta", "mu")


def _rule(card: Card) -> list[Any]:
    """The functions that are the formula."""
    if card.kind == "gates":
        return [card.value]
    if not inspect.isclass(card.value):
        return []
    written = [getattr(card.value, name) for name in FORMULAS if hasattr(card.value, name)]
    # Some are made of others by the shell.
    return [f for f in written if inspect.isfunction(f) and "<locals>" not in f.__qualname__]


def _source(value: Any) -> str:
    """The code of a class or function as on the slide: without its docstring, and without types that say nothing."""
    text = dedent(inspect.getsource(value))
    lines, statement = text.splitlines(), ast.parse(text).body[0]
    first = statement.body[0] if isinstance(statement, (ast.ClassDef, ast.FunctionDef)) else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        del lines[first.lineno - 1 : first.end_lineno]
    return re.sub(r": Any\b| -> Any\b", "", "\n".join(lines))


def _picture(file: str | None, alt: str) -> str:
    if file is None:
        return ""
    return "\n\n".join(
        f".. image:: /{file}-{theme}.png\n    :class: only-{theme}\n    :alt: {alt}" for theme in ("light", "dark")
    )


def _table(kind: str) -> str:
    """The page of a kind: a row for each card and form."""
    shown = [card for card in catalogue.cards() if card.kind == kind]
    rows = [_row(card, form) for card in shown for form in ("torch", *card.forms)]
    pages = "\n".join(f"    {card.page.rpartition('/')[2]}" for card in shown)
    table = ".. list-table::\n    :widths: 18 52 30\n    :class: cards\n\n" + "\n".join(rows)
    hidden = f".. toctree::\n    :hidden:\n\n{pages}"
    return "\n\n".join([heading(KINDS[kind], "="), TABLES[kind], hidden, table]) + "\n"


def _row(card: Card, form: str) -> str:
    def linked(inner: str) -> str:
        return link(inner, card.names[0].rpartition(".")[0])

    documented = card.value if form == "torch" else card.value.forms[form]
    title = f":doc:`{card.title} </{card.page}>`" if form == "torch" else f'``form="{form}"``'
    formula = [docstrings.escaped(docstrings.summary(documented), linked)]
    formula += [f".. math::\n\n{indent(latex, '    ')}" for _, latex in list(formulas.written(card, form))[:1]]
    told = [docstrings.source(documented), docstrings.difference(documented)]
    beside = [docstrings.escaped(text, linked) for text in told if text]
    if len(beside) == 2:
        beside[1] = f"*Difference from torch:* {beside[1]}"
    return "\n".join([f"    * - {title}", *(_cell("\n\n".join(parts)) for parts in (formula, beside))])


def _cell(text: str) -> str:
    return f"      - {indent(text, ' ' * 8).lstrip()}"
