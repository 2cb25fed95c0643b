"""The shell around every optimizer: all that is not the rule."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import optimizer as torch_optimizer
from torch.optim.optimizer import Optimizer, ParamsT
from torch.utils.hooks import RemovableHandle

from ..checks import is_number, wrong_type
from ..formula import HALF, FormulaError
from .checkpoint import fitted
from .plan import Columns, Plan, Sparse, same_objects
from .rule import COMPENSATION, OPTIONS, STEP, Buffer, Group, Rule, Update, hypers, read

NoneType = type(None)

# Who may listen to a step. Without torch's private names somebody always may.
_GLOBAL_PRE_HOOKS = getattr(torch_optimizer, "_global_optimizer_pre_hooks", True)
_GLOBAL_POST_HOOKS = getattr(torch_optimizer, "_global_optimizer_post_hooks", True)
_is_profiling = getattr(torch.autograd, "_profiler_enabled", lambda: True)
# The public name imports the compiler at once, torch's own use of it when it is needed.
outside_of_graphs = getattr(torch, "_disable_dynamo", torch.compiler.disable)


class RuleOptimizer(Optimizer):
    """An optimizer made of a rule: a pure function from a parameter, its gradient and buffers to their new values.

        p, b1, b2, ... = rule(p, g, b1, b2, ..., *, lr, ...)

    The rule is written as on the slide, with + - * / ** and the functions of `torch_lecture_ops.formula`. Arguments
    are found by name. After p and g come buffers, by the letters of `buffers`; one that the group does not ask for
    is None. Keyword-only arguments are entries of the parameter group (`beta1`, `beta2` of its `betas`); those
    annotated `bool` are flags, resolved when the rule is traced. Two are known to the shell: `t`, the number of this
    step, from 1 on, and the flag `first`, whether the buffers were made in this very step.

    The shell does the rest, alike for every rule:

    - closure, parameter groups, hooks, state and checkpoints, maximize, differentiable; capturable, or fused=True,
      keeps the step and other numbers on the device, which a CUDA graph needs (by default they are on the CPU);
    - weight decay: coupled, an L2 penalty λ p in the gradient, or decoupled, p = (1 - η λ) p before the step;
    - complex parameters as pairs of real numbers; half types computed in float32, and with kahan=True in addition
      compensated: what rounding takes from a parameter is kept in a buffer, "compensation" in the state, and added at
      the next step (whoever writes into a parameter by hand should zero it);
    - sparse gradients: the rule is applied to the rows they name, the others stay as they are, momentum and decay
      included (a coupled weight decay is refused, as torch's Adagrad does). SGD takes them as the dense gradients
      that they mean;
    - DTensor parameters (FSDP2): each process updates its own shard;
    - the choice of an engine. fused=True asks for one compiled loop over all parameters (C on the CPU, Triton on
      CUDA), foreach=True for torch's multi-tensor operators, foreach=False with fused=False for the plain loop; what
      cannot be had raises a RuntimeError that says why. Left at None, the fastest engine that is safe for these tensors
      runs, and `engine` tells which.

    Arguments:
        params: parameters or groups of them, as for every torch optimizer.
        defaults: the hyper-parameters of a group. Of those that the shell reads, missing ones count as form="torch",
            weight_decay=0, decoupled_weight_decay=False, maximize=False, differentiable=False, capturable=False,
            foreach=None, fused=None, kahan=False.
        beyond: hyper-parameters that enter the group only if they are set or if its form asks for them: those that
            torch's class does not have, so that a default checkpoint has torch's keys alone.

    Attributes:
        rule: the formula, as a static method.
        forms: name -> another formula of the same optimizer, chosen by form=; "torch" stands for `rule`. A form takes
            those of the buffers that it needs.
        buffers: letter in the rule -> `Buffer`, in the order of the state's keys.
        counts_steps: whether the state holds the number of steps under "step", as most of torch's optimizers do.
        eager_state: whether the state is made at once instead of at the first gradient, as in torch's Adagrad.
        sparse: what a sparse gradient is: "rows" to apply the rule to, or, written briefly, a "dense" gradient.

    Raises:
        TypeError: a hyper-parameter is no number, or a parameter no tensor.
        ValueError: a hyper-parameter is out of range, or the class has no such form.
    """

    rule: Callable[..., Any]
    forms: ClassVar[dict[str, Callable[..., Any]]] = {}
    buffers: ClassVar[dict[str, Buffer]] = {}
    counts_steps: ClassVar[bool] = True
    eager_state: ClassVar[bool] = False
    sparse: ClassVar[Sparse] = "rows"

    def __init__(self, params: ParamsT, defaults: Group, **beyond: Any) -> None:
        self._prepare()
        self._check_types(beyond)
        options = options_of(type(self))
        form = self._rule_of({**options, **beyond})
        defaults |= {key: v for key, v in beyond.items() if key in form.keys or v != options.get(key, OPTIONS.get(key))}
        form.check_keys(defaults)
        self._check(defaults)
        super().__init__(params, defaults)

    def check(self, group: Group) -> None:
        """Raise ValueError for hyper-parameters out of range; called for the defaults and for every group."""

    def _check_types(self, group: Group) -> None:
        """Raise TypeError for what is no number, or no tensor, where the default is one."""
        for key, default in options_of(type(self)).items():
            if key in group and isinstance(default, (int, float, tuple)) and not isinstance(default, bool):
                value = group[key]
                if isinstance(default, tuple) and not isinstance(value, (list, tuple)):
                    raise wrong_type(type(self).__name__, key, 0, "tuple", value)
                for one in value if isinstance(default, tuple) else [value]:
                    if not isinstance(one, Tensor) and not is_number(one):
                        raise wrong_type(type(self).__name__, key, 0, "float or Tensor", one)

    def _check(self, group: Group) -> None:
        self._check_types(group)
        lr = group.get("lr", 0.0)
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        not_negative(lr=lr, weight_decay=group.get("weight_decay", 0.0))
        self.check(group)
        self._check_form(group)
        if group.get("fused"):
            if group.get("differentiable"):
                raise RuntimeError("`fused` does not support `differentiable`")
            if group.get("foreach"):
                raise RuntimeError("`fused` and `foreach` cannot be `True` together.")

    def _check_form(self, group: Group) -> None:
        """A form does not have all options of the others: one that is set must not be ignored."""
        options, chosen = options_of(type(self)), self._rule_of(group)
        for key in dict.fromkeys(key for rule in self._rules.values() for key in rule.keys):
            if key not in chosen.keys and group.get(key, options.get(key)) != options.get(key):
                form = group.get("form", OPTIONS["form"])
                raise ValueError(f"{type(self).__name__}: form={form!r} has no {key}, got {key}={group[key]}")

    def _rule_of(self, group: Group) -> Rule:
        try:
            return self._rules[group.get("form", OPTIONS["form"])]
        except (KeyError, TypeError):  # of the latter kind is what has no hash
            forms = ", ".join(map(repr, self._rules))
            raise ValueError(f"{type(self).__name__}: form must be one of {forms}, got {group['form']!r}") from None

    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters; what it does not set is taken from the defaults. Checked like the defaults."""
        if isinstance(param_group, dict):
            group = {**self.defaults, **param_group}
            for key in self._rule_of(group).keys:  # a form may ask for what the defaults do not have
                if key not in group and key in (options := options_of(type(self))):
                    param_group[key] = group[key] = options[key]
            self._check(group)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if group.get("kahan") and (odd := {p.dtype for p in group["params"]}.difference(HALF)):
            self.param_groups.pop()
            raise ValueError(
                f"{type(self).__name__}: kahan=True compensates the rounding of float16 and bfloat16, got a parameter "
                f"of {odd.pop()}; put such parameters into a group without it"
            )
        if self.eager_state:
            for p in group["params"]:
                self._make_missing(p, self.state[p], group, self._rule_of(group).update(group, first=False))

    def _prepare(self) -> None:
        name, buffers = type(self).__name__, tuple(self.buffers.items())
        self._rules = {
            form: read(name, rule, buffers, self.counts_steps, bool(self.forms))
            for form, rule in {OPTIONS["form"]: self.rule, **self.forms}.items()
        }
        if unused := set(self.buffers.values()).difference(*(rule.buffers for rule in self._rules.values())):
            raise FormulaError(f"{name}: no rule takes the buffer {unused.pop().key!r}")
        self._plans: dict[int, Plan] = {}
        # The state of the parameters of a group, as long as neither the parameters nor the states are replaced.
        self._states: dict[int, tuple[list[Tensor], list[Group]]] = {}
        self._all_states: list[Group] = []

    def __getstate__(self) -> dict[str, Any]:
        hooks = {key: value for key, value in self.__dict__.items() if key.endswith("_hooks")}
        return {**super().__getstate__(), **hooks}  # torch forgets them

    def __setstate__(self, state: dict[str, Any]) -> None:
        hooks = {key: _registered(value) for key, value in state.items() if key.endswith("_hooks")}
        super().__setstate__({**state, **hooks})
        self._prepare()
        options = options_of(type(self))
        for group in self.param_groups:
            for key in self.defaults:  # a checkpoint written before an option existed lacks it
                if key in options:
                    group.setdefault(key, options[key])
            for p in group["params"]:
                if p in self.state:
                    entries = {key: value for key, value in self.state[p].items() if value is not None}
                    for key, value in entries.items():
                        if not isinstance(value, Tensor):  # from when scalars were numbers
                            entries[key] = self._new_scalar(p, group, key, float(value))
                    self.state[p] = entries

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` of this class, or of torch's class of the same name, returned.

        As in torch, hyper-parameters are loaded too, and arrays take the dtype and device of their parameter; tensors
        that have them already are taken as they are, not copied. Options that torch's class does not have, and
        `fused`, stay as they are if the state_dict does not name them. Where both sides have names of parameters, the
        names decide what belongs together, otherwise the order.

        Raises:
            ValueError: it does not fit: other groups, names, shapes, another form, or another optimizer.
        """
        state_dict = state_dict.copy()
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            result = pre_hook(self, state_dict)
            state_dict = state_dict if result is None else result
        name, buffers = type(self).__name__, self.buffers.values()
        loaded = fitted(name, state_dict, self.param_groups, self._rule_of, buffers)
        for group in loaded["param_groups"]:
            self._check({**self.defaults, **group})
        self.__setstate__(loaded)
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    @property
    def engine(self) -> str:
        """What ran in the last step: "c", "triton", "foreach", "loop", with commas if several; "" before the first."""
        return ", ".join(sorted({engine for plan in self._plans.values() for engine in plan.engines}))

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient, by the rule. Gradients are not written.

        Arguments:
            closure: evaluates the model anew and returns the loss, which is then returned here.
        """
        if torch.compiler.is_compiling():
            return self._step_outside_of_graphs(closure)
        # torch wraps step in a profiler range and its hooks: skipped when nobody listens, they cost as much as the rest
        hooks = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks
        if hooks or _GLOBAL_PRE_HOOKS or _GLOBAL_POST_HOOKS or _is_profiling():
            return self._listened_step() if closure is None else self._listened_step(closure)
        return self._plain_step(closure)

    step.hooked = True  # type: ignore[attr-defined]  # torch need not wrap it
    # A graph of all parameters takes its time to build, twice, and again for a new learning rate, and is slower.
    _step_outside_of_graphs = outside_of_graphs(step)

    def _plain_step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.set_grad_enabled(self.defaults.get("differentiable", False)):
            self._forget_replaced_states()
            for number, group in enumerate(self.param_groups):
                self._update_group(number, group)
        return loss

    _listened_step = Optimizer.profile_hook_step(_plain_step)

    def share_memory(self) -> None:
        """Move the state that there is to shared memory, for training in several processes at once."""
        for state in self.state.values():
            for value in state.values():
                value.share_memory_()

    def _forget_replaced_states(self) -> None:
        states = list(self.state.values())
        if not same_objects(states, self._all_states):
            self._states.clear()
            self._all_states = states

    def _states_of(self, number: int, params: list[Tensor]) -> list[Group]:
        """The state of each parameter, looked up once: the hash of a tensor is a slow one."""
        known, states = self._states.get(number, ((), []))
        if not same_objects(params, known):
            states = list(map(self.state.__getitem__, params))
            self._states[number] = list(params), states
        return states

    def _update_group(self, number: int, group: Group) -> None:
        params, grads = group["params"], [p.grad for p in group["params"]]
        if NoneType in set(map(type, grads)):
            params = [p for p, g in zip(params, grads, strict=True) if g is not None]
            grads = [g for g in grads if g is not None]
        if not params:
            return
        rule = self._rule_of(group)
        update = rule.update(group, first=False)
        states = self._states_of(number, params) if update.buffers else []
        try:
            columns = _columns(params, grads, states, update)
        except KeyError:
            self._update_first(number, group, params, grads, states)
        else:
            self._run(number, group, update, columns)

    def _update_first(
        self, number: int, group: Group, params: list[Tensor], grads: list[Tensor], states: list[Group]
    ) -> None:
        """Make what some states lack and update; what was made is dropped again if that fails."""
        rule = self._rule_of(group)
        update = rule.update(group, first=False)
        made: list[list[Buffer]] = []
        try:
            made += (self._make_missing(p, state, group, update) for p, state in zip(params, states, strict=True))
            columns = _columns(params, grads, states, update)
            if rule.asks_first:
                is_first = [not {STEP, COMPENSATION}.issuperset(buffers) for buffers in made]
                self._run(number, group, rule.update(group, first=True), _choose(columns, is_first))
                columns = _choose(columns, [not first for first in is_first])
            self._run(number, group, update, columns)
        except Exception:
            for state, buffers in zip(states, made, strict=False):
                for buffer in buffers:
                    del state[buffer.key]
            raise

    def _make_missing(self, p: Tensor, state: Group, group: Group, update: Update) -> list[Buffer]:
        """Make the entries that the parameter's state lacks, and tell which."""
        missing = [buffer for buffer in update.order if buffer.key not in state]
        for buffer in missing:
            value = group[buffer.initial] if isinstance(buffer.initial, str) else buffer.initial
            if buffer.scalar:
                state[buffer.key] = self._new_scalar(p, group, buffer.key, value)
            else:
                filling = complex(value, value) if p.is_complex() else value  # as two real numbers, like torch
                state[buffer.key] = torch.full_like(p, filling, memory_format=torch.preserve_format)
        return missing

    def _new_scalar(self, p: Tensor, group: Group, key: str, value: float) -> Tensor:
        if group.get("capturable") and p.is_cpu:
            raise RuntimeError(
                f"{type(self).__name__}: capturable=True keeps the step on an accelerator, but a parameter is on the "
                "CPU; use capturable=False"
            )
        wide = torch.get_default_dtype() == torch.float64 and not (group.get("fused") and key == STEP.key)
        on_device = group.get("capturable") or group.get("fused")
        dtype = torch.float64 if wide else torch.float32
        return torch.full((), value, dtype=dtype, device=p.device if on_device else "cpu")

    def _run(self, number: int, group: Group, update: Update, columns: Columns) -> None:
        if not columns[0]:
            return
        try:
            numbers = hypers(update.formula, group)
        except KeyError:
            self._rule_of(group).check_keys(group)
            raise
        plan = self._plans.get(number)
        if plan is None or not plan.fits(update, columns):
            plan = self._plans[number] = Plan(update, columns, self.sparse)
        plan.run(columns, numbers)


def _registered(hooks: dict[int, Any]) -> OrderedDict[int, Any]:
    """The same hooks in a registry of their own, under numbers that no other hook of this process gets."""
    own: OrderedDict[int, Any] = OrderedDict()
    for hook in hooks.values():
        own[RemovableHandle(own).id] = hook
    return own


def options_of(cls: type) -> Group:
    """The options of a class with their defaults; a subclass that hides some of them still has them."""
    options: Group = {}
    for base in reversed(cls.__mro__):
        if "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
            options |= {p.name: p.default for p in parameters if p.default is not p.empty}
    return options


def not_negative(**values: Any) -> None:
    """Raise torch's own ValueError for a hyper-parameter that is negative or NaN."""
    labels = {"lr": "learning rate", "eps": "epsilon value"}
    for name, value in values.items():
        if not value >= 0.0:
            raise ValueError(f"Invalid {labels.get(name, f'{name} value')}: {value}")


def _columns(params: list[Tensor], grads: list[Tensor], states: list[Group], update: Update) -> Columns:
    """The columns of the update's formula; KeyError if a state lacks an entry."""
    return [params, grads, *[[state[buffer.key] for state in states] for buffer in update.buffers]]


def _choose(columns: Columns, chosen: Sequence[bool]) -> Columns:
    return [[tensor for tensor, yes in zip(column, chosen, strict=True) if yes] for column in columns]


def check_momentum(name: str, momentum: float) -> None:
    """Raise ValueError for a momentum outside of [0, 1]; a negative one has torch's text."""
    not_negative(momentum=momentum)
    if momentum > 1.0:
        raise ValueError(f"{name}: momentum must be in [0, 1], got {momentum}")
