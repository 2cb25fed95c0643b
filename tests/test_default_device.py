"""What is computed lies where its arguments lie, whatever torch's default device is at that time."""

import pytest
import torch

import torch_lecture_ops.nn.functional as F
from torch_lecture_ops import optim

ENGINES = {
    "c": pytest.param(dict(fused=True), marks=pytest.mark.needs_compiler),
    "foreach": dict(foreach=True),
    "loop": dict(foreach=False, fused=False),
}

x = torch.linspace(-2, 2, 12).view(3, 4).requires_grad_()
FUNCTIONS = {
    "relu": lambda: F.relu(x).sum(),
    "softmax": lambda: F.softmax(x, 0)[0].sum(),
    "maxout": lambda: F.maxout(x, 2).sum(),
    "prelu": lambda: F.prelu(x, x[0, :1]).sum(),
    "mse_loss": lambda: F.mse_loss(x, x.detach() + 1),
    "cross_entropy": lambda: F.cross_entropy(x, torch.arange(3, device="cpu")),
    "cross_entropy of probabilities": lambda: F.cross_entropy(x, x.detach().softmax(1)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    (expected,) = torch.autograd.grad(FUNCTIONS[name](), x)
    with torch.device("meta"):
        result = FUNCTIONS[name]()
        (gradient,) = torch.autograd.grad(result, x)
    assert result.device == gradient.device == x.device
    assert torch.equal(gradient, expected)


@pytest.mark.parametrize("options", ENGINES.values(), ids=ENGINES)
def test_optimizers(options):
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    with torch.device("meta"):
        optimizer = optim.NAdam([p], **options)
        for _ in range(2):
            optimizer.step()
    assert {value.device for value in optimizer.state[p].values()} == {p.device}
    assert 0 < p[0] < 1
