"""A process that never compiles need not import torch's compiler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.optim import Optimizer

from .optim import Nesterov

MADE = "__dynamo_disable"  # torch's name


@contextmanager
def without_the_compiler() -> Iterator[None]:
    """Inside, optimizers do not import torch's compiler: seconds for which a command that trains little need not
    wait.

    A wrapper of torch keeps these methods out of compiled graphs. It imports the compiler at its first call, and
    remembers what that made of the method.
    """
    wrapped = Optimizer.add_param_group, Optimizer.zero_grad, Nesterov.lookahead
    methods = [getattr(method, "__wrapped__", None) for method in wrapped]
    fresh = [method for method in methods if method and not hasattr(method, MADE)]
    for method in fresh:
        setattr(method, MADE, method)
    try:
        yield
    finally:
        for method in fresh:
            delattr(method, MADE)
