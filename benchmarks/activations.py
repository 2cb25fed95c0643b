"""Times our activation functions beside torch's, forward alone and forward with backward, and counts what they save.

    python benchmarks/activations.py
    python benchmarks/activations.py --function relu,silu --size 65536,1048576 --seconds 10
    python benchmarks/activations.py --memory            # instead: the bytes saved for the backward
    python benchmarks/activations.py --check             # exit status 1 if a floor is missed
    python benchmarks/activations.py --capability avx2 --check    # as on a CPU without AVX-512
    python benchmarks/activations.py --device cuda --graph --check

Torch has no affine function and no maxout: affine stands beside `A * x + C`, maxout beside the maximum over the last
of two dimensions. PReLU has one slope for all elements, or one for each of 256 channels in the second of two
dimensions, and gets the gradients of both, input and slope. Maxout takes rows of 1,024 elements in pieces of 4. Sizes
count the elements of the input.

--memory: none may save more than torch, maxout one byte for each output. Rows of size "mlp" count four layers, Linear
and activation, their parameters left aside: there the output of an activation is what the next layer saves anyway, and
leaky_relu and elu of ours are asked to save it, too (save="output").

How times and bytes are taken is told in passes.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from itertools import chain

import torch
from passes import (
    VECTORS,
    Case,
    Function,
    Memory,
    columns_of,
    compare_all,
    floors_of,
    memories,
    memory,
    memory_columns_of,
    parse_function_options,
)
from side_by_side import DTYPES, keep_freed_memory, run
from torch import Tensor, nn

PROGRAM = "activations.py"

A, C = 1.5, 0.5
PIECES = 4
CHANNELS = 256

CASES = {name: Case() for name in ("relu", "leaky_relu", "elu", "sigmoid", "tanh", "silu")}
CASES["affine"] = Case(options=dict(a=A, c=C), instead=lambda x: A * x + C)
CASES["prelu"] = Case(lambda shape: (torch.randn(shape), torch.tensor([0.25])), differentiated=2)
CASES["prelu_channels"] = Case(
    lambda shape: (torch.randn(shape), torch.full(shape[1:], 0.25)),
    shapes={size: (elements // CHANNELS, CHANNELS) for size, (elements,) in VECTORS.items()},
    differentiated=2,
    function="prelu",
)
CASES["maxout"] = Case(
    shapes={size: (elements // 1_024, 1_024) for size, (elements,) in VECTORS.items()},
    options=dict(pieces=PIECES),
    instead=lambda x: x.unflatten(-1, (-1, PIECES)).max(-1).values,
    limits=lambda x: {"saved": x.numel() // PIECES},
)

FLOORS = {("prelu", str(2**20)): 2.5, ("prelu_channels", str(2**20)): 2.0, ("maxout", str(2**20)): 2.0}
for name in ("relu", "leaky_relu", "sigmoid", "tanh", "silu"):
    FLOORS |= floors_of(name, VECTORS, 0.55, 0.8, 0.9, 0.9)
FLOORS |= floors_of("elu", VECTORS, 0.55, 1.0, 1.2, 1.2)
FLOORS |= floors_of("affine", VECTORS, 0.8, 1.0, 1.0, 1.0)

MLP_LAYERS, MLP_BATCH, MLP_WIDTH = 4, 256, 64
# The input and the output of each activation; torch saves what goes into these two as well, as ours do by default.
SAVE_OUTPUT = {name: {"save": "output"} for name in ("leaky_relu", "elu")}
MLP_BUFFERS = dict.fromkeys(SAVE_OUTPUT, MLP_LAYERS + 1)


def mlp_memories(options: argparse.Namespace) -> Iterator[Memory]:
    """The MLP with each activation that keeps the width."""
    layers = [nn.Linear(MLP_WIDTH, MLP_WIDTH) for _ in range(MLP_LAYERS)]
    parameters = [p for layer in layers for p in layer.to(options.device, DTYPES[options.dtype]).parameters()]
    for name in options.function:
        if CASES[name].shapes is VECTORS:  # those that keep the width
            functions = CASES[name].sides(name)
            functions["ours"] = partial(functions["ours"], **SAVE_OUTPUT.get(name, {}))
            sides = {side: partial(mlp, layers, function) for side, function in functions.items()}
            arguments = CASES[name].arguments((MLP_BATCH, MLP_WIDTH), options)
            limits = {"saved": MLP_BUFFERS[name] * arguments[0].nbytes} if name in MLP_BUFFERS else None
            yield memory(name, "mlp", sides, arguments, limits, parameters)


def mlp(layers: list[nn.Linear], activation: Function, x: Tensor, *more: Tensor) -> Tensor:
    for layer in layers:
        x = activation(layer(x), *more)
    return x


def main(argv: list[str] | None = None) -> int:
    options = parse_options(argv)
    if options.memory:
        return run(chain(memories(CASES, options), mlp_memories(options)), memory_columns_of(CASES), options, PROGRAM)
    return run(compare_all(CASES, FLOORS, options), columns_of(CASES), options, PROGRAM)


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    return parse_function_options(PROGRAM, "Compare our activation functions with torch's.", CASES, argv)


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
