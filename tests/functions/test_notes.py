"""The worked examples, tables and derivations of the lecture notes, by our functions.

Each test names its lecture and slide: "IISER" is IISER Bhopal DSE316/616, 'Activation Functions and Optimizer';
"Larson" is Machine Learning in Python, 'Neural Network Optimization and Activation'; "We can do better" is 'We can do
better: Momentum and ReLU'. What the slides got wrong stands here, too, and is not copied.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import jacrev

from torch_lecture_ops import nn as ours_nn
from torch_lecture_ops.formula import exp
from torch_lecture_ops.functions import Elementwise
from torch_lecture_ops.nn import functional as F

# In float64, identities hold but for the roundings of a few operations, 1.1e-16 of the value each, and where a
# difference such as 1 - σ or 1 - f² cancels, for some of these of the 1.
EXACT = dict(rtol=1e-14, atol=1e-15)


def float64(*numbers) -> Tensor:
    return torch.tensor(*numbers, dtype=torch.float64)


def random(*shape, seed=0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(y: Tensor, *inputs: Tensor, upstream=None) -> tuple[Tensor, ...]:
    return torch.autograd.grad(y, inputs, torch.ones_like(y) if upstream is None else upstream, retain_graph=True)


def slope(function, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    return gradients(function(x), x)[0]


def close(got, want, **tolerance) -> None:
    torch.testing.assert_close(torch.as_tensor(got), torch.as_tensor(want), **(EXACT | tolerance))


# ----------------------------------------------------------------------------------------------------- backpropagation


def test_the_simple_example():
    """IISER, 'Previous class: Recap (Backpropagation)': f = (x + y) z at (-2, 5, -4), with q = x + y."""
    x, y, z = (torch.tensor(number, requires_grad=True) for number in (-2.0, 5.0, -4.0))
    q = F.add(x, y)
    f = F.mul(q, z)
    assert (q.item(), f.item()) == (3, -12)
    assert gradients(q, x, y) == (1, 1)  # the local gradients of the add gate
    assert gradients(f, q, z) == (-4, 3)  # of the mul gate: ∂f/∂q = z, ∂f/∂z = q
    assert gradients(f, x, y, z) == (-4, -4, 3)


# The numbers that the slides' figure has: w₀ = 2, x₀ = -1, w₁ = -3, x₁ = -2, w₂ = -3.
CIRCUIT = dict(w0=2.0, x0=-1.0, w1=-3.0, x1=-2.0, w2=-3.0)


def flat(w0, x0, w1, x1, w2):
    """The flat code of the slide: forward, then backward line by line."""
    s0 = w0 * x0
    s1 = w1 * x1
    s2 = s0 + s1
    s3 = s2 + w2
    L = 1 / (1 + math.exp(-s3))

    grad_L = 1.0
    grad_s3 = grad_L * (1 - L) * L
    grad_w2 = grad_s3
    grad_s2 = grad_s3
    grad_s0 = grad_s2
    grad_s1 = grad_s2
    grad_w1 = grad_s1 * x1
    grad_x1 = grad_s1 * w1
    grad_w0 = grad_s0 * x0
    grad_x0 = grad_s0 * w0
    edges = dict(s0=grad_s0, s1=grad_s1, s2=grad_s2, s3=grad_s3)
    return (s0, s1, s2, s3, L), edges, dict(w0=grad_w0, x0=grad_x0, w1=grad_w1, x1=grad_x1, w2=grad_w2)


def test_the_sigmoid_circuit():
    """IISER, 'Previous class: Recap (Backpropagation)': the numbers on the edges; 0.1966 is printed as 0.2."""
    values, edges, grads = flat(**CIRCUIT)
    assert values[:4] == (-2, 6, 4, 1)
    assert round(values[4], 2) == 0.73
    assert round(edges["s3"], 4) == 0.1966
    # [1.00] × [(1 - 1/(1 + e¹)) (1/(1 + e¹))], as the slide writes the local gradient: σ(-1) in place of σ(1)
    assert edges["s3"] == pytest.approx((1 - 1 / (1 + math.e)) * (1 / (1 + math.e)), rel=1e-15)
    assert {name: round(g, 1) for name, g in grads.items()} == dict(w0=-0.2, x0=0.4, w1=-0.4, x1=-0.6, w2=0.2)


def test_flat_code_is_what_our_gates_do():
    """IISER, 'Previous class: Backward Code': each line of it is one gate, with its value and its gradient."""
    inputs = {name: float64(value).requires_grad_() for name, value in CIRCUIT.items()}
    w0, x0, w1, x1, w2 = inputs.values()
    s0, s1 = F.mul(w0, x0), F.mul(w1, x1)
    s2 = F.add(s0, s1)
    s3 = F.add(s2, w2)
    L = F.sigmoid(s3)
    values, edges, grads = flat(**CIRCUIT)
    close(torch.stack([s0, s1, s2, s3, L]), float64(values))
    close(torch.stack(gradients(L, s0, s1, s2, s3)), float64(list(edges.values())))
    close(torch.stack(gradients(L, *inputs.values())), float64(list(grads.values())))


def test_the_graph_of_a_function_is_not_unique():
    """IISER, 'Previous class: Recap (Backpropagation)': the sigmoid as one node, or as *(-1), exp, +1 and 1/x."""

    class Exp(Elementwise):
        @staticmethod
        def value(x):
            return exp(x)

        @staticmethod
        def slope(y):
            return y

    class Reciprocal(Elementwise):
        @staticmethod
        def value(x):
            return 1 / x

        @staticmethod
        def slope(x):
            return -1 / x**2

    x = float64(1.0).requires_grad_()
    negative = F.mul(x, -1.0)
    e = Exp.call(negative)
    one_more = F.add(e, 1.0)
    y = Reciprocal.call(one_more)
    numbers = [round(node.item(), 2) for node in (negative, e, one_more, y)]
    assert numbers == [-1.0, 0.37, 1.37, 0.73]
    assert [round(g.item(), 2) for g in gradients(y, one_more, e, negative, x)] == [-0.53, -0.53, -0.2, 0.2]
    close(y, F.sigmoid(x))
    close(gradients(y, x)[0], slope(F.sigmoid, x))


def test_the_local_gradient_of_the_sigmoid():
    """IISER, 'Previous class: Recap (Backpropagation)': e⁻ˣ / (1 + e⁻ˣ)² = (1 - σ) σ."""
    x = torch.linspace(-8, 8, 101, dtype=torch.float64)
    s = F.sigmoid(x)
    close(slope(F.sigmoid, x), torch.exp(-x) / (1 + torch.exp(-x)) ** 2)
    close(slope(F.sigmoid, x), (1 - s) * s)


# ---------------------------------------------------------------------------------------------------- gradient patterns


def test_the_add_gate_distributes():
    """IISER, 'Previous class: Patterns in gradient flow'."""
    a, b = float64(3.0).requires_grad_(), float64(4.0).requires_grad_()
    y = F.add(a, b)
    assert y == 7
    assert gradients(y, a, b, upstream=float64(2.0)) == (2, 2)


def test_the_mul_gate_swaps_and_multiplies():
    """IISER, 'Previous class: Patterns in gradient flow'."""
    a, b = float64(2.0).requires_grad_(), float64(3.0).requires_grad_()
    y = F.mul(a, b)
    assert y == 6
    assert gradients(y, a, b, upstream=float64(5.0)) == (5 * 3, 5 * 2)


def test_the_copy_gate_adds():
    """IISER, 'Previous class: Patterns in gradient flow'."""
    a = float64(7.0).requires_grad_()
    first, second = F.copy(a)
    assert (first, second) == (7, 7)
    both = torch.autograd.grad((first, second), a, (float64(4.0), float64(2.0)))
    assert both == (6,)
    three = F.copy(a, 3)
    assert gradients(F.add(F.mul(three[0], three[1]), three[2]), a) == (7 + 7 + 1,)


def test_the_max_gate_routes():
    """IISER, 'Previous class: Patterns in gradient flow'."""
    a, b = float64(4.0).requires_grad_(), float64(5.0).requires_grad_()
    y = F.maximum(a, b)
    assert y == 5
    assert gradients(y, a, b, upstream=float64(9.0)) == (0, 9)


# ------------------------------------------------------------------------------------------------- vectors and matrices


def test_the_implicit_jacobian_of_relu():
    """IISER, 'Vector derivatives: Example': [1, -2, 3, -1] with dL/dz = [4, -1, 5, 9] gives [4, 0, 5, 0]."""
    x, upstream = float64([1.0, -2.0, 3.0, -1.0]).requires_grad_(), float64([4.0, -1.0, 5.0, 9.0])
    z = F.relu(x)
    assert z.tolist() == [1, 0, 3, 0]
    assert gradients(z, x, upstream=upstream)[0].tolist() == [4, 0, 5, 0]
    explicit = jacrev(F.relu)(x.detach())
    assert explicit.tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert (explicit @ upstream).tolist() == [4, 0, 5, 0]


@pytest.mark.parametrize("name", ["affine", "sigmoid", "tanh", "relu", "leaky_relu", "elu", "silu"])
def test_the_jacobian_of_an_elementwise_function_is_sparse(name):
    """IISER, 'Vector derivatives: Example': its off-diagonal entries are always zero."""
    x = random(5)
    function = getattr(F, name)
    close(jacrev(function)(x), torch.diag(slope(function, x)))


X = float64([[2.0, 1.0, -3.0], [-3.0, 4.0, 2.0]])
W = float64([[3.0, 2.0, 1.0, -1.0], [2.0, 1.0, 3.0, 2.0], [3.0, 2.0, 1.0, -2.0]])
DY = float64([[2.0, 3.0, -3.0, 9.0], [-8.0, 1.0, 4.0, 6.0]])
PRINTED = [[13, 9, -2, -6], [5, 2, 17, 1]]


def test_the_matrix_product():
    """IISER, 'Metrics derivatives: Example', slip: the product that is printed is not that of the matrices above it."""
    y = F.matmul(X, W)
    assert y.tolist() == [[-1, -1, 2, 6], [5, 2, 11, 7]]
    assert y.tolist() == (X.numpy() @ W.numpy()).tolist()
    assert y.tolist() != PRINTED


def test_the_gradients_of_the_matrix_product():
    """IISER, 'Metrics derivatives: Example': dL/dx = dL/dy wᵀ and dL/dw = xᵀ dL/dy, the only shapes that match up."""
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    dx, dw = gradients(F.matmul(x, w), x, w, upstream=DY)
    assert dx.tolist() == (DY.numpy() @ W.numpy().T).tolist() == [[0, 16, -9], [-24, 9, -30]]
    assert dw.tolist() == (X.numpy().T @ DY.numpy()).tolist()
    # and element by element: ∂L/∂x_nd = Σ_m ∂L/∂y_nm w_dm
    for n in range(2):
        for d in range(3):
            assert dx[n, d] == sum(DY[n, m] * W[d, m] for m in range(4))


# ---------------------------------------------------------------------------------------------------------- activations


def test_the_three_formulas_of_tanh():
    """Larson, 'New Activation: Hyperbolic Tangent' (two of them); IISER, 'Types of Activation Functions' (the third).

    sinh / cosh = (eᶻ - e⁻ᶻ) / (eᶻ + e⁻ᶻ) = 2 / (1 + e⁻²ᶻ) - 1, "basically a sigmoid from -1 to 1".
    """
    z = torch.linspace(-10, 10, 201, dtype=torch.float64)
    for formula in (
        torch.sinh(z) / torch.cosh(z),
        (torch.exp(z) - torch.exp(-z)) / (torch.exp(z) + torch.exp(-z)),
        2 / (1 + torch.exp(-2 * z)) - 1,
        2 * F.sigmoid(2 * z) - 1,
    ):
        close(F.tanh(z), formula)
    far = float64([-1000.0, 1000.0])  # where sinh and cosh are ∞
    assert F.tanh(far).tolist() == [-1, 1]


def test_the_three_slopes_of_tanh():
    """Larson, 'New Activation: Hyperbolic Tangent': sech²; 'Activations Summary': 4 / (eᶻ + e⁻ᶻ)²; IISER: 1 - f²."""
    z = torch.linspace(-6, 6, 121, dtype=torch.float64)
    for formula in (1 / torch.cosh(z) ** 2, 4 / (torch.exp(z) + torch.exp(-z)) ** 2, 1 - torch.tanh(z) ** 2):
        close(slope(F.tanh, z), formula)


# name, function, its value and its derivative as the table has them, from x and the value f
TABLE = [
    ("Linear", lambda x: F.affine(x, 3.0, -2.0), lambda x: 3 * x - 2, lambda x, f: torch.full_like(x, 3.0)),
    ("Sigmoid", F.sigmoid, lambda x: 1 / (1 + torch.exp(-x)), lambda x, f: f * (1 - f)),
    ("TanH", F.tanh, lambda x: 2 / (1 + torch.exp(-2 * x)) - 1, lambda x, f: 1 - f**2),
    (
        "ReLU",
        F.relu,
        lambda x: torch.where(x < 0, 0, x),
        lambda x, f: torch.where(x < 0, 0.0, 1.0).double(),
    ),
    (
        "Parametric ReLU",
        lambda x: F.prelu(x, float64([0.25])),
        lambda x: torch.where(x < 0, 0.25 * x, x),
        lambda x, f: torch.where(x < 0, 0.25, 1.0).double(),
    ),
    (
        "ELU",
        lambda x: F.elu(x, 1.5),
        lambda x: torch.where(x < 0, 1.5 * (torch.exp(x) - 1), x),
        lambda x, f: torch.where(x < 0, f + 1.5, 1.0),
    ),
]


@pytest.mark.parametrize(("name", "function", "equation", "derivative"), TABLE, ids=[row[0] for row in TABLE])
def test_the_table_of_activations(name, function, equation, derivative):
    """IISER, 'Types of Activation Functions': function type, equation, derivative."""
    x = torch.linspace(-4, 4, 80, dtype=torch.float64)  # without 0
    close(function(x), equation(x))
    close(slope(function, x), derivative(x, equation(x)))


def test_what_the_table_has_at_0():
    """IISER, 'Types of Activation Functions', has 1 at 0 for the three with a kink; Larson, 'New Activation: ReLU', 0.

    Ours have torch's: 0 for ReLU, the slope of the left side for the others. `subgradient` gives ReLU IISER's.
    """
    zero = float64([0.0])
    assert slope(F.relu, zero) == 0
    assert slope(lambda x: F.relu(x, subgradient=1.0), zero) == 1
    assert slope(lambda x: F.prelu(x, float64([0.25])), zero) == 0.25
    assert slope(lambda x: F.elu(x, 1.5), zero) == 1.5


def test_the_slope_of_elu_needs_only_its_output():
    """IISER, 'Types of Activation Functions': f + α on the left, where α eˣ = α (eˣ - 1) + α."""
    x = -random(100).abs()
    for alpha in (1.0, 0.5, 2.0):
        f = F.elu(x, alpha)
        close(slope(lambda x, alpha=alpha: F.elu(x, alpha), x), f + alpha)
        close(f + alpha, alpha * torch.exp(x), rtol=1e-13)  # f + α cancels: ulps of α


def test_prelu_learns_its_slope():
    """IISER, 'Types of Activation Functions', leaves out ∂L/∂α = Σ over x < 0 of x ∂L/∂f, without which α never learns.

    By central differences, and down to the α of the data.
    """
    x, target = random(200), None
    target = torch.where(x < 0, 0.7 * x, x)
    alpha = float64([0.25]).requires_grad_()

    def loss(alpha):
        return F.mse_loss(F.prelu(x, alpha), target, reduction="sum")

    (g,) = gradients(loss(alpha), alpha)
    upstream = 2 * (F.prelu(x, alpha.detach()) - target)
    close(g, (upstream * x)[x < 0].sum()[None], rtol=1e-13)  # a sum of 200
    h = 1e-6
    difference = (loss(alpha.detach() + h) - loss(alpha.detach() - h)) / (2 * h)
    assert g.item() == pytest.approx(difference.item(), rel=1e-7)  # the loss is quadratic: only roundings, 1e-16 / h
    for _ in range(50):
        (g,) = gradients(loss(alpha), alpha)
        alpha = (alpha - 0.25 / (x[x < 0] ** 2).sum() * g).detach().requires_grad_()
    assert alpha.item() == pytest.approx(0.7, abs=1e-9)


def test_silu_and_its_slope():
    """Larson, 'Other Activation Functions': φ = σ(z) z, and the four lines of its derivative."""
    z = torch.linspace(-20, 20, 401, dtype=torch.float64)
    sigma = F.sigmoid(z)
    phi = F.silu(z)
    close(phi, sigma * z)
    close(phi, z / (1 + torch.exp(-z)))  # 'Activations Summary'
    for line in (
        z * slope(F.sigmoid, z) + sigma * slope(lambda z: F.affine(z), z),
        z * sigma * (1 - sigma) + sigma,
        z * sigma + sigma * (1 - z * sigma),
        phi + sigma * (1 - phi),
    ):
        close(slope(F.silu, z), line, atol=4e-15)  # z (1 - σ): what cancels, 20 times


def test_silu_mixes_sigmoid_and_relu():
    """Larson, 'Other Activation Functions': far from 0 it is ReLU, and the gate in between is the sigmoid."""
    z = float64([-50.0, -40.0, 40.0, 50.0])
    close(F.silu(z), F.relu(z))
    x = random(10)
    close(F.silu(x), F.mul(x, F.sigmoid(x)))


def test_larsons_summary_of_activations():
    """Larson, 'Activations Summary': a (1 - a), 4 / (eᶻ + e⁻ᶻ)², 1 where z > 0 else 0, φ + σ (1 - φ)."""
    z = torch.linspace(-3, 3, 61, dtype=torch.float64)
    z[30] = 0.0  # the kink: 0 here
    a, phi = F.sigmoid(z), F.silu(z)
    close(slope(F.sigmoid, z), a * (1 - a))
    close(slope(F.tanh, z), 4 / (torch.exp(z) + torch.exp(-z)) ** 2)
    assert torch.equal(slope(F.relu, z), (z > 0).double())
    close(slope(F.silu, z), phi + a * (1 - phi))


def test_a_saturated_sigmoid_kills_the_gradient():
    """IISER, 'Sigmoid'; We can do better, 'Why not σ?'; Larson's self test on the derivative: a (1 - a), which is 0."""
    z = float64([-800.0, -40.0, 0.0, 40.0, 800.0])
    assert slope(F.sigmoid, z).tolist()[2] == 0.25
    assert slope(F.sigmoid, z)[[0, 1, 3, 4]].max() < 1e-15
    assert slope(F.relu, float64([1e6])) == 1  # IISER, 'ReLU': does not saturate
    assert slope(F.leaky_relu, float64([-1e6])) == 0.01  # IISER, 'Leaky ReLu': does not die
    assert slope(F.relu, float64([-1e6])) == 0


def test_tanh_is_steeper_than_the_sigmoid():
    """IISER, 'Tanh': its output is zero centered and its derivatives are steeper; at 0 four times, then less so."""
    x = torch.linspace(-1, 1, 41, dtype=torch.float64)
    assert (slope(F.tanh, x) > slope(F.sigmoid, x)).all()
    assert slope(F.tanh, float64(0.0)) == 4 * slope(F.sigmoid, float64(0.0)) == 1
    close(F.tanh(x) + F.tanh(-x), torch.zeros_like(x))
    close(F.sigmoid(x) + F.sigmoid(-x), torch.ones_like(x))


def test_outputs_that_are_not_zero_centered_push_all_weights_one_way():
    """IISER, 'Sigmoid': no zero-centered output, so that the weights of a neuron behind it all move alike."""
    inputs, w = random(30, 6), random(6, seed=1)

    def signs(activation):
        weight = w.clone().requires_grad_()
        rows = F.matmul(activation(inputs), weight)
        return [set(torch.sign(gradients(row, weight)[0]).tolist()) for row in rows]

    assert all(found in ({1.0}, {-1.0}) for found in signs(F.sigmoid))
    assert any(found == {1.0, -1.0} for found in signs(F.tanh))


def test_the_jacobian_of_softmax():
    """IISER, 'Types of Activation Functions': diag(s) - s sᵀ, symmetric, of rank C - 1, rows summing to 0."""
    x = random(6)
    s = F.softmax(x, 0)
    jacobian = jacrev(lambda x: F.softmax(x, 0))(x)
    close(jacobian, torch.diag(s) - torch.outer(s, s))
    close(jacobian, jacobian.T)
    close(jacobian.sum(1), torch.zeros(6, dtype=torch.float64))
    assert torch.linalg.matrix_rank(jacobian) == 5
    g = random(6, seed=1)
    leaf = x.clone().requires_grad_()
    close(gradients(F.softmax(leaf, 0), leaf, upstream=g)[0], jacobian @ g)  # the implicit multiplication
    close(s.sum(), float64(1.0))
    close(F.softmax(x + 100, 0), s, rtol=1e-13)  # only differences count; x + 100 is rounded to ulps of 100


def test_softmax_of_two_is_the_sigmoid():
    """We can do better, 'Why σ? (Recap)': it is related to softmax."""
    z = random(20)
    close(F.softmax(torch.stack([z, torch.zeros_like(z)]), 0)[0], F.sigmoid(z))


def test_maxout_with_a_zero_piece_is_relu():
    """IISER, 'Types of Activation Functions' (maxout): with k = 2 and one piece 0 it is ReLU, slope at 0 included."""
    x = torch.cat([random(50), float64([0.0, -0.0])]).requires_grad_()
    g = random(52, seed=1)
    y = F.maxout(torch.stack([torch.zeros_like(x), x], -1).flatten(), 2)
    z = F.relu(x)
    assert torch.equal(y, z)
    assert torch.equal(gradients(y, x, upstream=g)[0], gradients(z, x, upstream=g)[0])


def test_maxout_of_other_pieces():
    """IISER, 'Types of Activation Functions': one piece is linear, (x, -x) is |x|, (x, x / 4) is the leaky ReLU."""
    x = random(40)

    def pieces(*factors):
        return F.maxout(torch.stack([f * x for f in factors], -1).flatten(), len(factors))

    assert torch.equal(pieces(3.0), 3 * x)
    assert torch.equal(pieces(1.0, -1.0), x.abs())
    assert torch.equal(pieces(1.0, 0.25), F.leaky_relu(x, 0.25))
    layer = ours_nn.Maxout(4, 3, pieces=2, dtype=torch.float64)
    inputs = random(7, 4)
    W = layer.linear.weight.detach().reshape(3, 2, 4)
    b = layer.linear.bias.detach().reshape(3, 2)
    close(layer(inputs).detach(), (torch.einsum("nd,jkd->njk", inputs, W) + b).amax(-1))


# --------------------------------------------------------------------------------------------------------------- losses


def test_the_quadratic_cost_through_a_sigmoid():
    """We can do better, "Good 'ole Quadratic Cost": ∂C/∂z = -2 (y - a) σ(z) (1 - σ(z)) / n_L.

    The slide's y_k next to a_{L,j} is a slip of the index: both are of neuron j.
    """
    z, y = random(5).requires_grad_(), torch.rand(5, dtype=torch.float64)
    a = F.sigmoid(z)
    cost = F.quadratic_cost(a, y)
    close(cost, ((y - a) ** 2).sum() / 5)
    s = a.detach()
    close(gradients(cost, z)[0], -2 * (y - s) * s * (1 - s) / 5)


def test_larsons_sensitivity_of_the_quadratic_objective():
    """Larson, 'Changing the Objective Function': V⁽²⁾ = -2 (Y - A⁽³⁾) A⁽³⁾ (1 - A⁽³⁾), for the plain sum."""
    z, y = random(4, 6).requires_grad_(), torch.rand(4, 6, dtype=torch.float64)
    a = F.sigmoid(z)
    s = a.detach()
    close(gradients(F.quadratic_cost(a, y, "sum"), z)[0], -2 * (y - s) * s * (1 - s))


def test_the_scalings_of_the_quadratic_cost_act_like_learning_rates():
    """We can do better has 1/n_L Σ, Larson Σ, torch the mean: the same gradient but for a factor."""
    a, y = random(8, 5).requires_grad_(), random(8, 5, seed=1)
    notes, plain, mean = (F.quadratic_cost(a, y, reduction) for reduction in ("notes", "sum", "mean"))
    close(notes, plain / 5)
    close(mean, plain / 40)
    g = gradients(plain, a)[0]
    close(gradients(notes, a)[0], g / 5)
    close(gradients(mean, a)[0], g / 40)
    close(mean, F.mse_loss(a, y))
    close(ours_nn.QuadraticCost()(a, y), notes)
    close(notes, sum(F.quadratic_cost(row, target) for row, target in zip(a, y, strict=True)))


def test_the_cross_entropy_through_a_sigmoid():
    """Larson, 'Practical Implementation of Architectures': ∂J/∂z = a - y, all of the derivation on one slide."""
    z, y = random(9).requires_grad_(), torch.rand(9, dtype=torch.float64)
    a = F.sigmoid(z)
    s = a.detach()
    of_probabilities = F.binary_cross_entropy(a, y, reduction="sum")
    of_logits = F.binary_cross_entropy_with_logits(z, y, reduction="sum")
    close(of_probabilities, -(y * torch.log(s) + (1 - y) * torch.log(1 - s)).sum())
    close(of_logits, of_probabilities)
    close(gradients(of_logits, z)[0], s - y)
    close(gradients(of_probabilities, z)[0], s - y, rtol=1e-13)  # (a - y) / (a (1 - a)), times a (1 - a)
    close(gradients(of_probabilities, a)[0], -(y / s - (1 - y) / (1 - s)), rtol=1e-13)


def test_the_cross_entropy_through_softmax():
    """Larson, 'Practical Implementation of Architectures', where the slope a - y is that of softmax, too."""
    x, labels = random(6, 4).requires_grad_(), torch.tensor([0, 3, 1, 1, 2, 0])
    onehot = torch.nn.functional.one_hot(labels, 4).double()
    loss = F.cross_entropy(x, labels, reduction="sum")
    a = F.softmax(x, 1)
    close(loss, -torch.log(a[onehot == 1]).sum())
    close(gradients(loss, x)[0], (a - onehot).detach())
    close(gradients(F.cross_entropy(x, labels), x)[0], (a - onehot).detach() / 6)
    close(F.cross_entropy(x, onehot, reduction="sum"), loss)
    close(-(onehot * F.log_softmax(x, 1)).sum(), loss)


def test_a_wrong_and_saturated_neuron_learns_by_the_cross_entropy_alone():
    """We can do better, 'Why not σ?': sigmoids saturate and kill gradients, and the other cost comes to the rescue."""
    z, y = float64([-20.0]).requires_grad_(), float64([1.0])
    assert gradients(F.quadratic_cost(F.sigmoid(z), y), z)[0].abs() < 1e-8
    assert gradients(F.binary_cross_entropy_with_logits(z, y), z)[0].item() == pytest.approx(-1, abs=1e-8)
    close(gradients(F.binary_cross_entropy(F.sigmoid(z), y), z)[0], float64([-1.0]), rtol=0, atol=1e-8)


def test_the_gradient_of_logistic_regression():
    """We can do better, 'Cross-Entropy Cost': ∂C/∂w_j = 1/n Σ_x x_j (σ(z) - y)."""
    n, features = 30, 4
    x, y = random(n, features), (random(n, seed=1) > 0).double()
    w, b = random(features, seed=2).requires_grad_(), float64(0.3).requires_grad_()
    z = F.add(F.matmul(x, w), b)
    error = (F.sigmoid(z) - y).detach()
    cost = -(y * torch.log(F.sigmoid(z)) + (1 - y) * torch.log(1 - F.sigmoid(z))).mean()
    for loss in (F.binary_cross_entropy(F.sigmoid(z), y), F.binary_cross_entropy_with_logits(z, y)):
        close(loss, cost, rtol=1e-13)
        dw, db = gradients(loss, w, b)
        close(dw, float64([sum(x[k, j] * error[k] for k in range(n)) / n for j in range(features)]), rtol=1e-12)
        close(db, error.mean(), rtol=1e-12)  # 30 terms of both signs


# --------------------------------------------------------------------------------------------- Larson's backpropagation


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


class TwoLayers:
    """Larson's network in NumPy: examples are columns, A1 the inputs, A3 the outputs."""

    def __init__(self, inputs=5, hidden=4, outputs=3, examples=7):
        generator = np.random.default_rng(0)
        self.W1, self.b1 = generator.normal(size=(hidden, inputs)), generator.normal(size=(hidden, 1))
        self.W2, self.b2 = generator.normal(size=(outputs, hidden)), generator.normal(size=(outputs, 1))
        self.A1 = generator.normal(size=(inputs, examples))
        self.Y = (generator.random((outputs, examples)) < 0.5).astype(float)

    def forward(self):
        """1. Forward propagate to get Z, A."""
        self.A2 = sigmoid(self.W1 @ self.A1 + self.b1)
        self.A3 = sigmoid(self.W2 @ self.A2 + self.b2)
        return self.A3

    def backward(self, V2):
        """3. Back propagate sensitivities: the same lines for every cost."""
        V1 = self.A2 * (1 - self.A2) * (self.W2.T @ V2)
        grad_W2, grad_W1 = V2 @ self.A2.T, V1 @ self.A1.T
        return grad_W1, V1.sum(1, keepdims=True), grad_W2, V2.sum(1, keepdims=True)


# 2. Get final layer gradient: the only line that a cost changes, and the cost by our functions.
SENSITIVITIES = {
    "quadratic": (
        lambda Y, A3: -2 * (Y - A3) * A3 * (1 - A3),
        lambda Z3, Y: F.quadratic_cost(F.sigmoid(Z3), Y, "sum"),
    ),
    "cross entropy": (
        lambda Y, A3: A3 - Y,
        lambda Z3, Y: F.binary_cross_entropy(F.sigmoid(Z3), Y, reduction="sum"),
    ),
    "cross entropy of logits": (
        lambda Y, A3: A3 - Y,
        lambda Z3, Y: F.binary_cross_entropy_with_logits(Z3, Y, reduction="sum"),
    ),
}


@pytest.mark.parametrize("cost", SENSITIVITIES)
def test_backpropagation_by_hand_is_autograd(cost):
    """Larson, 'Changing the Objective Function', and its self test: only the last sensitivity changes."""
    network = TwoLayers()
    A3 = network.forward()
    sensitivity, objective = SENSITIVITIES[cost]
    by_hand = network.backward(sensitivity(network.Y, A3))

    parameters = [torch.from_numpy(p).requires_grad_() for p in (network.W1, network.b1, network.W2, network.b2)]
    W1, b1, W2, b2 = parameters
    A2 = F.sigmoid(F.add(F.matmul(W1, torch.from_numpy(network.A1)), b1))
    Z3 = F.add(F.matmul(W2, A2), b2)
    loss = objective(Z3, torch.from_numpy(network.Y))
    for got, want in zip(gradients(loss, *parameters), by_hand, strict=True):
        close(got, torch.from_numpy(want), rtol=1e-12, atol=1e-14)  # sums of up to 7 products


@pytest.mark.parametrize("cost", SENSITIVITIES)
def test_a_step_down_the_gradient_lowers_the_cost(cost):
    """Larson, 'Changing the Objective Function', step 4: W ← W - η ∇."""
    network = TwoLayers()
    sensitivity, objective = SENSITIVITIES[cost]

    def value():
        network.forward()
        Z3 = torch.from_numpy(network.W2 @ network.A2 + network.b2)
        return objective(Z3, torch.from_numpy(network.Y)).item()

    costs = []
    for _ in range(200):
        costs.append(value())
        steps = network.backward(sensitivity(network.Y, network.A3))
        for name, step in zip(("W1", "b1", "W2", "b2"), steps, strict=True):
            setattr(network, name, getattr(network, name) - 0.05 * step)
    assert all(after < before for before, after in pairwise(costs))


def test_the_quadratic_cost_is_slow_at_first():
    """Larson, 'Practical Implementation of Architectures': it tends to slow training initially.

    From outputs that are wrong and saturated, the first sensitivities are smaller by what the sigmoid kills.
    """
    Y, Z3 = float64([[1.0, 0.0]]), float64([[-6.0, 6.0]]).requires_grad_()
    slow, fast = (gradients(SENSITIVITIES[cost][1](Z3, Y), Z3)[0].abs() for cost in ("quadratic", "cross entropy"))
    a = F.sigmoid(Z3).detach()
    close(slow / fast, 2 * a * (1 - a), rtol=1e-10)  # fast is 1 - 0.0025 of a cancelled (1 - a)
    assert (slow < 0.01 * fast).all()
