"""Functions in LaTeX: read back, value and slope are what the formulas compute."""

import inspect

import numpy as np
import pytest
import torch
from latex_reader import Reader, split

from torch_lecture_ops import functions
from torch_lecture_ops.formula.latex import letter_of
from torch_lecture_ops.functions.elementwise import numbers_of, tensors_of

ALL = {
    name: cls
    for name, cls in vars(functions).items()
    if inspect.isclass(cls) and name in functions.__all__ and name not in ("Elementwise", "Pointwise", "Rowwise")
}
NUMBERS = dict(a=0.25, c=-0.5, negative_slope=0.125, alpha=1.5, n=3.0, subgradient=0.5)
LIKELY = dict(x=(-3, 3), z=(-3, 3), y=(0.05, 0.95))  # and of what is left
DY = r"\frac{\partial L}{\partial %s}"


def drawn(names):
    generator = np.random.default_rng(0)
    return {name: generator.uniform(*LIKELY.get(name, (0.05, 0.95)), (5, 7)) for name in names}


def read(lines, letters):
    """The values of all letters after these lines."""
    letters = dict(letters)
    for left, right, _ in map(split, lines):
        letters[left] = Reader(letters).value(right)
    return letters


def compare(value, wanted):
    np.testing.assert_allclose(value, np.broadcast_to(np.asarray(wanted), np.shape(value)), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", [name for name, cls in ALL.items() if hasattr(cls, "value")])
def test_value_and_gradients(name):
    cls = ALL[name]
    tensors = tensors_of(cls.value)
    numbers = {number: NUMBERS[number] for number in numbers_of(cls.value)}
    columns = drawn((*tensors, "g"))
    y = r"\ell" if "y" in tensors else "y"
    letters = {letter_of(k): v for k, v in columns.items() if k != "g"} | {DY % y: columns["g"]}
    found = read(cls.latex(), letters | {letter_of(k): np.float64(v) for k, v in numbers.items()})

    inputs = {k: torch.tensor(v) for k, v in columns.items() if k != "g"}
    value = cls.value(**inputs, **numbers)
    compare(found[y], value)
    known = {**inputs, "y": inputs.get("y", value)}
    if hasattr(cls, "slope"):
        slope = cls.slope(known[tensors_of(cls.slope)[0]], **{k: numbers[k] for k in numbers_of(cls.slope)})
        compare(found[r"\frac{\mathrm{d} y}{\mathrm{d} x}"], slope)
        return
    _, *kept = tensors_of(cls.chain)
    chosen = {k: numbers[k] for k in numbers_of(cls.chain)}
    gradients = cls.chain(torch.tensor(columns["g"]), *(known[k] for k in kept), **chosen)
    for tensor, gradient in zip(tensors, gradients if isinstance(gradients, tuple) else (gradients,), strict=True):
        compare(found[DY % letter_of(tensor)], gradient)


@pytest.mark.parametrize("labels", [True, False])
def test_cross_entropy(labels):
    columns = drawn(("x", "q"))
    x = torch.tensor(columns["x"], requires_grad=True)
    target = torch.full((5,), 4) if labels else torch.tensor(columns["q"])
    loss = torch.nn.functional.cross_entropy(x, target, reduction="none")
    loss.sum().backward()
    letters = {"x": columns["x"], "q": columns["q"], "t": np.float64(4), "j": np.arange(7.0)}
    found = read(functions.CrossEntropy.latex(labels=labels), letters)
    compare(found[r"\ell"], loss.detach().unsqueeze(-1))
    compare(found[r"\frac{\partial \ell}{\partial x}"], x.grad)


def test_maxout():
    pieces = np.array([[1.0, 3.0, 3.0], [2.0, np.nan, 5.0], [-1.0, -2.0, -3.0]])
    letters = {"x": pieces, "j": np.arange(3.0), DY % "y": np.array([[1.0], [2.0], [3.0]])}
    found = read(functions.Maxout.latex(), letters)
    y, index = torch.max(torch.tensor(pieces), -1, keepdim=True)
    compare(found["y"], y)
    compare(found[r"\mathrm{index}"], index)
    compare(found[DY % "x"], [[0, 1, 0], [0, 2, 0], [3, 0, 0]])


def test_matmul():
    a, b = torch.randn(2, 3, dtype=torch.double), torch.randn(3, 4, dtype=torch.double)
    a, b = a.requires_grad_(), b.requires_grad_()
    y = a @ b
    g = torch.ones_like(y)
    y.backward(g)
    letters = {"a": a.detach().numpy(), "b": b.detach().numpy(), DY % "y": g.numpy()}
    for left, right, _ in map(split, functions.MatMul.latex()):
        letters[left] = Reader(letters, np.matmul).value(right)
    compare(letters["y"], y.detach())
    compare(letters[DY % "a"], a.grad)
    compare(letters[DY % "b"], b.grad)


def test_copy():
    letters = {"x": np.array(2.0), DY % "y_{1}": np.array(3.0), DY % "y_{2}": np.array(4.0)}
    found = read(functions.Copy.latex(), letters)
    assert (found["y_{1}"], found["y_{2}"], found[DY % "x"]) == (2, 2, 7)


@pytest.mark.parametrize("name", ALL)
def test_every_function_is_written(name):
    lines = ALL[name].latex()
    assert len({line.split(" = ")[0] for line in lines}) == len(lines) >= 2
    assert lines._repr_latex_().startswith("$$")
