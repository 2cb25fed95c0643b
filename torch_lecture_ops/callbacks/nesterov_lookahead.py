"""NesterovLookahead: all batches of an accumulated gradient are evaluated at the point ahead."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer

from ..optim import Nesterov


class NesterovLookahead(Callback):
    """Evaluates every batch at the point where the momentum leads, for a Trainer whose optimizer is `Nesterov`.

    `Nesterov` needs the gradient of the point ahead and goes there itself when it gets a closure that computes the
    gradient. With accumulate_grad_batches the closures of all batches but the last are called before its step, with
    precision="16-mixed" those of all batches: then add this callback. From the start of a batch to the end of its
    backward pass the parameters are at the point ahead.

    Raises:
        MisconfigurationException: no optimizer of the Trainer is a `Nesterov`; manual optimization, where the gradient
            is computed inside of `with optimizer.lookahead():` instead.

    Example::

        Trainer(accumulate_grad_batches=4, callbacks=[NesterovLookahead()]).fit(model, loader)
    """

    def __init__(self) -> None:
        self._looks = ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not any(isinstance(optimizer, Nesterov) for optimizer in trainer.optimizers):
            kinds = ", ".join(type(optimizer).__name__ for optimizer in trainer.optimizers) or "none"
            raise MisconfigurationException(
                f"NesterovLookahead: an optimizer must be a torch_lecture_ops.optim.Nesterov, got {kinds}"
            )
        if not pl_module.automatic_optimization:
            raise MisconfigurationException(
                "NesterovLookahead: the optimization must be automatic; where it is manual, compute the gradient "
                "inside of `with optimizer.lookahead():`"
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        for optimizer in trainer.optimizers:
            if isinstance(optimizer, Nesterov):
                self._looks.enter_context(optimizer.lookahead())

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._looks.close()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self._looks.close()  # where training_step returned None there was no backward pass

    def on_train_batch_end(self, *arguments: Any) -> None:
        self._looks.close()

    def on_exception(self, *arguments: Any) -> None:
        self._looks.close()
