"""The Triton engine where there is no device: what its kernels compile to, and what happens where it cannot run."""

import ctypes
import json
import logging
import os
import re
import subprocess
import sys
import types
from array import array
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import torch_lecture_ops.nn.functional as F
from torch_lecture_ops import optim
from torch_lecture_ops.formula import EngineUnavailable, Formula, triton_engine
from torch_lecture_ops.formula.triton_engine import Function, TritonLaunch

# --------------------------------------------------------------------- what is compiled for compute capability 9.0


@pytest.fixture(scope="module", params=["some", pytest.param("all", marks=pytest.mark.slow)])
def compiled(request, tmp_path_factory):
    """Some kernels of the package, or all, compiled for a device that need not be there."""
    pytest.importorskip("triton")
    script = Path(__file__).with_name("compile_everything.py")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    command = [sys.executable, script, "90", request.param]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    kernels = json.loads(done.stdout)
    assert len(kernels) > (100 if request.param == "all" else 5)
    return kernels


@pytest.mark.processes
def test_every_kernel_compiles_into_registers_and_vector_loads(compiled):
    for kernel in compiled:
        assert kernel["stack"] <= 16, kernel["text"]  # bytes of a thread that do not fit
        columns = set(re.findall(r"m\.(?:load|store)\(c(\d+) \+ j|tl\.(?:load|store)\(c(\d+) \+ j,", kernel["text"]))
        vectors = re.findall(r"(?:ld|st)\.global\.v[24]", kernel["ptx"])
        assert len(vectors) >= len(columns) * kernel["is_aligned"], kernel["text"]


@pytest.mark.processes
def test_no_kernel_divides_or_takes_roots_approximately(compiled):
    for kernel in compiled:
        approximate = re.findall(r"\b(?:div|sqrt|rcp|ex2|lg2|tanh)\.(?:full|approx)\S*\.f32", kernel["ptx"])
        assert not approximate, (approximate, kernel["text"])
        flushing = set(re.findall(r"\w+\S*\.ftz\S*", kernel["ptx"]))  # subnormals to 0
        # CUDA's own exp and log of doubles begin so: with a look at the exponent, with a first guess of a reciprocal
        assert flushing <= {"abs.ftz.f32", "rcp.approx.ftz.f64"}, kernel["text"]


@pytest.mark.processes
def test_numbers_on_the_device_are_read_by_all_before_one_writes(compiled):
    kernels = [kernel for kernel in compiled if "atomic_add" in kernel["text"]]
    assert kernels
    for kernel in kernels:
        before, after = kernel["ptx"].split("atom.global.gpu.acq_rel")
        assert "bar.sync" in before[before.rindex("ld.global") :]
        assert "ld.global" not in after


# ------------------------------------------------------------------------------------------------- where it cannot run


def said(caplog):
    return [record.getMessage() for record in caplog.records]


@pytest.fixture
def no_triton(triton_unbuilt, monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)


@pytest.fixture
def old_triton(triton_unbuilt, monkeypatch):
    """Something else of this name."""
    monkeypatch.setitem(sys.modules, "triton", types.ModuleType("triton"))


@pytest.fixture
def no_tools(triton_unbuilt, monkeypatch):
    """Triton is there, but what it needs to build a kernel is not."""
    reason = EngineUnavailable("Triton cannot build a kernel: CalledProcessError: no assembler")
    monkeypatch.setattr(Function, "_build", lambda *_: reason)


MISSING = pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("no_triton", "Triton cannot be imported: ModuleNotFoundError: import of triton halted; None in sys.modules"),
        ("old_triton", "Triton cannot be imported: AttributeError: module 'triton' has no attribute 'jit'"),
        pytest.param(
            "no_tools",
            "Triton cannot build a kernel: CalledProcessError: no assembler",
            marks=pytest.mark.needs_interpreter,
        ),
    ],
)


@MISSING
def test_functions_fall_back_to_torchs_operators_and_say_so_once(missing, reason, request, caplog):
    request.getfixturevalue(missing)
    x, other = torch.rand(4, 6, requires_grad=True), torch.rand(4, 6)
    with caplog.at_level(logging.WARNING, "torch_lecture_ops"):
        for _ in range(2):
            torch.testing.assert_close(F.silu(x), torch.nn.functional.silu(x))
            torch.testing.assert_close(F.softmax(x, 1), torch.softmax(x, 1))
            torch.testing.assert_close(F.maxout(x, 2), x.view(4, 3, 2).amax(2))
            torch.testing.assert_close(F.mse_loss(x, other), torch.nn.functional.mse_loss(x, other))
            loss = F.cross_entropy(x, torch.arange(4))
            loss.backward()
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(x, torch.arange(4)))
    assert said(caplog) == [f"no compiled kernels: {reason}; torch's operators instead"]


@MISSING
def test_optimizers_fall_back_to_foreach_and_say_so_once(missing, reason, request, caplog):
    request.getfixturevalue(missing)
    ours, theirs = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    ours.grad = theirs.grad = torch.arange(5.0)
    mine, torchs = optim.Adam([ours]), torch.optim.Adam([theirs])
    with caplog.at_level(logging.WARNING, "torch_lecture_ops"):
        for _ in range(3):
            mine.step()
            torchs.step()
    assert mine.engine == "foreach"
    torch.testing.assert_close(ours, theirs)
    assert said(caplog) == [f"no compiled kernels: {reason}; foreach instead"]
    with pytest.raises(RuntimeError, match=f"^Adam: fused=True cannot be had: {re.escape(reason)}; use foreach=True"):
        optim.Adam([ours], fused=True).step()


class FakeKernel:
    """What `warmup` of a kernel returns: it notes how it is launched."""

    function, packed_metadata = "function", "metadata"

    def __init__(self):
        self.launches = []

    def run(self, *arguments):
        self.launches.append(arguments)


class FakeFunction:
    def __init__(self, result):
        self.result, self.builds = result, 0

    def warmup(self, *arguments, grid, **options):
        self.builds += 1
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


@pytest.fixture
def cuda(monkeypatch):
    """A device that is not there, for what only passes its number on."""
    monkeypatch.setattr(triton_engine, "on", lambda device: torch.device("cpu"))
    monkeypatch.setattr(triton_engine, "is_capturing", lambda device: False)
    monkeypatch.setattr(triton_engine, "current_stream", lambda index: 70 + index)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    return torch.device("cuda", 0)


def test_a_kernel_is_built_once_for_its_constants_and_launched_on_the_current_stream(cuda):
    kernel = FakeKernel()
    function = Function(FakeFunction(kernel))
    for programs, size in [(3, 5), (4, 6)]:
        function(cuda, programs, [size, 0.5], (1024, True))
    assert function._function.builds == 1
    start = (70, "function", "metadata", None, None, None)
    assert kernel.launches == [(3, 1, 1, *start, 5, 0.5, 1024, True), (4, 1, 1, *start, 6, 0.5, 1024, True)]
    function(cuda, 1, [5, 0.5], (1024, False))
    function(torch.device("cuda", 1), 1, [5, 0.5], (1024, True))
    assert function._function.builds == 3
    assert kernel.launches[-1][3] == 71


def test_what_fails_to_build_is_tried_once(cuda):
    function = Function(FakeFunction(ValueError("at 3:4\nno such instruction\n")))
    for _ in range(2):
        with pytest.raises(EngineUnavailable, match=r"^Triton cannot build a kernel: ValueError: no such instruction$"):
            function(cuda, 1, [5], (1024, True))
    assert function._function.builds == 1


def test_an_interrupted_build_is_no_failure(cuda):
    function = Function(FakeFunction(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        function(cuda, 1, [5], (1024, True))
    function._function.result = FakeKernel()
    function(cuda, 1, [5], (1024, True))


def test_no_kernel_is_built_during_a_capture(cuda, monkeypatch):
    monkeypatch.setattr(triton_engine, "is_capturing", lambda device: True)
    function = Function(FakeFunction(FakeKernel()))
    with pytest.raises(RuntimeError, match="cannot be prepared while a CUDA graph is captured"):
        function(cuda, 1, [5], (1024, True))
    assert function._function.builds == 0


# ---------------------------------------------------------------------------------------------------- how it launches


@pytest.fixture
def launches(monkeypatch):
    """What is launched: the number of items, and whether they are said to be aligned."""
    seen, call = [], Function.__call__

    def noted(function, device, programs, arguments, constants):
        seen.append((arguments[4], constants[-1]))
        call(function, device, programs, arguments, constants)

    monkeypatch.setattr(Function, "__call__", noted)
    return seen


def at(byte, size):
    """A tensor of ones that begins so many bytes after a multiple of 16."""
    memory = torch.ones(size + 8)
    return memory[(byte - memory.data_ptr() % 16) % 16 // 4 :][:size]


@pytest.mark.needs_interpreter
def test_items_that_are_not_aligned_go_in_a_launch_of_their_own(launches):
    """A bias of 10 elements puts all gradients behind it, in the same memory, at any place."""
    momentum = Formula(lambda p, g, b, *, mu: (p - (mu * b + g), mu * b + g), ("array",) * 3, (0, 2), ("mu",))
    p, g, b = ([at(byte, 5) for byte in places] for places in ([0, 0, 4, 0], [0, 8, 0, 0], [0, 0, 0, 0]))
    launch = TritonLaunch(momentum, fresh=(1,))
    for _ in range(2):
        launch([p, g, b], (0.5,))
    assert launches == [(2, True), (2, False)] * 2
    assert all(torch.equal(t, torch.full_like(t, 1 - 1.5 - 1.75)) for t in p)
    launch([p, [at(0, 5) for _ in g], b], (0.5,))
    assert launches[4:] == [(3, True), (1, False)]


@pytest.mark.needs_interpreter
def test_nothing_is_stored_if_one_launch_of_several_cannot_be_built(monkeypatch):
    monkeypatch.setattr(Function, "_build", refuse_unaligned)
    p = [at(0, 5), at(4, 5)]
    with pytest.raises(EngineUnavailable, match="no such thing"):
        TritonLaunch(Formula(lambda p: 2 * p, ("array",), (0,), name="Other"))([p], ())
    assert all(torch.equal(t, torch.ones(5)) for t in p)


def refuse_unaligned(function, device, arguments, constants, num_warps):
    if not constants[-1]:
        return EngineUnavailable("no such thing")
    return lambda programs, *given: function._function[(programs,)](*given)


# ------------------------------------------------------------------------------------------------------------- graphs


@pytest.fixture
def work(monkeypatch):
    """The work of a launch that may be captured, with two spare tables, and what says that it is."""
    capture = SimpleNamespace(runs=False)
    monkeypatch.setattr(triton_engine, "is_capturing", lambda device: capture.runs)
    work = triton_engine._Work([5, 0, 7], torch.device("cpu"), may_be_captured=True)
    work._spares = [(torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)) for _ in range(2)]
    return work, capture


def sent(work, numbers):
    """The table on the device after an upload of these numbers."""
    _, address, *_ = work.upload(array("Q", numbers))
    return (ctypes.c_int64 * 3).from_address(address)[:]


def test_a_graph_takes_the_table_that_is_there_if_it_is_the_same(work):
    work, capture = work
    assert sent(work, [1, 2, 3]) == [1, 2, 3]
    capture.runs = True
    for _ in range(3):
        assert sent(work, [1, 2, 3]) == [1, 2, 3]
    assert len(work._spares) == 2


def test_a_graph_sends_another_table_from_memory_that_stays(work):
    work, capture = work
    sent(work, [1, 2, 3])
    capture.runs = True
    for numbers in ([4, 5, 6], [4, 5, 6], [7, 8, 9], [4, 5, 6], [1, 2, 3]):
        assert sent(work, numbers) == numbers
    assert not work._spares
    with pytest.raises(RuntimeError, match=r"more than 4 captures .*; take one step between"):
        sent(work, [0, 0, 0])
    capture.runs = False
    assert sent(work, [0, 0, 0]) == [0, 0, 0]
    kept = {id(tensor) for pair in work._captured.values() for tensor in pair}
    assert kept <= triton_engine._READ_BY_GRAPHS.keys()


def test_work_is_not_divided_during_a_capture(monkeypatch):
    monkeypatch.setattr(triton_engine, "is_capturing", lambda device: True)
    with pytest.raises(RuntimeError, match="cannot be prepared while a CUDA graph is captured"):
        triton_engine._Work([5], torch.device("cpu"), may_be_captured=True)


GRAPHED = {
    "silu": lambda x: F.silu(x),
    "softmax": lambda x: F.softmax(x, -1),
    "maxout": lambda x: F.maxout(x, 2),
    "mse_loss": lambda x: F.mse_loss(x, x.flip(0)),
    "cross_entropy": lambda x: F.cross_entropy(x, torch.arange(len(x), device=x.device)),
}


@pytest.mark.gpu
@pytest.mark.parametrize("name", GRAPHED)
def test_functions_in_a_graph(name):
    """Forward and backward, replayed with other numbers."""
    function = GRAPHED[name]
    x = torch.randn(8, 64, device="cuda", requires_grad=True)

    def run():
        return torch.autograd.grad(function(x).square().sum(), x)[0]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        gradient = run()
    for _ in range(2):
        with torch.no_grad():
            x.normal_()
        graph.replay()
        assert torch.equal(gradient, run())


@pytest.mark.processes
def test_triton_is_imported_when_a_kernel_is_built():
    program = "import sys, torch_lecture_ops.optim, torch_lecture_ops.nn; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
