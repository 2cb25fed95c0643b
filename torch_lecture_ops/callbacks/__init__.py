"""Lightning callbacks that look into a network while it trains, and a module whose parts LightningCLI can choose."""

try:
    import lightning.pytorch  # noqa: F401
except ImportError as error:
    raise ImportError(
        "torch_lecture_ops.callbacks needs Lightning, which is not installed; "
        "pip install 'torch-lecture-ops[lightning]'"
    ) from error

from .activation_monitor import ActivationMonitor
from .effective_learning_rate_monitor import EffectiveLearningRateMonitor
from .gradient_monitor import GradientMonitor
from .lecture_module import LectureModule
from .nesterov_lookahead import NesterovLookahead
from .update_ratio_monitor import UpdateRatioMonitor

__all__ = [
    "ActivationMonitor",
    "GradientMonitor",
    "UpdateRatioMonitor",
    "EffectiveLearningRateMonitor",
    "LectureModule",
    "NesterovLookahead",
]


def __dir__() -> list[str]:
    return __all__
