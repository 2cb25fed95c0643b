"""What gcc makes of the C engine's loops: vector code, on CPUs with AVX-512 and on those with AVX2 alone."""

import json
import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, product
from pathlib import Path

import pytest

from torch_lecture_ops.formula.c_compiler import FLAGS

pytestmark = [pytest.mark.needs_compiler, pytest.mark.processes]

# For each level the dtypes of which some kernels are enough: the others are looked at on the other level.
LEVELS = {"x86-64-v3": ("float32", "bfloat16"), "x86-64-v4": ("float64", "float16")}


@pytest.fixture(scope="module")
def gcc():
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    said = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True).stdout
    if "Free Software Foundation" not in said:
        pytest.skip(f"only gcc tells which loops it vectorizes, this is {said.splitlines()[0]}")
    return compiler


@pytest.fixture(scope="module")
def written():
    """All kernels of the package, each text once."""
    script = Path(__file__).with_name("write_everything.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    kernels = {kernel["source"]: kernel for kernel in json.loads(done.stdout)}
    assert len(kernels) > 350
    return list(kernels.values())


def covering(kernels, dtypes):
    """A few of them in which each operation occurs in each of these dtypes."""
    operations = [set(product(kernel["operations"], {kernel["dtypes"][0]}.intersection(dtypes))) for kernel in kernels]
    missing, taken = set.union(*operations), []
    while missing:
        best = max(range(len(kernels)), key=lambda number: len(operations[number] & missing))
        missing -= operations[best]
        taken.append(kernels[best])
    return taken


def element_loops(source):
    """The innermost loops over elements: the lines of each, by numbers, and whether it is that of a short row."""
    lines = source.splitlines()
    for first, line in enumerate(lines):
        if head := re.match(r"( *)for \(int\d+_t [jk] = \w+; [jk] < (to|end|whole|LANES); [jk]\+\+\) {$", line):
            last = lines.index(head[1] + "}", first)
            yield range(first + 1, last + 2), head[2] == "LANES"


def can_be_masked(kernel, level):
    """Whether rows that are shorter than a vector can be a part of one.

    AVX2 loads and stores no parts of bytes and half types, gcc none of every second element or of bytes beside floats.
    """
    narrow = {"bfloat16", "float16"}.intersection(kernel["dtypes"])
    return not kernel["has_gaps"] and "uint8" not in kernel["dtypes"] and (level != "x86-64-v3" or not narrow)


def loops_left(gcc, level, folder, numbered):
    """The loops of a kernel that gcc does not vectorize."""
    number, kernel = numbered
    file = folder / f"{number}.c"
    file.write_text(kernel["source"])
    flags = [*FLAGS, f"-march={level}", "-fopt-info-vec-optimized", "-S", "-o", os.devnull]
    done = subprocess.run([*gcc, *flags, file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    vectorized = set(map(int, re.findall(rf"{number}\.c:(\d+):\d+: optimized: loop vectorized", done.stderr)))
    loops = list(element_loops(kernel["source"]))
    assert loops
    lines = kernel["source"].splitlines()
    return [
        f"{kernel['name']} {kernel['dtypes']}: " + "\n".join(lines[k - 1] for k in loop)
        for loop, is_short in loops
        if not vectorized.intersection(loop) and (not is_short or can_be_masked(kernel, level))
    ]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("which", ["some", pytest.param("all", marks=pytest.mark.slow)])
def test_gcc_vectorizes_every_loop_over_elements(gcc, written, level, which, tmp_path):
    kernels = written if which == "all" else covering(written, LEVELS[level])
    with ThreadPoolExecutor(2) as pool:
        left = list(pool.map(partial(loops_left, gcc, level, tmp_path), enumerate(kernels)))
    assert not list(chain.from_iterable(left))
