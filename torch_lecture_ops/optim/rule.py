"""A rule as a formula: what its signature asks for, and the shell's part of the arithmetic around it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

from torch import Tensor

from ..formula import Formula, FormulaError

Group = dict[str, Any]
Decay = Literal["none", "coupled", "decoupled"]

# What the shell reads of a group, with its value where the group has no such key.
OPTIONS: Group = {
    "form": "torch",
    "weight_decay": 0,
    "decoupled_weight_decay": False,
    "maximize": False,
    "differentiable": False,
    "capturable": False,
    "foreach": None,
    "fused": None,
    "kahan": False,
}


@dataclass(frozen=True)
class Buffer:
    """A tensor that the optimizer keeps for each parameter, of its shape and dtype.

    Arguments:
        key: its name in the state and in checkpoints.
        when: the key of the parameter group that must be true (or not zero) for the buffer to exist.
        initial: its value at first, or the key of the parameter group that holds it, else an option of the class.
        scalar: one number a parameter instead of one an element.
    """

    key: str
    when: str | None = None
    initial: float | str = 0.0
    scalar: bool = False


STEP = Buffer("step", scalar=True)
COMPENSATION = Buffer("compensation", when="kahan")


class Options(NamedTuple):
    """What a group says of the engine."""

    foreach: bool | None
    fused: bool | None
    differentiable: bool


@dataclass(frozen=True, eq=False)
class Update:
    """The step of a group as one formula: its columns are p, g and the entries `buffers` of the state.

    `order` is the order of these entries in the state, and in checkpoints: torch's.
    """

    formula: Formula
    buffers: tuple[Buffer, ...]
    order: tuple[Buffer, ...]
    options: Options
    decay: Decay


@dataclass(frozen=True, eq=False)
class Rule:
    """What the signature of a rule says: (p, g, buffers by letter, *, numbers, flags annotated bool)."""

    name: str
    function: Callable[..., Any]
    buffers: tuple[Buffer, ...]
    counts_steps: bool
    numbers: tuple[str, ...]
    flags: tuple[str, ...]
    asks_t: bool
    asks_first: bool

    @property
    def group_numbers(self) -> tuple[str, ...]:
        """The keys of the group that hold its numbers."""
        return tuple(dict.fromkeys("betas" if name in _BETAS else name for name in self.numbers))

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the group that it depends on at every step."""
        switches = [buffer.when for buffer in self.buffers if buffer.when]
        return tuple(dict.fromkeys((*self.group_numbers, *self.flags, *switches)))

    @property
    def starts(self) -> tuple[str, ...]:
        """The keys of the group that its buffers start from; a group without such a key has the class's default."""
        return tuple(buffer.initial for buffer in self.buffers if isinstance(buffer.initial, str))

    def check_keys(self, group: Group) -> None:
        """Raise a FormulaError if the rule asks for something that the group does not have."""
        for key in (*self.keys, *self.starts):
            if key not in group:
                asked = " and ".join(name for name in self.numbers if name in _BETAS) if key == "betas" else key
                raise FormulaError(f"{self.name}: the rule asks for {asked!r}, but a group has {', '.join(group)}")

    def update(self, group: Group, first: bool) -> Update:
        """The step as this group asks for it; the same object every time."""
        try:
            flags = tuple([group[name] for name in self.flags])
            present = tuple([buffer.when is None or bool(group[buffer.when]) for buffer in self.buffers])
        except KeyError:
            self.check_keys(group)
            raise
        return _update(
            self,
            flags,
            present,
            first,
            bool(group.get("maximize", False)),
            _decay(group),
            bool(group.get("kahan", False)),
            Options(group.get("foreach"), group.get("fused"), group.get("differentiable", False)),
        )


@cache
def read(
    name: str, function: Callable[..., Any], buffers: tuple[tuple[str, Buffer], ...], counts_steps: bool, is_form: bool
) -> Rule:
    """The rule of the class of this name; a FormulaError says what is wrong with its arguments.

    A rule takes all buffers, in their order; one of several forms takes those that it needs.
    """
    parameters = inspect.signature(function).parameters.values()
    letters = ["*" * (p.kind is p.VAR_POSITIONAL) + p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
    known = dict(buffers)
    expected = ["p", "g", *known]
    if is_form:
        expected = [letter for letter in expected if letter in ("p", "g") or letter in letters]
    if letters != expected:
        raise FormulaError(f"{name}: the rule must take ({', '.join(expected)}, *, ...), got ({', '.join(letters)})")
    keywords = {p.name: p.annotation in (bool, "bool") for p in parameters if p.kind is p.KEYWORD_ONLY}
    asks_first, asks_t = keywords.pop("first", None) is not None, keywords.pop("t", None) is not None
    if asks_t and not counts_steps:
        raise FormulaError(f"{name}: the rule asks for the step t, but counts_steps is False")
    return Rule(
        name=name,
        function=function,
        buffers=tuple(known[letter] for letter in letters[2:]),
        counts_steps=counts_steps,
        numbers=tuple(keyword for keyword, is_flag in keywords.items() if not is_flag),
        flags=tuple(keyword for keyword, is_flag in keywords.items() if is_flag),
        asks_t=asks_t,
        asks_first=asks_first,
    )


_BETAS = ("beta1", "beta2")


def hypers(formula: Formula, group: Group) -> list[Any]:
    """The numbers of a step, in the order of the formula's hypers."""
    numbers = [
        group["betas"][_BETAS.index(name)] if name in _BETAS and name not in group else group[name]
        for name in formula.hypers
    ]
    return [n.reshape(()) if isinstance(n, Tensor) else n for n in numbers]  # of shape (1,), it would broadcast


def _decay(group: Group) -> Decay:
    coefficient = group.get("weight_decay", 0)
    if not isinstance(coefficient, Tensor) and coefficient == 0:  # a tensor's value may lie on a device
        return "none"
    return "decoupled" if group.get("decoupled_weight_decay") else "coupled"


@cache
def _update(
    rule: Rule,
    flags: tuple[bool, ...],
    present: tuple[bool, ...],
    first: bool,
    maximize: bool,
    decay: Decay,
    kahan: bool,
    options: Options,
) -> Update:
    fixed = dict(zip(rule.flags, flags, strict=True)) | ({"first": first} if rule.asks_first else {})
    extra = {"none": (), "coupled": ("weight_decay",), "decoupled": ("weight_decay", "lr")}[decay]
    there = {buffer for buffer, here in zip(rule.buffers, present, strict=True) if here}
    arrays = [buffer for buffer in rule.buffers if buffer in there and not buffer.scalar]
    scalars = [buffer for buffer in rule.buffers if buffer in there and buffer.scalar]
    counter = [STEP] if rule.counts_steps else []
    kept = [*arrays, *scalars, *counter]

    def step(p: Any, g: Any, *state: Any, **values: Any) -> tuple[Any, ...]:
        state_of = dict(zip(kept, state, strict=True))
        if rule.counts_steps:
            state_of[STEP] = state_of[STEP] + 1
        if maximize:
            g = -g
        if decay == "coupled":  # an L2 penalty
            g = g + values["weight_decay"] * p
        elif decay == "decoupled":  # as in AdamW
            p = p * (1 - values["lr"] * values["weight_decay"])
        keywords = {name: values[name] for name in rule.numbers} | ({"t": state_of[STEP]} if rule.asks_t else {})
        results = rule.function(p, g, *map(state_of.get, rule.buffers), **keywords, **fixed)
        p, *letters = results if isinstance(results, tuple) else (results,)
        if len(letters) != len(rule.buffers):
            raise FormulaError(f"the rule must return {1 + len(rule.buffers)} values, got {1 + len(letters)}")
        state_of |= zip(rule.buffers, letters, strict=True)
        return (p, *map(state_of.__getitem__, kept))

    kinds = ("array", "array", *("scalar" if buffer.scalar else "array" for buffer in kept))
    formula = Formula(
        function=step,
        columns=(*kinds, "array") if kahan else kinds,
        stores=(0, *range(2, len(kinds))),  # all but g
        hypers=tuple(dict.fromkeys((*rule.numbers, *extra))),
        name=rule.name,
        remainder=len(kinds) if kahan else None,
    )
    more = [COMPENSATION] if kahan else []
    order = (*counter, *(buffer for buffer in rule.buffers if buffer in there), *more)
    return Update(formula, (*kept, *more), order, options, decay)
