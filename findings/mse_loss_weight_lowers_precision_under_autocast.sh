#!/usr/bin/env bash
# A weight of ones takes mse_loss from float32 to a half type under autocast.
#
# Versions: torch 2.14.1; the same in 2.11.0 and 2.15.0.
# Guess: mse_loss is among the functions that autocast computes in float32, with a weight or without.
# Behaviour: with a weight the function is composed of pow, mul and sum, of which autocast does not change the types: the
#   squares are rounded to the half type, and in float16 errors of 256 and more have no finite square.
# Output seen:
#   torch.bfloat16, without a weight of ones: 90000 in torch.float32
#   torch.bfloat16, with a weight of ones: 90112 in torch.bfloat16
#   torch.float16, without a weight of ones: 90000 in torch.float32
#   torch.float16, with a weight of ones: inf in torch.float16
# Why it matters: a weighted regression overflows where the same one without weights trains; the remedy is to call
#   .float() on input and target.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check 'torch==2.14.1' numpy==2.3.5
cat > "$folder/program.py" <<'PYTHON'
import torch
from torch.nn.functional import mse_loss

for dtype in (torch.bfloat16, torch.float16):
    a, y, one = torch.full((2,), 300.0, dtype=dtype), torch.zeros(2, dtype=dtype), torch.ones(2, dtype=dtype)
    with torch.autocast("cpu", dtype):
        for name, loss in (("without", mse_loss(a, y)), ("with", mse_loss(a, y, weight=one))):
            print(f"{dtype}, {name} a weight of ones: {loss.item():g} in {loss.dtype}")
PYTHON
"$folder/env/bin/python" "$folder/program.py" 2> "$folder/log" | tee "$folder/seen" || cat "$folder/log"
diff "$folder/seen" - <<'SEEN'
torch.bfloat16, without a weight of ones: 90000 in torch.float32
torch.bfloat16, with a weight of ones: 90112 in torch.bfloat16
torch.float16, without a weight of ones: 90000 in torch.float32
torch.float16, with a weight of ones: inf in torch.float16
SEEN
