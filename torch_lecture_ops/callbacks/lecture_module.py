"""LectureModule: a LightningModule whose parts are chosen on the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

from lightning.pytorch import LightningModule
from torch import nn

from ..nn import ReLU
from ..nn.init import Scheme, initialize

Network = TypeVar("Network", bound=nn.Module)


class LectureModule(LightningModule):
    """A base class for models whose optimizer, form, schedule, activation and initialization LightningCLI can choose.

    A subclass builds its network with `self.activation()` and passes it through `self.initialized`; it needs no
    `configure_optimizers`. With `LightningCLI(Classifier, data)` at the end of train.py every part has an option:

        python train.py fit
            --optimizer torch_lecture_ops.optim.NAdam --optimizer.lr 0.01 --optimizer.form simple
            --lr_scheduler torch_lecture_ops.optim.lr_scheduler.StepDecay --lr_scheduler.every 10
            --model.activation torch_lecture_ops.nn.SiLU --model.init he_normal
            --trainer.callbacks+ torch_lecture_ops.callbacks.GradientMonitor

    Optimizers and schedules are any subclasses of torch's Optimizer and LRScheduler. Without LightningCLI, define
    `configure_optimizers` as in every LightningModule.

    Arguments:
        activation: makes an activation module when it is called: a class, or a function without arguments.
        init: scheme of `torch_lecture_ops.nn.init.initialize`, or None to leave weights as they are.
        schedule_interval: whether the schedule counts epochs or steps.

    Raises:
        ValueError: unknown schedule_interval; what `initialize` raises, when `initialized` is called.
        MisconfigurationException: training starts without an optimizer (Lightning's own error).

    Example::

        class Classifier(LectureModule):
            def __init__(self, hidden: int = 128, **options):  # the command line has the options, too
                super().__init__(**options)
                layers = nn.Linear(784, hidden), self.activation(), nn.Linear(hidden, 10)
                self.network = self.initialized(nn.Sequential(nn.Flatten(), *layers))

            def forward(self, images):
                return self.network(images)

            def training_step(self, batch):
                images, labels = batch
                return torch.nn.functional.cross_entropy(self(images), labels)
    """

    def __init__(
        self,
        activation: Callable[[], nn.Module] = ReLU,
        init: Scheme | None = "auto",
        schedule_interval: Literal["epoch", "step"] = "epoch",
    ) -> None:
        super().__init__()
        if schedule_interval not in ("epoch", "step"):
            raise ValueError(
                f"{type(self).__name__}: schedule_interval must be 'epoch' or 'step', got {schedule_interval!r}"
            )
        self.activation = activation
        self.init = init
        self.schedule_interval = schedule_interval

    def initialized(self, network: Network) -> Network:
        """The network with weights filled by the chosen scheme, for the activations that it holds."""
        if self.init is not None:
            initialize(network, scheme=self.init)
        return network

    def on_fit_start(self) -> None:
        for config in self.trainer.lr_scheduler_configs:
            config.interval = self.schedule_interval
