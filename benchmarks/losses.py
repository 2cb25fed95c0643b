"""Times our losses and softmax beside torch's, forward alone and forward with backward, and counts what they save.

    python benchmarks/losses.py
    python benchmarks/losses.py --function mse_loss,cross_entropy --size 1048576,1024x1000 --seconds 10
    python benchmarks/losses.py --memory                 # instead: the bytes saved for the backward
    python benchmarks/losses.py --check                  # exit status 1 if a floor is missed
    python benchmarks/losses.py --device cuda --graph --check

Losses are means and their gradient is that of the input alone. The elementwise ones take sizes in elements; targets of
the two binary cross-entropies are random zeros and ones. Softmax, log-softmax and cross-entropy take sizes in rows x
classes; cross-entropy has class indices as targets.

--memory: no function may save more than torch. Of cross-entropy the limit is about what is neither argument nor result:
it must be less than a second matrix, which torch has. A few numbers for each row suffice.

How times and bytes are taken is told in passes.py.
"""

from __future__ import annotations

import argparse
import sys

import torch
from passes import (
    MATRICES,
    VECTORS,
    Case,
    columns_of,
    compare_all,
    floors_of,
    memories,
    memory_columns_of,
    parse_function_options,
)
from side_by_side import keep_freed_memory, run
from torch import Tensor

PROGRAM = "losses.py"


def bits(shape: tuple[int, ...]) -> Tensor:
    return torch.randint(2, shape).float()


def cross_entropy_limits(x: Tensor, target: Tensor) -> dict[str, int]:
    return {"own": x.nbytes - 1}


CASES = {
    "mse_loss": Case(lambda shape: (torch.randn(shape), torch.randn(shape))),
    "binary_cross_entropy": Case(lambda shape: (torch.randn(shape).sigmoid(), bits(shape))),
    "binary_cross_entropy_with_logits": Case(lambda shape: (torch.randn(shape), bits(shape))),
    "softmax": Case(shapes=MATRICES, options=dict(dim=-1)),
    "log_softmax": Case(shapes=MATRICES, options=dict(dim=-1)),
    "cross_entropy": Case(
        lambda shape: (torch.randn(shape), torch.randint(shape[1], shape[:1])), MATRICES, limits=cross_entropy_limits
    ),
}

FLOORS = {
    **floors_of("mse_loss", VECTORS, 0.7, 1.1, 1.1, 1.1),
    **floors_of("binary_cross_entropy", VECTORS, 0.7, 2.0, 2.0, 2.0),
    **floors_of("binary_cross_entropy_with_logits", VECTORS, 0.8, 1.8, 1.8, 1.8),
    **floors_of("softmax", MATRICES, 0.5, 0.9, 0.9),
    **floors_of("cross_entropy", MATRICES, 0.7, 1.2, 1.2),
}


def main(argv: list[str] | None = None) -> int:
    options = parse_options(argv)
    if options.memory:
        return run(memories(CASES, options), memory_columns_of(CASES), options, PROGRAM)
    return run(compare_all(CASES, FLOORS, options), columns_of(CASES), options, PROGRAM)


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    return parse_function_options(PROGRAM, "Compare our losses and softmax with torch's.", CASES, argv)


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
