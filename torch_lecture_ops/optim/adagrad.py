"""Adagrad: the gradient divided by the root of the sum of its squares."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..formula import sqrt
from .rule import Buffer, Group
from .rule_optimizer import RuleOptimizer, not_negative


def larson(p: Any, g: Any, s: Any, *, lr: Any, gamma: Any, eps: Any) -> Any:
    """ε inside the root, and a sum that leaks.

        s = γ s + g²,  p = p - η g / √(s + ε)

    Source: Larson, Machine Learning in Python, 'Neural Network Optimization and Activation', slide 'Common Adaptive
    Strategies' (there G; γ = 1 is Duchi's sum).
    Difference from torch: the same for γ = 1, d = 0 and ε = 0.
    """
    s = gamma * s + g**2
    return p - lr * g / sqrt(s + eps), s


def memoryless(p: Any, g: Any, *, lr: Any, eps: Any) -> Any:
    """Nothing is remembered: nearly the sign of the gradient.

        p = p - η g / √(g² + ε)

    Source: Larson, same lecture, slide 'Be adaptive based on Gradient Magnitude?', which adds the step instead.
    Difference from torch: torch has none.
    """
    return p - lr * g / sqrt(g**2 + eps)


class Adagrad(RuleOptimizer):
    """Adagrad: the learning rate of each element falls with the gradients it has seen.

        s = s + g²
        p = p - ηₜ g / (√s + ε)          ηₜ = η / (1 + (t - 1) d)

    form="larson": s = γ s + g², p = p - η g / √(s + ε).
    form="memoryless": p = p - η g / √(g² + ε).

    Source: CS231n, slide 'AdaGrad update' (Duchi, Hazan and Singer 2011; there cache, and ε = 1e-7 outside the root, as
    here; d = 0). The other forms: see their functions.

    Like `torch.optim.Adagrad`, checkpoints included, but for initial_accumulator_value in a group, which torch
    ignores, and for parameters that are added later, where torch has a KeyError.

    Arguments:
        params: parameters or groups of them.
        lr: learning rate η >= 0.
        lr_decay: d >= 0, by which the learning rate falls from step to step.
        weight_decay: coefficient λ >= 0: an L2 penalty, g + λ p, or decoupled.
        initial_accumulator_value: s at first, >= 0.
        eps: ε >= 0, added to the denominator.
        foreach, fused: the engine, see `RuleOptimizer`.
        maximize: go up the objective instead of down.
        differentiable: let autograd go through the step.
        form: "torch", "larson" (no lr_decay) or "memoryless" (no lr_decay, no s).
        gamma: γ in [0, 1] of form="larson", how much of the sum is kept at each step.
        decoupled_weight_decay: p = (1 - η λ) p before the step instead of the penalty.
        kahan: compensate the rounding of half types, see `RuleOptimizer`.

    Raises:
        ValueError: a hyper-parameter is out of range.
        RuntimeError: an engine that was asked for cannot be had.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> w.grad = torch.tensor([0.5])
        >>> Adagrad([w], lr=0.1).step()  # the first step: η, whatever the gradient
        >>> w.item()
        0.8999999761581421
    """

    buffers = {"s": Buffer("sum", initial="initial_accumulator_value")}
    forms = {"larson": larson, "memoryless": memoryless}
    eager_state = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        form: Literal["torch", "larson", "memoryless"] = "torch",
        gamma: float = 1.0,
        decoupled_weight_decay: bool = False,
        kahan: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "fused": fused,
        }
        beyond = {"form": form, "gamma": gamma, "decoupled_weight_decay": decoupled_weight_decay, "kahan": kahan}
        super().__init__(params, defaults, **beyond)

    @staticmethod
    def rule(p: Any, g: Any, s: Any, *, lr: Any, lr_decay: Any, eps: Any, t: Any) -> Any:
        s = s + g**2
        eta_t = lr / (1 + (t - 1) * lr_decay)
        return p - eta_t * g / (sqrt(s) + eps), s

    def check(self, group: Group) -> None:
        not_negative(**{key: group[key] for key in ("lr_decay", "initial_accumulator_value", "eps")})
        if not 0.0 <= group.get("gamma", 1.0) <= 1.0:
            raise ValueError(f"Adagrad: gamma must be in [0, 1], got {group['gamma']}")
