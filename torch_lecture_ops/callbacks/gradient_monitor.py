"""GradientMonitor: how large the gradients of each layer are, and how they are distributed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook
from torch.optim import Optimizer

from .layers import Layer, innermost, layers, numbered
from .monitor import Monitor, held_by, learning_rate, local, norm, sample, tensors_in

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 4.0  # the bins cover so many root mean squares on either side of zero


class GradientMonitor(Monitor):
    """Measures norm and distribution of the gradients of each layer, and how the first layer's compare to the last's.

        norm             √Σ g²
        rms              r = √(mean g²)
        histogram        counts in equal bins on [-4 r, 4 r], what lies outside in the outermost; of layers with more
                         than 4096 gradients, of a random sample of 4096
        first_to_last    norm of the first layer / norm of the last: vanishing if small, exploding if large

    A layer is a module that computes with a weight of two or more dimensions, so biases and normalizations have no
    rows. If a parametrization, such as weight_norm, makes the weight, the layer is still the module that uses it. A
    module that holds other layers, such as a network with a class token of its own, is a layer, too, but first and last
    are chosen among those that hold none.

    of="weights" looks at dL/dw as an optimizer is about to use it: accumulated over batches, unscaled, not yet clipped;
    of all weights of a layer together, of a parametrized one those that the optimizer has. A weight of several layers
    counts for the first of them. Layers stand in the order of the model, and each optimizer has a first_to_last of its
    own (`ratio-1`, ... after the first). It works with any training loop.

    of="outputs" looks at dL/dz, z being what the layer puts out, on the last batch before the step: one tensor, or all
    that it puts out together, such as the outputs and states of an LSTM; numbers, such as a loss, do not count. Layers
    stand in the order in which they ran, and one that runs several times has a row for each: `net.0`, `net.0(2)`, ...
    A module that only passes on what a layer in it puts out has no row. Its log is named `GradientMonitor.outputs`, so
    that both can be used at once.

    The first step is measured, too: "starting gradient histograms" tell whether the initialization is right. Warns once
    if first_to_last leaves its band, if gradients are not finite, and, at the end, if no output had a gradient.

    Source: Larson, Machine Learning in Python, slide 'Glorot Weight Initialization' ("Starting gradient histograms per
    layer"), after Glorot and Bengio 2010, figure 7, the back-propagated gradients (of="outputs"), and figure 8, those
    of the weights; 'Optimization' (after Katanforoosh and Kunin), slides 'Exploding' and 'Vanishing'.

    Arguments:
        of: "weights" or "outputs".
        bins: of a histogram, at least 2; an odd number has a bin for what is almost zero.
        band: the smallest and the largest first_to_last that pass without a warning.
        log_every_n_steps, name: see `Monitor`.

    Raises:
        ValueError: an argument is out of range.
        MisconfigurationException: no logger; no layer in the model; of="outputs" of a compiled or scripted model, whose
            modules do not tell what they put out.

    Example::

        monitor = GradientMonitor(of="outputs", bins=41)
        Trainer(callbacks=[monitor]).fit(model, loader)
        monitor.plot().savefig("gradients.png")
    """

    def __init__(
        self,
        of: Literal["weights", "outputs"] = "weights",
        bins: int = 33,
        band: tuple[float, float] = (1e-3, 1e3),
        log_every_n_steps: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(log_every_n_steps, name, bins=bins, band=band)
        if of not in ("weights", "outputs"):
            raise ValueError(f"GradientMonitor: of must be 'weights' or 'outputs', got {of!r}")
        if bins < 2:
            raise ValueError(f"GradientMonitor: bins must be at least 2, got {bins}")
        if not 0.0 <= band[0] <= band[1]:
            raise ValueError(f"GradientMonitor: band must be two numbers, 0 <= low <= high, got {band}")
        self.of = of
        self.bins = bins
        self.band = band
        self._has_looked = False

    measures_first_step = True

    @property
    def default_name(self) -> str:
        return "GradientMonitor" if self.of == "weights" else "GradientMonitor.outputs"

    @property
    def kind(self) -> str:
        return self._generate_state_key(of=self.of)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._has_looked = False
        if not layers(pl_module):
            raise MisconfigurationException(
                "GradientMonitor: the model must have a weight of two or more dimensions, such as that of "
                f"torch.nn.Linear, got {type(pl_module).__name__} without one; leave this callback out"
            )
        if self.of == "outputs" and is_compiled(pl_module):
            raise MisconfigurationException(
                "GradientMonitor: of='outputs' needs modules that run one by one, got a compiled or scripted model; "
                "use of='weights', or train without torch.compile and torch.jit"
            )

    def before_batch(self, trainer: Trainer, module: LightningModule) -> None:
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self.scratch["scale"] = 1.0 if scaler is None else scaler.get_scale()
        if self.of == "outputs":
            for layer in layers(module):
                self.until_batch_end(layer.module.register_forward_hook(self._watch_output(layer)))

    def _watch_output(self, layer: Layer) -> Any:
        """A forward hook that has the gradient of the output measured when it comes."""
        runs = 0
        scratch, scale, bins = self.scratch, self.scratch["scale"], self.bins

        def forward_hook(_: nn.Module, __: Any, output: Any) -> None:
            nonlocal runs
            # A loss has no dimension; DDP calls the LightningModule for it.
            zs = [z for z in tensors_in(output) if z.requires_grad and z.dim()]
            if not zs or same(zs, scratch.get("newest", [])):
                return
            scratch["newest"] = zs
            runs += 1
            row = numbered(layer.name, runs)
            scratch.setdefault("paths", {})[row] = layer.path
            rows = scratch.setdefault("rows", {})
            rows[row] = None  # the place in the order of running

            def measure(gradients: Sequence[Tensor | None]) -> None:
                gs = [local(g) for g in gradients if g is not None]  # of what the loss does not depend on there is none
                if any(g.numel() for g in gs):
                    rows[row] = gradient_statistics(gs, bins, scale)

            register_multi_grad_hook(zs, measure)

        return forward_hook

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if self._is_measuring and self.of == "weights":
            # Such an optimizer divides by the scale itself, in its step.
            is_scaled = getattr(optimizer, "_step_supports_amp_scaling", False)
            self._measure_weights(pl_module, optimizer, self.scratch["scale"] if is_scaled else 1.0)

    def after_step(self, module: LightningModule, optimizer: Optimizer) -> None:
        if self.of == "weights" and optimizer not in self.scratch:  # not Lightning's wrapper but the optimizer itself
            self._measure_weights(module, optimizer, 1.0)

    def _measure_weights(self, module: LightningModule, optimizer: Optimizer, scale: float) -> None:
        held = held_by(optimizer)
        rows, paths = {}, {}
        for layer in layers(module):
            grads = [local(w.grad) for w in layer.weights if id(w) in held and w.grad is not None]
            held.difference_update(map(id, layer.weights))  # those of several layers count once
            if any(g.numel() for g in grads):
                rows[layer.name] = gradient_statistics(grads, self.bins, scale)
                paths[layer.name] = layer.path
        self.scratch[optimizer] = True
        self._add_rows(rows, paths, module.trainer.optimizers.index(optimizer))

    def after_batch(self, trainer: Trainer, module: LightningModule) -> None:
        if self.of == "outputs":
            rows = {name: row for name, row in self.scratch.get("rows", {}).items() if row is not None}
            self._add_rows(rows, self.scratch.get("paths", {}))
            self._has_looked = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if self._has_looked and not self.history:
            rank_zero_warn(
                f"GradientMonitor: of='outputs' found no output with a gradient, for {type(pl_module).__name__} called "
                "no module with a trained weight of two or more dimensions; use of='weights'"
            )

    def _add_rows(self, rows: dict[str, Tensor], paths: dict[str, str], number: int = 0) -> None:
        if not rows:
            return
        values = torch.stack(list(rows.values())).tolist()  # one transfer for all
        for name, (size, rms, *counts) in zip(rows, values, strict=True):
            self.record[name] = {"norm": size, "rms": rms, "histogram": [int(count) for count in counts]}
        inner = innermost({name: paths[name] for name in rows})
        first, last = (self.record[name]["norm"] for name in (inner[0], inner[-1]))
        if len(inner) > 1 and last:
            ratio = "ratio" if number == 0 else f"ratio-{number}"
            self.record.setdefault("first_to_last", {})[ratio] = first / last
            self.scratch.setdefault("ends", {})[ratio] = f"{inner[0]} and {inner[-1]}"

    def warn(self, trainer: Trainer, module: LightningModule) -> None:
        _, record = self.history[-1]
        names = [name for name, found in record.items() if "norm" in found]
        for number, name in enumerate(names, start=1):
            if not math.isfinite(record[name]["norm"]):
                text = f"layer {number}: gradients are not finite; the learning rate {learning_rate(trainer):g} is "
                self.warn_once("finite", text + "likely too high", name)
                return
        for which, ratio in record.get("first_to_last", {}).items():
            if not self.band[0] <= ratio <= self.band[1]:
                kind = "vanish" if ratio < self.band[0] else "explode"
                text = f"gradients {kind}: the first layer's have {ratio:.2g} times the norm of the last layer's; "
                text += "the initial weights are likely too "
                text += "small, or the activations saturated" if kind == "vanish" else "large"
                self.warn_once(kind, text, self.scratch["ends"][which])

    def plot(self) -> Figure:
        """The distribution of the gradients of each layer, at the first and the last measurement, and their norms over
        time.

        Where gradients vanish, the curves of the first layers are narrow and high. Source: Glorot and Bengio 2010,
        figure 7 for of="outputs", figure 8 for of="weights".

        Raises:
            RuntimeError: nothing was measured yet.
            ImportError: Matplotlib is not installed.
        """
        figure, (first, last, norms) = self.figure(3)
        what = "dL/dw" if self.of == "weights" else "dL/dz"
        for panel, (step, record) in ((first, self.history[0]), (last, self.history[-1])):
            for layer, colour, _, _ in self.curves("histogram"):
                if layer in record:
                    panel.plot(*density(**record[layer]), color=colour, label=layer)
            panel.set(title=f"step {step}", xlabel=what, ylabel="density", yscale="log")
        for layer, colour, steps, points in self.curves("norm"):
            norms.plot(steps, [value for (value,) in points], color=colour, label=layer)
        norms.set(title="norms", xlabel="step", ylabel=f"|{what}|", yscale="log")
        norms.legend(fontsize="small")
        return figure


# ---------------------------------------------------------------- computing


def gradient_statistics(grads: list[Tensor], bins: int, scale: float = 1.0) -> Tensor:
    """Norm, root mean square and the counts of the bins, of all entries over `scale` together, of shape (2 + bins,).

    >>> gradient_statistics([torch.tensor([-1.0, 0.1, 0.2]), torch.tensor([1.0])], bins=5)[2:]  # in steps of 1.14
    tensor([0., 1., 2., 1., 0.], dtype=torch.float64)
    """
    g = torch.cat([(torch.view_as_real(g.detach()) if g.is_complex() else g.detach()).flatten() for g in grads])
    size = norm(g)
    rms = size / math.sqrt(len(g))
    bound = torch.where((rms > 0) & rms.isfinite(), WIDTH * rms, 1.0)
    # The middle is added after rounding down: before, it would swallow the sign of small numbers.
    place = (sample(g) * (bins / (2.0 * bound))).add_(0.5 * (bins % 2)).floor_().nan_to_num_(nan=0.0).add_(bins // 2)
    counts = place.clamp_(0, bins - 1).to(torch.int32).bincount(minlength=bins)
    counts = counts * rms.isfinite()  # no histogram of what is not finite
    return torch.cat([torch.stack([size, rms]).double() / scale, counts])


def density(norm: float, rms: float, histogram: list[int]) -> tuple[list[float], list[float]]:
    """Middles of the bins and density in them; nothing where there is none, for a logarithmic axis."""
    width = 2.0 * WIDTH * rms / len(histogram)
    total = sum(histogram) * width
    middles = [(index + 0.5) * width - WIDTH * rms for index in range(len(histogram))]
    return middles, [count / total if count and total else math.nan for count in histogram]


# ---------------------------------------------------------------- the model


def same(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether they are the same objects."""
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))


def is_compiled(module: LightningModule) -> bool:
    return getattr(module, "_compiler_ctx", None) is not None or any(
        layer._compiled_call_impl is not None
        or type(layer).__name__ == "OptimizedModule"
        or isinstance(layer, torch.jit.ScriptModule)
        for layer in module.modules()
    )
