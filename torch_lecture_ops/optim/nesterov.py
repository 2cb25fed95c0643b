"""Nesterov's accelerated gradient, literally: the gradient is taken where the momentum leads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.optim.optimizer import ParamsT

from ..formula import Formula, foreach
from .plan import shards
from .rule import Buffer, Group, hypers
from .rule_optimizer import RuleOptimizer, check_momentum, outside_of_graphs


def larson(p: Any, g: Any, g_before: Any, *, lr: Any, momentum: Any) -> Any:
    """Step twice: ahead along the gradient before, and from there along the one found.

        p = p - (μ gₖ + η gₖ₋₁),  gₖ = ∇J(p - η gₖ₋₁)

    Larson, Machine Learning in Python, 'Neural Network Optimization and Activation', slide 'Review' (there β and α,
    and the look-ahead lacks its minus sign).
    """
    return p - (momentum * g + lr * g_before), g


class Nesterov(RuleOptimizer):
    """Nesterov's accelerated gradient: look ahead along the velocity, take the gradient there, step from here.

        v = μ v - η ∇J(p + μ v)
        p = p + v

    form="larson": p = p - (μ gₖ + η gₖ₋₁) with gₖ = ∇J(p - η gₖ₋₁).

    Give `step` a closure, as Lightning does, and it is evaluated at the point ahead. In a loop written by hand, compute
    the gradient inside of `with optimizer.lookahead():`. Outside of both, the parameters are p. A step without either
    raises, for it would be ordinary momentum; only the first one, whose velocity is zero, needs none. With Lightning's
    accumulate_grad_batches, the last batch alone is evaluated ahead: the closures of the others run before `step`.
    Not for ZeroRedundancyOptimizer, whose processes would take only their own parameters ahead; take DDP or FSDP2.

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
    _has_looked = False  # since the last step
    _is_ahead = False

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

    @outside_of_graphs  # a compiled function would forget that it looked
    @contextmanager
    def lookahead(self) -> Iterator[None]:
        """Inside, the parameters are at the point ahead; afterwards they are what they were, to the bit.

        Whoever looks at the model inside (a closure, a callback) sees the point ahead. Holds a copy of the parameters.
        """
        kept: list[tuple[Tensor, Tensor]] = []
        self._has_looked, self._is_ahead = False, True
        try:
            with torch.no_grad():
                for group in self.param_groups:
                    kept += self._go_ahead(group)
            yield
        finally:
            self._is_ahead = False
            with torch.no_grad():
                for p, value in kept:
                    p.copy_(value)
        self._has_looked = True

    def _go_ahead(self, group: Group) -> list[tuple[Tensor, Tensor]]:
        """Take the parameters that have a velocity ahead; they and what they were."""
        formula, (buffer,) = _AHEAD[group.get("form", "torch")], self._rule_of(group).buffers
        moving = [p for p in group["params"] if buffer.key in self.state.get(p, {})]
        kept = [(p, p.clone()) for p in moving]
        if moving:
            momenta = [self.state[p][buffer.key] for p in moving]
            foreach(formula, [shards(moving, moving), shards(momenta, moving)], hypers(formula, group))
            increment_version(moving)  # a shard does not tell the whole that it was written
        return kept

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient. Gradients are not written.

        Arguments:
            closure: evaluates the model anew, at the point ahead, and returns the loss, which is then returned here.

        Raises:
            RuntimeError: neither a closure nor `lookahead` before; called inside of `lookahead`.
        """
        if torch.compiler.is_compiling():
            return self._step_outside_of_graphs(closure)
        if self._is_ahead:
            raise RuntimeError("Nesterov: a step inside of `lookahead` would be undone at its end; step after it")
        if closure is None and not self._has_looked and any(self.state.values()):
            raise RuntimeError(
                "Nesterov: the gradient must be that of the point ahead; give step a closure, or compute the gradient "
                "inside of `with optimizer.lookahead():`"
            )
        result = super().step(closure if closure is None else partial(self._evaluate_ahead, closure))
        self._has_looked = False
        return result

    # As in RuleOptimizer
    step.hooked = True  # type: ignore[attr-defined]
    _step_outside_of_graphs = outside_of_graphs(step)

    def _evaluate_ahead(self, closure: Callable[[], Any]) -> Any:
        with self.lookahead():
            return closure()


def _ahead(function: Callable[..., Any], number: str) -> Formula:
    return Formula(function, columns=("array", "array"), stores=(0,), hypers=(number,), name="Nesterov")


_AHEAD = {
    "torch": _ahead(lambda p, v, *, momentum: p + momentum * v, "momentum"),
    "larson": _ahead(lambda p, g_before, *, lr: p - lr * g_before, "lr"),
}
