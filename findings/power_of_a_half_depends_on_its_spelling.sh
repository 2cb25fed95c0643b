#!/usr/bin/env bash
# x ** 0.5 is the square root, x ** [0.5, 0.5] is the power: they differ at -0 and at minus infinity.
#
# Versions: torch 2.14.1, NumPy 2.3.5; the same in torch 2.11.0 and 2.15.0, NumPy 2.4.6.
# Guess: broadcasting a number changes nothing about the result; IEEE 754 and C have pow(-0, 0.5) = 0 and
#   pow(-inf, 0.5) = inf.
# Behaviour: both libraries take sqrt where the exponent is one number that is 0.5, which has -0 and NaN there; an exponent
#   with several elements, in torch also a tensor of one, gets the power.
# Output seen:
#   NumPy, one number: [-0. nan  2.]
#   NumPy, one for each: [ 0. inf  2.]
#   torch, one number: [-0. nan  2.]
#   torch, a tensor of one: [ 0. inf  2.]
#   torch, one for each: [ 0. inf  2.]
# Why it matters: a formula whose exponent becomes a tensor (a learned one, one a channel) or a kernel that calls C's pow
#   has other values at the edges, and one of them is NaN.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check 'torch==2.14.1' numpy==2.3.5
cat > "$folder/program.py" <<'PYTHON'
import numpy as np
import torch

values = [-0.0, -np.inf, 4.0]
a, t = np.array(values), torch.tensor(values)
print("NumPy, one number:", a**0.5)
print("NumPy, one for each:", a ** np.full(3, 0.5))
print("torch, one number:", (t**0.5).numpy())
print("torch, a tensor of one:", (t ** torch.tensor(0.5)).numpy())
print("torch, one for each:", (t ** torch.full((3,), 0.5)).numpy())
PYTHON
"$folder/env/bin/python" "$folder/program.py" 2> "$folder/log" | tee "$folder/seen" || cat "$folder/log"
diff "$folder/seen" - <<'SEEN'
NumPy, one number: [-0. nan  2.]
NumPy, one for each: [ 0. inf  2.]
torch, one number: [-0. nan  2.]
torch, a tensor of one: [ 0. inf  2.]
torch, one for each: [ 0. inf  2.]
SEEN
