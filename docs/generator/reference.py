"""The pages of the reference: one for each public module, with every name that no card shows."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from . import catalogue, docstrings


def link(name: str, home: str = "") -> str:
    """What stands in backticks in a docstring of the module `home`: a link to a public name, else code."""
    return f":py:obj:`{name} <{target}>`" if (target := _target(name, home)) else f"``{name}``"


def _target(name: str, home: str) -> str | None:
    public = catalogue.public_names()
    full = name if name.startswith("torch_lecture_ops.") else f"torch_lecture_ops.{name}"
    if full in public:
        return full
    if "." in name:
        return None
    found = [known for known in public if known.rpartition(".")[2] == name and not _is_torchs(known)]
    at_home = [known for known in found if known.rpartition(".")[0] == home]
    return next(iter(at_home or found), None)


def _is_torchs(name: str) -> bool:
    return getattr(catalogue.value_of(name), "__module__", "").startswith("torch.")


def pages() -> Iterator[tuple[str, str]]:
    """Path and text of every page."""
    for module in catalogue.modules():
        yield f"reference/{module}", _page(module)
    yield "reference/index", _index()


def _index() -> str:
    short = {module: module.removeprefix("torch_lecture_ops.") for module in catalogue.modules()}
    listed = "\n".join(f"    {name} <{module}>" for module, name in short.items())
    return f"{heading('Reference', '=')}\n\nEvery public name, by module.\n\n.. toctree::\n\n{listed}\n"


def heading(text: str, line: str) -> str:
    text = docstrings.escaped(text, link)
    return f"{text}\n{line * max(len(text), 4)}"


def _page(module: str) -> str:
    value = catalogue.modules()[module]
    home = module if hasattr(value, "__path__") else module.rpartition(".")[0]
    parts = [heading(module, "="), docstrings.written(docstrings.blocks(value), lambda name: link(name, home))]
    names = [name for name in catalogue.public_names() if name.rpartition(".")[0] == module]
    if names:
        rows = [f"    * - :py:obj:`{name.rpartition('.')[2]} <{name}>`\n      - {_line(name)}" for name in names]
        parts.append(".. list-table::\n    :widths: 30 70\n\n" + "\n".join(rows))
    parts += [entry(name) for name in catalogue.without_card(module)]
    return "\n\n".join(parts) + "\n"


def _line(name: str) -> str:
    value = catalogue.value_of(name)
    if _is_torchs(name):
        return "torch's own class."
    text = docstrings.summary(value) if callable(value) else contents(value)
    return docstrings.escaped(text, lambda inner: link(inner, name.rpartition(".")[0]))


def entry(name: str) -> str:
    """The description of a name: by autodoc, but for data and for what is torch's."""
    value = catalogue.value_of(name)
    if _is_torchs(name):
        return f".. py:class:: {name}\n\n    torch's own class, ``{value.__module__}.{value.__qualname__}``."
    if inspect.isclass(value):
        members = [member for member, its in vars(value).items() if _is_shown(member, its)]
        shown = f"\n    :members: {', '.join(members)}" if members else ""
        return f".. autoclass:: {name}{shown}"
    if callable(value):
        return f".. autofunction:: {name}"
    return f".. py:data:: {name}\n\n    {docstrings.escaped(contents(value), link)}"


def contents(value: Any) -> str:
    """The keys of a table or the entries of a list, in words.

    >>> contents({"bowl": 1, "valley": 2})
    'A dictionary: bowl, valley.'
    """
    return f"A {'dictionary' if isinstance(value, dict) else type(value).__name__}: {', '.join(map(str, value))}."


def _is_shown(member: str, value: Any) -> bool:
    """Methods that the class documents itself; formulas are shown as code."""
    has_text = isinstance(value, property) or inspect.isfunction(getattr(value, "__wrapped__", value))
    return not member.startswith("_") and has_text and bool(getattr(value, "__doc__", None))
