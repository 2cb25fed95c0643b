"""Goodfellow et al. 2013, Maxout Networks, MNIST without knowledge of the image's shape: 0.94 %."""

import math

from suite.setting import Setting

from .frame import Budget, PaperTable, Row, around

DECAY = math.log(1.000004)  # the learning rate is divided by that number at every update
MAXOUT = Setting(
    optimizer="sgd:momentum=0.5",
    activation="maxout:pieces=5",
    init="uniform:bound=0.005",
    schedule=f"exponential:k={DECAY!r}:per=batch+annealing:end=0.7:start=0.5:steps=250",
    hidden=(240, 240),
    batch_size=100,
    lr=0.1,
    dropout=(0.2, 0.5),
    max_norm=1.9365,
)

TABLE = PaperTable(
    title="Maxout 2013, MNIST, permutation-invariant",
    source="I. Goodfellow et al., Maxout Networks, 2013; protocol from pylearn2's scripts/papers/maxout/mnist_pi.yaml",
    status="published",
    dataset="mnist",
    protocol="two maxout layers of 240 units with 5 pieces, dropout of 0.2 of the pixels and 0.5 of the units, norms "
    "of at most 1.9365, batches of 100, learning rate 0.1 divided by 1.000004 at every update, momentum from 0.5 to "
    "0.7 over 250 epochs; 50,000 images until the validation error has not improved for 100 epochs, then 60,000 until "
    "the validation cost is the training cost of the first stage",
    band="a tenth of the number; chosen here, the paper has a single run",
    differences="60,000 images from the beginning, a fixed number of epochs; the norms of the pieces of a unit are "
    "limited one by one",
    quantity="Test error, %",
    rows=[Row("maxout", MAXOUT, **around(0.94, relative=0.1, least=0.05))],
    budgets={
        "smoke": Budget("subset", epochs=2, seeds=2, reduced="10,000 digits, 2 epochs"),
        "short": Budget("mnist", epochs=8, seeds=5, reduced="8 epochs instead of several hundred"),
        "paper": Budget("mnist", epochs=350, seeds=5, reduced=""),
    },
)
