#!/usr/bin/env bash
# The slope of prelu at 0 is the weight in backward and 1 in forward mode.
#
# Versions: torch 2.14.1; the same in 2.11.0 and 2.15.0.
# Guess: both modes of differentiation choose the same subgradient, as for every other function with a kink.
# Behaviour: backward takes the left side (x > 0 ? g : w g), forward mode the right one (x >= 0). Of leaky_relu, elu, relu,
#   relu6, hardtanh, hardsigmoid, hardswish, softshrink, hardshrink, threshold, celu, selu, abs and smooth_l1_loss both
#   modes agree at all their kinks.
# Output seen:
#   prelu at 0: jacrev 0.25, jacfwd 1
#   leaky_relu at 0: jacrev 0.25, jacfwd 0.25
#   elu at 0: jacrev 2, jacfwd 2
#   relu at 0: jacrev 0, jacfwd 0
# Why it matters: Jacobians by jacfwd and jacrev differ, and so does whatever checks one mode against the other, wherever
#   an input is exactly 0: after a ReLU, for zero padding, for biases and inputs that are 0 at the start.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check 'torch==2.14.1' numpy==2.3.5
cat > "$folder/program.py" <<'PYTHON'
import torch
from torch.func import jacfwd, jacrev
from torch.nn import functional as F

x = torch.zeros(())
for name, function in {
    "prelu": lambda x: F.prelu(x, torch.tensor([0.25])),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.25),
    "elu": lambda x: F.elu(x, 2.0),
    "relu": F.relu,
}.items():
    print(f"{name} at 0: jacrev {jacrev(function)(x):g}, jacfwd {jacfwd(function)(x):g}")
PYTHON
"$folder/env/bin/python" "$folder/program.py" 2> "$folder/log" | tee "$folder/seen" || cat "$folder/log"
diff "$folder/seen" - <<'SEEN'
prelu at 0: jacrev 0.25, jacfwd 1
leaky_relu at 0: jacrev 0.25, jacfwd 0.25
elu at 0: jacrev 2, jacfwd 2
relu at 0: jacrev 0, jacfwd 0
SEEN
