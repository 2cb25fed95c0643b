"""What activations.py and losses.py share: a function of ours beside torch's, in time and in memory.

Forward runs under no_grad. Forward with backward is `torch.autograd.grad(f(x), x, g)` with a dense upstream gradient g:
`backward` would also add to x.grad, the same work on both sides, and bring their ratio closer to 1. A loss is a scalar
and starts from autograd's own 1.

GB/s: the arguments are read and the result is written; the backward reads g and what ours has saved and writes the
gradients. The same bytes are counted for torch, whatever it moves. The copy touches as much memory without allocating
any, which the functions have to do for their results.

Memory is what a graph saves for its backward, each storage once: what autograd hands to `saved_tensors_hooks`. A saved
argument counts too, since the graph keeps it alive. "Own" is the part that is neither an argument nor the result.

--graph captures these calls, as they are, in CUDA graphs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, product
from math import prod
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
    show_ratio,
    show_seconds,
    spread,
)
from torch import Tensor
from torch.nn import functional as builtin

from torch_lecture_ops.arguments import names_of
from torch_lecture_ops.nn import functional as ours

Shape = tuple[int, ...]
Function = Callable[..., Tensor]
Row = tuple[str, str]  # a function and a size

VECTORS: dict[str, Shape] = {str(elements): (elements,) for elements in (1_024, 65_536, 2**20, 2**23)}
MATRICES: dict[str, Shape] = {f"{n}x{c}": (n, c) for n, c in ((128, 10), (1_024, 1_000), (64, 50_257))}

# Bytes follow from the size, so one of each kind tells all.
MEMORY_SIZES = ["65536", "1024x1000"]


def normal(shape: Shape) -> tuple[Tensor, ...]:
    return (torch.randn(shape),)


@dataclass(frozen=True)
class Case:
    """How a function is called, the same way on both sides."""

    make: Callable[[Shape], tuple[Tensor, ...]] = normal  # the arguments, x of this shape first
    shapes: Mapping[str, Shape] = field(default_factory=lambda: VECTORS)
    options: Mapping[str, Any] = field(default_factory=dict)
    instead: Function | None = None  # torch's side, where torch has no function of this name
    differentiated: int = 1  # that many of the arguments, from the first, get a gradient
    limits: Callable[..., dict[str, int]] | None = None  # of the bytes kept, from the arguments; see Memory
    function: str | None = None  # its name, where that of the row is another

    def arguments(self, shape: Shape, options: argparse.Namespace) -> tuple[Tensor, ...]:
        torch.manual_seed(0)
        made = self.make(shape)
        dtype = DTYPES[options.dtype]
        arguments = tuple(t.to(options.device, dtype if t.is_floating_point() else t.dtype) for t in made)
        for argument in arguments[: self.differentiated]:
            argument.requires_grad_()
        return arguments

    def sides(self, name: str) -> dict[str, Function]:
        name = self.function or name
        return {
            "ours": partial(getattr(ours, name), **self.options),
            "torch": self.instead or partial(getattr(builtin, name), **self.options),
        }


def floors_of(name: str, shapes: Iterable[str], *floors: float) -> dict[Row, float]:
    """Least speed of forward with backward as a part of the built-in's (CPU, float32), a floor for each size."""
    return {(name, size): floor for size, floor in zip(shapes, floors, strict=True)}


# The same for every function on CUDA, float32, one H200, from so many elements up.
CUDA_FLOOR, CUDA_FLOOR_ELEMENTS = 0.95, 2**20


# On CPUs without AVX-512 torch does relatively better in these.
WITHOUT_AVX512 = {
    ("prelu", str(2**20)): 2.0,
    ("cross_entropy", "1024x1000"): 1.0,
    ("cross_entropy", "64x50257"): 1.0,
    ("binary_cross_entropy_with_logits", "65536"): 1.0,
}


def floor_of(row: Row, shape: Shape, floors: Mapping[Row, float], options: argparse.Namespace) -> float | None:
    if options.dtype != "float32":
        return None
    if options.device == "cuda":
        return CUDA_FLOOR if prod(shape) >= CUDA_FLOOR_ELEMENTS else None
    floor = floors.get(row)
    return floor if floor is None or has_avx512() else WITHOUT_AVX512.get(row, floor)


# ---------------------------------------------------------------- time


def columns_of(cases: Mapping[str, Case]) -> dict[str, int]:
    columns = {**columns_of_a_row(cases), "pass": -16, "ours": 8, "torch": 8, "torch / ours [quartiles]": 24}
    return columns | {"floor": 5, "ours GB/s": 9, "torch GB/s": 10, "copy GB/s": 9}


def columns_of_a_row(cases: Mapping[str, Case]) -> dict[str, int]:
    return {"function": -max(map(len, ["function", *cases])), "size": 9}


@dataclass(frozen=True)
class Comparison:
    """A function at a size, one way or both: one line of the table."""

    function: str
    size: str
    direction: str
    rounds: int
    seconds: dict[str, Spread]  # of ours, torch, copy
    ratio: Spread  # torch / ours
    floor: float | None
    gigabytes_per_second: dict[str, float]

    def cells(self) -> list[str]:
        times = [show_seconds(self.seconds[name].median) for name in ("ours", "torch")]
        floor = "-" if self.floor is None else f"{self.floor}"
        rates = [f"{self.gigabytes_per_second[name]:.1f}" for name in ("ours", "torch", "copy")]
        return [self.function, self.size, self.direction, *times, show_ratio(self.ratio), floor, *rates]

    def verdicts(self) -> list[Verdict]:
        if self.floor is None:
            return []
        text = f"{self.function} of {self.size}: torch / ours {self.ratio.median:.3f}, floor {self.floor}"
        return [(text, self.ratio.median >= self.floor)]


def forward(function: Function, arguments: tuple[Tensor, ...]) -> None:
    with torch.no_grad():
        function(*arguments)


def forward_backward(
    function: Function, arguments: tuple[Tensor, ...], inputs: tuple[Tensor, ...], g: Tensor | None
) -> None:
    torch.autograd.grad(function(*arguments), inputs, g)


def compare_all(
    cases: Mapping[str, Case], floors: Mapping[Row, float], options: argparse.Namespace
) -> Iterator[Comparison]:
    for name, size in rows_of(cases, options):
        floor = floor_of((name, size), cases[name].shapes[size], floors, options)
        yield from compare(name, size, cases[name], floor, options)


def compare(name: str, size: str, case: Case, floor: float | None, options: argparse.Namespace) -> Iterator[Comparison]:
    """Both passes of a function at a size; the floor is that of forward with backward."""
    arguments = case.arguments(case.shapes[size], options)
    inputs = arguments[: case.differentiated]
    sides = case.sides(name)
    kept, result = keep(sides["ours"], arguments)
    g = torch.randn_like(result) if result.dim() else None
    both_ways = bytes_of(arguments, [result])
    touched = both_ways + bytes_of(inputs, [] if g is None else [g]) + kept.own
    del result
    passes: tuple[tuple[str, Callable[..., None], tuple[Any, ...], int, int], ...] = (
        ("forward", forward, (arguments,), both_ways, both_ways),
        ("forward+backward", forward_backward, (arguments, inputs, g), touched, touched + kept.saved),
    )
    for direction, call, given, touched, moved in passes:
        copy = Copy(touched, DTYPES[options.dtype], options.device)
        calls = {side: partial(call, function, *given) for side, function in sides.items()}
        samples = measure({side: contender(f, options) for side, f in {**calls, "copy": copy}.items()}, options)
        yield Comparison(
            function=name,
            size=size,
            direction=direction,
            rounds=len(samples["ours"]),
            seconds={side: spread(times) for side, times in samples.items()},
            ratio=ratio(samples["torch"], samples["ours"]),
            floor=floor if direction == "forward+backward" else None,
            gigabytes_per_second={
                side: gigabytes_per_second(copy.moved if side == "copy" else moved, times)
                for side, times in samples.items()
            },
        )


def bytes_of(*tensors: Iterable[Tensor]) -> int:
    return sum(t.nbytes for t in chain(*tensors))


# ---------------------------------------------------------------- memory


@dataclass(frozen=True)
class Kept:
    """Bytes that a graph keeps for its backward."""

    saved: int
    own: int  # of them, neither in an argument nor in the result


def keep(function: Function, arguments: tuple[Tensor, ...], aside: Iterable[Tensor] = ()) -> tuple[Kept, Tensor]:
    """What the graph of a call keeps, storages of the tensors `aside` not counted, and the result."""
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        storages[storage.data_ptr()] = storage  # alive, so that no address comes twice
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = function(*arguments)

    def bytes_without(*tensors: Tensor) -> int:
        known = {t.untyped_storage().data_ptr() for t in tensors}
        return sum(storage.nbytes() for address, storage in storages.items() if address not in known)

    return Kept(bytes_without(*aside), bytes_without(*aside, *arguments, result)), result


def memory_columns_of(cases: Mapping[str, Case]) -> dict[str, int]:
    columns = {**columns_of_a_row(cases), "ours saved": 12, "torch saved": 12, "ours own": 12, "torch own": 12}
    return columns | {"limit, bytes": 17, "ours saved / x": 14, "torch saved / x": 15}


@dataclass(frozen=True)
class Memory:
    """Bytes that ours and torch keep for the backward of a function at a size: one line of the table."""

    function: str
    size: str
    x: int  # of the first argument
    saved: dict[str, int]
    own: dict[str, int]
    limits: dict[str, int]  # of ours: of what is saved, or of what is its own

    def cells(self) -> list[str]:
        counts = [f"{kept[side]:,}" for kept in (self.saved, self.own) for side in ("ours", "torch")]
        limits = ", ".join(f"{what} {limit:,}" for what, limit in self.limits.items())
        return [self.function, self.size, *counts, limits, *(f"{n / self.x:.2f}" for n in self.saved.values())]

    def verdicts(self) -> list[Verdict]:
        kept = {"saved": self.saved["ours"], "own": self.own["ours"]}
        return [
            (f"{self.function} of {self.size}: bytes {what} {kept[what]:,}, limit {limit:,}", kept[what] <= limit)
            for what, limit in self.limits.items()
        ]


def memories(cases: Mapping[str, Case], options: argparse.Namespace) -> Iterator[Memory]:
    for name, size in rows_of(cases, options):
        case = cases[name]
        arguments = case.arguments(case.shapes[size], options)
        yield memory(name, size, case.sides(name), arguments, case.limits and case.limits(*arguments))


def memory(
    name: str,
    size: str,
    sides: Mapping[str, Function],
    arguments: tuple[Tensor, ...],
    limits: dict[str, int] | None,
    aside: Iterable[Tensor] = (),
) -> Memory:
    """Without limits, ours may save as much as torch."""
    kept = {side: keep(function, arguments, aside)[0] for side, function in sides.items()}
    return Memory(
        function=name,
        size=size,
        x=arguments[0].nbytes,
        saved={side: counted.saved for side, counted in kept.items()},
        own={side: counted.own for side, counted in kept.items()},
        limits={"saved": kept["torch"].saved} if limits is None else limits,
    )


# ---------------------------------------------------------------- command line


def parse_function_options(
    program: str, description: str, cases: Mapping[str, Case], argv: list[str] | None
) -> argparse.Namespace:
    sizes = list(dict.fromkeys(size for case in cases.values() for size in case.shapes))
    parser = parser_with_common_options(program, description, ("cpu", "cuda"))
    add_graph(parser)
    add = parser.add_argument
    add("--function", type=names_of(cases), metavar="A,B", help=f"default all: {', '.join(cases)}")
    add("--size", type=names_of(sizes), metavar="N,M", help=f"default all: {', '.join(sizes)}")
    add("--memory", action="store_true", help="count the bytes saved for the backward instead (default at one size)")
    options = parse_common_options(parser, argv)
    if options.memory and options.graph:
        parser.error("--memory and --graph exclude each other")
    named = {*(options.function or ()), *(options.size or ())}
    options.function = options.function or list(cases)
    options.size = options.size or [size for size in (MEMORY_SIZES if options.memory else sizes) if size in sizes]
    if left_out := named.difference(*rows_of(cases, options)):
        have = "; ".join(f"{name} has {', '.join(cases[name].shapes)}" for name in options.function)
        parser.error(f"--size: no row for {', '.join(sorted(left_out))}; {have}")
    options.json = results_file(program, options, "memory" if options.memory else "")
    return options


def rows_of(cases: Mapping[str, Case], options: argparse.Namespace) -> list[Row]:
    """The chosen functions at those of the chosen sizes that they have."""
    return [(name, size) for name, size in product(options.function, options.size) if size in cases[name].shapes]
