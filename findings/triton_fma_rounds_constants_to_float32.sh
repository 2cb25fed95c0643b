#!/usr/bin/env bash
# Triton's tl.fma makes a float32 of a Python number, also where the other operands are float64.
#
# Versions: triton 3.8.0 (that of torch 2.14); the same in 3.6.0 (torch 2.11), mended in 3.9.0 (torch 2.15).
# Guess: a number takes the type of the tensors it meets, as in x * (1 / 3) + 0.0, where 1/3 is a double.
# Behaviour: fma turns each operand into a tensor by itself first, a number into a float32, and only then promotes the
#   three to float64. The constant in the compiled kernel is 1/3 rounded to 24 bits; nothing warns.
# Output seen (the constants of both kernels in the PTX for compute capability 9.0, no device needed):
#   plain ['0d3FD5555555555555', '0d0000000000000000']
#   fused ['0d3FD5555560000000', '0d0000000000000000']
# Why it matters: polynomials are written with fma. In float64 each coefficient loses 29 bits, and a logarithm that is
#   carried in two doubles is no better than one in float32. Write tl.full((), 1 / 3, tl.float64).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check 'triton==3.8.0'
cat > "$folder/constants.py" <<'PYTHON'
import re

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def plain(x, y):
    tl.store(y, tl.load(x) * (1 / 3) + 0.0)


@triton.jit
def fused(x, y):
    tl.store(y, tl.fma(tl.load(x), 1 / 3, 0.0))


for kernel in (plain, fused):
    source = ASTSource(kernel, {"x": "*fp64", "y": "*fp64"}, {})
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    print(kernel.__name__, re.findall("0d[0-9A-F]{16}", built.asm["ptx"]))
PYTHON
TRITON_CACHE_DIR="$folder/cache" "$folder/env/bin/python" "$folder/constants.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
plain ['0d3FD5555555555555', '0d0000000000000000']
fused ['0d3FD5555560000000', '0d0000000000000000']
SEEN
