"""Functions of several tensors or of rows, gates and losses: everything that torch's own can do, as it does.

What a function is compared with is the built-in of its name, or an expression of torch's operators where there is none.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
import os
import pickle
import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo import compiled_autograd
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

from torch_lecture_ops import nn as ours_nn
from torch_lecture_ops.formula import (
    COMPILED,
    EngineUnavailable,
    FormulaError,
    RowKernel,
    row_kernel,
    row_sum,
    triton_engine,
)
from torch_lecture_ops.functions import Elementwise, Rowwise, operation
from torch_lecture_ops.functions.pointwise import Pointwise
from torch_lecture_ops.nn import functional as F

INF, NAN = float("inf"), float("nan")
HALF = (torch.float16, torch.bfloat16)
DTYPES = [torch.float64, torch.float32, *HALF]
Shape = tuple[int, ...]


# ------------------------------------------------------------------------------------------------------------ the table


@dataclass(frozen=True)
class Case:
    """A function of tensors alone.

    ours, builtin: it, and the same of torch.
    makers: one for each tensor, which makes it from the shape of the first one, of float64; those that make integers
        are labels. Tensors of floating point have gradients unless `constants` says otherwise.
    pointwise: whether it is elementwise, for tensors of any shape, and its result lies in memory as they do.
    least: how many dimensions its tensors have at least.
    constants: the places of tensors that have no gradient.
    formula: the same in torch's operators, where the built-in has not all of its derivatives, or others.
    composed: whether it is made of several functions or of torch's own products, each of which rounds its result.
    """

    ours: Callable[..., Tensor]
    builtin: Callable[..., Tensor]
    makers: tuple[Callable[[Shape], Tensor], ...]
    pointwise: bool = False
    least: int = 1
    constants: tuple[int, ...] = ()
    formula: Callable[..., Tensor] | None = None
    composed: bool = False

    @property
    def reference(self) -> Callable[..., Tensor]:
        return self.formula or self.builtin

    def tensors(self, shape: Shape = (3, 4), dtype: torch.dtype = torch.float32, device: str = "cpu") -> list[Tensor]:
        made = [make(shape) for make in self.makers]
        return [t.to(device, dtype) if t.is_floating_point() else t.to(device) for t in made]

    def wanted(self, tensors: Sequence[Tensor]) -> list[int]:
        """The places of the tensors that have gradients."""
        return [k for k, t in enumerate(tensors) if t.is_floating_point() and k not in self.constants]


def number(shape: Shape) -> Tensor:
    return torch.randn((), dtype=torch.float64)


def single(shape: Shape) -> Tensor:
    return torch.randn(1, dtype=torch.float64)


def full(shape: Shape) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def row(shape: Shape) -> Tensor:
    return torch.randn(shape[-1:], dtype=torch.float64)


def column(shape: Shape) -> Tensor:
    return torch.randn(*shape[:-1], 1, dtype=torch.float64)


def channels(shape: Shape) -> Tensor:
    return torch.randn(shape[1] if len(shape) > 1 else 1, dtype=torch.float64)


def probability(shape: Shape) -> Tensor:
    return torch.rand(shape, dtype=torch.float64) * 0.9 + 0.05


def positive(shape: Shape) -> Tensor:
    return torch.rand(shape, dtype=torch.float64) + 0.5


def positive_row(shape: Shape) -> Tensor:
    return positive(shape[-1:])


def positive_channels(shape: Shape) -> Tensor:
    return positive(shape[1:2])


def labels(shape: Shape) -> Tensor:
    """Of the classes in dimension 1."""
    return torch.randint(max(shape[1], 1), (shape[0], *shape[2:]))


def some_labels(shape: Shape) -> Tensor:
    """A third of them to be ignored."""
    made = labels(shape)
    return made.masked_fill(torch.rand(made.shape) < 0.3, -100)


def distribution(shape: Shape) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).softmax(1)


def pieces(k: int, dim: int) -> Callable[[Shape], Tensor]:
    def make(shape: Shape) -> Tensor:
        sizes = list(shape)
        sizes[dim] *= k
        return torch.randn(sizes, dtype=torch.float64)

    return make


def largest_piece(k: int, dim: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x.unflatten(dim, (x.shape[dim] // k, k)).max(dim if dim < 0 else dim + 1).values


def shaped(*sizes: int | None) -> Callable[[Shape], Tensor]:
    """None stands for the last dimension of the shape, 0 for the one before, -1 for all dimensions but the last two."""

    def make(shape: Shape) -> Tensor:
        dims: list[int] = []
        for size in sizes:
            dims += shape[:-2] if size == -1 else [shape[-1] if size is None else shape[-2] if size == 0 else size]
        return torch.randn(dims, dtype=torch.float64)

    return make


def of_both(name: str, *makers: Any, case: dict[str, Any] | None = None, **options: Any) -> Case:
    """Ours and the built-in of that name, with these options."""
    builtin = getattr(nn.functional, name, None) or getattr(torch, name)
    return Case(
        functools.partial(getattr(F, name), **options), functools.partial(builtin, **options), makers, **(case or {})
    )


def loss(name: str, *makers: Any, tensors: tuple[str, ...] = (), case: Any = None, **options: Any) -> Case:
    """A loss, whose third and following tensors have these names."""

    def named(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda x, y, *others: function(x, y, **dict(zip(tensors, others, strict=True)), **options)

    return Case(named(getattr(F, name)), named(getattr(nn.functional, name)), makers, **(case or {}))


def weighted_bce(a: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """binary_cross_entropy with a weight that has a gradient, which torch's does not."""
    return (w * nn.functional.binary_cross_entropy(a, y, reduction="none")).mean()


def weighted_bce_with_logits(z: Tensor, y: Tensor, w: Tensor | float, p: Tensor | float) -> Tensor:
    """binary_cross_entropy_with_logits with weights that have gradients, which torch's do not."""
    return w * ((1 - y) * z + (1 + (p - 1) * y) * nn.functional.softplus(-z, threshold=40))


def copied(x: Tensor) -> Tensor:
    """Of three copies the second is not used."""
    a, _, b = F.copy(x, 3)
    return 2.0 * a - b


def route(a: Tensor, b: Tensor) -> Tensor:
    """The maximum as our gate differentiates it: of equal ones a gets the gradient (torch.maximum: half to each)."""
    return torch.where((a >= b) | a.isnan(), a, b)


PLAIN: dict[str, Any] = dict(pointwise=True, least=0)
PRODUCT: dict[str, Any] = dict(composed=True)
CASES = {
    "affine": Case(lambda x: F.affine(x, -2.0, 0.7), lambda x: -2.0 * x + 0.7, (full,), **PLAIN),
    "affine of numbers that learn": Case(F.affine, lambda x, a, c: a * x + c, (full, number, number), **PLAIN),
    "affine of rows": Case(F.affine, lambda x, a, c: a * x + c, (full, row, row), pointwise=True),
    "affine of columns": Case(F.affine, lambda x, a, c: a * x + c, (full, column, row), pointwise=True),
    "affine of one tensor": Case(lambda x, a: F.affine(x, a, 0.7), lambda x, a: a * x + 0.7, (full, full), **PLAIN),
    "prelu": of_both("prelu", full, single, case=PLAIN),
    "prelu of channels": of_both("prelu", full, channels, case=dict(pointwise=True)),
    "maxout": Case(lambda x: F.maxout(x, 3), largest_piece(3, -1), (pieces(3, -1),)),
    "maxout of two": Case(lambda x: F.maxout(x, 2), largest_piece(2, -1), (pieces(2, -1),)),
    "maxout in dim 0": Case(lambda x: F.maxout(x, 2, 0), largest_piece(2, 0), (pieces(2, 0),)),
    "maxout in dim 1": Case(lambda x: F.maxout(x, 4, dim=1), largest_piece(4, 1), (pieces(4, 1),), least=2),
    "softmax": of_both("softmax", full, dim=-1, case=dict(least=0)),
    "softmax in dim 0": of_both("softmax", full, dim=0, case=dict(least=0)),
    "log_softmax": of_both("log_softmax", full, dim=-1, case=dict(least=0)),
    "log_softmax in dim 0": of_both("log_softmax", full, dim=0, case=dict(least=0)),
    "add": of_both("add", full, full, case=PLAIN),
    "add of a row": of_both("add", full, row, case=dict(pointwise=True)),
    "add of a number": Case(lambda x: F.add(0.7, x), lambda x: 0.7 + x, (full,), **PLAIN),
    "mul": of_both("mul", full, full, case=PLAIN),
    "mul of a number": Case(lambda x: F.mul(0.7, x), lambda x: 0.7 * x, (full,), **PLAIN),
    "mul of a column": of_both("mul", column, full, case=dict(pointwise=True)),
    "mul of a column and a row": of_both("mul", column, row),
    "maximum": Case(F.maximum, torch.maximum, (full, full), formula=route, **PLAIN),
    "maximum of a row": Case(F.maximum, torch.maximum, (row, full), formula=route, pointwise=True),
    "maximum of a number": Case(
        lambda x: F.maximum(x, 0.7),
        lambda x: torch.maximum(x, torch.tensor(0.7)),
        (full,),
        formula=lambda x: x.clamp(min=0.7),
        **PLAIN,
    ),
    "copy": Case(copied, lambda x: 2.0 * x.clone() - x.clone(), (full,), **PLAIN),
    "matmul": of_both("matmul", full, shaped(None, 5), case=PRODUCT),
    "matmul of vectors": of_both("matmul", row, row, case=PRODUCT),
    "matmul by a vector": of_both("matmul", full, row, case=PRODUCT),
    "matmul of a vector": of_both("matmul", row, shaped(-1, None, 5), case=PRODUCT),
    "matmul of batches": of_both("matmul", shaped(2, 0, None), shaped(2, None, 5), case=dict(PRODUCT, least=2)),
    "matmul of batches that broadcast": of_both(
        "matmul", shaped(2, 1, 0, None), shaped(3, None, 2), case=dict(PRODUCT, least=2)
    ),
    "quadratic_cost": Case(
        F.quadratic_cost,
        lambda a, y: nn.functional.mse_loss(a, y, reduction="sum") / max(a.shape[-1] if a.dim() else 1, 1),
        (full, full),
        least=0,
    ),
    "quadratic_cost sum": Case(
        functools.partial(F.quadratic_cost, reduction="sum"),
        functools.partial(nn.functional.mse_loss, reduction="sum"),
        (full, full),
        least=0,
    ),
    "quadratic_cost mean": Case(
        functools.partial(F.quadratic_cost, reduction="mean"), nn.functional.mse_loss, (full, full), least=0
    ),
    "mse_loss": of_both("mse_loss", full, full, case=dict(least=0)),
    "mse_loss sum": of_both("mse_loss", full, full, reduction="sum", case=dict(least=0)),
    "mse_loss none": of_both("mse_loss", full, full, reduction="none", case=PLAIN),
    "mse_loss weight": loss("mse_loss", full, full, positive, tensors=("weight",), case=dict(composed=True)),
    "mse_loss weight none": loss(
        "mse_loss", full, full, positive, tensors=("weight",), reduction="none", case=PLAIN | PRODUCT
    ),
    "binary_cross_entropy": of_both("binary_cross_entropy", probability, probability, case=dict(least=0)),
    "binary_cross_entropy sum": of_both("binary_cross_entropy", probability, probability, reduction="sum"),
    "binary_cross_entropy none": of_both(
        "binary_cross_entropy", probability, probability, reduction="none", case=PLAIN
    ),
    "binary_cross_entropy weight": Case(
        F.binary_cross_entropy,
        nn.functional.binary_cross_entropy,
        (probability, probability, positive),
        formula=weighted_bce,
        least=0,
    ),
    "binary_cross_entropy weight of rows": loss(
        "binary_cross_entropy",
        *(probability, probability, positive_row),
        tensors=("weight",),
        reduction="none",
        case=dict(pointwise=True, constants=(2,)),
    ),
    "binary_cross_entropy_with_logits": of_both("binary_cross_entropy_with_logits", full, probability),
    "binary_cross_entropy_with_logits sum": of_both(
        "binary_cross_entropy_with_logits", full, probability, reduction="sum", case=dict(least=0)
    ),
    "binary_cross_entropy_with_logits none": of_both(
        "binary_cross_entropy_with_logits", full, probability, reduction="none", case=PLAIN
    ),
    "binary_cross_entropy_with_logits weight": loss(
        "binary_cross_entropy_with_logits",
        *(full, probability, positive),
        tensors=("weight",),
        reduction="none",
        case=dict(PLAIN, constants=(2,)),
    ),
    "binary_cross_entropy_with_logits pos_weight": loss(
        "binary_cross_entropy_with_logits",
        *(full, probability, positive_row),
        tensors=("pos_weight",),
        case=dict(constants=(2,), formula=lambda z, y, p: weighted_bce_with_logits(z, y, 1.0, p).mean()),
    ),
    "binary_cross_entropy_with_logits weights that learn": loss(
        "binary_cross_entropy_with_logits",
        *(full, probability, positive, positive_row),
        tensors=("weight", "pos_weight"),
        reduction="none",
        case=dict(pointwise=True, formula=weighted_bce_with_logits),
    ),
    "binary_cross_entropy_with_logits pos_weight that learns": loss(
        "binary_cross_entropy_with_logits",
        *(full, probability, positive_row),
        tensors=("pos_weight",),
        case=dict(formula=lambda z, y, p: weighted_bce_with_logits(z, y, 1.0, p).mean()),
    ),
    "cross_entropy": of_both("cross_entropy", full, labels, case=dict(least=2)),
    "cross_entropy none": of_both("cross_entropy", full, some_labels, reduction="none", case=dict(least=2)),
    "cross_entropy sum": of_both("cross_entropy", full, some_labels, reduction="sum", case=dict(least=2)),
    "cross_entropy ignore_index": of_both("cross_entropy", full, labels, ignore_index=1, case=dict(least=2)),
    "cross_entropy weight": loss(
        "cross_entropy",
        *(full, some_labels, positive_channels),
        tensors=("weight",),
        case=dict(constants=(2,), least=2),
    ),
    "cross_entropy label_smoothing": of_both(
        "cross_entropy", full, some_labels, label_smoothing=0.2, case=dict(least=2)
    ),
    "cross_entropy weight label_smoothing": loss(
        "cross_entropy",
        *(full, some_labels, positive_channels),
        tensors=("weight",),
        label_smoothing=0.2,
        case=dict(constants=(2,), least=2),
    ),
    "cross_entropy weight label_smoothing none": loss(
        "cross_entropy",
        *(full, some_labels, positive_channels),
        tensors=("weight",),
        label_smoothing=0.2,
        reduction="none",
        case=dict(constants=(2,), least=2),
    ),
    "cross_entropy of probabilities": of_both("cross_entropy", full, distribution, case=dict(least=2)),
    "cross_entropy of probabilities none": of_both(
        "cross_entropy", full, distribution, reduction="none", case=dict(least=2)
    ),
    "cross_entropy of probabilities weight label_smoothing": loss(
        "cross_entropy",
        *(full, distribution, positive_channels),
        tensors=("weight",),
        label_smoothing=0.2,
        reduction="sum",
        case=dict(constants=(2,), least=2, composed=True),
    ),
}
EACH = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def name_of(case: Case) -> str:
    return next(name for name, other in CASES.items() if other is case)


SAVES_ITS_OUTPUT = [case for name, case in CASES.items() if "softmax" in name]
OF_ROWS = [case for name, case in CASES.items() if name.startswith("cross_entropy")]
LOSSES = [case for name, case in CASES.items() if "cost" in name or "loss" in name or "cross_entropy" in name]
PRODUCTS = [case for name, case in CASES.items() if name.startswith("matmul")]
OF_PIECES = [case for name, case in CASES.items() if name.startswith("maxout")]


def some(*names: str) -> Any:
    return pytest.mark.parametrize("case", [CASES[name] for name in names], ids=names)


ONE_OF_EACH = some(*(name for name in CASES if " " not in name))
SEVERAL = some(
    *(name for name in CASES if " " not in name),
    *("affine of numbers that learn", "affine of columns", "prelu of channels", "maxout in dim 1", "softmax in dim 0"),
    *("mul of a column and a row", "maximum of a number", "matmul of vectors", "matmul of batches that broadcast"),
    *("mse_loss weight", "binary_cross_entropy weight", "binary_cross_entropy_with_logits weights that learn"),
    *("cross_entropy weight label_smoothing", "cross_entropy of probabilities weight label_smoothing"),
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_every_function_is_in_a_table():
    elsewhere = runpy.run_path(str(Path(__file__).with_name("test_elementwise.py")))["CASES"]
    tested = {name.split()[0] for name in CASES} | {row[0].split()[0] for row in elsewhere}
    assert set(F.__all__) - tested == set()
    assert tested - set(F.__all__) == set()


# ------------------------------------------------------------------------------------------------- values and gradients


def leaves(tensors: Sequence[Tensor], wanted: Sequence[int]) -> list[Tensor]:
    return [t.detach().requires_grad_(k in wanted) for k, t in enumerate(tensors)]


def results(
    function: Callable[..., Tensor], tensors: Sequence[Tensor], wanted: Sequence[int], g: Tensor | None = None
) -> list[Tensor]:
    """The value, and the gradients of the tensors that have one; of the sum without g."""
    tensors = leaves(tensors, wanted)
    y = function(*tensors)
    g = torch.ones_like(y) if g is None else g
    return [y.detach(), *torch.autograd.grad(y, [tensors[k] for k in wanted], g)]


def upstream(case: Case, tensors: Sequence[Tensor]) -> Tensor:
    return torch.randn_like(case.reference(*tensors))


def assert_same(got: Any, expected: Any, name: str = "", **tolerance: float) -> None:
    torch.testing.assert_close(got, expected, equal_nan=True, msg=lambda text: f"{name}: {text}", **tolerance)


def assert_exact(case: Case, tensors: Sequence[Tensor]) -> None:
    """The value and the gradients are those of the built-in in float64, but for roundings.

    What is computed in float32 (half types too) or float64 makes at most 16 of them: functions of kernels are good to 2
    ulp, and a formula has up to five such steps. They are relative to the largest number that occurs, as numbers of
    about that size are subtracted; in a gradient that is the sum of n terms they add up as a random walk. A half type
    is rounded once more, in the end: by half an ulp, as the exact result is. What softmax saves of half type was
    rounded before. What is composed of several functions may be as far off as the built-in is.
    """
    wanted, dtype = case.wanted(tensors), tensors[0].dtype
    g = upstream(case, tensors)
    got = results(case.ours, tensors, wanted, g)
    in_double = [t.double() if t.is_floating_point() else t for t in tensors]
    exact = results(case.reference, in_double, wanted, g.double())
    builtin = results(case.reference, tensors, wanted, g) if case.composed else exact
    eps = torch.finfo(torch.float32 if dtype in HALF else dtype).eps
    final = torch.finfo(dtype).eps if dtype in HALF else 0.0
    most = max(t.numel() for t in exact)
    largest = max(map(largest_in, exact))
    for place, (a, b, c) in enumerate(zip(got, exact, builtin, strict=True)):
        assert a.dtype is dtype
        terms = most / max(1, b.numel()) if place else 1
        atol = 16 * eps * largest * math.sqrt(terms) + torch.finfo(dtype).tiny * final
        if place and dtype in HALF and case in SAVES_ITS_OUTPUT:
            atol += 2 * final * largest
        if case.composed:
            atol += 2 * largest_in(c.double() - b) + final * largest
        assert_same(a.double(), b.to(dtype).double(), f"{place} of {tuple(g.shape)}", rtol=16 * eps + final, atol=atol)


def largest_in(t: Tensor) -> float:
    return t.abs().nan_to_num(posinf=0).amax().item() if t.numel() else 0.0


def check_rows(case: Case, dtype: torch.dtype, device: str, interpreted: bool) -> None:
    sizes = [*range(2, 10), 15, 16, 17, 31, 32, 33, 63, 64, 65, 70]
    if interpreted:  # all of them, by one case or another
        sizes = sizes[list(CASES.values()).index(case) % 6 :: 6]
    for size in sizes:
        assert_exact(case, case.tensors((3, size), dtype, device))


@EACH
def test_values_and_gradients(case, device, interpreted):
    """Of rows that fill a vector of the processor, or two, or leave something over."""
    check_rows(case, torch.float32, device, interpreted)


@SEVERAL
def test_values_and_gradients_of_bfloat16(case, device, interpreted):
    check_rows(case, torch.bfloat16, device, interpreted)


@pytest.mark.sweep
@ONE_OF_EACH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_values_and_gradients_of_other_dtypes(case, dtype, device, interpreted):
    """float16 differs from bfloat16 only in how numbers are loaded and stored; float64 is what gradcheck takes."""
    check_rows(case, dtype, device, interpreted)


@pytest.mark.sweep
@EACH
@pytest.mark.parametrize("shape", [(3, 1), (1, 7), (2, 3, 5), (2, 3, 4, 5), (5,), (1,), ()], ids=str)
def test_shapes(case, shape, device):
    if len(shape) >= case.least:
        assert_exact(case, case.tensors(shape, device=device))
        if not shape:
            assert_exact(case, case.tensors(shape, torch.bfloat16, device=device))


@EACH
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (2, 0, 3), (0,)], ids=str)
def test_nothing(case, shape, device):
    if len(shape) >= case.least and (case not in OF_ROWS or shape[1]):  # a row without classes has no label
        assert_exact(case, case.tensors(shape, device=device))


@EACH
def test_the_engine_of_a_place_computes(case, device, monkeypatch):
    """What the tests below and above are to test: value and gradients come from Triton where it is the engine."""
    calls, call = [], triton_engine.Function.__call__
    monkeypatch.setattr(triton_engine.Function, "__call__", lambda *args, **kw: calls.append(args) or call(*args, **kw))
    tensors = case.tensors((3, 5), device=device)
    results(case.ours, tensors, case.wanted(tensors))
    # Of a column and a row none lies as the result does.
    by_torch = case in [*PRODUCTS, CASES["copy"], CASES["mul of a column and a row"]]
    assert bool(calls) == (COMPILED[device].name == "triton" and not by_torch)


@EACH
def test_tensors_for_several_programs(case, device):
    """What one program of a device computes is 4096 elements, or a few rows."""
    assert_exact(case, case.tensors((5, 1203), device=device))


@contextmanager
def threads(number: int):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.not_interpreted
@EACH
@pytest.mark.parametrize("shape", [(4099, 33), (3, 33001), (2, 3, 20000)], ids=str)
def test_large_tensors(case, shape, device):
    """Several blocks of rows in several threads: exact, and the same to the last bit in one thread."""
    tensors = case.tensors(shape, device=device)
    wanted, g = case.wanted(tensors), upstream(case, tensors)
    with threads(3):
        assert_exact(case, tensors)
        many = results(case.ours, tensors, wanted, g)
    if case not in PRODUCTS:
        with threads(1):
            one = results(case.ours, tensors, wanted, g)
        for a, b in zip(one, many, strict=True):
            assert torch.equal(a, b)


@pytest.mark.not_interpreted
@some("prelu", "maxout", "softmax", "mul", "matmul", "binary_cross_entropy", "cross_entropy")
def test_large_tensors_of_half_type(case, device):
    assert_exact(case, case.tensors((4099, 33), torch.bfloat16, device=device))


# ---------------------------------------------------------------------------------------------------------- derivatives


def of_wanted(
    function: Callable[..., Tensor], case: Case, tensors: Sequence[Tensor]
) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """The function of those tensors alone that have gradients, and these."""
    wanted = case.wanted(tensors)

    def partial(*given: Tensor) -> Tensor:
        filled = list(tensors)
        for place, t in zip(wanted, given, strict=True):
            filled[place] = t
        return function(*filled)

    return partial, tuple(tensors[place] for place in wanted)


@pytest.mark.not_interpreted
@EACH
def test_gradcheck_of_all_orders(case, device):
    function, tensors = of_wanted(case.ours, case, case.tensors((2, 3), torch.float64, device=device))
    tensors = tuple(t.requires_grad_() for t in tensors)
    assert gradcheck(function, tensors, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
    assert gradgradcheck(
        function, tensors, check_fwd_over_rev=True, check_rev_over_rev=True, check_batched_grad=True, fast_mode=True
    )


TRANSFORMS = {
    "grad": lambda f, x, v, n: grad(f, n)(*x),
    "grad of grad": lambda f, x, v, n: grad(lambda *x: bent(*grad(f, n)(*x)), n)(*x),
    "grad of grad of grad": lambda f, x, v, n: grad(lambda *x: bent(*grad(lambda *x: bent(*grad(f, n)(*x)), n)(*x)), n)(
        *x
    ),
    "jvp of grad": lambda f, x, v, n: jvp(grad(f, n), x, v),
    "grad of jvp": lambda f, x, v, n: grad(lambda *x: jvp(f, x, v)[1], n)(*x),
    "hessian": lambda f, x, v, n: hessian(f, n)(*x),
}
OF_TENSORS = {
    "jvp": lambda f, x, v, n: jvp(f, x, v),
    "jvp of jvp": lambda f, x, v, n: jvp(lambda *x: jvp(f, x, v)[1], x, v),
    "vjp": lambda f, x, v, n: vjp(f, *x)[1](torch.ones_like(f(*x)) * 0.7),
    "jacrev": lambda f, x, v, n: jacrev(f, n)(*x),
    "jacfwd": lambda f, x, v, n: jacfwd(f, n)(*x),
    "jacfwd of jacfwd": lambda f, x, v, n: jacfwd(jacfwd(f, n), n)(*x),
    "jacrev of jacfwd": lambda f, x, v, n: jacrev(jacfwd(f, n), n)(*x),
    "jacrev of jacrev": lambda f, x, v, n: jacrev(jacrev(f, n), n)(*x),
}


def bent(*tensors: Tensor) -> Tensor:
    """A number whose gradient is different at each of their elements."""
    return sum((t.sin().sum() for t in tensors), torch.zeros((), dtype=tensors[0].dtype, device=tensors[0].device))


@pytest.mark.not_interpreted
@EACH
def test_function_transforms(case, device):
    tensors = case.tensors((2, 3), torch.float64, device=device)
    (ours, x), (builtin, _) = (of_wanted(f, case, tensors) for f in (case.ours, case.reference))
    v, places = tuple(map(torch.randn_like, x)), tuple(range(len(x)))
    for name, transform in OF_TENSORS.items():
        assert_same(transform(ours, x, v, places), transform(builtin, x, v, places), name)
    ours, builtin = (lambda *x, f=f: bent(f(*x)) for f in (ours, builtin))
    for name, transform in TRANSFORMS.items():
        assert_same(transform(ours, x, v, places), transform(builtin, x, v, places), name)


@pytest.mark.not_interpreted
@EACH
def test_vmap(case, device):
    """Over each choice of the tensors, in the first and in the last dimension; and of gradients, per sample."""
    one, two, three = (case.tensors((2, 3), torch.float64, device=device) for _ in range(3))
    wanted = tuple(case.wanted(one))
    for chosen in itertools.product([True, False], repeat=len(one)):
        if not any(chosen):
            continue
        others = [[t if each else fixed for t, each, fixed in zip(ts, chosen, one, strict=True)] for ts in (two, three)]
        samples = [one, *others]
        expected = torch.stack([case.reference(*sample) for sample in samples])
        for dim in (0, -1):
            stacked = [
                torch.stack(ts, dim) if each else ts[0]
                for ts, each in zip(zip(*samples, strict=True), chosen, strict=True)
            ]
            in_dims = tuple(dim if each else None for each in chosen)
            assert_same(vmap(case.ours, in_dims)(*stacked), expected, f"{in_dims}")
            out = vmap(case.ours, in_dims, out_dims=-1)(*stacked)
            assert_same(out, expected.movedim(0, -1), f"{in_dims}, out in the last")
            derivative = vmap(grad(lambda *x: bent(case.ours(*x)), wanted), in_dims)(*stacked)
            of_each = [grad(lambda *x: bent(case.reference(*x)), wanted)(*sample) for sample in samples]
            expected_derivative = tuple(map(torch.stack, zip(*of_each, strict=True)))
            assert_same(derivative, expected_derivative, f"gradient of {in_dims}")
    nested = [vmap(vmap(f))(*(torch.stack([t, t])[None] for t in one)) for f in (case.ours, case.reference)]
    assert_same(*nested, "nested")


@pytest.mark.not_interpreted
@EACH
def test_forward_mode_outside_transforms(case, device):
    """Where each choice of the tensors has a tangent."""
    tensors = case.tensors((3, 5), device=device)
    wanted = case.wanted(tensors)
    tangents = [torch.randn_like(t) if k in wanted else None for k, t in enumerate(tensors)]
    for chosen in itertools.product([True, False], repeat=len(wanted)):
        with forward_ad.dual_level():
            duals = list(tensors)
            for place in itertools.compress(wanted, chosen):
                duals[place] = forward_ad.make_dual(tensors[place], tangents[place])
            got, expected = (forward_ad.unpack_dual(f(*duals)) for f in (case.ours, case.reference))
        for a, b in zip(got, expected, strict=True):
            if b is not None or any(chosen):
                assert_same(a, b, f"{chosen}")


@pytest.mark.not_interpreted
@EACH
def test_batched_gradients(case, device):
    tensors = case.tensors((3, 5), device=device)
    wanted, derivatives = case.wanted(tensors), []
    for function in (case.ours, case.reference):
        inputs = leaves(tensors, wanted)
        y = function(*inputs)
        g = torch.linspace(-1, 1, 4 * y.numel(), device=device).view(4, *y.shape)
        derivatives.append(torch.autograd.grad(y, [inputs[k] for k in wanted], g, is_grads_batched=True))
    assert_same(*derivatives)


@pytest.mark.sweep
@EACH
@pytest.mark.parametrize(
    "dtype",
    [torch.float32, *(pytest.param(t, marks=pytest.mark.not_interpreted) for t in (torch.float64, torch.bfloat16))],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
def test_some_inputs_without_gradients(case, dtype, monkeypatch, device):
    """Each choice of them: what the other gradients need is not saved, and there stands NaN instead.

    In float64 second derivatives, too.
    """
    tensors = case.tensors((3, 5), dtype, device=device)
    wanted, g = case.wanted(tensors), upstream(case, tensors)
    every = results(case.ours, tensors, wanted, g)[1:]
    monkeypatch.setattr(operation, "_stand_in", lambda shape, dtype, g: g.new_full(shape, NAN, dtype=dtype))
    for chosen in itertools.product([True, False], repeat=len(wanted)):
        some = list(itertools.compress(wanted, chosen))
        if not some:
            continue
        with torch.autograd.detect_anomaly():
            got = results(case.ours, tensors, some, g)[1:]
        assert_same(got, list(itertools.compress(every, chosen)), f"{some}")
        if dtype is torch.float64:
            seconds = [second_derivatives(f, tensors, some, g) for f in (case.ours, case.reference)]
            assert_same(*seconds, f"second derivatives of {some}")


def second_derivatives(
    function: Callable[..., Tensor], tensors: Sequence[Tensor], wanted: Sequence[int], g: Tensor
) -> list[Tensor]:
    """Of the tensors that have gradients, and of the upstream gradient."""
    tensors, g = leaves(tensors, wanted), g.detach().requires_grad_()
    inputs = [tensors[k] for k in wanted]
    first = torch.autograd.grad(function(*tensors), inputs, g, create_graph=True)
    return list(torch.autograd.grad(bent(*first), [*inputs, g], materialize_grads=True))


@pytest.mark.not_interpreted
@EACH
def test_backward_twice(case, device):
    tensors = case.tensors((3, 5), device=device)
    wanted = case.wanted(tensors)
    inputs = leaves(tensors, wanted)
    y = case.ours(*inputs)
    g = torch.randn_like(y)
    first = torch.autograd.grad(y, [inputs[k] for k in wanted], g, retain_graph=True)
    assert_same(first, torch.autograd.grad(y, [inputs[k] for k in wanted], g, retain_graph=True))
    assert_same(first, torch.autograd.grad(y, [inputs[k] for k in wanted], g))
    assert_same([y.detach(), *first], results(case.reference, tensors, wanted, g))


# ------------------------------------------------------------------------------------- compilers, export, checkpointing


@pytest.mark.not_interpreted
@ONE_OF_EACH
@pytest.mark.compiles
def test_compiles_with_sizes_that_change(case, device):
    """Forward and backward, into one graph, which is compiled once."""
    torch._dynamo.reset()
    compiled = torch.compile(case.ours, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in [(7, 11), (8, 13), (9, 17)]:
        tensors = case.tensors(shape, device=device)
        wanted, g = case.wanted(tensors), upstream(case, tensors)
        with torch._dynamo.config.patch(error_on_recompile=shape != (7, 11)):
            assert_same(results(compiled, tensors, wanted, g), results(case.reference, tensors, wanted, g), f"{shape}")
    with torch.no_grad():
        assert_same(compiled(*tensors), case.reference(*tensors))


class Centred(Rowwise):
    @staticmethod
    def value(x: Any) -> Any:
        return x - row_sum(x) / row_sum(0 * x + 1)

    chain = staticmethod(lambda g, y: g - row_sum(g) / row_sum(0 * g + 1))
    push = chain


class Line(Elementwise):
    @staticmethod
    def value(x: Any, *, a: Any, c: Any) -> Any:
        return a * x + c

    @staticmethod
    def slope(*, a: Any) -> Any:
        return a


@pytest.mark.parametrize("is_wanted", [False, True], ids=["without a gradient", "with a gradient"])
@pytest.mark.parametrize("call", [lambda x: Centred.call(x, -1), lambda x: Line.call(x, False, 2.0, 1.0)])
def test_functions_of_users_compile(call, is_wanted):
    """With as many values as forward(ctx, *inputs) has parameters, which the compiler takes for one without ctx."""
    torch._dynamo.reset()
    x = torch.randn(3, 5, requires_grad=is_wanted)
    compiled = torch.compile(call, fullgraph=True, backend="eager")
    assert_same(compiled(x).detach(), call(x).detach())
    if is_wanted:
        assert_same(*(torch.autograd.grad(f(x).square().sum(), x) for f in (compiled, call)))


@pytest.mark.not_interpreted
@pytest.mark.parametrize("names", [["softmax", "mse_loss"], pytest.param(list(CASES), marks=pytest.mark.slow)], ids=len)
@pytest.mark.compiles
def test_all_compile_into_kernels(names, device):
    """Forward and backward by Inductor, all functions in one graph, as it takes seconds for each."""
    torch._dynamo.reset()
    cases = [CASES[name] for name in names]
    made = [case.tensors((3, 70), device=device) for case in cases]
    wanted = [case.wanted(tensors) for case, tensors in zip(cases, made, strict=True)]

    def together(which: str, inputs: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        return [getattr(case, which)(*tensors) for case, tensors in zip(cases, inputs, strict=True)]

    outcomes = []
    for function in (torch.compile(together, fullgraph=True), together):
        inputs = list(map(leaves, made, wanted))
        ys = function("ours" if function is not together else "reference", inputs)
        gs = [torch.randn(y.shape, generator=torch.Generator().manual_seed(k)).to(device) for k, y in enumerate(ys)]
        differentiated = [tensors[k] for tensors, places in zip(inputs, wanted, strict=True) for k in places]
        outcomes.append([*(y.detach() for y in ys), *torch.autograd.grad(ys, differentiated, gs)])
    names = [*names, *(f"{name}: {k}" for name, places in zip(names, wanted, strict=True) for k in places)]
    for name, got, expected in zip(names, *outcomes, strict=True):
        assert_same(got, expected, name)


@pytest.mark.not_interpreted
@some("affine of numbers that learn", "maxout", "softmax", "mul", "matmul", "mse_loss", "cross_entropy")
@pytest.mark.compiles
def test_compiles_with_transforms(case, device):
    """(Not with vmap of grad, which torch 2.15 does not compile for any Function.)"""
    tensors = case.tensors((3, 5), device=device)
    (ours, x), (reference, _) = (of_wanted(f, case, tensors) for f in (case.ours, case.reference))
    _, another = of_wanted(ours, case, case.tensors((3, 5), device=device))
    v, places = tuple(map(torch.randn_like, x)), tuple(range(len(x)))

    def transformed(f: Callable[..., Tensor]) -> dict[str, Any]:
        return {
            "vmap": vmap(f)(*map(torch.stack, zip(x, another, strict=True))),
            "grad": grad(lambda *x: bent(f(*x)), places)(*x),
            "jvp": jvp(f, x, v),
        }

    torch._dynamo.reset()
    assert_same(torch.compile(transformed, fullgraph=True, backend="aot_eager")(ours), transformed(reference))


@pytest.mark.not_interpreted
@ONE_OF_EACH
@pytest.mark.parametrize("strict", [False, True])
def test_exports(case, strict, device):
    class Model(nn.Module):
        def forward(self, *tensors: Tensor) -> Tensor:
            return case.ours(*tensors)

    tensors = case.tensors((3, 4), device=device)
    exported = torch.export.export(Model(), tuple(tensors), strict=strict)
    assert_same(exported.module()(*tensors), case.reference(*tensors))
    assert all(
        str(node.target).startswith("aten")
        for node in exported.graph.nodes
        if "getitem" not in str(node.target) and node.op == "call_function"
    )


@pytest.mark.not_interpreted
@EACH
def test_traces_into_torchs_operators(case, device):
    """make_fx, which sees the gradient too."""
    tensors = case.tensors((3, 4), device=device)
    wanted, g = case.wanted(tensors), upstream(case, tensors)
    traced = make_fx(lambda *t: results(case.ours, t, wanted, g))(*tensors)
    again = case.tensors((3, 4), device=device)
    assert_same(traced(*again), results(case.reference, again, wanted, g))


@pytest.mark.not_interpreted
@some("softmax", "mul", "mse_loss", "cross_entropy")
@pytest.mark.filterwarnings("ignore:Dynamo (does not know how to trace|detected a call):UserWarning")  # of kernels
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # Dynamo looks
@pytest.mark.compiles
def test_compiled_autograd(case, device):
    """The compiler sees backward only, of a forward pass that went by kernels."""
    tensors = case.tensors((3, 5), device=device)
    wanted, g = case.wanted(tensors), upstream(case, tensors)
    inputs = leaves(tensors, wanted)
    y = case.ours(*inputs)
    torch._dynamo.reset()
    with compiled_autograd._enable(torch.compile(backend="eager")):
        y.backward(g)
    assert_same([y.detach(), *(inputs[k].grad for k in wanted)], results(case.reference, tensors, wanted, g))


@pytest.mark.not_interpreted
@EACH
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing(case, use_reentrant, device):
    tensors = case.tensors((3, 5), device=device)
    wanted = case.wanted(tensors)
    function = functools.partial(checkpoint, case.ours, use_reentrant=use_reentrant)
    inputs = leaves(tensors, wanted)
    y = function(*inputs)
    y.backward(torch.ones_like(y))
    got = [y.detach(), *(inputs[k].grad for k in wanted)]
    assert_same(got, results(case.reference, tensors, wanted))


# ---------------------------------------------------------------------------------------------------- what is kept when


def saved_by(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = function(*inputs)
    return saved, y


def bytes_in(saved: Sequence[Tensor], besides: Sequence[Tensor] = ()) -> int:
    """Of each storage once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in saved}
    for t in besides:
        storages.pop(t.untyped_storage().data_ptr(), None)
    return sum(storages.values())


@pytest.mark.not_interpreted
@EACH
def test_nothing_is_saved_without_a_gradient(case, device):
    tensors = case.tensors((6, 5), device=device)
    assert saved_by(case.ours, tensors)[0] == []
    with torch.no_grad():
        assert saved_by(case.ours, leaves(tensors, case.wanted(tensors)))[0] == []


OF_NOTHING = [CASES[name] for name in ("affine", "add", "add of a row", "add of a number", "copy")]

SAVES_NO_INPUT = [*OF_NOTHING, CASES["mul of a number"]]


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_saved_tensors(case, dtype):
    """Whichever of the tensors have gradients, never more than the built-in saves, but for one number.

    Cross-entropy adds two numbers a row: with them, and x, it need not keep or compute the log-softmax again. Weighted
    probabilities of half type stay in float32.
    """
    tensors = case.tensors((48, 16), dtype)
    wanted = case.wanted(tensors)
    more = 8
    if case in OF_ROWS:
        more += 48 * 2 * 4 + (48 * 16 * 2 if case.composed and dtype in HALF else 0)
    for chosen in itertools.product([True, False], repeat=len(wanted)):
        inputs = leaves(tensors, list(itertools.compress(wanted, chosen)))
        saved, y = saved_by(case.ours, inputs)
        try:
            expected, _ = saved_by(case.builtin, inputs)
        except RuntimeError:  # "... is not differentiable with respect to argument 'weight' ..."
            continue
        assert bytes_in(saved) <= bytes_in(expected) + more, f"gradients of {chosen}"
        if case in OF_NOTHING:
            assert saved == []
        if case in SAVES_ITS_OUTPUT and any(chosen):
            assert [t.data_ptr() for t in saved] == [y.data_ptr()]


@some("affine of columns", "mul", "matmul")
@pytest.mark.compiles
def test_compiled_functions_save_what_is_needed(case):
    torch._dynamo.reset()
    compiled, tensors = torch.compile(case.ours, fullgraph=True, backend="aot_eager"), case.tensors((48, 16))
    for chosen in itertools.product([True, False], repeat=len(tensors)):
        inputs = leaves(tensors, list(itertools.compress(range(len(tensors)), chosen)))
        saved, expected = (bytes_in(saved_by(f, inputs)[0]) for f in (compiled, case.builtin))
        assert saved <= expected, f"gradients of {chosen}"


@some(*(name for name in CASES if name.startswith("maxout")))
def test_maxout_saves_a_byte_an_output(case):
    saved, y = saved_by(case.ours, leaves(case.tensors((48, 16)), [0]))
    assert [(t.dtype, t.shape) for t in saved] == [(torch.uint8, y.shape)]


@some(*(name for name in CASES if name.startswith("cross_entropy")))
def test_cross_entropy_saves_two_numbers_a_row(case):
    """Besides its inputs (torch: a matrix). Probabilities that are weighted or smoothed become one more input."""
    tensors = case.tensors((48, 160))
    for dtype in (torch.float32, torch.bfloat16):
        inputs = leaves([t.to(dtype) if t.is_floating_point() else t for t in tensors], [0])
        saved, _ = saved_by(case.ours, inputs)
        besides = bytes_in(saved, inputs)
        matrices = 160 * 48 * 4 if case.composed else 0  # the weighted target, not rounded
        assert besides <= matrices + 2 * 48 * 4 + 8
        assert bytes_in(saved_by(case.builtin, inputs)[0], inputs) >= 160 * 48 * dtype.itemsize


@EACH
def test_saved_tensors_are_unpacked(case):
    """What a hook gives back is what backward computes with."""
    tensors = case.tensors((3, 5))
    wanted, g = case.wanted(tensors), upstream(case, tensors)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.numpy(force=True).copy(), torch.from_numpy):
        got = results(case.ours, tensors, wanted, g)
    assert_same(got, results(case.reference, tensors, wanted, g))
    with torch.autograd.graph.save_on_cpu():
        assert_same(results(case.ours, tensors, wanted, g), got)


@pytest.mark.not_interpreted
@EACH
def test_changes_of_what_is_saved_are_noticed(case, device):
    tensors = case.tensors((3, 5), device=device)
    wanted = case.wanted(tensors)

    def run() -> tuple[list[Tensor], Tensor]:
        inputs = leaves([t.clone() for t in tensors], wanted)
        return inputs, case.ours(*inputs)

    inputs = leaves(tensors, wanted)
    saved, y = saved_by(case.ours, inputs)
    addresses = {t.data_ptr() for t in saved}
    places = [k for k, t in enumerate([*inputs, y]) if t.data_ptr() in addresses]
    for place in places:
        inputs, y = run()
        with torch.no_grad():
            [*inputs, y][place].mul_(2)
        # What is composed is saved by torch's product.
        text = "" if case.composed else r"^\w+: .* w(as|ere) written to\. Write .* "
        with pytest.raises(RuntimeError, match=text + "modified by an inplace operation"):
            torch.autograd.grad(y.sum(), [inputs[k] for k in wanted])
    for place in set(range(len(inputs))).difference(places):  # what is not saved may change
        inputs, y = run()
        with torch.no_grad():
            inputs[place].mul_(2)
        got = torch.autograd.grad(y.sum(), [inputs[k] for k in wanted])
        assert_same(got, tuple(results(case.reference, tensors, wanted)[1:]))


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_logits_written_to_after_cross_entropy(reduction, device):
    """torch's keeps a second matrix instead; the error says which function it is and what to do."""
    x, labels = torch.randn(4, 3, device=device, requires_grad=True), torch.tensor([0, 2, 1, 1], device=device)
    logits = x * 1
    loss = F.cross_entropy(logits, labels, reduction=reduction)
    logits.mul_(2)
    text = "^CrossEntropy: the logits, which cross_entropy keeps in place of a second matrix, were written to. Write to"
    with pytest.raises(RuntimeError, match=text):
        loss.sum().backward()


@pytest.mark.sweep
@pytest.mark.not_interpreted
@EACH
def test_a_kernel_that_cannot_be_built_later(case, monkeypatch):
    """As one for tensors that are not aligned, after others were seen: torch's operators compute instead."""
    tensors = case.tensors((7, 11))
    wanted, g = case.wanted(tensors), upstream(case, tensors)
    prepare = RowKernel.prepare

    def prepare_once(kernel, *arguments):
        call, calls = prepare(kernel, *arguments), []

        def once(*arguments):
            calls.append(arguments)
            if len(calls) > 1:
                raise EngineUnavailable("no such kernel")
            return call(*arguments)

        return once

    monkeypatch.setattr(RowKernel, "prepare", prepare_once)
    first, second = (results(case.ours, tensors, wanted, g) for _ in range(2))
    assert_same(second, first)
    assert_same(second, results(case.reference, tensors, wanted, g))


# --------------------------------------------------------------------------------------------------- layouts, devices


def gaps(t: Tensor) -> Tensor:
    return torch.stack([t, t], -1)[..., 0]


def inner_slice(t: Tensor) -> Tensor:
    around = t.new_zeros([size + 3 for size in t.shape])
    inner = around[tuple(slice(2, 2 + size) for size in t.shape)]
    return inner.copy_(t)


def transposed(t: Tensor) -> Tensor:
    return t.transpose(0, -1).contiguous().transpose(0, -1) if t.dim() > 1 else t


def permuted(t: Tensor) -> Tensor:
    return t.permute(*range(1, t.dim()), 0).contiguous().permute(-1, *range(t.dim() - 1)) if t.dim() > 1 else t


def channels_last(t: Tensor) -> Tensor:
    return t.to(memory_format=torch.channels_last) if t.dim() == 4 else t


def expanded(t: Tensor) -> Tensor:
    return t[..., :1].expand(t.shape) if t.dim() else t


def offset(t: Tensor) -> Tensor:
    return torch.cat([t.new_zeros(1), t.reshape(-1)])[1:].view(t.shape)


def negated_lazily(t: Tensor) -> Tensor:
    return torch._neg_view(-t) if t.is_floating_point() else t


VIEWS = {
    gaps: (3, 5),
    inner_slice: (2, 3, 4),
    transposed: (3, 5),
    permuted: (2, 3, 4),
    channels_last: (2, 3, 4, 5),
    expanded: (3, 5),
    offset: (3, 5),
    negated_lazily: (3, 5),
}


def steps(t: Tensor) -> list[tuple[int, int]]:
    """The strides that say where something lies."""
    return [(size, stride) for size, stride in zip(t.shape, t.stride(), strict=True) if size > 1]


@EACH
def test_layouts(case, device, interpreted):
    """Of all tensors, of one of them, and of the upstream gradient; some twice, as a call may be like the last one."""
    views = list(VIEWS.items())
    for view, shape in views[list(CASES.values()).index(case) % 4 :: 4] if interpreted else views:
        contiguous = case.tensors(shape, device=device)
        wanted, g = case.wanted(contiguous), upstream(case, contiguous)
        every = list(map(view, contiguous))
        one = [view(contiguous[0]), *contiguous[1:]]
        for tensors, upper in [(every, g), (one, view(g)), (every, g.new_ones(()).expand(g.shape)), (every, g)]:
            got = results(case.ours, tensors, wanted, upper)
            expected = results(case.reference, tensors, wanted, upper)
            assert_same(got, expected, view.__name__)
            if not case.pointwise or tensors is one:
                continue
            assert steps(got[0]) == steps(expected[0])
            for place, gradient, builtins in zip(wanted, got[1:], expected[1:], strict=True):
                if tensors[place].shape == got[0].shape:
                    like = builtins if case in SAVES_NO_INPUT else torch.empty_like(tensors[place])
                    assert steps(gradient) == steps(like), view.__name__


@EACH
def test_meta_and_fake_tensors(case):
    tensors = case.tensors((3, 5))
    wanted = case.wanted(tensors)
    expected = [(t.dtype, t.shape, t.stride()) for t in results(case.ours, tensors, wanted)]
    on_meta = results(case.ours, [t.to("meta") for t in tensors], wanted)
    with FakeTensorMode() as mode:
        fake = results(case.ours, [mode.from_tensor(t) for t in tensors], wanted)
    for device, each in (("meta", on_meta), ("cpu", fake)):
        assert [(t.dtype, t.shape, t.stride()) for t in each] == expected
        assert {t.device.type for t in each} == {device}


@EACH
def test_subclasses_and_overrides(case):
    class Labelled(Tensor):
        pass

    class Loud:
        dtype, shape, device, is_cpu = torch.float32, (3, 5), torch.device("cpu"), True

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            return function.__name__

    tensors = case.tensors((3, 5))
    for place, t in enumerate(tensors):
        labelled, loud = list(tensors), list(tensors)
        labelled[place], loud[place] = t.as_subclass(Labelled), Loud()
        y = case.ours(*labelled)
        assert type(y) is Labelled
        assert_same(y.as_subclass(Tensor), case.reference(*tensors))
        if case is not CASES["copy"]:  # which goes on computing
            assert case.ours(*loud) == name_of(case).split()[0]


@pytest.mark.not_interpreted
@EACH
def test_autocast(case, device):
    """The dtypes are those of the built-in; gradients, out of autocast as they are taken, have those of the inputs."""
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        tensors = case.tensors((3, 5), dtype, device=device)
        inputs = leaves(tensors, wanted := case.wanted(tensors))
        with torch.autocast(device, dtype=torch.bfloat16):
            try:
                expected = case.builtin(*tensors)
            except RuntimeError:  # of probabilities, on CUDA
                with pytest.raises(RuntimeError):
                    case.ours(*inputs)
                continue
            y = case.ours(*inputs)
        assert y.dtype is expected.dtype, dtype
        gradients = torch.autograd.grad(y.sum(), [inputs[k] for k in wanted])
        rounding = 4 * torch.finfo(torch.bfloat16 if dtype is not torch.float64 else torch.float32).eps
        assert_same(y.detach(), expected, rtol=rounding, atol=rounding)
        assert_same(list(gradients), results(case.reference, tensors, wanted)[1:], rtol=rounding, atol=rounding)


@pytest.mark.sweep
@EACH
@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float64, torch.float16], ids=str
)
def test_other_dtypes(case, dtype):
    """Of one tensor and of all: the same kind of error, or the same values of the same dtype."""
    if case in OF_ROWS and dtype is torch.uint8:
        pytest.skip("see test_labels_of_one_byte")
    tensors = [t.abs() if t.is_floating_point() else t.clamp(min=0) for t in case.tensors((3, 5))]
    for chosen in [*([k] for k in range(len(tensors))), range(len(tensors))]:
        made = [t.to(dtype) if k in chosen else t for k, t in enumerate(tensors)]
        if case in OF_PIECES and not dtype.is_floating_point:
            with pytest.raises(NotImplementedError, match=r"^maxout: the input must be a floating-point tensor"):
                case.ours(*made)
            continue
        try:
            expected = case.builtin(*made)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            # What is not implemented is a RuntimeError too; with several mistakes either is fine.
            with pytest.raises(RuntimeError if isinstance(error, RuntimeError) else type(error)):
                case.ours(*made)
        else:
            try:
                got = case.ours(*made)
            except RuntimeError:
                assert case in LOSSES  # of which torch computes something for some complex numbers
                assert dtype.is_complex
                continue
            assert got.dtype is expected.dtype, list(chosen)
            rounding = 16 * torch.finfo(torch.float16).eps if torch.float16 in (dtype, got.dtype) else 1e-5
            assert_same(got, expected, f"{list(chosen)}", rtol=rounding, atol=rounding)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64], ids=str)
def test_weighted_errors_of_integers(dtype, reduction):
    x, y, w = (torch.randint(15, (40,), dtype=dtype) for _ in range(3))
    assert_same(*(f.mse_loss(x, y, reduction=reduction, weight=w) for f in (F, nn.functional)))


@pytest.mark.not_interpreted
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@some("affine", "affine of numbers that learn", "affine of rows", "add", "mul", "mul of a column", "copy", "matmul")
def test_complex_gradients(case, dtype, device):
    tensors = [torch.randn_like(t, dtype=dtype) for t in case.tensors((3, 5), device=device)]
    g = torch.randn_like(case.reference(*tensors))
    wanted = range(len(tensors))
    assert_same(results(case.ours, tensors, wanted, g), results(case.reference, tensors, wanted, g))
    if dtype is torch.complex128:
        tensors = [t[..., :2].requires_grad_() if t.dim() else t for t in tensors]
        assert case is CASES["matmul"] or gradcheck(case.ours, tensors, check_forward_ad=True)


# ------------------------------------------------------------------------------------------ one tensor, several times

TWICE = {
    "add": lambda F, x: F.add(x, x),
    "mul": lambda F, x: F.mul(x, x),
    "maximum": lambda F, x: F.maximum(x, x),
    "matmul": lambda F, x: F.matmul(x, x),
    "mse_loss": lambda F, x: F.mse_loss(x, x),
    "mse_loss none": lambda F, x: F.mse_loss(x, x, reduction="none"),
    "mse_loss weight": lambda F, x: F.mse_loss(x, x.flip(0), weight=x),
    "binary_cross_entropy": lambda F, x: F.binary_cross_entropy(x, x),
    "binary_cross_entropy_with_logits": lambda F, x: F.binary_cross_entropy_with_logits(x, x),
    "cross_entropy": lambda F, x: F.cross_entropy(x, x),
    "prelu": lambda F, x: F.prelu(x[:, 0] - 0.5, x[0, :1]) + F.prelu(x, x[0, :1]),
}


class Torch:
    """Its functions wherever they are."""

    def __getattr__(self, name: str) -> Any:
        return getattr(nn.functional, name, None) or getattr(torch, name)


@pytest.mark.not_interpreted
@pytest.mark.not_interpreted
@pytest.mark.parametrize("function", TWICE.values(), ids=TWICE)
def test_one_tensor_twice(function, device):
    x = torch.rand(4, 4, device=device) * 0.9 + 0.05
    expected = results(functools.partial(function, Torch()), [x], [0])
    ours = functools.partial(function, F)
    assert_same(results(ours, [x], [0]), expected)
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    assert_same(results(compiled, [x], [0]), expected, "compiled")
    assert_same(grad(lambda x: bent(ours(x)))(x), grad(lambda x: bent(function(Torch(), x)))(x), "torch.func.grad")
    tangents = [jvp(f, (x,), (x.cos(),)) for f in (ours, functools.partial(function, Torch()))]
    assert_same(*tangents, "torch.func.jvp")


def test_one_tensor_three_times(device):
    x = torch.rand(4, 4, dtype=torch.float64, device=device)
    expected = results(lambda x: x * x + x, [x], [0])
    for ours in (lambda x: F.affine(x, x, x), torch.compile(lambda x: F.affine(x, x, x), backend="aot_eager")):
        assert_same(results(ours, [x], [0]), expected)
    cost = functools.partial(F.quadratic_cost, reduction="sum")
    assert_same(results(lambda x: cost(x, x), [x], [0]), [x.new_zeros(()), torch.zeros_like(x)])


# ------------------------------------------------------------------------------------------- where we differ, knowingly


def test_ties_go_to_the_first(device):
    a, b = torch.tensor([[1.0, 2.0, NAN, 1.0, NAN], [1.0, 1.0, 1.0, NAN, NAN]], device=device)
    g = torch.tensor([2.0, 3.0, 5.0, 7.0, 11.0], device=device)
    y, da, db = results(F.maximum, [a, b], [0, 1], g)
    assert_same(y, torch.maximum(a, b))
    assert da.tolist() == [2, 3, 5, 0, 11]  # torch: 1, 3, 5, 7, 11, both where one is NaN
    assert db.tolist() == [0, 0, 0, 7, 0]
    x = torch.tensor([3.0, 3.0, 1.0, 3.0, NAN, NAN, -0.0, 0.0, -1.0], device=device)
    g = torch.tensor([2.0, 5.0, 7.0], device=device)
    y, dx = (t.cpu() for t in results(lambda x: F.maxout(x, 3), [x], [0], g))
    assert_same(y, torch.tensor([3.0, NAN, 0.0]))
    assert dx.tolist() == [2, 0, 0, 0, 5, 0, 7, 0, 0]
    expected = results(largest_piece(3, -1), [x.cpu()], [0], g.cpu())
    assert_same([y, dx], expected)  # as torch.max along a dimension


@pytest.mark.parametrize("g", [2.0, INF, NAN])
@pytest.mark.parametrize("x", [0.0, -0.0])
def test_prelu_at_0(x, g, device):
    """The slope at 0 is a, whose gradient is there 0 dL/dy: NaN, where that is infinite."""
    tensors, g = [torch.tensor([number], device=device) for number in (x, 0.25)], torch.tensor([g], device=device)
    got, expected = (results(f, tensors, [0, 1], g) for f in (F.prelu, nn.functional.prelu))
    assert_same(got, expected)
    assert_same(got[1], 0.25 * g)
    assert_same(got[2], 0.0 * g)


def test_the_scalings_of_the_quadratic_cost(device):
    """1/n_L Σ (y - a)² of each example, added up; with its gradient -2 (y - a) / n_L."""
    a, y = torch.randn(2, 6, 4, dtype=torch.float64, device=device)
    squares = (y - a) ** 2
    for reduction, cost, n in (
        ("notes", squares.sum() / 4, 4),
        ("sum", squares.sum(), 1),
        ("mean", squares.mean(), 24),
    ):
        got = results(functools.partial(F.quadratic_cost, reduction=reduction), [a, y], [0, 1])
        assert_same(got, [cost, -2 * (y - a) / n, 2 * (y - a) / n], reduction)
        assert_same(ours_nn.QuadraticCost(reduction)(a, y), cost)
    assert_same(F.quadratic_cost(a, y), squares.sum() / 4)
    one = F.quadratic_cost(a[0], y[0])
    assert_same(F.quadratic_cost(a, y), sum((F.quadratic_cost(*pair) for pair in zip(a, y, strict=True)), one * 0))


def test_the_gradient_of_the_slides_through_a_sigmoid(device):
    """-2 (y - a) a (1 - a) / n_L for the quadratic cost; a - y for the cross-entropy (Larson)."""
    z, y = (make(6, 4, dtype=torch.float64, device=device) for make in (torch.randn, torch.rand))
    a = z.sigmoid()
    _, dz = results(lambda z: F.quadratic_cost(F.sigmoid(z), y), [z], [0])
    assert_same(dz, -2 * (y - a) * a * (1 - a) / 4)
    _, dz = results(lambda z: F.binary_cross_entropy_with_logits(z, y, reduction="sum"), [z], [0])
    assert_same(dz, a - y)
    _, dz = results(lambda z: F.binary_cross_entropy(F.sigmoid(z), y, reduction="sum"), [z], [0])
    assert_same(dz, a - y)
    labels = torch.tensor([0, 3, 1, 2, 2, 0], device=device)
    _, dz = results(lambda z: F.cross_entropy(z, labels, reduction="sum"), [z], [0])
    assert_same(dz, z.softmax(1) - nn.functional.one_hot(labels, 4))


def test_an_ignored_row_has_no_gradient(device):
    x = torch.randn(4, 5, device=device)
    x[1, 2], x[2] = NAN, -INF
    labels = torch.tensor([1, -100, -100, 4], device=device)
    for reduction in ("mean", "sum"):
        value, dx = results(lambda x, r=reduction: F.cross_entropy(x, labels, reduction=r), [x], [0])
        expected, rest = results(
            lambda x, r=reduction: nn.functional.cross_entropy(x, labels[[0, 3]], reduction=r), [x[[0, 3]]], [0]
        )
        assert_same([value, dx[[0, 3]]], [expected, rest])
        assert not dx[1:3].any()
    value, dx = results(lambda x: F.cross_entropy(x, torch.full_like(labels, -100)), [x], [0])
    assert value.isnan()
    assert not dx.any()


def test_a_class_that_cannot_be_may_have_no_probability(device):
    x = torch.tensor([[0.0, -INF, 1.0]], device=device)
    q = torch.tensor([[0.25, 0.0, 0.75]], device=device)
    value, dx = results(lambda x: F.cross_entropy(x, q), [x], [0])
    assert_same(value, nn.functional.cross_entropy(x[:, ::2], q[:, ::2]))
    assert_same(dx, x.softmax(1) - q)


def test_a_saturated_sigmoid(device):
    """Of logits nothing is lost; of probabilities torch's bounds hold: 100 for the loss, 1e12 for the slope."""
    z, y = torch.tensor([[-1000.0, 1000.0, -50.0], [1.0, 0.0, 1.0]], device=device)
    value, dz = results(lambda z: F.binary_cross_entropy_with_logits(z, y, reduction="none"), [z], [0])
    assert value.tolist() == [1000, 1000, 50]
    assert dz.tolist() == [-1, 1, -1]
    a, y = torch.tensor([[0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0]], device=device)
    for function in (F.binary_cross_entropy, nn.functional.binary_cross_entropy):
        value, da = results(lambda a, f=function: f(a, y, reduction="none"), [a], [0])
        assert value.tolist() == [100, 100, 0, 0]
        assert_same(da.cpu(), torch.tensor([-1e12, 1e12, 0.0, 0.0]))


def test_the_gates_of_the_slides():
    """(x + y) z at (-2, 5, -4): -12, with the gradients -4, -4 and 3. A product, printed wrongly on the slide."""
    x, y, z = (torch.tensor(number, requires_grad=True) for number in (-2.0, 5.0, -4.0))
    f = F.mul(F.add(x, y), z)
    f.backward()
    assert [t.item() for t in (f, x.grad, y.grad, z.grad)] == [-12, -4, -4, 3]
    x = torch.tensor([[2.0, 1.0, -3.0], [-3.0, 4.0, 2.0]])
    w = torch.tensor([[3.0, 2.0, 1.0, -1.0], [2.0, 1.0, 3.0, 2.0], [3.0, 2.0, 1.0, -2.0]])
    g = torch.tensor([[2.0, 3.0, -3.0, 9.0], [-8.0, 1.0, 4.0, 6.0]])
    y, dx, dw = results(F.matmul, [x, w], [0, 1], g)
    assert y.tolist() == [[-1, -1, 2, 6], [5, 2, 11, 7]]
    assert torch.equal(dx, g @ w.T)
    assert torch.equal(dw, x.T @ g)
    x = torch.tensor(3.0, requires_grad=True)
    a, b = F.copy(x)
    a.mul_(5)
    (4 * a + 2 * b).backward()
    assert [t.item() for t in (a, b, x.grad)] == [15, 3, 22]


# ------------------------------------------------------------------------------------------------ extremes and mistakes

EXTREMES = [-INF, -1000.0, -1.0, -0.0, 0.0, 1.0, 1000.0, INF, NAN]


@some(
    *("affine", "affine of numbers that learn", "prelu", "add", "mul", "maximum", "mse_loss none"),
    "binary_cross_entropy_with_logits none",
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_infinities_and_nan(case, dtype, device):
    """In values and gradients, elementwise, against each other and with several upstream gradients."""
    x = torch.tensor(EXTREMES, dtype=dtype, device=device)
    tensors = case.tensors((81,), dtype, device=device)
    tensors[0] = x.repeat(9)
    if probability in case.makers:
        tensors[1] = torch.tensor([0.0, 0.25, 1.0], dtype=dtype, device=device).repeat_interleave(9).repeat(3)
    elif len(tensors) == 2 and tensors[1].numel() == 81:
        tensors[1] = x.repeat_interleave(9)
    wanted, in_double = case.wanted(tensors), [t.double() for t in tensors]
    eps = torch.finfo(torch.float32 if dtype in HALF else dtype).eps
    for number in (1.0, 0.0, -2.0, INF, NAN):
        g = torch.full_like(x, number).repeat(9)
        got = results(case.ours, tensors, wanted, g)
        expected = [t.to(dtype) for t in results(case.reference, in_double, wanted, g.double())]
        assert_same(got, expected, f"{number}", rtol=4 * max(eps, torch.finfo(dtype).eps), atol=4 * eps)


ROWS = [[0.0, 1.0, -INF], [-INF, -INF, -INF], [INF, 0.0, 1.0], [NAN, 0.0, 1.0], [1e4, -1e4, 0.0], [0.0, 0.0, 0.0]]


@some(
    *("softmax", "log_softmax", "cross_entropy", "cross_entropy none", "cross_entropy sum"),
    *("cross_entropy weight", "cross_entropy label_smoothing", "cross_entropy of probabilities none"),
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_rows_of_infinities_and_nan(case, dtype, device):
    for row in ROWS:
        tensors = case.tensors((2, 3), dtype, device=device)
        tensors[0][0] = torch.tensor(row)
        if not tensors[-1].is_floating_point() or len(tensors) > 2:
            tensors[1] = torch.tensor([1, 2], device=device)
        wanted, g = case.wanted(tensors), upstream(case, tensors)
        got, expected = (results(f, tensors, wanted, g) for f in (case.ours, case.reference))
        rounding = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 0.02)
        assert_same(got, expected, f"{row}", rtol=rounding, atol=rounding)


X, Y, LABELS = torch.rand(2, 3), torch.rand(2, 3), torch.tensor([0, 2])
MISTAKES = {
    "maxout into parts": (
        lambda F: F.maxout(X, 2),
        ValueError,
        "dimension 1 must be a multiple of pieces.* size 3 and 2",
    ),
    "maxout of nothing": (lambda F: F.maxout(X, 0), ValueError, "pieces >= 1"),
    "maxout of a number": (lambda F: F.maxout(torch.tensor(1.0), 1), ValueError, "at least one dimension"),
    "maxout in True": (lambda F: F.maxout(X, 1, True), TypeError, r"'dim' \(position 3\) must be int, not bool"),
    "maxout elsewhere": (lambda F: F.maxout(X, 1, 2), IndexError, r"range of \[-2, 1\], but got 2"),
    "copy": (lambda F: F.copy(X, 0), ValueError, "copy: n must be at least 1, got 0"),
    "add": (lambda F: F.add(1.0, 2.0), TypeError, "add: a or b must be a tensor, got float and float"),
    "quadratic_cost": (lambda F: F.quadratic_cost(X, Y, "none"), ValueError, "'notes', 'sum' or 'mean', got 'none'"),
    "quadratic_cost shape": (lambda F: F.quadratic_cost(X, Y[0]), ValueError, r"got \(2, 3\) and \(3,\)"),
}
MISTAKES_IN_TORCH = {
    "softmax elsewhere": lambda F: F.softmax(X, 2),
    "softmax in a float": lambda F: F.softmax(X, 1.0),
    "softmax in True": lambda F: F.softmax(X, True),
    "log_softmax in a name": lambda F: F.log_softmax(X, "classes"),
    "log_softmax elsewhere": lambda F: F.log_softmax(X, -3),
    "prelu channels": lambda F: F.prelu(X, torch.rand(2)),
    "prelu matrix": lambda F: F.prelu(X, torch.rand(1, 1)),
    "prelu dtype": lambda F: F.prelu(X, torch.rand(1).double()),
    "prelu of a number": lambda F: F.prelu(torch.tensor(1.0), torch.rand(2)),
    "add shapes": lambda F: F.add(X, torch.rand(2)),
    "mul shapes": lambda F: F.mul(X, torch.rand(2)),
    "maximum shapes": lambda F: F.maximum(X, torch.rand(2)),
    "matmul shapes": lambda F: F.matmul(X, Y),
    "matmul of a number": lambda F: F.matmul(X, torch.tensor(2.0)),
    "mse_loss reduction": lambda F: F.mse_loss(X, Y, reduction="average"),
    "mse_loss weight": lambda F: F.mse_loss(X, Y, weight=Y[0]),
    "binary_cross_entropy shape": lambda F: F.binary_cross_entropy(X, Y[0]),
    "binary_cross_entropy weight": lambda F: F.binary_cross_entropy(X, Y, torch.rand(2)),
    "binary_cross_entropy dtype": lambda F: F.binary_cross_entropy(X, Y.double()),
    "binary_cross_entropy input": lambda F: F.binary_cross_entropy(X - 1, Y),
    "binary_cross_entropy input NaN": lambda F: F.binary_cross_entropy(X * NAN, Y),
    "binary_cross_entropy target": lambda F: F.binary_cross_entropy(X, Y + 1),
    "binary_cross_entropy_with_logits shape": lambda F: F.binary_cross_entropy_with_logits(X, Y[0]),
    "binary_cross_entropy_with_logits pos_weight": lambda F: F.binary_cross_entropy_with_logits(
        X, Y, pos_weight=torch.rand(2)
    ),
    "cross_entropy label": lambda F: F.cross_entropy(X, LABELS + 1),
    "cross_entropy negative label": lambda F: F.cross_entropy(X, LABELS - 1),
    "cross_entropy label dtype": lambda F: F.cross_entropy(X, LABELS.int()),
    "cross_entropy batch": lambda F: F.cross_entropy(X, LABELS[:1]),
    "cross_entropy shape": lambda F: F.cross_entropy(X, torch.zeros(2, 3, dtype=torch.int64)),
    "cross_entropy probabilities": lambda F: F.cross_entropy(X, Y[:1]),
    "cross_entropy weight": lambda F: F.cross_entropy(X, LABELS, torch.rand(2)),
    "cross_entropy weight dtype": lambda F: F.cross_entropy(X, LABELS, torch.rand(3).double()),
    "cross_entropy smoothing": lambda F: F.cross_entropy(X, LABELS, label_smoothing=1.5),
    "cross_entropy ignore_index": lambda F: F.cross_entropy(X, Y, ignore_index=1),
    "cross_entropy ignore_index of a float": lambda F: F.cross_entropy(X, LABELS, ignore_index=1.5),
    "cross_entropy ignore_index True": lambda F: F.cross_entropy(X, LABELS, ignore_index=True),
    "cross_entropy ignore_index None": lambda F: F.cross_entropy(X, Y, ignore_index=None),
    "cross_entropy of a number": lambda F: F.cross_entropy(torch.tensor(1.0), torch.tensor(0)),
    "cross_entropy weight that learns": lambda F: F.cross_entropy(X, LABELS, torch.rand(3, requires_grad=True)),
}


CHAINS = {
    "one gradient of two": (lambda g, a, b: g * b, "must return 2 results, got 1"),
    "torch's functions": (lambda g, a, b: (torch.mul(g, b), torch.mul(g, a)), "must be Tensor, not Symbol"),
}


@pytest.mark.parametrize(("chain", "text"), CHAINS.values(), ids=CHAINS)
def test_a_chain_that_is_no_formula_is_refused_at_once(chain, text):
    with pytest.raises(FormulaError, match=f"^Product's slope: .*{text}"):
        type("Product", (Pointwise,), {"value": staticmethod(lambda a, b: a * b), "chain": staticmethod(chain)})


@pytest.mark.parametrize(("call", "error", "text"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(call, error, text):
    with pytest.raises(error, match=text):
        call(F)


@pytest.mark.parametrize("call", MISTAKES_IN_TORCH.values(), ids=MISTAKES_IN_TORCH)
def test_mistakes_are_torchs(call):
    with pytest.raises((RuntimeError, ValueError, IndexError, TypeError)) as expected:
        call(Torch())
    error = expected.type
    if "Name 'classes' not found" in str(expected.value):
        error = TypeError  # as it is since torch 2.13
    with pytest.raises(error):
        call(F)


def test_shapes_that_torch_warns_of():
    x, y = torch.randn(4, 1), torch.randn(4)
    with pytest.warns(UserWarning, match="Using a target size"):
        expected = results(nn.functional.mse_loss, [x, y], [0, 1])
    with pytest.warns(UserWarning, match="Using a target size") as warned:
        got = results(F.mse_loss, [x, y], [0, 1])
    assert_same(got, expected)
    assert warned[0].filename == __file__
    for name in ("softmax", "log_softmax"):
        for shape in [(3,), (2, 3), (2, 3, 4), (2, 3, 4, 5)]:
            x = torch.randn(shape)
            with pytest.warns(UserWarning, match=f"Implicit dimension choice for {name} has been deprecated") as warned:
                got = getattr(F, name)(x)
            assert warned[0].filename == __file__
            with pytest.warns(UserWarning, match="Implicit dimension choice"):
                assert_same(got, getattr(nn.functional, name)(x))


@pytest.mark.filterwarnings("ignore:size_average and reduce args will be deprecated")
@pytest.mark.parametrize(
    "name", ["mse_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy"]
)
def test_options_by_place_and_by_their_old_names(name):
    x, y = torch.rand(4, 5), torch.rand(4, 5).softmax(1)
    for options in [dict(reduce=False), dict(size_average=False), dict(size_average=True, reduce=True)]:
        assert_same(getattr(F, name)(x, y, **options), getattr(nn.functional, name)(x, y, **options), f"{options}")
    args = dict(mse_loss=(None, None, "sum"), cross_entropy=(torch.rand(5), None, -100, None, "sum", 0.1))
    args = args.get(name, (torch.rand(4, 5), None, None, "sum"))
    assert_same(getattr(F, name)(x, y, *args), getattr(nn.functional, name)(x, y, *args))


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_in_another_dtype(name, device):
    for x in (torch.randn(3, 5, device=device), torch.arange(6, device=device).view(2, 3)):
        for dtype in (torch.float64, torch.bfloat16):
            got, expected = (getattr(where, name)(x, dim=-1, dtype=dtype) for where in (F, nn.functional))
            assert got.dtype is expected.dtype
            assert_same(got, expected)
    x, g = torch.randn(2, 3, 5, device=device)
    g = g.double()
    options = dict(dim=1, dtype=torch.float64)
    functions = [functools.partial(getattr(where, name), **options) for where in (F, nn.functional)]
    assert_same(*(results(f, [x], [0], g) for f in functions))


@pytest.mark.parametrize("shape", [(5,), (3, 5), (3, 5, 2), (2, 3, 2, 2)], ids=str)
@pytest.mark.parametrize("probabilities", [False, True])
def test_shapes_of_cross_entropy(shape, probabilities, device):
    x = torch.randn(shape, device=device)
    classes = 1 if len(shape) > 1 else 0
    of_rows = [size for dim, size in enumerate(shape) if dim != classes]
    target = (torch.rand(shape).softmax(classes) if probabilities else torch.randint(shape[classes], of_rows)).to(
        device
    )
    for options in itertools.product(
        ["none", "mean", "sum"], [0.0, 0.3], [None, torch.rand(shape[classes], device=device)]
    ):
        given = dict(zip(("reduction", "label_smoothing", "weight"), options, strict=True))
        functions = [functools.partial(f, **given) for f in (F.cross_entropy, nn.functional.cross_entropy)]
        wanted = [0, 1] if probabilities else [0]
        g = torch.randn_like(functions[1](x, target))
        assert_same(*(results(f, [x, target], wanted, g) for f in functions), f"{options[:2]}")


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_labels_of_one_byte(reduction, device):
    """Any of 256: -100 as a byte, 156, is a class like the others, also where torch's operators compute."""
    x, target = torch.randn(256, 256, device=device), torch.arange(256, dtype=torch.uint8, device=device)
    functions = [functools.partial(f, reduction=reduction) for f in (F.cross_entropy, nn.functional.cross_entropy)]
    expected = results(functions[1], [x, target], [0])
    assert_same(results(functions[0], [x, target], [0]), expected)
    assert_same(vmap(functions[0])(x[:, None], target[:, None]).sum(), functions[1](x, target, reduction="sum"))
    x, target = x[:, :100], target[:150]
    if COMPILED[device].rows is not row_kernel:  # nobody waits for a device to hear of it
        assert functions[0](x[:150], target).isnan().any()
        return
    with pytest.raises(IndexError, match="Target 100 is out of bounds"):
        functions[0](x[:150], target)


# -------------------------------------------------------------------------------------------------------------- modules

MODULES = {
    "Affine": (lambda nn: nn.Affine(2.0, -1.0), (full,), "Affine(a=2.0, c=-1.0)"),
    "Affine that learns": (
        lambda nn: nn.Affine(torch.tensor([2.0, 1.0, 3.0, 4.0]), -1.0, learnable=True),
        (full,),
        "Affine(a=(4,), c=(), learnable=True)",
    ),
    "Affine of buffers": (lambda nn: nn.Affine(torch.tensor(2.0), 1.0), (full,), "Affine(a=(), c=1.0)"),
    "Maxout": (
        lambda nn: nn.Maxout(4, 5, pieces=3),
        (full,),
        "Maxout(\n  pieces=3\n  (linear): Linear(in_features=4, out_features=15, bias=True)\n)",
    ),
    "Maxout without bias": (
        lambda nn: nn.Maxout(4, 5, bias=False),
        (full,),
        "Maxout(\n  pieces=2\n  (linear): Linear(in_features=4, out_features=10, bias=False)\n)",
    ),
    "QuadraticCost": (lambda nn: nn.QuadraticCost(), (full, full), "QuadraticCost(reduction='notes')"),
    "QuadraticCost sum": (lambda nn: nn.QuadraticCost("sum"), (full, full), "QuadraticCost(reduction='sum')"),
    "PReLU": (lambda nn: nn.PReLU(), (full,), None),
    "PReLU of channels": (lambda nn: nn.PReLU(4, init=0.1, dtype=torch.float64).float(), (full,), None),
    "Softmax": (lambda nn: nn.Softmax(1), (full,), None),
    "LogSoftmax": (lambda nn: nn.LogSoftmax(dim=-1), (full,), None),
    "MSELoss": (lambda nn: nn.MSELoss(), (full, full), None),
    "MSELoss sum": (lambda nn: nn.MSELoss(reduction="sum"), (full, full), None),
    "BCELoss": (lambda nn: nn.BCELoss(), (probability, probability), None),
    "BCELoss weight": (lambda nn: nn.BCELoss(WEIGHT, reduction="none"), (probability, probability), None),
    "BCEWithLogitsLoss": (lambda nn: nn.BCEWithLogitsLoss(reduction="sum"), (full, probability), None),
    "BCEWithLogitsLoss weights": (
        lambda nn: nn.BCEWithLogitsLoss(WEIGHT, pos_weight=WEIGHT + 1),
        (full, probability),
        None,
    ),
    "CrossEntropyLoss": (lambda nn: nn.CrossEntropyLoss(), (full, labels), None),
    "CrossEntropyLoss options": (
        lambda nn: nn.CrossEntropyLoss(WEIGHT, ignore_index=1, reduction="sum", label_smoothing=0.1),
        (full, labels),
        None,
    ),
}
WEIGHT = torch.rand(4) + 0.5
EACH_MODULE = pytest.mark.parametrize(("make", "makers", "text"), MODULES.values(), ids=MODULES)


@pytest.mark.not_interpreted
@EACH_MODULE
def test_modules(make, makers, text, device):
    """Value, gradients, repr and state are those of torch's module of the name; copies are the same again."""
    module = make(ours_nn).to(device)
    inputs = [maker((3, 4)).to(device) for maker in makers]
    inputs = [t.float() if t.is_floating_point() else t for t in inputs]
    wanted = [k for k, t in enumerate(inputs) if t.is_floating_point()]
    got = results(module, inputs, wanted)
    if text is None:
        builtin = make(nn).to(device)
        assert isinstance(module, type(builtin))
        assert repr(module) == repr(builtin)
        assert_same(got, results(builtin, inputs, wanted))
        assert_same(dict(module.state_dict()), dict(builtin.state_dict()))
        module.load_state_dict(builtin.state_dict())
        builtin.load_state_dict(module.state_dict())
    else:
        assert repr(module) == text
    parameters = list(module.parameters())
    of_parameters = [torch.autograd.grad(module(*inputs).sum(), parameters)] if parameters else []
    for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert type(again) is type(module)
        assert repr(again) == repr(module)
        assert_same(dict(again.state_dict()), dict(module.state_dict()))
        assert_same(results(again, inputs, wanted), got)
        if parameters:
            assert_same([torch.autograd.grad(again(*inputs).sum(), list(again.parameters()))], of_parameters)
    doubled = {name: p.detach() * 2 for name, p in module.named_parameters()}
    expected = copy.deepcopy(module)
    expected.load_state_dict({**expected.state_dict(), **doubled})
    assert_same(functional_call(module, doubled, tuple(inputs)), expected(*inputs))
    if parameters:
        gradients = grad(lambda p: functional_call(module, p, tuple(inputs)).sum())(dict(module.named_parameters()))
        assert_same(list(gradients.values()), list(*of_parameters))
    if module.state_dict():  # the others are their functions
        torch._dynamo.reset()
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        assert_same(results(compiled, inputs, wanted), got)


def test_parameters_of_prelu_and_maxout(device):
    x = torch.randn(3, 4, 5, device=device)
    ours, builtin = ours_nn.PReLU(4, init=0.3, device=device), nn.PReLU(4, init=0.3, device=device)
    for module in (ours, builtin):
        module(x).square().sum().backward()
    assert_same(ours.weight.grad, builtin.weight.grad)
    maxout = ours_nn.Maxout(5, 2, pieces=3).to(device)
    weight, bias = maxout.linear.weight.view(2, 3, 5), maxout.linear.bias.view(2, 3)
    expected = torch.stack([x @ weight[:, k].T + bias[:, k] for k in range(3)]).amax(0)
    assert_same(maxout(x), expected)
    with pytest.raises(ValueError, match="Maxout: pieces must be at least 1, got 0"):
        ours_nn.Maxout(3, 4, pieces=0)
    with pytest.raises(ValueError, match="QuadraticCost: reduction must be 'notes', 'sum' or 'mean', got 'none'"):
        ours_nn.QuadraticCost("none")


# ------------------------------------------------------------------------------------------------------- other machines


def by_operators() -> list[str]:
    """The cases that go wrong in a process without a compiler."""
    wrong = []
    for (name, case), dtype in itertools.product(CASES.items(), (torch.float64, torch.bfloat16)):
        torch.manual_seed(0)
        try:
            for shape in [(3, 17), (2, 3, 5)]:
                assert_exact(case, case.tensors(shape, dtype))
        except AssertionError as error:
            wrong.append(f"{name}, {dtype}: {error}")
    return wrong


@pytest.mark.processes
def test_without_a_compiler(tmp_path):
    """The same numbers from torch's operators, and one line in the log."""
    script = f"import runpy; print(*runpy.run_path({__file__!r})['by_operators'](), sep='\\n\\n')"
    environment = os.environ | {"CC": str(tmp_path / "no-compiler"), "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
    lines = [line for line in done.stderr.splitlines() if "compiled kernels" in line]
    assert len(lines) == 1, done.stderr
    assert "no-compiler' not found" in lines[0]


@pytest.mark.not_interpreted
@EACH
def test_deterministic_algorithms(case, device, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which torch wants for products on CUDA
    tensors = case.tensors((3, 5), device=device)
    wanted, g = case.wanted(tensors), upstream(case, tensors)
    expected = results(case.ours, tensors, wanted, g)
    torch.use_deterministic_algorithms(True)
    try:
        assert_same(results(case.ours, tensors, wanted, g), expected, rtol=0, atol=0)
    finally:
        torch.use_deterministic_algorithms(False)
