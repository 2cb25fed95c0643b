"""The functions of the notes as modules and as functions (`functional`), and initialization (`init`)."""

from . import functional, init
from .losses import BCELoss, BCEWithLogitsLoss, CrossEntropyLoss, MSELoss, QuadraticCost
from .modules import (
    ELU,
    Affine,
    LeakyReLU,
    LogSoftmax,
    Maxout,
    PReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from .replace import replace_activations, restore_activations

__all__ = ["Affine", "Sigmoid", "Tanh", "ReLU", "LeakyReLU", "PReLU", "ELU", "SiLU", "Maxout", "Softmax", "LogSoftmax"]
__all__ += ["QuadraticCost", "MSELoss", "BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss"]
__all__ += ["functional", "init", "replace_activations", "restore_activations"]


def __dir__() -> list[str]:
    return __all__
