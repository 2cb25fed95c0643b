"""A race that runs in the browser: one HTML file that needs no network and no library.

Its steps and surfaces are the formulas of the package, written in JavaScript by themselves. What is written by hand
lies in the folder race_page: how a run is made of steps (runs.js), how it is drawn, and the page around it.
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from importlib.resources import files
from string import Template
from typing import Any

from ..checks import check_choice
from ..formula import FormulaError
from ..formula.javascript import javascript
from .choices import OPTIMIZERS, Racer, racer
from .landscape import MARKERS, heights, levels
from .races import EVERYBODY
from .runs import RATES, ROUNDING, chosen_racers, resolved
from .style import COLOURS, GROUND, THEMES, Theme
from .surfaces import SURFACES, Point, Surface

__all__ = ["race_page"]


def __dir__() -> list[str]:
    return __all__


# The momentum of these forms is a step size beside η, not a part of the last step: 0.9 throws them out of the picture.
SETTINGS = {form: f"{form}:momentum=0.001" for form in ("momentum:form=larson", "nesterov:form=larson")}
SCRIPTS = ("runs.js", "contours.js", "picture.js", "controls.js")  # after the data


def race_page(
    surface: Surface | str = "beale",
    optimizers: Sequence[str] = EVERYBODY,
    start: Point | None = None,
    steps: int = 200,
    rates: Mapping[str, float] | None = None,
    theme: Theme | None = None,
) -> str:
    """The text of an HTML file in which all optimizers, in all their forms, race over all surfaces.

    The arguments are what it shows at first: start, rates, surface and who takes part are chosen in the page. Rates
    that are not given follow the rule of `fair_rate`, also from another start. Write it in UTF-8.

    Arguments:
        surface, optimizers, start, steps, rates: as in `race`; choices only, and a surface whose value and slope are
            formulas.
        theme: "light" or "dark"; None for that of the reader's system.

    Raises:
        ValueError: unknown names; a surface that is no formula, such as that of a network; a start that is no point; a
            rate or a number of steps that is not positive.
        TypeError: optimizers that are no choices.

    Example::

        Path("race.html").write_text(race_page("beale", ["sgd", "adam:larson"]), encoding="utf-8")
    """
    surface, start = resolved(surface, start)
    check(optimizers, steps, theme)
    chosen = chosen_racers(optimizers, rates or {})
    for name, one in chosen.items():
        if one.rate is not None and not 0 < one.rate < math.inf:
            raise ValueError(f"race_page: the rate of {name} must be a positive number, got {one.rate}")
    racers = chosen | {name: racer(name) for name in every_choice() if name not in chosen}
    data = dict(
        FIRST=dict(surface=surface.name, racers=list(chosen), start=start, steps=steps, theme=theme),
        RATES=RATES,
        ROUNDING=ROUNDING,
        MARKERS=MARKERS,
        COLOURS=COLOURS,
        GROUND=GROUND,
    )
    lines = [f"const {name} = {literal(value)};" for name, value in data.items()]
    lines += array("SURFACES", map(of_surface, {**SURFACES, surface.name: surface}.values()))
    lines += array("RACERS", (of_racer(name, one) for name, one in racers.items()))
    return page("\n".join(['"use strict";', *lines]))


def check(optimizers: Sequence[str], steps: int, theme: Theme | None) -> None:
    """Whether a page can show it."""
    if isinstance(optimizers, Mapping):
        raise TypeError(f"race_page: optimizers must be choices such as 'adam:larson', got {optimizers}")
    if steps < 1:
        raise ValueError(f"race_page: steps must be at least 1, got {steps}")
    if theme is not None:
        check_choice("race_page", "theme", theme, THEMES)


def every_choice() -> list[str]:
    """All optimizers and all forms, as `chosen_racers` names them; those of SGD with momentum, without which they are
    all the same."""
    classes: dict[str, Any] = {"momentum" if name == "sgd" else name: cls for name, cls in OPTIMIZERS.items()}
    forms = [f"{name}:form={form}" for name, cls in classes.items() for form in cls.forms]
    return [*dict.fromkeys([*EVERYBODY, *OPTIMIZERS]), *(SETTINGS.get(form, form) for form in forms)]


def of_surface(surface: Surface) -> str:
    """A surface as an object of JavaScript."""
    try:
        value, slope = javascript(surface.value, "value"), javascript(surface.slope, "slope")
    except (FormulaError, TypeError) as error:  # the latter of what takes numbers only
        raise ValueError(f"race_page: the surface {surface.name!r} must be a formula: {error}") from None
    facts = dict(
        name=surface.name,
        formula=surface.value.__doc__ or surface.name,
        source=surface.source,
        box=surface.box,
        start=surface.start,
        minima=surface.minima,
        fine=surface.fine,
        levels=levels(heights(surface)[2]),
    )
    return f"{{...{literal(facts)}, value: {value}, slope: {slope}}}"


def of_racer(name: str, one: Racer) -> str:
    """An optimizer as an object of JavaScript; the function of its step has the name of the class, so each is in a
    scope of its own."""
    build: Any = one.build
    facts = dict(name=name, label=one.label, rate=one.rate)
    step = f"{build.func.javascript(**build.keywords)}\nreturn {build.func.__name__};"
    return f"{{...{literal(facts)}, step: (() => {{\n{step}\n}})()}}"


def array(name: str, values: Iterable[str]) -> list[str]:
    return [f"const {name} = [", *(f"{value}," for value in values), "];"]


def literal(value: Any) -> str:
    """A value as JavaScript, which no text in it can end: the page is HTML."""
    text = json.dumps(value, allow_nan=False)
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def page(data: str) -> str:
    """The template with its style and scripts; nothing else may run in it, nothing may be loaded by it."""
    folder = files(__package__) / "race_page"
    template, style, *scripts = (
        (folder / name).read_text(encoding="utf-8") for name in ("page.html", "look.css", *SCRIPTS)
    )
    scripts = [data, *scripts]
    policy = {
        "default-src": ["'none'"],
        "script-src": map(hashed, scripts),
        "style-src": [hashed(style)],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }
    return Template(template).substitute(
        policy="; ".join(f"{name} {' '.join(sources)}" for name, sources in policy.items()),
        style=style,
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )


def hashed(text: str) -> str:
    """What a policy calls a script or style of this text."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
