"""The Triton engine: one launch for all items of a list of CUDA tensors."""

from __future__ import annotations

import hashlib
import linecache
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from .engine import EngineUnavailable, built_once
from .launch import Launch
from .trace import Formula, trace
from .triton_source import TRITON_MEMORY, TritonWriter

BLOCK = 1024  # elements that a program has in its registers: 8 a thread, so that half types are loaded 16 bytes at once
CHUNK = 16 * BLOCK  # elements of a program of many items: enough to pay for what it computes once, in double
WARPS = 4
ALIGNMENT = 16  # bytes of the widest load
MOST_WORKS = 64  # divisions of the items that a launch remembers

# A hyper that lies on a device keeps its place in memory there: which ones do, with their dtypes.
OnDevice = tuple[tuple[int, torch.dtype], ...]


def functions(text: str) -> dict[str, Any]:
    """The kernels written in this text. Triton reads their source again, hence linecache.

    Raises:
        EngineUnavailable: there is no Triton.
    """
    name = f"<torch_lecture_ops {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name
    namespace: dict[str, Any] = {"__name__": __name__}
    try:
        exec(compile(text, name, "exec", dont_inherit=True), namespace)
    except Exception as error:  # it may be missing, too old, or damaged
        raise EngineUnavailable(f"Triton cannot be imported: {type(error).__name__}: {error}") from error
    return namespace


class Function:
    """A kernel of Triton, with nothing of its arguments in its code: it is built once for each set of constants."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self._built: dict[Any, Callable[..., None] | EngineUnavailable] = {}

    def __call__(
        self,
        device: torch.device,
        programs: int,
        arguments: Sequence[Any],
        constants: tuple[Any, ...],
        num_warps: int = WARPS,
    ) -> None:
        """Run so many programs on the current stream of the device. Raises as `ready`."""
        run = self.ready(device, arguments, constants, num_warps)
        with on(device):
            run(programs, *arguments, *constants)

    def ready(
        self, device: torch.device, arguments: Sequence[Any], constants: tuple[Any, ...], num_warps: int = WARPS
    ) -> Callable[..., None]:
        """What runs it, built now if it was not.

        Raises:
            EngineUnavailable: Triton cannot build the kernel here.
        """
        what = device.index, num_warps, constants
        run = self._built.get(what)
        if run is None:
            with on(device):
                run = self._built[what] = self._build(device, arguments, constants, num_warps)
        if isinstance(run, EngineUnavailable):
            raise EngineUnavailable(*run.args)
        return run

    def _build(
        self, device: torch.device, arguments: Sequence[Any], constants: tuple[Any, ...], num_warps: int
    ) -> Callable[..., None] | EngineUnavailable:
        """What launches the kernel, or why it cannot be had."""
        if device.type != "cuda":  # Triton's interpreter, which builds nothing
            return lambda programs, *given: self._function[(programs,)](*given)
        if is_capturing(device):
            raise RuntimeError(RUN_BEFORE)
        try:
            # Contracting a * b + c into one rounding would give other bits than torch's separate operations.
            kernel = self._function.warmup(
                *arguments, *constants, grid=(1,), num_warps=num_warps, enable_fp_fusion=False
            )
        except Exception as error:  # whatever the compiler, its tools and its cache raise
            lines = str(error).strip().splitlines() or ["no message"]
            return EngineUnavailable(f"Triton cannot build a kernel: {type(error).__name__}: {lines[-1]}")
        launch = kernel.run  # loads it: what a device says then is no matter of the engine
        start, index = (kernel.function, kernel.packed_metadata, None, None, None), device.index
        # As torch's compiler launches them: Triton's own way, kernel[grid](...), takes several times as long.
        return lambda programs, *given: launch(programs, 1, 1, current_stream(index), *start, *given)


# The number of the current stream, by the way that torch's compiler goes.
current_stream: Callable[[int], int] = getattr(
    torch._C, "_cuda_getCurrentRawStream", lambda index: torch.cuda.current_stream(index).cuda_stream
)


def on(device: torch.device) -> Any:
    """Where Triton builds and launches, and torch asks after streams: the current device."""
    is_other = device.type == "cuda" and device.index != torch.cuda.current_device()
    return torch.cuda.device(device) if is_other else nullcontext()


def is_capturing(device: torch.device) -> bool:
    """Whether what is launched now is not run but becomes part of a graph."""
    if device.type != "cuda":
        return False
    with on(device):
        return torch.cuda.is_current_stream_capturing()


def is_aligned(addresses: Iterable[int]) -> bool:
    """Whether vectors can be loaded from all of them."""
    return not any(address % ALIGNMENT for address in addresses)


def with_hypers(
    integers: Sequence[int], hypers: Sequence[Any], numbers: Sequence[float] = ()
) -> tuple[OnDevice, list[Any]]:
    """Which hypers lie on a device, and the arguments as `TritonWriter.signature` has them: integers first."""
    on_device: list[tuple[int, torch.dtype]] = []
    addresses: list[int] = []
    others: list[float] = []
    for number, hyper in enumerate(hypers):
        if isinstance(hyper, Tensor) and not hyper.is_cpu:
            on_device.append((number, hyper.dtype))
            addresses.append(hyper.data_ptr())
        else:
            others.append(float(hyper))
    return tuple(on_device), [*integers, *addresses, *numbers, *others]


class TritonKernel:
    """A formula for columns of certain dtypes. Knows addresses, no tensors.

    Arguments:
        formula, dtypes: what to compute.
        on_host: the columns of numbers that do not lie on the device.
        on_device: the hypers that do.
    """

    def __init__(
        self, formula: Formula, dtypes: tuple[torch.dtype, ...], on_host: tuple[int, ...], on_device: OnDevice
    ) -> None:
        found = functions(TritonWriter(trace(formula), dtypes, on_host, dict(on_device)).source())
        self.run = Function(found["run"])
        if "run_one" in found:  # of arrays alone
            self.run_one = Function(found["run_one"])


def triton_kernel(
    formula: Formula, dtypes: tuple[torch.dtype, ...], on_host: tuple[int, ...] = (), on_device: OnDevice = ()
) -> TritonKernel:
    """The kernel of a formula, see `built_once`."""
    return built_once(TritonKernel, formula, dtypes, on_host, on_device)


class TritonArrays:
    """A formula of arrays alone, for tensors that lie alike in memory."""

    one = None  # see `Kernel`

    def __init__(self, formula: Formula, dtypes: tuple[torch.dtype, ...]) -> None:
        self._formula, self._dtypes = formula, dtypes
        self._kernel = triton_kernel(formula, dtypes)

    def run_arrays(
        self, device: torch.device, elements: int, addresses: Iterable[int], hypers: Sequence[Any]
    ) -> None:
        """Run over so many elements of each column."""
        if not elements:
            return
        addresses = list(addresses)
        on_device, arguments = with_hypers([elements, *addresses], hypers)
        kernel = triton_kernel(self._formula, self._dtypes, (), on_device) if on_device else self._kernel
        kernel.run_one(device, -(-elements // BLOCK), arguments, (BLOCK, is_aligned(addresses)))


class TritonLaunch(Launch):
    """The launches of the Triton engine: over CUDA tensors (in Triton's interpreter: over CPU tensors).

    One launch does all, but for two cases. What is one number an item may lie on the device, where the kernel reads and
    writes it, or on the CPU: then items with the same numbers go in one launch, which gets them as arguments. And items
    whose memory is not aligned go in a launch of their own, which loads element by element.
    """

    name, where = "Triton", "one CUDA device"
    memory, devices = TRITON_MEMORY, ("cuda", "cpu")

    def __init__(self, formula: Formula, fresh: Sequence[int] = ()) -> None:
        super().__init__(formula, fresh)
        self._laid_out: Any = None  # what the work was divided for
        self._works: dict[tuple[int, ...], _Work] = {}  # by items
        self._content, self._unaligned = b"", frozenset[int]()  # the addresses; the items that they are of

    def is_on_host(self, scalar: Tensor) -> bool:
        """Whether a kernel cannot read it."""
        return scalar.device != self.device

    def prepare(self, columns: Sequence[list[Tensor]]) -> None:
        scalars = [k for k in range(len(columns)) if self._formula.kind(k) == "scalar"]
        on_host = [k for k in scalars if self.is_on_host(columns[k][0])]
        if any(self.is_on_host(t) != (k in on_host) for k in scalars for t in columns[k]):
            raise EngineUnavailable("the Triton engine takes numbers of the items that lie all on the CPU or none")
        self._on_host = tuple(on_host)
        self._program = trace(self._formula) if on_host else None
        if (self.numels, self.device) != self._laid_out:
            self._works = {}
            self._laid_out = self.numels, self.device
        triton_kernel(self._formula, self.dtypes, self._on_host)  # says at once if there is no Triton

    def run(self, columns: Sequence[list[Tensor]], table: array[int], hypers: Sequence[Any]) -> None:
        hypers = [self._readable(hyper) for hyper in hypers]
        self._find_unaligned(table)
        groups = self._groups(columns)
        launches = [
            self._prepared(chosen, table, hypers, numbers)
            for items, numbers in groups
            for chosen in self._by_alignment(items)
        ]
        for launch in launches:  # when all are sure to run
            launch()
        for items, numbers in groups if self._on_host else []:
            self._advance(columns, items, numbers, hypers)

    def _groups(self, columns: Sequence[list[Tensor]]) -> list[tuple[tuple[int, ...], list[float]]]:
        """The items with the same numbers on the host, and these."""
        everything = tuple(range(len(self.numels)))
        if not self._on_host:
            return [(everything, [])]
        if is_capturing(self.device):
            raise RuntimeError(
                f"Attempting CUDA graph capture of step() for an instance of {self._formula.name} but param_groups' "
                "capturable is False. Its step would stay on the CPU: use capturable=True or fused=True."
            )
        values = [torch.stack(columns[k]).flatten().tolist() for k in self._on_host]
        if all(column.count(column[0]) == len(column) for column in values):  # nearly always
            return [(everything, [column[0] for column in values])]
        together: dict[Any, list[int]] = defaultdict(list)
        for item, numbers in enumerate(zip(*values, strict=True)):
            together[tuple(map(float.hex, numbers))].append(item)  # as text: NaN is itself, -0 is not 0
        return [(tuple(items), [column[items[0]] for column in values]) for items in together.values()]

    def _find_unaligned(self, table: array[int]) -> None:
        """Anew only for other addresses."""
        content = table.tobytes()
        if content != self._content:
            count = len(self.numels)
            arrays = [k * count for k in range(len(self.dtypes)) if self._formula.kind(k) == "array"]
            self._unaligned = frozenset(
                item for item in range(count) if not is_aligned(table[start + item] for start in arrays)
            )
            self._content = content

    def _by_alignment(self, items: tuple[int, ...]) -> list[tuple[int, ...]]:
        """These items, or the aligned ones of them and the others."""
        if not self._unaligned:
            return [items]
        parts = ([item for item in items if (item in self._unaligned) == odd] for odd in (False, True))
        return [tuple(part) for part in parts if part]

    def _readable(self, hyper: Any) -> Any:
        """A hyper as a kernel reads it: one on a device as a float on this one."""
        if not isinstance(hyper, Tensor) or hyper.is_cpu:
            return hyper
        return hyper.to(self.device, hyper.dtype if hyper.dtype in TRITON_MEMORY else torch.float64).resolve_neg()

    def _advance(
        self, columns: Sequence[list[Tensor]], items: tuple[int, ...], scalars: Sequence[float], hypers: Sequence[Any]
    ) -> None:
        """Store the new numbers of these items, which lie on the CPU."""
        assert self._program is not None
        for k, value in self._program.scalars(dict(zip(self._on_host, scalars, strict=True)), hypers).items():
            # Whatever the default device; and in double, for the numbers may be.
            number = torch.tensor(value, dtype=torch.float64, device="cpu")
            torch._foreach_copy_([columns[k][item] for item in items], [number] * len(items))

    def _prepared(
        self, items: tuple[int, ...], table: array[int], hypers: Sequence[Any], numbers: Sequence[float]
    ) -> Callable[[], None]:
        """What runs over these items, all aligned or none, whose numbers on the host, if any, are these."""
        work = self._works.get(items)
        if work is None:
            if len(self._works) == MOST_WORKS:
                self._works.clear()
            work = self._works[items] = _Work([self.numels[item] for item in items], self.device, not self._on_host)
        count = len(self.numels)
        own = table if len(items) == count else array("Q", _of_items(table, items, count))
        on_device, arguments = with_hypers(work.upload(own), hypers, numbers)
        function = triton_kernel(self._formula, self.dtypes, self._on_host, on_device).run
        constants = (CHUNK, BLOCK, items[0] not in self._unaligned)
        function.ready(self.device, arguments, constants)
        # The work as a whole, so that its tables are there until then.
        return lambda: function(self.device, work.programs, arguments, constants)


def _of_items(table: array[int], items: tuple[int, ...], count: int) -> Iterator[int]:
    return (table[start + item] for start in range(0, len(table), count) for item in items)


RUN_BEFORE = "a kernel cannot be prepared while a CUDA graph is captured; run the same once before"

# What captured graphs read at each replay. Nobody tells when a graph is gone, so this stays: a few KB an optimizer.
_READ_BY_GRAPHS: dict[int, Tensor] = {}


class _Work:
    """What the programs of a launch look up on the device: who does what, and where the columns lie."""

    SPARES = 4  # tables that captures between two eager launches may need

    def __init__(self, numels: list[int], device: torch.device, may_be_captured: bool) -> None:
        if is_capturing(device):
            raise RuntimeError(RUN_BEFORE)
        self._device, self._items = device, len(numels)
        starts = [range(0, max(numel, 1), CHUNK) for numel in numels]  # an empty item has a program: for its numbers
        item_of = chain.from_iterable([item] * len(chunks) for item, chunks in enumerate(starts))
        self.programs = sum(map(len, starts))
        self._chunks = uploaded(array("q", [*item_of, *chain.from_iterable(starts), *numels]), device)
        self._done = torch.zeros(len(numels), dtype=torch.int32, device=device)
        self._sent: tuple[int, bytes, Tensor] | None = None  # the stream that sent a table, what, and where it is
        # During a capture there is no memory to be had: tables on the host and on the device, allocated before.
        self._spares: list[tuple[Tensor, Tensor]] = []
        self._spares_wanted = self.SPARES if may_be_captured and device.type == "cuda" else 0
        self._captured: dict[bytes, tuple[Tensor, Tensor]] = {}

    def upload(self, table: array[int]) -> list[int]:
        """Send the addresses of the columns to the device, unless they are there; the first arguments of a kernel."""
        content = table.tobytes()
        place = self._for_graph if is_capturing(self._device) else self._for_stream
        tables = (self._chunks, place(table, content), self._done)
        return [*map(Tensor.data_ptr, tables), self.programs, self._items]

    def _for_stream(self, table: array[int], content: bytes) -> Tensor:
        stream = current_stream(self._device.index) if self._device.type == "cuda" else 0
        if self._sent is None or self._sent[:2] != (stream, content):  # what another sent, it would have to wait for
            self._sent = stream, content, uploaded(table, self._device)
            if self._device.type == "cuda":
                for tensor in (self._chunks, self._done):  # not to be used anew before this stream is done with it
                    tensor.record_stream(torch.cuda.current_stream(self._device))
        while len(self._spares) < self._spares_wanted:
            host = torch.empty(len(table), dtype=torch.int64, device="cpu", pin_memory=True)
            self._spares.append((host, torch.empty_like(host, device=self._device)))
        return self._sent[2]

    def _for_graph(self, table: array[int], content: bytes) -> Tensor:
        """The table that is there if it is the same; else one that the graph sends itself at each replay."""
        if self._sent is not None and self._sent[1] == content:
            on_device = self._sent[2]
        else:
            if content not in self._captured:
                if not self._spares:
                    raise RuntimeError(
                        f"more than {self.SPARES} captures with other gradients since the last step outside of a "
                        "CUDA graph; take one step between"
                    )
                self._captured[content] = self._spares.pop()
                self._captured[content][0].copy_(torch.frombuffer(table, dtype=torch.int64))
            host, on_device = self._captured[content]
            on_device.copy_(host, non_blocking=True)
            _READ_BY_GRAPHS[id(host)] = host
        for tensor in (on_device, self._chunks, self._done):
            _READ_BY_GRAPHS[id(tensor)] = tensor
        return on_device


def uploaded(numbers: array[int], device: torch.device) -> Tensor:
    """These numbers on a device, which does not wait for them."""
    on_host = torch.frombuffer(numbers, dtype=torch.int64)
    return on_host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else on_host.clone()
