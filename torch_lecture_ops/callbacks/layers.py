"""Which modules of a network are layers, what weights they compute with, and the names of modules and parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrize import ParametrizationList

# The names that torch.compile, FSDP and activation checkpointing give to the module that they wrap.
WRAPPED = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
NORMALIZATIONS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, _NormBase)
# They hold modules which they never call, and compute with the weights of these themselves.
COMPUTES_FOR_CHILDREN = (nn.MultiheadAttention,)


@dataclass(frozen=True)
class Layer:
    """A module that computes with weights of two or more dimensions, and is no normalization."""

    path: str  # empty for the network itself
    module: nn.Module
    weights: list[nn.Parameter]

    @property
    def name(self) -> str:
        return self.path or type(self.module).__name__


def layers(network: nn.Module) -> list[Layer]:
    """The layers of a network, in its order; a weight of several layers is in each of them.

    >>> parametrized = nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))
    >>> for layer in layers(nn.Sequential(parametrized, nn.LayerNorm((4, 3)), nn.LSTM(3, 5))):
    ...     print(layer.path, type(layer.module).__name__, [tuple(w.shape) for w in layer.weights])
    0 ParametrizedLinear [(3, 1), (3, 2)]
    2 LSTM [(20, 3), (20, 5)]
    """
    found: dict[nn.Module, Layer] = {}
    for path, module, computing in members(network):
        if module is computing:
            found[module] = Layer(path, module, [])
        found[computing].weights.extend(
            p
            for p in module.parameters(recurse=False)
            if isinstance(p, nn.UninitializedParameter) or p.dim() > 1  # of a lazy layer, not known yet
        )
    return [layer for layer in found.values() if layer.weights and not isinstance(layer.module, NORMALIZATIONS)]


def named_parameters(network: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Each parameter once, as `network.named_parameters()`, but under the names of the modules that compute: that of
    `0.parametrizations.weight.original` is `0.weight.original`.
    """
    seen = set()
    for path, module, _ in members(network):
        for name, p in module.named_parameters(recurse=False):
            if id(p) not in seen:
                seen.add(id(p))
                yield f"{path}.{name}" if path else name, p


def members(network: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Module]]:
    """Each module once, in the order of `network.modules()`: path, module, and the module that computes with its
    parameters, which is another one in a parametrization. Wrappers and parametrizations have no part in the path.
    """
    seen = set()

    def walk(path: str, module: nn.Module, computing: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Module]]:
        if module in seen:
            return
        seen.add(module)
        yield path, module, computing
        for name, child in module.named_children():
            is_parametrization = name == "parametrizations" and any(
                isinstance(part, ParametrizationList) for part in child.children()
            )
            is_wrapped = name in WRAPPED or isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel))
            is_for_another = module is not computing or is_parametrization or isinstance(module, COMPUTES_FOR_CHILDREN)
            child_path = path if is_parametrization or is_wrapped else f"{path}.{name}" if path else name
            yield from walk(child_path, child, computing if is_for_another else child)

    return walk("", network, network)


def numbered(name: str, count: int) -> str:
    """The name of the first, second, ... of several that would have the same: `act`, `act(2)`, ..."""
    return name if count == 1 else f"{name}({count})"


def innermost(paths: Mapping[str, str]) -> list[str]:
    """The names of the layers, given with their paths, that hold none of the other layers.

    >>> innermost({"encoder": "encoder", "encoder.0": "encoder.0", "encoder.0(2)": "encoder.0", "head": "head"})
    ['encoder.0', 'encoder.0(2)', 'head']
    """
    around = {path[:end] for path in paths.values() for end, letter in enumerate(path) if letter == "."}
    if any(paths.values()):
        around.add("")  # the network itself
    return [name for name, path in paths.items() if path not in around]
