"""Where tests compute, and what that needs: compilers, a device, or Triton's interpreter in its place.

A test that takes `device` runs on the CPU; on the CPU with Triton's interpreter in place of the C engine; and, marked
gpu, on CUDA. Compiled kernels go to a folder of their own.

Many tests are tables, products of several lists: each class on each engine in each dtype. Where that costs much, and
always in the interpreter, which takes a hundred times as long, only a sample of the rows is not slow. Every entry of
every list occurs in it; what is shared, such as the shell of the optimizers, needs no product. `--sample` takes such a
sample of all tables.
"""

import functools
import gc
import importlib.util
import os
import platform
import shlex
import shutil
import sys
import weakref
from collections import Counter, defaultdict
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import settings

# Triton asks this when it is imported. Where there is a device, that runs the kernels.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from torch_lecture_ops.formula import COMPILED
from torch_lecture_ops.formula.compiled import TRITON
from torch_lecture_ops.formula.engine import _kernel_or_reason, note_fallback
from torch_lecture_ops.functions.elementwise import _Evaluator
from torch_lecture_ops.functions.operation import RowFormula

settings.register_profile("any machine", deadline=None)  # one that is busy is no failure
settings.load_profile("any machine")


def pytest_addoption(parser):
    parser.addoption("--sample", action="store_true", help="take a sample of every table: what is left out is slow")


def pytest_configure(config):
    config.addinivalue_line("markers", "sweep: a table of which all but a sample is slow")
    config.addinivalue_line("markers", "processes: starts other processes, which takes seconds")
    config.addinivalue_line("markers", "compiles: runs torch.compile over a table of functions, which takes minutes")
    config.addinivalue_line("markers", "needs_compiler: needs Linux on x86-64 and a C compiler")
    config.addinivalue_line("markers", "needs_interpreter: needs Triton's interpreter")
    config.addinivalue_line("markers", "not_interpreted: is about no kernel, or takes too long in Triton's interpreter")
    # NumPy warns where IEEE 754 has an infinity or NaN, which is what the kernels mean.
    config.addinivalue_line("filterwarnings", "ignore::RuntimeWarning:triton.runtime.interpreter")
    config.addinivalue_line("filterwarnings", "ignore:TensorFloat32 tensor cores:UserWarning")  # on CUDA, by Inductor
    config.addinivalue_line("filterwarnings", "ignore:(overflow|invalid value) encountered in reduce:RuntimeWarning")


def missing_compiler():
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"compiled kernels need Linux on x86-64, this is {sys.platform} {platform.machine()}"
    command = (shlex.split(os.environ.get("CC", "")) or ["cc"])[0]
    return "" if shutil.which(command) else f"no C compiler: {command!r} not found"


@functools.cache
def missing_interpreter():
    if importlib.util.find_spec("triton") is None:
        return "there is no Triton"
    return "" if os.environ.get("TRITON_INTERPRET") == "1" else "Triton compiles for the device here"


def missing_device():
    return "" if torch.cuda.is_available() else "there is no CUDA"


MISSING = {"needs_compiler": missing_compiler, "needs_interpreter": missing_interpreter, "gpu": missing_device}


@pytest.hookimpl(tryfirst=True)  # before those that are slow are deselected
def pytest_collection_modifyitems(config, items):
    # Thousands of rows: to skip them one by one where there is no device takes half a minute.
    on_devices = [item for item in items if item.get_closest_marker("gpu")]
    if missing_device() and len(on_devices) < len(items):  # asked for alone they are skipped, with the reason
        config.hook.pytest_deselected(items=on_devices)
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]
    items[:] = filter(is_wanted, items)

    tables = defaultdict(list)
    for item in filter(is_sampled, items):
        tables[item.parent.nodeid, item.originalname, is_interpreted(item)].append(item)
    for rows in tables.values():
        taken = sample(list(map(entries, rows)))
        for number, item in enumerate(rows):
            if number not in taken:
                item.add_marker(pytest.mark.slow)


def is_wanted(item):
    place = item.callspec.params.get("device") if hasattr(item, "callspec") else None
    return place != "interpreter" or not item.get_closest_marker("not_interpreted")


def is_sampled(item):
    """Whether it is a row of a table of which a sample is taken."""
    if not hasattr(item, "callspec") or item.get_closest_marker("gpu") or item.get_closest_marker("slow"):
        return False
    return item.get_closest_marker("sweep") or is_interpreted(item) or item.config.getoption("sample")


def is_interpreted(item):
    return item.get_closest_marker("needs_interpreter") is not None


def entries(item):
    """Which entry of each list a row of a product has."""
    params = item.callspec.params
    lists = [mark.args[0] for mark in item.iter_markers("parametrize")]
    lists = [names.replace(" ", "").split(",") if isinstance(names, str) else names for names in lists]
    lists += [[name] for name in params if not any(name in names for names in lists)]  # of fixtures
    return [(*names, *(identity(params[name]) for name in names)) for names in lists]


def identity(value):
    """What two rows with the same entry have in common: a table holds each of its objects once."""
    if type(value) is tuple:
        return tuple(map(identity, value))
    return repr(value) if value is None or isinstance(value, str | int | float) else id(value)


def sample(rows):
    """The places of a few rows in which each entry of each list occurs, and none much more often than others."""
    taken, used = set(), Counter()

    def worth(place):
        return sum(not used[entry] for entry in rows[place]), -sum(used[entry] for entry in rows[place]), -place

    while rows and worth(best := max(range(len(rows)), key=worth))[0]:
        taken.add(best)
        used.update(rows[best])
    return taken


def pytest_collection_finish():
    """Thousands of tests stay until the end: the garbage collector need not look through them each time."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item):
    for mark, missing in MISSING.items():
        if item.get_closest_marker(mark) and (reason := missing()):
            pytest.skip(reason)


@pytest.fixture(scope="session", autouse=True)
def empty_cache(request, tmp_path_factory):
    """A cold start for every run of the tests, which leave nothing in the user's own cache. Processes share it.

    But with `--sample` compiled kernels stay from one run to the next, as half of its time is compiling.
    """
    folder = tmp_path_factory.getbasetemp()
    if request.config.getoption("sample"):
        folder = request.config.cache.mkdir("compiled")
    elif "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        # The compiler's cache does not tell one capability from another, and then computes wrong numbers.
        capability = os.environ.get("ATEN_CPU_CAPABILITY", "native")
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder / f"inductor-{capability}"))
        yield


# ------------------------------------------------------------------------------------------------ where tests compute

PLACES = [
    "cpu",
    pytest.param("interpreter", marks=pytest.mark.needs_interpreter),
    pytest.param("cuda", marks=pytest.mark.gpu),
]


@pytest.fixture(params=PLACES)
def device(request):
    """The device of the tensors of a test, by the engine of each place in turn."""
    with computing(request.param) as device:
        yield device


@pytest.fixture
def interpreted(device):
    """Whether the interpreter computes, for which a sample has to do."""
    return device == "cpu" and COMPILED["cpu"] is TRITON


@contextmanager
def computing(place):
    """Compute at a place: "cpu", "interpreter" or "cuda". What it is called as a device."""
    if place != "interpreter":
        yield place
        return
    with pytest.MonkeyPatch.context() as patch:
        interpret(patch)
        yield "cpu"
    forget_kernels()


@pytest.fixture(name="computing", scope="session")
def _computing():
    """`computing`: modules of tests cannot import from each other."""
    return computing


def interpret(patch):
    """The Triton engine for CPU tensors, until the patch is undone (then call `forget_kernels`)."""
    patch.setitem(COMPILED, "cpu", TRITON)
    forget_kernels()


@pytest.fixture(scope="session", autouse=True)
def mended():
    """Triton's interpreter, mended where it does something else than devices do."""
    with pytest.MonkeyPatch.context() as patch:
        if not missing_interpreter():
            mend_interpreter(patch)
        yield


def mend_interpreter(patch):
    from triton.runtime import interpreter

    patch.setattr(interpreter.InterpreterBuilder, "create_fp_trunc", _rounded)
    patch.setattr(interpreter.InterpreterBuilder, "create_fp_ext", _widened)
    patch.setattr(interpreter.InterpreterBuilder, "create_splat", _splat)
    if not hasattr(interpreter._interpreter, "fma_fp64"):  # Triton before 3.9
        patch.setattr(interpreter.InterpreterBuilder, "create_fma", _fused)
    patch.setattr(interpreter, "_implicit_cvt", functools.partial(_argument, interpreter._implicit_cvt))
    patch.setattr(interpreter, "_patch_lang_tensor", functools.partial(_index, interpreter._patch_lang_tensor))
    call = interpreter.InterpretedFunction.__call__
    patch.setattr(interpreter.InterpretedFunction, "__call__", lambda *args, **kwargs: _called(call, *args, **kwargs))


@pytest.fixture
def triton_unbuilt(monkeypatch):
    """The Triton engine for CPU tensors, which has built nothing and said nothing so far: to see what it cannot."""

    def forget():
        for known in (_kernel_or_reason, note_fallback):
            known.cache_clear()
        forget_kernels()

    monkeypatch.setitem(COMPILED, "cpu", TRITON)
    forget()
    yield
    forget()


def _called(call, function, *args, **kwargs):
    """A function called by a kernel. Ours need not look for what the kernel has done already: half of the time."""
    is_ours = function.fn.__module__.startswith("torch_lecture_ops")
    return function.rewrite()(*args, **kwargs) if is_ours else call(function, *args, **kwargs)


# Where the interpreter does something else than devices do.


def _rounded(builder, source, dtype):
    """A float or double as bfloat16, to the nearest. (There a float is cut off, and of a double an integer taken.)"""
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    if dtype.scalar != tl.bfloat16 or source.dtype.scalar not in (tl.float32, tl.float64):
        return builder.cast_impl(source, dtype)
    rounded = torch.from_numpy(source.data.copy()).bfloat16().view(torch.uint16)
    return TensorHandle(rounded.numpy(), tl.bfloat16)


def _widened(builder, source, dtype):
    """A bfloat16 as a float: the same number. (There a subnormal one is 0.)"""
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    if (source.dtype.scalar, dtype.scalar) != (tl.bfloat16, tl.float32):
        return builder.cast_impl(source, dtype)
    return TensorHandle(torch.from_numpy(source.data.copy()).view(torch.bfloat16).float().numpy(), tl.float32)


def _splat(builder, dtype, source):
    """One value as a block, of the type that it has. (A comparison of numbers is said there to be a number.)"""
    from triton.runtime.interpreter import TensorHandle

    return TensorHandle(np.full(dtype.shape, source.data, source.data.dtype), source.dtype.scalar)


def _index(prepare, tensor, scope):
    """A number of a kernel as one of Python. (In Triton 3.6 from an array of one element, which NumPy 2.4 refuses.)"""
    prepare(tensor, scope)
    tensor.__index__ = lambda self: int(self.handle.data.squeeze())


def _fused(builder, x, y, z):
    """x y + z, rounded once. (Before Triton 3.9 the product is rounded, too: compensated sums lose what they keep.)"""
    from triton.runtime.interpreter import TensorHandle

    a, b, c = x.data, y.data, z.data
    with np.errstate(all="ignore"):
        plain = a * b + c
        if c.dtype == np.float64:  # Boldo and Melquiond 2008
            product, low = _exact_product(a, b)
            carried, rest = _exact_sum(c, low)
            high, middle = _exact_sum(product, carried)
            fused = high + _sum_to_odd(middle, rest)
        else:  # the product of two floats is a double
            fused = _sum_to_odd(a.astype(np.float64) * b, c.astype(np.float64)).astype(c.dtype)
    return TensorHandle(np.where(np.isfinite(fused), fused, plain), z.dtype.scalar)


def _exact_sum(a, b):
    """a + b as the rounded sum and what rounding took from it (Knuth)."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


def _exact_product(a, b):
    """The same of doubles a b (Dekker), by halves of 26 bits."""

    def halves(x):
        shifted = x * 134217729.0
        high = shifted - (shifted - x)
        return high, x - high

    product, (a1, a2), (b1, b2) = a * b, halves(a), halves(b)
    return product, a2 * b2 - (((product - a1 * b1) - a2 * b1) - a1 * b2)


def _sum_to_odd(a, b):
    """a + b, and where that is not exact the neighbour with an odd last bit: to round it again does no harm."""
    total, lost = _exact_sum(a, b)
    is_even = total.view(np.int64) & 1 == 0
    return np.where((lost != 0) & is_even, np.nextafter(total, np.copysign(np.inf, lost)), total)


def _argument(convert, value):
    """An integer of 64 bits, as the kernels have them. (In the interpreter the address of nothing, 0, has 32.)"""
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    if type(value) is not int:
        return convert(value)
    return tl.tensor(TensorHandle(np.array([value], np.int64), tl.int64), tl.int64)


_HOLDERS = weakref.WeakSet()  # of kernels


def _hold(cls):
    """Know all instances of a class, those that are to come, too."""
    create = cls.__init__

    def __init__(self, *args, **kwargs):
        create(self, *args, **kwargs)
        _HOLDERS.add(self)

    cls.__init__ = __init__
    _HOLDERS.update(thing for thing in gc.get_objects() if type(thing) is cls)


_hold(_Evaluator)
_hold(RowFormula)


def forget_kernels():
    """Functions ask for their kernels anew."""
    for holder in list(_HOLDERS):
        holder._kernels.clear()
        if isinstance(holder, _Evaluator):
            holder._fast.clear()
        else:
            holder._seen = None
