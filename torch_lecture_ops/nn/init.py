"""Weight initialization: Glorot (Xavier) and He, with the gains of the notes.

"Try not to saturate your neurons right away": draw the weights of z = W a so that the variance of the signal stays
the same from layer to layer, forward for the activations and backward for the sensitivities:

    Var[w_ij] = gain² · 1/n_in                forward:  every z_i is a sum over n_in inputs
    Var[w_ij] = gain² · 1/n_out               backward: every v_j is a sum over n_out sensitivities
    Var[w_ij] = gain² · 2/(n_in + n_out)      average:  the compromise

    normal:   w_ij ~ N(0, σ²),  σ = √Var[w_ij]
    uniform:  w_ij ~ U[−b, b],  b = √3 · σ  = gain · √(6/(n_in + n_out)) for the average

n_in and n_out count the connections of one output and of one input, the entries of a kernel included:

    Linear          weight (n_out, n_in)
    Conv            weight (c_out, c_in/groups, *k):   n_in = c_in/groups · ∏k,  n_out = c_out/groups · ∏k
    ConvTranspose   weight (c_in, c_out/groups, *k):   the same; a stride leaves out some of them and is not counted

Sources: Larson, Machine Learning in Python, 'Neural Network Optimization and Activation', slides 'Glorot Weight
Initialization', 'Glorot and He Initialization' and 'Activations Summary'; 'Optimization' (after Katanforoosh and
Kunin), slide 'Xavier Initialization' (1/n_in); Glorot and Bengio, 'Understanding the difficulty of training deep
feedforward neural networks' (2010); He et al., 'Delving Deep into Rectifiers' (2015).

Reading the slides: where they print N(0, 4·√(1/n)), the second argument is a standard deviation. Their ReLU row takes
√2 with the average of the fans, `glorot_*_(w, "relu")`; He's paper and torch take √2 with n_in alone, `he_*_(w)`.
"""

import copy
import logging
import math
import warnings
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import formula
from ..checks import check_choice, check_integer, wrong_type
from ..formula.lines import Term
from .modules import Maxout

__all__ = [
    "gain",
    "glorot_uniform_",
    "glorot_normal_",
    "he_uniform_",
    "he_normal_",
    "initialize",
    "latex",
    "Layer",
    "Report",
]


def __dir__() -> list[str]:
    return __all__


Activation = str | Callable[[Tensor], Tensor]
Mode = Literal["average", "forward", "backward"]
Scheme = Literal["auto", "glorot_uniform", "glorot_normal", "he_uniform", "he_normal"]

# Slide 'Glorot and He Initialization'. Softmax has 1, for the cost behind it takes z as it is: slope softmax − onehot.
GAINS = {
    "linear": 1.0,
    "tanh": 1.0,
    "sigmoid": 4.0,
    "relu": math.sqrt(2.0),
    "silu": math.sqrt(2.0),
    "softmax": 1.0,
}


class _Family(NamedTuple):
    """Activations that differ by a number."""

    attribute: str  # of the module, with the number
    default: float
    gain: Callable[[float], float]


def _leaky(a: Any) -> Any:
    return formula.sqrt(2.0 / (1 + a**2))


FAMILIES = {
    "leaky_relu": _Family("negative_slope", 0.01, _leaky),
    "prelu": _Family("weight", 0.25, _leaky),
    "elu": _Family("alpha", 1.0, lambda alpha: _solve(lambda z: F.elu(z, alpha))),
    # The largest of k numbers from N(0, 1) has the density k Φᵏ⁻¹(z) times that of z.
    "maxout": _Family("pieces", 2, lambda k: _solve(lambda z: z * (k * torch.special.ndtr(z) ** (k - 1)).sqrt())),
}


def gain(activation: Activation, param: float | None = None) -> float:
    """The factor by which an activation asks for larger weights.

    A name is looked up; for a function f it is solved from "unit variance in, unit power out":

        linear 1 · tanh 1 · sigmoid 4 · relu √2 · silu √2              the notes' table
        leaky_relu, prelu √(2/(1 + a²)) · elu gain(f) · softmax 1 · maxout 1/√E[max(z₁ … zₖ)²]
        gain(f) = 1 / √E[f(z)²],  z ~ N(0, 1)

    The two answer different questions: the table linearizes around zero (tanh z ≈ z; σ has slope 1/4, hence 4), the
    expectation takes all of f. They agree for the identity and ReLU; gain("tanh") is 1, gain(torch.tanh) 1.5925.

    Source: slide 'Glorot and He Initialization' (table); He et al. 2015, section 2.2 (the expectation, a).
    Difference from torch: `calculate_gain` has tanh 5/3, sigmoid 1, no PReLU, ELU, SiLU, softmax and maxout, takes no
    functions, and ignores a param that its activation does not have.

    The expectation is a composite two-point Gauss rule on [−12, 12] in float64. Relative error: below 1e-12 if f is
    smooth or has its kinks and jumps at multiples of 1/1024, as torch's activations do; elsewhere a kink costs up to
    1e-7 and a jump up to 1e-3.

    Args:
        activation: one of the names above, or an elementwise function that takes and returns a float64 tensor, or such
            a module, of which a copy is made
        param: of leaky_relu the slope a (0.01), of prelu a where it begins (0.25), of elu α (1), of maxout the number
            of pieces k (2); the others have none

    Raises:
        ValueError: unknown name; a param that the activation does not have or that is no number, or no count for
            maxout; f changes the shape; E[f(z)²] is zero or not finite

    >>> gain("sigmoid"), gain("leaky_relu", 1.0)
    (4.0, 1.0)
    >>> round(gain(torch.nn.functional.gelu), 4)
    1.5335
    """
    known = [*GAINS, *FAMILIES]
    if not callable(activation) and not (isinstance(activation, str) and activation in known):
        names = _names(known)
        raise ValueError(f"gain: activation must be one of {names} or an elementwise function, got {activation!r}")
    if isinstance(activation, str) and activation in FAMILIES:
        family = FAMILIES[activation]
        return family.gain(family.default if param is None else _checked(family.attribute, param))
    if param is not None:
        raise ValueError(f"gain: param must be None for all but {_names(FAMILIES)}, got {param!r} for {activation!r}")
    return _solve(activation) if callable(activation) else GAINS[activation]


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


def _checked(name: str, value: float) -> float:
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"gain: {name} {value} not a valid number")  # torch's words
    if name == "pieces" and (value != int(value) or value < 1):
        raise ValueError(f"gain: pieces must be an integer of at least 1, got {value!r}")
    return value


def _solve(f: Callable[[Tensor], Tensor]) -> float:
    """1 / √E[f(z)²]."""
    if isinstance(f, nn.Module):  # in float64 as z is; and its hooks need not know
        f = copy.deepcopy(f).to("cpu", torch.float64).forward
    # Two nodes of equal weight in each cell. None lies on a cell's edge, so kinks and jumps there cost no accuracy.
    h = 2.0**-10
    centre = torch.arange(-12.0, 12.0, h, dtype=torch.float64, device="cpu") + h / 2
    offset = h / math.sqrt(12.0)
    z = torch.cat((centre - offset, centre + offset))
    density = torch.exp(-z.square() / 2) / math.sqrt(2.0 * math.pi)
    with torch.no_grad():
        y = f(z)
    if y.shape != z.shape:
        raise ValueError(f"gain: activation must keep the shape {tuple(z.shape)}, got {tuple(y.shape)}")
    power = (y.square() * density).sum().item() * h / 2
    if not 0.0 < power < math.inf:
        raise ValueError(f"gain: E[f(z)²] must be positive and finite, got {power}")
    return 1.0 / math.sqrt(power)


def glorot_uniform_(
    tensor: Tensor,
    activation: Activation = "tanh",
    mode: Mode = "average",
    generator: torch.Generator | None = None,
    *,
    param: float | None = None,
    transposed: bool = False,
    groups: int = 1,
) -> Tensor:
    """Fill a weight in place from Glorot's uniform distribution and return it.

        w_ij ~ U[−b, b],  b = gain(activation) · √(6/(n_in + n_out))

    Source: Larson, slides 'Glorot Weight Initialization' and 'Activations Summary' (uniform bounds).
    Difference from torch: `xavier_uniform_(w, gain)` gives the same numbers under the same generator, but takes the
    gain as a number, has no other mode, takes every weight for one of a Linear or Conv (it mixes up the fans of a
    transposed one), and counts the outputs of all groups.

    Args:
        tensor: weight of a Linear, Conv or ConvTranspose; shapes and fans stand at the head of this file
        activation: what follows the layer, as in `gain`
        mode: "average" 2/(n_in + n_out), "forward" 1/n_in or "backward" 1/n_out
        generator: source of random numbers; None for torch's global one
        param: parameter of the activation, as in `gain`
        transposed: the weight is that of a ConvTranspose
        groups: groups of the convolution, a divisor of tensor.shape[0]

    Raises:
        TypeError: no tensor; groups that are no integer
        ValueError: fewer than 2 dimensions; groups do not divide; unknown mode, activation or param

    >>> w = glorot_uniform_(torch.empty(50, 100), "sigmoid")  # bound 4 · √(6/150)
    >>> bool(w.abs().max() <= 0.8)
    True
    """
    std = _std("glorot_uniform_", tensor, gain(activation, param), mode, transposed, groups)
    return _draw(tensor, std, generator, uniform=True)


def glorot_normal_(
    tensor: Tensor,
    activation: Activation = "tanh",
    mode: Mode = "average",
    generator: torch.Generator | None = None,
    *,
    param: float | None = None,
    transposed: bool = False,
    groups: int = 1,
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
    std = _std("glorot_normal_", tensor, gain(activation, param), mode, transposed, groups)
    return _draw(tensor, std, generator, uniform=False)


def he_uniform_(
    tensor: Tensor,
    activation: Activation = "relu",
    mode: Mode = "forward",
    generator: torch.Generator | None = None,
    *,
    param: float | None = None,
    transposed: bool = False,
    groups: int = 1,
) -> Tensor:
    """Fill a weight in place from He's uniform distribution and return it: `glorot_uniform_` with other defaults.

        w_ij ~ U[−b, b],  b = gain(activation) · √(3/n_in),  gain √2 for ReLU

    Source: He et al. 2015; the notes name it on 'Glorot and He Initialization' but print the average of the fans.
    Difference from torch: `kaiming_uniform_(w, a, nonlinearity="leaky_relu")` gives the same numbers under the same
    generator as `he_uniform_(w, "leaky_relu", param=a)`, but its default is a = 0, ours ReLU; its modes "fan_in" and
    "fan_out" are our "forward" and "backward".
    Arguments and errors as for `glorot_uniform_`.

    >>> w = he_uniform_(torch.empty(10, 600))  # bound √2 · √(3/600)
    >>> bool(w.abs().max() <= 0.1)
    True
    """
    std = _std("he_uniform_", tensor, gain(activation, param), mode, transposed, groups)
    return _draw(tensor, std, generator, uniform=True)


def he_normal_(
    tensor: Tensor,
    activation: Activation = "relu",
    mode: Mode = "forward",
    generator: torch.Generator | None = None,
    *,
    param: float | None = None,
    transposed: bool = False,
    groups: int = 1,
) -> Tensor:
    """Fill a weight in place from He's normal distribution and return it: `glorot_normal_` with other defaults.

        w_ij ~ N(0, σ²),  σ = gain(activation) · √(1/n_in),  gain √2 for ReLU

    Source: He et al. 2015, as for `he_uniform_`.
    Difference from torch: to `kaiming_normal_` as `he_uniform_` is to `kaiming_uniform_`.
    Arguments and errors as for `glorot_uniform_`.

    >>> w = he_normal_(torch.empty(200, 200))  # σ = √(2/200)
    >>> bool(0.095 < w.std() < 0.105)
    True
    """
    std = _std("he_normal_", tensor, gain(activation, param), mode, transposed, groups)
    return _draw(tensor, std, generator, uniform=False)


def _std(who: str, tensor: Tensor, g: float, mode: Mode, transposed: bool, groups: int) -> float:
    """The standard deviation σ: the formulas at the head of this file."""
    check_choice(who, "mode", mode, get_args(Mode))
    if not isinstance(tensor, Tensor):
        raise wrong_type(who, "tensor", 1, "Tensor", tensor)
    check_integer(who, "groups", 0, groups)
    if tensor.dim() < 2:
        raise ValueError(
            f"{who}: Fan in and fan out can not be computed for tensor with fewer than 2 dimensions, "
            f"got shape {tuple(tensor.shape)}"
        )
    if groups < 1 or tensor.shape[0] % groups:
        raise ValueError(f"{who}: groups must divide the first of the dimensions {tuple(tensor.shape)}, got {groups}")
    kernel = math.prod(tensor.shape[2:])
    n_in, n_out = tensor.shape[1] * kernel, tensor.shape[0] // groups * kernel
    if transposed:
        n_in, n_out = n_out, n_in
    if tensor.numel() == 0:
        return 0.0  # whatever the fans, which may be zero
    return _deviation(g, n_in, n_out, mode)


def _deviation(gain: Any, n_in: Any, n_out: Any, mode: Mode) -> Any:
    """σ. Rounded as torch does, so that the numbers are torch's to the last bit: times √(2/(n + m)), but over √n."""
    if mode == "average":
        return gain * formula.sqrt(2.0 / (n_in + n_out))
    return gain / formula.sqrt(n_in if mode == "forward" else n_out)


def _bound(sigma: Any) -> Any:
    """b of the uniform distribution with this standard deviation."""
    return math.sqrt(3.0) * sigma


def _draw(tensor: Tensor, std: float, generator: torch.Generator | None, *, uniform: bool) -> Tensor:
    if tensor.numel() == 0:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
        return tensor
    with torch.no_grad():
        if uniform:
            bound = _bound(std)
            return tensor.uniform_(-bound, bound, generator=generator)
        return tensor.normal_(0.0, std, generator=generator)


class Layer(NamedTuple):
    """What `initialize` did to a layer: its weight has gain and scheme for the activation and deviates by std."""

    name: str
    shape: tuple[int, ...]
    activation: str
    gain: float
    scheme: str
    std: float


def latex(scheme: Scheme, activation: Activation = "tanh", mode: Mode | None = None) -> formula.Latex:
    r"""What a scheme draws from, in LaTeX, written from the formulas that the functions of this file use.

    Args:
        scheme: "glorot_uniform", "glorot_normal", "he_uniform" or "he_normal"
        activation: as in `gain`, whose formula is written if it has one, else its value
        mode: as in the function of the scheme, None for its default

    Raises:
        ValueError: no such scheme, activation or mode

    >>> for line in latex("he_uniform", "leaky_relu"):
    ...     print(line)
    \mathrm{gain} = \sqrt{\frac{2}{1 + a^{2}}}
    \sigma = \frac{\mathrm{gain}}{\sqrt{n_{\text{in}}}}
    b = \sqrt{3}\, \sigma
    w \sim U\left[-b, b\right]
    """
    check_choice("latex", "scheme", scheme, tuple(SCHEMES))
    default, uniform = SCHEMES[scheme]
    mode = default if mode is None else mode
    check_choice("latex", "mode", mode, get_args(Mode))
    family = FAMILIES.get(activation) if isinstance(activation, str) else None
    factor = _leaky if family is not None and family.gain is _leaky else lambda: Term("number", gain(activation))
    lines = formula.latex(factor, ("gain",))
    lines += formula.latex(lambda gain, n_in, n_out: _deviation(gain, n_in, n_out, mode), ("sigma",))
    if not uniform:
        return formula.Latex((*lines, r"w \sim N\left(0, \sigma^{2}\right)"))
    return formula.Latex((*lines, *formula.latex(_bound, ("b",)), r"w \sim U\left[-b, b\right]"))


class Report(list[Layer]):
    """What `initialize` did, one `Layer` after the other; as a string, a table of them."""

    def __str__(self) -> str:
        rows = [("layer", "weight", "activation", "gain", "scheme", "std")]
        for name, shape, activation, g, scheme, std in self:
            rows.append((name or "(model)", "×".join(map(str, shape)), activation, f"{g:.4g}", scheme, f"{std:.4g}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

# Mode, as in the function's signature, and whether it is uniform.
SCHEMES: dict[str, tuple[Mode, bool]] = {
    "glorot_uniform": ("average", True),
    "glorot_normal": ("average", False),
    "he_uniform": ("forward", True),
    "he_normal": ("forward", False),
}


def _key(name: str) -> str:
    return name.lower().replace("_", "")


# Activation modules are known by the names of their classes, for ours and torch's are different classes. Affine is
# linear whatever its slope: a scale that was chosen is not undone.
KNOWN = {_key(name): name for name in [*GAINS, *FAMILIES]} | {"affine": "linear", "logsoftmax": "softmax"}

# torch's other elementwise activations: their gain is solved.
SOLVED: set[type] = {nn.CELU, nn.GELU, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LogSigmoid, nn.Mish, nn.SELU}
SOLVED |= {nn.Hardshrink, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanhshrink}

# They let pass what is large and positive and hold back what is negative.
RELU_LIKE = {"relu", "leakyrelu", "prelu", "elu", "silu", "maxout", "celu", "gelu", "hardswish", "mish", "relu6"}
RELU_LIKE |= {"selu", "softplus"}


class _Follower(NamedTuple):
    """The activation after a layer."""

    name: str
    gain: float
    param: float | None = None

    @property
    def scheme(self) -> str:
        return "he_normal" if _key(self.name) in RELU_LIKE else "glorot_uniform"

    def __str__(self) -> str:
        return self.name if self.param is None else f"{self.name}({self.param:.4g})"


def initialize(
    model: nn.Module,
    activation: Activation = "auto",
    scheme: Scheme = "auto",
    generator: torch.Generator | None = None,
    report: Callable[[Report], object] | None = None,
) -> nn.Module:
    """Initialize every Linear and Conv of a model in place, weights by `scheme` and biases to zero; return the model.

    Source: Larson, slides 'Glorot and He Initialization' and 'Activations Summary'; zero biases are assumption 1
    of the slide 'Xavier Initialization'. All other parameters keep their values. Tied weights are drawn once.
    Difference from torch: `nn.Linear` and `nn.Conv*` draw weights and biases from U[−1/√n_in, 1/√n_in] whatever
    follows them.

    Args:
        model: a module with at least one `nn.Linear`, `nn.Conv1d` to `3d` or `nn.ConvTranspose1d` to `3d`
        activation: what follows every layer, as in `gain`. "auto" looks for it: the first activation module after the
            layer and before the next one, "linear" if there is none. It is known by its class, torch's or ours, and
            brings its slopes, α or pieces; GELU and others that the notes do not have get the gain of a function. The
            order is that of registration, so name the activation of a model that applies it in `forward`.
        scheme: "glorot_uniform", "glorot_normal", "he_uniform", "he_normal", each in its default mode, or "auto":
            "he_normal" for what is like ReLU (LeakyReLU, PReLU, ELU, SiLU, Maxout, GELU, ...), "glorot_uniform"
            otherwise
        generator: source of random numbers; None for torch's global one
        report: called with the `Report` of what was done, for example `print`, which shows it as a table; None sends
            it to the log "torch_lecture_ops", level INFO

    Raises:
        TypeError: no module; a report that cannot be called
        ValueError: no such layer in the model; a lazy one that has no shape yet, a parametrized or pruned one; unknown
            activation or scheme. The model is then unchanged.

    >>> model = nn.Sequential(nn.Conv2d(1, 8, 5), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(32, 10))
    >>> model = initialize(model, report=print)
    layer  weight   activation       gain   scheme          std
    0      8×1×5×5  leaky_relu(0.2)  1.387  he_normal       0.2774
    3      10×32    linear           1      glorot_uniform  0.2182
    >>> bool(model[3].weight.abs().max() <= 0.378), model[3].bias.sum().item()  # √(6/42)
    (True, 0.0)
    """
    if not isinstance(model, nn.Module):
        raise wrong_type("initialize", "model", 1, "torch.nn.Module", model)
    if report is not None and not callable(report):
        raise wrong_type("initialize", "report", 5, "a function", report)
    check_choice("initialize", "scheme", scheme, get_args(Scheme))
    auto = isinstance(activation, str) and activation == "auto"
    default = _Follower("linear", 1.0)
    if not auto:
        name = activation if isinstance(activation, str) else getattr(activation, "__name__", type(activation).__name__)
        default = _Follower(name, gain(activation))  # complains before anything is written

    layers: dict[Tensor, tuple[str, nn.Module]] = {}  # by weight
    followers: dict[Tensor, _Follower] = {}
    biases: list[Tensor] = []
    last = None
    # With duplicates, since one ReLU object may serve many layers.
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, LAYERS):
            w, bias = module.weight, module.bias
            for p in [w] if bias is None else [w, bias]:
                # Those of a parametrized or pruned layer are computed anew at each use: filling them would be lost.
                if not isinstance(p, nn.Parameter) or isinstance(p, nn.parameter.UninitializedParameter):
                    raise ValueError(
                        f"initialize: weight and bias of every Linear and Conv must be Parameters with a shape, got "
                        f"{type(p).__name__} in {name!r}; run a lazy model once before, parametrize or prune it after"
                    )
            last = None if w in layers else w
            layers.setdefault(w, (name, module))
            if bias is not None:
                biases.append(bias)
        elif auto and (follower := _follower(module)):
            # A Maxout stands before its own layer, and what stands before a Maxout has no activation.
            followed = module.linear.weight if isinstance(module, Maxout) else last
            if followed is not None:
                followers.setdefault(followed, follower)
            last = None
    if not layers:
        raise ValueError(
            f"initialize: the model must contain an nn.Linear or nn.Conv, got {type(model).__name__} without one"
        )

    done = Report()
    for w, (name, module) in layers.items():
        follower = followers.get(w, default)
        chosen = follower.scheme if scheme == "auto" else scheme
        mode, uniform = SCHEMES[chosen]
        transposed, groups = getattr(module, "transposed", False), getattr(module, "groups", 1)
        std = _std("initialize", w, follower.gain, mode, transposed, groups)
        _draw(w, std, generator, uniform=uniform)
        done.append(Layer(name, tuple(w.shape), str(follower), follower.gain, chosen, std))
    for bias in biases:
        nn.init.zeros_(bias)
    (report or logging.getLogger("torch_lecture_ops").info)(done)
    return model


def _follower(module: nn.Module) -> _Follower | None:
    """The activation that a module is; None if it is none."""
    for cls in type(module).__mro__:
        name = KNOWN.get(_key(cls.__name__))
        if name in FAMILIES:
            param = getattr(module, FAMILIES[name].attribute, None)
            if isinstance(param, Tensor):  # slopes of channels, of which a² is the mean
                param = None if param.is_meta else math.sqrt(param.detach().cpu().double().square().mean().item())
            return _Follower(name, gain(name, param), param)
        if name:
            return _Follower(name, gain(name))
        if cls in SOLVED:
            return _Follower(type(module).__name__, gain(module))
    return None
