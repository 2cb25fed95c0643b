"""Glorot and Bengio 2010: table 1 (MNIST), figures 6 and 7.

Softsign is no activation of the library: suite/softsign.py defines it as a user does.
"""

from __future__ import annotations

from suite.data import Digits
from suite.network import build_mlp
from suite.setting import Setting
from suite.statistics import estimate
from suite.tables import Table

from torch_lecture_ops.pictures.glorot_figures import EXAMPLES, signals

from .frame import Budget, PaperTable, Row, around

LAYERS, UNITS = 5, 1000
NETWORK = dict(optimizer="sgd:momentum=0", hidden=(UNITS,) * LAYERS, batch_size=10, lr=0.05)
# Test error in percent; N is the normalized initialization.
ERRORS = {
    "softsign": (1.64, "softsign", "standard"),
    "softsign N": (1.72, "softsign", "normalized"),
    "tanh": (1.76, "tanh", "standard"),
    "tanh N": (1.64, "tanh", "normalized"),
    "sigmoid": (2.21, "sigmoid", "standard"),
}


# ---------------------------------------------------------------- figures 6 and 7: a net before training


def figures(digits: Digits, seeds: int) -> list[Table]:
    """The spread of activations and of back-propagated gradients in each layer of the tanh net."""
    rows = []
    for init in ("standard", "normalized"):
        layers = [spreads(Setting(activation="tanh", init=init, seed=seed, **NETWORK), digits) for seed in range(seeds)]
        for number, name in enumerate(("activations", "gradients")):
            by_layer = list(zip(*(measured[number] for measured in layers), strict=True))
            ratio = estimate([values[-1] / values[0] for values in zip(*by_layer, strict=True)])
            rows.append([f"{name}, {init}", *(f"{sum(stds) / len(stds):.2g}" for stds in by_layer), f"{ratio}"])
    note = (
        "Standard deviations over 300 test images, before training. Figure 6: with the standard initialization the "
        "activations shrink from layer to layer, with the normalized one they keep their spread. Figure 7: with the "
        "standard one the back-propagated gradients shrink towards the first layer (layer 5 / layer 1 far above 1), "
        "with the normalized one they do not."
    )
    columns = ["", *(f"layer {number + 1}" for number in range(LAYERS)), f"layer {LAYERS} / layer 1"]
    return [Table("Glorot and Bengio 2010, figures 6 and 7", columns, rows, note)]


def spreads(setting: Setting, digits: Digits) -> tuple[list[float], list[float]]:
    """The standard deviation of each layer's activations, and of the cost's gradients with respect to its sums."""
    found = signals(build_mlp(setting), digits.test_images[:EXAMPLES], digits.test_labels[:EXAMPLES])
    return [one.std().item() for one in found.activations], [one.std().item() for one in found.gradients]


TABLE = PaperTable(
    title="Glorot and Bengio 2010, table 1, MNIST",
    source="X. Glorot and Y. Bengio, Understanding the difficulty of training deep feedforward neural networks, 2010",
    status="published",
    dataset="mnist",
    protocol="MNIST, 5 hidden layers of 1000, batches of 10, plain SGD, the learning rate and the epoch chosen on "
    "10,000 validation images after up to 5 million updates",
    band="a fifth of the number; chosen here, the paper prints no spread",
    differences="one learning rate, 0.05, for all rows; no validation set; the error after the last epoch",
    quantity="Test error, %",
    rows=[
        Row(name, Setting(activation=activation, init=init, **NETWORK), **around(error, relative=0.2, least=0.2))
        for name, (error, activation, init) in ERRORS.items()
    ],
    budgets={
        "smoke": Budget("subset", epochs=1, seeds=2, reduced="10,000 digits, 1 epoch"),
        "short": Budget("subset", epochs=2, seeds=5, reduced="10,000 digits, 2,000 of 5 million updates"),
        "paper": Budget("mnist", epochs=50, seeds=5, reduced="300,000 of 5 million updates"),
    },
    extras=figures,
)
