"""AdamW: Adam with decoupled weight decay."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.optim.optimizer import ParamsT

from .adam import Adam


class AdamW(Adam):
    """Adam with a weight decay that does not pass through the averages.

        p = (1 - η λ) p, then the step of Adam

    Source: Loshchilov and Hutter 2019. The notes have Adam alone, see `Adam` for its formula, forms and slides.

    Like `torch.optim.AdamW`, checkpoints included.

    Arguments: those of `Adam`, with weight_decay=0.01 and decoupled_weight_decay=True.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> w.grad = torch.tensor([0.5])
        >>> AdamW([w], lr=0.1, weight_decay=0.5).step()  # 5 % by the decay, then η
        >>> w.item()
        0.8499999642372131
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = True,
        form: Literal["torch", "incomplete", "larson"] = "torch",
        kahan: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
            form=form,
            kahan=kahan,
        )
