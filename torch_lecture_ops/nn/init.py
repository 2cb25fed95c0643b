"""Weight initialization: Glorot (Xavier) and He, with the gains of the notes.

"Try not to saturate your neurons right away": draw the weights of z = W a so that the variance of the signal stays
the same from layer to layer, forward for the activations and backward for the sensitivities:

    Var[w_ij] = gain² · 1/n_in                forward:  every z_i is a sum over n_in inputs
    Var[w_ij] = gain² · 1/n_out               backward: every v_j is a sum over n_out sensitivities
    Var[w_ij] = gain² · 2/(n_in + n_out)      average:  the compromise

    normal:   w_ij ~ N(0, σ²),  σ = √Var[w_ij]
    uniform:  w_ij ~ U[−b, b],  b = √3 · σ  = gain · √(6/(n_in + n_out)) for the average

Sources: Larson, Machine Learning in Python, 'Neural Network Optimization and Activation', slides 'Glorot Weight
Initialization', 'Glorot and He Initialization' and 'Activations Summary'; 'Optimization' (after Katanforoosh and
Kunin), slide 'Xavier Initialization' (1/n_in); Glorot and Bengio, 'Understanding the difficulty of training deep
feedforward neural networks' (2010); He et al., 'Delving Deep into Rectifiers' (2015).

Reading the slides: where they print N(0, 4·√(1/n)), the second argument is a standard deviation. Their ReLU row takes
√2 with the average of the fans, `glorot_*_(w, "relu")`; He's paper and torch take √2 with n_in alone, `he_*_(w)`.
"""

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["gain", "glorot_uniform_", "glorot_normal_", "he_uniform_", "he_normal_", "initialize"]

Activation = str | Callable[[Tensor], Tensor]

# Slide 'Glorot and He Initialization'.
GAINS = {"linear": 1.0, "tanh": 1.0, "sigmoid": 4.0, "relu": math.sqrt(2.0), "silu": math.sqrt(2.0)}


def gain(activation: Activation) -> float:
    """The factor by which an activation asks for larger weights.

    A name is looked up in the notes' table; for a function f it is solved from "unit variance in, unit power out":

        linear 1 · tanh 1 · sigmoid 4 · relu √2 · silu √2
        gain(f) = 1 / √E[f(z)²],  z ~ N(0, 1)

    The two answer different questions: the table linearizes around zero (tanh z ≈ z; σ has slope 1/4, hence 4), the
    expectation takes all of f. They agree for the identity and ReLU; gain("tanh") is 1, gain(torch.tanh) 1.5925.

    Source: slide 'Glorot and He Initialization' (table); He et al. 2015, section 2.2 (the expectation).
    Difference from torch: `calculate_gain` has tanh 5/3, sigmoid 1, no SiLU, and takes no functions.

    The expectation is a composite two-point Gauss rule on [−12, 12] in float64. Relative error: below 1e-12 if f is
    smooth or has its kinks and jumps at multiples of 1/1024, as torch's activations do; elsewhere a kink costs up to
    1e-7 and a jump up to 1e-3.

    Args:
        activation: a name of the table, or an elementwise function that takes and returns a float64 tensor

    Raises:
        ValueError: unknown name; f changes the shape; E[f(z)²] is zero or not finite

    >>> gain("sigmoid")
    4.0
    >>> round(gain(torch.nn.functional.elu), 4)
    1.2452
    """
    if not callable(activation):
        if activation in GAINS:
            return GAINS[activation]
        known = ", ".join(map(repr, GAINS))
        raise ValueError(f"gain: activation must be one of {known} or an elementwise function, got {activation!r}")

    # Two nodes of equal weight in each cell. None lies on a cell's edge, so kinks and jumps there cost no accuracy.
    h = 2.0**-10
    centre = torch.arange(-12.0, 12.0, h, dtype=torch.float64, device="cpu") + h / 2
    offset = h / math.sqrt(12.0)
    z = torch.cat((centre - offset, centre + offset))
    density = torch.exp(-z.square() / 2) / math.sqrt(2.0 * math.pi)
    with torch.no_grad():
        y = activation(z)
    if y.shape != z.shape:
        raise ValueError(f"gain: activation must keep the shape {tuple(z.shape)}, got {tuple(y.shape)}")
    power = (y.square() * density).sum().item() * h / 2
    if not 0.0 < power < math.inf:
        raise ValueError(f"gain: E[f(z)²] must be positive and finite, got {power}")
    return 1.0 / math.sqrt(power)


def glorot_uniform_(
    tensor: Tensor, activation: Activation = "tanh", mode: str = "average", generator: torch.Generator | None = None
) -> Tensor:
    """Fill a weight in place from Glorot's uniform distribution and return it.

        w_ij ~ U[−b, b],  b = gain(activation) · √(6/(n_in + n_out))

    Source: Larson, slides 'Glorot Weight Initialization' and 'Activations Summary' (uniform bounds).
    Difference from torch: `xavier_uniform_(w, gain)` gives the same numbers under the same generator, but takes the
    gain as a number and has no other mode.

    Args:
        tensor: weight of shape (n_out, n_in) or, for a convolution, (c_out, c_in, *k), where n_out = c_out · ∏k and
            n_in = c_in · ∏k
        activation: what follows the layer, as in `gain`
        mode: "average" 2/(n_in + n_out), "forward" 1/n_in or "backward" 1/n_out
        generator: source of random numbers; None for torch's global one

    Raises:
        ValueError: fewer than 2 dimensions; unknown mode or activation

    >>> w = glorot_uniform_(torch.empty(50, 100), "sigmoid")  # bound 4 · √(6/150)
    >>> bool(w.abs().max() <= 0.8)
    True
    """
    return _fill("glorot_uniform_", tensor, activation, mode, generator, uniform=True)


def glorot_normal_(
    tensor: Tensor, activation: Activation = "tanh", mode: str = "average", generator: torch.Generator | None = None
) -> Tensor:
    """Fill a weight in place from Glorot's normal distribution and return it.

        w_ij ~ N(0, σ²),  σ = gain(activation) · √(2/(n_in + n_out))

    Source: Larson, slides 'Glorot Weight Initialization' and 'Glorot and He Initialization'.
    Difference from torch: to `xavier_normal_` as `glorot_uniform_` is to `xavier_uniform_`.
    Arguments and errors as for `glorot_uniform_`.

    >>> w = glorot_normal_(torch.empty(200, 200), "sigmoid", mode="forward")  # σ = 4 · √(1/200)
    >>> bool(0.27 < w.std() < 0.30)
    True
    """
    return _fill("glorot_normal_", tensor, activation, mode, generator, uniform=False)


def he_uniform_(
    tensor: Tensor, activation: Activation = "relu", mode: str = "forward", generator: torch.Generator | None = None
) -> Tensor:
    """Fill a weight in place from He's uniform distribution and return it: `glorot_uniform_` with other defaults.

        w_ij ~ U[−b, b],  b = gain(activation) · √(3/n_in),  gain √2 for ReLU

    Source: He et al. 2015; the notes name it on 'Glorot and He Initialization' but print the average of the fans.
    Difference from torch: `kaiming_uniform_(w, nonlinearity="relu")` gives the same numbers under the same generator;
    its own default is a leaky ReLU of slope 0, its modes "fan_in" and "fan_out" are our "forward" and "backward".
    Arguments and errors as for `glorot_uniform_`.

    >>> w = he_uniform_(torch.empty(10, 600))  # bound √2 · √(3/600)
    >>> bool(w.abs().max() <= 0.1)
    True
    """
    return _fill("he_uniform_", tensor, activation, mode, generator, uniform=True)


def he_normal_(
    tensor: Tensor, activation: Activation = "relu", mode: str = "forward", generator: torch.Generator | None = None
) -> Tensor:
    """Fill a weight in place from He's normal distribution and return it: `glorot_normal_` with other defaults.

        w_ij ~ N(0, σ²),  σ = gain(activation) · √(1/n_in),  gain √2 for ReLU

    Source and difference from torch (`kaiming_normal_`) as for `he_uniform_`, arguments and errors as for
    `glorot_uniform_`.

    >>> w = he_normal_(torch.empty(200, 200))  # σ = √(2/200)
    >>> bool(0.095 < w.std() < 0.105)
    True
    """
    return _fill("he_normal_", tensor, activation, mode, generator, uniform=False)


SCHEMES = {
    "glorot_uniform": glorot_uniform_,
    "glorot_normal": glorot_normal_,
    "he_uniform": he_uniform_,
    "he_normal": he_normal_,
}


def initialize(
    model: nn.Module, activation: Activation = "auto", scheme: str = "auto", generator: torch.Generator | None = None
) -> nn.Module:
    """Initialize every `nn.Linear` of a model in place, weights by `scheme` and biases to zero, and return the model.

    Source: Larson, slides 'Glorot and He Initialization' and 'Activations Summary'; zero biases are assumption 1
    of the slide 'Xavier Initialization'. All other parameters keep their values.
    Difference from torch: `nn.Linear` draws weights and biases from U[−1/√n_in, 1/√n_in] whatever follows it.

    Args:
        model: a module with at least one `nn.Linear`
        activation: what follows every Linear, as in `gain`. "auto" looks for it: the first module of the notes' table
            (ReLU, SiLU, Sigmoid, Tanh, by class name) after the Linear and before the next one, "linear" if there is
            none. The order is that of registration, so name the activation of a model that applies it in `forward`.
        scheme: "glorot_uniform", "glorot_normal", "he_uniform", "he_normal", each in its default mode, or "auto":
            "he_normal" for "relu" and "silu", "glorot_uniform" otherwise
        generator: source of random numbers; None for torch's global one

    Raises:
        ValueError: no Linear in the model; a LazyLinear that has no shape yet, a parametrized or pruned Linear; unknown
            activation or scheme. The model is then unchanged.

    >>> model = nn.Sequential(nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
    >>> model = initialize(model)  # he_normal, σ = √(2/784); then glorot_uniform, bound √(6/42)
    >>> bool(model[2].weight.abs().max() <= 0.378), model[2].bias.sum().item()
    (True, 0.0)
    """
    if scheme != "auto" and scheme not in SCHEMES:
        raise ValueError(f"initialize: scheme must be 'auto', {', '.join(map(repr, SCHEMES))}, got {scheme!r}")
    if activation != "auto":
        gain(activation)  # complains before anything is written

    follows: dict[nn.Linear, Activation] = {}
    last = None
    # With duplicates, since one ReLU object may serve many layers.
    for name, module in model.named_modules(remove_duplicate=False):
        kind = type(module).__name__.lower()
        if isinstance(module, nn.Linear):
            w = module.weight
            # The weight of a parametrized or pruned layer is computed anew at each use: filling it would be lost.
            if not isinstance(w, nn.Parameter) or isinstance(w, nn.parameter.UninitializedParameter):
                raise ValueError(
                    f"initialize: the weight of every Linear must be a Parameter with a shape, got {type(w).__name__} "
                    f"in {name!r}; run a lazy model once before, parametrize or prune it after"
                )
            last = None if module in follows else module
            follows.setdefault(module, "linear" if activation == "auto" else activation)
        elif last is not None and activation == "auto" and kind in GAINS:
            follows[last] = kind
            last = None
    if not follows:
        raise ValueError(f"initialize: the model must contain an nn.Linear, got {type(model).__name__} without one")

    for linear, f in follows.items():
        auto = "he_normal" if f in ("relu", "silu") else "glorot_uniform"
        SCHEMES[auto if scheme == "auto" else scheme](linear.weight, f, generator=generator)
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)
    return model


def _fans(who: str, tensor: Tensor) -> tuple[int, int]:
    """(n_in, n_out) of a weight (n_out, n_in, *k): every entry of the kernel is one more connection."""
    if tensor.dim() < 2:
        raise ValueError(
            f"{who}: Fan in and fan out can not be computed for tensor with fewer than 2 dimensions, "
            f"got shape {tuple(tensor.shape)}"
        )
    kernel = math.prod(tensor.shape[2:])
    return tensor.shape[1] * kernel, tensor.shape[0] * kernel


def _fill(
    who: str, tensor: Tensor, activation: Activation, mode: str, generator: torch.Generator | None, *, uniform: bool
) -> Tensor:
    """Draw the weights: the formulas at the head of this file."""
    if mode not in ("average", "forward", "backward"):
        raise ValueError(f"{who}: mode must be 'average', 'forward' or 'backward', got {mode!r}")
    n_in, n_out = _fans(who, tensor)
    g = gain(activation)
    if tensor.numel() == 0:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
        return tensor
    # Rounded as torch does, so that the numbers are torch's to the last bit: times √(2/(n + m)), but over √n.
    if mode == "average":
        std = g * math.sqrt(2.0 / (n_in + n_out))
    else:
        std = g / math.sqrt(n_in if mode == "forward" else n_out)
    with torch.no_grad():
        if uniform:
            bound = math.sqrt(3.0) * std
            return tensor.uniform_(-bound, bound, generator=generator)
        return tensor.normal_(0.0, std, generator=generator)
