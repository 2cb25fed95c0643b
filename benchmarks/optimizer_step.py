"""Times the steps of our optimizers beside every path that torch has for the same class: loop, foreach, fused.

    python benchmarks/optimizer_step.py
    python benchmarks/optimizer_step.py --model mlp,resnet18 --optimizer adam,rmsprop --seconds 10
    python benchmarks/optimizer_step.py --compile        # and torch's step under torch.compile, built for each model
    python benchmarks/optimizer_step.py --first-step     # instead: the first step in fresh processes
    python benchmarks/optimizer_step.py --memory         # instead: the memory that a step takes for a while
    python benchmarks/optimizer_step.py --check          # exit status 1 if a floor is missed
    python benchmarks/optimizer_step.py --device cuda --graph --check

All contenders update the same parameters from the same gradients, each with a state of its own. "Torch's best" is the
fastest of loop, foreach and fused, whichever it is; the floors are about it, those of CUDA about the path or the copy
that each names. A compiled step has columns of its own: it takes up to a minute to build, again for each model.

GB/s: what the rule has to move, reading p, g and the state, writing p and the state. The copy touches as much memory.

--graph: steps are made with capturable=True, ours and torch's, where a class has it. Where torch's has not, SGD counts
no steps, and Adagrad, if not fused, counts on the host: once, when it is captured; its kernels are those of any step.
"""

from __future__ import annotations

import argparse
import gc
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from side_by_side import (
    DTYPES,
    Copy,
    Spread,
    Verdict,
    add_graph,
    contender,
    gigabytes_per_second,
    has_avx512,
    measure,
    parse_common_options,
    parser_with_common_options,
    ratio,
    results_file,
    run,
    show_ratio,
    show_seconds,
    spread,
)
from torch.nn import Parameter
from torch.optim import Optimizer

import torch_lecture_ops.optim
from torch_lecture_ops.arguments import fail, names_of, whole_number

PROGRAM = "optimizer_step.py"


# ---------------------------------------------------------------- what is compared


@dataclass(frozen=True)
class Case:
    """A class of ours that torch has too, and its arguments."""

    class_name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)  # path of torch -> why it does not take part


CASES = {
    "sgd": Case("SGD"),
    "momentum": Case("SGD", dict(momentum=0.9)),
    "nesterov": Case("SGD", dict(momentum=0.9, nesterov=True), {"foreach": "adds to p.grad, which all share"}),
    "adagrad": Case("Adagrad"),
    "rmsprop": Case("RMSprop"),
    # The gradients here are constant and have no variance, which rounding takes below zero; this alpha needs a million
    # steps for that, the default one a thousand.
    "rmsprop-centered": Case("RMSprop", dict(centered=True, momentum=0.9, alpha=0.99999)),
    "adadelta": Case("Adadelta"),
    "adam": Case("Adam"),
    "amsgrad": Case("Adam", dict(amsgrad=True)),
    "adamw": Case("AdamW"),
    "nadam": Case("NAdam"),
}
LEARNING_RATE = 1e-7  # a million steps leave the parameters near 1

TORCH_PATHS = {
    "loop": dict(foreach=False, fused=False),
    "foreach": dict(foreach=True),
    "fused": dict(fused=True),
}

Shape = tuple[int, ...]


def linear(n_in: int, n_out: int) -> list[Shape]:
    return [(n_out, n_in), (n_out,)]


def resnet18() -> list[Shape]:
    try:
        from torchvision.models import resnet18
    except ImportError:
        others = ", ".join(name for name in MODELS if name != "resnet18")
        fail(PROGRAM, f"resnet18 needs torchvision; install it or choose --model {others}", status=2)
    with torch.device("meta"):
        return [tuple(p.shape) for p in resnet18().parameters()]


def gpt2_small() -> list[Shape]:
    width, vocabulary, context, blocks = 768, 50_257, 1_024, 12
    norm = [(width,), (width,)]
    attention = [(width, 3 * width), (3 * width,), (width, width), (width,)]
    mlp = [(width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    return [(vocabulary, width), (context, width), *(norm + attention + norm + mlp) * blocks, *norm]


@dataclass(frozen=True)
class Model:
    """The shapes of a model's parameters, and how many there must be."""

    shapes: Callable[[], list[Shape]]
    tensors: int
    parameters: int

    def checked_shapes(self) -> list[Shape]:
        shapes = self.shapes()
        counted = len(shapes), sum(torch.Size(shape).numel() for shape in shapes)
        assert counted == (self.tensors, self.parameters), counted
        return shapes


MODELS = {
    "tiny": Model(lambda: linear(4, 8) + linear(8, 8) + linear(8, 2), 6, 130),
    "mlp": Model(lambda: linear(784, 512) + linear(512, 512) + linear(512, 10), 6, 669_706),
    "many": Model(lambda: [(32, 32)] * 1000, 1000, 1_024_000),
    "resnet18": Model(resnet18, 62, 11_689_512),
    "gpt2": Model(gpt2_small, 148, 124_439_808),
}

HAS_FUSED = {
    name: "fused" in inspect.signature(getattr(torch.optim, case.class_name)).parameters for name, case in CASES.items()
}

# Torch's best / ours, CPU, float32: where torch has a fused path, and where it has none. What does not fit into the
# caches takes the time of the memory, so there GB/s of ours / GB/s of the copy have a floor, too.
FUSED = {"tiny": 1.0, "mlp": 1.0, "many": 2.0, "resnet18": 0.95, "gpt2": 0.95}
NOT_FUSED = {"tiny": 1.5, "mlp": 2.5, "many": 5.0, "resnet18": 2.3, "gpt2": 2.3}
COPY = {"resnet18": 0.95, "gpt2": 0.95}
MANY_WITHOUT_AVX512 = 1.5
FLOORS = {(model, name): (FUSED if HAS_FUSED[name] else NOT_FUSED)[model] for model in MODELS for name in CASES}

# CUDA, float32, one H200: a path of torch / ours; and GB/s of ours / GB/s of the copy.
CUDA_FLOORS = {("many", name): {"fused": 1.0} for name in CASES}
CUDA_FLOORS |= {
    ("gpt2", name): {"fused": 1.0, "copy": 0.85} if HAS_FUSED[name] else {"foreach": 3.0, "copy": 0.85}
    for name in CASES
}


def floors_of(model: str, name: str, options: argparse.Namespace) -> Mapping[str, float]:
    """The floors of a row by what ours is compared with: torch's best, a path of torch, or the copy."""
    if options.dtype != "float32":
        return {}
    if options.device == "cuda":
        return CUDA_FLOORS.get((model, name), {})
    floor = FLOORS[model, name]
    if model == "many" and HAS_FUSED[name] and not has_avx512():
        floor = min(floor, MANY_WITHOUT_AVX512)
    return {"best": floor} | ({"copy": COPY[model]} if model in COPY else {})


# Seconds that the first step of a rule in a fresh process may take, with an empty and with a filled cache.
COLD_LIMIT, WARM_LIMIT = 0.5, 0.02


# ---------------------------------------------------------------- steps

STEP_COLUMNS = {"model": -8, "optimizer": -16, "engine": -7, "ours": 8, "loop": 8, "foreach": 8, "fused": 8}
STEP_COLUMNS |= {"best / ours [quartiles]": 24, "floor": 5, "compiled": 8, "compiled / ours": 15}
STEP_COLUMNS |= {"ours GB/s": 9, "best GB/s": 9, "copy GB/s": 9}


@dataclass(frozen=True)
class Comparison:
    """A class on a model: one line of the table."""

    model: str
    optimizer: str
    engine: str  # which one of ours ran
    rounds: int
    seconds: dict[str, Spread]  # of ours, torch's paths and the copy
    first_step_seconds: dict[str, float]  # makes the state too, and builds what is to be built
    unavailable: dict[str, str]  # path of torch -> why it cannot be had
    best: str  # of torch's paths, the compiled one left aside
    ratio: Spread  # torch's best / ours
    compiled_ratio: Spread | None  # compiled / ours
    ratios: dict[str, Spread]  # each path of torch / ours; "copy": GB/s of ours / GB/s of the copy
    floor: float | None  # the one that a path of torch sets
    floors: Mapping[str, float]  # all
    gigabytes_per_second: dict[str, float]

    def cells(self) -> list[str]:
        ours, loop, foreach, fused, compiled = (
            show_seconds(self.seconds[path].median if path in self.seconds else None)
            for path in ("ours", *TORCH_PATHS, "compiled")
        )
        ratio, floor = show_ratio(self.ratio), "-" if self.floor is None else f"{self.floor}"
        compiled_ratio = f"{self.compiled_ratio.median:.2f}" if self.compiled_ratio else "-"
        rates = [f"{self.gigabytes_per_second[name]:.1f}" for name in ("ours", self.best, "copy")]
        times = [ours, loop, foreach, fused, ratio, floor, compiled, compiled_ratio]
        return [self.model, self.optimizer, self.engine, *times, *rates]

    def verdicts(self) -> list[Verdict]:
        return [self.verdict(self.best if other == "best" else other, floor) for other, floor in self.floors.items()]

    def verdict(self, other: str, floor: float) -> Verdict:
        what = f"{self.optimizer} on {self.model}: {'GB/s of ours / copy' if other == 'copy' else f'{other} / ours'}"
        if other not in self.ratios:
            return f"{what}, floor {floor}: {self.unavailable[other]}", None
        reached = self.ratios[other].median
        return f"{what} {reached:.3f}, floor {floor}", reached >= floor


def compare_all(options: argparse.Namespace, shapes: dict[str, list[Shape]]) -> Iterator[Comparison]:
    for model in options.model:
        params = make_parameters(shapes[model], DTYPES[options.dtype], options.device)
        for optimizer in options.optimizer:
            yield compare(model, optimizer, params, options)
            if options.compile:
                torch.compiler.reset()  # compiled code holds on to its optimizer
            gc.collect()  # the memory of the states, before the next ones are made


def make_parameters(shapes: list[Shape], dtype: torch.dtype, device: str) -> list[Parameter]:
    """Parameters and gradients between 0.5 and 1.5: no square of them is denormal, which would take its own time."""
    generator = torch.Generator().manual_seed(0)
    params = [Parameter((torch.rand(shape, generator=generator) + 0.5).to(device, dtype)) for shape in shapes]
    for p in params:
        p.grad = (torch.rand(p.shape, generator=generator) + 0.5).to(device, dtype)
    return params


def compare(model: str, name: str, params: list[Parameter], options: argparse.Namespace) -> Comparison:
    """Ours beside all paths of torch, on the same parameters."""
    case = CASES[name]
    ours = our_optimizer(case, params, LEARNING_RATE, options.graph)
    first_step_seconds = {"ours": seconds_of_first(ours.step, options.device)}
    steps: dict[str, Callable[[], object]] = {"ours": contender(ours.step, options)}
    unavailable = dict(case.left_out)
    for path in [*TORCH_PATHS, *(["compiled"] if options.compile else [])]:
        if path in unavailable or (path == "compiled" and "foreach" in unavailable):  # that is what is compiled
            continue
        try:
            step = torch_step(case, path, params, options.graph)
            first_step_seconds[path] = seconds_of_first(step, options.device)
            steps[path] = contender(step, options)
        except RuntimeError as error:  # torch's way to say that this class, dtype or device has no such path
            unavailable[path] = " ".join(str(error).split())

    touched, moved = bytes_of_step(ours)
    copy = Copy(touched, DTYPES[options.dtype], options.device)
    samples = measure({**steps, "copy": contender(copy, options)}, options)
    ratios = {path: ratio(samples[path], samples["ours"]) for path in TORCH_PATHS if path in steps}
    best = min(ratios, key=lambda path: median(samples[path]))
    ratios["copy"] = ratio([moved * t for t in samples["copy"]], [copy.moved * t for t in samples["ours"]])
    floors = floors_of(model, name, options)
    return Comparison(
        model=model,
        optimizer=name,
        engine=ours.engine,
        rounds=len(samples["ours"]),
        seconds={path: spread(times) for path, times in samples.items()},
        first_step_seconds=first_step_seconds,
        unavailable=unavailable,
        best=best,
        ratio=ratios[best],
        compiled_ratio=ratio(samples["compiled"], samples["ours"]) if "compiled" in samples else None,
        ratios=ratios,
        floor=next((floor for other, floor in floors.items() if other != "copy"), None),
        floors=floors,
        gigabytes_per_second={
            path: gigabytes_per_second(copy.moved if path == "copy" else moved, times)
            for path, times in samples.items()
        },
    )


def torch_step(case: Case, path: str, params: list[Parameter], graph: bool) -> Callable[[], object]:
    """The step of torch's class on one of its paths."""
    # Under the compiler the foreach form is the one whose operators are fused over all tensors.
    step = torch_optimizer(case, "foreach" if path == "compiled" else path, params, LEARNING_RATE, graph).step
    return torch.compile(step) if path == "compiled" else step


def torch_optimizer(case: Case, path: str, params: Iterable[Parameter], lr: float, graph: bool) -> Optimizer:
    """Torch's class on one of its paths, or on the one that it takes by default; RuntimeError if there is none."""
    cls = getattr(torch.optim, case.class_name)
    return cls(params, lr=lr, **case.arguments, **path_arguments(case, path), **capture_arguments(cls, graph))


def our_optimizer(case: Case, params: Iterable[Parameter], lr: float, graph: bool) -> Optimizer:
    cls = getattr(torch_lecture_ops.optim, case.class_name)
    on_device = {"fused": True} if graph else {}  # so is then what Adagrad counts with
    return cls(params, lr=lr, **case.arguments, **on_device, **capture_arguments(cls, graph))


def capture_arguments(cls: type, graph: bool) -> dict[str, bool]:
    """What lets the steps of a class be captured, if the class has an option for it."""
    return {"capturable": True} if graph and "capturable" in inspect.signature(cls).parameters else {}


def path_arguments(case: Case, path: str) -> dict[str, bool]:
    """What asks torch's class for a path; RuntimeError if it has none."""
    wanted = {} if path == "default" else TORCH_PATHS[path]
    known = inspect.signature(getattr(torch.optim, case.class_name)).parameters
    for option, value in wanted.items():
        if value and option not in known:
            raise RuntimeError(f"torch.optim.{case.class_name} has no {option}")
    return {option: value for option, value in wanted.items() if option in known}


def seconds_of_first(step: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def bytes_of_step(optimizer: Optimizer) -> tuple[int, int]:
    """What a step touches, and what it moves: p and the state go both ways, the gradient one."""
    touched = moved = 0
    for p in optimizer.param_groups[0]["params"]:
        state = [value for value in optimizer.state.get(p, {}).values() if getattr(value, "shape", None) == p.shape]
        both_ways = p.nbytes + sum(value.nbytes for value in state)
        touched += both_ways + p.grad.nbytes
        moved += 2 * both_ways + p.grad.nbytes
    return touched, moved


# ---------------------------------------------------------------- first step

FIRST_STEP_COLUMNS = {"optimizer": -16, "engine": -7, "cold [quartiles]": 28, "warm [quartiles]": 28}
FIRST_STEP_COLUMNS |= {"torch [quartiles]": 28}

# The parameter and its gradient are there before the clock starts, so torch itself has been in use.
FIRST_STEP_PROCESS = """
import importlib, json, sys, time
import torch
module, class_name, arguments = sys.argv[1:]
optim = importlib.import_module(module)
p = torch.nn.Parameter(torch.ones(10))
p.grad = torch.ones(10)
optimizer = getattr(optim, class_name)([p], **json.loads(arguments))
start = time.perf_counter()
optimizer.step()
seconds = time.perf_counter() - start
print(json.dumps([seconds, getattr(optimizer, "engine", "")]))
"""


@dataclass(frozen=True)
class FirstStep:
    """The first step of a class in fresh processes: one line of the table."""

    optimizer: str
    engine: str
    processes: int
    cold: Spread  # with an empty cache
    warm: Spread  # with the cache that the cold one has left
    torch: Spread  # torch's class

    def cells(self) -> list[str]:
        return [self.optimizer, self.engine, *map(show_spread, (self.cold, self.warm, self.torch))]

    def verdicts(self) -> list[Verdict]:
        limits = [("cold", self.cold.median, COLD_LIMIT), ("warm", self.warm.median, WARM_LIMIT)]
        return [
            (f"first step of {self.optimizer}, {what}: {seconds:.4f} s, limit {limit} s", seconds < limit)
            for what, seconds, limit in limits
        ]


def show_spread(times: Spread) -> str:
    return f"{show_seconds(times.median)} [{show_seconds(times.low)}, {show_seconds(times.high)}]"


def first_steps(options: argparse.Namespace) -> Iterator[FirstStep]:
    for name in options.optimizer:
        cold, warm, torchs = [], [], []
        for _ in range(options.processes):
            with tempfile.TemporaryDirectory() as cache:
                cold.append(first_step("torch_lecture_ops.optim", CASES[name], cache))
                warm.append(first_step("torch_lecture_ops.optim", CASES[name], cache))
                torchs.append(first_step("torch.optim", CASES[name], cache))
        engines = {engine for _, engine in cold + warm}
        spreads = (spread([seconds for seconds, _ in runs]) for runs in (cold, warm, torchs))
        yield FirstStep(name, ", ".join(sorted(engines)), options.processes, *spreads)


def first_step(module: str, case: Case, cache: str) -> tuple[float, str]:
    """Seconds of the first step in a process of its own, and the engine."""
    given = [module, case.class_name, json.dumps(case.arguments)]
    seconds, engine = json.loads(in_process(FIRST_STEP_PROCESS, given, {"XDG_CACHE_HOME": cache}))
    return seconds, engine


# ---------------------------------------------------------------- memory

MEMORY_COLUMNS = {"model": -8, "optimizer": -16, "parameters": 10, "ours": 10, "loop": 10, "foreach": 10, "fused": 10}

# A step of ours may take this part of the parameters' memory for a while.
MEMORY_LIMIT = 0.02

# The peak of a later step, when the state is there. Linux keeps the peak and takes a 5 as the order to forget it.
MEMORY_PROCESS = """
import gc, importlib, json, sys
from pathlib import Path
import torch
module, class_name, arguments, shapes = sys.argv[1:]
params = [torch.nn.Parameter(torch.ones(shape)) for shape in json.loads(shapes)]
for p in params:
    p.grad = torch.ones_like(p)
optimizer = getattr(importlib.import_module(module), class_name)(params, **json.loads(arguments))
def memory(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))
for _ in range(3):
    optimizer.step()
gc.collect()
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
optimizer.step()
print(memory("VmHWM") - before)
"""


@dataclass(frozen=True)
class Memory:
    """What a step takes beyond parameters, gradients and state, in bytes: one line of the table."""

    model: str
    optimizer: str
    parameters: int
    bytes: dict[str, int]  # of ours and torch's paths

    def cells(self) -> list[str]:
        paths = [self.bytes.get(path) for path in ("ours", *TORCH_PATHS)]
        return [
            self.model,
            self.optimizer,
            *("-" if n is None else f"{n / 1e6:.1f} MB" for n in (self.parameters, *paths)),
        ]

    def verdicts(self) -> list[Verdict]:
        part = self.bytes["ours"] / self.parameters
        text = f"{self.optimizer} on {self.model}: a step takes {part:.1%} of the parameters, limit {MEMORY_LIMIT:.0%}"
        return [(text, part <= MEMORY_LIMIT)]


def memories(options: argparse.Namespace, shapes: dict[str, list[Shape]]) -> Iterator[Memory]:
    for model in options.model:
        for name in options.optimizer:
            case = CASES[name]
            taken = {"ours": memory_of_step("torch_lecture_ops.optim", case, {}, shapes[model])}
            for path in TORCH_PATHS:
                try:
                    taken[path] = memory_of_step("torch.optim", case, path_arguments(case, path), shapes[model])
                except RuntimeError:  # no such path
                    continue
            yield Memory(model, name, 4 * sum(torch.Size(shape).numel() for shape in shapes[model]), taken)


def memory_of_step(module: str, case: Case, arguments: dict[str, Any], shapes: list[Shape]) -> int:
    """Bytes, found out in a process of its own whose allocator gives all memory back at once."""
    given = [module, case.class_name, json.dumps(case.arguments | arguments), json.dumps(shapes)]
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    return int(in_process(MEMORY_PROCESS, given, environment))


# ---------------------------------------------------------------- command line


def in_process(program: str, arguments: list[str], environment: dict[str, str]) -> str:
    """What a program in a process of its own prints."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        fail(PROGRAM, f"the process for {arguments[0]}.{arguments[1]} failed: {last}", status=1)
    return done.stdout


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    parser = parser_with_common_options(PROGRAM, "Time the steps of our optimizers beside torch's.", ("cpu", "cuda"))
    add_graph(parser)
    add = parser.add_argument
    add("--model", type=names_of(MODELS), default=",".join(MODELS), metavar="A,B", help=", ".join(MODELS))
    add("--optimizer", type=names_of(CASES), default=",".join(CASES), metavar="A,B", help=", ".join(CASES))
    add("--compile", action="store_true", help="time torch's compiled step as well")
    add("--first-step", action="store_true", help="time the first step in fresh processes instead (on the CPU)")
    add("--memory", action="store_true", help="measure the memory that a step takes instead (Linux, on the CPU)")
    add("--processes", type=whole_number, default=5, metavar="N", help="of each kind, for --first-step (default 5)")
    options = parse_common_options(parser, argv)
    modes = [name for name in ("first-step", "memory") if getattr(options, name.replace("-", "_"))]
    chosen = modes + [name for name in ("compile", "graph") if getattr(options, name)]
    if len(chosen) > 1:
        parser.error(f"{' and '.join(f'--{name}' for name in chosen)} exclude each other")
    mode = modes[0] if modes else ""
    if mode and (options.device, options.dtype) != ("cpu", "float32"):
        parser.error(f"--{mode} goes with --device cpu --dtype float32")
    options.json = results_file(PROGRAM, options, mode.replace("-", "_"))
    return options


def main(argv: list[str] | None = None) -> int:
    options = parse_options(argv)
    if options.compile:  # else the compiler's helper processes, still starting, run beside what is timed
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    if options.first_step:
        return run(first_steps(options), FIRST_STEP_COLUMNS, options, PROGRAM)
    shapes = {name: MODELS[name].checked_shapes() for name in options.model}  # torchvision may be missing: say so now
    if options.memory:
        return run(memories(options, shapes), MEMORY_COLUMNS, options, PROGRAM)
    return run(compare_all(options, shapes), STEP_COLUMNS, options, PROGRAM)


if __name__ == "__main__":
    sys.exit(main())
