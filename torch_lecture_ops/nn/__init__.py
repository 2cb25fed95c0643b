"""The functions of the notes as modules and as functions (`functional`), and initialization (`init`)."""

from . import functional, init
from .modules import ReLU, Sigmoid, SiLU, Tanh

__all__ = ["ReLU", "SiLU", "Sigmoid", "Tanh", "functional", "init"]
