"""The pictures of the lectures, from real runs of the package's own classes.

Each function returns a Matplotlib figure, which a notebook shows by itself, and `race_page` a race for the browser;
`python -m torch_lecture_ops.pictures` writes them. Matplotlib is imported when something is drawn.
"""

from .activations import activation
from .animation import animate
from .glorot_figures import glorot
from .page import race_page
from .races import race
from .runs import RATES, Descent, descend, fair_rate, runs
from .schedules import schedule
from .slices import network_slice
from .style import theme
from .surfaces import SURFACES, Surface
from .valleys import momentum_forms, nesterov, saddle, valley, zigzag

__all__ = ["SURFACES", "Surface", "network_slice"]
__all__ += ["RATES", "Descent", "descend", "fair_rate", "runs"]
__all__ += ["valley", "zigzag", "saddle", "momentum_forms", "nesterov", "race", "animate", "race_page"]
__all__ += ["activation", "schedule", "glorot", "theme"]


def __dir__() -> list[str]:
    return __all__
