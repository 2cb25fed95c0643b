"""A check of one's own activation: is the slope that of the value?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def check_slope(function: Any, x: Tensor | None = None, *numbers: float, tolerance: float = 1e-6) -> None:
    """Compare the backward of an `Elementwise` function with the numerical derivative of its value.

        (f(x + h) - f(x - h)) / 2h,  h = 1e-5 max(1, |x|),  in float64

    At a kink, where the differences to the left and to the right part, any slope between the two is right.

    Arguments:
        function: the class, such as `ELU`.
        x: the points, a tensor of any shape; None for 0, ±0.01, ..., ±8.
        numbers: those of the function, in their order.
        tolerance: how far the slope may be from the derivative, as a part of 1 + |derivative|.

    Raises:
        ValueError: the slope is wrong somewhere; the text says where it is most.

    >>> from torch_lecture_ops.functions import ELU
    >>> check_slope(ELU, None, 2.0)  # alpha
    """
    x = torch.arange(-800, 801) / 100 if x is None else x
    x = x.detach().to("cpu", torch.float64).flatten()
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(function.call(leaf, False, *numbers).sum(), leaf)
    h = 1e-5 * x.abs().clamp(min=1.0)
    below, here, above = (function.call(at, False, *numbers) for at in (x - h, x, x + h))
    left, right, derivative = (here - below) / h, (above - here) / h, (above - below) / (2 * h)
    is_kink = (left - right).abs() > 0.01 * (1 + derivative.abs())
    slack = 1e-4 * (1 + derivative.abs())  # one-sided differences are exact to the order of h only
    between = slope.clamp(torch.minimum(left, right) - slack, torch.maximum(left, right) + slack)
    nearest = torch.where(is_kink, between, derivative)
    error = (slope - nearest).abs() / (1 + nearest.abs())
    error[~derivative.isfinite()] = 0.0  # nothing to compare with
    error[error.isnan()] = torch.inf
    if error.numel() and error.max() > tolerance:
        worst = error.argmax()
        raise ValueError(
            f"{function.__name__}: the slope at x = {x[worst].item():g} is {slope[worst].item():.6g}, but the value's "
            f"numerical derivative there is {nearest[worst].item():.6g}"
        )
