"""Whether tensors are like those of an earlier call, whatever their values and addresses: asked in one call for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# torch's compiler asks the same of its inputs. Its class looks at 1000 tensors in the time of one attribute each, and
# keeps none of them alive.
_guards = getattr(getattr(getattr(torch._C, "_dynamo", None), "guards", None), "TensorGuards", None)


class Alike:
    """What a list of tensors looks like: types, dtypes, layouts, devices, shapes, strides, negations not yet done."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._count = len(tensors)
        self._looks = None if _guards else list(map(_look, tensors))
        if _guards:
            guards = _guards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None)
            self._check: Callable[..., bool] = guards.check

    def __call__(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these look the same, one by one. False where that is not sure."""
        if len(tensors) != self._count:
            return False
        return self._check(*tensors) if self._looks is None else list(map(_look, tensors)) == self._looks


def _look(tensor: Tensor) -> Any:
    if tensor.layout is not torch.strided:
        return object()  # never the same
    return type(tensor), tensor.dtype, tensor.device, tensor.shape, tensor.stride(), tensor.is_neg(), tensor.is_conj()
