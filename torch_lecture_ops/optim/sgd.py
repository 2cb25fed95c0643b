"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor
from torch.optim.optimizer import ParamsT

from .rule import Buffer, Group
from .rule_optimizer import RuleOptimizer, check_momentum


def cs231n(p: Any, g: Any, v: Any, *, lr: Any, momentum: Any, nesterov: bool) -> Any:
    """The learning rate inside the velocity; nesterov: written for the point ahead, which p then is.

        v = μ v - η g,  p = p + v                     (nesterov: p = p - μ v_before + (1 + μ) v)

    Source: CS231n, slides 'Momentum update' and 'Nesterov Momentum update'.
    Difference from torch: the same as long as η does not change.
    """
    if v is None:
        return p - lr * g, None
    v_before, v = v, momentum * v - lr * g
    return p - momentum * v_before + (1 + momentum) * v if nesterov else p + v, v


def larson(p: Any, g: Any, g_before: Any, *, lr: Any, momentum: Any) -> Any:
    """Two taps: the momentum is one gradient long.

        p = p - (η gₖ + μ gₖ₋₁)

    Source: Larson, Machine Learning in Python, 'Neural Network Optimization and Activation', slide 'Review' (there α
    and β).
    Difference from torch: it parts at the second step, for μ is not multiplied by η and reaches one gradient back.
    """
    if g_before is None:
        return p - lr * g, None
    return p - (lr * g + momentum * g_before), g


class SGD(RuleOptimizer):
    """Stochastic gradient descent: a step against the gradient, with a momentum that remembers earlier steps.

        b = μ b + (1 - τ) g          (b = g at first)
        p = p - η b                  (nesterov: p - η (g + μ b); μ = 0: p - η g)

    form="cs231n": v = μ v - η g, p = p + v; the same as long as η does not change.
    form="larson": p = p - (η g + μ g_before).

    Source: IISER Bhopal DSE316/616, 'Activation Functions and Optimizer', slide 'Momentum update' (there v = ρ v + g,
    x = x - α v); the code on that slide lacks the minus sign. The other forms: see their functions.

    Like `torch.optim.SGD`, checkpoints included; a weight decay with sparse gradients, for which torch has an error,
    is computed.

    Arguments:
        params: parameters or groups of them.
        lr: learning rate η >= 0.
        momentum: μ in [0, 1], usually 0.5, 0.9 or 0.99.
        dampening: τ, how much of the gradient is kept from the momentum.
        weight_decay: coefficient λ >= 0: an L2 penalty, g + λ p, or decoupled.
        nesterov: look ahead along the momentum; needs momentum > 0 and dampening = 0.
        maximize: go up the objective instead of down.
        foreach, fused: the engine, see `RuleOptimizer`.
        differentiable: let autograd go through the step.
        form: "torch", "cs231n" (no dampening) or "larson" (no dampening, no nesterov).
        decoupled_weight_decay: p = (1 - η λ) p before the step instead of the penalty.
        kahan: compensate the rounding of half types, see `RuleOptimizer`.

    Raises:
        ValueError: a hyper-parameter is out of range.
        RuntimeError: an engine that was asked for cannot be had.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> w.grad = torch.tensor([0.5])
        >>> SGD([w], lr=0.1).step()
        >>> w.item()
        0.949999988079071
    """

    buffers = {
        "b": Buffer("momentum_buffer", when="momentum"),
        "v": Buffer("velocity", when="momentum"),
        "g_before": Buffer("grad_before", when="momentum"),
    }
    forms = {"cs231n": cs231n, "larson": larson}
    counts_steps = False
    sparse = "dense"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        form: Literal["torch", "cs231n", "larson"] = "torch",
        decoupled_weight_decay: bool = False,
        kahan: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults, form=form, decoupled_weight_decay=decoupled_weight_decay, kahan=kahan)

    @staticmethod
    def rule(p: Any, g: Any, b: Any, *, lr: Any, momentum: Any, dampening: Any, nesterov: bool, first: bool) -> Any:
        if b is None:
            return p - lr * g, None
        b = g if first else momentum * b + (1 - dampening) * g
        return p - lr * (g + momentum * b if nesterov else b), b

    def check(self, group: Group) -> None:
        check_momentum("SGD", group["momentum"])
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
