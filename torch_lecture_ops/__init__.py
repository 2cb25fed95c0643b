"""The formulas of deep-learning lecture notes as first-class PyTorch operations.

`optim` in place of `torch.optim`, `nn` in place of `torch.nn`; `functions` holds the autograd Functions, `formula` the
engines that run every formula.
"""

from . import formula, functions, nn, optim

__version__ = "0.1.0"

__all__ = ["formula", "functions", "nn", "optim"]


def __dir__() -> list[str]:
    return __all__
