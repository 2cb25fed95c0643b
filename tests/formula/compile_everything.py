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
from pathlib import Path

import torch
import triton
from everything import functions, rules, step
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import torch_lecture_ops.nn.functional as F
from torch_lecture_ops import optim
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
