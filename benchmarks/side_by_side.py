"""Times contenders side by side in one process, and what the speed scripts share: options, table, JSON.

How times are taken: a round gives every contender one batch of calls. Within a batch the first call is not timed: it
brings the contender's memory into the caches and wakes the threads, whoever ran before. The order is drawn anew for
each round, so that everybody follows everybody: after a copy, which fills the caches, either side is slower for a
while. Times are medians over the rounds.

Ratios are medians of the quotients of each round, not quotients of medians: whatever slows the machine for a while (a
neighbour, the clock) slows both sides of a round and cancels out.

On the CPU a batch is timed by the clock of the host. On CUDA it is timed between two events of the current stream, and
nothing waits for the device before the second one: what is seen is the slower of Python, which launches, and the
device, which computes. With --graph the calls of a batch are captured in a CUDA graph first and its replays are timed:
what is seen is the device alone.

Scripts whose contenders make new tensors call `keep_freed_memory` first.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import repeat
from pathlib import Path
from random import Random
from statistics import median, quantiles
from typing import Any, Protocol

import torch

from torch_lecture_ops.arguments import OneLineParser, fail, name_of, positive

BATCH_SECONDS = 0.01  # far above the clock's resolution, far below the time in which a machine changes its mood
LEAST_ROUNDS = 5

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.float64, torch.float16)}
DTYPES["bfloat16"] = torch.bfloat16

# What torch and our kernels may use of the CPU, by the name in the environment, and the flag of /proc/cpuinfo for it.
CAPABILITIES = {"default": None, "avx2": "avx2", "avx512": "avx512f"}
CAPABILITY = "ATEN_CPU_CAPABILITY"


# ---------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    low, _, high = quantiles(values, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return Spread(median(values), low, high)


class Replay:
    """The calls of a batch in a CUDA graph; one call of this replays them all."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call  # keeps alive what the graph reads and writes
        stream, outside = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(outside)
        with torch.cuda.stream(stream):
            self.calls = calls_per_batch(call, "cuda")  # warms up, where it will be captured
        outside.wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        # Relaxed: pinned memory for what the host sends may be allocated meanwhile.
        with without_collections(), torch.cuda.graph(self.graph, stream=stream, capture_error_mode="relaxed"):
            for _ in repeat(None, self.calls):
                call()

    def __call__(self) -> None:
        self.graph.replay()


def contender(call: Callable[[], object], options: argparse.Namespace) -> Callable[[], object]:
    """What `measure` takes of a call: the call itself or, with --graph, its replay.

    Raises:
        RuntimeError: it cannot be captured.
    """
    return Replay(call) if options.graph else call


def measure(contenders: Mapping[str, Callable[[], object]], options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds per call of every contender, a value for each round, for about `options.seconds` in all."""
    calls = {name: calls_per_batch(call, options.device) for name, call in contenders.items()}
    captured = {name: call.calls if isinstance(call, Replay) else 1 for name, call in contenders.items()}
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    end = time.perf_counter() + options.seconds
    number = 0
    while number < LEAST_ROUNDS or time.perf_counter() < end:
        for name in order_of_round(list(contenders), number):
            seconds = seconds_of_batch(contenders[name], calls[name], options.device)
            samples[name].append(seconds / (calls[name] * captured[name]))
        number += 1
    return samples


def order_of_round(names: list[str], number: int) -> list[str]:
    return Random(number).sample(names, len(names))


def calls_per_batch(call: Callable[[], object], device: str) -> int:
    warm_up(call)
    calls = 1
    while (elapsed := seconds_of_batch(call, calls, device)) < BATCH_SECONDS / 4:
        calls *= 2
    return math.ceil(calls * BATCH_SECONDS / elapsed)


def warm_up(call: Callable[[], object]) -> None:
    """The first calls build kernels and touch new memory page by page: up to a hundred times the cost of the rest.

    The second call of an optimizer may build another kernel than the first.
    """
    end = time.perf_counter() + 10 * BATCH_SECONDS
    for number in range(20):
        call()
        if number >= 2 and time.perf_counter() > end:
            break


def seconds_of_batch(call: Callable[[], object], calls: int, device: str) -> float:
    call()
    with without_collections():
        return SECONDS_OF_CALLS[device](call, calls)


def seconds_on_host(call: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in repeat(None, calls):
        call()
    return time.perf_counter() - start


def seconds_on_device(call: Callable[[], object], calls: int) -> float:
    """Between two events of the current stream."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in repeat(None, calls):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


SECONDS_OF_CALLS = {"cpu": seconds_on_host, "cuda": seconds_on_device}


@contextmanager
def without_collections() -> Iterator[None]:
    """A garbage collection would be paid by whoever happens to run."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed, for the rest of the process; False if it cannot be told to (not glibc).

    By default large blocks go back to the system: whenever the free end of the heap is long enough, and those of more
    than 32 MB always. The next call then pays a page fault for every 4 KB, which can be ten times what is measured,
    and which of the contenders pays is a matter of what lies at the end of the heap.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    never_map, never_trim = (-4, 0), (-1, -1)  # M_MMAP_MAX, M_TRIM_THRESHOLD
    return mallopt is not None and all(mallopt(*option) for option in (never_map, never_trim))


def ratio(slower: Sequence[float], faster: Sequence[float]) -> Spread:
    """How many times as long the first contender takes, from the samples of both."""
    return spread([a / b for a, b in zip(slower, faster, strict=True)])


class Copy:
    """A plain copy that touches a given number of bytes, half of them source: the measure for GB/s.

    It counts what is read and what is written. Where the copy does not fit in the caches, a CPU moves half as much
    again, since it fetches a line of the target before it is overwritten. An optimizer writes only lines that it has
    read, so its GB/s may come out above those of the copy. A GPU fetches no line that is overwritten as a whole.
    """

    def __init__(self, touched: int, dtype: torch.dtype, device: str) -> None:
        count = max(1, touched // 2 // dtype.itemsize)
        # Ones, not zeros: untouched zeros are all one page of the system, which stays in the cache.
        self.source = torch.ones(count, dtype=dtype, device=device)
        self.target = torch.ones_like(self.source)
        self.moved = 2 * self.source.nbytes

    def __call__(self) -> None:
        self.target.copy_(self.source)


def gigabytes_per_second(moved: int, samples: Sequence[float]) -> float:
    return moved / median(samples) / 1e9


# ---------------------------------------------------------------- results


Verdict = tuple[str, bool | None]  # a floor in words, and whether it is held; None: there is nothing to compare with


class Row(Protocol):
    """A line of the table; a dataclass, so that the JSON holds all its fields."""

    def cells(self) -> list[str]: ...

    def verdicts(self) -> list[Verdict]:
        """The floors of this row."""


def machine(device: str) -> dict[str, Any]:
    """Where and when the numbers were taken."""
    return {
        "cpu": cpu_model(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        **(gpu() if device == "cuda" else {"gpu": None}),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load": os.getloadavg()[0],  # processes that ran in the minute before: numbers taken beside others mislead
        "date": datetime.now().isoformat(sep=" ", timespec="seconds"),
    }


def has_avx512() -> bool:
    """Whether torch uses it here, and so our kernels."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def gpu() -> dict[str, str]:
    return {
        "gpu": torch.cuda.get_device_name(),
        "compute capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "driver": driver_version(),
        "CUDA": torch.version.cuda or "none",
        "Triton": triton_version(),
    }


def driver_version() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]  # a line a device
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def triton_version() -> str:
    try:
        return version("triton")
    except PackageNotFoundError:
        return "none"


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def describe(where: Mapping[str, Any], options: argparse.Namespace) -> str:
    parts = [where["cpu"], where["capability"], f"{where['cores']} cores", f"{where['threads']} threads", where["gpu"]]
    parts += [f"{what} {where[what]}" for what in ("compute capability", "driver", "CUDA", "Triton") if what in where]
    parts += ["CUDA graphs"] if options.graph else []
    parts += [f"torch {where['torch']}", options.dtype, f"load {where['load']:.1f} before", where["date"]]
    return ", ".join(part for part in parts if part)


def show_seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}" if seconds < 1000 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def show_ratio(ratio: Spread) -> str:
    return f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def line_of_table(cells: Iterable[str], widths: Mapping[str, int]) -> str:
    """Cells padded to the widths of their columns: negative to the left, positive to the right."""
    pairs = zip(cells, widths.values(), strict=True)
    return "  ".join(f"{cell:{'<' if width < 0 else '>'}{abs(width)}}" for cell, width in pairs).rstrip()


def run(rows: Iterable[Row], columns: Mapping[str, int], options: argparse.Namespace, program: str) -> int:
    """Print rows as they come, write the JSON, check the floors; the exit status."""
    check_writable(options.json, program)
    where = machine(options.device)
    print(describe(where, options))
    print(line_of_table(columns, columns), flush=True)
    finished: list[Row] = []
    status = 0
    try:
        with warnings.catch_warnings():
            # What torch's optimizers say of the steps before they are captured.
            warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
            for row in rows:
                finished.append(row)
                print(line_of_table(row.cells(), columns), flush=True)
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted; rows finished: {len(finished)}", file=sys.stderr)
        status = 130
    if finished:
        table = [asdict(row) for row in finished]
        chosen = {name: value for name, value in vars(options).items() if name != "json"}
        write_json(options.json, {"machine": where, "options": chosen, "rows": table}, program)
    return status or (options.check and not floors_are_held(finished))


def floors_are_held(rows: Iterable[Row]) -> bool:
    """Say which floors are missed, and which there was nothing to compare with for."""
    verdicts = [verdict for row in rows for verdict in row.verdicts()]
    held, missed, skipped = ([text for text, answer in verdicts if answer is kind] for kind in (True, False, None))
    print(f"\n{len(held)} of {len(held) + len(missed)} floors held", *missed, sep="\nmissed: ")
    for text in skipped:
        print(f"skipped: {text}")
    return not missed


def write_json(path: Path, contents: dict[str, Any], program: str) -> None:
    """All at once: a reader finds the old file or the new one, never a part."""
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False) as file:
            json.dump(contents, file, indent=1, default=str)
        os.chmod(file.name, 0o644)  # temporary files are private
        os.replace(file.name, path)
    except OSError as error:
        fail(program, f"cannot write {path}: {error.strerror}", status=1)


# ---------------------------------------------------------------- command line


class SpeedParser(OneLineParser):
    """With the devices that the script has floors for."""

    floors_on: Sequence[str]


def parser_with_common_options(program: str, description: str, floors_on: Sequence[str] = ("cpu",)) -> SpeedParser:
    parser = SpeedParser(program, description=description, allow_abbrev=False)
    parser.floors_on = floors_on
    where = " and ".join(map(str.upper, floors_on))
    add = parser.add_argument
    add("--dtype", type=name_of(DTYPES), default="float32", metavar="D", help=", ".join(DTYPES))
    add("--device", type=name_of(("cpu", "cuda")), default="cpu", metavar="D", help="cpu or cuda")
    add("--seconds", type=positive, default=3.0, metavar="S", help="time for each row (default 3)")
    add("--capability", type=name_of(CAPABILITIES), metavar="C", help=f"vectors on the CPU: {', '.join(CAPABILITIES)}")
    add("--json", type=Path, metavar="PATH", help="file for the results (default: in runs/)")
    add("--check", action="store_true", help=f"exit with 1 if a floor is missed ({where}, float32)")
    parser.set_defaults(graph=False)
    return parser


def add_graph(parser: SpeedParser) -> None:
    """The option of the scripts whose calls can be captured."""
    text = "with --device cuda: time replays of CUDA graphs, so the device alone, not Python's launches as well"
    parser.add_argument("--graph", action="store_true", help=text)


def parse_common_options(parser: SpeedParser, argv: list[str] | None) -> argparse.Namespace:
    options = parser.parse_args(argv)
    if options.capability:
        run_with_capability(options.capability, parser, argv)
    if options.graph and options.device != "cuda":
        parser.error("--graph: CUDA graphs go with --device cuda")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device here, choose cpu")
    if options.check and (options.device not in parser.floors_on or options.dtype != "float32"):
        parser.error(f"--check: the floors are those of --device {' or '.join(parser.floors_on)} --dtype float32")
    return options


def run_with_capability(capability: str, parser: SpeedParser, argv: list[str] | None) -> None:
    """Start this process anew, with torch and our kernels told what they may use of the CPU: torch asks but once."""
    flag = CAPABILITIES[capability]
    if flag and Path("/proc/cpuinfo").exists() and flag not in Path("/proc/cpuinfo").read_text().split():
        parser.error(f"--capability {capability}: this CPU does not have it")
    if os.environ.get(CAPABILITY) == capability:
        return
    if argv is not None:
        parser.error(f"--capability {capability}: from within Python, set {CAPABILITY} before torch is imported")
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, CAPABILITY: capability})


def results_file(program: str, options: argparse.Namespace, mode: str = "") -> Path:
    """The file named with --json or, in runs/, one for each mode, device and capability."""
    device = "" if options.device == "cpu" else options.device
    parts = [Path(program).stem, mode, device, options.capability, "graph" if options.graph else ""]
    return options.json or Path("runs", "_".join(filter(None, parts)) + ".json")


def check_writable(path: Path, program: str) -> None:
    """Make the folder of the results and try it, before measuring rather than after."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        fail(program, f"cannot write {path}: {error.strerror}; name another file with --json", status=2)
