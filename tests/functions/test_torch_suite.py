"""torch's own sample data, which its suite of tests runs over its functions and modules, run over ours.

A row of torch's tables (OpInfo, ModuleInfo) says for which dtypes a function is there, what it can do, and has samples
of its arguments. Every name of `nn.functional.__all__` and `nn.__all__` that torch has too is found in them by itself.

What torch's suite asserts of them, and where:

    test_ops: TestCommon                            test_values_and_gradients, test_views, test_dtypes, test_mistakes
    test_ops: TestCompositeCompliance               test_composite_compliance
    test_ops: TestFakeTensor; test_meta             test_fake_and_meta_tensors
    test_ops: TestMathBits                          test_views
    test_ops_gradients, test_ops_fwd_gradients      test_gradcheck, test_gradgradcheck, test_inplace
    test_unary_ufuncs                               test_values_and_gradients: reference inputs
    functorch/test_vmap                             test_vmap
    test_modules                                    the tests of modules

Those that are neither there nor here are about TorchScript, out=, sparse tensors, several devices and names of ATen
operators, none of which ours have. The tables are private to torch and are imported if they are there.
"""

import collections
import copy
import inspect
import io
import itertools
import pickle
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

from torch_lecture_ops import nn as ours_nn
from torch_lecture_ops.nn import functional as F

FUNCTIONS = [name for name in F.__all__ if hasattr(nn.functional, name) or hasattr(torch, name)]
MODULES = [name for name in ours_nn.__all__ if inspect.isclass(getattr(ours_nn, name)) and hasattr(nn, name)]
HALF = (torch.float16, torch.bfloat16)
SMALL = 10_000  # elements
INFOS, DTYPES, TYPED, MODULE_INFOS, TYPED_MODULES, MODULE_MISTAKES, MISSING = [], [], [], [], [], [], ""
try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's testing package warns about itself on import
        from torch._subclasses import FakeTensorMode
        from torch.testing._internal import composite_compliance
        from torch.testing._internal.common_dtype import all_types_and_complex_and
        from torch.testing._internal.common_methods_invocations import op_db
        from torch.testing._internal.common_modules import ModuleErrorEnum, module_db
        from torch.testing._internal.common_utils import noncontiguous_like

    def by_name(dtypes):
        return sorted(dtypes, key=str)

    def everywhere(which, info, row):
        """Rows for the dtypes of each device."""
        for device, marks in (("cpu", ()), ("cuda", pytest.mark.gpu)):
            for dtype in by_name(info.supported_dtypes(device)):
                yield pytest.param(which, info, dtype, device, id=f"{row}-{dtype}-{device}", marks=marks)

    more = (torch.bool, *HALF, torch.complex32, torch.uint16)
    DTYPES = by_name(all_types_and_complex_and(*more))
    for info in op_db:
        which = info.name.removeprefix("nn.functional.")
        if which in FUNCTIONS:
            row = info.formatted_name.removeprefix("nn_functional_")
            INFOS.append(pytest.param(which, info, id=row))
            TYPED += everywhere(which, info, row)
    for info in module_db:
        which = info.module_cls.__name__
        if which in MODULES and info.module_cls is getattr(nn, which):
            MODULE_INFOS.append(pytest.param(which, info, id=which))
            TYPED_MODULES += everywhere(which, info, which)
            if info.module_error_inputs_func is not None:
                options = dict(device="cpu", dtype=torch.float32, requires_grad=False, training=True)
                for number, mistake in enumerate(info.module_error_inputs_func(info, **options)):
                    MODULE_MISTAKES.append(pytest.param(which, mistake, id=f"{which}-{number}"))
except (ImportError, AttributeError, TypeError, ValueError) as error:
    MISSING = f"torch's tables of functions and modules are not there, or others: {error}"

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
    pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning"),
    pytest.mark.filterwarnings("ignore:Casting complex values to real:UserWarning"),  # of complex samples to float64
]


def in_turns(rows, *always):
    """These dtypes of each function, and of the others the one that had the fewest turns; the other rows are slow."""
    turns, rows_of = collections.Counter(), collections.Counter(row.values[2] for row in rows)
    for (_, device), group in itertools.groupby(rows, key=lambda row: (row.values[1].formatted_name, row.values[3])):
        dtypes = {row.values[2]: row for row in group}
        turn = min(dtypes.keys() - set(always), key=lambda dtype: (turns[dtype, device], rows_of[dtype], str(dtype)))
        turns[turn, device] += 1
        for dtype, row in dtypes.items():
            is_taken = dtype in (turn, *always)
            yield row if is_taken else pytest.param(*row.values, id=row.id, marks=[*row.marks, pytest.mark.slow])


EACH_INFO = pytest.mark.parametrize(("which", "info"), INFOS)
EACH_DTYPE = pytest.mark.parametrize(("which", "info", "dtype", "device"), list(in_turns(TYPED, torch.float32)))
EACH_MODULE = pytest.mark.parametrize(("which", "info"), MODULE_INFOS)
EACH_MODULE_AND_DTYPE = pytest.mark.parametrize(("which", "info", "dtype", "device"), TYPED_MODULES)


def parameters(function):
    try:
        return inspect.signature(function).parameters
    except ValueError:  # of a built-in written in C++
        return {}


def test_all_that_torch_has_are_in_its_tables():
    """What has no row there is what torch does not have."""
    assert [name for name in FUNCTIONS if name not in {row.values[0] for row in INFOS}] == []
    assert [name for name in MODULES if name not in {row.values[0] for row in MODULE_INFOS}] == []


# ------------------------------------------------------------------------------------------------- samples and results


def single(info):
    return torch.float32 if torch.float32 in info.supported_dtypes("cpu") else torch.complex64


def leaf(t):
    return t.detach().requires_grad_(t.requires_grad)


def samples(which, info, dtype, requires_grad=False, reference=False, device="cpu"):
    """(args, kwargs) of each sample, made from the same seed each time. Tensors with a gradient are leaves."""
    source = info.reference_inputs if reference else info.sample_inputs
    requires_grad &= dtype in info.supported_backward_dtypes(device)
    requires_grad &= dtype is not torch.complex32  # of which torch cannot take a sum
    for number, sample in enumerate(source(device, dtype, requires_grad=requires_grad)):
        call = tree_map_only(Tensor, leaf, ((sample.input, *sample.args), sample.kwargs))
        tensors = sum(isinstance(t, Tensor) for t in tree_leaves(call))
        if tensors == 0 or "alpha" in sample.kwargs:  # one of two is a tensor in our gates; torch.add has a third one
            continue
        # How several tensors lie beside each other makes a kernel of its own, to be compiled for each dtype: every
        # third sample of each half type will do.
        if tensors == 1 or dtype not in HALF or number % 3 == HALF.index(dtype):
            yield call


def routed(a, b):
    """max(a, b) as our gate differentiates it: of equal ones a gets the gradient (torch.maximum: half of it each)."""
    device = next(x.device for x in (a, b) if isinstance(x, Tensor))
    a, b = (x if isinstance(x, Tensor) else torch.tensor(x, device=device) for x in (a, b))
    return torch.where((a >= b) | a.isnan(), a, b)


def builtin_of(which, info):
    return routed if which == "maximum" else info.op


def elements(call):
    return max(t.numel() for t in tree_leaves(call) if isinstance(t, Tensor))


def differentiated(function, call):
    """What has a gradient: arguments, and the parameters of a module."""
    parameters = list(function.parameters()) if isinstance(function, nn.Module) else []
    return [t for t in (*tree_leaves(call), *parameters) if isinstance(t, Tensor) and t.requires_grad]


def upstream(y):
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return g.to(y.device, y.dtype)


def results(function, call, g=None):
    """The value, and the gradient of each tensor that has one. (Of ones that are equal, equal upstream gradients.)"""
    args, kwargs = call
    y = function(*args, **kwargs)
    if not y.requires_grad:
        return [y]
    g = upstream(y) if g is None else g
    return [y.detach(), *torch.autograd.grad(y, differentiated(function, call), g, allow_unused=True)]


def brief(call):
    """Arguments, for a message."""
    return str(tree_map_only(Tensor, lambda t: f"{t.dtype}{list(t.shape)}", call))


def assert_same(got, expected, call, **tolerance):
    torch.testing.assert_close(got, expected, equal_nan=True, msg=lambda text: f"{brief(call)}: {text}", **tolerance)


OF_ROWS = (torch.softmax, torch.log_softmax, nn.functional.cross_entropy)


def in_double(x):
    """The same numbers, in float64 where they are of a half type; the same module, in float64."""
    if isinstance(x, nn.Module):
        return copy.deepcopy(x).double()
    return tree_map_only(Tensor, lambda t: leaf_of(t.detach().double(), t) if t.dtype in HALF else t, x)


def leaf_of(t, like):
    return t.requires_grad_(like.requires_grad)


def assert_rounded_once(got, expected, exact, call, elementwise):
    """Half types: no farther from the exact result than the built-in's but by one rounding; or that, rounded.

    (Ours and elementwise built-ins compute in float32 and round once: each may be the one that rounds the other way.
    Several of the built-in losses round every step, and are far off. In a row, where the gradient is a difference of
    numbers that were rounded to be saved, chance hits one or another element: there the largest error counts.)
    """
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    limits = torch.finfo(got.dtype)
    rounded = exact.to(got.dtype)
    a, b, exact = got.double(), expected.double(), exact.double()
    error = (b - exact).abs()
    error = error if elementwise or not error.numel() or not error.isfinite().all() else error.amax()
    room = error + limits.eps * torch.maximum(b.abs(), exact.abs()) + limits.smallest_normal * limits.eps
    fine = ((a - exact).abs() <= room) | (a == b) | (got == rounded) | (a.isnan() & (b.isnan() | exact.isnan()))
    if not fine.all():
        wrong = ~fine
        raise AssertionError(
            f"{brief(call)}: {int(wrong.sum())} of {fine.numel()} elements: got {a[wrong][:3].tolist()}, "
            f"the built-in {b[wrong][:3].tolist()}, in float64 {exact[wrong][:3].tolist()}"
        )


def assert_results_are_torchs(ours, builtin, call, view=lambda t: t):
    """The value and all gradients; with all tensors, and the upstream gradient, seen through a view."""
    call = tree_map_only(Tensor, lambda t: leaf_of(view(t.detach()), t), call)
    args, kwargs = call
    y = builtin(*args, **kwargs).detach()
    g = view(upstream(y))
    got, expected = results(ours, call, g), results(builtin, call, g)
    assert len(got) == len(expected)
    x = tree_leaves(call)[0]  # torch's log_softmax does not keep channels_last
    assert steps(got[0]) in (steps(expected[0]), steps(x) if isinstance(x, Tensor) else None), brief(call)
    if builtin is nn.functional.elu and len(expected) == 2:  # its slope at NaN is 1 where a vector is not full
        expected[1][args[0].isnan()] = float("nan")
    if not any(t is not None and t.dtype in HALF for t in expected):
        return assert_same(got, expected, call)
    exact = results(in_double(builtin), in_double(call), g.double())
    for a, b, c in zip(got, expected, exact, strict=True):
        if b is None or b.dtype not in HALF:
            assert_same(a, b, call)
        else:
            assert_rounded_once(
                a, b, c, call, elementwise=builtin not in OF_ROWS and not isinstance(builtin, nn.Module)
            )


def steps(t):
    """The strides that say where something lies."""
    return [(size, stride) for size, stride in zip(t.shape, t.stride(), strict=True) if size > 1] if t.numel() else []


@pytest.fixture(scope="module", autouse=True)
def threads():
    """Nearly all samples are small, and on a busy machine threads cost more than they do. Theirs is the number."""
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    yield number
    torch.set_num_threads(number)


class Watcher(TorchDispatchMode):
    """Does nothing; while it is there, no kernel runs behind its back, but torch's operators."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


# ---------------------------------------------------------------------------------------------------- values and dtypes


@EACH_DTYPE
def test_values_and_gradients(which, info, dtype, threads, device):
    """All samples and reference inputs (large, extreme, of many shapes and layouts), in all dtypes of the table."""
    # The two inputs of a million elements, for the threads of the kernels, cost most of the time: in one dtype only.
    seen, most = 0, 10**7 if dtype is torch.float32 else SMALL
    for call in samples(which, info, dtype, requires_grad=True, reference=True, device=device):
        if elements(call) <= most:
            torch.set_num_threads(threads if elements(call) > SMALL else 1)
            assert_results_are_torchs(getattr(F, which), builtin_of(which, info), call)
            seen += 1
    torch.set_num_threads(1)
    assert seen


@pytest.mark.parametrize(
    ("which", "info", "dtype", "device"), [row for row in TYPED if row.values[2] in (torch.float32, torch.bfloat16)]
)
def test_values_and_gradients_by_operators(which, info, dtype, device):
    """The same where a mode of torch watches, in dtypes that have kernels: the others go this way always."""
    for call in samples(which, info, dtype, requires_grad=True, reference=True, device=device):
        if elements(call) <= SMALL:
            with Watcher():
                assert_results_are_torchs(getattr(F, which), builtin_of(which, info), call)


def lazily_negated(t):
    return torch._neg_view(-t)


def lazily_conjugated(t):
    return t.conj().resolve_conj().conj()


@pytest.mark.parametrize(("which", "info", "dtype", "device"), list(in_turns(TYPED)))
def test_views(which, info, dtype, device):
    """Of the arguments and of the upstream gradient: with gaps, negated or conjugated when they are read."""
    views = [noncontiguous_like]
    if dtype.is_floating_point or dtype in (torch.complex64, torch.complex128):
        views.append(lambda t: lazily_negated(t) if t.is_floating_point() or t.is_complex() else t)
    if dtype.is_complex:
        views.append(lazily_conjugated)
    for view in views:
        for call in samples(which, info, dtype, requires_grad=True, device=device):
            assert_results_are_torchs(getattr(F, which), builtin_of(which, info), call, view)


@pytest.mark.sweep
@EACH_INFO
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(which, info, dtype):
    """Ours takes the dtypes that the built-in takes, and has the same kind of error for the others.

    (The samples are made as float32 and converted: not all can be made in all dtypes. Where they can,
    test_values_and_gradients has the values.)
    """
    for call in samples(which, info, single(info)):
        if not elements(call):  # torch does not look what nothing is made of
            continue
        args, kwargs = call = tree_map_only(Tensor, lambda t: t.to(dtype) if t.dtype == single(info) else t, call)
        try:
            info.op(*args, **kwargs)
        except (RuntimeError, TypeError, ValueError) as error:
            assert dtype not in info.supported_dtypes("cpu")
            with pytest.raises(type(error)):
                getattr(F, which)(*args, **kwargs)
        else:
            if dtype in info.supported_dtypes("cpu"):
                assert getattr(F, which)(*args, **kwargs).dtype is info.op(*args, **kwargs).dtype
            else:
                assert_results_are_torchs(getattr(F, which), info.op, call)


@pytest.mark.parametrize("which", [name for name in FUNCTIONS if hasattr(nn.functional, name)])
def test_signatures(which):
    """All of torch's arguments, of the same names, in their order, with their defaults; ours come after them."""
    assert_takes_the_same(getattr(F, which), getattr(nn.functional, which))


def assert_takes_the_same(ours, builtin):
    got, expected = ([(p.name, p.default, p.kind) for p in parameters(f).values()] for f in (ours, builtin))
    assert got[: len(expected)] == expected


@pytest.mark.parametrize(("which", "info"), [row for row in INFOS if row.values[1].error_inputs_func is not None])
def test_mistakes(which, info):
    for mistake in info.error_inputs("cpu"):
        sample = mistake.sample_input
        if which == "maximum" and any(isinstance(t, Tensor) for t in (sample.input, *sample.args)):
            # of a tensor and a number, which the gate takes
            continue
        with pytest.raises(mistake.error_type, match=mistake.error_regex or None):
            getattr(F, which)(sample.input, *sample.args, **sample.kwargs)


@pytest.mark.parametrize(
    ("which", "info", "dtype", "device"), [row for row in in_turns(TYPED) if row.values[3] == "cpu"]
)
def test_fake_and_meta_tensors(which, info, dtype, device):
    """They have the shapes, dtypes and strides that real ones get, and so do their gradients."""
    ours = getattr(F, which)
    for call in samples(which, info, dtype, requires_grad=True):
        expected = results(ours, call)
        with FakeTensorMode() as mode:
            fake = tree_map_only(Tensor, mode.from_tensor, call)
            faked = results(ours, fake, mode.from_tensor(upstream(expected[0])))
        meta = tree_map_only(Tensor, lambda t: leaf_of(t.detach().to("meta"), t), call)
        on_meta = results(ours, meta, upstream(expected[0]).to("meta"))
        for where, each in ((device, faked), ("meta", on_meta)):
            assert list(map(metadata, each)) == list(map(metadata, expected)), (where, brief(call))
            assert {t.device.type for t in each if t is not None} == {where}


def metadata(t):
    return None if t is None else (t.dtype, t.shape, steps(t))


# ---------------------------------------------------------------------------------------------------------- derivatives


def with_gradients(which, info):
    """float64 and, where the function has them, complex numbers."""
    for dtype in (torch.float64, torch.complex128):
        if info.supports_autograd and dtype in info.supported_backward_dtypes("cpu"):
            yield from samples(which, info, dtype, requires_grad=True)


def of_tensors(function, call):
    """The function of those arguments that have gradients, and these."""
    leaves, spec = tree_flatten(call)
    places = [n for n, t in enumerate(leaves) if isinstance(t, Tensor) and t.requires_grad]

    def partial(*tensors):
        filled = list(leaves)
        for place, t in zip(places, tensors, strict=True):
            filled[place] = t
        args, kwargs = tree_unflatten(filled, spec)
        return function(*args, **kwargs)

    return partial, tuple(leaves[place] for place in places)


FAST_OR_SLOW = pytest.mark.parametrize(
    "fast", [pytest.param(True, id="fast"), pytest.param(False, id="slow", marks=pytest.mark.slow)]
)


@EACH_INFO
@FAST_OR_SLOW
def test_gradcheck(which, info, fast):
    """Backward and forward mode, one gradient at a time and batches, defined and not; of small samples elementwise."""
    for call in with_gradients(which, info):
        if not fast and elements(call) > 25:  # the slow mode differentiates by one element after the other
            continue
        assert gradcheck(
            *of_tensors(getattr(F, which), call),
            fast_mode=fast,
            check_forward_ad=info.supports_forward_ad,
            check_batched_grad=info.check_batched_grad,
            check_batched_forward_grad=info.check_batched_forward_grad,
            check_undefined_grad=True,
            check_grad_dtypes=True,
        )


@EACH_INFO
@FAST_OR_SLOW
def test_gradgradcheck(which, info, fast):
    for call in with_gradients(which, info):
        if elements(call) > (100 if fast else 10):
            continue
        assert gradgradcheck(
            *of_tensors(getattr(F, which), call),
            fast_mode=fast,
            check_rev_over_rev=info.supports_gradgrad,
            check_fwd_over_rev=info.supports_fwgrad_bwgrad,
            check_batched_grad=info.check_batched_gradgrad,
            check_grad_dtypes=True,
        )


@pytest.mark.parametrize(
    ("which", "info"), [row for row in INFOS if "inplace" in parameters(getattr(F, row.values[0]))]
)
def test_inplace(which, info):
    """The values and derivatives of the built-in that writes into its argument, in the memory of that."""

    def inplace_of(function):
        def inplace(x, *args, **kwargs):
            x = x.clone()
            version = x._version
            y = function(x, *args, **kwargs, inplace=True)
            assert y is x
            assert x._version > version
            return y

        return inplace

    ours = inplace_of(getattr(F, which))
    for dtype in by_name(info.supported_dtypes("cpu")):
        for call in samples(which, info, dtype, requires_grad=True):
            assert_results_are_torchs(ours, inplace_of(info.op), call)
    for call in with_gradients(which, info):
        function, tensors = of_tensors(ours, call)
        assert gradcheck(
            function,
            tensors,
            fast_mode=True,
            check_forward_ad=info.supports_forward_ad,
            check_batched_grad=info.check_batched_grad,
            check_batched_forward_grad=info.check_inplace_batched_forward_grad,
        )
        assert gradgradcheck(function, tensors, fast_mode=True, check_fwd_over_rev=info.supports_fwgrad_bwgrad)


# ----------------------------------------------------------------------------------------------- other kinds of tensors


@EACH_INFO
def test_vmap(which, info):
    """Over each choice of the tensors, in the first and in the last dimension, as one call after the other."""
    ours = getattr(F, which)
    # A batch of products adds up in another order than one product. Partial sums here go up to 10 x 9 x 9 = 810, whose
    # last place is 6e-5; how far the orders part depends on the CPU.
    tolerance = dict(rtol=1.3e-6, atol=2e-4) if which == "matmul" else {}
    for call in samples(which, info, single(info)):
        leaves, spec = tree_flatten(call)
        places = [n for n, t in enumerate(leaves) if isinstance(t, Tensor)]
        for chosen in range(1, 2 ** len(places)):
            many = [place for n, place in enumerate(places) if chosen >> n & 1]

            def partial(*tensors, many=many, leaves=leaves, spec=spec, function=ours):
                filled = list(leaves)
                for place, t in zip(many, tensors, strict=True):
                    filled[place] = t
                args, kwargs = tree_unflatten(filled, spec)
                return function(*args, **kwargs)

            pairs = [(leaves[place], leaves[place].roll(1)) for place in many]
            expected = [partial(*tensors, function=info.op) for tensors in zip(*pairs, strict=True)]
            for dim in (0, -1):
                got = vmap(partial, in_dims=dim, out_dims=dim)(*[torch.stack(pair, dim) for pair in pairs])
                assert_same(got, torch.stack(expected, dim), call, **tolerance)


def check_with_mode(function, call):
    composite_compliance.check_with_mode(function, *call, torch.testing.assert_close)


def check_all_permutations(function, call):
    composite_compliance.check_all_permutations(function, *call, torch.testing.assert_close)


def check_backward_formula(function, call):
    composite_compliance.check_backward_formula(function, *call, assert_equal_fn=torch.testing.assert_close)


def check_forward_ad_formula(function, call):
    composite_compliance.check_forward_ad_formula(function, *call, assert_equal_fn=torch.testing.assert_close)


@pytest.mark.sweep
@EACH_INFO
@pytest.mark.parametrize(
    "check", [check_with_mode, check_all_permutations, check_backward_formula, check_forward_ad_formula]
)
def test_composite_compliance(which, info, check):
    """What torch asks of a function made of its operators: nothing passes by a subclass that has no memory.

    Each choice of arguments, upstream gradients and tangents is of the subclass.
    """
    differentiates = check in (check_backward_formula, check_forward_ad_formula)
    if not info.supports_autograd and differentiates:
        pytest.skip("the built-in has no derivative")
    for number, call in enumerate(samples(which, info, single(info), requires_grad=differentiates)):
        tensors = sum(isinstance(t, Tensor) for t in tree_leaves(call))
        if tensors <= 2 or number % 4 == 0:  # with each tensor there are two to four times as many choices
            check(getattr(F, which), call)


# -------------------------------------------------------------------------------------------------------------- modules


def module_samples(which, info, dtype, requires_grad=False, device="cpu"):
    """Ours and torch's module with the same state, arguments of a call, and the sample of torch's table."""
    torch.manual_seed(0)
    options = dict(device=device, dtype=dtype, requires_grad=requires_grad, training=True)
    for sample in info.module_inputs_func(info, **options):
        made, given = sample.constructor_input, sample.forward_input
        theirs = info.module_cls(*made.args, **made.kwargs).to(device, dtype)
        ours = getattr(ours_nn, which)(*made.args, **made.kwargs).to(device, dtype)
        ours.load_state_dict({key: t.clone() for key, t in theirs.state_dict().items()})
        yield ours, theirs, tree_map_only(Tensor, leaf, (given.args, given.kwargs)), sample


def channels_last(t):
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return t.contiguous(memory_format=formats.get(t.dim(), torch.contiguous_format))


@EACH_MODULE_AND_DTYPE
def test_modules_are_torchs(which, info, dtype, device):
    """Values and gradients, of inputs of several layouts; name, attributes and state."""
    seen = 0
    for ours, theirs, call, sample in module_samples(which, info, dtype, requires_grad=True, device=device):
        for view in (lambda t: t, noncontiguous_like, channels_last):
            assert_results_are_torchs(ours, theirs, call, view)
        if sample.reference_fn is not None and dtype not in HALF:
            args, kwargs = tree_map_only(Tensor, Tensor.detach, call)
            assert_same(ours(*args, **kwargs), sample.reference_fn(theirs, *args, **kwargs), call)
        assert repr(ours) == repr(theirs)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        for kind in (nn.Module.named_parameters, nn.Module.named_buffers):
            assert [name for name, _ in kind(ours)] == [name for name, _ in kind(theirs)]
        public = {name: value for name, value in vars(theirs).items() if not name.startswith("_")}
        assert {name: vars(ours).get(name) for name in public} == public
        seen += 1
    assert seen


def through_a_file(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@EACH_MODULE
def test_copies_of_modules(which, info):
    for ours, theirs, (args, kwargs), _ in module_samples(which, info, torch.float32):
        expected = ours(*args, **kwargs)
        for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), through_a_file(ours)):
            assert type(copied) is type(ours)
            assert_same(copied(*args, **kwargs), expected, args, rtol=0, atol=0)
            assert list(copied.state_dict()) == list(ours.state_dict())
        theirs.load_state_dict(ours.state_dict())  # with nothing missing, and nothing too much


@EACH_MODULE
def test_derivatives_of_modules(which, info):
    """Of inputs and parameters."""
    for ours, _, (args, kwargs), _ in module_samples(which, info, torch.float64, requires_grad=True):
        if ours(*args, **kwargs).isnan().any():  # the mean cross-entropy where all rows are to be ignored
            continue

        def function(parameters, *args, ours=ours, **kwargs):
            return functional_call(ours, parameters, args, kwargs)

        parameters = {name: leaf(p) for name, p in ours.named_parameters()}
        partial, tensors = of_tensors(function, ((parameters, *args), kwargs))
        assert gradcheck(partial, tensors, fast_mode=True, check_forward_ad=True, check_batched_grad=True)
        if info.supports_gradgrad:
            assert gradgradcheck(partial, tensors, fast_mode=True, check_batched_grad=True)


@pytest.mark.parametrize(
    ("which", "info"),
    [row for row in MODULE_INFOS if "inplace" in parameters(row.values[1].module_cls)],
)
def test_modules_in_place(which, info):
    for ours, _, call, sample in module_samples(which, info, torch.float32, requires_grad=True):
        made = sample.constructor_input
        writes = getattr(ours_nn, which)(*made.args, **made.kwargs, inplace=True)
        for place in (Tensor.clone, lambda x: torch.stack([x, x], -1)[..., 1]):

            def inplace(x, writes=writes, place=place):
                x = place(x)
                y = writes(x)
                assert y is x
                return y

            assert_same(results(inplace, call), results(ours, call), call)


@EACH_MODULE
def test_where_and_of_what_modules_are_made(which, info):
    """device and dtype, where torch's module takes them, and a device in whose context it is made."""
    theirs, ours = info.module_cls, getattr(ours_nn, which)
    assert_takes_the_same(ours, theirs)
    takes = "dtype" in parameters(theirs)
    for _, _, _, sample in module_samples(which, info, torch.float32):
        args, kwargs = sample.constructor_input.args, sample.constructor_input.kwargs
        for options in [dict(device="meta"), dict(dtype=torch.float64), dict(device="cpu", dtype=torch.bfloat16)]:
            if takes:
                assert_same_state(ours(*args, **kwargs, **options), theirs(*args, **kwargs, **options))
        with torch.device("meta"):
            assert_same_state(ours(*args, **kwargs), theirs(*args, **kwargs))


def assert_same_state(ours, theirs):
    got, expected = ours.state_dict(), theirs.state_dict()
    assert list(got) == list(expected)
    for name, t in expected.items():
        assert (got[name].device, got[name].dtype, got[name].shape) == (t.device, t.dtype, t.shape)
        assert t.is_meta or torch.equal(got[name], t)


@pytest.mark.parametrize(("which", "mistake"), MODULE_MISTAKES)
def test_mistakes_of_modules(which, mistake):
    made, given = mistake.module_error_input.constructor_input, mistake.module_error_input.forward_input
    if mistake.error_on is ModuleErrorEnum.CONSTRUCTION_ERROR:
        with pytest.raises(mistake.error_type, match=mistake.error_regex):
            getattr(ours_nn, which)(*made.args, **made.kwargs)
    else:
        module = getattr(ours_nn, which)(*made.args, **made.kwargs)
        with pytest.raises(mistake.error_type, match=mistake.error_regex):
            module(*given.args, **given.kwargs)
