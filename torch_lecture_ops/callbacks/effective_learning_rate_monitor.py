"""EffectiveLearningRateMonitor: the step size that each element really has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from .layers import named_parameters
from .monitor import Monitor, parameters_of, sample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}


class EffectiveLearningRateMonitor(Monitor):
    """Measures the step size of each element, as the optimizer made it: how far it moved for its gradient.

        s_i = |w_i after - w_i before| / |g_i|,  p10, p50 and p90: the percentiles over the elements with g_i ≠ 0

    This is the slides' η / (√cache + ε) of Adagrad and RMSprop, and η of plain SGD, whatever the class or form. In
    rules with momentum it is the same times |m_i / g_i|, so look at the median, not at single elements. Weight decay
    and rounding count, as all that moves the weight; g_i is the gradient that the step used, clipped if it is.

    Answers "What happens to the step size over long time?": Adagrad's only shrinks. Warns once if the median over η of
    a parameter falls below `least` times that of its first measurement, and if it is zero, since rounding undoes the
    steps. Of parameters with more than 4096 elements a random sample of 4096 is looked at, the same at every step; the
    random generators of the training are not used. Parameters have the names of the modules that compute with them:
    `0.weight.original` is what a parametrization makes `0.weight` of.

    Source: CS231n, slides 'AdaGrad update' ("element-wise scaling of the gradient") and 'RMSProp update'; Larson,
    Machine Learning in Python, slide 'Common Adaptive Strategies'.

    Arguments:
        least: the fraction in [0, 1] of the first step size below which a warning is due; 0 for never.
        log_every_n_steps, name: see `Monitor`.

    Raises:
        ValueError: an argument is out of range.
        MisconfigurationException: no logger.

    Example::

        monitor = EffectiveLearningRateMonitor()
        Trainer(callbacks=[monitor]).fit(model, loader)
        monitor.plot().savefig("step_sizes.png")
    """

    def __init__(self, least: float = 0.01, log_every_n_steps: int | None = None, name: str | None = None) -> None:
        super().__init__(log_every_n_steps, name, least=least)
        if not 0.0 <= least <= 1.0:
            raise ValueError(f"EffectiveLearningRateMonitor: least must be in [0, 1], got {least}")
        self.least = least

    def before_step(self, module: LightningModule, optimizer: Optimizer) -> None:
        self.scratch[optimizer] = [(name, p, sample(p)) for name, p in parameters_of(optimizer, module)]

    def after_step(self, module: LightningModule, optimizer: Optimizer) -> None:
        rates = {id(p): float(group.get("lr", 1.0)) for group in optimizer.param_groups for p in group["params"]}
        sizes, lrs = {}, []
        for name, p, before in self.scratch.pop(optimizer):
            if p.grad is not None and before.numel():
                sizes[name] = step_sizes(before, sample(p), sample(p.grad))
                lrs.append(rates[id(p)])
        if sizes:
            values = torch.stack(list(sizes.values())).tolist()  # one transfer for all
            for name, row, lr in zip(sizes, values, lrs, strict=True):
                if row[0] == row[0]:  # some gradient is not zero
                    self.record[name] = dict(zip(QUANTILES, row, strict=True)) | {"lr": lr}

    def warn(self, trainer: Trainer, module: LightningModule) -> None:
        dtypes = {name: p.dtype for name, p in named_parameters(module)}
        for name, found in self.history[-1][1].items():
            first = next(record[name] for _, record in self.history if name in record)
            if found["lr"] and not found["p50"]:
                text = f"parameter {name}: rounding to {dtypes[name]} undoes most steps; the learning rate "
                text += f"{found['lr']:g} is likely too low for it, or take one of our optimizers with kahan=True"
                self.warn_once("rounded", text, name)
            # Against η, which a schedule may lower on purpose.
            elif found["lr"] and first["lr"] and found["p50"] / found["lr"] < self.least * first["p50"] / first["lr"]:
                text = f"parameter {name}: its step size shrank to {found['p50']:.2g} from {first['p50']:.2g}, more "
                text += "than the learning rate did; if that is Adagrad, RMSprop or Adam forget old gradients"
                self.warn_once("shrunk", text, name)

    def plot(self) -> Figure:
        """The median step size of each parameter over time, around it the middle 80 %; dashed the learning rates.

        Raises:
            RuntimeError: nothing was measured yet.
            ImportError: Matplotlib is not installed.
        """
        figure, (panel,) = self.figure(1)
        for name, colour, steps, points in self.curves(*QUANTILES, "lr"):
            low, middle, high, lr = (list(column) for column in zip(*points, strict=True))
            panel.plot(steps, middle, color=colour, label=name)
            panel.fill_between(steps, low, high, color=colour, alpha=0.15, lw=0)
            panel.plot(steps, lr, color="grey", ls="--", lw=1)
        panel.set(title="step size per element", xlabel="step", ylabel="|Δw| / |g|", yscale="log")
        panel.legend(fontsize="small")
        return figure


def step_sizes(before: Tensor, after: Tensor, gradient: Tensor) -> Tensor:
    """The quantiles of |after - before| / |gradient| where the gradient is not zero, else NaN.

    >>> step_sizes(torch.zeros(3), torch.tensor([-0.1, 0.2, 0.0]), torch.tensor([1.0, -2.0, 0.0]))
    tensor([0.1000, 0.1000, 0.1000])
    """
    moved, g = (after - before).abs(), gradient.abs()
    wide = moved.dtype if moved.dtype is torch.float64 else torch.float32
    sizes = torch.where(g != 0, moved.to(wide) / g.to(wide), torch.nan)
    return torch.nanquantile(sizes, torch.tensor(list(QUANTILES.values()), dtype=wide, device=sizes.device))
