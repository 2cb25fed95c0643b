"""Adadelta: steps in the units of the parameter, without a learning rate."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..formula import sqrt
from .rule import Buffer, Group
from .rule_optimizer import RuleOptimizer, not_negative


def larson(p: Any, g: Any, v: Any, m: Any, *, lr: Any, rho: Any, eps: Any) -> Any:
    """Adam without bias correction, with the mean of the gradients before this one.

        v = ρ v + (1 - ρ) g²
        p = p - η m / √(v + ε),  then m = ρ m + (1 - ρ) g          (m = 0 at first: the first step leads nowhere)

    Source: Larson, Machine Learning in Python, 'Neural Network Optimization and Activation', slide 'Common Adaptive
    Strategies' (there γ, V and M).
    Difference from torch: torch has none; it is Adam without bias correction, one step late.
    """
    v = rho * v + (1 - rho) * g**2
    return p - lr * m / sqrt(v + eps), v, rho * m + (1 - rho) * g


class Adadelta(RuleOptimizer):
    """Adadelta: the gradient divided by its own root mean square, times that of the steps so far.

        v = ρ v + (1 - ρ) g²
        δ = √(u + ε) / √(v + ε) g
        u = ρ u + (1 - ρ) δ²
        p = p - η δ

    form="larson": v as above, p = p - η m / √(v + ε), then m = ρ m + (1 - ρ) g.

    Source: Zeiler 2012 (there η = 1). IISER Bhopal DSE316/616 names it among the optimizers; Larson's slide of this
    name has another rule, see the function of the form.

    Like `torch.optim.Adadelta`, checkpoints included; sparse gradients, which torch refuses, are taken by rows.

    Arguments:
        params: parameters or groups of them.
        lr: η >= 0, a factor of the step.
        rho: ρ in [0, 1], how much of the averages is kept at each step.
        eps: ε >= 0, inside both roots.
        weight_decay: coefficient λ >= 0: an L2 penalty, g + λ p, or decoupled.
        foreach, fused: the engine, see `RuleOptimizer`; torch has no fused Adadelta, so `fused` is a keyword only.
        capturable: keep the step on the accelerator, for CUDA graphs.
        maximize: go up the objective instead of down.
        differentiable: let autograd go through the step.
        form: "torch" or "larson".
        decoupled_weight_decay: p = (1 - η λ) p before the step instead of the penalty.
        kahan: compensate the rounding of half types, see `RuleOptimizer`.

    Raises:
        ValueError: a hyper-parameter is out of range.
        RuntimeError: an engine that was asked for cannot be had.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> w.grad = torch.tensor([0.5])
        >>> Adadelta([w]).step()  # the first step: √ε / √(1 - ρ), whatever the gradient
        >>> round(w.item(), 4)
        0.9968
    """

    buffers = {"v": Buffer("square_avg"), "u": Buffer("acc_delta"), "m": Buffer("exp_avg")}
    forms = {"larson": larson}

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        form: Literal["torch", "larson"] = "torch",
        decoupled_weight_decay: bool = False,
        kahan: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "rho": rho,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "capturable": capturable,
            "foreach": foreach,
            "differentiable": differentiable,
        }
        beyond = {"fused": fused, "form": form, "decoupled_weight_decay": decoupled_weight_decay, "kahan": kahan}
        super().__init__(params, defaults, **beyond)

    @staticmethod
    def rule(p: Any, g: Any, v: Any, u: Any, *, lr: Any, rho: Any, eps: Any) -> Any:
        v = rho * v + (1 - rho) * g**2
        delta = sqrt(u + eps) / sqrt(v + eps) * g
        u = rho * u + (1 - rho) * delta**2
        return p - lr * delta, v, u

    def check(self, group: Group) -> None:
        not_negative(eps=group["eps"])
        if not 0.0 <= group["rho"] <= 1.0:
            raise ValueError(f"Invalid rho value: {group['rho']}")
