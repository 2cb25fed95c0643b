"""Adam: momentum and RMSprop together, with a correction for their start from zero."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..formula import maximum, sqrt
from .rule import Buffer, Group
from .rule_optimizer import RuleOptimizer, not_negative


def incomplete(p: Any, g: Any, m: Any, v: Any, *, lr: Any, beta1: Any, beta2: Any, eps: Any) -> Any:
    """Without the correction of the start.

        m = β₁ m + (1 - β₁) g,  v = β₂ v + (1 - β₂) g²
        p = p - η m / (√v + ε)

    Source: CS231n, slide 'Adam update', "(incomplete, but close)".
    Difference from torch: the same after some thousand steps.
    """
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    return p - lr * m / (sqrt(v) + eps), m, v


def larson(p: Any, g: Any, m: Any, v: Any, *, lr: Any, beta1: Any, beta2: Any, eps: Any, t: Any) -> Any:
    """ε inside the root.

        p = p - η m̂ / √(v̂ + ε)

    Source: Larson, Machine Learning in Python, 'Neural Network Optimization and Activation', slide 'Adaptive Momentum'
    (there k for t, counted by epochs, where it must be by steps).
    Difference from torch: the same for ε = 0.
    """
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    m_hat = m / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    return p - lr * m_hat / sqrt(v_hat + eps), m, v


class Adam(RuleOptimizer):
    """Adam: adaptive moments.

        m = β₁ m + (1 - β₁) g             m̂ = m / (1 - β₁ᵗ)
        v = β₂ v + (1 - β₂) g²            v̂ = v / (1 - β₂ᵗ)
        p = p - η m̂ / (√v̂ + ε)

    amsgrad: the largest v so far takes the place of v in v̂.
    form="incomplete": m and v take the places of m̂ and v̂.
    form="larson": p = p - η m̂ / √(v̂ + ε).

    Source: CS231n, slide 'Adam update' with bias correction (Kingma and Ba 2014; there mb, vb and ε = 1e-7 outside the
    root, as here). The other forms: see their functions.

    Like `torch.optim.Adam`, checkpoints included; a group whose amsgrad is switched on in the middle of a run goes on
    with a new buffer (torch: KeyError).

    Arguments:
        params: parameters or groups of them.
        lr: learning rate η >= 0.
        betas: (β₁, β₂), each in [0, 1): how much of the averages is kept at each step.
        eps: ε >= 0, added to the denominator.
        weight_decay: coefficient λ >= 0: an L2 penalty, g + λ p, or decoupled.
        amsgrad: never let the denominator shrink (Reddi, Kale and Kumar 2018); form "torch" only.
        foreach, fused: the engine, see `RuleOptimizer`.
        maximize: go up the objective instead of down.
        capturable: keep the step on the accelerator, for CUDA graphs.
        differentiable: let autograd go through the step.
        decoupled_weight_decay: p = (1 - η λ) p before the step, as in AdamW (Loshchilov and Hutter 2019).
        form: "torch", "incomplete" or "larson".
        kahan: compensate the rounding of half types, see `RuleOptimizer`.

    Raises:
        ValueError: a hyper-parameter is out of range.
        RuntimeError: an engine that was asked for cannot be had.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> w.grad = torch.tensor([0.5])
        >>> Adam([w], lr=0.1).step()  # the first step: η, whatever the gradient
        >>> w.item()
        0.8999999761581421
    """

    buffers = {
        "m": Buffer("exp_avg"),
        "v": Buffer("exp_avg_sq"),
        "v_max": Buffer("max_exp_avg_sq", when="amsgrad"),
    }
    forms = {"incomplete": incomplete, "larson": larson}

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        form: Literal["torch", "incomplete", "larson"] = "torch",
        kahan: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults, form=form, kahan=kahan)

    @staticmethod
    def rule(p: Any, g: Any, m: Any, v: Any, v_max: Any, *, lr: Any, beta1: Any, beta2: Any, eps: Any, t: Any) -> Any:
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        if v_max is not None:
            v_max = maximum(v_max, v)
        m_hat = m / (1 - beta1**t)
        v_hat = (v if v_max is None else v_max) / (1 - beta2**t)
        return p - lr * m_hat / (sqrt(v_hat) + eps), m, v, v_max

    def check(self, group: Group) -> None:
        not_negative(eps=group["eps"])
        check_betas(type(self).__name__, group["betas"])


def check_betas(name: str, betas: tuple[float | Tensor, ...]) -> None:
    """Raise ValueError unless betas are two numbers, or two tensors of one element, in [0, 1)."""
    if len(betas) != 2:
        raise ValueError(f"{name}: betas must be a pair of numbers, got {betas}")
    for index, beta in enumerate(betas):
        if isinstance(beta, Tensor) and beta.numel() != 1:
            raise ValueError(f"Tensor betas[{index}] must be 1-element")
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"Invalid beta parameter at index {index}: {beta}")
    if len({isinstance(beta, Tensor) for beta in betas}) > 1:
        raise ValueError("betas must be either both floats or both Tensors")
