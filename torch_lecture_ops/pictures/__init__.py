"""The pictures of the lectures, from real runs of the package's own classes."""

from .surfaces import SURFACES, Surface

__all__ = ["SURFACES", "Surface"]


def __dir__() -> list[str]:
    return __all__
