"""Docstrings as this package writes them: read into blocks, and written as reStructuredText."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from textwrap import dedent, indent
from typing import Any, Literal

SECTIONS = ("Arguments", "Args", "Attributes", "Raises", "Warns", "Example")
TITLES = {"Args": "Arguments"}
SOURCE = "Source:"
DIFFERENCE = ("Difference from torch:", "Like `torch.", "torch has no such class")
LABELS = ("Source:", "Difference from torch:", "Arguments and errors")  # they begin a paragraph of their own

Link = Callable[[str], str]  # what stands in backticks -> reStructuredText


@dataclass(frozen=True)
class Block:
    """A part of a docstring: its text without indentation, and the heading of a section."""

    kind: Literal["text", "formula", "items", "code", "section"]
    text: str
    title: str = ""


def blocks(value: Any) -> list[Block]:
    """The blocks of the docstring of a class or function; none if it has no docstring of its own.

    >>> def f(x):
    ...     '''One sentence.
    ...
    ...         y = x
    ...
    ...     Arguments:
    ...         x: a number.
    ...     '''
    >>> [block.kind for block in blocks(f)]
    ['text', 'formula', 'section']
    """
    return blocks_of(inspect.cleandoc(getattr(value, "__doc__", None) or "").splitlines())


def blocks_of(lines: list[str]) -> list[Block]:
    return list(_blocks(lines))


def _blocks(lines: list[str]) -> Iterator[Block]:
    while lines:
        line, title = lines[0], lines[0].rstrip(":")
        if not line:
            lines = lines[1:]
        elif line.endswith(":") and title in SECTIONS:
            inside, lines = _split(lines[1:], lambda line: not line or line.startswith(" "))
            yield Block("section", dedent("\n".join(inside)).strip("\n"), TITLES.get(title, title))
        elif line.startswith(" "):
            inside, lines = _split(lines, lambda line: not line or line.startswith(" "))
            text = dedent("\n".join(inside)).strip("\n")
            yield Block("items" if text.startswith("- ") else "formula", text)
        elif line.startswith(("- ", ">>> ")):
            inside, lines = _split(lines, bool)
            yield Block("items" if line.startswith("- ") else "code", "\n".join(inside))
        else:
            inside, lines = _split(lines[1:], lambda line: bool(line) and not line.startswith((" ", ">>> ", *LABELS)))
            yield Block("text", " ".join([line, *inside]))


def _split(lines: list[str], belongs: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    end = next((number for number, line in enumerate(lines) if not belongs(line)), len(lines))
    return lines[:end], lines[end:]


def summary(value: Any) -> str:
    """The first paragraph of the docstring, without the reference to the Function that does the work."""
    first = next((block.text for block in blocks(value) if block.kind == "text"), "")
    return re.sub(r"[;,] see `torch_lecture_ops\.[\w.]+`\.", ".", first)


def source(value: Any) -> str:
    """Lecture, slide and papers: what the docstring says after 'Source:'."""
    found = [block.text for block in blocks(value) if block.text.startswith(SOURCE)]
    return found[0].removeprefix(SOURCE).strip() if found else ""


def difference(value: Any) -> str:
    """What the docstring says of torch's class or function of the same name."""
    found = [block.text for block in blocks(value) if block.text.startswith(DIFFERENCE)]
    return found[0].removeprefix(DIFFERENCE[0]).strip() if found else ""


def written(parts: list[Block], link: Link) -> str:
    """The blocks as reStructuredText."""
    return "\n\n".join(_written(part, link) for part in parts)


def _written(part: Block, link: Link) -> str:
    if part.kind == "section":
        return f".. rubric:: {part.title}\n\n{_section(part, link)}"
    if part.kind == "items":
        items = [" ".join(item.split()) for item in re.split(r"^- ", part.text, flags=re.MULTILINE) if item]
        return "\n".join(f"- {escaped(item, link)}" for item in items)
    if part.kind == "code":
        return code(part.text)
    if part.kind == "formula":
        return code(part.text, "text")
    return escaped(part.text, link)


def _section(part: Block, link: Link) -> str:
    if part.title == "Example":
        return code(part.text)
    entries = re.split(r"\n(?! )", part.text)
    if not all(re.match(r"[\w*, ]+: ", entry) for entry in entries):
        return escaped(" ".join(part.text.split()), link)
    pairs = [entry.split(":", 1) for entry in entries]
    return "\n\n".join(f"``{name}``\n    {escaped(' '.join(text.split()), link)}" for name, text in pairs)


def code(text: str, language: str = "") -> str:
    language = language or ("pycon" if text.startswith(">>>") else "python")
    return f".. code-block:: {language}\n\n{indent(text, '    ')}"


def escaped(text: str, link: Link) -> str:
    """Text in which only backticks mean anything.

    >>> escaped("see `Adam`: |x_| * 2", lambda name: f"``{name}``")
    'see ``Adam``: \\\\|x\\\\_\\\\| \\\\* 2'
    """
    parts = text.split("`")
    plain = [re.sub(r"([\\*|_<>])", r"\\\1", part) for part in parts[::2]]
    linked = [link(name) for name in parts[1::2]]
    result = plain[0]
    for name, after in zip(linked, plain[1:], strict=True):
        # A role must end where a word does.
        result += name + ("\\ " if after[:1].isalnum() else "") + after
    return result
