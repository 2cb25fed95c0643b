"""Every function of the notes as a `torch.autograd.Function` with a hand-written backward, one file each."""

from .elementwise import Elementwise
from .elu import ELU
from .leaky_relu import LeakyReLU
from .relu import ReLU
from .sigmoid import Sigmoid
from .silu import SiLU
from .tanh import Tanh

__all__ = ["Elementwise", "Sigmoid", "Tanh", "ReLU", "LeakyReLU", "ELU", "SiLU"]
