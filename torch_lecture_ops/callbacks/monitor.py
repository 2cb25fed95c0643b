"""What the monitors share: when they measure, where the numbers go, what is kept, when they warn."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache, cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from .layers import named_parameters, numbered

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# layer -> statistic -> number, or the counts of a histogram's bins
Record = dict[str, dict[str, Any]]

MOST_RECORDS = 1000

SAMPLE = 4096  # each quantile of so many elements is that of all within two percent of the ranks


class Monitor(Callback):
    """A callback that measures a training every few steps, on rank zero, and changes nothing of it; abstract.

    What is measured goes to every logger of the Trainer as `{name}/{layer}/{statistic}` (a histogram as one number for
    each bin: `.../histogram/00`, `.../histogram/01`, ...), to `history`, which checkpoints keep, and, in a training of
    one process and without histograms, to `trainer.callback_metrics`. Nothing appears in the progress bar.

    A subclass measures in `before_step` and `after_step` around every step of an optimizer, and in `after_batch`; each
    puts what it finds into `record`. All that a measurement needs lives for one batch, so the batches between cost
    nothing, and nothing is left behind when training ends, with or without an exception.

    A Trainer takes several monitors of a class if an argument differs. The second one of a name writes to
    `{name}(2)/...`, the third one to `{name}(3)/...`, unless `name` tells them apart. A checkpoint knows a monitor by
    its arguments. One that finds nothing there goes on with the history of a monitor of its kind that this Trainer
    does not have, if there is just one: so a training may be resumed with other limits, though Lightning warns of it.

    Arguments:
        log_every_n_steps: how many optimizer steps from one measurement to the next; None for the Trainer's own number.
            `Trainer(fast_dev_run=True)` measures every step.
        name: the first part of the names in the log; None for that of the class.
        arguments: the other arguments of the subclass.

    Attributes:
        history: pairs of a step and what was measured there, `{layer: {statistic: value}}`; beyond 1000 pairs every
            second of the older ones is dropped.

    Raises:
        ValueError: log_every_n_steps is below 1; name is empty.
        MisconfigurationException: the Trainer has no logger.
    """

    def __init__(self, log_every_n_steps: int | None = None, name: str | None = None, **arguments: Any) -> None:
        if log_every_n_steps is not None and log_every_n_steps < 1:
            raise ValueError(
                f"{type(self).__name__}: log_every_n_steps must be at least 1, or None for the Trainer's own, "
                f"got {log_every_n_steps}"
            )
        if name is not None and not (isinstance(name, str) and name):
            raise ValueError(
                f"{type(self).__name__}: name must be a string, not empty, or None for that of the class, got {name!r}"
            )
        self.log_every_n_steps = log_every_n_steps
        self.history: list[tuple[int, Record]] = []
        self.record: Record = {}  # of the batch that is being measured
        self.scratch: dict[Any, Any] = {}  # likewise, for the subclass
        self._is_measuring = False
        self._has_stepped = False
        self._handles: list[RemovableHandle] = []
        self._warned: set[str] = set()
        self._arguments = {**arguments, "log_every_n_steps": log_every_n_steps, "name": name}
        self._number = 1  # among the monitors of this name in the Trainer

    # ---- for the subclass

    measures_first_step: ClassVar[bool] = False

    @property
    def default_name(self) -> str:
        return type(self).__name__

    @property
    def kind(self) -> str:
        """What begins the state keys of all monitors that measure the same, and is that of one with defaults only."""
        return type(self).__qualname__

    def before_batch(self, trainer: Trainer, module: LightningModule) -> None:
        """At the start of a batch that is measured; hooks go through `until_batch_end`."""

    def before_step(self, module: LightningModule, optimizer: Optimizer) -> None:
        """Before a step of an optimizer; its closure, and with it the backward pass, may be yet to come."""

    def after_step(self, module: LightningModule, optimizer: Optimizer) -> None:
        """After it; gradients are those that the step used."""

    def after_batch(self, trainer: Trainer, module: LightningModule) -> None:
        """At the end of a batch that is measured, if an optimizer made a step in it."""

    def warn(self, trainer: Trainer, module: LightningModule) -> None:
        """Look at the newest record and call `warn_once` if a band is left."""

    def until_batch_end(self, *handles: RemovableHandle) -> None:
        self._handles += handles

    def warn_once(self, kind: str, text: str, layer: str) -> None:
        """One warning of a kind in a training: a network that goes wrong does so in many layers, again and again."""
        if kind not in self._warned:
            self._warned.add(kind)
            rank_zero_warn(f"{text} ({self.name}: {layer}, step {self.history[-1][0]})")

    # ---- what Lightning calls

    @cached_property  # it is read at every hook
    def state_key(self) -> str:
        parameters = inspect.signature(type(self)).parameters
        told = {
            argument: value
            for argument, value in self._arguments.items()
            if argument not in parameters or value != parameters[argument].default
        }
        return f"{self.kind}{told}" if told else self.kind

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        before = takewhile(lambda callback: callback is not self, trainer.callbacks)  # type: ignore[attr-defined]
        self._number = 1 + sum(isinstance(other, Monitor) and other._own_name == self._own_name for other in before)
        if stage == "fit" and not trainer.loggers:
            raise MisconfigurationException(
                f"{type(self).__name__}: the Trainer must have a logger to write to, got none; "
                "use for example Trainer(logger=CSVLogger('logs'))"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for optimizer in trainer.optimizers:
            if not isinstance(optimizer, Optimizer):
                raise MisconfigurationException(
                    f"{type(self).__name__}: every optimizer must be a torch.optim.Optimizer, got "
                    f"{type(optimizer).__name__}"
                )
        if trainer.global_step == 0:  # not resumed: this is another training
            self.history.clear()
            self._warned.clear()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._forget_batch()  # of the one before, if it did not come to its end
        self._is_measuring = self._is_due(trainer)
        if not self._is_measuring:
            return

        def before(optimizer: Optimizer, *_: Any) -> None:
            self.before_step(pl_module, optimizer)

        def after(optimizer: Optimizer, *_: Any) -> None:
            self._has_stepped = True
            self.after_step(pl_module, optimizer)

        for optimizer in trainer.optimizers:
            self.until_batch_end(optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after))
        self.before_batch(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        try:
            if self._has_stepped:
                self.after_batch(trainer, pl_module)
            if self.record:
                self.publish(trainer, pl_module)
        finally:
            self._forget_batch()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._forget_batch()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._forget_batch()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        states = checkpoint["callbacks"]
        present = {callback.state_key for callback in trainer.callbacks}  # type: ignore[attr-defined]
        left = [key for key in states if key not in present and f"{key}{{".startswith(f"{self.kind}{{")]
        if self.state_key not in states and len(left) == 1:
            states[self.state_key] = states.pop(left[0])

    def state_dict(self) -> dict[str, Any]:
        return {"history": list(self.history), "warned": sorted(self._warned)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = list(state_dict["history"])
        self._warned = set(state_dict["warned"])

    # ---- the rest

    @property
    def name(self) -> str:
        """The first part of the names in the log."""
        return numbered(self._own_name, self._number)

    @property
    def _own_name(self) -> str:
        return self._arguments["name"] or self.default_name

    def _is_due(self, trainer: Trainer) -> bool:
        if not trainer.is_global_zero:
            return False
        every = self.log_every_n_steps or trainer.log_every_n_steps  # type: ignore[attr-defined]
        number = steps_before(trainer) + 1
        is_extra = trainer.fast_dev_run or (self.measures_first_step and number == 1)  # type: ignore[attr-defined]
        return every > 0 and (bool(is_extra) or number % every == 0)  # the Trainer's 0 stands for never

    def publish(self, trainer: Trainer, module: LightningModule) -> None:
        """Keep the record, give it to the loggers, and warn."""
        if len(self.history) >= MOST_RECORDS:
            del self.history[1::2]
        self.history.append((steps_before(trainer), self.record))
        for logger in trainer.loggers:
            logger.log_metrics(self._metrics(logger.group_separator), step=steps_before(trainer))
        if trainer.world_size == 1:  # elsewhere, who reads them on the other ranks would find nothing
            metrics = self._metrics("/", with_histograms=False)
            trainer.callback_metrics.update({key: torch.tensor(value) for key, value in metrics.items()})
        self.warn(trainer, module)
        self.record = {}

    def _metrics(self, separator: str, with_histograms: bool = True) -> dict[str, float]:
        metrics = {}
        for layer, statistics in self.record.items():
            for statistic, value in statistics.items():
                key = separator.join((self.name, layer, statistic))
                if not isinstance(value, list):
                    metrics[key] = value
                elif with_histograms:
                    metrics.update({f"{key}{separator}{index:02}": count for index, count in enumerate(value)})
        return metrics

    def _forget_batch(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.scratch.clear()
        self.record = {}
        self._is_measuring = self._has_stepped = False

    def figure(self, panels: int) -> tuple[Figure, Any]:
        """A figure with panels side by side, for the `plot` of a monitor that has measured something."""
        if not self.history:
            raise RuntimeError(
                f"{type(self).__name__}: nothing to plot, for nothing was measured yet; train at least as many steps "
                "as log_every_n_steps"
            )
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError(
                f"{type(self).__name__}: plot needs Matplotlib, which is not installed; "
                "pip install 'torch-lecture-ops[plot]'"
            ) from error
        figure = Figure(figsize=(6.0 * panels, 4.2), layout="constrained")
        axes = figure.subplots(1, panels, squeeze=False)[0]
        for panel in axes:
            panel.grid(alpha=0.3)
        return figure, axes

    def curves(self, *statistics: str) -> Iterator[tuple[str, Any, list[int], list[tuple[float, ...]]]]:
        """For each layer that has these statistics: its name, a colour by depth, steps, and the values at them."""
        from matplotlib import colormaps

        layers = dict.fromkeys(
            layer for _, record in self.history for layer, found in record.items() if set(statistics) <= set(found)
        )
        for index, layer in enumerate(layers):
            points = [
                (step, tuple(record[layer][statistic] for statistic in statistics))
                for step, record in self.history
                if set(statistics) <= set(record.get(layer, ()))
            ]
            colour = colormaps["viridis"](0.9 * index / max(1, len(layers) - 1))
            yield layer, colour, [step for step, _ in points], [values for _, values in points]


def steps_before(trainer: Trainer) -> int:
    """How many batches ended in a step so far: the step under which Lightning logs the batch at hand."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def learning_rate(trainer: Trainer) -> float:
    """The largest of all parameter groups."""
    return max(float(group.get("lr", 0.0)) for optimizer in trainer.optimizers for group in optimizer.param_groups)


def parameters_of(optimizer: Optimizer, module: nn.Module) -> list[tuple[str, Tensor]]:
    """The parameters of the module that the optimizer updates, in the module's order, but those whose shape is not
    known yet.
    """
    held = held_by(optimizer)
    return [
        (name, p)
        for name, p in named_parameters(module)
        if id(p) in held and not isinstance(p, nn.UninitializedParameter)
    ]


def held_by(optimizer: Optimizer) -> set[int]:
    """The identities of the parameters that the optimizer updates."""
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def leaves(value: Any) -> Iterator[Any]:
    """What tuples, lists, dictionaries and dataclasses hold, or the value itself.

    >>> list(leaves((1, {"state": [2, None]})))
    [1, 2, None]
    """
    if isinstance(value, Mapping):
        inner: Iterable[Any] = value.values()
    elif isinstance(value, (tuple, list)):
        inner = value
    elif is_dataclass(value) and not isinstance(value, type):
        inner = [getattr(value, field.name) for field in fields(value)]
    else:
        yield value
        return
    for item in inner:
        yield from leaves(item)


def tensors_in(value: Any) -> Iterator[Tensor]:
    return (leaf for leaf in leaves(value) if isinstance(leaf, Tensor))


def local(tensor: Tensor) -> Tensor:
    """What this process holds of it: the shard of a DTensor, since all that would need the others could wait forever;
    of a sparse gradient a dense copy.
    """
    tensor = tensor.detach()
    tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return tensor if tensor.layout is torch.strided else tensor.to_dense()


def sample(tensor: Tensor) -> Tensor:
    """A copy of its elements, or of SAMPLE of them, drawn at random; the same ones of every tensor of a size."""
    flat = local(tensor).flatten()
    return flat.clone() if len(flat) <= SAMPLE else flat[places(len(flat), flat.device)]


@cache
def places(count: int, device: torch.device) -> Tensor:
    return torch.randint(count, (SAMPLE,), generator=torch.Generator().manual_seed(0)).to(device)


def norm(tensor: Tensor) -> Tensor:
    """√Σ |x|², in float32 for half types."""
    dtype = torch.float32 if tensor.dtype in (torch.float16, torch.bfloat16) else None
    return torch.linalg.vector_norm(tensor, dtype=dtype)
