"""The leaky rectified linear unit that learns its slope."""

from __future__ import annotations

from typing import Any

from ..formula import where
from .pointwise import Pointwise


class PReLU(Pointwise):
    """x where x > 0, else a x: `LeakyReLU` with a learnable slope a, one for all or one a channel.

        dL/dx = dL/dy where x > 0, else a dL/dy          dL/da = Σ over x <= 0 of x dL/dy

    The sum runs over everything that the slope is shared by; the slides leave it out, and without it a never learns.
    At 0 the slope is a, as in torch. Saves x, and a for the gradient of x.

    Source: IISER Bhopal DSE316/616, 'Activation Functions and Optimizer', slide 'Types of Activation Functions' (He,
    Zhang, Ren and Sun 2015: a begins at 0.25 and gets no weight decay).
    Difference from torch: none.
    """

    @staticmethod
    def value(x: Any, a: Any) -> Any:
        return where(x > 0, x, a * x)

    @staticmethod
    def chain(g: Any, x: Any, a: Any) -> Any:
        return where(x > 0, g, a * g), where(x > 0, 0.0, x * g)
