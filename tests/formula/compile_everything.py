"""Compile every kernel that the package launches, for a device that need not be there; see test_triton.py.

Run as a script with a compute capability, such as 90, and "all" or "some", without Triton's interpreter. The whole
package, or a little of it, is called on CPU tensors, with an engine that compiles each kernel instead of running it.
Prints, as JSON, what is to be known of each.
"""

import json
import re
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import torch_lecture_ops.nn.functional as F
from torch_lecture_ops import nn, optim
from torch_lecture_ops.formula import COMPILED, triton_engine
from torch_lecture_ops.formula.compiled import TRITON

found = []


def compile_only(function, device, arguments, constants, num_warps):
    """Instead of `Function._build`: compiled for a device of this compute capability; a launch does nothing."""
    compile_one(function._function, arguments, constants, num_warps)
    if len(found) % 4 == 0:  # of memory that is not aligned, of which there is none on a CPU, every fourth
        compile_one(function._function, arguments, (*constants[:-1], False), num_warps)
    return lambda programs, *given: None


def compile_one(kernel, arguments, constants, num_warps):
    names = [parameter.name for parameter in kernel.params]
    types = {parameter.name: parameter.annotation_type or "constexpr" for parameter in kernel.params}
    source = ASTSource(kernel, types, dict(zip(names[len(arguments) :], constants, strict=True)))
    options = {"num_warps": num_warps, "enable_fp_fusion": False}
    built = triton.compile(source, target=GPUTarget("cuda", int(sys.argv[1]), 32), options=options)
    stack = bytes_of_stack(built.asm["cubin"])
    found.append({"text": kernel.src, "ptx": built.asm["ptx"], "stack": stack, "is_aligned": bool(constants[-1])})


def bytes_of_stack(cubin):
    """What does not fit into registers."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return sum(map(int, re.findall(r"(?:STACK|LOCAL):(\d+)", said)))


def step(make, dtype, **options):
    p = torch.nn.Parameter(torch.ones(8, dtype=dtype))
    p.grad = torch.ones_like(p)
    optimizer = make([p], fused=True, **options)
    for _ in range(2):  # the first step may be another formula
        with getattr(optimizer, "lookahead", nullcontext)():  # Nesterov asks for it
            pass
        optimizer.step()
    assert optimizer.engine == "triton"


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


if __name__ == "__main__":
    COMPILED["cpu"] = TRITON
    triton_engine.Function._build = compile_only
    is_all = sys.argv[2] == "all"
    if is_all:
        rules(torch.float32)
        functions(torch.float32)
    for dtype in (torch.bfloat16, torch.float64) if is_all else (torch.bfloat16,):
        step(optim.NAdam, dtype, lr=0.1, kahan=dtype.itemsize == 2)
        F.cross_entropy(torch.rand(8, 16, dtype=dtype, requires_grad=True), torch.arange(8)).backward()
        F.tanh(torch.rand(16, dtype=dtype, requires_grad=True)).sum().backward()
    json.dump(found, sys.stdout)
