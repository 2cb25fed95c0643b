"""Clevert, Unterthiner and Hochreiter 2015, ELU, figure 2: the training loss of a deep narrow net."""

from suite.run import Run
from suite.setting import Setting

from .frame import Budget, Claim, PaperTable, Row

NETWORK = dict(optimizer="sgd:momentum=0", lr=0.01, hidden=(128,) * 8, batch_size=64, init="he_normal")
ACTIVATIONS = {"ELU": "elu:alpha=1", "ReLU": "relu", "LReLU": "leakyrelu:negative_slope=0.1"}


def training_loss(run: Run) -> float:
    return run.train_loss


TABLE = PaperTable(
    title="ELU 2015, figure 2",
    source="D.-A. Clevert et al., Fast and Accurate Deep Network Learning by ELUs, arXiv 1511.07289",
    status="published",
    dataset="mnist",
    protocol="MNIST, 8 hidden layers of 128, SGD with learning rate 0.01, batches of 64, 5 runs; 300 epochs, of which "
    "the paper says that the lines stay flat after the 25th",
    band="none: the paper has a figure and states an order",
    differences="He's initialization with the gain of each activation; pixels in [0, 1]",
    quantity="Training cross-entropy, mean over the last epoch",
    rows=[Row(name, Setting(activation=activation, **NETWORK)) for name, activation in ACTIVATIONS.items()],
    claims=[
        Claim("the training loss of ELU falls faster than that of ReLU", "ELU", "ReLU"),
        Claim("the training loss of ELU falls faster than that of LReLU", "ELU", "LReLU"),
    ],
    measure=training_loss,
    budgets={
        "smoke": Budget("subset", epochs=2, seeds=2, reduced="10,000 digits, 2 epochs"),
        "short": Budget("mnist", epochs=8, seeds=5, reduced="8 epochs instead of 25"),
        "paper": Budget("mnist", epochs=25, seeds=5, reduced=""),
    },
)
