"""Every function of the notes as a `torch.autograd.Function` with a hand-written backward, one file each."""

from .elementwise import Elementwise
from .relu import ReLU
from .sigmoid import Sigmoid
from .silu import SiLU
from .tanh import Tanh

__all__ = ["Elementwise", "ReLU", "SiLU", "Sigmoid", "Tanh"]
