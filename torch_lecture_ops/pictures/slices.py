"""A slice through the loss of a trained network: a surface that is no formula."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import Linear, Module, Sequential
from torch.nn.functional import avg_pool2d

from .. import nn, optim
from .digits import digits
from .surfaces import Box, Point, Surface

__all__ = ["filter_normalized", "network_slice"]


def __dir__() -> list[str]:
    return __all__


Loss = Callable[[Tensor, Tensor], Tensor]


def filter_normalized(weight: Tensor, generator: torch.Generator) -> Tensor:
    """A random direction, of which each filter (the weights into a unit) is as long as that of the weight.

        d ← d / ‖d‖ · ‖w‖, filter by filter

    A network that does the same with weights ten times as large then has the same slice. Biases and other vectors stay
    as they are: their direction is zero.

    Source: Li, Xu, Taylor, Studer and Goldstein 2018, 'Visualizing the Loss Landscape of Neural Nets', section 4.
    """
    if weight.dim() < 2:
        return torch.zeros_like(weight)
    d = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    rows = tuple(range(1, weight.dim()))
    norm = torch.linalg.vector_norm  # Tensor.norm refuses three dimensions
    return d / norm(d, dim=rows, keepdim=True) * norm(weight.detach(), dim=rows, keepdim=True)


class _Slice:
    """The loss at θ + x d₁ + y d₂."""

    def __init__(self, model: Module, inputs: Tensor, labels: Tensor, loss: Loss, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.model, self.inputs, self.labels, self.loss = model, inputs, labels, loss
        self.trained = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.first = {name: filter_normalized(p, generator) for name, p in self.trained.items()}
        self.second = {name: filter_normalized(p, generator) for name, p in self.trained.items()}

    def at(self, point: Tensor) -> Tensor:
        x, y = point
        moved = {name: p + x * self.first[name] + y * self.second[name] for name, p in self.trained.items()}
        return self.loss(functional_call(self.model, moved, (self.inputs,)), self.labels)

    def value(self, x: Any, y: Any) -> Any:
        """the loss with the weights θ + x d₁ + y d₂, d random, of filters as long as those of θ"""
        if isinstance(x, Tensor):
            pairs = zip(x.flatten().tolist(), y.flatten().tolist(), strict=True)
            return x.new_tensor([self.value(*pair) for pair in pairs]).reshape(x.shape)
        with torch.no_grad():
            return self.at(torch.tensor([x, y], dtype=torch.float64)).item()

    def slope(self, x: float, y: float) -> tuple[float, float]:
        """The gradient of the network, projected on both directions: exact."""
        point = torch.tensor([x, y], dtype=torch.float64, requires_grad=True)
        dx, dy = torch.autograd.grad(self.at(point), point)[0].tolist()
        return dx, dy


def network_slice(
    model: Module | None = None,
    inputs: Tensor | None = None,
    labels: Tensor | None = None,
    loss: Loss = nn.functional.cross_entropy,
    *,
    folder: Path | str | None = None,
    seed: int = 0,
    box: Box = (-1.0, 1.0, -1.0, 1.0),
    start: Point = (-0.8, 0.7),
    name: str = "network",
) -> Surface:
    """The loss of a trained network on a batch, over two random directions around its weights, see
    `filter_normalized`. The network itself stands at (0, 0).

    Its slope is exact, so a run on it is a training of the network that is kept in the plane. Value and slope take
    numbers (the value tensors, too), but no symbols.

    Arguments:
        model: a trained network with float64 weights, in evaluation mode; None for a small one of our own classes that
            is trained on digits here, in a second.
        inputs, labels: the batch; needed with a model, without one they are 500 digits of 14 × 14 pixels.
        loss: of outputs and labels.
        folder: where the digits are, see `digits`.
        seed: of the directions, and of the small network.
        box, start, name: see `Surface`.

    Raises:
        ValueError: a model without a batch; weights of another dtype.
        FileNotFoundError: there are no digits.
    """
    if model is None:
        images, labels = digits(folder)
        inputs = avg_pool2d(images.unflatten(1, (1, 28, 28)), 2).flatten(1)  # a race evaluates it thousands of times
        model = digits_network(inputs, labels, seed)
    elif inputs is None or labels is None:
        raise ValueError("network_slice: a model needs the inputs and labels of its loss, got none")
    if dtypes := {p.dtype for p in model.parameters()} - {torch.float64}:
        raise ValueError(f"network_slice: weights must be float64, got {dtypes.pop()}; call model.double() first")
    plane = _Slice(model, inputs, labels, loss, seed)
    source = "Li, Xu, Taylor, Studer and Goldstein 2018: filter-normalized random directions"
    return Surface(name, plane.value, plane.slope, (), box, start, source, fine=51)


def digits_network(inputs: Tensor, labels: Tensor, seed: int = 0, steps: int = 100) -> Sequential:
    """A network inputs - 16 - 10 of our own classes, trained with our Adam on the whole batch."""
    net = Sequential(Linear(inputs.shape[1], 16), nn.ReLU(), Linear(16, 10)).double()
    nn.init.initialize(net, generator=torch.Generator().manual_seed(seed), report=lambda report: None)
    optimizer = optim.Adam(net.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), labels).backward()
        optimizer.step()
    return net.eval()
