"""`python -m torch_lecture_ops.pictures`: every picture as a command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..arguments import OneLineParser, each, fail, name_of, names_of, one_line, positive, whole_number
from ..without_the_compiler import without_the_compiler
from .activations import ACTIVATIONS, activation, built
from .animation import animate
from .choices import SCHEDULES, parse, racer
from .glorot_figures import glorot
from .page import race_page
from .races import EVERYBODY, race
from .runs import NETWORK
from .schedules import built as built_schedule
from .schedules import schedule
from .style import THEMES
from .surfaces import SURFACES
from .valleys import momentum_forms, nesterov, saddle, valley, zigzag

__all__ = ["main"]


def __dir__() -> list[str]:
    return __all__


PROGRAM = "pictures"
Options = argparse.Namespace


@dataclass(frozen=True)
class Command:
    """A command: its own options, and the files it makes, by their names without the format.

    `makes` yields, for a theme, a name and what makes the picture; a race has its own ways to write some formats.
    """

    help: str
    makes: Callable[[Options, Any], Iterable[tuple[str, Callable[[], Any]]]]
    options: tuple[str, ...] = ()
    steps: int | None = None  # how many by default
    writers: tuple[str, ...] = ()  # formats of WRITERS besides those of every picture


# ---------------------------------------------------------------- values of options


def checked(check: Callable[[str], object]) -> Callable[[str], str]:
    """A choice as it was written, in the form of `Choice.__str__`; what `check` complains of in one line."""

    def parse_one(text: str) -> str:
        try:
            check(text)
            return str(parse(text))
        except ValueError as error:
            raise argparse.ArgumentTypeError(one_line(error)) from None

    return parse_one


def point(text: str) -> tuple[float, float]:
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be two numbers, x,y, got {text!r}") from None
    return x, y


def rate(text: str) -> tuple[str, float]:
    """name=rate; the name may have settings, so the last = counts."""
    name, equals, number = text.rpartition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"must be written optimizer=rate, got {text!r}")
    return checked(racer)(name), positive(number)


OPTIONS: dict[str, dict[str, Any]] = {
    "--surface": dict(
        type=name_of([*SURFACES, NETWORK]), default="beale", metavar="S", help=f"{', '.join([*SURFACES, NETWORK])}"
    ),
    "--optimizer": dict(
        type=each(checked(racer)), default=",".join(EVERYBODY), metavar="A,B",
        help=f"one or several, with commas, with settings after colons (adam:larson, sgd:momentum=0.5): "
        f"{', '.join(EVERYBODY)}, adamw",
    ),
    "--start": dict(type=point, metavar="X,Y", help="for all; write --start=-1,2 (default: the surface's)"),
    "--lr": dict(
        type=each(rate), default=(), metavar="A=R,B=R",
        help="rates by hand, such as sgd=0.1; the others get theirs by the rule",
    ),
    "--activation": dict(
        type=each(checked(built)), default=",".join(ACTIVATIONS), metavar="A,B",
        help=f"a picture for each: {', '.join(ACTIVATIONS)}; with settings: elu:alpha=0.5",
    ),
    "--schedule": dict(
        type=each(checked(built_schedule)), default=",".join(tuple(SCHEDULES)[1:]), metavar="A,B",
        help=f"in one picture: {', '.join(tuple(SCHEDULES)[1:])}; with settings: step:drop=0.5:every=10",
    ),
    "--after": dict(type=whole_number, default="2", metavar="N", help="the step to look at (default: %(default)s)"),
    "--data-dir": dict(
        type=Path, metavar="DIR", help="folder of MNIST/raw (default: the digits of a checkout)"
    ),
    "--seed": dict(type=partial(whole_number, least=0), default="0", metavar="N", help="(default: %(default)s)"),
}  # fmt: skip


# ---------------------------------------------------------------- commands


def of_race(options: Options) -> dict[str, Any]:
    """The arguments of `race` and whoever else shows one."""
    return dict(
        surface=options.surface,
        optimizers=options.optimizer,
        start=options.start,
        steps=options.steps,
        rates=dict(options.lr),
    )


def with_steps(name: str, picture: Callable[..., Any]) -> Callable[[Options, Any], Iterable]:
    return lambda options, theme: [(name, lambda: picture(options.steps, theme=theme))]


def every_activation(options: Options, theme: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    for text in options.activation:
        yield text.replace(":", "_").replace("=", "_"), partial(activation, text, theme=theme)


COMMANDS = {
    "race": Command(
        "optimizers from the same point over a surface, each with its rate by one rule",
        lambda options, theme: [(f"race_{options.surface}", lambda: race(**of_race(options), theme=theme))],
        ("--surface", "--optimizer", "--start", "--lr"),
        steps=200,
        writers=("gif", "html"),
    ),
    "valley": Command("steep vertically, shallow horizontally", with_steps("valley", valley), steps=60),
    "zigzag": Command("the jitter of a rate that is nearly too large", with_steps("zigzag", zigzag), steps=40),
    "saddle": Command("exactly on a saddle, and slightly off", with_steps("saddle", saddle), steps=60),
    "momentum-forms": Command(
        "the three momenta of the notes", with_steps("momentum_forms", momentum_forms), steps=40
    ),
    "nesterov": Command(
        "the two arrows of the slide, at a real point",
        lambda options, theme: [("nesterov", lambda: nesterov(options.after, theme=theme))],
        ("--after",),
    ),
    "activation": Command("value and slope of activations", every_activation, ("--activation",)),
    "schedule": Command(
        "learning rates over time",
        lambda options, theme: [("schedule", lambda: schedule(options.schedule, options.steps, theme=theme))],
        ("--schedule",),
        steps=50,
    ),
    "glorot": Command(
        "Glorot and Bengio's figures 6 and 7",
        lambda options, theme: [("glorot", lambda: glorot(options.data_dir, options.seed, theme=theme))],
        ("--data-dir", "--seed"),
    ),
}  # fmt: skip


def write_page(options: Options, theme: Any, path: Path) -> None:
    path.write_text(race_page(**of_race(options), theme=theme), encoding="utf-8")


FORMATS = ("png", "svg")  # of every picture
# How a race is written in formats of its own: (options, theme, path).
WRITERS: dict[str, Callable[[Options, Any, Path], None]] = {
    "gif": lambda options, theme, path: animate(path, **of_race(options), theme=theme),
    "html": write_page,
}


def parser_of(name: str) -> OneLineParser:
    command = COMMANDS[name]
    parser = OneLineParser(f"{PROGRAM} {name}", description=f"{name}: {command.help}.", allow_abbrev=False)
    add = parser.add_argument
    for option in command.options:
        add(option, **OPTIONS[option])
    if command.steps:
        add("--steps", type=whole_number, default=f"{command.steps}", metavar="N", help="(default: %(default)s)")
    formats = (*FORMATS, *command.writers)
    add("--format", type=names_of(formats), default="png", metavar="F,G", help=f"{', '.join(formats)} (default: png)")
    add("--theme", type=names_of(THEMES), default="light", metavar="T", help=f"{', '.join(THEMES)} (default: light)")
    add("--out", type=Path, default=Path("pictures"), metavar="DIR", help="folder for the files (default: pictures)")
    return parser


def usage() -> str:
    lines = [f"  {name:15} {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        ["usage: python -m torch_lecture_ops.pictures COMMAND [options]", "", *lines, "", "options: COMMAND --help"]
    )


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else 2
    name, *rest = argv
    if name not in COMMANDS:
        fail(PROGRAM, f"unknown picture {name!r}, choose from {', '.join(COMMANDS)}", status=2)
    torch.set_num_threads(1)  # all is small here: threads would wait for each other
    with without_the_compiler():
        return write(COMMANDS[name], parser_of(name).parse_args(rest))


def write(command: Command, options: Options) -> int:
    """Make the files and name them; the exit status."""
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        for path in written(command, options):
            print(path)
    except KeyboardInterrupt:
        print(f"\n{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    except (ImportError, FileNotFoundError) as error:
        fail(PROGRAM, one_line(error), status=1)
    except OSError as error:
        fail(PROGRAM, f"cannot write to {options.out}: {error.strerror}; name another folder with --out", status=1)
    except ValueError as error:
        fail(PROGRAM, one_line(error), status=2)
    return 0


def written(command: Command, options: Options) -> Iterator[Path]:
    """The files of a command, each as soon as it is there; those of the dark theme end in _dark."""
    for theme in options.theme:
        for name, make in command.makes(options, theme):
            stem = options.out / f"{name}{'' if theme == 'light' else f'_{theme}'}"
            for kind in options.format:
                path = stem.with_name(f"{stem.name}.{kind}")
                if kind in WRITERS:
                    WRITERS[kind](options, theme, path)
                else:
                    make().savefig(path, dpi=110)
                yield path
