"""Every function of the notes as a `torch.autograd.Function` with a hand-written backward, one file each."""

from .affine import Affine
from .binary_cross_entropy import BinaryCrossEntropy, BinaryCrossEntropyWithLogits
from .check_slope import check_slope
from .cross_entropy import CrossEntropy
from .elementwise import Elementwise
from .elu import ELU
from .gates import Add, Copy, MatMul, Max, Mul
from .leaky_relu import LeakyReLU
from .maxout import Maxout
from .pointwise import Pointwise
from .prelu import PReLU
from .relu import ReLU
from .sigmoid import Sigmoid
from .silu import SiLU
from .softmax import LogSoftmax, Rowwise, Softmax
from .squared_error import SquaredError
from .tanh import Tanh

__all__ = ["Elementwise", "Pointwise", "Rowwise", "check_slope"]
__all__ += ["Affine", "Sigmoid", "Tanh", "ReLU", "LeakyReLU", "PReLU", "ELU", "SiLU", "Maxout", "Softmax", "LogSoftmax"]
__all__ += ["Add", "Mul", "Copy", "Max", "MatMul"]
__all__ += ["SquaredError", "BinaryCrossEntropy", "BinaryCrossEntropyWithLogits", "CrossEntropy"]


def __dir__() -> list[str]:
    return __all__
