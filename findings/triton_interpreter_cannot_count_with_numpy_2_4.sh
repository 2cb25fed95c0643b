#!/usr/bin/env bash
# Triton 3.6's interpreter cannot run a loop whose bounds a kernel computes, if NumPy is 2.4.
#
# Versions: triton 3.6.0 (which torch 2.11 pins) with numpy 2.4.6 (which pip takes beside it); mended in 3.7.0. With
#   numpy 2.3 it runs and warns of a deprecation.
# Guess: the interpreter is NumPy, so any NumPy that installs beside it will do.
# Behaviour: range(n) asks the kernel's n for an index, for which the interpreter calls int() on an array of one
#   element. NumPy has deprecated that since 1.25, and since 2.4 it takes arrays without dimensions only.
# Output seen:
#   numpy 2.3.5: 0 + 1 + 2 = 3
#   numpy 2.4.6: TypeError: only 0-dimensional arrays can be converted to Python scalars
# Why it matters: whoever tests kernels without a device on torch 2.11 must hold NumPy below 2.4; nothing in the
#   metadata of either package says so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/count.py" <<'PYTHON'
import sys

import numpy as np
import triton
import triton.language as tl


@triton.jit
def add_up(count, y):
    n = tl.load(count.to(tl.pointer_type(tl.int64)))
    total = 0.0
    for k in range(n):
        total += k
    tl.store(y.to(tl.pointer_type(tl.float64)), total)


count, y = np.array([3]), np.array([np.nan])
try:
    add_up[(1,)](count.ctypes.data, y.ctypes.data)
    print(f"numpy {np.__version__}: 0 + 1 + 2 = {y[0]:.0f}")
except Exception as error:
    while error.__cause__ is not None:
        error = error.__cause__
    print(f"numpy {np.__version__}: {type(error).__name__}: {error}")
PYTHON
for numpy in 2.3.5 2.4.6; do
    python3 -m venv --clear "$folder/env"
    "$folder/env/bin/pip" install --quiet --disable-pip-version-check 'triton==3.6.0' "numpy==$numpy"
    TRITON_INTERPRET=1 "$folder/env/bin/python" -W ignore "$folder/count.py" | tee -a "$folder/seen"
done
diff "$folder/seen" - <<'SEEN'
numpy 2.3.5: 0 + 1 + 2 = 3
numpy 2.4.6: TypeError: only 0-dimensional arrays can be converted to Python scalars
SEEN
