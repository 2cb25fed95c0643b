#!/usr/bin/env bash
# The first optimizer that a process builds imports torch._dynamo, which import torch takes care not to do.
#
# Versions: torch 2.14.1; the same in 2.15.0.
# Guess: a program that compiles nothing never loads the compiler.
# Behaviour: Optimizer.add_param_group is wrapped so that the compiler leaves it alone, and the wrapper imports the compiler
#   the first time it is called: hundreds of modules, as many seconds again as import torch itself takes.
# Output seen:
#   the compiler is loaded after import torch: False
#   after an optimizer is built: True
#   with more than 500 further modules: True
# Why it matters: command lines that build an optimizer before they print their help, and many short tests, pay for it;
#   timings of "the first step" are mostly this import.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check 'torch==2.14.1' numpy==2.3.5
cat > "$folder/program.py" <<'PYTHON'
import sys

import torch

p = torch.nn.Parameter(torch.ones(1))
print("the compiler is loaded after import torch:", "torch._dynamo" in sys.modules)
before = len(sys.modules)
torch.optim.SGD([p], lr=0.1)
print("after an optimizer is built:", "torch._dynamo" in sys.modules)
print("with more than 500 further modules:", len(sys.modules) - before > 500)
PYTHON
"$folder/env/bin/python" "$folder/program.py" 2> "$folder/log" | tee "$folder/seen" || cat "$folder/log"
diff "$folder/seen" - <<'SEEN'
the compiler is loaded after import torch: False
after an optimizer is built: True
with more than 500 further modules: True
SEEN
