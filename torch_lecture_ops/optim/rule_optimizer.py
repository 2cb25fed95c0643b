"""The shell around every optimizer: all that is not the rule."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from operator import is_
from typing import Any, ClassVar, NamedTuple, NoReturn, get_args

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.optimizer import Optimizer, ParamsT, _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from ..formula import CLaunch, EngineUnavailable, Formula, FormulaError, Kind, foreach, loop, note_fallback

_HOOKS = (_global_optimizer_pre_hooks, _global_optimizer_post_hooks)
_profiling = torch.autograd._profiler_enabled

Group = dict[str, Any]
Columns = list[list[Tensor]]
NoneType = type(None)


@dataclass(frozen=True)
class Buffer:
    """A tensor of the parameter's shape that the optimizer keeps for each parameter, zero at first.

    Arguments:
        key: its name in the state and in checkpoints.
        when: the key of the parameter group that must be true (or not zero) for the buffer to exist.
    """

    key: str
    when: str | None = None


class RuleOptimizer(Optimizer):
    """An optimizer made of a rule: a pure function from a parameter, its gradient and buffers to their new values.

        p, b1, b2, ... = rule(p, g, b1, b2, ..., *, lr, ...)

    The rule is written as on the slide, with + - * / ** and the functions of `torch_lecture_ops.formula`. Arguments
    are found by name. After p and g come the buffers, by the letters of `buffers`; one that the group does not ask for
    is None. Keyword-only arguments are entries of the parameter group (`beta1`, `beta2` of its `betas`); those
    annotated `bool` are flags, resolved when the rule is traced. Two are known to the shell: `t`, the number of this
    step, from 1 on, and the flag `first`, whether the buffers were made in this very step.

    The shell does the rest, alike for every rule: closure, parameter groups, maximize, weight decay, differentiable,
    capturable, complex parameters (as real pairs), half types (computed in float32), state and checkpoints, and the
    choice of an engine.

    fused=True asks for one compiled C loop over all parameters, foreach=True for torch's multi-tensor operators,
    foreach=False with fused=False for the plain loop; what cannot be had raises a RuntimeError that says why. Left at
    None, the fastest engine that is safe for these tensors runs, and `engine` tells which.

    Arguments:
        params: parameters or groups of them, as for every torch optimizer.
        defaults: the hyper-parameters of a group. Of those that the shell reads, missing ones count as weight_decay=0,
            decoupled_weight_decay=False, maximize=False, differentiable=False, capturable=False, foreach=None,
            fused=None.

    Attributes:
        rule: the formula, as a static method.
        buffers: letter in the rule -> `Buffer`, in the order of the state's keys.
        counts_steps: whether the state holds the number of steps under "step", as most of torch's optimizers do.
    """

    rule: Callable[..., Any]
    buffers: ClassVar[dict[str, Buffer]] = {}
    counts_steps: ClassVar[bool] = True

    def __init__(self, params: ParamsT, defaults: Group) -> None:
        self._prepare()
        self._check(defaults)
        super().__init__(params, defaults)

    def check(self, group: Group) -> None:
        """Raise ValueError for hyper-parameters out of range; called for the defaults and for every group."""

    def _check(self, group: Group) -> None:
        lr = group.get("lr", 0.0)
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        not_negative(lr=lr, weight_decay=group.get("weight_decay", 0.0))
        self.check(group)
        if group.get("fused"):
            if group.get("differentiable"):
                raise RuntimeError("`fused` does not support `differentiable`")
            if group.get("foreach"):
                raise RuntimeError("`fused` and `foreach` cannot be `True` together.")

    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters; what it does not set is taken from the defaults. Checked like the defaults."""
        if isinstance(param_group, dict):
            self._check({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def _prepare(self) -> None:
        self._rule = _read(type(self).__name__, self.rule, tuple(self.buffers.items()), self.counts_steps)
        self._plans: dict[int, _Plan] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._prepare()
        options = inspect.signature(type(self).__init__).parameters
        for group in self.param_groups:
            for key in self.defaults:  # a checkpoint written before an option existed lacks it
                if key in options:
                    group.setdefault(key, options[key].default)
            for p in group["params"]:
                if p in self.state:
                    entries = {key: value for key, value in self.state[p].items() if value is not None}
                    if not isinstance(entries.get("step", p), Tensor):  # written when steps were numbers
                        entries["step"] = self._new_step(p, group).fill_(float(entries["step"]))
                    self.state[p] = entries

    @property
    def engine(self) -> str:
        """What ran in the last step: "c", "foreach" or "loop", joined by commas if several; "" before the first."""
        return ", ".join(sorted({bucket.engine for plan in self._plans.values() for bucket in plan.buckets}))

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient, by the rule. Gradients are not written.

        Arguments:
            closure: evaluates the model anew and returns the loss, which is then returned here.
        """
        # torch wraps step in a profiler range and its hooks: skipped when nobody listens, they cost as much as the rest
        if _HOOKS[0] or _HOOKS[1] or self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks or _profiling():
            return self._listened_step(closure)
        return self._plain_step(closure)

    step.hooked = True  # type: ignore[attr-defined]  # torch need not wrap it

    def _plain_step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.set_grad_enabled(self.defaults.get("differentiable", False)):
            for number, group in enumerate(self.param_groups):
                self._update(number, group)
        return loss

    _listened_step = Optimizer.profile_hook_step(_plain_step)

    def _update(self, number: int, group: Group) -> None:
        params, grads = group["params"], [p.grad for p in group["params"]]
        if NoneType in set(map(type, grads)):
            params = [p for p, g in zip(params, grads, strict=True) if g is not None]
            grads = [g for g in grads if g is not None]
        variant = self._rule.variant(group, first=False)
        states = [self.state[p] for p in params] if variant.keys else []
        try:
            columns = [params, grads, *[[state[key] for state in states] for key in variant.keys]]
        except KeyError:
            new = [self._make_missing(p, state, group, variant) for p, state in zip(params, states, strict=True)]
            columns = [params, grads, *[[state[key] for state in states] for key in variant.keys]]
            if "first" in self._rule.keywords:
                self._run(number, group, self._rule.variant(group, first=True), _choose(columns, new))
                columns = _choose(columns, [not is_new for is_new in new])
        self._run(number, group, variant, columns)

    def _make_missing(self, p: Tensor, state: Group, group: Group, variant: _Variant) -> bool:
        """Make the entries that the parameter's state lacks; whether there were any."""
        missing = [key for key in variant.order if key not in state]
        for key in missing:
            if key == "step":
                state[key] = self._new_step(p, group)
            else:
                state[key] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return bool(missing)

    def _new_step(self, p: Tensor, group: Group) -> Tensor:
        if group.get("capturable") and p.is_cpu and not torch.compiler.is_compiling():
            raise RuntimeError(
                f"{type(self).__name__}: capturable=True keeps the step on an accelerator, but a parameter is on the "
                "CPU; use capturable=False"
            )
        wide = torch.get_default_dtype() == torch.float64 and not group.get("fused")
        on_device = group.get("capturable") or group.get("fused")
        return torch.zeros((), dtype=torch.float64 if wide else torch.float32, device=p.device if on_device else "cpu")

    def _run(self, number: int, group: Group, variant: _Variant, columns: Columns) -> None:
        if not columns[0]:
            return
        hypers = [group[name] if name in group else _beta(group, name) for name in variant.formula.hypers]
        if torch.compiler.is_compiling():  # the compiler sees the formula itself and fuses it with its neighbours
            loop(variant.formula, columns, hypers)
            return
        plan = self._plans.get(number)
        if plan is None or not plan.fits(variant, columns):
            plan = self._plans[number] = _Plan(variant, columns)
        for bucket in plan.buckets:
            bucket.run(columns, hypers)


def not_negative(**values: Any) -> None:
    """Raise torch's own ValueError for a hyper-parameter that is negative or NaN."""
    labels = {"lr": "learning rate", "eps": "epsilon value"}
    for name, value in values.items():
        if not value >= 0.0:
            raise ValueError(f"Invalid {labels.get(name, f'{name} value')}: {value}")


def _beta(group: Group, name: str) -> Any:
    return group["betas"][("beta1", "beta2").index(name)]


def _choose(columns: Columns, chosen: Sequence[bool]) -> Columns:
    return [[tensor for tensor, yes in zip(column, chosen, strict=True) if yes] for column in columns]


class _Options(NamedTuple):
    """What a group says of the engine."""

    foreach: bool | None
    fused: bool | None
    differentiable: bool


@dataclass(frozen=True, eq=False)
class _Rule:
    """What the signature of a rule says."""

    name: str
    function: Callable[..., Any]
    buffers: tuple[tuple[str, Buffer], ...]
    counts_steps: bool
    keywords: tuple[str, ...]
    flags: tuple[str, ...]

    def variant(self, group: Group, first: bool) -> _Variant:
        """The rule as this group asks for it; the same object every time."""
        decay = group.get("weight_decay", 0)
        return _variant(
            self,
            tuple([group[name] for name in self.flags]),
            tuple([buffer.when is None or bool(group[buffer.when]) for _, buffer in self.buffers]),
            first,
            bool(group.get("maximize", False)),
            (isinstance(decay, Tensor) or decay != 0) and ("lr" if group.get("decoupled_weight_decay") else "g"),
            _Options(group.get("foreach"), group.get("fused"), group.get("differentiable", False)),
        )


@cache
def _read(
    name: str, function: Callable[..., Any], buffers: tuple[tuple[str, Buffer], ...], counts_steps: bool
) -> _Rule:
    parameters = inspect.signature(function).parameters.values()
    letters = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    keywords = [parameter for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    expected = ["p", "g", *(letter for letter, _ in buffers)]
    if letters != expected:
        raise FormulaError(f"{name}: the rule must take ({', '.join(expected)}, *, ...), got ({', '.join(letters)})")
    flags = [p.name for p in keywords if p.annotation in (bool, "bool") and p.name != "first"]
    return _Rule(name, function, buffers, counts_steps, tuple(p.name for p in keywords), tuple(flags))


@dataclass(frozen=True, eq=False)
class _Variant:
    """A rule with its flags set and the shell's part around it, as one formula.

    Its columns are p, g, the entries `keys` of the state. `order` is their order in the state.
    """

    formula: Formula
    keys: tuple[str, ...]
    order: tuple[str, ...]
    options: _Options


@cache
def _variant(
    rule: _Rule,
    flags: tuple[bool, ...],
    present: tuple[bool, ...],
    first: bool,
    maximize: bool,
    decay: str | bool,
    options: _Options,
) -> _Variant:
    fixed: dict[str, Any] = dict(zip(rule.flags, flags, strict=True))
    if "first" in rule.keywords:
        fixed["first"] = first
    numbers = [name for name in rule.keywords if name not in (*fixed, "t")]
    hypers = dict.fromkeys([*numbers, *(["weight_decay"] if decay else []), *(["lr"] if decay == "lr" else [])])
    buffers = [buffer.key for (_, buffer), is_present in zip(rule.buffers, present, strict=True) if is_present]

    def update(p: Any, g: Any, *state: Any, **values: Any) -> tuple[Any, ...]:
        arguments = {name: values[name] for name in numbers}
        if rule.counts_steps:
            t = state[-1] + 1
            if "t" in rule.keywords:
                arguments["t"] = t
        if maximize:
            g = -g
        if decay == "g":  # coupled: an L2 penalty
            g = g + values["weight_decay"] * p
        elif decay == "lr":  # decoupled, as in AdamW
            p = p * (1 - values["lr"] * values["weight_decay"])
        given = iter(state)
        results = rule.function(p, g, *(next(given) if here else None for here in present), **arguments, **fixed)
        results = results if isinstance(results, tuple) else (results,)
        if len(results) != 1 + len(present):
            raise FormulaError(f"the rule must return {1 + len(present)} values, got {len(results)}")
        kept = [result for result, here in zip(results[1:], present, strict=True) if here]
        return (results[0], *kept, *([t] if rule.counts_steps else []))

    counter = ("step",) if rule.counts_steps else ()
    array, scalar = get_args(Kind)
    columns = (array,) * (2 + len(buffers)) + (scalar,) * len(counter)
    stores = (0, *range(2, len(columns)))
    formula = Formula(update, columns, stores, tuple(hypers), rule.name)
    return _Variant(formula, (*buffers, *counter), (*counter, *buffers), options)


class _Plan:
    """Which engine updates which parameters of a group, as long as nothing changes."""

    def __init__(self, variant: _Variant, columns: Columns) -> None:
        self._variant, self._params = variant, columns[0]
        self._kinds = _kinds(columns[1])
        alike = defaultdict(list)  # an engine takes what is alike in one call
        for item, tensors in enumerate(zip(*columns, strict=True)):
            p, g = tensors[:2]
            if g.layout != torch.strided:
                raise RuntimeError(f"{variant.formula.name} does not support sparse gradients")
            plain = type(p) in (Tensor, Parameter) and type(g) in (Tensor, Parameter)
            dtypes = tuple(tensor.dtype for tensor in (p, *tensors[2:]))
            alike[plain, p.device, dtypes].append(item)
        self.buckets = [
            _Bucket(variant, plain and device.type == "cpu", dtypes[0].is_complex, items)
            for (plain, device, dtypes), items in alike.items()
        ]
        if len(self.buckets) == 1:
            self.buckets[0].items = None

    def fits(self, variant: _Variant, columns: Columns) -> bool:
        """Whether the plan holds for this step too."""
        return (
            variant is self._variant
            and len(columns[0]) == len(self._params)
            and all(map(is_, columns[0], self._params))
            and _kinds(columns[1]) == self._kinds
        )


def _kinds(grads: list[Tensor]) -> tuple[set[Any], set[Any]]:
    return set(map(type, grads)), {g.layout for g in grads}


class _Bucket:
    """Parameters of a group that one engine updates in one call."""

    def __init__(self, variant: _Variant, can_c: bool, is_complex: bool, items: list[int]) -> None:
        self.items: list[int] | None = items  # None: all
        self._formula, self._options, self._is_complex = variant.formula, variant.options, is_complex
        self._launch: Callable[..., None] = CLaunch(variant.formula, fresh=(1,))
        self.engine, options = "c", variant.options
        if options.differentiable:
            self._take(loop)
        elif options.fused and not can_c:
            self._refuse("parameters and gradients must be plain tensors on the CPU")
        elif options.fused is False or options.foreach or not can_c:
            self._fall_back()

    def _take(self, engine: Callable[..., None]) -> None:
        self._launch, self.engine = partial(engine, self._formula), engine.__name__

    def _fall_back(self) -> None:
        self._take(loop if self._options.foreach is False else foreach)

    def _refuse(self, reason: object) -> NoReturn:
        raise RuntimeError(
            f"{self._formula.name}: fused=True cannot be had: {reason}; use foreach=True, or fused=None to let the "
            "optimizer choose"
        ) from None

    def run(self, columns: Columns, hypers: list[Any]) -> None:
        """Update the bucket's part of the columns."""
        if self.items is not None:
            columns = [[column[item] for item in self.items] for column in columns]
        if self._is_complex:  # as pairs of real numbers, like torch
            columns = [[torch.view_as_real(t) if t.is_complex() else t for t in column] for column in columns]
        try:
            self._launch(columns, hypers)
        except EngineUnavailable as reason:
            if self._options.fused:
                self._refuse(reason)
            self._fall_back()
            note_fallback(str(reason), self.engine)
            self._launch(columns, hypers)
