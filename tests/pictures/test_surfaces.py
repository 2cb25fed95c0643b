"""Surfaces: slopes that autograd agrees with, minima that are minima."""

import math

import pytest
import torch

from torch_lecture_ops.formula import Formula, trace
from torch_lecture_ops.pictures import SURFACES

every_surface = pytest.mark.parametrize("surface", SURFACES.values(), ids=SURFACES)


def grid(surface, count):
    left, right, bottom, top = surface.box
    xs, ys = (torch.linspace(*ends, count, dtype=torch.float64) for ends in ((left, right), (bottom, top)))
    return torch.meshgrid(xs, ys, indexing="xy")


@every_surface
def test_the_slope_is_that_of_the_value(surface):
    x, y = (one.requires_grad_() for one in grid(surface, 41))
    expected = torch.autograd.grad(surface.value(x, y).sum(), (x, y))
    torch.testing.assert_close(tuple(one.detach() for one in surface.slope(x, y)), expected, rtol=1e-12, atol=1e-12)


@every_surface
def test_numbers_give_what_tensors_give(surface):
    x, y = surface.start
    tensors = [torch.tensor(one, dtype=torch.float64) for one in surface.start]
    assert surface.value(*tensors).item() == pytest.approx(surface.value(x, y), rel=1e-14)
    assert [one.item() for one in surface.slope(*tensors)] == pytest.approx(surface.slope(x, y), rel=1e-14)


@every_surface
def test_value_and_slope_are_formulas(surface):
    for function, results in ((surface.value, 1), (surface.slope, 2)):
        program = trace(Formula(function, ("array", "array"), tuple(range(2, 2 + results))))
        assert len(program.results) == results


@every_surface
def test_minima_are_the_lowest_of_the_picture(surface):
    lowest = surface.value(*surface.minima[0])
    for x, y in surface.minima:
        assert math.hypot(*surface.slope(x, y)) < 1e-12
        assert surface.value(x, y) == pytest.approx(lowest, abs=1e-12)
        assert surface.holds(x, y)
    assert surface.value(*grid(surface, 101)).min() >= lowest - 1e-12


@every_surface
def test_a_run_starts_in_the_picture_and_above_the_minimum(surface):
    assert surface.holds(*surface.start)
    assert surface.value(*surface.start) > surface.value(*surface.minima[0])
    assert not surface.holds(math.nan, 0.0)
