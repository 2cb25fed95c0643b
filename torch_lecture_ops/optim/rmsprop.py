"""RMSprop: the gradient divided by a moving average of its magnitude."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..formula import maximum, sqrt
from .rule import Buffer, Group
from .rule_optimizer import RuleOptimizer, check_momentum, not_negative


def larson(p: Any, g: Any, v: Any, *, lr: Any, alpha: Any, eps: Any) -> Any:
    """ε inside the root.

        v = α v + (1 - α) g²,  p = p - η g / √(v + ε)

    Source: Larson, Machine Learning in Python, 'Neural Network Optimization and Activation', slide 'Common Adaptive
    Strategies' (there γ for α).
    Difference from torch: the same for ε = 0; with initial_accumulator_value=1 the RMSprop of TensorFlow, timm and
    Stable-Baselines3, without momentum.
    """
    v = alpha * v + (1 - alpha) * g**2
    return p - lr * g / sqrt(v + eps), v


class RMSprop(RuleOptimizer):
    """RMSprop: the learning rate adapts to each parameter, smaller where gradients are large.

        v = α v + (1 - α) g²
        p = p - η g / (√v + ε)

    centered: √(v - ḡ²) takes the place of √v, with ḡ = α ḡ + (1 - α) g, an estimate of the gradient's variance.
    momentum: b = μ b + g / (√v + ε), p = p - η b.
    form="larson": p = p - η g / √(v + ε). With initial_accumulator_value=1 it is the RMSprop of TensorFlow, of timm
    (RMSpropTF) and of Stable-Baselines3 (RMSpropTFLike), as long as these have no momentum and are not centered.

    Source: CS231n, slide 'RMSProp update' (Tieleman and Hinton 2012; there cache, decay_rate, and ε = 1e-7 outside the
    root, as here). The other form: see its function.

    Like `torch.optim.RMSprop`, checkpoints included, but for two of its defects: centered, v - ḡ² is not allowed below
    zero, where rounding takes it when the gradient is constant (torch: NaN); and a group whose momentum or centered is
    switched on in the middle of a run goes on with new buffers (torch: KeyError).

    Arguments:
        params: parameters or groups of them.
        lr: learning rate η >= 0.
        alpha: smoothing constant α in [0, 1).
        eps: ε >= 0, added to the denominator.
        weight_decay: coefficient λ >= 0: an L2 penalty, g + λ p, or decoupled.
        momentum: μ in [0, 1].
        centered: divide by the standard deviation of the gradient instead of its root mean square.
        capturable: keep the step on the accelerator, for CUDA graphs.
        foreach, fused: the engine, see `RuleOptimizer`; torch has no fused RMSprop, so `fused` is a keyword only.
        maximize: go up the objective instead of down.
        differentiable: let autograd go through the step.
        form: "torch" or "larson" (neither momentum nor centered).
        initial_accumulator_value: v at first, >= 0, in every form.
        decoupled_weight_decay: p = (1 - η λ) p before the step instead of the penalty.
        kahan: compensate the rounding of half types, see `RuleOptimizer`.

    Raises:
        ValueError: a hyper-parameter is out of range.
        RuntimeError: an engine that was asked for cannot be had.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> w.grad = torch.tensor([0.5])
        >>> RMSprop([w], lr=0.01, alpha=0.99).step()  # the first step: η / √(1 - α), whatever the gradient
        >>> w.item()
        0.9000000357627869
    """

    buffers = {
        "v": Buffer("square_avg", initial="initial_accumulator_value"),
        "b": Buffer("momentum_buffer", when="momentum"),
        "g_avg": Buffer("grad_avg", when="centered"),
    }

    forms = {"larson": larson}

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        fused: bool | None = None,
        form: Literal["torch", "larson"] = "torch",
        initial_accumulator_value: float = 0.0,
        decoupled_weight_decay: bool = False,
        kahan: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "alpha": alpha,
            "eps": eps,
            "centered": centered,
            "weight_decay": weight_decay,
            "capturable": capturable,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
        }
        super().__init__(
            params,
            defaults,
            fused=fused,
            form=form,
            initial_accumulator_value=initial_accumulator_value,
            decoupled_weight_decay=decoupled_weight_decay,
            kahan=kahan,
        )

    @staticmethod
    def rule(p: Any, g: Any, v: Any, b: Any, g_avg: Any, *, lr: Any, alpha: Any, eps: Any, momentum: Any) -> Any:
        v = alpha * v + (1 - alpha) * g**2
        if g_avg is None:
            rms = sqrt(v)
        else:
            g_avg = alpha * g_avg + (1 - alpha) * g
            rms = sqrt(maximum(v - g_avg**2, 0.0))
        step = g / (rms + eps)
        if b is not None:
            step = b = momentum * b + step
        return p - lr * step, v, b, g_avg

    def check(self, group: Group) -> None:
        not_negative(eps=group["eps"])
        check_momentum("RMSprop", group["momentum"])
        not_negative(alpha=group["alpha"], initial_accumulator_value=group.get("initial_accumulator_value", 0.0))
        if not group["alpha"] < 1.0:
            raise ValueError(f"RMSprop: alpha must be in [0, 1), got {group['alpha']}")
