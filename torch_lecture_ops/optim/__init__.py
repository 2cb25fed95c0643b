"""The optimizers of the notes: `import torch_lecture_ops.optim as optim` in place of `import torch.optim as optim`."""

from .adam import Adam
from .rmsprop import RMSprop
from .rule import Buffer
from .rule_optimizer import RuleOptimizer
from .sgd import SGD

__all__ = ["SGD", "Adam", "Buffer", "RMSprop", "RuleOptimizer"]
