"""What our functions and losses do at kinks, zeros, infinities, NaN, ties, with rows that do not count, with nothing at
all and with mistakes: case by case beside the installed built-in.

Where ours differ from it on purpose, their docstrings say so, and a test here says what they do instead.
"""

from __future__ import annotations

import itertools
import math
import warnings
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from torch_lecture_ops.nn import functional as F

TORCH = tuple(map(int, torch.__version__.split(".")[:2]))
INF, NAN = float("inf"), float("nan")
SPECIAL = [-INF, -100.0, -1.0, -0.0, 0.0, 1.0, 100.0, INF, NAN]
UPSTREAM = [1.0, 0.0, -2.0, INF, -INF, NAN]
HALF = (torch.float16, torch.bfloat16)
DTYPES = [torch.float64, torch.float32, *HALF]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
builtin = nn.functional

# Ours run by kernels: the C engine's, Triton's in its interpreter, or those of a device; or, under vmap, by torch's
# operators. (Under grad alone torch lets them run by kernels.)
WAYS = {
    "kernels": (),
    "operators": (),
    "interpreter": pytest.mark.needs_interpreter,
    "cuda": pytest.mark.gpu,
}


def ways(**dtypes):
    """A parameter of these ways, each with these dtypes."""
    rows = [
        pytest.param(dtype, way, marks=WAYS[way], id=f"{dtype}-{way}")
        for way, those in dtypes.items()
        for dtype in those
    ]
    return pytest.mark.parametrize(("dtype", "way"), rows, indirect=["way"])


SOME = (torch.float32, torch.bfloat16)
every_way = pytest.mark.parametrize("way", [pytest.param(w, marks=m) for w, m in WAYS.items()], indirect=True)
every_dtype_and_way = ways(kernels=DTYPES, operators=SOME, interpreter=SOME, cuda=DTYPES)
both_ways = ways(kernels=SOME, operators=SOME, interpreter=SOME, cuda=DTYPES)  # the formula is that of a neighbour


@pytest.fixture
def way(request, computing):
    with computing("interpreter" if request.param == "interpreter" else "cpu"):
        yield request.param


def one_by_one(rows, way):
    """Each alone; in the interpreter, which takes 10 ms for it, a few of them."""
    return rows[:: 1 + len(rows) // 4] if way == "interpreter" else rows


def outcome(function, tensors, upstream=None, way="kernels"):
    """The value and the gradients of the floating tensors; None where the upstream gradient does not reach."""
    if way == "cuda":
        if isinstance(function, partial):  # with a weight
            keywords = {name: v.cuda() if isinstance(v, Tensor) else v for name, v in function.keywords.items()}
            function = partial(function.func, *function.args, **keywords)
        tensors = [t.cuda() if isinstance(t, Tensor) else t for t in tensors]
        results = outcome(function, tensors, None if upstream is None else upstream.cuda())
        assert {t.device.type for t in results} == {"cuda"}
        return tuple(t.cpu() for t in results)
    tensors = [t.detach().clone() if isinstance(t, Tensor) else t for t in tensors]
    places = [k for k, t in enumerate(tensors) if isinstance(t, Tensor) and t.is_floating_point()]

    def of_floats(*floats):
        given = dict(zip(places, floats, strict=True))
        return function(*[given.get(k, t) for k, t in enumerate(tensors)])

    floats = [tensors[k] for k in places]
    if way == "operators":

        def product(*floats):
            """Σ y g, whose gradient for y is g; and y."""
            y = of_floats(*floats)
            return (y if upstream is None else y * upstream.to(y.dtype)).sum(), y

        of_one = torch.func.grad(product, tuple(range(len(floats))), has_aux=True)
        found, y = torch.func.vmap(of_one)(*[t[None] for t in floats])
        return y[0], *[gradient[0] for gradient in found]
    for t in floats:
        t.requires_grad_()
    y = of_floats(*floats)
    g = torch.ones_like(y) if upstream is None else upstream.to(y.dtype).expand(y.shape)
    return y.detach(), *torch.autograd.grad(y, floats, g)


def expected(function, tensors, upstream=None):
    """What the built-in makes of these; half types in float32, as ours are computed, and rounded once."""
    dtype = next(t.dtype for t in tensors if isinstance(t, Tensor) and t.is_floating_point())
    if dtype in HALF:
        tensors = [t.float() if isinstance(t, Tensor) and t.is_floating_point() else t for t in tensors]
    return [result.to(dtype) for result in outcome(function, tensors, upstream)]


# Kernels and the built-in have functions of their own, good to 2 ulp, and a few roundings more. Half types are rounded
# once from float32 or float64: they differ by 1 ulp where the result lies next to a tie.
ROUNDING = {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}


def agree(results, wanted, dtype, rtol=None, atol=0.0, text=""):
    for number, (got, want) in enumerate(zip(results, wanted, strict=True)):
        torch.testing.assert_close(
            got,
            want,
            rtol=ROUNDING[dtype] if rtol is None else rtol,
            atol=atol,
            equal_nan=True,
            msg=lambda m, number=number: f"{text}, result {number}: {m}",
        )


def grid(*values, dtype):
    """All combinations, a column for each."""
    return [t.flatten().to(dtype) for t in torch.meshgrid(*map(torch.tensor, values), indexing="ij")]


def same_zeros(got, want):
    zeros = want == 0
    return torch.equal(got.signbit()[zeros], want.signbit()[zeros])


# --------------------------------------------------------------------------------------------------------------- prelu


@every_dtype_and_way
@pytest.mark.parametrize("weight", [0.25, 0.0, -0.5, INF, NAN])
def test_prelu(weight, dtype, way):
    """One slope for all, one a channel whose elements are neighbours, and one a channel of planes."""
    x = torch.tensor(SPECIAL, dtype=dtype)
    for tensors in (
        (x, torch.tensor([weight], dtype=dtype)),
        (x[None], torch.full((9,), weight, dtype=dtype)),
        (x[None, :, None].repeat(1, 1, 17), torch.full((9,), weight, dtype=dtype)),
    ):
        for upstream in UPSTREAM:
            g = torch.tensor(upstream)
            results, wanted = outcome(F.prelu, tensors, g, way), expected(builtin.prelu, tensors, g)
            agree(results, wanted, dtype, text=f"{upstream}")
            assert same_zeros(results[0], wanted[0])


def test_the_slope_of_prelu_at_0_is_the_weight():
    """Stated in the docstring; with x >= 0 on IISER's table it would be 1."""
    y, dx, dw = outcome(F.prelu, (torch.tensor([-0.0, 0.0]), torch.tensor([0.25])))
    assert (y.tolist(), dx.tolist(), dw.tolist()) == ([0, 0], [0.25, 0.25], [0])
    assert y.signbit().tolist() == [True, False]


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("name", ["prelu", "mul", "add", "maximum", "mse_loss", "binary_cross_entropy_with_logits"])
def test_a_tangent_is_the_slope_of_its_tensor_alone(name, place):
    """Nothing is added for what has no tangent, not even 0 times infinity: forward mode agrees with backward."""
    special = [-INF, -1.0, 0.0, 1.0, INF, NAN]
    tensors = grid(special, [0.25] if name == "prelu" else special, dtype=torch.float64)
    tensors[0] = tensors[0][None] if name == "prelu" else tensors[0]  # one row, a slope for each of its elements
    function = partial(getattr(F, name), reduction="none") if name.endswith(("loss", "logits")) else getattr(F, name)
    slope = outcome(function, tensors)[1 + place].reshape(-1)
    ones = torch.ones_like(tensors[place])
    others = lambda t: function(*[t if k == place else tensor for k, tensor in enumerate(tensors)])  # noqa: E731
    _, tangent = torch.func.jvp(others, (tensors[place],), (ones,))
    torch.testing.assert_close(tangent.reshape(-1), slope, equal_nan=True)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(others(forward_ad.make_dual(tensors[place], ones))).tangent
    torch.testing.assert_close(tangent.reshape(-1), slope, equal_nan=True)


# -------------------------------------------------------------------------------------------------------------- maxout


def largest(x, pieces, dim=-1):
    """Maxout by torch.max, of which the first of equal ones gets the gradient."""
    return x.unflatten(dim, (-1, pieces)).max(dim % x.dim() + 1).values


@every_dtype_and_way
def test_maxout(dtype, way):
    """All pairs and triples of values: the first of equal ones wins, NaN over all, and losers get 0 of any gradient."""
    for pieces, values in ((2, SPECIAL), (3, [-INF, -0.0, 0.0, 1.0, INF, NAN])):
        rows = torch.stack(grid(*[values] * pieces, dtype=dtype), -1).flatten()
        for dim in (0, 1) if dtype is torch.float32 else (1,):
            x = rows[:, None].repeat(1, 3) if dim == 0 else rows[None].repeat(3, 1)
            ours, theirs = (partial(f, pieces=pieces, dim=dim) for f in (F.maxout, largest))
            for upstream in UPSTREAM:
                g = torch.tensor(upstream)
                results, wanted = outcome(ours, (x,), g, way), outcome(theirs, (x,), g)
                agree(results, wanted, dtype, rtol=0, text=f"{upstream}")
                assert same_zeros(results[1], wanted[1])


@every_way
@pytest.mark.parametrize("pieces", [1, 16, 17, 256, 257])
def test_maxout_of_many_equal_pieces_takes_the_first(pieces, way):
    """Also beyond 256, whose numbers no byte holds."""
    x = torch.zeros(4, pieces)
    x[1, pieces - 1], x[2, pieces // 2 :], x[3] = 1.0, 1.0, NAN
    y, dx = outcome(lambda x: F.maxout(x, pieces), (x,), torch.tensor(3.0), way)
    torch.testing.assert_close(y, torch.tensor([[0.0], [1.0], [1.0], [NAN]]), equal_nan=True)
    assert dx.nonzero().tolist() == [[0, 0], [1, pieces - 1], [2, pieces // 2], [3, 0]]
    assert dx.sum() == 12


# ------------------------------------------------------------------------------------------------------------- maximum


@every_dtype_and_way
def test_maximum(dtype, way):
    """The value is torch's. The gradient is routed: ties and two NaN to a, none of it to the loser."""
    a, b = grid(SPECIAL, SPECIAL, dtype=dtype)
    a_wins = (a >= b) | a.isnan()
    for upstream in UPSTREAM:
        g = torch.tensor(upstream, dtype=dtype)
        wanted = torch.maximum(a, b), torch.where(a_wins, g, 0), torch.where(a_wins, 0, g)
        agree(outcome(F.maximum, (a, b), g, way), wanted, dtype, rtol=0, text=f"{upstream}")


@every_way
def test_maximum_with_a_number_is_relu_with_the_gradient_of_ties(way):
    x = torch.tensor([-1.0, 0.0, 2.0, NAN])
    y, dx = outcome(lambda x: F.maximum(x, 0.0), (x,), torch.tensor(5.0), way)
    torch.testing.assert_close(y, torch.relu(x), equal_nan=True)
    assert dx.tolist() == [0, 5, 5, 5]
    assert outcome(lambda x: F.maximum(0.0, x), (x,), torch.tensor(5.0), way)[1].tolist() == [0, 0, 5, 5]


# ------------------------------------------------------------------------------------------------------------- softmax

HUGE = {torch.float64: 1e300, torch.float32: 1e37, torch.float16: 2e4, torch.bfloat16: 1e37}
ROWS = [
    [0.0, 1.0, -2.0, 0.5],
    [-INF, 0.0, 1.0, -INF],
    [-INF, -INF, -INF, 3.0],
    [-INF, -INF, -INF, -INF],
    [INF, 0.0, 1.0, -INF],
    [INF, INF, 0.0, 0.0],
    [NAN, 0.0, 1.0, 2.0],
    [0.0, 1.0, NAN, -INF],
    [NAN, INF, -INF, 0.0],
    [NAN, NAN, NAN, NAN],
    [0.0, -0.0, 0.0, -0.0],
    [-100.0, 0.0, 100.0, 104.0],
    [1e4, 1e4 + 8, 1e4 - 8, -1e4],
]


def rows_of(dtype):
    huge = HUGE[dtype]
    return torch.tensor([*ROWS, [huge, -huge, 0, huge], [-huge, -huge, -huge, -huge]], dtype=dtype)


@every_dtype_and_way
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax(name, dim, dtype, way):
    x = rows_of(dtype)
    gradients = [[1.0] * 4, [1.0, 0.0, 0.0, 0.0], [0.5, -1.0, 2.0, 0.25], [INF, 0.0, 0.0, 0.0], [NAN, 1.0, 1.0, 1.0]]
    gradients += [[INF, -INF, 1.0, 1.0], [INF] * 4, [0.0] * 4]
    for gradient in gradients:
        g = torch.tensor(gradient, dtype=dtype).expand(x.shape)
        values = [t.T.contiguous() if dim == 0 else t for t in (x, g)]
        results = outcome(lambda x: getattr(F, name)(x, dim), values[:1], values[1], way)
        wanted = expected(lambda x: getattr(builtin, name)(x, dim), values[:1], values[1])
        # Of gradients that cancel, such as y (1 - Σ y), ulps of y are left.
        agree(results, wanted, dtype, rtol=4 * ROUNDING[dtype], atol=2 * ROUNDING[dtype], text=f"{gradient}")


@every_way
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize(
    ("shape", "dim"), [((), 0), ((), -1), ((3, 0), 1), ((3, 0), 0), ((0, 3), 1), ((0,), 0), ((1,), 0)]
)
def test_softmax_of_little(shape, dim, name, way):
    x = torch.full(shape, 0.5)
    results = outcome(lambda x: getattr(F, name)(x, dim), (x,), None, way)
    wanted = outcome(lambda x: getattr(builtin, name)(x, dim), (x,))
    for got, want in zip(results, wanted, strict=True):
        assert torch.equal(got, want)
        assert got.shape == want.shape


# ----------------------------------------------------------------------------------------------------------- mse_loss

REDUCTIONS = ["none", "mean", "sum"]
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)


def element_by_element(ours, theirs, columns, dtype, way, **tolerance):
    """All elements at once, and by kernels each one alone under a sum and a mean, where no other one's NaN hides it."""
    alone = [[column[i : i + 1] for column in columns] for i in range(len(columns[0]))]
    for reduction, upstream in [*(("none", g) for g in UPSTREAM), ("mean", 1.0), ("sum", -2.0)]:
        g = torch.tensor(upstream)
        for tensors in one_by_one(alone, way) if reduction != "none" and way != "operators" else [columns]:
            results = outcome(partial(ours, reduction=reduction), tensors, g, way)
            wanted = expected(partial(theirs, reduction=reduction), tensors, g)
            text = f"{reduction} of {[t.tolist() for t in tensors]} from {upstream}"
            agree(results, wanted, dtype, text=text, **tolerance)


@every_dtype_and_way
def test_mse_loss(dtype, way):
    columns = grid([*SPECIAL, HUGE[dtype]], [*SPECIAL, -HUGE[dtype]], dtype=dtype)
    element_by_element(F.mse_loss, builtin.mse_loss, columns, dtype, way)


@both_ways
@every_reduction
def test_weighted_mse_loss(reduction, dtype, way):
    a, y, w = grid([-INF, -1.0, 0.0, 2.0, NAN], [0.0, 2.0, INF], [0.0, 1.0, -0.5, INF], dtype=dtype)

    def weighted(where):
        return lambda a, y, w: where.mse_loss(a, y, reduction=reduction, weight=w)

    alone = [[t[i : i + 1] for t in (a, y, w)] for i in range(len(a))]
    for tensors in one_by_one(alone, way) if reduction != "none" and way != "operators" else [[a, y, w]]:
        agree(outcome(weighted(F), tensors, None, way), expected(weighted(builtin), tensors), dtype, text=f"{tensors}")


# ------------------------------------------------------------------------------------------------- binary_cross_entropy

TINY = {torch.float64: 3e-308, torch.float32: 2e-38, torch.float16: 6e-8, torch.bfloat16: 2e-38}


RTOL_BCE = ROUNDING | {torch.float64: 5e-9}  # torch's 1e-12 is that of float32, which is 4e-9 less


def probabilities(dtype):
    eps = torch.finfo(dtype).eps
    return [0.0, -0.0, TINY[dtype], 1e-30, 2.0**-10, 0.25, 0.5, 1 - eps / 2, 1.0]


@every_dtype_and_way
def test_binary_cross_entropy(dtype, way):
    """Logarithms are at least -100, a (1 - a) at least 1e-12, the gradient of the target is unbounded: as torch's."""
    columns = grid(probabilities(dtype), [0.0, 0.25, 1.0], dtype=dtype)
    element_by_element(F.binary_cross_entropy, builtin.binary_cross_entropy, columns, dtype, way, rtol=RTOL_BCE[dtype])


@both_ways
@pytest.mark.parametrize("weight", [0.0, 1.0, -2.0, INF, NAN])
def test_weighted_binary_cross_entropy(weight, dtype, way):
    a, y = grid(probabilities(dtype), [0.0, 0.25, 1.0], dtype=dtype)
    for w in (torch.tensor(weight, dtype=dtype), torch.full_like(a, weight), torch.full((1,), weight, dtype=dtype)):
        ours, theirs = (partial(f.binary_cross_entropy, weight=w, reduction="none") for f in (F, builtin))
        theirs = partial(builtin.binary_cross_entropy, weight=w.float(), reduction="none") if dtype in HALF else theirs
        agree(outcome(ours, (a, y), None, way), expected(theirs, (a, y)), dtype, rtol=RTOL_BCE[dtype])


# ------------------------------------------------------------------------------------ binary_cross_entropy_with_logits

LOGITS = [*SPECIAL, -1000.0, 1000.0, -20.0, 20.0, 0.5]


@every_dtype_and_way
def test_binary_cross_entropy_with_logits(dtype, way):
    columns, name = grid(LOGITS, [0.0, 0.25, 1.0, 2.0, -1.0], dtype=dtype), "binary_cross_entropy_with_logits"
    # σ(-100) is subnormal in float32: torch has it, 1 / (1 + e¹⁰⁰) is 0
    atol = torch.finfo(dtype).smallest_normal * 4
    element_by_element(getattr(F, name), getattr(builtin, name), columns, dtype, way, atol=atol)


@both_ways
@pytest.mark.parametrize("pos_weight", [0.0, 3.0, INF])
@pytest.mark.parametrize("weight", [None, 0.0, 0.5, -2.0])
def test_weighted_binary_cross_entropy_with_logits(weight, pos_weight, dtype, way):
    z, y = grid(LOGITS, [0.0, 0.25, 1.0], dtype=dtype)
    for shape in ((), z.shape):
        w, p = (v if v is None else torch.full(shape, v, dtype=dtype) for v in (weight, pos_weight))

        def weighted(where, w=w, p=p):
            function = where.binary_cross_entropy_with_logits
            if where is builtin and dtype in HALF:
                w, p = (v if v is None else v.float() for v in (w, p))
            return partial(function, weight=w, pos_weight=p, reduction="none")

        (y_, dz, dy), (want, wanted, wanted_too) = (
            outcome(weighted(F), (z, y), None, way),
            expected(weighted(builtin), (z, y)),
        )
        agree((y_, dz), (want, wanted), dtype, atol=torch.finfo(dtype).smallest_normal * 16)
        agree((dy,), (wanted_too,), dtype, atol=ROUNDING[dtype])  # more strictly below


@both_ways
def test_the_gradient_of_a_target_whose_positives_do_not_count(dtype, way):
    """With p = 0 it is -ln(1 + eᶻ), which is small for z < 0, and as exact as torch's there."""
    z = torch.tensor([-30.0, -10.0, -5.0, -1.0, 0.0, 3.0], dtype=dtype)
    zero = torch.zeros((), dtype=dtype)

    loss = partial(F.binary_cross_entropy_with_logits, pos_weight=zero, reduction="sum")
    _, _, dy = outcome(loss, (z, torch.full_like(z, 0.5)), None, way)
    wanted = -torch.log1p(torch.exp(z.double()))
    torch.testing.assert_close(dy, wanted.to(dtype), rtol=2 * ROUNDING[dtype], atol=0)


# ------------------------------------------------------------------------------------------------------- cross_entropy

FLAT = {"label_smoothing": 1.0}
OPTIONS = [{}, {"label_smoothing": 0.25}, FLAT, {"weight": [1.0, 0.5, 2.0, 0.25]}]
OPTIONS += [{"weight": [1.0, 0.5, 2.0, 0.25], "label_smoothing": 0.25}]
IDS = ["plain", "smooth", "flat", "weights", "smooth weights"]
every_option = pytest.mark.parametrize("options", OPTIONS, ids=IDS)


def entropies(options, dtype, **more):
    """Ours and the built-in with these options."""
    weight = options.get("weight")
    options = options | more
    ours = options if weight is None else options | {"weight": torch.tensor(weight, dtype=dtype)}
    wide = torch.float32 if dtype in HALF else dtype
    theirs = options if weight is None else options | {"weight": torch.tensor(weight, dtype=wide)}
    return partial(F.cross_entropy, **ours), partial(builtin.cross_entropy, **theirs)


@pytest.mark.sweep
@every_dtype_and_way
@every_reduction
@pytest.mark.parametrize("options", [o for o in OPTIONS if o != FLAT], ids=[i for i in IDS if i != "flat"])
def test_cross_entropy_of_special_rows(options, reduction, dtype, way):
    """Row by row, each with each label: values and gradients are finite, infinite and NaN where torch's are."""
    x = rows_of(dtype)
    ours, theirs = entropies(options, dtype, reduction=reduction)
    for label in one_by_one(range(4), way):
        batches = one_by_one(x.split(1), way) if reduction != "none" and way != "operators" else [x]
        for rows in batches:
            labels = torch.full((len(rows),), label)
            results, wanted = outcome(ours, (rows, labels), None, way), expected(theirs, (rows, labels))
            # The gradient of 1 - p and Σ p ... - q cancels to ulps of 1.
            agree(results, wanted, dtype, rtol=4 * ROUNDING[dtype], atol=2 * ROUNDING[dtype], text=f"{rows}, {label}")


@both_ways
@every_reduction
def test_smoothing_over_all_classes_alike(reduction, dtype, way):
    """With ε = 1 the label does not count. (In torch it does, with 0 · ∞, where its logit is -∞.)"""
    x = rows_of(dtype)
    flat = torch.full_like(x, 0.25)
    for label in range(4):
        labels = torch.full((len(x),), label)
        y, dx = outcome(partial(F.cross_entropy, reduction=reduction, **FLAT), (x, labels), None, way)
        want, wanted, _ = expected(partial(builtin.cross_entropy, reduction=reduction), (x, flat))
        agree((y, dx), (want, wanted), dtype, rtol=4 * ROUNDING[dtype], atol=2 * ROUNDING[dtype])


@both_ways
@pytest.mark.parametrize("upstream", [0.0, -2.0, INF, NAN])
def test_cross_entropy_of_special_gradients(upstream, dtype, way):
    """An infinite or NaN gradient from above is not finite below, where torch's is not, so that AMP notices it."""
    x, labels = rows_of(dtype)[:2], torch.tensor([1, 1])
    for reduction in REDUCTIONS:
        ours, theirs = entropies({}, dtype, reduction=reduction)
        g = torch.tensor(upstream)
        (y, dx), (want, wanted) = outcome(ours, (x, labels), g, way), expected(theirs, (x, labels), g)
        agree((y,), (want,), dtype)
        if math.isfinite(upstream):
            agree((dx,), (wanted,), dtype, atol=ROUNDING[dtype])
        else:
            assert not dx[0].isfinite().any()
            assert not wanted[0].isfinite().any()


@both_ways
@every_reduction
@every_option
def test_ignored_rows_count_nowhere(options, reduction, dtype, way):
    x = normal(7, 4).to(dtype)
    for ignore in (-100, 2, 255):
        labels = torch.tensor([0, ignore, 3, 1, ignore, ignore, 0])
        ours, theirs = entropies(options, dtype, reduction=reduction, ignore_index=ignore)
        results, wanted = outcome(ours, (x, labels), None, way), expected(theirs, (x, labels))
        agree(results, wanted, dtype, rtol=4 * ROUNDING[dtype], atol=ROUNDING[dtype])
        assert (results[1][labels == ignore] == 0).all()
        if reduction == "none":
            assert (results[0][labels == ignore] == 0).all()


@both_ways
@every_option
def test_where_all_rows_are_ignored(options, dtype, way):
    """The mean over nothing is NaN, the sum 0, and the gradient 0."""
    x, labels = torch.zeros(3, 4, dtype=dtype), torch.full((3,), -100)
    cases = [("mean", NAN), ("sum", 0.0), ("none", 0.0)]
    for upstream, (reduction, value) in itertools.product([1.0, 0.0, INF, NAN], cases):
        ours, theirs = entropies(options, dtype, reduction=reduction)
        y, dx = outcome(ours, (x, labels), torch.tensor(upstream), way)
        torch.testing.assert_close(y, torch.full_like(y, value), equal_nan=True)
        assert (dx == 0).all()
        if upstream == 1.0:
            agree((y, dx), expected(theirs, (x, labels)), dtype)


@both_ways
@every_reduction
@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[4]], ids=[IDS[0], IDS[4]])
@pytest.mark.parametrize("row", [[NAN] * 4, [-INF] * 4, [INF, 0.0, 0.0, 0.0]], ids=["nan", "-inf", "inf"])
def test_an_ignored_row_of_nan_has_the_gradient_0(row, options, reduction, dtype, way):
    """On purpose: torch's gradient of that row is NaN, and one padded row spoils the whole step."""
    x = torch.tensor([[0.5, 1.0, -1.0, 0.0], row], dtype=dtype)
    labels = torch.tensor([1, -100])
    ours, theirs = entropies(options, dtype, reduction=reduction)
    y, dx = outcome(ours, (x, labels), None, way)
    want, wanted = expected(theirs, (x, labels))
    agree((y, dx[:1]), (want, wanted[:1]), dtype, rtol=4 * ROUNDING[dtype], atol=ROUNDING[dtype])
    assert (dx[1] == 0).all()
    assert wanted[1].isnan().any()  # as soon as this fails, torch has learned it


@every_dtype_and_way
def test_a_label_whose_logit_is_minus_infinite(dtype, way):
    """The loss is infinite, its gradient is not. Elsewhere -∞ is a class that cannot be, unless smoothing wants it."""
    x = torch.tensor([[-INF, 0.0, 1.0]], dtype=dtype)
    p = math.exp(1) / (1 + math.exp(1))
    y, dx = outcome(F.cross_entropy, (x, torch.tensor([0])), None, way)
    assert y == INF
    torch.testing.assert_close(
        dx.double(), torch.tensor([[-1.0, 1 - p, p]], dtype=torch.float64), rtol=0, atol=ROUNDING[dtype]
    )
    y, dx = outcome(F.cross_entropy, (x, torch.tensor([2])), None, way)
    assert y.item() == pytest.approx(-math.log(p), rel=2 * ROUNDING[dtype])
    torch.testing.assert_close(
        dx.double(), torch.tensor([[0.0, 1 - p, p - 1]], dtype=torch.float64), rtol=0, atol=ROUNDING[dtype]
    )
    y, _ = outcome(partial(F.cross_entropy, label_smoothing=0.1), (x, torch.tensor([2])), None, way)
    assert y == INF


def targets_of(rows):
    """Probabilities, and what else a target may hold."""
    q = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=rows.dtype).expand(rows.shape)
    return q, torch.full_like(rows, 0.25), 2 * q, -q


@pytest.mark.sweep
@every_dtype_and_way
@every_reduction
@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[1], OPTIONS[4]], ids=[IDS[0], IDS[1], IDS[4]])
def test_probabilities_of_special_rows(options, reduction, dtype, way):
    x = rows_of(dtype)
    ours, theirs = entropies(options, dtype, reduction=reduction)
    for target in targets_of(x):
        alone = list(zip(x.split(1), target.split(1), strict=True))
        batches = one_by_one(alone, way) if reduction != "none" and way != "operators" else [(x, target)]
        for rows in batches:
            (y, dx, _), (want, wanted, _) = outcome(ours, rows, None, way), expected(theirs, rows)
            agree((y, dx), (want, wanted), dtype, rtol=8 * ROUNDING[dtype], atol=4 * ROUNDING[dtype], text=f"{rows}")


@every_dtype_and_way
@every_option
def test_the_gradient_of_probabilities(options, dtype, way):
    """-ln softmax(x), also where the logits are far from 0: then m is large, but not m - x."""
    x = rows_of(dtype)
    ours, theirs = entropies(options, dtype, reduction="sum")
    for target in targets_of(x):
        results, wanted = outcome(ours, (x, target), None, way), expected(theirs, (x, target))
        agree(results[2:], wanted[2:], dtype, rtol=4 * ROUNDING[dtype], atol=4 * ROUNDING[dtype], text=f"{target[0]}")


@every_dtype_and_way
@every_reduction
def test_a_class_of_probability_0_may_have_the_logit_minus_infinity(reduction, dtype, way):
    """On purpose: torch multiplies 0 by ∞ there and the loss is NaN."""
    x = torch.tensor([[-INF, 0.0, 0.0], [-INF, 0.0, 0.0]], dtype=dtype)
    q = torch.tensor([[0.0, 0.5, 0.5], [0.0, 1.0, 0.0]], dtype=dtype)
    y, dx, _ = outcome(partial(F.cross_entropy, reduction=reduction), (x, q), None, way)
    scale = {"none": [1.0, 1.0], "mean": 1.0, "sum": 2.0}[reduction]
    torch.testing.assert_close(
        y, (torch.tensor(scale, dtype=torch.float64) * math.log(2)).to(dtype), rtol=2 * ROUNDING[dtype], atol=0
    )
    half = 0.25 if reduction == "mean" else 0.5
    assert dx.tolist() == [[0, 0, 0], [0, -half, half]]
    assert builtin.cross_entropy(x.float(), q.float(), reduction=reduction).isnan().all()


@every_dtype_and_way
def test_a_class_of_weight_0_may_have_the_logit_minus_infinity(dtype, way):
    """The same, for the weight that makes the probability 0."""
    x, labels, weight = torch.tensor([[-INF, 0.0, 0.0]], dtype=dtype), torch.tensor([1]), [0.0, 1.0, 1.0]
    ours, _ = entropies({"weight": weight, "label_smoothing": 0.3}, dtype)
    y, dx = outcome(ours, (x, labels), None, way)
    # q = w (0.7 onehot + 0.1) = (0, 0.8, 0.1); the loss Σ q ln 2; the slope Σ q softmax - q
    assert y.item() == pytest.approx(0.9 * math.log(2), rel=2 * ROUNDING[dtype])
    torch.testing.assert_close(
        dx.double(), torch.tensor([[0.0, -0.35, 0.35]], dtype=torch.float64), rtol=0, atol=ROUNDING[dtype]
    )


@every_way
@every_reduction
@every_option
def test_weights_of_0(options, reduction, way):
    """All labels of weight 0: the mean is 0 / 0 as torch's, or, smoothed, no finite number either."""
    x, labels = torch.randn(3, 4), torch.zeros(3, dtype=torch.int64)
    ours, theirs = entropies(options | {"weight": [0.0, 1.0, 1.0, 1.0]}, torch.float32, reduction=reduction)
    y, dx = outcome(ours, (x, labels), None, way)
    want, wanted = expected(theirs, (x, labels))
    if reduction == "mean":
        assert [t.isfinite().any() for t in (y, dx, want, wanted)] == [False] * 4
    else:
        agree((y, dx), (want, wanted), torch.float32, atol=1e-6)


@every_way
@pytest.mark.parametrize("labels", [torch.int64, torch.uint8], ids=str)
@every_reduction
def test_labels_of_both_dtypes(reduction, labels, way):
    x, t = torch.randn(4, 200), torch.tensor([0, 199, 130, 255]).to(labels)
    ours, theirs = entropies({}, torch.float32, reduction=reduction, ignore_index=255)
    agree(outcome(ours, (x, t), None, way), expected(theirs, (x, t)), torch.float32, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------- no elements


def empty(*shape):
    return torch.empty(shape)


def labels_of(*shape):
    return torch.empty(shape, dtype=torch.int64)


NOTHING = {
    "mse_loss": [(empty(0), empty(0)), (empty(0, 3), empty(0, 3)), (empty(3, 0), empty(3, 0))],
    "binary_cross_entropy": [(empty(0), empty(0)), (empty(2, 0), empty(2, 0))],
    "binary_cross_entropy_with_logits": [(empty(0), empty(0)), (empty(2, 0), empty(2, 0))],
    "cross_entropy": [
        (empty(0, 4), labels_of(0)),
        (empty(0, 0), labels_of(0)),
        (empty(0, 4), empty(0, 4)),
        (empty(2, 4, 0), labels_of(2, 0)),
        (empty(0, 4, 3), labels_of(0, 3)),
        (empty(3, 0), empty(3, 0)),
        (empty(2, 4, 0), empty(2, 4, 0)),
    ],
}


@every_way
@every_reduction
@pytest.mark.parametrize(("name", "number"), [(name, k) for name in NOTHING for k in range(len(NOTHING[name]))])
def test_losses_of_nothing(name, number, reduction, way):
    """The mean over nothing is NaN, the sum 0; the gradients have the shapes of the tensors."""
    tensors = NOTHING[name][number]
    ours, theirs = (partial(getattr(where, name), reduction=reduction) for where in (F, builtin))
    results, wanted = outcome(ours, tensors, None, way), outcome(theirs, tensors)
    agree(results, wanted, torch.float32)
    assert [t.shape for t in results] == [t.shape for t in wanted]


@every_reduction
def test_labels_of_no_classes_are_out_of_bounds(reduction):
    for where in (F, builtin):
        with pytest.raises(IndexError, match=r"^Target 0 is out of bounds\.$"):
            where.cross_entropy(torch.empty(3, 0), torch.zeros(3, dtype=torch.int64), reduction=reduction)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0), (2, 4, 0)])
def test_prelu_and_maxout_of_nothing(shape):
    x, w = torch.empty(shape), torch.ones(1)
    agree(outcome(F.prelu, (x, w)), outcome(builtin.prelu, (x, w)), torch.float32)
    dim = 1 if shape in ((0, 4), (2, 4, 0)) else 0
    if shape != (3, 0):
        y, dx = outcome(lambda x: F.maxout(x, 2, dim), (x,))
        assert y.shape == tuple(n // 2 if d == dim else n for d, n in enumerate(shape))
        assert dx.shape == shape


# ------------------------------------------------------------------------------------------------- labels out of bounds


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@every_option
@pytest.mark.parametrize("label", [4, -1, 2**53, -(2**62), -100])
def test_labels_out_of_bounds(label, options, dtype):
    """An IndexError with torch's text, before anything wrong can be computed with."""
    for reduction, grad in itertools.product(REDUCTIONS, (False, True)):
        x, labels = torch.zeros(3, 4, dtype=dtype, requires_grad=grad), torch.tensor([1, label, 0])
        ours, theirs = entropies(options, dtype, reduction=reduction, ignore_index=-7)
        for function, logits in ((ours, x), (theirs, x.float() if dtype in HALF else x)):
            with pytest.raises(IndexError, match=rf"^Target {label} is out of bounds\.$"):
                function(logits, labels)


@ways(interpreter=[torch.float32], cuda=DTYPES)
@every_option
@every_reduction
@pytest.mark.parametrize("label", [4, -1, 2**53, -(2**62)])
def test_labels_out_of_bounds_where_nobody_waits_to_hear_of_them(label, reduction, options, dtype, way):
    """Of a device, that is: then the loss is NaN. (In the interpreter totals come as of a device.)"""
    x, labels = torch.zeros(3, 4, dtype=dtype), torch.tensor([1, label, 0])
    ours, _ = entropies(options, dtype, reduction=reduction)
    y, _ = outcome(ours, (x, labels), None, way)
    assert y.isnan().tolist() == ([False, True, False] if reduction == "none" else True)


def test_bytes_out_of_bounds():
    for where in (F, builtin):
        with pytest.raises(IndexError, match=r"^Target 200 is out of bounds\.$"):
            where.cross_entropy(torch.zeros(2, 4), torch.tensor([1, 200], dtype=torch.uint8))


def test_labels_out_of_bounds_of_planes():
    x, labels = torch.zeros(2, 3, 5), torch.zeros(2, 5, dtype=torch.int64)
    labels[1, 2] = 3
    for where in (F, builtin):
        with pytest.raises(IndexError, match=r"^Target 3 is out of bounds\.$"):
            where.cross_entropy(x, labels)


TRANSFORMS = {
    "grad": lambda f, x: torch.func.grad(lambda x: f(x).sum())(x),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x,)),
    "vmap": lambda f, x: torch.func.vmap(f)(x[None]),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_labels_out_of_bounds_under_transforms(transform):
    """torch raises there, too: with the values at hand, a wrong label is never a wrong number."""
    x, labels = torch.zeros(2, 3), torch.tensor([0, 5])
    for where in (builtin, F):
        with pytest.raises((IndexError, RuntimeError), match=r"(Target|index) 5 is out of bounds"):
            TRANSFORMS[transform](lambda x, where=where: where.cross_entropy(x, labels), x)


# ------------------------------------------------------------------------------------------ probabilities out of bounds

NO_PROBABILITIES = [-0.125, 1.125, -INF, INF, NAN, 2.0, -100.0]


@every_dtype
@every_reduction
@pytest.mark.parametrize("value", NO_PROBABILITIES)
def test_probabilities_out_of_bounds(value, reduction, dtype):
    good, bad = torch.tensor([0.25, 0.5, 0.75], dtype=dtype), torch.tensor([0.25, value, 0.75], dtype=dtype)
    for where in (F, builtin):
        loss = partial(where.binary_cross_entropy, reduction=reduction)
        for weight in (None, torch.ones(3, dtype=dtype), torch.zeros((), dtype=dtype)):
            with pytest.raises(RuntimeError, match=r"^all elements of input should be between 0 and 1$"):
                loss(bad, good, weight=weight)
            with pytest.raises(RuntimeError, match=r"^all elements of target should be between 0 and 1$"):
                loss(good, bad, weight=weight)
            with pytest.raises(RuntimeError, match=r"^all elements of input should be between 0 and 1$"):
                loss(bad.requires_grad_(), bad, weight=weight)
        bad.detach_()


@every_dtype
@pytest.mark.parametrize("place", ["input", "target"])
def test_probabilities_a_hair_out_of_bounds(place, dtype):
    info = torch.finfo(dtype)
    for value in (1 + info.eps, -info.smallest_normal, -info.eps / 4, -info.eps / 2, -info.eps):
        bad, good = torch.tensor([value], dtype=dtype), torch.tensor([0.5], dtype=dtype)
        for where in (builtin, F):
            with pytest.raises(RuntimeError, match=rf"^all elements of {place} should be between 0 and 1$"):
                where.binary_cross_entropy(*((bad, good) if place == "input" else (good, bad)))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_probabilities_out_of_bounds_under_transforms(transform):
    """torch raises there, too."""
    a, y = torch.tensor([0.25, 1.5]), torch.tensor([0.5, 0.5])
    for where in (builtin, F):
        with pytest.raises(RuntimeError, match=r"^all elements of input should be between 0 and 1$"):
            TRANSFORMS[transform](lambda a, where=where: where.binary_cross_entropy(a, y), a)


@pytest.mark.gpu
@every_dtype
@pytest.mark.parametrize("value", NO_PROBABILITIES)
def test_probabilities_out_of_bounds_where_nobody_waits_to_hear_of_them(value, dtype):
    """Of a device: the loss is NaN."""
    good, bad = (torch.tensor([0.25, v, 0.75], dtype=dtype, device="cuda") for v in (0.5, value))
    for pair in ((bad, good), (good, bad)):
        y = F.binary_cross_entropy(*pair, reduction="none")
        assert y.isnan().tolist() == [False, True, False]
        assert F.binary_cross_entropy(*pair).isnan()


def test_a_weight_of_nan_is_no_wrong_probability():
    a = torch.tensor([0.25, 0.5])
    assert F.binary_cross_entropy(a, a, weight=torch.tensor([1.0, NAN])).isnan()


# --------------------------------------------------------------------------------------------- mistakes and their texts


def x(*shape, dtype=torch.float32):
    """Probabilities of this shape."""
    count = math.prod(shape)
    return torch.linspace(0.125, 0.875, max(count, 1))[:count].reshape(shape).to(dtype)


def t(*labels, dtype=torch.int64):
    return torch.tensor(labels, dtype=dtype)


ELEMENTWISE = ["mse_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits"]
LOSSES = [*ELEMENTWISE, "cross_entropy"]
LONG, COMPLEX = x(3, dtype=torch.int64), x(3, dtype=torch.complex64)
f16, bf16, f32, f64 = torch.float16, torch.bfloat16, torch.float32, torch.float64

# What both texts say. Where it is None, each has its own words.
NOT_VALID = r"^{} is not a valid value for reduction$"
SIZES = r"^Using a target size \(torch\.Size\(\[{}\]\)\) that is different to the input size \(torch\.Size\(\[{}\]\)\)"
SAME_SIZE = r"^Target size \(torch\.Size\(\[{}\]\)\) must be the same as input size \(torch\.Size\(\[{}\]\)\)$"
BROADCAST = r"^output with shape \[3\] doesn't match the broadcast shape \[2, 3\]"
FOUND = r"^Found dtype .* but expected .*"
CAST = r"^result type .* can't be cast to the desired output type .*"
BATCH = r"^Expected input batch_size \(3\) to match target batch_size \({}\)\.$"
PLANES = r"^(size mismatch|Expected target size) .*\[2, 5, 4\]"
LABELS = r"^expected target dtype to be Long or Byte, but got "
DIMENSIONS = r"^Attempting to broadcast a dimension of length"
NAME = r"argument 'dim'.* must be int, not str"
CLASSES = (
    r"weight tensor should be defined either for all 4 classes or no classes but got weight tensor of shape: \[{}\]$"
)
SCALAR = r"^expected scalar type .* but found "
SMOOTHING = r"^label_smoothing must be between 0\.0 and 1\.0\. Got: {}$"
IGNORE = r"^ignore_index is not supported for floating point target$"
DIMENSION = r"^Dimension out of range \(expected to be in range of \[{}, {}\], but got {}\)$"
PROMOTING = r"^prelu: Type promoting not supported\. Got .* and .*"
CHANNELS = (
    r"^Mismatch of parameter numbers and input channel size\. Found parameter numbers = {} and channel size = {}\.$"
)

# name: tensors, options, the type of both errors (ours may be a subclass of it), what both texts say
MISTAKES = {
    "mse_loss": [
        ((LONG, LONG), {}, NotImplementedError, None),
        ((COMPLEX, COMPLEX), {}, NotImplementedError, None),
        ((x(3), COMPLEX), {}, NotImplementedError, None),
        *(((x(2, 3), x(2, 3)), dict(weight=w), ValueError, r"^Weights and input must have the same size\.$")
          for w in (x(3), x(2, 1), x(1), x(), x(2, 3, 1))),
        ((x(3), x(3)), dict(reduction="median", weight=x(3)), ValueError, None),
    ],
    "binary_cross_entropy": [
        ((x(3), x(4)), {}, ValueError, SIZES.format(4, 3)),
        ((x(3, 1), x(3)), {}, ValueError, SIZES.format("3", "3, 1")),
        ((LONG, LONG), {}, NotImplementedError, None),
        ((COMPLEX, COMPLEX), {}, NotImplementedError, None),
        *(((x(3, dtype=a), x(3, dtype=b)), {}, RuntimeError, FOUND)
          for a, b in ((f32, torch.int64), (f32, torch.bool), (f64, f32), (f32, f64), (f16, f32), (f32, bf16))),
        ((LONG, x(3)), {}, RuntimeError, None),
        ((x(3), x(3)), dict(weight=x(2)), RuntimeError, DIMENSIONS),
        ((x(3), x(3)), dict(weight=x(2, 3)), RuntimeError, BROADCAST),
    ],
    "binary_cross_entropy_with_logits": [
        ((x(3), x(4)), {}, ValueError, SAME_SIZE.format(4, 3)),
        ((x(3), x(3, 1)), {}, ValueError, SAME_SIZE.format("3, 1", "3")),
        ((LONG, LONG), {}, NotImplementedError, None),
        ((LONG, x(3)), {}, NotImplementedError, None),
        ((COMPLEX, COMPLEX), {}, NotImplementedError, None),
        ((x(3), LONG), {}, RuntimeError, CAST),
        ((x(3), x(3)), dict(weight=x(2, 3)), RuntimeError, BROADCAST),
        ((x(3), x(3)), dict(pos_weight=x(2, 3)), RuntimeError, BROADCAST),
        ((x(2, 3), x(2, 3)), dict(weight=x(2)), RuntimeError, None),
        ((x(2, 3), x(2, 3)), dict(pos_weight=x(2)), RuntimeError, None),
    ],
    "cross_entropy": [
        *(((x(3, 4), t(0, 1, 2)), dict(reduction=r), ValueError, NOT_VALID.format(r)) for r in ("median", None)),
        ((x(3, 4), t(0, 1)), {}, ValueError, BATCH.format(2)),
        ((x(3, 4), t(0, 1, 2, 3)), {}, ValueError, BATCH.format(4)),
        ((x(3, 4), torch.tensor(1)), {}, ValueError, None),
        ((x(3, 4), x(4)), {}, ValueError, None),
        ((x(4), t(1, 2)), {}, ValueError, None),
        ((x(3, 4), t(0, 1, 2)[:, None]), {}, RuntimeError, None),
        ((x(2, 3, 4), torch.zeros(2, 3).long()), {}, RuntimeError, None),
        ((x(2, 3, 4), torch.zeros(2).long()), {}, RuntimeError, None),
        ((x(2, 3, 4, 5), torch.zeros(2, 5, 4).long()), {}, RuntimeError, PLANES),
        *(((x(3, 4), t(0, 1, 1, dtype=dtype)), {}, RuntimeError, LABELS)
          for dtype in (torch.int32, torch.int8, torch.int16, torch.bool)),
        ((x(3, 4), x(3)), {}, RuntimeError, None),
        ((x(3, 4), x(3, 3)), {}, RuntimeError, None),
        ((x(3, 4, dtype=torch.int64), t(0, 1, 2)), {}, NotImplementedError, None),
        ((x(3, 4, dtype=torch.complex64), t(0, 1, 2)), {}, NotImplementedError, None),
        ((x(3, 4), x(3, 4, dtype=torch.complex64)), {}, RuntimeError, None),
        ((x(), torch.tensor(0)), {}, RuntimeError, None),
        *(((x(3, 4), t(0, 1, 2)), dict(weight=w), RuntimeError, CLASSES.format(shape))
          for w, shape in ((x(3), "3"), (x(1), "1"), (x(1, 4), "1, 4"), (x(), ""))),
        *(((x(3, 4), t(0, 1, 2)), dict(weight=x(4, dtype=dtype)), RuntimeError, SCALAR)
          for dtype in (f64, bf16, torch.int64)),
        ((x(3, 4, dtype=bf16), t(0, 1, 2)), dict(weight=x(4)), RuntimeError, SCALAR),
        ((x(3, 4), t(0, 1, 2)), dict(label_smoothing=1.5), RuntimeError, SMOOTHING.format(r"1\.5")),
        ((x(3, 4), x(3, 4)), dict(label_smoothing=1.5), RuntimeError, SMOOTHING.format(r"1\.5")),
        *(((x(3, 4), x(3, 4)), dict(ignore_index=k), RuntimeError, IGNORE) for k in (0, 2)),
    ],
    "softmax": [
        ((x(3, 4), 2), {}, IndexError, DIMENSION.format(-2, 1, 2)),
        ((x(3, 4), "a"), {}, TypeError, NAME),
        ((x(3, 4), 1.0), {}, TypeError, None),
        *(((x(3, 4, dtype=d), 1), {}, NotImplementedError, None) for d in (torch.int64, torch.bool, torch.complex64)),
    ],
    "log_softmax": [
        ((x(), 1), {}, IndexError, DIMENSION.format(-1, 0, 1)),
        *(((x(3, 4, dtype=d), 1), {}, NotImplementedError, None) for d in (torch.int64, torch.bool, torch.complex64)),
    ],
    "prelu": [
        ((x(3, 4), x(1, dtype=f64)), {}, RuntimeError, PROMOTING),
        ((x(3, 4, dtype=bf16), x(1)), {}, RuntimeError, PROMOTING),
        ((x(3, 4), x(1, dtype=torch.int64)), {}, RuntimeError, PROMOTING),
        *(((x(*shape), x(n)), {}, RuntimeError, CHANNELS.format(n, channels))
          for shape, n, channels in (((3, 4), 3, 4), ((4,), 4, 1), ((2, 3, 4), 4, 3), ((3, 0), 2, 0))),
        ((x(3, 4), x(1, 4)), {}, RuntimeError, r"Expected `weight` to be a scalar or 1D tensor, but got: ndim = 2"),
        ((x(), x(2)), {}, RuntimeError, r"^Not allow zero-dim input tensor\.$"),
        ((LONG, x(1, dtype=torch.int64)), {}, NotImplementedError, None),
        ((x(3, dtype=torch.bool), x(1, dtype=torch.bool)), {}, NotImplementedError, None),
    ],
}  # fmt: skip
for which in ELEMENTWISE:
    MISTAKES[which] += [((x(3), x(3)), dict(reduction=r), ValueError, NOT_VALID.format(r)) for r in ("median", None, 1)]


# What torch says -> until which version it said something else, and what.
EARLIER = {
    DIMENSIONS: ((2, 11), RuntimeError, r"^The size of tensor a \(3\) must match the size of tensor b \(2\)"),
    LABELS: ((2, 11), RuntimeError, "^expected scalar type Long but found "),
    NAME: ((2, 12), RuntimeError, "^Name 'a' not found"),
}


@pytest.mark.parametrize(("name", "number"), [(name, k) for name in MISTAKES for k in range(len(MISTAKES[name]))])
def test_mistakes(name, number):
    tensors, options, error, text = MISTAKES[name][number]
    with pytest.raises(error, match=text):
        getattr(F, name)(*tensors, **options)
    until, *earlier = EARLIER.get(text, [(0, 0)])
    error, text = earlier if until >= TORCH else (error, text)
    with pytest.raises(error, match=text):
        getattr(builtin, name)(*tensors, **options)


def test_mse_loss_of_shapes_that_do_not_fit():
    """torch warns that shapes differ, then says by which sizes they cannot be broadcast."""
    for where in (builtin, F):
        with (
            pytest.warns(UserWarning, match=SIZES.format(4, 3)),
            pytest.raises(RuntimeError, match=r"^The size of tensor a \(3\) must match the size of tensor b \(4\)"),
        ):
            where.mse_loss(x(3), x(4))


@pytest.mark.parametrize(("name", "tensors"), [
    ("cross_entropy", (x(3, 4), None)),
    ("cross_entropy", (x(3, 4), [0, 1, 2])),
    ("cross_entropy", (x(3, 4), 1)),
    ("cross_entropy", (None, t(0))),
    ("prelu", (x(3, 4), 0.25)),
    ("prelu", (x(3, 4), None)),
])  # fmt: skip
def test_what_is_no_tensor_is_a_type_error(name, tensors):
    for where in (builtin, F):
        with pytest.raises(TypeError):
            getattr(where, name)(*tensors)


@pytest.mark.parametrize("tensors", [(x(3), None), (None, x(3)), (x(3), 0.5)])
def test_what_is_no_tensor_is_a_type_error_of_mse_loss_too(tensors):
    """torch has an AttributeError, of which nobody learns what is wrong."""
    with pytest.raises(TypeError, match=r"^mse_loss\(\): argument '(input|target)' .* must be Tensor, not (Non|float)"):
        F.mse_loss(*tensors)


@pytest.mark.parametrize("smoothing", [-0.125, NAN])
def test_label_smoothing_below_0_is_refused(smoothing):
    """torch ignores it without a word, and has the same error for what is above 1."""
    with pytest.raises(RuntimeError, match=SMOOTHING.format(smoothing)):
        F.cross_entropy(x(3, 4), t(0, 1, 2), label_smoothing=smoothing)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (dict(label_smoothing=2.0), RuntimeError),
        (dict(reduction="median"), ValueError),
        (dict(ignore_index="no"), TypeError),
        (dict(target=t(0, 1)), ValueError),
        (dict(target=t(0, 1, 9)), IndexError),
        (dict(target=[0, 1, 2]), TypeError),
        (dict(target=t(0, 1, 2).int()), RuntimeError),
        (dict(input=x(3, 4, dtype=torch.float64)), RuntimeError),
        (dict(weight=x(5)), RuntimeError),
        (dict(weight=x(4).requires_grad_()), RuntimeError),
        (dict(weight=0.5), TypeError),
    ],
    ids=str,
)
def test_a_call_that_passed_its_checks_lets_no_other_pass(change, error):
    """Tensors that look as in the call before are not checked again: these look otherwise, or are told otherwise."""
    arguments = dict(input=x(3, 4), target=t(0, 1, 2), weight=x(4))
    for _ in range(2):
        F.cross_entropy(**arguments)
    with torch.no_grad():
        F.cross_entropy(**arguments | dict(weight=x(4).requires_grad_()))
    for _ in range(2):
        with pytest.raises(error):
            F.cross_entropy(**arguments | change)
    assert F.cross_entropy(**arguments) == builtin.cross_entropy(**arguments)


FLOATS = r"the input must be a floating-point tensor, got torch\.int64$"


@pytest.mark.parametrize(("call", "error", "text"), [
    (lambda: F.maxout(x(3, 4), 3), ValueError,
     r"^maxout: the size of dimension 1 must be a multiple of pieces >= 1, got size 4 and 3 pieces$"),
    (lambda: F.maxout(x(3, 4), 0), ValueError, r"multiple of pieces >= 1, got size 4 and 0 pieces$"),
    (lambda: F.maxout(x(3, 4), -2), ValueError, r"multiple of pieces >= 1, got size 4 and -2 pieces$"),
    (lambda: F.maxout(x(), 1), ValueError, r"^maxout: x must have at least one dimension, got a tensor of shape \(\)$"),
    (lambda: F.maxout(x(3, 4), 2, dim=2), IndexError, DIMENSION.format(-2, 1, 2)),
    (lambda: F.maxout(x(3, 4).long(), 2), NotImplementedError, rf"^maxout: {FLOATS}"),
    (lambda: F.maximum(1.0, 2.0), TypeError, r"^maximum: a or b must be a tensor, got float and float$"),
    (lambda: F.copy(x(3), 0), ValueError, r"^copy: n must be at least 1, got 0$"),
    (lambda: F.quadratic_cost(x(3), x(3), "none"), ValueError,
     r"^quadratic_cost: reduction must be 'notes', 'sum' or 'mean', got 'none'$"),
    (lambda: F.quadratic_cost(x(3), x(3, 1)), ValueError,
     r"^quadratic_cost: input and target must have the same shape, got \(3,\) and \(3, 1\)$"),
    (lambda: F.quadratic_cost(LONG, LONG), NotImplementedError, r"^quadratic_cost: floating-point tensors are needed"),
], ids=range(11))  # fmt: skip
def test_mistakes_with_what_torch_does_not_have(call, error, text):
    with pytest.raises(error, match=text):
        call()


# ------------------------------------------------------------------------------------------- old arguments, warnings


def heard(call):
    """What comes of a call, and what it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return call(), [(w.category, str(w.message)) for w in caught]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("old", [
    dict(size_average=a, reduce=b) for a in (None, False, True) for b in (None, False, True) if (a, b) != (None, None)
], ids=str)  # fmt: skip
def test_size_average_and_reduce(name, old):
    """The old names of reduction, which win over it, with torch's warning."""
    tensors = (x(3, 4), t(0, 1, 2)) if name == "cross_entropy" else (x(3), x(3).flip(0))
    (got, warned), (want, wanted) = (
        heard(lambda w=w: getattr(w, name)(*tensors, **old, reduction="nonsense")) for w in (F, builtin)
    )
    torch.testing.assert_close(got, want)
    assert warned == wanted
    assert len(warned) == 1


@pytest.mark.parametrize("name", LOSSES)
def test_the_oldest_name_of_mean(name):
    """torch still takes "elementwise_mean", with a warning."""
    tensors = (x(3, 4), t(0, 1, 2)) if name == "cross_entropy" else (x(3), x(3).flip(0))
    (got, warned), (want, wanted) = (
        heard(lambda w=w: getattr(w, name)(*tensors, reduction="elementwise_mean")) for w in (builtin, F)
    )
    torch.testing.assert_close(got, want)
    assert warned == wanted


@every_reduction
@pytest.mark.parametrize("shapes", [((3, 1), (3,)), ((3,), (1, 3)), ((2, 3), (3,)), ((), (2,))], ids=str)
def test_mse_loss_broadcasts_with_a_warning(shapes, reduction):
    tensors = tuple(torch.arange(float(math.prod(s))).reshape(s) for s in shapes)
    (got, warned), (want, wanted) = (
        heard(lambda w=w: outcome(partial(w.mse_loss, reduction=reduction), tensors)) for w in (F, builtin)
    )
    agree(got, want, torch.float32)
    assert warned == wanted
    assert [category for category, _ in warned] == [UserWarning]


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("shape", [(), (4,), (3, 4), (2, 3, 4), (2, 3, 4, 2)], ids=str)
def test_softmax_without_a_dimension(shape, name):
    (got, warned), (want, wanted) = (heard(lambda w=w: getattr(w, name)(x(*shape))) for w in (F, builtin))
    torch.testing.assert_close(got, want)
    assert warned == wanted
    assert len(warned) == 1


# ------------------------------------------------------------------------------------------------------- mixed dtypes

MIXED = [("mse_loss", a, b) for a, b in itertools.product((f16, bf16, f32, f64), repeat=2) if a is not b]
MIXED += [("mse_loss", f32, torch.int64), ("mse_loss", f32, torch.bool), ("mse_loss", torch.int64, f32)]
MIXED += [("binary_cross_entropy_with_logits", f32, f64), ("binary_cross_entropy_with_logits", f16, f32)]
MIXED += [("binary_cross_entropy_with_logits", bf16, f32)]
MIXED += [
    ("cross_entropy", f32, f64),
    ("cross_entropy", f64, f32),
    ("cross_entropy", bf16, f32),
    ("cross_entropy", f32, bf16),
]


def in_one_dtype(function):
    """The function of both tensors in the dtype that they are promoted to."""
    return lambda a, b: function(*(tensor.to(torch.promote_types(a.dtype, b.dtype)) for tensor in (a, b)))


@pytest.mark.parametrize(("name", "a", "b"), MIXED, ids=str)
@every_reduction
def test_mixed_dtypes(name, a, b, reduction):
    """Where torch takes tensors of different dtypes, so do ours, and the loss has the same dtype."""
    tensors = x(3, 4).to(a), x(3, 4).flip(0).to(b)
    ours, theirs = (partial(getattr(w, name), reduction=reduction) for w in (F, builtin))
    if TORCH == (2, 11) and name == "mse_loss":  # which promotes them there too, but not on the way back
        theirs = in_one_dtype(theirs)
    results, wanted = outcome(ours, tensors), outcome(theirs, tensors)
    assert [r.dtype for r in results] == [r.dtype for r in wanted]
    # torch computes in what it promotes to, but rounds logits of half types on the way
    coarse = max((torch.finfo(d).eps for d in (a, b) if d.is_floating_point), default=0)
    agree([r.double() for r in results], [r.double() for r in wanted], f64, rtol=2 * coarse, atol=2 * coarse)


# Each function of several tensors: with those of one dtype in some places and another dtype in the others.
OF_TWO_DTYPES = {
    "mse_loss": lambda F, x, y, w, labels: F.mse_loss(x, y),
    "mse_loss weight": lambda F, x, y, w, labels: F.mse_loss(x, x, weight=y),
    "binary_cross_entropy": lambda F, x, y, w, labels: F.binary_cross_entropy(x, y),
    "binary_cross_entropy weight": lambda F, x, y, w, labels: F.binary_cross_entropy(x, x, weight=y),
    "logits": lambda F, x, y, w, labels: F.binary_cross_entropy_with_logits(x, y),
    "logits weight": lambda F, x, y, w, labels: F.binary_cross_entropy_with_logits(x, x, weight=y),
    "logits pos_weight": lambda F, x, y, w, labels: F.binary_cross_entropy_with_logits(x, x, pos_weight=w),
    "cross_entropy weight": lambda F, x, y, w, labels: F.cross_entropy(x, labels, weight=w),
    "cross_entropy smooth": lambda F, x, y, w, labels: F.cross_entropy(x, labels, weight=w, label_smoothing=0.1),
    "cross_entropy probabilities": lambda F, x, y, w, labels: F.cross_entropy(x, y),
    "cross_entropy both": lambda F, x, y, w, labels: F.cross_entropy(x, x, weight=w),
    "prelu": lambda F, x, y, w, labels: F.prelu(x, w),
}


@pytest.mark.parametrize("call", OF_TWO_DTYPES.values(), ids=OF_TWO_DTYPES)
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_autocast_casts_before_anything_is_checked(call, dtype):
    labels = torch.tensor([0, 1, 2, 0])
    for a, b in itertools.product(DTYPES, repeat=2):
        x, y, w = torch.rand(4, 3).to(a), torch.rand(4, 3).to(b), torch.rand(3).to(b)
        with torch.autocast("cpu", dtype):
            try:
                expected = call(builtin, x, y, w, labels)
            except RuntimeError:
                with pytest.raises(RuntimeError):
                    call(F, x, y, w, labels)
            else:
                # torch computes some of these in half types, ours in float32
                rounding = 4 * torch.finfo(dtype).eps if expected.dtype in HALF else 1e-6
                torch.testing.assert_close(call(F, x, y, w, labels), expected, rtol=rounding, atol=rounding)


@every_reduction
@pytest.mark.parametrize("target", [torch.tensor(2), x(4).flip(0)], ids=["label", "probabilities"])
def test_a_single_row_of_logits(target, reduction):
    """Logits (C) with a label () or with probabilities (C)."""
    ours, theirs = (partial(w.cross_entropy, reduction=reduction) for w in (F, builtin))
    results, wanted = outcome(ours, (x(4), target)), outcome(theirs, (x(4), target))
    agree(results, wanted, torch.float32, atol=1e-6)
    assert [r.shape for r in results] == [r.shape for r in wanted]


@every_reduction
def test_a_single_row_of_logits_with_a_label_of_one_element(reduction):
    """The value and its shape are torch's. (torch 2.15 cannot differentiate it: "size mismatch".)"""
    ours, theirs = (partial(w.cross_entropy, reduction=reduction) for w in (F, builtin))
    y, dx = outcome(ours, (x(4), t(2)))
    want = theirs(x(4), t(2))
    torch.testing.assert_close(dx, outcome(ours, (x(4), torch.tensor(2)))[1])
    torch.testing.assert_close(y, want)
    assert y.shape == want.shape


# ------------------------------------------------------------------------------------------------------------ accuracy


def in_ulps(got, want):
    """The distance from float64, in units in the last place of float32 at the value."""
    unit = torch.finfo(torch.float32).eps * 2.0 ** torch.floor(torch.log2(want.abs().clamp_min(2.0**-126)))
    return ((got.double() - want).abs() / unit).max().item()


def normal(*shape, seed=0, scale=1.0, offset=0.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale + offset


def some_labels(n, classes):
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(1))


ACCURACY = {
    "mse_loss of a million": ("mse_loss", lambda: (normal(1_000_000), normal(1_000_000, seed=1)), {}),
    "mse_loss far from 0": ("mse_loss", lambda: (normal(300_000, offset=1e4), normal(300_000, seed=1, offset=1e4)), {}),
    "mse_loss of equal errors": ("mse_loss", lambda: (torch.full((3_000_000,), 0.1), torch.zeros(3_000_000)), {}),
    "bce of a million": (
        "binary_cross_entropy",
        lambda: (torch.sigmoid(normal(1_000_000, scale=3)), torch.sigmoid(normal(1_000_000, seed=1))),
        {},
    ),
    "bce with logits of a million": (
        "binary_cross_entropy_with_logits",
        lambda: (normal(1_000_000, scale=5), torch.sigmoid(normal(1_000_000, seed=1))),
        {},
    ),
    "bce with large logits": (
        "binary_cross_entropy_with_logits",
        lambda: (normal(300_000, scale=1e4), (normal(300_000, seed=1) > 0).float()),
        {},
    ),
    "cross_entropy of many rows": ("cross_entropy", lambda: (normal(100_000, 10), some_labels(100_000, 10)), {}),
    "cross_entropy of many classes": ("cross_entropy", lambda: (normal(20, 50_000), some_labels(20, 50_000)), {}),
    "cross_entropy far from 0": (
        "cross_entropy",
        lambda: (normal(20_000, 10, offset=1e4), some_labels(20_000, 10)),
        {},
    ),
    "cross_entropy, smoothed": (
        "cross_entropy",
        lambda: (normal(20_000, 50, scale=5), some_labels(20_000, 50)),
        dict(label_smoothing=0.1),
    ),
    "cross_entropy, smoothed, far from 0": (
        "cross_entropy",
        lambda: (normal(2_000, 1_000, offset=-1e4), some_labels(2_000, 1_000)),
        dict(label_smoothing=0.1),
    ),
    "cross_entropy with probabilities": (
        "cross_entropy",
        lambda: (normal(5_000, 200, offset=1e4), normal(5_000, 200, seed=1).softmax(1)),
        {},
    ),
}


# By kernels of either engine. (A million elements are too many for the interpreter.)
every_kernel = pytest.mark.parametrize(
    "way",
    [pytest.param("kernels", marks=pytest.mark.needs_compiler), pytest.param("cuda", marks=pytest.mark.gpu)],
    indirect=True,
)


@every_kernel
@pytest.mark.parametrize("case", ACCURACY)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_losses_are_as_accurate_as_torchs(case, reduction, way):
    """The error against float64 is torch's or less, or the half ulp of the result and what rounds before: 1 ulp.

    Terms are rounded to float32 by both, but with either sign; only a sum of equal terms keeps their error.
    """
    name, make, options = ACCURACY[case]
    tensors = make()
    want = getattr(builtin, name)(
        *[v.double() if v.is_floating_point() else v for v in tensors], reduction=reduction, **options
    )
    loss = partial(getattr(F, name), reduction=reduction, **options)
    ours = in_ulps(outcome(loss, tensors, None, way)[0], want)
    theirs = in_ulps(getattr(builtin, name)(*tensors, reduction=reduction, **options), want)
    assert ours <= max(theirs, 1.0), (ours, theirs)


@every_kernel
@pytest.mark.parametrize("case", ACCURACY)
def test_gradients_are_as_accurate_as_torchs(case, way):
    """The largest error of an element, as a part of the largest gradient, is torch's or less, or 2 ulp."""
    name, make, options = ACCURACY[case]
    tensors = make()
    wide = [v.double() if v.is_floating_point() else v for v in tensors]
    (_, want, *_), (_, ours, *_), (_, theirs, *_) = (
        outcome(partial(getattr(w, name), reduction="sum", **options), values, None, way if w is F else "kernels")
        for w, values in ((builtin, wide), (F, tensors), (builtin, tensors))
    )
    errors = [
        (got.double() - want).abs().max() / want.abs().max() / torch.finfo(torch.float32).eps for got in (ours, theirs)
    ]
    assert errors[0] <= max(errors[1], 2.0), errors


@every_kernel
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("offset", [0.0, 1e3, -1e3])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_is_as_exact_as_its_exponentials(name, offset, dim, way):
    """Within 3 ulp: exp is good to 2, and the reciprocal of the sum and the product round by 1/2 each.

    The logits are multiples of 2^-10, so that the differences from the largest are exact; of other logits their
    rounding comes on top, which no algorithm in float32 can avoid. A logarithm near 0 cancels: ulps of ln n there.
    """
    logits = (normal(200, 300, scale=3) * 1024).round() / 1024 + offset
    logits = logits if dim == 1 else logits.T.contiguous()
    got, _ = outcome(lambda x: getattr(F, name)(x, dim), (logits,), None, way)
    want = getattr(builtin, name)(logits.double(), dim)
    if name == "softmax":
        assert in_ulps(got, want) <= 3
        assert in_ulps(got.sum(dim), torch.ones(200, dtype=torch.float64)) <= 8  # of float32 sums of 300
    else:
        eps = torch.finfo(torch.float32).eps
        assert ((got.double() - want).abs() / want.abs().clamp_min(math.log(300))).max() <= 1.5 * eps


@every_way
@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_half_types_are_rounded_once(name, dtype, way):
    """The mean over many elements is that of float64, rounded: nothing is added in half precision."""
    if name == "cross_entropy":
        tensors = (normal(1_000, 10).to(dtype), some_labels(1_000, 10))
    else:
        tensors = (torch.sigmoid(normal(50_000)).to(dtype), torch.sigmoid(normal(50_000, seed=1)).to(dtype))
    want = getattr(builtin, name)(*[v.double() if v.is_floating_point() else v for v in tensors])
    got, *_ = outcome(getattr(F, name), tensors, None, way)
    # float32 inside errs by 1e-6, far from a tie of the half types
    assert got.dtype is dtype
    assert abs(got.double() - want) <= (torch.finfo(dtype).eps / 2 + 1e-6) * want


@every_way
def test_a_mean_of_squares_beyond_float16_is_finite(way):
    """(300)² is beyond float16, its mean over four elements is not; torch has ∞."""
    a = torch.tensor([300.0, 0.0, 0.0, 0.0], dtype=torch.float16)
    for reduction, loss in (("mean", 22496), ("sum", INF)):  # 22500, rounded to a multiple of 16
        assert outcome(partial(F.mse_loss, reduction=reduction), (a, torch.zeros_like(a)), None, way)[0] == loss


@every_kernel
def test_a_sum_of_many_equal_losses_is_exact(way):
    """Kernels add in double: 2^24 + 1 ones are one more than float32 can count."""
    count = 2**24 + 2
    y, *_ = outcome(partial(F.mse_loss, reduction="sum"), (torch.ones(count), torch.zeros(count)), None, way)
    assert y == count


def test_places_beyond_those_that_a_float32_counts():
    """Each is a place of its own: the slope of the cross-entropy is negative at the label alone, one piece wins."""
    count = 2**24 + 3
    x = torch.zeros(1, count)
    x[0, -2] = 3.0
    x.requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(x, torch.tensor([count - 2])), x)
    assert (slope < 0).nonzero().tolist() == [[0, count - 2]]
    (slope,) = torch.autograd.grad(F.maxout(x, count).sum(), x)
    assert slope.nonzero().tolist() == [[0, count - 2]]
