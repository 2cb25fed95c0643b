"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from .rule import Buffer, Group
from .rule_optimizer import RuleOptimizer, not_negative


class SGD(RuleOptimizer):
    """Stochastic gradient descent: a step against the gradient, with a momentum that remembers earlier steps.

        b = μ b + (1 - τ) g          (b = g at first)
        p = p - η b                  (nesterov: p - η (g + μ b); μ = 0: p - η g)

    Source: IISER Bhopal DSE316/616, 'Activation Functions and Optimizer', slide 'Momentum update' (there v = ρ v + g,
    x = x - α v); the code on that slide lacks the minus sign. The slides of CS231n keep the learning rate inside the
    velocity, v = μ v - η g, x = x + v: the same as long as η does not change.

    Like `torch.optim.SGD`, checkpoints included.

    Arguments:
        params: parameters or groups of them.
        lr: learning rate η >= 0.
        momentum: μ >= 0, usually 0.5, 0.9 or 0.99.
        dampening: τ, how much of the gradient is kept from the momentum.
        weight_decay: coefficient λ >= 0 of an L2 penalty, g + λ p.
        nesterov: look ahead along the momentum; needs momentum > 0 and dampening = 0.
        maximize: go up the objective instead of down.
        foreach, fused: the engine, see `RuleOptimizer`.
        differentiable: let autograd go through the step.

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

    buffers = {"b": Buffer("momentum_buffer", when="momentum")}
    counts_steps = False

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
        super().__init__(params, defaults)

    @staticmethod
    def rule(p: Any, g: Any, b: Any, *, lr: Any, momentum: Any, dampening: Any, nesterov: bool, first: bool) -> Any:
        if b is None:
            return p - lr * g, None
        b = g if first else momentum * b + (1 - dampening) * g
        return p - lr * (g + momentum * b if nesterov else b), b

    def check(self, group: Group) -> None:
        not_negative(momentum=group["momentum"])
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
