"""Zeiler 2012, ADADELTA, tables 1 and 2: four optimizers over their hyper-parameters."""

from suite.setting import Setting

from .frame import Budget, PaperTable, Row, around

# Test error in percent after 6 epochs, by learning rate.
RATES = (1e0, 1e-1, 1e-2, 1e-3, 1e-4)
BY_RATE = {
    "SGD": ("sgd:momentum=0", (2.26, 2.51, 7.02, 17.01, 58.10)),
    "momentum": ("sgd:momentum=0.9", (89.68, 2.03, 2.68, 6.98, 16.98)),
    "Adagrad": ("adagrad", (43.76, 2.82, 1.79, 5.21, 12.59)),
}
# And for Adadelta by epsilon and rho.
RHOS = (0.9, 0.95, 0.99)
BY_EPSILON = {
    "1e-2": (2.59, 2.58, 2.32),
    "1e-4": (2.05, 1.99, 2.28),
    "1e-6": (1.90, 1.83, 2.05),
    "1e-8": (2.29, 2.13, 2.00),
}
NETWORK = dict(hidden=(500, 300), batch_size=100, activation="relu", init="he_normal")


def band(published: float) -> dict[str, float]:
    return around(published, relative=0.2, least=0.2)


ROWS = [
    Row(f"{name}, lr {rate:g}", Setting(optimizer=optimizer, lr=rate, **NETWORK), **band(published))
    for name, (optimizer, errors) in BY_RATE.items()
    for rate, published in zip(RATES, errors, strict=True)
]
ROWS += [
    Row(
        f"Adadelta, eps {epsilon}, rho {rho}",
        Setting(optimizer=f"adadelta:eps={float(epsilon)}:rho={rho}", lr=1.0, **NETWORK),
        **band(published),
    )
    for epsilon, errors in BY_EPSILON.items()
    for rho, published in zip(RHOS, errors, strict=True)
]

TABLE = PaperTable(
    title="Zeiler 2012, ADADELTA, tables 1 and 2",
    source="M. Zeiler, ADADELTA: An Adaptive Learning Rate Method, arXiv 1212.5701; numbers recalled",
    status="reported",
    dataset="mnist",
    protocol="MNIST, 784-500-300-10, ReLU, batches of 100, test error after 6 epochs",
    band="a fifth of the number, at least 0.2 points; chosen here, the paper has single runs",
    differences="He's initialization and pixels in [0, 1], which the paper does not say; momentum 0.9",
    quantity="Test error, %",
    rows=ROWS,
    budgets={
        "smoke": Budget("subset", epochs=1, seeds=2, reduced="10,000 digits, 1 epoch"),
        "short": Budget("mnist", epochs=6, seeds=5, reduced=""),
        "paper": Budget("mnist", epochs=6, seeds=10, reduced=""),
    },
)
