"""The functions of the notes as modules and as functions (`functional`), and initialization (`init`)."""

from . import functional, init
from .modules import ELU, LeakyReLU, ReLU, Sigmoid, SiLU, Tanh

__all__ = ["Sigmoid", "Tanh", "ReLU", "LeakyReLU", "ELU", "SiLU", "functional", "init"]
