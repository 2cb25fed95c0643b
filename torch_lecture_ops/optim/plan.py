"""Which engine updates which parameters: found out once, and again when something changes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from operator import is_
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..formula import PLAIN, CLaunch, EngineUnavailable, foreach, loop, note_fallback
from .rule import Update

Columns = list[list[Tensor]]


class Plan:
    """How to update these parameters of a group, as long as `fits` says so."""

    def __init__(self, update: Update, columns: Columns) -> None:
        self._update, self._params, self._types = update, list(columns[0]), set(map(type, columns[1]))
        _refuse_sparse(update.formula.name, columns[1])
        alike = defaultdict(list)  # an engine takes in one call what is alike
        for item, (p, g, *state) in enumerate(zip(*columns, strict=True)):
            can_c = p.is_cpu and type(p) in PLAIN and type(g) in PLAIN
            alike[can_c, p.device, p.dtype, tuple(tensor.dtype for tensor in state)].append(item)
        self._buckets = [
            _Bucket(update, can_c, dtype.is_complex, None if len(alike) == 1 else items)
            for (can_c, _, dtype, _), items in alike.items()
        ]

    @property
    def engines(self) -> set[str]:
        """The engines that run."""
        return {bucket.engine for bucket in self._buckets}

    def fits(self, update: Update, columns: Columns) -> bool:
        """Whether the plan holds for this step too."""
        return (
            update is self._update
            and len(columns[0]) == len(self._params)
            and all(map(is_, columns[0], self._params))
            and set(map(type, columns[1])) == self._types
        )

    def run(self, columns: Columns, hypers: list[Any]) -> None:
        """Update the parameters and their state."""
        for bucket in self._buckets:
            bucket.run(columns, hypers)


class _Bucket:
    """Parameters of a group that one engine updates in one call; `items` tells which, None: all."""

    def __init__(self, update: Update, can_c: bool, is_complex: bool, items: list[int] | None) -> None:
        self._formula, self._options = update.formula, update.options
        self._is_complex, self._items = is_complex, items
        self._launch: Callable[..., None] = CLaunch(update.formula, fresh=(1,))
        self.engine = "c"
        if update.options.differentiable:
            self._take(loop)
        elif update.options.fused and not can_c:
            self._refuse("parameters and gradients must be plain tensors on the CPU")
        elif update.options.fused is False or update.options.foreach or not can_c:
            self._fall_back()

    def _take(self, engine: Callable[..., None]) -> None:
        self._launch, self.engine = partial(engine, self._formula), engine.__name__

    def _fall_back(self) -> None:
        self._take(loop if self._options.foreach is False else foreach)

    def _refuse(self, reason: object) -> NoReturn:
        raise RuntimeError(
            f"{self._formula.name}: fused=True cannot be had: {reason}; use foreach=True, or fused=None to let the "
            "optimizer choose"
        ) from None

    def run(self, columns: Columns, hypers: list[Any]) -> None:
        if self._items is not None:
            columns = [[column[item] for item in self._items] for column in columns]
        if self._is_complex:  # as pairs of real numbers, like torch
            columns = [[_as_real(tensor) for tensor in column] for column in columns]
        if self.engine != "c":
            _refuse_sparse(self._formula.name, columns[1])
        try:
            self._launch(columns, hypers)
        except EngineUnavailable as reason:
            if self._options.fused:
                self._refuse(reason)
            self._fall_back()
            note_fallback(str(reason), self.engine)
            self._launch(columns, hypers)
        except RuntimeError:
            _refuse_sparse(self._formula.name, columns[1])  # the C engine found no strides
            raise


def _refuse_sparse(name: str, grads: list[Tensor]) -> None:
    if any(g.layout != torch.strided for g in grads):
        raise RuntimeError(f"{name} does not support sparse gradients")


def _as_real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
