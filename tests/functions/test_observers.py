"""Whoever follows what a function does sees operators, and gets what torch's function gives: tracers, modes,
transforms, profilers, the compiler and its caches.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch._functorch._aot_autograd.autograd_cache import check_cacheable
from torch.autograd import forward_ad
from torch.func import functionalize, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from torch_lecture_ops import nn as ours_nn
from torch_lecture_ops.functions import Elementwise
from torch_lecture_ops.nn import functional as F

torch.manual_seed(0)
Y, LABELS, WEIGHTS, MATRIX = torch.rand(4, 6), torch.tensor([0, 5, 2, 2]), torch.rand(6), torch.randn(6, 3)
ROWS = Y.softmax(-1)

# What each function of ours does to a tensor (4, 6), and torch: x and the functions of one of both -> y.
TABLE = {
    "relu": lambda F, x: F.relu(x),
    "relu in place": lambda F, x: F.relu(x * 1, inplace=True),
    "leaky_relu": lambda F, x: F.leaky_relu(x, 0.1),
    "leaky_relu in place": lambda F, x: F.leaky_relu(x * 1, 0.1, inplace=True),
    "elu": lambda F, x: F.elu(x, 0.5),
    "elu in place": lambda F, x: F.elu(x * 1, 0.5, inplace=True),
    "silu": lambda F, x: F.silu(x),
    "silu in place": lambda F, x: F.silu(x * 1, inplace=True),
    "sigmoid": lambda F, x: F.sigmoid(x),
    "tanh": lambda F, x: F.tanh(x),
    "prelu": lambda F, x: F.prelu(x, WEIGHTS[: x.shape[1] if x.dim() > 1 else 1]),
    "softmax": lambda F, x: F.softmax(x, -1),
    "log_softmax": lambda F, x: F.log_softmax(x, 0),
    "mse_loss": lambda F, x: F.mse_loss(x, Y[: len(x)] if x.dim() > 1 else Y[0]),
    "binary_cross_entropy": lambda F, x: F.binary_cross_entropy(torch.sigmoid(x), Y if x.dim() > 1 else Y[0]),
    "binary_cross_entropy_with_logits": lambda F, x: F.binary_cross_entropy_with_logits(
        x, Y if x.dim() > 1 else Y[0], pos_weight=WEIGHTS
    ),
    "cross_entropy": lambda F, x: F.cross_entropy(
        x, LABELS if x.dim() > 1 else LABELS[1], weight=WEIGHTS, label_smoothing=0.1
    ),
    "cross_entropy of probabilities": lambda F, x: F.cross_entropy(x, ROWS if x.dim() > 1 else ROWS[0]),
    "affine": lambda F, x: F.affine(x, 2.0, 1.0) if F is not nn.functional else 2.0 * x + 1.0,
    "maxout": lambda F, x: F.maxout(x, 2) if F is not nn.functional else x.unflatten(-1, (-1, 2)).max(-1).values,
    "add": lambda F, x: F.add(x, 1.5) if F is not nn.functional else x + 1.5,
    "mul": lambda F, x: F.mul(x, x) if F is not nn.functional else x * x,
    "maximum": lambda F, x: F.maximum(x, 0.1) if F is not nn.functional else torch.maximum(x, torch.tensor(0.1)),
    "copy": lambda F, x: F.copy(x)[1] if F is not nn.functional else x.clone(),
    "matmul": lambda F, x: F.matmul(x, MATRIX) if F is not nn.functional else x @ MATRIX,
    "quadratic_cost": lambda F, x: (
        F.quadratic_cost(x, Y if x.dim() > 1 else Y[0])
        if F is not nn.functional
        else (x - (Y if x.dim() > 1 else Y[0])).square().sum() / 6
    ),
}
EACH = pytest.mark.parametrize("function", TABLE.values(), ids=TABLE)


def test_every_function_is_in_the_table():
    assert {name.split()[0] for name in TABLE} == set(F.__all__)


def both(function):
    """Ours and torch's as functions of x."""
    return (lambda x: function(F, x)), (lambda x: function(nn.functional, x))


def with_gradient(function, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().clone().requires_grad_()
    y = function(x)
    return y.detach(), torch.autograd.grad(y.sum(), x)[0]


def x() -> Tensor:
    return torch.linspace(-3, 3, 24).reshape(4, 6).roll(7, 0)


FAR = torch.tensor([[-1e3, -100.0, -20.0, 20.0, 100.0, 1e3]]).repeat(4, 1)  # where formulas overflow


# -------------------------------------------------------------------------------------------------------------- tracers


@EACH
def test_jit_trace(function):
    """Traced with one tensor, saved, loaded and run with another: value and gradient are torch's, far out, too."""
    ours, builtin = both(function)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; labels and the like become constants
        traced = torch.jit.trace(ours, (torch.randn(4, 6),), check_trace=False)
        file = io.BytesIO()
        torch.jit.save(traced, file)
        file.seek(0)
        traced = torch.jit.load(file)
    for values in (x(), FAR):
        torch.testing.assert_close(with_gradient(traced, values), with_gradient(builtin, values), equal_nan=True)
    with torch.no_grad():
        torch.testing.assert_close(traced(x()), builtin(x()))


def test_jit_trace_of_a_model():
    """As add_graph and to_torchscript do it; the nodes are torch's own, which exporters know."""
    model = nn.Sequential(nn.Linear(6, 4), ours_nn.SiLU(), ours_nn.LeakyReLU(save="output"), ours_nn.Softmax(-1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.no_grad():
            traced = torch.jit.trace(model, (torch.randn(2, 6),))
    torch.testing.assert_close(traced(x()), model(x()))
    assert {"aten::silu", "aten::leaky_relu", "aten::softmax"} <= {node.kind() for node in traced.inlined_graph.nodes()}


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
def test_jit_trace_without_what_torch_does_not_have():
    with pytest.warns(UserWarning, match="relu: a trace has torch's gradient, without subgradient=0.5"):
        torch.jit.trace(lambda t: F.relu(t, subgradient=0.5), (x(),))


@EACH
@pytest.mark.parametrize("pre_dispatch", [False, True])
def test_make_fx(function, pre_dispatch):
    ours, builtin = both(function)
    graph = make_fx(ours, pre_dispatch=pre_dispatch)(torch.randn(4, 6))
    torch.testing.assert_close(graph(x()), builtin(x()))


@EACH
def test_make_fx_of_a_gradient(function):
    """(Not with pre_dispatch: that makes constants of saved outputs, those of torch's own functions as well.)"""
    ours, builtin = both(function)
    graph = make_fx(lambda t: torch.autograd.grad(ours(t).sum(), t)[0])(torch.randn(4, 6, requires_grad=True))
    torch.testing.assert_close(graph(x().requires_grad_()), with_gradient(builtin, x())[1])


# ---------------------------------------------------------------------------------------------------------------- modes


@EACH
def test_modes(function):
    """Dispatch modes see operators that compute the result; function modes see our function, or the gate's."""

    class Dispatched(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(result := func(*args, **kwargs or {}))
            return result

    class Called(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            result = func(*args, **kwargs or {})
            called.append(getattr(func, "__module__", None) or "")
            return result

    ours, builtin = both(function)
    seen, called = [], []
    with torch.no_grad(), Dispatched():
        y = ours(x())
    torch.testing.assert_close(y, builtin(x()))
    assert any(isinstance(t, Tensor) and t.shape == y.shape and torch.equal(t, y) for t in seen)
    with Called():
        y = ours(x())
    assert any(module.startswith("torch_lecture_ops") for module in called)
    torch.testing.assert_close(y, builtin(x()))


@EACH
def test_anomaly_mode_names_the_function(function):
    ours, _ = both(function)
    leaf = x().requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is slow
        with torch.autograd.detect_anomaly():
            y = ours(leaf)
            with pytest.raises(RuntimeError, match=r"Function '.*Backward.*' returned nan values"):
                y.backward(torch.full_like(y, torch.nan))


@EACH
def test_deterministic_mode(function):
    """Which fills new memory with NaN: all of it is written."""
    ours, builtin = both(function)
    torch.use_deterministic_algorithms(True)
    try:
        result = with_gradient(ours, x())
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(result, with_gradient(builtin, x()))


@EACH
def test_profilers_see_the_function(function):
    ours, _ = both(function)
    ours(x())  # build what it needs
    events = []
    for wanted in (False, True):
        with torch.autograd.profiler.profile() as profile:
            y = ours(x().requires_grad_(wanted))
            if wanted:
                y.sum().backward()
        events.append({event.name for event in profile.function_events})
    name = (
        {type(y.grad_fn).__name__.removesuffix("Backward")} if "torch_lecture" in type(y.grad_fn).__module__ else set()
    )
    name = {"long long signed char::*"} if name == {"Max"} else name  # torch takes Max for the code of a C++ type
    assert name <= events[0] & events[1]
    assert any("Backward" in event for event in events[1])


# ----------------------------------------------------------------------------------------------------------- transforms

TRANSFORMS = {
    "grad": lambda f: grad(lambda t: f(t * 1).sum()),
    "vmap": lambda f: vmap(f),
    "vmap of grad": lambda f: vmap(grad(lambda t: f(t * 1).sum())),
    "jacrev": lambda f: jacrev(lambda t: f(t * 1).sum(0)),
    "vjp": lambda f: lambda t: vjp(f, t)[1](torch.ones_like(f(t)))[0],
    "jvp": lambda f: lambda t: jvp(f, (t,), (t.cos(),))[1],
    "jacfwd": lambda f: jacfwd(lambda t: f(t).sum(0)),
    "hessian": lambda f: hessian(lambda t: f(t * 1).square().sum()),
    "functionalize": lambda f: functionalize(f),
    "grad outside of vmap": lambda f: grad(lambda t: vmap(f)(t * 1).sum()),
}


@pytest.mark.sweep
@EACH
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_transforms(function, transform):
    """Of functions of intermediate results, in place too."""
    ours, builtin = both(function)
    torch.testing.assert_close(transform(ours)(x()), transform(builtin)(x()))


@EACH
def test_in_place_under_vmap_with_a_gradient_outside(function):
    ours, builtin = both(function)
    torch.testing.assert_close(with_gradient(vmap(ours), x()), with_gradient(vmap(builtin), x()))


@EACH
def test_forward_mode(function):
    ours, builtin = both(function)
    with forward_ad.dual_level():
        duals = [f(forward_ad.make_dual(x(), x().cos())) for f in (ours, builtin)]
        torch.testing.assert_close(*map(forward_ad.unpack_dual, duals))


# ------------------------------------------------------------------------------------------------------------- compiler


@pytest.mark.sweep
@EACH
@pytest.mark.parametrize("backend", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("transform", [None, *TRANSFORMS])
@pytest.mark.compiles
def test_compiled(function, backend, transform):
    """With and without gradients, and with transforms inside: one graph, and torch's numbers, far out as well."""
    if transform == "functionalize":
        pytest.skip("the compiler does not know it")
    torch.compiler.reset()
    ours, builtin = both(function)
    if transform:
        ours, builtin = TRANSFORMS[transform](ours), TRANSFORMS[transform](builtin)
        compiled = torch.compile(ours, fullgraph=True, backend=backend)
        torch.testing.assert_close(compiled(x()), builtin(x()))
        return
    compiled = torch.compile(ours, fullgraph=True, backend=backend)
    for values in (x(), FAR):
        torch.testing.assert_close(with_gradient(compiled, values), with_gradient(builtin, values))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            torch.testing.assert_close(compiled(x()), builtin(x()))


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.compiles
def test_numbers_of_a_compiled_function_may_change(dynamic):
    torch.compiler.reset()
    compiled = torch.compile(lambda x, a: F.leaky_relu(x, a) + F.elu(x, a), fullgraph=True, dynamic=dynamic)
    for a in (0.1, 0.25, 0.5):
        expected = nn.functional.leaky_relu(x(), a) + nn.functional.elu(x(), a)
        torch.testing.assert_close(compiled(x(), a), expected)


@EACH
@pytest.mark.compiles
def test_graphs_can_be_cached(function):
    """By AOTAutograd's own check, which graphs with a Function do not pass."""
    checks = []

    def backend(graph, inputs):
        checks.append(check_cacheable(graph))  # raises if not
        return graph.forward

    torch.compiler.reset()
    torch.compile(both(function)[0], fullgraph=True, backend=backend)(x().requires_grad_())
    assert len(checks) == 1


MODEL = """
import json

import torch
from torch._dynamo.utils import counters

from torch_lecture_ops import nn

torch.manual_seed(0)
model = torch.nn.Sequential(nn.SiLU(), nn.ELU(0.5), nn.LogSoftmax(-1))
loss = torch.compile(lambda x: nn.functional.cross_entropy(model(x), torch.zeros(4, dtype=torch.long)), fullgraph=True)
loss(torch.randn(4, 6, requires_grad=True)).backward()
print(json.dumps(counters["aot_autograd"]))
"""


@pytest.mark.processes
def test_a_second_process_finds_the_compiled_model(tmp_path):
    """In AOTAutograd's cache, by its counters."""
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    counts = []
    for _ in range(2):
        command = [sys.executable, "-W", "ignore", "-c", MODEL]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        counts.append(json.loads(done.stdout.splitlines()[-1]))
    assert "autograd_cache_bypass" not in counts[0]
    assert counts[1]["autograd_cache_hit"] == counts[1]["total"] == 1


def test_names_of_operators_stand_for_what_they_are_made_of():
    def names(factor):
        class Mine(Elementwise):
            @staticmethod
            def value(x):
                return factor * x

            @staticmethod
            def slope():
                return factor + 0.0

        graphs = []
        torch.compiler.reset()
        torch.compile(Mine.call, backend=lambda graph, inputs: graphs.append(graph) or graph.forward)(x())
        return [node.args[0] for node in graphs[0].graph.nodes if node.op == "call_function"]

    assert len(names(2.0)) == 1
    assert names(2.0) == names(2.0)
    assert names(2.0) != names(3.0)


def test_a_function_that_is_not_there_is_named():
    with pytest.raises(RuntimeError, match=r"^mine: no such function in this process; import"):
        torch.ops.torch_lecture_ops.call("mine", [x()], [], [])
