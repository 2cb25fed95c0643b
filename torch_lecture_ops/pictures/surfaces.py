"""Surfaces to descend on: functions of two variables, each with its exact slope, written as formulas.

Value and slope run on numbers, on tensors and on symbols alike, so whoever draws them, descends on them or writes them
in another language computes the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..formula import exp

__all__ = ["SURFACES", "Box", "Point", "Surface"]


def __dir__() -> list[str]:
    return __all__


Point = tuple[float, float]  # x, y
Box = tuple[float, float, float, float]  # x from, to, y from, to


@dataclass(frozen=True)
class Surface:
    """A function f(x, y) with its slope, and where to look at it.

    Arguments:
        name: as on a command line.
        value: (x, y) -> f(x, y).
        slope: (x, y) -> (∂f/∂x, ∂f/∂y), exactly.
        minima: the lowest points, all equally low; empty if they are not known.
        box: the limits of the picture.
        start: where a run begins unless told otherwise.
        source: where it comes from, in words.
        fine: points of a grid along each side of the picture, enough for its contours.
    """

    name: str
    value: Callable[[Any, Any], Any]
    slope: Callable[[Any, Any], tuple[Any, Any]]
    minima: tuple[Point, ...]
    box: Box
    start: Point
    source: str
    fine: int = 201

    def holds(self, x: float, y: float) -> bool:
        """Whether a point lies in the picture; NaN does not."""
        left, right, bottom, top = self.box
        return left <= x <= right and bottom <= y <= top

    def around(self, x: float, y: float) -> Surface:
        """The same with a picture that holds this point, too, and not at its edge."""
        if self.holds(x, y):
            return self
        left, right, bottom, top = self.box
        wide, high = 0.1 * (right - left), 0.1 * (top - bottom)
        return replace(self, box=(min(left, x - wide), max(right, x + wide), min(bottom, y - high), max(top, y + high)))


def _bowl(x: Any, y: Any) -> Any:
    """½ (x² + y²)"""
    return (x**2 + y**2) / 2


def _bowl_slope(x: Any, y: Any) -> tuple[Any, Any]:
    return x, y


def _valley(x: Any, y: Any) -> Any:
    """½ (x² + 20 y²)"""
    return (x**2 + 20 * y**2) / 2


def _valley_slope(x: Any, y: Any) -> tuple[Any, Any]:
    return x, 20 * y


def _saddle(x: Any, y: Any) -> Any:
    """x² - y² + ½ y⁴"""
    return x**2 - y**2 + y**4 / 2


def _saddle_slope(x: Any, y: Any) -> tuple[Any, Any]:
    return 2 * x, 2 * y**3 - 2 * y


def _plateau(x: Any, y: Any) -> Any:
    """1 - exp(-½ (x² + y²))"""
    return 1 - exp(-(x**2 + y**2) / 2)


def _plateau_slope(x: Any, y: Any) -> tuple[Any, Any]:
    e = exp(-(x**2 + y**2) / 2)
    return x * e, y * e


def _beale(x: Any, y: Any) -> Any:
    """(1.5 - x + x y)² + (2.25 - x + x y²)² + (2.625 - x + x y³)²"""
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def _beale_slope(x: Any, y: Any) -> tuple[Any, Any]:
    a, b, c = 1.5 - x + x * y, 2.25 - x + x * y**2, 2.625 - x + x * y**3
    dx = 2 * a * (y - 1) + 2 * b * (y**2 - 1) + 2 * c * (y**3 - 1)
    dy = 2 * a * x + 4 * b * x * y + 6 * c * x * y**2
    return dx, dy


def _rosenbrock(x: Any, y: Any) -> Any:
    """(1 - x)² + 100 (y - x²)²"""
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def _rosenbrock_slope(x: Any, y: Any) -> tuple[Any, Any]:
    return 2 * (x - 1) - 400 * x * (y - x**2), 200 * (y - x**2)


def _himmelblau(x: Any, y: Any) -> Any:
    """(x² + y - 11)² + (x + y² - 7)²"""
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


def _himmelblau_slope(x: Any, y: Any) -> tuple[Any, Any]:
    a, b = x**2 + y - 11, x + y**2 - 7
    return 4 * x * a + 2 * b, 2 * a + 4 * y * b


def _camel(x: Any, y: Any) -> Any:
    """4 x² - 2.1 x⁴ + ⅓ x⁶ + x y - 4 y² + 4 y⁴"""
    return 4 * x**2 - 2.1 * x**4 + x**6 / 3 + x * y - 4 * y**2 + 4 * y**4


def _camel_slope(x: Any, y: Any) -> tuple[Any, Any]:
    return 8 * x - 8.4 * x**3 + 2 * x**5 + y, x - 8 * y + 16 * y**3


_ORIGIN: Point = (0.0, 0.0)
# Where Himmelblau's function is zero besides (3, 2), and the lower pair of the camel's minima: to the last digit.
_HIMMELBLAU = (
    (3.0, 2.0),
    (-2.805118086952745, 3.131312518250573),
    (-3.779310253377747, -3.283185991286170),
    (3.584428340330492, -1.848126526964404),
)
_CAMEL = (0.08984201310031806, -0.7126564030207396)

SURFACES: dict[str, Surface] = {
    surface.name: surface
    for surface in (
        Surface("bowl", _bowl, _bowl_slope, (_ORIGIN,), (-3.0, 3.0, -2.0, 2.0), (-2.5, 1.5), "round"),
        Surface(
            "valley",
            _valley,
            _valley_slope,
            (_ORIGIN,),
            (-5.0, 2.0, -1.5, 1.5),
            (-4.0, 1.0),
            "CS231n, slide 'Momentum update': steep vertically, shallow horizontally",
        ),
        Surface(
            "saddle",  # that of the slides, x² - y², has no bottom: nobody could say who is ahead there
            _saddle,
            _saddle_slope,
            ((0.0, 1.0), (0.0, -1.0)),
            (-1.5, 1.5, -1.5, 1.5),
            (-1.0, 0.001),
            "x² - y² at the saddle, with ½ y⁴ so that it has a bottom",
        ),
        Surface("plateau", _plateau, _plateau_slope, (_ORIGIN,), (-4.0, 2.0, -2.0, 2.0), (-3.0, 1.0), "flat far away"),
        Surface(
            "beale",
            _beale,
            _beale_slope,
            ((3.0, 0.5),),
            (-2.5, 4.5, -2.5, 2.0),
            (-1.0, -1.5),
            "Beale 1958; raced on by A. Radford (CS231n, Neural Networks 3)",
        ),
        Surface(
            "rosenbrock",
            _rosenbrock,
            _rosenbrock_slope,
            ((1.0, 1.0),),
            (-2.0, 2.0, -1.0, 3.0),
            (-1.5, 2.0),
            "Rosenbrock 1960: a valley that bends",
        ),
        Surface(
            "himmelblau",
            _himmelblau,
            _himmelblau_slope,
            _HIMMELBLAU,
            (-5.0, 5.0, -5.0, 5.0),
            (-0.5, -1.0),
            "Himmelblau 1972: four minima, all zero",
        ),
        Surface(
            "camel",
            _camel,
            _camel_slope,
            (_CAMEL, (-_CAMEL[0], -_CAMEL[1])),
            (-2.2, 2.2, -1.4, 1.4),
            (1.5, 1.2),
            "six-hump camel, Dixon and Szegö 1978: six minima, two of them lowest",
        ),
    )
}
