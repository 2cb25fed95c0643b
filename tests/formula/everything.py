"""Call everything in the package that launches kernels on CPU tensors: for scripts that look at the kernels."""

from contextlib import nullcontext

import torch

import torch_lecture_ops.nn.functional as F
from torch_lecture_ops import nn, optim
from torch_lecture_ops.formula import COMPILED


def step(make, dtype, **options):
    p = torch.nn.Parameter(torch.ones(8, dtype=dtype))
    p.grad = torch.ones_like(p)
    optimizer = make([p], fused=True, **options)
    for _ in range(2):  # the first step may be another formula
        with getattr(optimizer, "lookahead", nullcontext)():  # Nesterov asks for it
            pass
        optimizer.step()
    assert optimizer.engine == COMPILED["cpu"].name


def rules(dtype):
    """Every class with every form and flag."""
    for name in ("SGD", "Nesterov", "Adagrad", "RMSprop", "Adadelta", "Adam", "AdamW", "NAdam"):
        cls, more = getattr(optim, name), dict(lr=0.1)
        for form in ("torch", *cls.forms):
            step(cls, dtype, **more, form=form)
        step(cls, dtype, **more, maximize=True, weight_decay=0.1)
        step(cls, dtype, **more, weight_decay=0.1, decoupled_weight_decay=True)
    step(optim.SGD, dtype, lr=0.1, momentum=0.9)
    step(optim.SGD, dtype, lr=0.1, momentum=0.9, nesterov=True)
    step(optim.RMSprop, dtype, momentum=0.9, centered=True)
    step(optim.Adam, dtype, amsgrad=True)


def functions(dtype):
    """Every function and loss, forward and backward."""
    x = torch.rand(8, 16, dtype=dtype, requires_grad=True)
    other, row = torch.rand_like(x), torch.rand(16, dtype=dtype, requires_grad=True)
    labels, weight = torch.arange(8), torch.rand(16, dtype=torch.promote_types(dtype, torch.float32))
    results = [f(x) for f in (F.relu, F.leaky_relu, F.elu, F.silu, F.sigmoid, F.tanh, F.affine)]
    results += [F.softmax(x, -1), F.log_softmax(x, -1), F.softmax(x, 0), F.prelu(x, row), F.prelu(x, row[:1])]
    results += [F.maxout(x, 2), F.maxout(x, 16), F.maxout(x, 2, 0), F.affine(x, row, row)]
    for reduction in ("none", "mean", "sum"):
        results += [F.mse_loss(x, other, reduction=reduction)]
        results += [F.binary_cross_entropy(x, other, reduction=reduction)]
        results += [F.binary_cross_entropy_with_logits(x, other, pos_weight=row, reduction=reduction)]
        for smoothing in (0.0, 0.1):
            options = dict(reduction=reduction, label_smoothing=smoothing)
            results += [F.cross_entropy(x, labels, **options), F.cross_entropy(x, labels, weight.to(dtype), **options)]
        results += [F.cross_entropy(x, other, reduction=reduction)]
    results += [nn.QuadraticCost()(x, other)]
    for result in results:
        result.sum().backward()
    long = torch.rand(2, 10000, dtype=dtype, requires_grad=True)
    F.softmax(long, -1).sum().backward()
    F.cross_entropy(long, torch.arange(2)).backward()
