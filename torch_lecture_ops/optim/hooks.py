"""The hooks of an optimizer, which its copies keep."""

from __future__ import annotations

import pickle
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from torch.utils.hooks import RemovableHandle


def registered(hooks: dict[int, Any]) -> OrderedDict[int, Any]:
    """The same hooks in a registry of their own, under numbers that no other hook of this process gets."""
    own: OrderedDict[int, Any] = OrderedDict()
    for hook in hooks.values():
        own[RemovableHandle(own).id] = hook
    return own


class Hooks(OrderedDict[int, Any]):
    """Hooks on their way into a copy of an optimizer: a deepcopy takes all, a pickle those that can be pickled."""

    def __init__(self, optimizer: Any, hooks: dict[int, Any]) -> None:
        super().__init__(hooks)
        self._optimizer = optimizer

    def __deepcopy__(self, memo: dict[int, Any]) -> OrderedDict[int, Any]:
        return OrderedDict(deepcopy(list(self.items()), memo))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return OrderedDict, (list(self._picklable(int(protocol))),)

    def _picklable(self, protocol: int) -> Iterator[tuple[int, Any]]:
        for number, hook in self.items():
            try:
                _Trial(self._optimizer, protocol).dump(hook)
            except Exception as error:  # whatever the hook, or what it holds, raises there
                name = type(self._optimizer).__name__
                warnings.warn(
                    f"{name}: the hook {hook!r} is not in the pickle, for it cannot be pickled: {error}; register it "
                    f"anew on the copy, or make it a function of a module",
                    stacklevel=2,
                )
            else:
                yield number, hook


class _Nowhere:
    """A file that keeps nothing."""

    def write(self, data: Any) -> int:
        return len(data)


class _Trial(pickle.Pickler):
    """Tells whether something can be pickled along with an optimizer, which it may hold: a method of a wrapper does."""

    def __init__(self, optimizer: Any, protocol: int) -> None:
        super().__init__(_Nowhere(), protocol)
        self._optimizer = optimizer

    def persistent_id(self, value: Any) -> Any:
        return True if value is self._optimizer else None
