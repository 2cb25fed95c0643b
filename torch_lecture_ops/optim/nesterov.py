"""Nesterov's accelerated gradient, literally: the gradient is taken where the momentum leads."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal
from weakref import ref

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.optim.optimizer import ParamsT

from ..formula import Formula, foreach
from . import notation
from .plan import is_sharded, shards
from .rule import Buffer, Group, hypers
from .rule_optimizer import RuleOptimizer, check_momentum, outside_of_graphs


def larson(p: Any, g: Any, g_before: Any, *, lr: Any, momentum: Any) -> Any:
    """Step twice: ahead along the gradient before, and from there along the one found.

        p = p - (μ gₖ + η gₖ₋₁),  gₖ = ∇J(p - η gₖ₋₁)

    Source: Larson, Machine Learning in Python, 'Neural Network Optimization and Activation', slide 'Review' (there β
    and α, and the look-ahead lacks its minus sign).
    Difference from torch: torch has none.
    """
    return p - (momentum * g + lr * g_before), g


class Nesterov(RuleOptimizer):
    """Nesterov's accelerated gradient: look ahead along the velocity, take the gradient there, step from here.

        v = μ v - η ∇J(p + μ v)
        p = p + v

    form="larson": p = p - (μ gₖ + η gₖ₋₁) with gₖ = ∇J(p - η gₖ₋₁).

    Give `step` a closure, as Lightning does, and it is evaluated at the point ahead. In a loop written by hand, compute
    the gradient inside of `with optimizer.lookahead():`. Outside of both, the parameters are p. A step without either
    raises, for it would be ordinary momentum, and so does one whose closure computes no gradient, as wrappers pass at
    times; only the first step, whose velocity is zero, needs none. A closure that adds to a gradient from before warns.
    With Lightning's accumulate_grad_batches, whose first batches have their closures called before `step`, add the
    callback `NesterovLookahead`. Not for ZeroRedundancyOptimizer, whose processes would take only their own parameters
    ahead; take DDP or FSDP2.

    Source: CS231n, slide 'Nesterov Momentum update' (there θ and ε for p and η); Larson, Deep Learning, 'Momentum and
    ReLU', slide 'Nesterov Momentum' (Nesterov 1983, Sutskever et al. 2013).

    torch has no such class: `SGD(nesterov=True)` keeps the parameters at the point ahead and never looks, which is the
    same as long as the learning rate does not change. Weight decay is that of p, not of the point ahead.

    Arguments:
        params: parameters or groups of them.
        lr: learning rate η >= 0.
        momentum: μ in [0, 1], usually 0.5, 0.9 or 0.99.
        weight_decay: coefficient λ >= 0: an L2 penalty, g + λ p, or decoupled.
        maximize: go up the objective instead of down.
        foreach, fused: the engine, see `RuleOptimizer`.
        differentiable: let autograd go through the step.
        form: "torch", which stands for the formula above, or "larson".
        decoupled_weight_decay: p = (1 - η λ) p before the step instead of the penalty.
        kahan: compensate the rounding of half types, see `RuleOptimizer`.

    Raises:
        ValueError: a hyper-parameter is out of range.
        RuntimeError: an engine that was asked for cannot be had; a step without a look ahead.

    Warns:
        UserWarning: a part of the gradient was computed before the look ahead.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = Nesterov([w], lr=0.1, momentum=0.5)
        >>> for _ in range(2):
        ...     with optimizer.lookahead():
        ...         (gradient,) = torch.autograd.grad(w.square().sum(), w)
        ...     w.grad = gradient
        ...     optimizer.step()  # v = -0.2, p = 0.8; then 2 at 0.7: v = -0.1 - 0.14
        >>> round(w.item(), 4)
        0.56
    """

    buffers = {"v": Buffer("velocity"), "g_before": Buffer("grad_before")}
    forms = {"larson": larson}
    counts_steps = False
    sparse = "dense"
    _look: Look

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        form: Literal["torch", "larson"] = "torch",
        decoupled_weight_decay: bool = False,
        kahan: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults, form=form, decoupled_weight_decay=decoupled_weight_decay, kahan=kahan)

    @staticmethod
    def rule(p: Any, g: Any, v: Any, *, lr: Any, momentum: Any) -> Any:
        v = momentum * v - lr * g
        return p + v, v

    def check(self, group: Group) -> None:
        check_momentum("Nesterov", group["momentum"])

    @classmethod
    def javascript(cls, form: str = "torch", **options: Any) -> str:
        """The step as a JavaScript function, see `RuleOptimizer.javascript`; its attribute `ahead` is the point ahead.

        >>> print(Nesterov.javascript())
        function Nesterov({p, g, v = 0}, {lr = 0.001, momentum = 0.9} = {}) {
            v = momentum * v - lr * g;
            p = p + v;
            return {p, v};
        }
        Nesterov.ahead = function ({p, v = 0}, {momentum = 0.9} = {}) {
            return p + momentum * v;
        };
        """
        _, group, _ = cls._written(form, options)
        ahead = notation.value_in_javascript(_AHEAD[form], group)
        return f"{super().javascript(form, **options)}\n{cls.__name__}.ahead = {ahead};"

    def _prepare(self) -> None:
        super()._prepare()
        # One object for good: wrappers that copy or forward attributes share it with the optimizer.
        self.__dict__.setdefault("_look", Look(ref(self))).has_looked = False

    @outside_of_graphs  # a compiled function would forget that it looked
    @contextmanager
    def lookahead(self) -> Iterator[None]:
        """Inside, the parameters are at the point ahead; afterwards they are what they were, to the bit.

        Whoever looks at the model inside (a closure, a callback) sees the point ahead. Holds a copy of the parameters.
        """
        look = self._look
        optimizer = look.of() or self
        if look.is_ahead:
            raise RuntimeError("Nesterov: `lookahead` inside of `lookahead` would go ahead twice; leave the first one")
        kept: list[tuple[Tensor, Tensor]] = []
        look.has_looked, look.is_ahead = False, True
        try:
            with torch.no_grad():
                for group in optimizer.param_groups:
                    kept += optimizer._go_ahead(group)
            yield
        finally:
            look.is_ahead = False
            with torch.no_grad():
                for p, value in kept:
                    p.copy_(value)
        look.has_looked = True

    def _moving(self, group: Group) -> tuple[list[Tensor], list[Tensor]]:
        """The parameters of a group that have a velocity (or a gradient before), and these."""
        (buffer,) = self._rule_of(group).buffers
        found = [(p, self.state.get(p, {}).get(buffer.key)) for p in group["params"]]
        moving = [(p, velocity) for p, velocity in found if velocity is not None]
        return [p for p, _ in moving], [velocity for _, velocity in moving]

    def _go_ahead(self, group: Group) -> list[tuple[Tensor, Tensor]]:
        """Take the parameters that have a velocity ahead; they and what they were."""
        formula, (moving, velocities) = _AHEAD[group.get("form", "torch")], self._moving(group)
        kept = [(p, p.clone()) for p in moving]
        if moving:
            foreach(formula, [shards(moving, moving), shards(velocities, moving)], hypers(formula, group))
            increment_version(moving)  # a shard does not tell the whole that it was written
        return kept

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient. Gradients are not written.

        Arguments:
            closure: evaluates the model anew, at the point ahead, and returns the loss, which is then returned here.
                Inside of `lookahead` it must leave it.

        Raises:
            RuntimeError: neither a closure that computes gradients nor `lookahead` before; inside of `lookahead`.
        """
        if torch.compiler.is_compiling():
            return self._step_outside_of_graphs(closure)
        if closure is None:
            self._look.check_left()
            if not self._look.has_looked and any(self._moving(group)[0] for group in self.param_groups):
                raise RuntimeError(
                    "Nesterov: the gradient must be that of the point ahead; give step a closure, or compute the "
                    "gradient inside of `with optimizer.lookahead():`"
                )
        result = super().step(closure if closure is None else partial(self._evaluate_ahead, closure))
        self._look.has_looked = False
        return result

    # As in RuleOptimizer
    step.hooked = True  # type: ignore[attr-defined]
    _step_outside_of_graphs = outside_of_graphs(step)

    def _evaluate_ahead(self, closure: Callable[[], Any]) -> Any:
        if self._look.is_ahead:  # as Lightning's callback has it
            loss = closure()
            self._look.check_left()
            return loss
        has_looked = self._look.has_looked
        with self.lookahead():
            if has_looked:  # what was computed before was computed ahead
                return closure()
            with _Watch([p for group in self.param_groups for p in self._moving(group)[0]]) as watch:
                loss = closure()
            watch.check()
            return loss


@dataclass
class Look:
    """Where the parameters of an optimizer are. A wrapper's attributes may be those of before a load; hence `of`."""

    of: ref[Nesterov]
    is_ahead: bool = False
    has_looked: bool = False  # since the last step

    def check_left(self) -> None:
        """Raise a RuntimeError if they are ahead."""
        if self.is_ahead:
            raise RuntimeError("Nesterov: a step inside of `lookahead` would be undone at its end; step after it")


class _Watch:
    """Whether a closure computes gradients of some parameters, and whether it adds them to older ones.

    A gradient was computed if it is another tensor, or if autograd computed one for the parameter. That it was written
    says nothing: wrappers clip it in their closures. None is kept alive.
    """

    def __init__(self, params: list[Tensor]) -> None:
        self._params = params
        # What FSDP2 computes, autograd does not: it adds to the shards.
        self._before = {p: (ref(p.grad), _writes_of_shard(p.grad)) for p in params if p.grad is not None}
        self._computed: set[Tensor] = set()
        self._added_to: list[Tensor] = []

    def __enter__(self) -> _Watch:
        self._handles = [p.register_hook(partial(self._note, p)) for p in self._before if p.requires_grad]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _note(self, p: Tensor, gradient: Tensor) -> None:
        """Called by autograd before it adds a gradient to that of the parameter."""
        if p not in self._computed:
            self._computed.add(p)
            if not self._added_to and self._is_of_before(p) and _has_entries(p.grad):
                self._added_to.append(p)

    def _is_of_before(self, p: Tensor) -> bool:
        return p.grad is not None and p in self._before and self._before[p][0]() is p.grad

    def check(self) -> None:
        """Raise a RuntimeError if there are gradients but none was computed, warn if they were added to older ones."""
        present = [p for p in self._params if p.grad is not None]
        computed = [
            p
            for p in present
            if p in self._computed or not self._is_of_before(p) or _writes_of_shard(p.grad) != self._before[p][1]
        ]
        if present and not computed:
            raise RuntimeError(
                "Nesterov: the gradient must be that of the point ahead, but the closure computed none there; call "
                "backward in it, or compute the gradient inside of `with optimizer.lookahead():`"
            )
        if any(map(self._is_of_before, self._added_to)):
            warnings.warn(
                "Nesterov: the closure added to a gradient from before, which is not that of the point ahead; compute "
                "all parts inside of `with optimizer.lookahead():`, with Lightning's accumulate_grad_batches by the "
                "callback torch_lecture_ops.callbacks.NesterovLookahead",
                stacklevel=2,
            )


def _has_entries(gradient: Any) -> bool:
    """Whether a gradient is not zero everywhere (of a DTensor, on this process)."""
    (local,) = shards([gradient], [gradient])
    return bool((local.coalesce().values() if local.is_sparse else local).any())


def _writes_of_shard(gradient: Any) -> int:
    return gradient.to_local()._version if is_sharded(gradient) else 0


def _ahead(function: Callable[..., Any], number: str) -> Formula:
    return Formula(function, columns=("array", "array"), stores=(0,), hypers=(number,), name="Nesterov")


_AHEAD = {
    "torch": _ahead(lambda p, v, *, momentum: p + momentum * v, "momentum"),
    "larson": _ahead(lambda p, g_before, *, lr: p - lr * g_before, "lr"),
}
