"""The shell around every optimizer: all that is not the rule."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from numbers import Real
from operator import is_, itemgetter
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.optim import optimizer as torch_optimizer
from torch.optim.optimizer import Optimizer, ParamsT

from ..checks import is_number, wrong_type
from ..formula import HALF, FormulaError
from ..formula.latex import Latex
from . import notation
from .checkpoint import fitted
from .hooks import Hooks, registered
from .plan import Columns, Plan, Sparse
from .rule import COMPENSATION, OPTIONS, STEP, Buffer, Group, Rule, Update, hypers, read

NoneType = type(None)
_ABSENT = object()  # where a state has no such entry

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

    What is done to `state` and `param_groups` between two steps acts at the next one, and what is dropped there is
    freed at once. A learning rate that is a tensor is shared by the groups that do not set their own, and a scheduler
    that writes it for each group, such as torch's ReduceLROnPlateau, then changes it several times; give each group a
    tensor of its own.

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
        form.check_keys({**{key: options[key] for key in form.starts if key in options}, **defaults})
        self._check(defaults)
        super().__init__(params, defaults)

    def check(self, group: Group) -> None:
        """Raise ValueError for hyper-parameters out of range; called for the defaults and for every group."""

    @classmethod
    def latex(cls, form: str = OPTIONS["form"], **options: Any) -> Latex:
        r"""The step in LaTeX, as a short list of lines like the slide, written from the rule itself.

        Arguments:
            form: the formula, as for the constructor.
            options: arguments of the constructor that decide what the step is, such as momentum=0.9, nesterov=True,
                weight_decay=0.1; numbers are written as letters.

        Raises:
            TypeError, ValueError: as the constructor.

        >>> from torch_lecture_ops.optim import SGD
        >>> print(SGD.latex(momentum=0.9, form="cs231n"))
        \begin{aligned}
        v &= \mu\, v - \eta\, g \\
        p &= p + v
        \end{aligned}
        """
        return notation.latex(*cls._written(form, options))

    @classmethod
    def javascript(cls, form: str = OPTIONS["form"], **options: Any) -> str:
        """The step of one element as a plain JavaScript function, in double precision.

        It takes an object with p, g and the state, by the letters of the rule, and one with numbers; it returns an
        object with p and the state. What is left out is at its default, and a state that is left out is that before the
        first step.

        Arguments, raises: as `latex`.

        >>> from torch_lecture_ops.optim import RMSprop
        >>> print(RMSprop.javascript(form="larson"))
        function RMSprop({p, g, v = 0, t = 0}, {lr = 0.01, alpha = 0.99, eps = 1e-08} = {}) {
            t = t + 1;
            v = alpha * v + (1 - alpha) * g ** 2;
            p = p - lr * g / Math.sqrt(v + eps);
            return {p, v, t};
        }
        """
        return notation.javascript(cls.__name__, *cls._written(form, options))

    @classmethod
    def _written(cls, form: str, options: Group) -> tuple[Rule, Group, dict[Buffer, str]]:
        """The rule, a group and the letters of the buffers, to be written."""
        chosen: Group = {} if form == OPTIONS["form"] else {"form": form}
        optimizer = cls([torch.zeros(1, dtype=torch.bfloat16)], **chosen, **options)  # which may have any option
        group = {**options_of(cls), **optimizer.param_groups[0]}
        return optimizer._rule_of(group), group, {buffer: letter for letter, buffer in cls.buffers.items()}

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
        for key in dict.fromkeys(key for rule in self._rules.values() for key in (*rule.keys, *rule.starts)):
            if key not in (*chosen.keys, *chosen.starts) and group.get(key, options.get(key)) != options.get(key):
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
        name = type(self).__name__
        self._rules: dict[Any, Rule] = {**_rules(type(self))}
        if unused := set(self.buffers.values()).difference(*(rule.buffers for rule in self._rules.values())):
            raise FormulaError(f"{name}: no rule takes the buffer {unused.pop().key!r}")
        self._plans: dict[int, Plan] = {}  # by the number of the group

    def __getstate__(self) -> dict[str, Any]:
        hooks = {key: Hooks(self, value) for key, value in self.__dict__.items() if key.endswith("_hooks")}
        return {**super().__getstate__(), **hooks}  # torch forgets them

    def __setstate__(self, state: dict[str, Any]) -> None:
        hooks = {key: registered(value) for key, value in state.items() if key.endswith("_hooks")}
        super().__setstate__({**state, **hooks})
        self._prepare()
        options, own = options_of(type(self)), self._own_buffers()
        for group in self.param_groups:
            for key in self.defaults:  # a checkpoint written before an option existed lacks it
                if key in options:
                    group.setdefault(key, options[key])
            for p in group["params"]:
                if p in self.state:
                    entries = {k: value for k, value in self.state[p].items() if k not in own or value is not None}
                    for key, value in entries.items():
                        if key in own and not isinstance(value, Tensor):  # from when scalars were numbers
                            entries[key] = self._new_scalar(p, group, key, float(value))
                    self.state[p] = entries

    def _own_buffers(self) -> dict[str, Buffer]:
        """Key -> buffer of all that the optimizer itself may keep in the state of a parameter, in any form."""
        counter = [STEP] if self.counts_steps else []
        return {buffer.key: buffer for buffer in (*counter, *self.buffers.values(), COMPENSATION)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` of this class, or of torch's class of the same name, returned.

        As in torch, hyper-parameters are loaded too, and arrays take the dtype and device of their parameter; tensors
        that have them already are taken as they are, not copied. What others keep in the state of a parameter is loaded
        as it was saved, tensors on the parameter's device. The rule stays what it is: each group keeps its own
        `decoupled_weight_decay`, so that AdamW stays AdamW when it loads what Adam saved, and takes no other form.
        Other options that torch's class does not have, and `fused`, stay as they are if the state_dict does not name
        them. Where both sides have names of parameters, the names decide what belongs together, otherwise the order.

        Raises:
            ValueError: it does not fit: other groups, names, shapes, another form, or another optimizer.
        """
        state_dict = state_dict.copy()
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            result = pre_hook(self, state_dict)
            state_dict = state_dict if result is None else result
        name, own = type(self).__name__, self._own_buffers()
        others = [rule for cls in _classes_of_package(RuleOptimizer) for rule in _rules(cls).values()]
        loaded = fitted(name, state_dict, self.param_groups, self._rule_of, own, others)
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
            keys, states, end = list(self.state), list(self.state.values()), 0
            for number, group in enumerate(self.param_groups):
                start, end = end, end + len(group["params"])
                self._update_group(number, group, keys[start:end], states[start:end])
            if max(self._plans, default=-1) >= len(self.param_groups):  # groups are gone
                self._plans = {n: plan for n, plan in self._plans.items() if n < len(self.param_groups)}
        return loss

    _listened_step = Optimizer.profile_hook_step(_plain_step)

    def share_memory(self) -> None:
        """Move the state that there is to shared memory, for training in several processes at once."""
        for state in self.state.values():
            for value in state.values():
                if isinstance(value, Tensor):  # others may keep what they like there
                    value.share_memory_()

    def _update_group(self, number: int, group: Group, keys: list[Any], states: list[Group]) -> None:
        """Update a group; `keys` and `states` are what the state has where its parameters are to be expected."""
        params, plan = group["params"], self._plans.get(number)
        grads = [p.grad for p in params]
        if plan is None or plan.count != len(params):  # else it does not fit if a gradient is missing
            params, grads = _with_gradients(params, grads)
        if not params:
            return
        update = self._rule_of(group).update(group, first=False)
        if update.buffers and not (len(keys) == len(params) and all(map(is_, keys, params))):
            states = list(map(self.state.get, params))  # type: ignore[arg-type]  # the hash of a tensor is a slow one
        try:
            columns = _columns(params, grads, states, update)
            fits = plan is not None and plan.fits(update, columns)
        except (KeyError, TypeError):  # there is no gradient, no state or no entry
            fits = False
        if fits:
            plan.run(columns, self._hypers(group, update))  # type: ignore[union-attr]
        else:
            self._update_anew(number, group)

    def _update_anew(self, number: int, group: Group) -> None:
        """Make what some states lack and update; what was made is dropped again if that fails."""
        params, grads = _with_gradients(group["params"], [p.grad for p in group["params"]])
        rule = self._rule_of(group)
        update = rule.update(group, first=False)
        states = [self.state[p] if update.buffers else {} for p in params]
        made: list[dict[Buffer, Any]] = []
        try:
            made += (self._make_missing(p, state, group, update) for p, state in zip(params, states, strict=True))
            columns = _columns(params, grads, states, update)
            if rule.asks_first:
                is_first = [any(_is_first(*entry) for entry in entries.items()) for entries in made]
                self._run_anew(number, group, rule.update(group, first=True), _choose(columns, is_first))
                columns = _choose(columns, [not first for first in is_first])
            self._run_anew(number, group, update, columns)
        except Exception:
            for state, entries in zip(states, made, strict=False):
                for buffer, before in entries.items():
                    state[buffer.key] = before
                    if before is _ABSENT:
                        del state[buffer.key]
            raise

    def _make_missing(self, p: Tensor, state: Group, group: Group, update: Update) -> dict[Buffer, Any]:
        """Make the entries that the parameter's state lacks; these, and what was there in their place."""
        made: dict[Buffer, Any] = {}
        for buffer in update.order:
            before = state.get(buffer.key, _ABSENT)
            if isinstance(before, Tensor):
                continue
            if isinstance(before, Real) and buffer.scalar:  # as from when scalars were numbers
                value = float(before)
            elif before is None or before is _ABSENT:
                start = buffer.initial
                value = {**options_of(type(self)), **group}[start] if isinstance(start, str) else start
            else:
                raise TypeError(
                    f"{type(self).__name__}: {buffer.key!r} in a parameter's state must be a tensor, got {before!r}"
                )
            if buffer.scalar:
                state[buffer.key] = self._new_scalar(p, group, buffer.key, value)
            else:
                filling = complex(value, value) if p.is_complex() else value  # as two real numbers, like torch
                state[buffer.key] = torch.full_like(p, filling, memory_format=torch.preserve_format)
            made[buffer] = before
        return made

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

    def _run_anew(self, number: int, group: Group, update: Update, columns: Columns) -> None:
        if columns[0]:
            plan = self._plans[number] = Plan(update, columns, self.sparse)
            plan.run(columns, self._hypers(group, update))

    def _hypers(self, group: Group, update: Update) -> list[Any]:
        try:
            return hypers(update.formula, group)
        except KeyError:
            self._rule_of(group).check_keys(group)
            raise


def _rules(cls: type[RuleOptimizer]) -> dict[str, Rule]:
    """Form -> rule of a class."""
    return {
        form: read(cls.__name__, rule, tuple(cls.buffers.items()), cls.counts_steps, bool(cls.forms))
        for form, rule in {OPTIONS["form"]: cls.rule, **cls.forms}.items()
    }


def _classes_of_package(cls: type[RuleOptimizer]) -> Iterator[type[RuleOptimizer]]:
    """The subclasses of a class, but for those of users, whose rules may be wrong."""
    for subclass in cls.__subclasses__():
        if subclass.__module__.startswith(f"{__package__}."):
            yield subclass
            yield from _classes_of_package(subclass)


# Reading signatures takes longer than all else that building an optimizer does. Classes are made at run time, too.
_OPTIONS: WeakKeyDictionary[type, Group] = WeakKeyDictionary()


def options_of(cls: type) -> Group:
    """The options of a class with their defaults; a subclass that hides some of them still has them."""
    if cls not in _OPTIONS:
        options: Group = {}
        for base in reversed(cls.__mro__):
            if "__init__" in vars(base):
                parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
                options |= {p.name: p.default for p in parameters if p.default is not p.empty}
        _OPTIONS[cls] = options
    return _OPTIONS[cls]


def not_negative(**values: Any) -> None:
    """Raise torch's own ValueError for a hyper-parameter that is negative or NaN."""
    labels = {"lr": "learning rate", "eps": "epsilon value"}
    for name, value in values.items():
        if not value >= 0.0:
            raise ValueError(f"Invalid {labels.get(name, f'{name} value')}: {value}")


def _is_first(buffer: Buffer, before: Any) -> bool:
    """Whether the step is the first one of a parameter, by an entry that was made and what was there before."""
    return buffer not in (STEP, COMPENSATION) and not isinstance(before, Real)


def _columns(params: list[Tensor], grads: list[Tensor], states: list[Group], update: Update) -> Columns:
    """The columns of the update's formula; KeyError if a state lacks an entry, TypeError if there is none."""
    return [params, grads, *[list(map(itemgetter(buffer.key), states)) for buffer in update.buffers]]


def _with_gradients(params: list[Tensor], grads: list[Tensor | None]) -> tuple[list[Tensor], list[Tensor]]:
    """Those of the parameters that have a gradient, and these."""
    if NoneType in set(map(type, grads)):
        params = [p for p, g in zip(params, grads, strict=True) if g is not None]
    return params, [g for g in grads if g is not None]


def _choose(columns: Columns, chosen: Sequence[bool]) -> Columns:
    return [[tensor for tensor, yes in zip(column, chosen, strict=True) if yes] for column in columns]


def check_momentum(name: str, momentum: float) -> None:
    """Raise ValueError for a momentum outside of [0, 1]; a negative one has torch's text."""
    not_negative(momentum=momentum)
    if momentum > 1.0:
        raise ValueError(f"{name}: momentum must be in [0, 1], got {momentum}")
