"""Loading a state_dict: what belongs to which parameter, and whether it fits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable
from copy import deepcopy
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from .plan import is_sharded, redistributed
from .rule import COMPENSATION, OPTIONS, STEP, Buffer, Group, Rule


def fitted(
    name: str,
    saved: Group,
    groups: list[Group],
    rule_of: Callable[[Group], Rule],
    own: dict[str, Buffer],
    others: Iterable[Rule],
) -> Group:
    """The state and the groups of a saved optimizer, for an optimizer of this name with these groups.

    `own` are the buffers that an optimizer of this name may have, by their keys; `others` the rules of all classes;
    `rule_of` finds the rule of a group. Raises ValueError where it does not fit.
    """
    news = deepcopy(saved["param_groups"])
    if len(groups) != len(news):
        raise ValueError("loaded state dict has a different number of parameter groups")
    if any(len(group["params"]) != len(new["params"]) for group, new in zip(groups, news, strict=True)):
        raise ValueError(
            "loaded state dict contains a parameter group that doesn't match the size of optimizer's group"
        )
    state: defaultdict[Any, Group] = defaultdict(dict)
    state |= saved["state"]
    for group, new in zip(groups, news, strict=True):
        rule = _rule(name, group, new, rule_of)
        if "decoupled_weight_decay" in group:  # whether it is Adam or AdamW is not for the state_dict to say
            new["decoupled_weight_decay"] = group["decoupled_weight_decay"]
        else:
            new.pop("decoupled_weight_decay", None)
        for key in ("fused", "kahan", *rule.starts):
            if key in group:
                new.setdefault(key, group[key])  # what torch's class does not have, its state_dict does not switch off
        # Beside the optimizer's own entries may be anything, but not the state of a rule that is more than this one.
        of_others = {
            buffer.key
            for other in others
            if set(rule.group_numbers) < set(other.group_numbers) <= new.keys()
            for buffer in other.buffers
        }.difference(own)
        for p, number, label in _pairs(name, group, new):
            if number in state:
                state[p] = _entries(f"{name}: {label}", p, state.pop(number), new, rule, own, of_others)
        new["params"] = group["params"]
        if "param_names" in group:
            new["param_names"] = group["param_names"]
    return {"state": state, "param_groups": news}


def _rule(name: str, group: Group, new: Group, rule_of: Callable[[Group], Rule]) -> Rule:
    """The rule that the saved group asks for, which must be the one that this group asks for."""
    saved, form = (g.get("form", OPTIONS["form"]) for g in (new, group))
    if saved != form:
        raise ValueError(f"{name}: the state_dict has form={saved!r}, the optimizer form={form!r}; make both alike")
    rule = rule_of(group)
    switches = {buffer.when for buffer in rule.buffers}
    if missing := sorted(set(rule.group_numbers).difference(switches, new)):
        raise ValueError(
            f"{name}: the state_dict is of another optimizer: its groups have no {', '.join(missing)}, "
            f"but {', '.join(key for key in new if key != 'params')}"
        )
    return rule


def _pairs(name: str, group: Group, new: Group) -> list[tuple[Tensor, Hashable, str]]:
    """Parameters, their numbers in the saved group, and what to call them; by their names if both sides have some."""
    params, numbers = group["params"], new["params"]
    labels = [f"parameter {number}" for number in numbers]
    if "param_names" in group and "param_names" in new:
        number_of = dict(zip(new["param_names"], numbers, strict=True))
        names = group["param_names"]
        if set(names) != set(number_of):
            absent, unknown = sorted(set(names).difference(number_of)), sorted(set(number_of).difference(names))
            raise ValueError(
                f"{name}: the state_dict has parameters of other names: {', '.join(unknown)} in place of "
                f"{', '.join(absent)}; rename them in a load_state_dict pre-hook, or make the optimizer without names"
            )
        numbers, labels = [number_of[name] for name in names], [f"parameter {name!r}" for name in names]
    return list(zip(params, numbers, labels, strict=True))


def _entries(
    who: str, p: Tensor, entries: Group, group: Group, rule: Rule, own: dict[str, Buffer], of_others: Collection[str]
) -> Group:
    """The saved state of a parameter, on its device; the optimizer's own arrays with its dtype."""
    is_missing = any(buffer.when is None and buffer.key not in entries for buffer in rule.buffers)
    if (is_missing and not own.keys().isdisjoint(entries)) or not entries.keys().isdisjoint(of_others):
        expected = ", ".join(key for key in own if key != COMPENSATION.key)
        raise ValueError(
            f"{who} has the state of another optimizer: {', '.join(map(str, entries))}; expected were {expected}"
        )
    cast = {}
    for key, value in entries.items():
        if key not in own:
            cast[key] = tree_map_only(Tensor, lambda tensor: tensor.to(p.device), value)
            continue
        shape = () if own[key].scalar else tuple(p.shape)
        if isinstance(value, Tensor):
            if tuple(value.shape) != shape:
                raise ValueError(f"{who}: {key} must have shape {shape}, got {tuple(value.shape)}")
        elif value is not None and not (own[key].scalar and isinstance(value, Real)):
            raise ValueError(f"{who}: {key} must be a tensor of shape {shape}, got {value!r}")
        if isinstance(value, Tensor) and not own[key].scalar and is_sharded(value) != is_sharded(p):
            raise ValueError(
                f"{who}: {key} must be a {type(p.data).__name__}, as the parameter is, got a {type(value).__name__}; "
                "use torch.distributed.checkpoint.state_dict.set_optimizer_state_dict"
            )
        cast[key] = _cast(p, value, group, own[key])
    return cast


def _cast(p: Tensor, value: Any, group: Group, buffer: Buffer) -> Any:
    if not isinstance(value, Tensor):  # None, or a scalar from before scalars were tensors
        return value
    if buffer.scalar:  # stays as precise as it is, and on the CPU unless a device works with it
        on_device = group.get("capturable") or group.get("fused")
        return value.to(p.device, torch.float32 if buffer == STEP else value.dtype) if on_device else value
    if is_sharded(p):
        value = redistributed(value, p)
    value = value.to_dense() if value.is_sparse else value  # torch's SGD keeps a sparse first gradient
    return value.to(device=p.device, dtype=p.dtype if p.is_floating_point() else value.dtype)
