"""Activations as autograd Functions: everything that the built-in of the same name can do, with the same results."""

from __future__ import annotations

import copy
import functools
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.utils.checkpoint import checkpoint

from torch_lecture_ops import functions
from torch_lecture_ops import nn as ours_nn
from torch_lecture_ops.formula import exp, log1p, maximum, tanh, where
from torch_lecture_ops.functions import Elementwise, check_slope
from torch_lecture_ops.nn import functional as F

INF, NAN = float("inf"), float("nan")
SPECIAL = [-INF, -100.0, -1.0, -0.0, 0.0, 1.0, 100.0, INF, NAN]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def np_sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def with_options(name: str, only_ours=None, **options):
    """Ours and the built-in with these options."""

    def bind(where, options):
        function = getattr(where, name)
        bound = functools.partial(function, **options)
        bound.__name__ = name
        return bound

    return bind(F, options | (only_ours or {})), bind(nn.functional, options)


# name, ours, the built-in, NumPy value, NumPy slope
CASES = [
    ("relu", F.relu, nn.functional.relu, lambda x: np.maximum(x, 0), lambda x: (x > 0).astype(float)),
    ("sigmoid", F.sigmoid, torch.sigmoid, np_sigmoid, lambda x: np_sigmoid(x) * np_sigmoid(-x)),
    ("tanh", F.tanh, torch.tanh, np.tanh, lambda x: 1 / np.cosh(x) ** 2),
    (
        "silu",
        F.silu,
        nn.functional.silu,
        lambda x: x * np_sigmoid(x),
        lambda x: np_sigmoid(x) * (1 + x * np_sigmoid(-x)),
    ),
    (
        "leaky_relu",
        F.leaky_relu,
        nn.functional.leaky_relu,
        lambda x: np.where(x > 0, x, 0.01 * x),
        lambda x: np.where(x > 0, 1, 0.01),
    ),
    (
        "leaky_relu falling",
        *with_options("leaky_relu", negative_slope=-0.5),
        lambda x: np.where(x > 0, x, -0.5 * x),
        lambda x: np.where(x > 0, 1, -0.5),
    ),
    (
        "leaky_relu flat",
        *with_options("leaky_relu", negative_slope=0.0),
        lambda x: np.maximum(x, 0),
        lambda x: (x > 0).astype(float),
    ),
    (
        "elu",
        F.elu,
        nn.functional.elu,
        lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
        lambda x: np.exp(np.minimum(x, 0)),
    ),
    (
        "elu steep",
        *with_options("elu", alpha=2.5),
        lambda x: np.where(x > 0, x, 2.5 * np.expm1(np.minimum(x, 0))),
        lambda x: np.where(x > 0, 1, 2.5 * np.exp(np.minimum(x, 0))),
    ),
    (
        "elu falling",
        *with_options("elu", alpha=-0.5),
        lambda x: np.where(x > 0, x, -0.5 * np.expm1(np.minimum(x, 0))),
        lambda x: np.where(x > 0, 1, -0.5 * np.exp(np.minimum(x, 0))),
    ),
    (
        "leaky_relu of output",
        *with_options("leaky_relu", {"save": "output"}, negative_slope=0.25),
        lambda x: np.where(x > 0, x, 0.25 * x),
        lambda x: np.where(x > 0, 1, 0.25),
    ),
    (
        "elu of output",
        *with_options("elu", {"save": "output"}),
        lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
        lambda x: np.exp(np.minimum(x, 0)),
    ),
]
FUNCTIONS = pytest.mark.parametrize(("ours", "builtin"), [case[1:3] for case in CASES], ids=[case[0] for case in CASES])
CLASSES = [cls for cls in map(functions.__dict__.get, functions.__all__) if cls in Elementwise.__subclasses__()]


def is_of_output(ours) -> bool:
    """Whether this row of the table asks for the output to be saved."""
    return getattr(ours, "keywords", {}).get("save") == "output"


def gradient(function, x: Tensor, g: Tensor | None = None) -> tuple[Tensor, Tensor]:
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = function(x)
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(y) if g is None else g)
    return y.detach(), dx


def test_every_function_is_in_the_table():
    names = {case[0].split()[0].replace("_", "") for case in CASES}
    assert {cls.__name__.lower() for cls in CLASSES} == {*names, "affine"}  # affine: test_operations.py
    assert {"relu"} < names < {name.replace("_", "") for name in F.__all__}


@pytest.mark.sweep
@pytest.mark.parametrize(("name", "ours", "builtin", "value", "slope"), CASES, ids=[case[0] for case in CASES])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_numpy_reference(name, ours, builtin, value, slope, dtype, device, interpreted):
    torch.manual_seed(0)
    # Values: kernels are good to 2 ulp a function, an activation has up to three roundings more. Slopes from the
    # output lose what 1 - y cancels: absolutely small, so they are measured in ulps of 1.
    eps = torch.finfo(dtype).eps
    # In the interpreter each dtype has a quarter of the sizes, and all of them together have all.
    sizes = range(DTYPES.index(dtype), 71, 4) if interpreted else range(71)
    for size in [*sizes, 1000, 1025]:
        x = (torch.randn(size) * 3).to(device, dtype)
        g = torch.randn(size).to(device, dtype)
        y, dx = (t.double().cpu() for t in gradient(ours, x, g))
        x64, g64 = x.double().cpu().numpy(), g.double().cpu().numpy()
        np.testing.assert_allclose(y.numpy(), value(x64), rtol=4 * eps, atol=torch.finfo(dtype).tiny)
        tolerance = (4 + np.abs(x64)) * eps * np.abs(g64)
        assert (np.abs(dx.numpy() - g64 * slope(x64)) <= tolerance).all()


@FUNCTIONS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("upstream", [1.0, 0.0, -2.0, INF, NAN])
def test_kinks_and_extremes_are_the_builtins(ours, builtin, dtype, upstream, device):
    x = torch.tensor(SPECIAL * 9, dtype=dtype)  # several vector widths and a remainder
    g = torch.full_like(x, upstream)
    y, dx = (t.cpu() for t in gradient(ours, x.to(device), g.to(device)))
    y_builtin, dx_builtin = gradient(builtin, x, g)
    rounding = {torch.float64: 1e-14, torch.float32: 1e-6}.get(dtype, 0.0)  # half types: rounded alike, from float32
    torch.testing.assert_close(y, y_builtin, rtol=rounding, atol=0, equal_nan=True)
    if "elu" in ours.__name__ and "relu" not in ours.__name__:  # at NaN torch has 1 in a remainder of the vectors
        assert dx[x.isnan()].isnan().all()
        dx_builtin[x.isnan()] = NAN
        if is_of_output(ours) and upstream == INF:  # f + α is 0, α eˣ is not yet
            dx_builtin[x == -100] = NAN
    absolute = rounding
    if is_of_output(ours) and dtype in (torch.float16, torch.bfloat16) and abs(upstream) < INF:
        absolute = abs(upstream) * torch.finfo(dtype).eps / 2  # f is rounded before α is added
    torch.testing.assert_close(dx, dx_builtin, rtol=rounding, atol=absolute, equal_nan=True)
    zeros = y_builtin == 0
    assert torch.equal(torch.signbit(y)[zeros], torch.signbit(y_builtin)[zeros])


@FUNCTIONS
def test_half_types_are_rounded_once(ours, builtin, device):
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.float16)  # every float16
    y = ours(x.to(device)).cpu()
    exact = builtin(x.double())
    off = (y.double() - exact).abs() > (exact.half().double() - exact).abs() * 1.001
    # computed in float32, rounded to float16: a second rounding can go the other way only next to a tie
    assert off[exact.isfinite()].double().mean() < 1e-3


@pytest.mark.not_interpreted
@FUNCTIONS
def test_gradcheck_of_all_orders(ours, builtin, device):
    torch.manual_seed(0)
    x = torch.randn(3, 4, dtype=torch.float64, device=device, requires_grad=True)
    assert gradcheck(ours, (x,), check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
    assert gradgradcheck(ours, (x,), check_fwd_over_rev=True, check_rev_over_rev=True, check_batched_grad=True)
    assert gradcheck(lambda x: gradient_of(ours, x), (x,))


def gradient_of(function, x: Tensor) -> Tensor:
    return torch.autograd.grad(function(x).sum(), x, create_graph=True)[0]


@pytest.mark.not_interpreted
@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_complex(name, device):
    torch.manual_seed(0)
    x = torch.randn(5, dtype=torch.complex128, device=device, requires_grad=True)
    torch.testing.assert_close(getattr(F, name)(x), getattr(torch, name)(x))
    assert gradcheck(getattr(F, name), (x,), check_forward_ad=True)


@pytest.mark.not_interpreted
@FUNCTIONS
def test_function_transforms(ours, builtin, device):
    torch.manual_seed(0)
    x, v = torch.randn(2, 6, 5, dtype=torch.float64, device=device)
    transforms = {
        "grad": lambda f: grad(lambda r: f(r).sum())(x),
        "vmap": lambda f: vmap(f)(x),
        "vmap of grad": lambda f: vmap(grad(lambda r: f(r).sum()))(x),
        "vmap in dim 1": lambda f: vmap(f, in_dims=1, out_dims=1)(x),
        "nested vmap": lambda f: vmap(vmap(f))(x),
        "jvp": lambda f: jvp(f, (x,), (v,))[1],
        "jvp of jvp": lambda f: jvp(lambda x: jvp(f, (x,), (v,))[1], (x,), (v,))[1],
        "vjp": lambda f: vjp(f, x)[1](v)[0],
        "jacrev": lambda f: jacrev(f)(x[0]),
        "jacfwd": lambda f: jacfwd(f)(x[0]),
        "jacfwd of jacfwd": lambda f: jacfwd(jacfwd(f))(x[0]),
        "jacrev of jacfwd": lambda f: jacrev(jacfwd(f))(x[0]),
        "hessian": lambda f: hessian(lambda r: f(r).pow(2).sum())(x[0]),
    }
    for name, transform in transforms.items():
        torch.testing.assert_close(transform(ours), transform(builtin), msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.not_interpreted
@FUNCTIONS
def test_forward_mode_outside_transforms(ours, builtin, device):
    x, tangent = torch.randn(2, 7, device=device)
    with forward_ad.dual_level():
        results = [forward_ad.unpack_dual(f(forward_ad.make_dual(x, tangent))) for f in (ours, builtin)]
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.not_interpreted
@FUNCTIONS
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.compiles
def test_compiles_into_one_graph(ours, builtin, dynamic, backend, device):
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, dynamic=dynamic, backend=backend)
    for size in (5, 70):
        x, g = torch.randn(2, size, device=device)
        torch.testing.assert_close(gradient(compiled, x, g), gradient(builtin, x, g))
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), builtin(x))


@FUNCTIONS
@pytest.mark.parametrize("strict", [False, True])
def test_exports(ours, builtin, strict):
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return ours(x)

    x = torch.randn(3, 4)
    torch.testing.assert_close(torch.export.export(Model(), (x,), strict=strict).module()(x), builtin(x))


LAYOUTS = {
    "0-dim": lambda: torch.randn(()),
    "empty": lambda: torch.randn(3, 0, 2),
    "transposed": lambda: torch.randn(5, 7).t(),
    "channels_last": lambda: torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "permuted": lambda: torch.randn(2, 3, 4).permute(2, 0, 1),
    "gaps": lambda: torch.randn(6, 8)[:, ::2],
    "inner slice": lambda: torch.randn(6, 8)[1:5, 2:7],
    "expanded": lambda: torch.randn(4, 1).expand(4, 5),
    "offset": lambda: torch.randn(100)[3:78],
    "large": lambda: torch.randn(3, 40000).t(),
    "negated lazily": lambda: torch._neg_view(torch.randn(9)),
}


@FUNCTIONS
@pytest.mark.parametrize(
    "layout", [pytest.param(name, marks=[pytest.mark.not_interpreted] * (name == "large")) for name in LAYOUTS]
)
def test_layouts_are_kept(ours, builtin, layout, device):
    torch.manual_seed(0)
    with torch.device(device):
        x = LAYOUTS[layout]()
    torch.testing.assert_close(ours(x), builtin(x))
    assert ours(x).stride() == builtin(x).stride()
    for g in (torch.randn(x.shape, device=device), x.new_ones(()).expand(x.shape)):
        results = []
        for function in (ours, builtin):
            leaf = x.detach().requires_grad_()
            y = function(leaf)
            results.append((y.detach(), *torch.autograd.grad(y, leaf, g)))
        torch.testing.assert_close(*results)
        # The gradient lies as the input does. So does relu's in torch; sigmoid's, tanh's and silu's follow g there.
        assert results[0][1].stride() == results[0][0].stride()


@FUNCTIONS
def test_meta_and_fake_tensors(ours, builtin):
    x = torch.empty(3, 4, device="meta", requires_grad=True)
    y = ours(x)
    assert y.is_meta
    assert y.shape == (3, 4)
    assert torch.autograd.grad(y.sum(), x)[0].is_meta
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        assert isinstance(ours(torch.randn(3)), torch._subclasses.FakeTensor)


@FUNCTIONS
def test_subclasses_and_overrides(ours, builtin):
    class Labelled(Tensor):
        pass

    assert type(ours(torch.randn(3).as_subclass(Labelled))) is Labelled

    class Loud:
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            return function.__name__

    assert ours(Loud()) == ours.__name__


@pytest.mark.not_interpreted
@FUNCTIONS
@pytest.mark.parametrize("layout", ["offset", "transposed", "gaps", "channels_last"])
def test_batched_gradients(ours, builtin, layout, device):
    with torch.device(device):
        x = LAYOUTS[layout]().requires_grad_()
        gradients = (
            torch.randn(3, *x.shape),
            torch.randn(*x.shape, 3).movedim(-1, 0),
            torch.ones(()).expand(3, *x.shape),
        )
    for g in gradients:
        results = [torch.autograd.grad(f(x), x, g, is_grads_batched=True)[0] for f in (ours, builtin)]
        torch.testing.assert_close(*results)


@FUNCTIONS
def test_saved_tensors(ours, builtin):
    def saved(function, x: Tensor) -> list[Tensor]:
        tensors: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: tensors.append(t) or t, lambda t: t):
            function(x)
        return tensors

    x = torch.randn(100)
    assert saved(ours, x) == []
    with torch.no_grad():
        assert saved(ours, x.requires_grad_()) == []
    bytes_saved = [sum(t.untyped_storage().nbytes() for t in saved(f, x)) for f in (ours, builtin)]
    assert bytes_saved[0] == bytes_saved[1] == 400


# Buffers that a chain of four layers keeps, after the input of the first one, which the activations need not keep.
@pytest.mark.parametrize(
    ("name", "of_output"), [("leaky_relu", {"save": "output"}), ("elu", {"save": "output"}), ("relu", {})]
)
def test_the_output_is_what_the_next_layer_keeps_anyway(name, of_output):
    """Four layers, the output of each activation saved once for both its neighbours: 5 buffers (8 with the inputs)."""

    def buffers(function) -> int:
        kept = {}

        def pack(t: Tensor) -> Tensor:
            if t.shape == (10, 6):
                kept[t.data_ptr()] = t  # alive, so that no address comes twice
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            x = torch.randn(10, 6)
            for weight in weights:
                x = function(x @ weight)
        return len(kept)

    weights = [torch.randn(6, 6, requires_grad=True) for _ in range(4)]
    ours, builtin = getattr(F, name), getattr(nn.functional, name)
    assert buffers(functools.partial(ours, **of_output)) == 5
    assert buffers(ours) == buffers(builtin) == (8 if of_output else 5)


def test_the_slope_of_relu_at_0(device):
    x, g = torch.tensor([[-1.0, -0.0, 0.0, 1.0, NAN], [INF, 2.0, 4.0, 3.0, 5.0]], device=device)
    y, dx = gradient(lambda x: F.relu(x, subgradient=0.5), x, g)
    torch.testing.assert_close(y, torch.relu(x), equal_nan=True)
    assert dx.tolist() == [0, 1, 2, 3, 5]
    assert repr(ours_nn.ReLU(inplace=True, subgradient=1.0)) == "ReLU(inplace=True, subgradient=1.0)"
    with pytest.raises(ValueError, match=r"^relu: subgradient must be in \[0, 1\], got 2$"):
        F.relu(x, subgradient=2)


@FUNCTIONS
def test_backward_twice_and_stale_inputs(ours, builtin, device):
    x = torch.randn(8, device=device, requires_grad=True)
    y = ours(x)
    first = torch.autograd.grad(y.sum(), x, retain_graph=True)
    torch.testing.assert_close(first, torch.autograd.grad(y.sum(), x, retain_graph=True))
    leaf = torch.randn(8, device=device, requires_grad=True)
    x = leaf * 1
    y = ours(x)
    with torch.no_grad():
        (x if saves_input(ours) else y).add_(1)
    place = "input" if saves_input(ours) else "output"
    with pytest.raises(RuntimeError, match=f"^\\w+: its {place}, .* was written to. Write .* modified by an inplace"):
        y.sum().backward()


def saves_input(ours) -> bool:
    return ours.__name__ in ("silu", "leaky_relu", "elu") and not is_of_output(ours)


@pytest.mark.parametrize("place", ["input", "output"])
@FUNCTIONS
def test_what_may_be_written_to_is_what_torch_lets(ours, builtin, place, device):
    """Code after a function may add to its input or its output: the same that runs with torch's runs with ours."""

    def gradient_or_error(function):
        leaf = torch.linspace(-3, 3, 8, device=device, requires_grad=True)
        x = leaf * 1
        y = function(x)
        (x if place == "input" else y).add_(leaf.detach())
        try:
            return torch.autograd.grad(y.sum() + x.sum(), leaf)[0]
        except RuntimeError:
            return None

    expected, result = gradient_or_error(builtin), gradient_or_error(ours)
    if is_of_output(ours):  # the price of its choice
        assert (result is None) == (place == "output")
    else:
        assert (result is None) == (expected is None)
        if result is not None:
            torch.testing.assert_close(result, expected)


def test_what_is_saved_is_checked():
    for name, number in (("leaky_relu", "negative_slope"), ("elu", "alpha")):
        with pytest.raises(ValueError, match=f"^{name}: save must be 'input' or 'output', got 'both'$"):
            getattr(F, name)(torch.ones(2), save="both")
        with pytest.raises(ValueError, match=f"^{name}: save='output' needs {number} >= 0, got -1.0: the output must"):
            getattr(F, name)(torch.ones(2), -1.0, save="output")
    for cls, number in ((ours_nn.LeakyReLU, "negative_slope"), (ours_nn.ELU, "alpha")):
        with pytest.raises(ValueError, match=f"^{cls.__name__}: save='output' needs {number} >= 0, got -1.0"):
            cls(-1.0, save="output")
        assert "save='output'" in repr(cls(save="output"))
        assert "save" not in repr(cls())


def test_the_slope_of_elu_far_left_is_that_of_the_exponential():
    _, dx = gradient(F.elu, torch.tensor([-20.0, -100.0]))
    torch.testing.assert_close(dx, torch.tensor([-20.0, -100.0]).exp(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("loss", [F.relu, lambda x: F.mse_loss(x, torch.zeros(3))], ids=["relu", "mse_loss"])
def test_nodes_call_backward_at_once(loss):
    """Not by way of torch's method that looks for it, a third of a microsecond each time."""
    node = type(loss(torch.ones(3, requires_grad=True)).grad_fn)
    assert vars(node)["apply"] is node._forward_cls.backward


@pytest.mark.not_interpreted
@FUNCTIONS
def test_checkpointing(ours, builtin, device):
    x = torch.randn(8, device=device, requires_grad=True)
    (expected,) = torch.autograd.grad(builtin(x).sum(), x)
    for use_reentrant in (False, True):
        x.grad = None
        checkpoint(ours, x, use_reentrant=use_reentrant).sum().backward()
        torch.testing.assert_close(x.grad, expected)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "elu", "silu"])
def test_inplace(name, device):
    ours, builtin = getattr(F, name), getattr(nn.functional, name)
    x = torch.randn(2, 3, 4, 5, device=device).to(memory_format=torch.channels_last)
    expected = builtin(x)
    result = ours(x, inplace=True)
    assert result is x
    torch.testing.assert_close(x, expected)

    leaf = torch.randn(6, device=device, requires_grad=True)
    results = []
    for function in (ours, builtin):
        h = leaf * 2
        y = function(h, inplace=True)
        assert y is h
        results.append((y.detach(), *torch.autograd.grad((y * 3).sum(), leaf)))
    torch.testing.assert_close(*results)
    with pytest.raises(RuntimeError, match="leaf Variable"):
        ours(leaf, inplace=True)


@pytest.mark.not_interpreted
@FUNCTIONS
def test_autocast_leaves_the_dtype(ours, builtin, device):
    with torch.autocast(device, dtype=torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(3, dtype=dtype, device=device)
            assert ours(x).dtype == builtin(x).dtype


@FUNCTIONS
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool], ids=str)
def test_integers(ours, builtin, dtype):
    x = torch.tensor([0, 1, 3]).to(dtype)
    try:
        expected = builtin(x)
    except RuntimeError as error:
        with pytest.raises(type(error)):
            ours(x)
    else:
        result = ours(x)
        assert result.dtype == expected.dtype
        torch.testing.assert_close(result, expected)


@FUNCTIONS
@pytest.mark.parametrize("size", [1 << 17, (1 << 17) + 13])
def test_many_threads(ours, builtin, size):
    torch.manual_seed(0)
    x, g = torch.randn(2, size)
    threads = torch.get_num_threads()
    many = gradient(ours, x, g)
    torch.set_num_threads(1)
    try:
        one = gradient(ours, x, g)
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(many, one, strict=True):
        assert torch.equal(a, b)


def test_the_slides_own_numbers(device):
    x, g = torch.tensor([[1.0, -2.0, 3.0, -1.0], [4.0, -1.0, 5.0, 9.0]], device=device)
    y, dx = gradient(F.relu, x, g)  # IISER, 'Vector derivatives: Example'
    assert y.tolist() == [1, 0, 3, 0]
    assert dx.tolist() == [4, 0, 5, 0]
    _, dx = gradient(F.sigmoid, torch.tensor(1.0, device=device))  # IISER, 'Sigmoid function': printed 0.2
    assert dx.item() == pytest.approx(0.1966, abs=5e-5)


def test_own_activation_in_ten_lines(device):
    class Mish(Elementwise):
        @staticmethod
        def value(x):
            return x * tanh(log1p(exp(x)))

        @staticmethod
        def slope(x):
            t, sigma = tanh(log1p(exp(x))), 1 / (1 + exp(-x))
            return t + x * sigma * (1 - t**2)

    x = torch.randn(3, 5, dtype=torch.float64, device=device, requires_grad=True)
    torch.testing.assert_close(Mish.call(x), nn.functional.mish(x))
    assert gradcheck(Mish.call, (x,), check_forward_ad=True)
    assert gradgradcheck(Mish.call, (x,))
    check_slope(Mish)
    x32 = torch.randn(1000, device=device)
    torch.testing.assert_close(gradient(Mish.call, x32), gradient(nn.functional.mish, x32))
    torch.testing.assert_close(vmap(Mish.call)(x32), nn.functional.mish(x32))


# The numbers of each function that has some: in the order of its value.
NUMBERS = {"ELU": (1.5,), "LeakyReLU": (0.1,), "Affine": (2.0, -1.0)}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_slope_is_that_of_its_value(cls):
    check_slope(cls, None, *NUMBERS.get(cls.__name__, ()))


def test_a_wrong_slope_is_found_and_where():
    class Wrong(Elementwise):
        @staticmethod
        def value(x):
            return x * tanh(x)

        @staticmethod
        def slope(x):
            return where(x > 3, 1.0, tanh(x) + x * (1 - tanh(x) ** 2))

    check_slope(Wrong, torch.linspace(-8, 3, 100))
    with pytest.raises(ValueError, match=r"^Wrong: the slope at x = 3\.01 is 1, but the .* derivative there is 1\.02"):
        check_slope(Wrong)
    check_slope(Wrong, tolerance=0.1)

    class Beyond(Elementwise):
        @staticmethod
        def value(x):
            return maximum(x, 0)

        @staticmethod
        def slope(x):
            return where(x > 0, 1.0, where(x == 0, -1.0, 0.0))

    with pytest.raises(ValueError, match="slope at x = 0 is -1"):  # a kink: anything from 0 to 1 would do
        check_slope(Beyond)


def test_the_slope_must_name_what_it_needs():
    with pytest.raises(TypeError, match=r"Wrong: the slope takes x \(the input\) or y \(the output\), got 'z'"):

        class Wrong(Elementwise):
            @staticmethod
            def value(x):
                return x

            @staticmethod
            def slope(z):
                return z


MODULES = [(ours_nn.ReLU, {}), (ours_nn.ReLU, {"inplace": True}), (ours_nn.Sigmoid, {}), (ours_nn.Tanh, {})]
MODULES += [(ours_nn.SiLU, {}), (ours_nn.SiLU, {"inplace": True}), (ours_nn.LeakyReLU, {}), (ours_nn.ELU, {})]
MODULES += [(ours_nn.LeakyReLU, {"negative_slope": 0.2, "inplace": True}), (ours_nn.ELU, {"alpha": 0.5})]
MODULES += [(ours_nn.ELU, {"inplace": True})]


@pytest.mark.parametrize(("module_class", "options"), MODULES, ids=lambda value: str(getattr(value, "__name__", value)))
def test_modules_are_torchs(module_class, options, device):
    module, builtin = module_class(**options), getattr(nn, module_class.__name__)(**options)
    x = torch.randn(2, 3, device=device)
    torch.testing.assert_close(module(x.clone()), builtin(x.clone()))
    assert repr(module) == repr(builtin)
    assert module.state_dict() == {}
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(copied(x.clone()), builtin(x.clone()))
    torch.testing.assert_close(functional_call(module, {}, (x.clone(),)), builtin(x.clone()))


@pytest.mark.processes
def test_without_a_compiler(tmp_path):
    """The same numbers from torch's operators, and one line in the log."""
    script = """
import torch
from torch_lecture_ops.nn import functional as F
for f, builtin in ((F.relu, torch.relu), (F.sigmoid, torch.sigmoid), (F.tanh, torch.tanh),
                   (F.silu, torch.nn.functional.silu)):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = torch.randn(77).to(dtype).requires_grad_()
        y, z = f(x), builtin(x)
        torch.testing.assert_close(y, z)
        torch.testing.assert_close(torch.autograd.grad(y.sum(), x), torch.autograd.grad(z.sum(), x))
"""
    environment = os.environ | {"CC": str(tmp_path / "no-compiler"), "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "compiled kernels" in line]
    assert len(lines) == 1, done.stderr
    assert "no-compiler' not found" in lines[0]
