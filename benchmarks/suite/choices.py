"""What can be compared, as it is written on the command line, and how each choice is built.

How a choice is written: see `torch_lecture_ops.pictures.choices`; also `elu:alpha=0.5`. Schedules go together with "+":
`inverse:k=0.1+annealing:steps=20`. Their t counts epochs, or batches with per=batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import torch_lecture_ops.nn
import torch_lecture_ops.optim
from torch_lecture_ops.nn import init
from torch_lecture_ops.pictures.choices import OPTIMIZERS, SCHEDULES, parse

from .softsign import Softsign

LIBRARIES = ("ours", "torch")
OPTIM = {"ours": torch_lecture_ops.optim, "torch": torch.optim}
NN = {"ours": torch_lecture_ops.nn, "torch": torch.nn}


# ---------------------------------------------------------------- optimizers

# Where the class's own default does not suit the network of the main job; torch's RMSprop has lr 0.01.
SETTINGS: dict[str, dict[str, float]] = {
    "sgd": dict(lr=0.1, momentum=0.9),
    "nesterov": dict(lr=0.1, momentum=0.9),
    "rmsprop": dict(lr=1e-3),
}


def build_optimizer(
    parameters: Iterable[Tensor], text: str, library: str = "ours", lr: float | None = None
) -> torch.optim.Optimizer:
    """The library's class with the settings above, overridden by those of the choice, and those by `lr`."""
    name, settings = parse(text)
    class_name = OPTIMIZERS[name].__name__
    cls = getattr(OPTIM[library], class_name, None)
    if cls is None:
        raise ValueError(f"torch has no {class_name}")
    if library == "torch" and "form" in settings:
        raise ValueError(f"torch has no form {settings['form']} of {class_name}")
    return cls(parameters, **SETTINGS.get(name, {}) | settings | ({} if lr is None else dict(lr=lr)))


# ---------------------------------------------------------------- activations and initialization


class Activation(NamedTuple):
    """An activation: its class, and what `nn.init` calls it."""

    name: str
    gain: str | Callable[[Tensor], Tensor]
    parameter: str = ""  # the keyword of the class that the gain depends on


ACTIVATIONS = {
    "relu": Activation("ReLU", "relu"),
    "sigmoid": Activation("Sigmoid", "sigmoid"),
    "tanh": Activation("Tanh", "tanh"),
    "silu": Activation("SiLU", "silu"),
    "elu": Activation("ELU", "elu", "alpha"),
    "leakyrelu": Activation("LeakyReLU", "leaky_relu", "negative_slope"),
    "prelu": Activation("PReLU", "prelu", "init"),
    "softsign": Activation("Softsign", nn.functional.softsign),
    "maxout": Activation("Maxout", "maxout", "pieces"),
}


def lecun_normal_(weight: Tensor, activation: Any, *, generator: torch.Generator, param: Any = None) -> Tensor:
    """N(0, 1/n_in), cut off at two standard deviations and widened to have this variance again: JAX's default."""
    std = weight.shape[1] ** -0.5 / 0.87962566103423978
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std, generator=generator)


def standard_(weight: Tensor, activation: Any, *, generator: torch.Generator, param: Any = None) -> Tensor:
    """U[-1/√n_in, 1/√n_in], "the commonly used heuristic" of Glorot and Bengio 2010, equation 1."""
    return uniform_(weight, activation, generator=generator, bound=weight.shape[1] ** -0.5)


def normalized_(weight: Tensor, activation: Any, *, generator: torch.Generator, param: Any = None) -> Tensor:
    """U[-√6/√(n_in + n_out), the same], equation 16 of the same paper: whatever the activation is."""
    return init.glorot_uniform_(weight, "linear", generator=generator)


def uniform_(
    weight: Tensor, activation: Any, *, generator: torch.Generator, param: Any = None, bound: float = 1.0
) -> Tensor:
    """U[-bound, bound]."""
    return nn.init.uniform_(weight, -bound, bound, generator=generator)


INITS = {
    "glorot_uniform": init.glorot_uniform_,
    "glorot_normal": init.glorot_normal_,
    "he_uniform": init.he_uniform_,
    "he_normal": init.he_normal_,
    "lecun_normal": lecun_normal_,
    "standard": standard_,
    "normalized": normalized_,
    "uniform": uniform_,
}


def build_layer(n_in: int, n_out: int, text: str, library: str) -> tuple[nn.Module, nn.Linear]:
    """Linear and activation, or maxout, which is both; and the Linear in it."""
    name, settings = parse(text)
    known = ACTIVATIONS[name]
    if known.name == "Maxout":
        if library == "torch":
            raise ValueError("torch has no Maxout")
        maxout = torch_lecture_ops.nn.Maxout(n_in, n_out, **settings)
        return maxout, maxout.linear
    own = library == "ours" and known.name == "Softsign"
    activation = (Softsign if own else getattr(NN[library], known.name))(**settings)
    linear = nn.Linear(n_in, n_out)
    return nn.Sequential(linear, activation), linear


def fill(linear: nn.Linear, text: str, activation: str, generator: torch.Generator) -> None:
    """Weights as chosen, with the gain of the activation where the choice has one; biases zero."""
    name, settings = parse(text)
    known, chosen = ACTIVATIONS[parse(activation).name], parse(activation).settings
    parameter = chosen.get(known.parameter)
    INITS[name](linear.weight, known.gain, generator=generator, param=parameter, **settings)
    nn.init.zeros_(linear.bias)


# ---------------------------------------------------------------- losses


Loss = Callable[[Tensor, Tensor], Tensor]  # of outputs and labels


def one_hot(labels: Tensor, like: Tensor) -> Tensor:
    return nn.functional.one_hot(labels, like.shape[1]).to(like.dtype)


# Of the outputs z of the last layer, before any function.
LOSSES: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    # softmax outputs
    "cross_entropy": lambda f, z, labels: f.cross_entropy(z, labels),
    # sigmoid outputs, as in the notes
    "binary": lambda f, z, labels: f.binary_cross_entropy_with_logits(z, one_hot(labels, z)),
    "quadratic": lambda f, z, labels: f.mse_loss(f.sigmoid(z), one_hot(labels, z)),
}


def loss_function(name: str, library: str) -> Loss:
    function, functional = LOSSES[name], NN[library].functional
    return lambda z, labels: function(functional, z, labels)


# ---------------------------------------------------------------- schedules


def build_schedules(optimizer: torch.optim.Optimizer, text: str) -> list[dict[str, Any]]:
    """As Lightning takes them."""
    schedules = []
    for name, settings in map(parse, text.split("+")):
        cls, defaults = SCHEDULES[name]
        per = settings.pop("per", "epoch")
        if per not in ("epoch", "batch"):
            raise ValueError(f"per must be epoch or batch, got {per!r}")
        if cls:
            interval = "step" if per == "batch" else "epoch"
            schedules.append({"scheduler": cls(optimizer, **defaults | settings), "interval": interval})
        elif settings:
            raise ValueError(f"no schedule has no settings, got {text!r}")
    return schedules


def first_change(text: str, optimizer: str, lr: float, most: int) -> int | None:
    """After how many of its steps a schedule first changes what the optimizer would do without it; None: none of most.

    For one schedule, not several with "+".
    """
    made = build_optimizer([torch.zeros(1)], optimizer, lr=lr)

    def numbers() -> list[Any]:
        return [made.param_groups[0].get(key) for key in ("lr", "momentum", "betas")]

    before = numbers()
    (entry,) = build_schedules(made, text)
    for step in range(most + 1):
        if numbers() != before:
            return step
        made.step()
        entry["scheduler"].step()
    return None


# ---------------------------------------------------------------- checks


def available(kind: str, libraries: Iterable[str]) -> list[str]:
    """The names of this kind that all these libraries have."""
    if kind == "optimizer":
        return [name for name, cls in OPTIMIZERS.items() if all(hasattr(OPTIM[one], cls.__name__) for one in libraries)]
    if kind == "activation":
        own = {"ours": {"Softsign"}, "torch": set()}
        return [
            name
            for name, known in ACTIVATIONS.items()
            if all(hasattr(NN[one], known.name) or known.name in own[one] for one in libraries)
        ]
    return list(KNOWN[kind])


def checked(kind: str, libraries: Iterable[str]) -> Callable[[str], str]:
    """A known choice that can be built, in the form of `Choice.__str__`; else ValueError, with what libraries have."""

    def check(text: str) -> str:
        parts = [parse(part) for part in (text.split("+") if kind == "schedule" else [text])]
        for part in parts:
            if part.name not in KNOWN[kind]:
                raise ValueError(f"unknown {part.name!r}, choose from {', '.join(available(kind, libraries))}")
        text = "+".join(map(str, parts))
        try:
            TRIALS[kind](text)
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(f"{text!r}: {error}") from None
        return text

    return check


def try_init(text: str) -> None:
    fill(nn.Linear(2, 2), text, "relu", torch.Generator())


def try_schedule(text: str) -> None:
    build_schedules(torch.optim.SGD([torch.zeros(1)], lr=0.5, momentum=0.5), text)


TRIALS: dict[str, Callable[[str], object]] = {
    "optimizer": lambda text: build_optimizer([torch.zeros(1)], text),
    "activation": lambda text: build_layer(2, 2, text, "ours"),
    "init": try_init,
    "schedule": try_schedule,
    "loss": lambda text: LOSSES[text],
}
KNOWN = {
    "optimizer": OPTIMIZERS,
    "activation": ACTIVATIONS,
    "init": INITS,
    "schedule": SCHEDULES,
    "loss": LOSSES,
}

def label(kind: str, text: str) -> str:
    """As in tables: the class's name, then the settings."""
    choice = parse(text)
    shown = {
        "optimizer": {name: cls.__name__ for name, cls in OPTIMIZERS.items()},
        "activation": {name: known.name for name, known in ACTIVATIONS.items()},
    }
    words = [shown.get(kind, {}).get(choice.name, choice.name), *choice.words()]
    return " ".join(words) if "+" not in text else text


def initial_lr(optimizer: str, lr: float | None) -> float:
    """What the choice begins with where `lr` does not say."""
    return build_optimizer([torch.zeros(1)], optimizer, lr=lr).param_groups[0]["lr"]
