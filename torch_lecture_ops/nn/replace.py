"""The activations of an existing model, exchanged for those of the notes and back."""

from __future__ import annotations

from torch import nn

from . import modules
from .functional import Saved, check_saves

__all__ = ["replace_activations", "restore_activations"]

# torch's class: ours of the same name, which derives from it.
OURS = {getattr(nn, name): getattr(modules, name) for name in modules.__all__ if hasattr(nn, name)}
TORCHS = {ours: torchs for torchs, ours in OURS.items()}

# Of those that can save their output, the number that must not be negative for it.
SAVE_OUTPUT = {nn.LeakyReLU: "negative_slope", nn.ELU: "alpha"}


def replace_activations(module: nn.Module, *, save: Saved = "input") -> nn.Module:
    """Turn torch's activation modules in a model into ours of the same name, in place, and return the model.

    Every object stays the one it was and changes only its class, as under `torch.nn.utils.parametrize`; for
    `isinstance` it still is a `torch.nn.ReLU`, from which ours derives. All that it holds is kept: parameters
    (optimizers stay valid), buffers, hooks, options, training mode, attributes. All that hold it see the change: the
    places that share it, compiled models, which compile anew (under torch 2.11 after `torch.compiler.reset()`), and
    other models that share it, say by a default argument `act=nn.ReLU()`; to spare those, replace in a `copy.deepcopy`.
    A `module` that is an activation itself is changed and returned likewise.

    Tools that compare the exact type of a module take ours for unknown: captum's DeepLift,
    `torch.ao.quantization.fuse_modules`. `torch.fx` traces into ours, so that its nodes are functions, named `relu`,
    instead of modules. `torch.jit.script` cannot compile ours. `restore_activations` gives such tools torch's.

    Left as they are:
        - activations called as functions in `forward`, such as `F.relu(x)` or the `activation=F.relu` that
          `nn.TransformerEncoderLayer` has by default: they are no modules
        - modules that the model has not registered, for example in a plain list
        - subclasses of torch's activations, which may compute something else; parametrized modules are such
        - scripted and traced modules, which are code that is compiled already
        - activations that the notes do not have, such as `nn.GELU`

    Arguments:
        module: a model, or any other module.
        save: what LeakyReLU and ELU keep for backward: their "input", as torch's do, or their "output", which the next
            layer keeps anyway; see `torch_lecture_ops.nn.functional.elu` for its price.

    Raises:
        TypeError: not a module.
        ValueError: the output cannot be what is saved, for a negative slope or α. Nothing is changed then.

    >>> replace_activations(nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2), nn.Tanh()))
    Sequential(
      (0): Linear(in_features=3, out_features=4, bias=True)
      (1): ReLU(inplace=True)
      (2): Linear(in_features=4, out_features=2, bias=True)
      (3): Tanh()
    )
    >>> replace_activations(nn.SiLU()).__module__
    'torch_lecture_ops.nn.modules'
    """
    _check_module("replace_activations", module)
    # The type itself, not isinstance: a subclass may have a forward of its own.
    found = [m for m in module.modules() if type(m) in OURS]
    for m in found:
        name = SAVE_OUTPUT.get(type(m))
        check_saves(f"replace_activations: {m}", save, name or "", getattr(m, name) if name else 0.0)
    for m in found:
        # A new object with the old one's __dict__ would lose what refers to the old one, such as the
        # load_state_dict hooks, which hold their module weakly.
        if type(m) in SAVE_OUTPUT and save != "input":
            m.save = save  # type: ignore[assignment]
        m.__class__ = OURS[type(m)]
    return module


def restore_activations(module: nn.Module) -> nn.Module:
    """Turn our activation modules in a model into torch's of the same name, in place, and return the model.

    The inverse of `replace_activations`: for tools that compare exact types, for `torch.jit.script`, and to give a
    model to somebody without this package. Objects stay what they were and keep all that they hold. Left as they are:
    what torch does not have (`Affine`, `Maxout`), a `ReLU` with another subgradient than torch's 0, and subclasses.

    Arguments:
        module: a model, or any other module.

    Raises:
        TypeError: not a module.

    >>> type(restore_activations(replace_activations(nn.SiLU()))) is nn.SiLU
    True
    """
    _check_module("restore_activations", module)
    for m in module.modules():
        if type(m) in TORCHS and not getattr(m, "subgradient", 0.0):
            for only_ours in ("subgradient", "save"):
                vars(m).pop(only_ours, None)
            m.__class__ = TORCHS[type(m)]
    return module


def _check_module(who: str, module: nn.Module) -> None:
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"{who}: module must be a torch.nn.Module, got an object of type {type(module).__name__}; pass the model, "
            "for several nn.ModuleList(models)"
        )
