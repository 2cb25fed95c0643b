"""The pictures of the lectures, from real runs of the package's own classes."""

from .runs import RATES, Descent, descend, fair_rate, runs
from .surfaces import SURFACES, Surface

__all__ = ["SURFACES", "Surface", "RATES", "Descent", "descend", "fair_rate", "runs"]


def __dir__() -> list[str]:
    return __all__
