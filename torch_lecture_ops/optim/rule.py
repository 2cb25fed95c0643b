"""A rule as a formula: what its signature asks for, and the shell's part of the arithmetic around it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor

from ..formula import Formula, FormulaError, Kind

Group = dict[str, Any]
Decay = Literal["none", "coupled", "decoupled"]


@dataclass(frozen=True)
class Buffer:
    """A tensor of the parameter's shape that the optimizer keeps for each parameter, zero at first.

    Arguments:
        key: its name in the state and in checkpoints.
        when: the key of the parameter group that must be true (or not zero) for the buffer to exist.
    """

    key: str
    when: str | None = None


class Options(NamedTuple):
    """What a group says of the engine."""

    foreach: bool | None
    fused: bool | None
    differentiable: bool


@dataclass(frozen=True, eq=False)
class Update:
    """The step of a group as one formula: its columns are p, g and the entries `keys` of the state.

    `order` is the order of these entries in the state, and in checkpoints: torch's.
    """

    formula: Formula
    keys: tuple[str, ...]
    order: tuple[str, ...]
    options: Options


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

    def check_keys(self, group: Group) -> None:
        """Raise a FormulaError if the rule asks for something that the group does not have."""
        known = {*group, *(("beta1", "beta2") if "betas" in group else ())}
        for name in (*self.numbers, *self.flags, *(buffer.when for buffer in self.buffers if buffer.when)):
            if name not in known:
                raise FormulaError(f"{self.name}: the rule asks for {name!r}, but a group has {', '.join(group)}")

    def update(self, group: Group, first: bool) -> Update:
        """The step as this group asks for it; the same object every time."""
        return _update(
            self,
            tuple([group[name] for name in self.flags]),
            tuple([buffer.when is None or bool(group[buffer.when]) for buffer in self.buffers]),
            first,
            bool(group.get("maximize", False)),
            _decay(group),
            Options(group.get("foreach"), group.get("fused"), group.get("differentiable", False)),
        )


@cache
def read(name: str, function: Callable[..., Any], buffers: tuple[tuple[str, Buffer], ...], counts_steps: bool) -> Rule:
    """The rule of the class of this name; a FormulaError says what is wrong with its arguments."""
    parameters = inspect.signature(function).parameters.values()
    letters = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    expected = ["p", "g", *(letter for letter, _ in buffers)]
    if letters != expected:
        raise FormulaError(f"{name}: the rule must take ({', '.join(expected)}, *, ...), got ({', '.join(letters)})")
    keywords = {p.name: p.annotation in (bool, "bool") for p in parameters if p.kind is p.KEYWORD_ONLY}
    asks_first, asks_t = keywords.pop("first", None) is not None, keywords.pop("t", None) is not None
    if asks_t and not counts_steps:
        raise FormulaError(f"{name}: the rule asks for the step t, but counts_steps is False")
    return Rule(
        name=name,
        function=function,
        buffers=tuple(buffer for _, buffer in buffers),
        counts_steps=counts_steps,
        numbers=tuple(keyword for keyword, is_flag in keywords.items() if not is_flag),
        flags=tuple(keyword for keyword, is_flag in keywords.items() if is_flag),
        asks_t=asks_t,
        asks_first=asks_first,
    )


def hypers(update: Update, group: Group) -> list[Any]:
    """The numbers of a step, in the order of the formula's hypers."""
    numbers = [group[name] if name in group else _beta(group, name) for name in update.formula.hypers]
    return [n.reshape(()) if isinstance(n, Tensor) else n for n in numbers]  # of shape (1,), it would broadcast


def _beta(group: Group, name: str) -> Any:
    return group["betas"][("beta1", "beta2").index(name)]


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
    options: Options,
) -> Update:
    fixed = dict(zip(rule.flags, flags, strict=True)) | ({"first": first} if rule.asks_first else {})
    extra = {"none": (), "coupled": ("weight_decay",), "decoupled": ("weight_decay", "lr")}[decay]
    buffers = [buffer.key for buffer, here in zip(rule.buffers, present, strict=True) if here]
    counter = ["step"] if rule.counts_steps else []

    def step(p: Any, g: Any, *state: Any, **values: Any) -> tuple[Any, ...]:
        t = [state[-1] + 1] if rule.counts_steps else []
        if maximize:
            g = -g
        if decay == "coupled":  # an L2 penalty
            g = g + values["weight_decay"] * p
        elif decay == "decoupled":  # as in AdamW
            p = p * (1 - values["lr"] * values["weight_decay"])
        given = iter(state)
        letters = [next(given) if here else None for here in present]
        keywords = {name: values[name] for name in rule.numbers} | ({"t": t[0]} if rule.asks_t else {}) | fixed
        results = rule.function(p, g, *letters, **keywords)
        p, *letters = results if isinstance(results, tuple) else (results,)
        if len(letters) != len(present):
            raise FormulaError(f"{rule.name}: the rule must return {1 + len(present)} values, got {1 + len(letters)}")
        return (p, *(letter for letter, here in zip(letters, present, strict=True) if here), *t)

    array, scalar = get_args(Kind)
    formula = Formula(
        function=step,
        columns=(array,) * (2 + len(buffers)) + (scalar,) * len(counter),
        stores=(0, *range(2, 2 + len(buffers) + len(counter))),  # all but g
        hypers=tuple(dict.fromkeys((*rule.numbers, *extra))),
        name=rule.name,
    )
    return Update(formula, (*buffers, *counter), (*counter, *buffers), options)
