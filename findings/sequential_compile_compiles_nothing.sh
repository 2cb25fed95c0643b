#!/usr/bin/env bash
# model.compile() of an nn.Sequential compiles nothing.
#
# Versions: torch 2.13.0; the same in 2.11 and 2.12 (2.12 warns if fullgraph=True, 2.13 then raises), mended in 2.14.0.
# Guess: model.compile() is torch.compile(model) in place.
# Behaviour: it compiles the method that calls forward. That lies in torch.nn, as the forward of Sequential, Linear and
#   ReLU do, and frames of torch.nn are on the compiler's list of what to skip: not one frame is left, the backend is
#   never called, and the model runs eagerly without a word. A forward of one's own around the same layers is compiled.
# Output seen (how often the backend was called):
#   torch.compile(sequential): 1
#   sequential.compile(): 0
#   own.compile(): 1
# Why it matters: benchmarks of "compiled" networks made of torch's containers measured eager mode.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check 'torch==2.13.0' numpy==2.3.5
cat > "$folder/calls.py" <<'PYTHON'
import torch
from torch import nn


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = layers()

    def forward(self, x):
        return self.layers(x)


def layers():
    return nn.Sequential(nn.Linear(3, 3), nn.ReLU())


def calls(make):
    count = 0

    def backend(graph, inputs):
        nonlocal count
        count += 1
        return graph.forward

    torch._dynamo.reset()
    make(backend)(torch.ones(2, 3))
    return count


def in_place(model, backend):
    model.compile(backend=backend)
    return model


print("torch.compile(sequential):", calls(lambda backend: torch.compile(layers(), backend=backend)))
print("sequential.compile():", calls(lambda backend: in_place(layers(), backend)))
print("own.compile():", calls(lambda backend: in_place(Own(), backend)))
PYTHON
"$folder/env/bin/python" "$folder/calls.py" 2> "$folder/log" | tee "$folder/seen" || cat "$folder/log"
diff "$folder/seen" - <<'SEEN'
torch.compile(sequential): 1
sequential.compile(): 0
own.compile(): 1
SEEN
