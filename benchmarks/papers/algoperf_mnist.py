"""MLCommons AlgoPerf, the development workload mnist: seconds to 97 %."""

import math

from suite.run import Run
from suite.setting import Setting

from .frame import Budget, PaperTable, Row

TARGET, LIMIT = 97.0, 60.0  # percent, seconds
NETWORK = dict(hidden=(128,), activation="sigmoid", init="glorot_uniform", scale="standard", batch_size=64)
OPTIMIZERS = {"SGD": 0.1, "RMSprop": 1e-3, "Adam": 2e-3, "NAdam": 2e-3}  # learning rates


def seconds(run: Run) -> float:
    """Of training, until 97 % of the test images are right; infinite if that does not happen."""
    reached = run.seconds_to(TARGET)
    return reached[1] if reached else math.inf


def row(name: str, lr: float) -> Row:
    setting = Setting(optimizer="sgd:momentum=0.9" if name == "SGD" else name.lower(), lr=lr, stop_at=TARGET, **NETWORK)
    return Row(name, setting, published=LIMIT, low=0.0, high=LIMIT)


TABLE = PaperTable(
    title="AlgoPerf, mnist",
    source="MLCommons, algorithmic-efficiency, workload mnist",
    status="published",
    dataset="mnist",
    protocol="784-128-10 with a sigmoid, cross-entropy, pixels with mean 0 and standard deviation 1, batches of 64, "
    "97 % of validation and test images within 60 seconds; learning rate from 1e-4 to 1e-2, 10 epochs of 50,000",
    band="at most the 60 seconds that are allowed, in every seed",
    differences="60,000 training images and no validation set; one learning rate a rule, no search; the test images "
    "are tried after each epoch, which is not counted",
    quantity="Seconds of training to 97 %",
    rows=[row(name, lr) for name, lr in OPTIMIZERS.items()],
    measure=seconds,
    budgets={
        "smoke": Budget("subset", epochs=2, seeds=2, reduced="10,000 digits, 2 epochs"),
        "short": Budget("mnist", epochs=10, seeds=5, reduced=""),
        "paper": Budget("mnist", epochs=10, seeds=15, reduced=""),
    },
)
