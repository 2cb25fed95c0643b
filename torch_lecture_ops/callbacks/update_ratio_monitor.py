"""UpdateRatioMonitor: how far a step moves each parameter, compared to its size."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from .layers import layers, named_parameters
from .monitor import Monitor, learning_rate, local, norm, parameters_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class UpdateRatioMonitor(Monitor):
    """Measures how far each parameter moves in a step, relative to its size, as a power of ten.

        log10_ratio = log₁₀(|w_after - w_before| / |w_before|),  |·| the Euclidean norm

    -3 is the rule of thumb: much less and the learning rate is too low, much more and it is too high. All that the step
    does counts: momentum, weight decay, clipping, rounding. A parameter that did not move has -inf, one that was zero,
    as biases often are before the first step, +inf. Parameters have the names of the modules that compute with them:
    `0.weight.original` is what a parametrization makes `0.weight` of. Warns once for either side if a weight of a layer
    (see `GradientMonitor`) leaves the band. For a measured step there is a second copy of the parameters.

    Source: CS231n course notes, 'Neural Networks Part 3', 'Ratio of weights:updates' ("somewhere around 1e-3").

    Arguments:
        band: the smallest and the largest log10_ratio that pass without a warning.
        log_every_n_steps, name: see `Monitor`.

    Raises:
        ValueError: an argument is out of range.
        MisconfigurationException: no logger.

    Example::

        monitor = UpdateRatioMonitor()
        Trainer(callbacks=[monitor]).fit(model, loader)
        monitor.plot().savefig("update_ratios.png")
    """

    def __init__(
        self,
        band: tuple[float, float] = (-5.0, -1.0),
        log_every_n_steps: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(log_every_n_steps, name, band=band)
        if not band[0] <= band[1]:
            raise ValueError(f"UpdateRatioMonitor: band must be two powers of ten, low <= high, got {band}")
        self.band = band

    def before_step(self, module: LightningModule, optimizer: Optimizer) -> None:
        self.scratch[optimizer] = [(name, p, local(p).clone()) for name, p in parameters_of(optimizer, module)]

    def after_step(self, module: LightningModule, optimizer: Optimizer) -> None:
        ratios = {
            name: update_ratio(before, local(p))
            for name, p, before in self.scratch.pop(optimizer)
            if p.grad is not None and before.numel()
        }
        if ratios:
            values = torch.stack(list(ratios.values())).tolist()  # one transfer for all
            self.record |= {name: {"log10_ratio": value} for name, value in zip(ratios, values, strict=True)}

    def warn(self, trainer: Trainer, module: LightningModule) -> None:
        low, high = self.band
        weights = {id(weight) for layer in layers(module) for weight in layer.weights}
        for name, p in named_parameters(module):
            exponent = self.history[-1][1].get(name, {}).get("log10_ratio", math.nan)
            if id(p) not in weights or low <= exponent <= high or math.isnan(exponent) or exponent == math.inf:
                continue
            side = "high" if exponent > high else "low"
            text = f"parameter {name}: a step moves it by {100 * 10**exponent:.1g} % of its norm; "
            self.warn_once(side, f"{text}the learning rate {learning_rate(trainer):g} is likely too {side}", name)

    def plot(self) -> Figure:
        """The ratios over time, as powers of ten; dashed the rule of thumb, dotted the band.

        Raises:
            RuntimeError: nothing was measured yet.
            ImportError: Matplotlib is not installed.
        """
        figure, (panel,) = self.figure(1)
        for name, colour, steps, points in self.curves("log10_ratio"):
            shown = [value if math.isfinite(value) else math.nan for (value,) in points]
            panel.plot(steps, shown, color=colour, label=name)
        for exponent, style in ((-3.0, "--"), *((edge, ":") for edge in self.band)):
            panel.axhline(exponent, color="grey", ls=style, lw=1)
        panel.set(title="size of a step / size of the parameter", xlabel="step", ylabel="log₁₀ ratio")
        panel.legend(fontsize="small")
        return figure


def update_ratio(before: Tensor, after: Tensor) -> Tensor:
    """log₁₀(|after - before| / |before|); NaN where both are zero.

    >>> update_ratio(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.05]))
    tensor(-2.0000, dtype=torch.float64)
    """
    size = norm(before).double()
    return torch.log10(norm(after - before).double() / size)
