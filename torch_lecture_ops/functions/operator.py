"""All functions as one operator of torch, which is what its compiler sees.

An autograd Function of its own would keep a compiled model out of AOTAutograd's cache, and could not be compiled inside
of `torch.func`'s transforms. An operator is one node of the graph; when the graph is lowered, the Function runs and
leaves the operators of its formula, of value and slope, which Inductor fuses with their neighbours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor
from torch.library import Library

from ..formula import Formula, FormulaError, trace

_library = Library("torch_lecture_ops", "DEF")
_library.define("call(str function, Tensor?[] tensors, Scalar[] numbers, str[] words) -> Tensor")
_functions: dict[str, Callable[..., Tensor]] = {}


def _call(function: str, tensors: Sequence[Tensor | None], numbers: Sequence[float], words: Sequence[str]) -> Tensor:
    """Call the function of this name; where `words` has "", the next number stands."""
    if function not in _functions:
        raise RuntimeError(f"{function}: no such function in this process; import the module that defines it")
    number = iter(numbers)
    return _functions[function](*tensors, *(word or next(number) for word in words))


# Composite: autograd, tracers and devices all run the Function itself. A transform meets it before it takes its tensors
# apart, as if it had been called by name: the Function has its own rules for vmap, grad and jvp.
for key in ("CompositeImplicitAutograd", "FuncTorchDynamicLayerFrontMode"):
    _library.impl("call", _call, key)
_operator = torch.ops.torch_lecture_ops.call.default


def as_operator(cls: type, function: Callable[..., Tensor], *content: Formula | str) -> Callable[..., Tensor]:
    """The function as a call of the operator: called with a list of its tensors (or None) and its other arguments.

    Graphs are cached by the names of functions, so no other function may ever get the same, in another process either:
    a name stands for what the function is made of.

    Arguments:
        cls: whose function it is.
        function: called with the tensors and the other arguments.
        content: the formulas it is made of, and what else makes it what it is. None: what this package has of it.
    """
    name = f"{cls.__module__}.{cls.__qualname__}:{_digest(cls, content)}"
    _functions[name] = function

    def compiled(tensors: list[Tensor | None], *options: Any) -> Tensor:
        numbers = [option for option in options if not isinstance(option, str)]
        return _operator(name, tensors, numbers, [option if isinstance(option, str) else "" for option in options])

    return compiled


def _digest(cls: type, content: Sequence[Formula | str]) -> str:
    unknown = uuid4().hex  # of what nobody can say what it is made of
    if not content and not cls.__module__.startswith(__package__):
        return unknown
    digest = _SOURCES.copy()
    for part in content:
        if isinstance(part, Formula):
            try:
                program = trace(part)
            except FormulaError:  # it runs on tensors alone
                return unknown
            part = repr((program.nodes, program.results, part.stores))
        digest.update(part.encode())
    return digest.hexdigest()[:16]


def _hash_of_sources() -> Any:
    """The hash of what the functions of this package are, apart from the formulas of others: made once, for all."""
    package = Path(__file__).parents[1]
    try:
        sources = b"".join(file.read_bytes() for file in sorted(package.glob("f*/*.py")))  # formula and functions
    except OSError:  # not in files, or without their text
        sources = uuid4().bytes
    return hashlib.sha256(sources)


_SOURCES = _hash_of_sources()
