"""Trains MLPs on MNIST: our optimizers, activations, losses and schedules, beside torch's and beside each other.

    python benchmarks/mnist.py                            # ours beside torch's, in under a minute
    python benchmarks/mnist.py --optimizer sgd,adam --activation relu,silu --seeds 5 --epochs 10
    python benchmarks/mnist.py --devices 2 --strategy ddp
    python benchmarks/mnist.py run --optimizer sgd,adam,adam:larson --batch-size 32,128,full --budget short
    python benchmarks/mnist.py sensitivity --lr 1e-4..10:6
    python benchmarks/mnist.py time-to-target --budget short --optimizer adam,nadam
    python benchmarks/mnist.py report runs/run-short
    python benchmarks/mnist.py paper zeiler_2012 --budget short

Lightning's Trainer trains every point of a grid once per seed. The runs are paired: all runs of a seed see the same
batches in the same order, and their weights are the same random draw, scaled as the init and the activation ask. Each
command ends with a table and writes its results; what is in the folder of results already is not trained again.

With several devices each process takes its part of every batch: the runs are those of one device but for rounding.
Losses are those of the whole batches; times, and all that is printed and written, are the first process's.
"""

from __future__ import annotations

import sys

from suite.command_line import main

if __name__ == "__main__":
    sys.exit(main())
