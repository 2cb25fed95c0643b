"""One training: how it is run, and what came out of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .setting import Setting


@dataclass(frozen=True)
class Execution:
    """How trainings are run, which determines no number but times."""

    devices: int = 1
    strategy: str = "auto"
    progress: bool = False


ALONE = Execution()


@dataclass(frozen=True)
class Run:
    """One training and what came out of it."""

    setting: Setting
    engine: str  # which one of ours ran; empty for torch
    test_accuracy: float  # percent, after the last epoch
    train_loss: float  # mean over the last epoch
    seconds_per_epoch: float  # median over epochs, training only
    microseconds_per_step: float  # median over steps, `optimizer.step` without forward and backward
    diverged: bool  # some loss was NaN or infinite
    test_accuracies: list[float]  # after every epoch
    epoch_seconds: list[float]
    losses: list[float]  # means over tenths of an epoch, or over batches where an epoch has fewer than ten

    def seconds_to(self, target: float) -> tuple[int, float] | None:
        """Epochs and seconds of training until the test accuracy was at least this."""
        for epoch, accuracy in enumerate(self.test_accuracies, start=1):
            if accuracy >= target:
                return epoch, sum(self.epoch_seconds[:epoch])
        return None

    def flat(self) -> dict[str, Any]:
        """With the fields of the setting among its own, as tables have it."""
        row = asdict(self)
        return row.pop("setting") | row
