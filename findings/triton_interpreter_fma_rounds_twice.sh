#!/usr/bin/env bash
# In Triton's interpreter tl.fma is a multiplication and an addition, each of which rounds.
#
# Versions: triton 3.8.0 with numpy 2.3.5; the same in 3.6.0, mended in 3.9.0.
# Guess: fma is asked for by name because it rounds once, so the interpreter does that, too: on a device the difference
#   of a product and its rounded value, fma(a, b, -(a * b)), is what rounding took away.
# Behaviour: the interpreter computes x * y + z with NumPy. The difference is 0 for all a and b.
# Output seen (a = b = 1 + 2^-30, where rounding takes 2^-60 from the product):
#   lost by rounding: 0.0, on a device 8.673617379884035e-19
# Why it matters: tests in the interpreter are how kernels are checked without a device. Compensated sums, products of
#   two floats kept exactly, and argument reductions of exp and log come out worse there than they are, or the test
#   is loosened until it no longer sees a real fault.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check 'triton==3.8.0' 'numpy==2.3.5'
cat > "$folder/lost.py" <<'PYTHON'
import numpy as np
import triton
import triton.language as tl


@triton.jit
def lost_by_rounding(a, b, y):
    a = tl.load(a.to(tl.pointer_type(tl.float64)))
    b = tl.load(b.to(tl.pointer_type(tl.float64)))
    product = a * b
    tl.store(y.to(tl.pointer_type(tl.float64)), tl.fma(a, b, -product))


a, b, y = np.array([1 + 2.0**-30]), np.array([1 + 2.0**-30]), np.array([np.nan])
lost_by_rounding[(1,)](a.ctypes.data, b.ctypes.data, y.ctypes.data)
print(f"lost by rounding: {y[0]}, on a device {2.0**-60}")
PYTHON
TRITON_INTERPRET=1 "$folder/env/bin/python" "$folder/lost.py" | tee "$folder/seen"
grep -qx 'lost by rounding: 0.0, on a device 8.673617379884035e-19' "$folder/seen"
