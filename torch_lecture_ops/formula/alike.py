"""Whether tensors are like those of an earlier call, whatever their values and addresses: asked in one call for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

# torch's compiler asks the same of its inputs. Its class looks at 1000 tensors in the time of one attribute each, and
# keeps none of them alive.
_guards = getattr(getattr(getattr(torch._C, "_dynamo", None), "guards", None), "TensorGuards", None)


class Alike:
    """What a list of tensors looks like: types, dtypes, layouts, devices, shapes, strides, negations not yet done.

    Of a list that is known to be as long, ask `check` with its tensors; a TypeError says that something is none.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._count = len(tensors)
        self.check: Callable[..., bool]
        if _guards:
            self.check = _guards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None).check
        else:
            self.check = partial(_look_so, list(map(_look, tensors)))

    def __call__(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these look the same, one by one. False where that is not sure."""
        return len(tensors) == self._count and self.check(*tensors)


def _look_so(looks: list[Any], *tensors: Tensor) -> bool:
    return list(map(_look, tensors)) == looks


def _look(tensor: Tensor) -> Any:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"expected a tensor, got {tensor!r}")
    if tensor.layout is not torch.strided:
        return object()  # never the same
    return type(tensor), tensor.dtype, tensor.device, tensor.shape, tensor.stride(), tensor.is_neg(), tensor.is_conj()
