"""NAdam: Adam that looks ahead along its momentum, as Nesterov does."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..formula import sqrt
from .adam import check_betas
from .rule import Buffer, Group
from .rule_optimizer import RuleOptimizer, not_negative


def simple(p: Any, g: Any, m: Any, v: Any, *, lr: Any, beta1: Any, beta2: Any, eps: Any, t: Any) -> Any:
    """Without a schedule of the momentum.

        m = β₁ m + (1 - β₁) g             m̂ = β₁ m / (1 - β₁ᵗ⁺¹) + (1 - β₁) g / (1 - β₁ᵗ)
        v = β₂ v + (1 - β₂) g²            v̂ = v / (1 - β₂ᵗ)
        p = p - η m̂ / (√v̂ + ε)

    Source: Larson, Machine Learning in Python, 'Neural Network Optimization and Activation', slide 'Common Adaptive
    Strategies': "same as Adam, but with nesterov's acceleration".
    Difference from torch: the same for ψ → ∞.
    """
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    m_hat = beta1 * m / (1 - beta1 ** (t + 1)) + (1 - beta1) * g / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    return p - lr * m_hat / (sqrt(v_hat) + eps), m, v


class NAdam(RuleOptimizer):
    """NAdam: Adam with Nesterov's acceleration, and a momentum that grows towards β₁.

        μₜ = β₁ (1 - 0.96^(t ψ) / 2)      Πₜ = Πₜ₋₁ μₜ          (Π₀ = 1)
        m = β₁ m + (1 - β₁) g             m̂ = μₜ₊₁ m / (1 - Πₜ μₜ₊₁) + (1 - μₜ) g / (1 - Πₜ)
        v = β₂ v + (1 - β₂) g²            v̂ = v / (1 - β₂ᵗ)
        p = p - η m̂ / (√v̂ + ε)

    form="simple": μ = β₁ at every step.

    Source: Dozat 2016. Larson, Machine Learning in Python, 'Neural Network Optimization and Activation', slide 'Common
    Adaptive Strategies', names it; the formula there is the simple form, see its function.

    Like `torch.optim.NAdam`, checkpoints included; Π, "mu_product" in the state, keeps its dtype when it is loaded
    (torch rounds it to that of the parameter). As in torch it has the default dtype: steps of float64 parameters are
    exact to 1e-8 only, unless that is float64, too.

    Arguments:
        params: parameters or groups of them.
        lr: learning rate η >= 0.
        betas: (β₁, β₂), each in [0, 1): how much of the averages is kept at each step.
        eps: ε >= 0, added to the denominator.
        weight_decay: coefficient λ >= 0: an L2 penalty, g + λ p, or decoupled.
        momentum_decay: ψ >= 0: how fast the momentum comes to β₁.
        decoupled_weight_decay: p = (1 - η λ) p before the step instead of the penalty.
        foreach, fused: the engine, see `RuleOptimizer`; torch has no fused NAdam.
        maximize: go up the objective instead of down.
        capturable: keep the step and Π on the accelerator, for CUDA graphs.
        differentiable: let autograd go through the step.
        form: "torch" or "simple" (no momentum_decay).
        kahan: compensate the rounding of half types, see `RuleOptimizer`.

    Raises:
        ValueError: a hyper-parameter is out of range.
        RuntimeError: an engine that was asked for cannot be had.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> w.grad = torch.tensor([0.5])
        >>> NAdam([w], lr=0.1, form="simple").step()  # the first step: η (1 + β₁ / (1 + β₁)), whatever the gradient
        >>> round(w.item(), 4)
        0.8526
    """

    buffers = {
        "mu_product": Buffer("mu_product", initial=1.0, scalar=True),
        "m": Buffer("exp_avg"),
        "v": Buffer("exp_avg_sq"),
    }
    forms = {"simple": simple}

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 2e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        form: Literal["torch", "simple"] = "torch",
        kahan: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults, fused=fused, form=form, kahan=kahan)

    @staticmethod
    def rule(
        p: Any,
        g: Any,
        mu_product: Any,
        m: Any,
        v: Any,
        *,
        lr: Any,
        beta1: Any,
        beta2: Any,
        eps: Any,
        momentum_decay: Any,
        t: Any,
    ) -> Any:
        mu = beta1 * (1 - 0.96 ** (t * momentum_decay) / 2)
        mu_next = beta1 * (1 - 0.96 ** ((t + 1) * momentum_decay) / 2)
        mu_product = mu_product * mu
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat = mu_next * m / (1 - mu_product * mu_next) + (1 - mu) * g / (1 - mu_product)
        v_hat = v / (1 - beta2**t)
        return p - lr * m_hat / (sqrt(v_hat) + eps), mu_product, m, v

    def check(self, group: Group) -> None:
        not_negative(eps=group["eps"])
        check_betas("NAdam", group["betas"])
        not_negative(momentum_decay=group["momentum_decay"])
