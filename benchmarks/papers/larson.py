"""The claims of the lecture's own notebook (Larson, Machine Learning in Python, 08a), on Fashion-MNIST there."""

from suite.setting import Setting

from .frame import Budget, Claim, PaperTable, Row, around

OUTPUTS = 10


# In the notebook a gradient is that of a sum over the minibatch and the outputs, to which C W is added; our losses are
# means over both.
def fixed(eta: float, alpha: float, penalty: float, batch_size: int) -> dict:
    """W -= eta g + alpha eta g_before; torch's momentum adds to that alpha² eta g of the step before, and so on."""
    count = batch_size * OUTPUTS
    return dict(
        optimizer=f"sgd:momentum={alpha:g}:weight_decay={penalty / count:g}", lr=eta * count, batch_size=batch_size
    )


def adagrad(eta: float, penalty: float, batch_size: int) -> dict:
    """A step of the size of eta however large the gradients are; the epsilon 1e-7 is added to their squares."""
    count = batch_size * OUTPUTS
    settings = f"eps={1e-7 / count**2:g}:form=larson:gamma=0.1:weight_decay={penalty / count:g}"
    return dict(optimizer=f"adagrad:{settings}", lr=eta, batch_size=batch_size)


FIRST = dict(hidden=(30,), activation="sigmoid", scale="centred", schedule="step:drop=0.1:every=15")
SECOND = dict(hidden=(50,), loss="binary", scale="centred", schedule="step:drop=0.1:every=20", init="glorot_uniform")
SLOW, FAST = fixed(0.001, 0.001, 0.1, 1200), fixed(0.01, 0.001, 0.1, 1200)


def row(label: str, accuracy: float, **choices) -> Row:
    return Row(label, Setting(**choices), **around(100 * (1 - accuracy), relative=0.2, least=1.0))


ROWS = [
    row("cross-entropy", 0.8121, loss="binary", init="uniform", **FAST, **FIRST),
    row("mean squared error", 0.1000, loss="quadratic", init="uniform", **FAST, **FIRST),
    row("U(-1, 1)", 0.8310, loss="binary", init="uniform", **SLOW, **FIRST),
    row("Glorot", 0.8389, loss="binary", init="glorot_uniform", **SLOW, **FIRST),
    row("sigmoid", 0.8716, activation="sigmoid", **fixed(0.005, 0.1, 0.01, 256), **SECOND),
    row("sigmoid, Adagrad", 0.8809, activation="sigmoid", **adagrad(0.005, 0.01, 256), **SECOND),
    row("ReLU, Adagrad", 0.8738, activation="relu", **adagrad(0.005, 0.01, 256), **SECOND),
]
LONG = ("sigmoid", "sigmoid, Adagrad", "ReLU, Adagrad")


def epochs(few: int, many: int) -> dict[str, int]:
    return {each.label: many if each.label in LONG else few for each in ROWS}


TABLE = PaperTable(
    title="Larson, Machine Learning in Python, 08a",
    source="E. Larson, notebook 08a, practical neural networks; validation accuracies, turned into errors",
    status="published",
    dataset="fashion",
    protocol="Fashion-MNIST, pixels in [-0.5, 0.5], sigmoid outputs; first four rows: 30 hidden units, C 0.1, 50 "
    "minibatches an epoch, 20 epochs, the learning rate (0.01, rows 3 and 4 0.001) times 0.1 every 15; last three: 50 "
    "hidden units, C 0.01, minibatches of 256, 75 epochs, learning rate 0.005 times 0.1 every 20; seed 1 alone",
    band="a fifth of the error, at least 1 point; chosen here, the notebook has single runs",
    differences="learning rates, momenta and penalties are those beside gradients that are means; the penalty "
    "holds for biases, too; the momentum is torch's; no bias of -2 in the output layer; "
    "the test set in place of the validation set. On digits, whose background is darker, a learning rate of 0.01 is "
    "too large: the notebook's network, followed step by step in NumPy, ends there with 88.6 %, too",
    quantity="Test error, %",
    rows=ROWS,
    claims=[
        Claim("cross-entropy learns where the mean squared error is stuck", "cross-entropy", "mean squared error"),
        Claim("Glorot's initialization is better than U(-1, 1)", "Glorot", "U(-1, 1)"),
        Claim("Adagrad is better than a fixed rule", "sigmoid, Adagrad", "sigmoid"),
        Claim("with Adagrad, the sigmoid is as good as the ReLU or better", "sigmoid, Adagrad", "ReLU, Adagrad"),
    ],
    budgets={
        "smoke": Budget("subset", epochs(2, 2), seeds=2, reduced="10,000 digits, 2 epochs"),
        "short": Budget("mnist", epochs(20, 20), seeds=5, reduced="20 instead of 75 epochs in the last three rows"),
        "paper": Budget("fashion", epochs(20, 75), seeds=10, reduced=""),
    },
)
