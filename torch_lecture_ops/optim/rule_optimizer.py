"""The shell around every optimizer: all that is not the rule."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import optimizer as torch_optimizer
from torch.optim.optimizer import Optimizer, ParamsT

from ..formula import loop
from .plan import Columns, Plan
from .rule import Buffer, Group, Update, hypers, read

NoneType = type(None)

# Who may listen to a step. Without torch's private names somebody always may.
_GLOBAL_PRE_HOOKS = getattr(torch_optimizer, "_global_optimizer_pre_hooks", True)
_GLOBAL_POST_HOOKS = getattr(torch_optimizer, "_global_optimizer_post_hooks", True)
_is_profiling = getattr(torch.autograd, "_profiler_enabled", lambda: True)


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
        self._rule.check_keys(defaults)
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
        self._rule = read(type(self).__name__, self.rule, tuple(self.buffers.items()), self.counts_steps)
        self._plans: dict[int, Plan] = {}

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
        return ", ".join(sorted({engine for plan in self._plans.values() for engine in plan.engines}))

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient, by the rule. Gradients are not written.

        Arguments:
            closure: evaluates the model anew and returns the loss, which is then returned here.
        """
        # torch wraps step in a profiler range and its hooks: skipped when nobody listens, they cost as much as the rest
        hooks = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks
        if hooks or _GLOBAL_PRE_HOOKS or _GLOBAL_POST_HOOKS or _is_profiling():
            return self._listened_step() if closure is None else self._listened_step(closure)
        return self._plain_step(closure)

    step.hooked = True  # type: ignore[attr-defined]  # torch need not wrap it

    def _plain_step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.set_grad_enabled(self.defaults.get("differentiable", False)):
            for number, group in enumerate(self.param_groups):
                self._update_group(number, group)
        return loss

    _listened_step = Optimizer.profile_hook_step(_plain_step)

    def _update_group(self, number: int, group: Group) -> None:
        params, grads = group["params"], [p.grad for p in group["params"]]
        if NoneType in set(map(type, grads)):
            params = [p for p, g in zip(params, grads, strict=True) if g is not None]
            grads = [g for g in grads if g is not None]
        update = self._rule.update(group, first=False)
        states = list(map(self.state.__getitem__, params)) if update.keys else []
        try:
            columns = [params, grads, *[[state[key] for state in states] for key in update.keys]]
        except KeyError:
            new = [self._make_missing(p, state, group, update) for p, state in zip(params, states, strict=True)]
            columns = [params, grads, *[[state[key] for state in states] for key in update.keys]]
            if self._rule.asks_first:
                self._run(number, group, self._rule.update(group, first=True), _choose(columns, new))
                columns = _choose(columns, [not is_new for is_new in new])
        self._run(number, group, update, columns)

    def _make_missing(self, p: Tensor, state: Group, group: Group, update: Update) -> bool:
        """Make the entries that the parameter's state lacks; whether there were any."""
        missing = [key for key in update.order if key not in state]
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

    def _run(self, number: int, group: Group, update: Update, columns: Columns) -> None:
        if not columns[0]:
            return
        numbers = hypers(update, group)
        if torch.compiler.is_compiling():  # the compiler sees the formula itself and fuses it with its neighbours
            loop(update.formula, columns, numbers)
            return
        plan = self._plans.get(number)
        if plan is None or not plan.fits(update, columns):
            plan = self._plans[number] = Plan(update, columns)
        plan.run(columns, numbers)


def not_negative(**values: Any) -> None:
    """Raise torch's own ValueError for a hyper-parameter that is negative or NaN."""
    labels = {"lr": "learning rate", "eps": "epsilon value"}
    for name, value in values.items():
        if not value >= 0.0:
            raise ValueError(f"Invalid {labels.get(name, f'{name} value')}: {value}")


def _choose(columns: Columns, chosen: Sequence[bool]) -> Columns:
    return [[tensor for tensor, yes in zip(column, chosen, strict=True) if yes] for column in columns]
