"""The optimizers of the notes: `import torch_lecture_ops.optim as optim` in place of `import torch.optim as optim`."""

from . import lr_scheduler as lr_scheduler  # __all__ names the classes
from .adadelta import Adadelta
from .adagrad import Adagrad
from .adam import Adam
from .adamw import AdamW
from .nadam import NAdam
from .nesterov import Nesterov
from .rmsprop import RMSprop
from .rule import Buffer
from .rule_optimizer import RuleOptimizer
from .sgd import SGD

__all__ = [
    "SGD",
    "Nesterov",
    "Adagrad",
    "RMSprop",
    "Adadelta",
    "Adam",
    "AdamW",
    "NAdam",
    "Buffer",
    "RuleOptimizer",
]


def __dir__() -> list[str]:
    return [*__all__, "lr_scheduler"]
