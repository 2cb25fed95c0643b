"""What command lines share: errors of one line, and the values of options."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn


def fail(program: str, message: str, status: int) -> NoReturn:
    print(f"{program}: {message}", file=sys.stderr)
    raise SystemExit(status)


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong without repeating the usage."""

    def error(self, message: str) -> NoReturn:
        fail(self.prog, message, status=2)


def each(parse_one: Callable[[str], object]) -> Callable[[str], list]:
    """Parser of a comma-separated list; what is named twice counts once."""
    return lambda text: list(dict.fromkeys(map(parse_one, text.split(","))))


def name_of(valid: Iterable[str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in valid:
            raise argparse.ArgumentTypeError(f"unknown {text!r}, choose from {', '.join(valid)}")
        return text.lower()

    return parse


def names_of(valid: Iterable[str]) -> Callable[[str], list[str]]:
    """Parser of a comma-separated list of `valid` names."""
    return each(name_of(valid))


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return value


def whole_number(text: str, least: int = 1) -> int:
    if not text.strip().isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, got {text!r}")
    return int(text)
