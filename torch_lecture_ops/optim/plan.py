"""Which engine updates which parameters: found out once, and again when something changes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ..formula import COMPILED, PLAIN, Alike, EngineUnavailable, Formula, Untraceable, foreach, loop, note_fallback
from .rule import Update

Columns = list[list[Tensor]]
Sparse = Literal["rows", "dense"]


class Plan:
    """How to update these parameters of a group, as long as `fits` says so. Keeps no tensor alive."""

    def __init__(self, update: Update, columns: Columns, sparse: Sparse) -> None:
        params, grads, *states = columns
        self._update, self.count, self._known = update, len(params), False
        self._looks, self._alike = list(map(_look, grads)), Alike(grads).check
        self._others = [Alike(column).check for column in (params, *states)]
        together = defaultdict(list)  # an engine takes in one call what is alike
        for item, (p, g, *state) in enumerate(zip(*columns, strict=True)):
            kinds = tuple((tensor.dtype, tensor.device) for tensor in state)
            together[type(p), p.device, p.dtype, _look(g), kinds].append(item)
        self._buckets = [
            _Bucket(update, params[items[0]], grads[items[0]], sparse, None if len(together) == 1 else items)
            for items in together.values()
        ]

    @property
    def engines(self) -> set[str]:
        """The engines that run."""
        return {bucket.engine for bucket in self._buckets}

    def fits(self, update: Update, columns: Columns) -> bool:
        """Whether the plan holds for this step too: for the same formula and tensors that look the same."""
        params, grads, *states = columns
        if update is not self._update or len(params) != self.count:
            return False
        try:
            for check, column in zip(self._others, (params, *states), strict=True):
                if not check(*column):
                    return False
            self._known = self._alike(*grads)
        except TypeError:  # something is no tensor
            return False
        if not self._known:
            if list(map(_look, grads)) != self._looks:
                return False
            self._alike = Alike(grads).check
        return True

    def run(self, columns: Columns, hypers: list[Any]) -> None:
        """Update the parameters and their state."""
        for bucket in self._buckets:
            bucket.run(columns, hypers, self._known)


def _look(g: Tensor | None) -> Any:
    return None if g is None else (type(g), g.dtype, g.layout, g.device)


class _Bucket:
    """Parameters of a group that one engine updates in one call; `items` tells which, None: all."""

    def __init__(self, update: Update, p: Tensor, g: Tensor, sparse: Sparse, items: list[int] | None) -> None:
        self._formula, self._options, self._items = update.formula, update.options, items
        self._is_sharded = is_sharded(p)
        self._is_sparse = g.layout != torch.strided
        rows = sparse == "rows" or (not update.buffers and update.decay == "none")
        self._by_rows = self._is_sparse and rows and p.dim() > 0
        self._is_complex = p.is_complex() and not self._by_rows
        self._launch: Callable[..., None]
        self._is_compiled = False
        compiled = COMPILED.get(p.device.type)
        plain = compiled is not None and (self._is_sharded or (type(p) in PLAIN and type(g) in PLAIN))
        if self._by_rows:
            if update.options.fused:
                self._refuse("a gradient is sparse")
            if update.decay == "coupled":
                raise RuntimeError("weight_decay option is not compatible with sparse gradients")
            self._take(foreach if update.options.foreach else loop)
            self._launch = partial(_on_rows, self._launch, self._formula)
        elif update.options.differentiable:
            self._take(loop)
        elif update.options.fused and not plain:
            self._refuse(f"parameters and gradients must be plain tensors on a device of {', '.join(COMPILED)}")
        elif update.options.fused is False or update.options.foreach or compiled is None or not plain:
            self._fall_back()
        else:
            self._launch, self.engine, self._is_compiled = compiled.launch(update.formula, (1,)), compiled.name, True

    def _take(self, engine: Callable[..., None]) -> None:
        self._launch, self.engine, self._is_compiled = partial(engine, self._formula), engine.__name__, False

    def _fall_back(self) -> None:
        self._take(loop if self._options.foreach is False else foreach)

    def _refuse(self, reason: object) -> NoReturn:
        raise RuntimeError(
            f"{self._formula.name}: fused=True cannot be had: {reason}; use foreach=True, or fused=None to let the "
            "optimizer choose"
        ) from None

    def run(self, columns: Columns, hypers: list[Any], alike: bool) -> None:
        """Update the parameters and their state; `alike`: all tensors look as they did at the call before."""
        if self._items is not None:
            columns = [[column[item] for item in self._items] for column in columns]
        if not (self._is_sharded or self._is_sparse or self._is_complex):
            self._call(columns, hypers, alike)
            return
        whole = columns
        if self._is_sharded:
            columns = [shards(column, columns[0]) for column in columns]
        if self._is_sparse and not self._by_rows:
            columns = [column if k != 1 else [g.to_dense() for g in column] for k, column in enumerate(columns)]
        if self._is_complex:  # as pairs of real numbers, like torch
            columns = [list(map(_as_real, column)) for column in columns]
        self._call(columns, hypers, False)
        if self._is_sharded and not torch.is_grad_enabled():  # a shard does not tell the whole that it was written
            increment_version([tensor for k in self._formula.written for tensor in whole[k] if is_sharded(tensor)])

    def _call(self, columns: Columns, hypers: list[Any], alike: bool) -> None:
        if not self._is_compiled:
            self._launch(columns, hypers)
            return
        try:
            self._launch(columns, hypers, alike)
        except Untraceable as error:
            raise Untraceable(f"{error}; with foreach=False and fused=False it runs on tensors, as it stands") from None
        except EngineUnavailable as reason:
            if self._options.fused:
                self._refuse(reason)
            self._fall_back()
            note_fallback(str(reason), self.engine)
            self._launch(columns, hypers)


def _on_rows(engine: Callable[..., None], formula: Formula, columns: Columns, hypers: list[Any]) -> None:
    """An engine on what sparse gradients name: the entries of the parameter and of its state at their indices."""
    grads = [g.to_sparse().coalesce() for g in columns[1]]
    places = [tuple(g.indices()) for g in grads]

    def gathered(k: int) -> list[Tensor]:
        if k == 1:
            return [g.values() for g in grads]
        if formula.kind(k) == "scalar":
            return columns[k]
        return [tensor[place] for tensor, place in zip(columns[k], places, strict=True)]

    rows = list(map(gathered, range(len(columns))))
    engine([list(map(_as_real, column)) for column in rows], hypers)
    for k in formula.written:
        if formula.kind(k) == "array":
            for tensor, place, row in zip(columns[k], places, rows[k], strict=True):
                tensor[place] = row


def _as_real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor. (The module that defines them takes its time to import.)"""
    return type(tensor) not in PLAIN and hasattr(tensor, "to_local") and hasattr(tensor, "placements")


def shards(column: list[Any], params: list[Any]) -> list[Tensor]:
    """What lies on this process, distributed as the parameters are."""
    return [
        _shard(redistributed(tensor, p)) if is_sharded(tensor) else tensor
        for tensor, p in zip(column, params, strict=True)
    ]


def redistributed(tensor: Any, p: Any) -> Any:
    """A DTensor, distributed as another one is."""
    alike = tensor is p or (tensor.placements == p.placements and tensor.device_mesh == p.device_mesh)
    return tensor if alike else tensor.redistribute(p.device_mesh, p.placements)


def _shard(tensor: Any) -> Tensor:
    local = tensor.to_local()
    return local.wait() if hasattr(local, "wait") else local  # of a collective that still runs
