"""The activations of an existing model, exchanged for those of the notes."""

from __future__ import annotations

from torch import nn

from . import modules

__all__ = ["replace_activations"]

# torch's class: ours of the same name.
OURS = {getattr(nn, name): getattr(modules, name) for name in modules.__all__ if hasattr(nn, name)}


def replace_activations(module: nn.Module) -> nn.Module:
    """Turn torch's activation modules in a model into ours of the same name, in place, and return the model.

    Every object stays the one it was and changes only its class, as under `torch.nn.utils.parametrize`; it is then no
    `torch.nn.ReLU` any more for `isinstance`. All that it holds is kept: parameters (optimizers stay valid), buffers,
    hooks, options, training mode, attributes. All that hold it see the change: the places that share it, compiled
    models, which compile anew (under torch 2.11 after `torch.compiler.reset()`), and other models that share it, say by
    a default argument `act=nn.ReLU()`; to spare those, replace in a `copy.deepcopy`. A `module` that is an activation
    itself is changed and returned likewise.

    Left as they are:
        - activations called as functions in `forward`, such as `F.relu(x)` or the `activation=F.relu` that
          `nn.TransformerEncoderLayer` has by default: they are no modules
        - modules that the model has not registered, for example in a plain list
        - subclasses of torch's activations, which may compute something else; parametrized modules are such
        - scripted and traced modules, which are code that is compiled already; script or trace them before, not after
        - activations that the notes do not have, such as `nn.GELU`

    Arguments:
        module: a model, or any other module.

    Raises:
        TypeError: not a module.

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
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"replace_activations: module must be a torch.nn.Module, got an object of type {type(module).__name__}; "
            "pass the model, for several nn.ModuleList(models)"
        )
    for m in module.modules():
        # The type itself, not isinstance: a subclass may have a forward of its own.
        if type(m) in OURS:
            # A new object with the old one's __dict__ would lose what refers to the old one, such as the
            # load_state_dict hooks, which hold their module weakly.
            m.__class__ = OURS[type(m)]
    return module
