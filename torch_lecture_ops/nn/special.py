"""Tensors over which no formula runs as they are, and where functions send them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.overrides import handle_torch_function, has_torch_function, has_torch_function_unary

from ..checks import check_tensors, wrong_type
from ..formula import PLAIN
from ..functions.operation import STRIDED, jit_traces

NOTHING: Mapping[str, Any] = MappingProxyType({})


def is_special(x: Any) -> bool:
    """Whether x is not a plain, strided tensor, or somebody overrides or traces torch's functions: see `elsewhere`."""
    if type(x) in PLAIN:
        return has_torch_function_unary(x) or x.layout is not STRIDED or x.is_nested or bool(jit_traces())
    if not isinstance(x, Tensor):
        return True
    return has_torch_function_unary(x) or _is_wrapper(type(x)) or x.layout is not STRIDED or x.is_nested


def any_special(input: Any, target: Any, *weights: Any) -> bool:
    """Whether one of the tensors of a loss `is_special`; a weight may be None."""
    if is_special(input) or is_special(target):
        return True
    return any([weight is not None and is_special(weight) for weight in weights])  # noqa: C419, faster


@cache
def _is_wrapper(cls: type) -> bool:
    """Whether tensors of this class compute by themselves: DTensor, MaskedTensor, jagged ones and those of users.

    Not those with which torch follows operations; they are to see the formula's.
    """
    computes = cls.__torch_dispatch__ is not Tensor.__torch_dispatch__  # type: ignore[attr-defined]
    return computes and not issubclass(cls, (FakeTensor, FunctionalTensor))


def elsewhere(
    function: Callable[..., Any],
    tensors: dict[str, Any],
    options: Mapping[str, Any] = NOTHING,
    only_ours: Mapping[str, tuple[Any, Any]] = NOTHING,
) -> Any:
    """The result of a function for arguments of which one is special.

    An object that overrides torch's functions does so with ours. Other layouts (sparse, mkldnn, nested) and tensors
    that compute by themselves go to torch's function of the same name, which takes them or says why it does not; so
    does what `torch.jit.trace`, and the ONNX exporter that is built on it, see: they know its operators.

    Arguments:
        function: ours.
        tensors: its first arguments, by their names.
        options: the others, tensors or not.
        only_ours: the options that torch's function does not have, each with its default.

    Raises:
        TypeError: one of `tensors`, or a weight, is no tensor.
        NotImplementedError: torch's function does not have an option that was given.
    """
    given = tuple(tensors.values())
    everything = (*given, *options.values())
    if has_torch_function(everything):
        own = {name: value for name, (value, _) in only_ours.items()}
        return handle_torch_function(function, everything, *given, **options, **own)
    who = function.__name__
    check_tensors(who, **tensors)
    for name in ("weight", "pos_weight"):  # of losses
        if options.get(name) is not None and not isinstance(options[name], Tensor):
            raise wrong_type(who, name, 0, "Tensor", options[name])
    for name, (value, default) in only_ours.items():
        if value != default and jit_traces():
            warnings.warn(f"{who}: a trace has torch's gradient, without {name}={value!r}", stacklevel=3)
        elif value != default:
            special = next(filter(is_special, given))
            raise NotImplementedError(f"{who}: {name}={value!r} needs a plain, strided tensor, got {_kind(special)}")
    return (getattr(torch.nn.functional, who, None) or getattr(torch, who))(*given, **options)


def check_strided(who: str, **tensors: Any) -> None:
    """Raise an error for what is no tensor, or no strided one, where torch has no function that might take it."""
    check_tensors(who, **tensors)
    for name, tensor in tensors.items():
        if tensor.layout is not STRIDED or tensor.is_nested:
            raise NotImplementedError(f"{who}: {name} must be a strided tensor, got {_kind(tensor)}; see to_dense()")


def _kind(x: Tensor) -> str:
    return f"a {'nested tensor' if x.is_nested else type(x).__name__} of layout {x.layout}"
