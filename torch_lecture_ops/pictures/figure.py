"""Figures that a notebook shows by themselves. The one file that needs Matplotlib to be imported."""

from __future__ import annotations

from io import BytesIO

try:
    import matplotlib
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError(
        "torch_lecture_ops.pictures: a picture needs Matplotlib, which is not installed; "
        "pip install 'torch-lecture-ops[plot]'"
    ) from error

__all__ = ["Picture", "matplotlib"]


def __dir__() -> list[str]:
    return __all__


class Picture(Figure):
    """A figure without pyplot's global state: nothing keeps it, nothing has to close it."""

    def _repr_png_(self) -> bytes:
        stream = BytesIO()
        self.savefig(stream, format="png", dpi=70)
        return stream.getvalue()
