#!/usr/bin/env bash
# make_fx(pre_dispatch=True) makes constants of what backward has saved, where that is the output.
#
# Versions: torch 2.14.1.
# Guess: a graph traced with one input computes the gradient for another input, or tracing raises.
# Behaviour: with pre_dispatch=True a gradient taken inside of the traced function is right for functions that save their
#   input (silu), and for those that save their output (relu, sigmoid, tanh, exp) it is for ever that of the example
#   input: the graph has a constant in the place of the output. There is no warning. Without pre_dispatch all is well.
# Output seen:
#   silu: right True, with pre_dispatch True, a constant in its graph False
#   relu: right True, with pre_dispatch False, a constant in its graph True
#   sigmoid: right True, with pre_dispatch False, a constant in its graph True
#   tanh: right True, with pre_dispatch False, a constant in its graph True
#   exp: right True, with pre_dispatch False, a constant in its graph True
# Why it matters: graphs with joint forward and backward are traced so by tools that want operators as they were called;
#   they train on the gradients of the example. Trace without pre_dispatch, or look for _tensor_constant in the graph.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check 'torch==2.14.1' numpy==2.3.5
cat > "$folder/program.py" <<'PYTHON'
import torch
from torch.fx.experimental.proxy_tensor import make_fx

for name in ("silu", "relu", "sigmoid", "tanh", "exp"):
    function = getattr(torch, name, None) or getattr(torch.nn.functional, name)

    def slope(x):
        return torch.autograd.grad(function(x).sum(), x)[0]

    example = torch.tensor([-2.0, -1.0], requires_grad=True)
    other = torch.tensor([1.0, 2.0], requires_grad=True)
    right = []
    for early in (False, True):
        graph = make_fx(slope, pre_dispatch=early)(example)
        right.append(torch.allclose(graph(other), slope(other)))
        frozen = any("_tensor_constant" in str(node.target) for node in graph.graph.nodes)
    print(f"{name}: right {right[0]}, with pre_dispatch {right[1]}, a constant in its graph {frozen}")
PYTHON
"$folder/env/bin/python" "$folder/program.py" 2> "$folder/log" | tee "$folder/seen" || cat "$folder/log"
diff "$folder/seen" - <<'SEEN'
silu: right True, with pre_dispatch True, a constant in its graph False
relu: right True, with pre_dispatch False, a constant in its graph True
sigmoid: right True, with pre_dispatch False, a constant in its graph True
tanh: right True, with pre_dispatch False, a constant in its graph True
exp: right True, with pre_dispatch False, a constant in its graph True
SEEN
