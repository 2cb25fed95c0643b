"""The networks that are trained, and what is done with them without Lightning."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import torch
from torch import Tensor, nn

from torch_lecture_ops.pictures.choices import ahead

from .choices import Loss, build_layer, build_optimizer, build_schedules, fill, loss_function
from .data import DIGITS, PIXELS
from .setting import Setting


def build_mlp(setting: Setting) -> nn.Sequential:
    """784 - hidden - 10 with the activation in between; weights from the seed, biases zero."""
    generator = torch.Generator().manual_seed(setting.seed)
    of_pixels, of_hidden = setting.dropout
    layers: list[nn.Module] = [nn.Dropout(of_pixels)] if of_pixels else []
    for n_in, n_out in pairwise([PIXELS, *setting.hidden]):
        layer, linear = build_layer(n_in, n_out, setting.activation, setting.library)
        fill(linear, setting.init, setting.activation, generator)
        layers += layer if isinstance(layer, nn.Sequential) else [layer]
        layers += [nn.Dropout(of_hidden)] if of_hidden else []
    output = nn.Linear([PIXELS, *setting.hidden][-1], DIGITS)
    fill(output, setting.init, setting.activation, generator)
    return nn.Sequential(*layers, output)


@torch.no_grad()
def limit_norms(mlp: nn.Sequential, largest: float) -> None:
    """Shrink the weights into each unit to this norm where they exceed it."""
    for weight in (parameter for parameter in mlp.parameters() if parameter.ndim == 2):
        weight.copy_(torch.renorm(weight, p=2, dim=0, maxnorm=largest))


@torch.no_grad()
def accuracy(mlp: nn.Sequential, images: Tensor, labels: Tensor) -> float:
    """Percentage of images whose label is the largest output."""
    mlp.eval()
    correct = int((mlp(images).argmax(1) == labels).sum())
    mlp.train()
    return 100.0 * correct / len(labels)


def train_step(
    mlp: nn.Sequential, optimizer: torch.optim.Optimizer, loss: Loss, images: Tensor, labels: Tensor
) -> None:
    """Without Lightning."""
    with ahead(optimizer):
        optimizer.zero_grad()
        loss(mlp(images), labels).backward()
    optimizer.step()


WARM_UP_STEPS = 3  # a momentum that a schedule changes may ask for another kernel in the third step


@cache
def warm_up_once(setting: Setting) -> None:
    """Train a network like the setting's on noise and throw it away: kernels are built here, not in a step."""
    images, labels = torch.rand(16, PIXELS), torch.arange(16) % DIGITS
    mlp = build_mlp(setting)
    optimizer = build_optimizer(mlp.parameters(), setting.optimizer, setting.library, setting.lr)
    schedules = [entry["scheduler"] for entry in build_schedules(optimizer, setting.schedule)]
    loss = loss_function(setting.loss, setting.library)
    for _ in range(WARM_UP_STEPS):
        train_step(mlp, optimizer, loss, images, labels)
        for schedule in schedules:
            schedule.step()
    accuracy(mlp, images, labels)
