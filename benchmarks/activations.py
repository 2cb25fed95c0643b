"""Times our activation functions beside torch's, forward alone and forward with backward.

    python benchmarks/activations.py
    python benchmarks/activations.py --function relu,silu --size 65536,1048576 --seconds 10
    python benchmarks/activations.py --check

Forward runs under no_grad. Forward with backward is `torch.autograd.grad(f(x), x, g)` with a dense upstream gradient g:
`backward` would also add to x.grad, the same work on both sides, and bring their ratio closer to 1.

GB/s: x is read and y written; the backward reads g and what was saved and writes the gradient. The copy touches as
much memory without allocating any, which the functions have to do for their results.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import torch
from side_by_side import (
    DTYPES,
    Copy,
    Spread,
    gigabytes_per_second,
    measure,
    names_of,
    parse_common_options,
    parser_with_common_options,
    ratio,
    run,
    show_ratio,
    show_seconds,
    spread,
)
from torch import Tensor
from torch.nn import functional as builtin

from torch_lecture_ops.nn import functional as ours

PROGRAM = "activations.py"
FUNCTIONS = ("relu", "sigmoid", "tanh", "silu")

# Elements -> least speed of forward with backward as a part of the built-in's, on the CPU in float32.
FLOORS = {1_024: 0.55, 65_536: 0.8, 2**20: 0.9, 2**23: 0.9}
SIZES = tuple(map(str, FLOORS))

COLUMNS = {"function": -8, "elements": 9, "pass": -16, "ours": 8, "torch": 8, "torch / ours [quartiles]": 24}
COLUMNS |= {"floor": 5, "ours GB/s": 9, "torch GB/s": 10, "copy GB/s": 9}


@dataclass(frozen=True)
class Comparison:
    """A function at a size: one line of the table."""

    function: str
    elements: int
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
        return [self.function, f"{self.elements}", self.direction, *times, show_ratio(self.ratio), floor, *rates]

    def verdicts(self) -> list[tuple[str, bool]]:
        if self.floor is None:
            return []
        text = f"{self.function} of {self.elements}: torch / ours {self.ratio.median:.3f}, floor {self.floor}"
        return [(text, self.ratio.median >= self.floor)]


def forward(function: Callable[[Tensor], Tensor], x: Tensor) -> None:
    with torch.no_grad():
        function(x)


def forward_backward(function: Callable[[Tensor], Tensor], x: Tensor, g: Tensor) -> None:
    torch.autograd.grad(function(x), x, g)


def compare_all(options: argparse.Namespace) -> Iterator[Comparison]:
    for name, size in product(options.function, options.size):
        yield from compare(name, int(size), options)


def compare(name: str, elements: int, options: argparse.Namespace) -> Iterator[Comparison]:
    """Both passes of a function at a size."""
    dtype = DTYPES[options.dtype]
    generator = torch.Generator().manual_seed(0)
    x, g = (torch.randn(elements, generator=generator).to(options.device, dtype) for _ in range(2))
    x.requires_grad_()
    sides = {"ours": getattr(ours, name), "torch": getattr(builtin, name)}
    passes: tuple[tuple[str, Callable[..., None], tuple[Tensor, ...], int, int], ...] = (
        ("forward", forward, (x,), 2, 2),  # touches x, y
        ("forward+backward", forward_backward, (x, g), 4, 5),  # touches x, y, g and the gradient, x or y twice
    )
    for direction, call, tensors, touched, moved in passes:
        copy = Copy(touched * x.nbytes, dtype, options.device)
        calls = {side: partial(call, function, *tensors) for side, function in sides.items()}
        samples = measure({**calls, "copy": copy}, options.seconds, options.device)
        has_floor = (direction, options.device, options.dtype) == ("forward+backward", "cpu", "float32")
        bytes_moved = {"ours": moved * x.nbytes, "torch": moved * x.nbytes, "copy": copy.moved}
        yield Comparison(
            function=name,
            elements=elements,
            direction=direction,
            rounds=len(samples["ours"]),
            seconds={side: spread(times) for side, times in samples.items()},
            ratio=ratio(samples["torch"], samples["ours"]),
            floor=FLOORS[elements] if has_floor else None,
            gigabytes_per_second={
                side: gigabytes_per_second(bytes_moved[side], times) for side, times in samples.items()
            },
        )


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    parser = parser_with_common_options(PROGRAM, "Time our activation functions beside torch's.")
    add = parser.add_argument
    add("--function", type=names_of(FUNCTIONS), default=",".join(FUNCTIONS), metavar="A,B", help=", ".join(FUNCTIONS))
    add("--size", type=names_of(SIZES), default=",".join(SIZES), metavar="N,M", help=f"elements: {', '.join(SIZES)}")
    options = parse_common_options(parser, argv)
    options.json = options.json or Path("runs", "activations.json")
    return options


def main(argv: list[str] | None = None) -> int:
    options = parse_options(argv)
    return run(compare_all(options), COLUMNS, options, PROGRAM)


if __name__ == "__main__":
    sys.exit(main())
