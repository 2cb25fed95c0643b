"""The example of every card: ten lines that run by themselves, and what they print."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import tempfile
import warnings
from typing import Any

from . import docstrings
from .catalogue import Card

OPTIMIZER = """
import torch
from torch_lecture_ops import optim

w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
optimizer = optim.{call}
for _ in range(3):
    optimizer.zero_grad()
    w.square().sum().backward()
    optimizer.step()
    print(w.data)
"""
NESTEROV = """
import torch
from torch_lecture_ops import optim

w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
optimizer = optim.{call}
for _ in range(3):
    with optimizer.lookahead():  # w is at the point ahead
        optimizer.zero_grad()
        w.square().sum().backward()
    optimizer.step()             # w is itself again
    print(w.data)
"""
OPTIONS = {"SGD": ", momentum=0.9", "Adadelta": ""}  # so that the forms differ; without a learning rate

SCHEDULE = """
import torch
from torch_lecture_ops import optim
from torch_lecture_ops.optim import lr_scheduler

optimizer = optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.5)
scheduler = lr_scheduler.{call}
for _ in range(5):
    print(optimizer.param_groups[0]["{key}"])
    optimizer.step()
    scheduler.step()
"""
SCHEDULES = {
    "StepDecay": "StepDecay(optimizer, drop=0.5, every=2)",
    "ExponentialDecay": "ExponentialDecay(optimizer, k=0.1)",
    "InverseTimeDecay": "InverseTimeDecay(optimizer, k=0.5)",
    "PowerCooling": "PowerCooling(optimizer, epsilon=0.25)",
    "MomentumAnnealing": "MomentumAnnealing(optimizer, start=0.5, end=0.9, steps=4)",
}

ACTIVATION = """
import torch
from torch_lecture_ops import nn

x = torch.tensor([[-2.0, -0.5, 0.0, 1.0]], requires_grad=True)
y = nn.{call}(x)
y.sum().backward()
print(y.data)
print(x.grad)  # the slope
"""
OF_ROWS = """
import torch
from torch_lecture_ops import nn

x = torch.tensor([[-2.0, -0.5, 0.0, 1.0]], requires_grad=True)
y = nn.{call}(x)
y[0, 3].backward()
print(y.data)
print(x.grad)  # of the last output
"""
ACTIVATIONS = {
    "Affine": "Affine(a=2.0, c=1.0)",
    "Softmax": "Softmax(dim=1)",
    "LogSoftmax": "LogSoftmax(dim=1)",
    "Maxout": "functional.maxout",
}

GATE = """
import torch
from torch_lecture_ops.nn import functional as F

a = torch.tensor([[3.0]], requires_grad=True)
b = torch.tensor([[-4.0]], requires_grad=True)
y = F.{call}(a, b)
y.backward(torch.tensor([[2.0]]))  # what comes from upstream
print(y.item(), a.grad.item(), b.grad.item())
"""
COPY = """
import torch
from torch_lecture_ops.nn import functional as F

x = torch.tensor(3.0, requires_grad=True)
first, second = F.copy(x)
(2 * first + 5 * second).backward()
print(x.grad.item())  # 2 + 5
"""

LOSS = """
import torch
from torch_lecture_ops import nn

a = torch.tensor({output}, requires_grad=True)
loss = nn.{call}(a, torch.tensor({target}))
loss.backward()
print(loss.data)
print(a.grad)
"""
LOSSES = {
    "QuadraticCost": ("[[0.8, 0.4]]", "[[1.0, 0.0]]"),
    "BCELoss": ("[[0.8, 0.4]]", "[[1.0, 0.0]]"),
    "BCEWithLogitsLoss": ("[[1.5, -0.5]]", "[[1.0, 0.0]]"),
    "CrossEntropyLoss": ("[[1.0, 2.0, 0.0]]", "[1]"),
}

CALLBACK = """
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset
from torch_lecture_ops import nn, optim
from torch_lecture_ops.callbacks import {name}

class Classifier(LightningModule):
    def __init__(self):
        super().__init__()
        self.network = torch.nn.Sequential(torch.nn.Linear(20, 64), nn.Tanh(), torch.nn.Linear(64, 2))

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return optim.{optimizer}

torch.manual_seed(0)
x = torch.randn(1600, 20)
callback = {call}
trainer = Trainer(max_epochs=2, callbacks=[callback], logger=CSVLogger("runs"){more})
trainer.fit(Classifier(), DataLoader(TensorDataset(x, (x.sum(1) > 0).long()), batch_size=32))
"""


def example(card: Card, form: str = "torch") -> str:
    """The code of a card, or of one of its forms."""
    return _EXAMPLES[card.kind](card, form).strip() + "\n"


def _of_optimizer(card: Card, form: str) -> str:
    options = OPTIONS.get(card.title, ", lr=0.1" if card.title != "SGD" else "")
    if card.title == "SGD":
        options = ", lr=0.1" + options
    chosen = "" if form == "torch" else f', form="{form}"'
    return (NESTEROV if card.title == "Nesterov" else OPTIMIZER).format(call=f"{card.title}([w]{options}{chosen})")


def _of_schedule(card: Card, form: str) -> str:
    key = "momentum" if card.title.startswith("Momentum") else "lr"
    return SCHEDULE.format(call=SCHEDULES[card.title], key=key)


def _of_activation(card: Card, form: str) -> str:
    call = ACTIVATIONS.get(card.title, f"{card.title}()")
    if call.startswith("functional"):
        return OF_ROWS.replace("{call}(x)", f"{call}(x, pieces=2)").replace("y[0, 3]", "y[0, 1]")
    return (OF_ROWS if "dim" in call else ACTIVATION).format(call=call)


def _of_gate(card: Card, form: str) -> str:
    names = [name.rpartition(".")[2] for name in card.names if ".functional." in name]
    return COPY if names == ["copy"] else GATE.format(call=names[0])


def _of_loss(card: Card, form: str) -> str:
    name = card.title.split(",")[0]
    output, target = LOSSES[name]
    return LOSS.format(output=output, target=target, call=f"{name}()")


def _of_docstring(card: Card, form: str) -> str:
    """Its doctest as a script: expressions are printed."""
    (found,) = [part.text for part in docstrings.blocks(card.value) if part.kind == "code"][:1]
    lines = re.findall(r"^(?:>>>|\.\.\.) ?(.*)", found, re.MULTILINE)
    parts = [line.partition("  #") for line in lines]
    printing = [(code if re.match(r"\w+ = ", code) else f"print({code})") + mark + why for code, mark, why in parts]
    imports = f"import torch\nfrom torch import nn\nfrom torch_lecture_ops.nn.init import {card.title}"
    return "\n".join([imports, "", *printing])


def _of_callback(card: Card, form: str) -> str:
    if card.title == "LectureModule":
        (text,) = [part.text for part in docstrings.blocks(card.value) if part.title == "Example"]
        imports = "from torch import nn\nfrom torch_lecture_ops.callbacks import LectureModule"
        return f"import torch\n{imports}\n\n{text}"
    is_ahead = card.title == "NesterovLookahead"
    return CALLBACK.format(
        name=card.title,
        call=f"{card.title}({'probe=x[:300]' if card.title == 'ActivationMonitor' else ''})",
        optimizer="Nesterov(self.parameters(), lr=0.01)" if is_ahead else "Adagrad(self.parameters(), lr=0.01)",
        more=", accumulate_grad_batches=4" if is_ahead else "",
    )


_EXAMPLES = {
    "optimizers": _of_optimizer,
    "schedules": _of_schedule,
    "activations": _of_activation,
    "gates": _of_gate,
    "losses": _of_loss,
    "initialization": _of_docstring,
    "callbacks": _of_callback,
}


def output(code: str) -> tuple[str, dict[str, Any]]:
    """What an example prints, and the names that it leaves. It runs in an empty folder, and Lightning says nothing."""
    printed, names = io.StringIO(), {"__name__": "example"}
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), contextlib.redirect_stdout(printed):
        warnings.simplefilter("ignore")
        os.chdir(folder)
        try:
            exec(compile(code, "example", "exec"), names)
        finally:
            os.chdir(here)
    return printed.getvalue(), names
