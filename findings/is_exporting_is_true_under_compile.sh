#!/usr/bin/env bash
# torch.compiler.is_exporting() is True under torch.compile.
#
# Versions: torch 2.11.0; False, as documented, in 2.14.1 and 2.15.0.
# Guess: it is True only while torch.export follows, which is what its documentation says and what sets it apart from
#   is_compiling.
# Behaviour: the compiler takes every question after its state for a constant, and has True for this one, too. Called
#   outside of a compiled function it is right.
# Output seen:
#   eager: False
#   compiled: True
#   exported: True
# Why it matters: code that leaves something out of exported programs (an operator of its own, a cache, a check) leaves it
#   out of compiled ones as well, without a word.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check 'torch==2.11.0' numpy==2.3.5
cat > "$folder/program.py" <<'PYTHON'
import torch


class Told(torch.nn.Module):
    def forward(self, x):
        return x + 1 if torch.compiler.is_exporting() else x


told, x = Told(), torch.zeros(())
print("eager:", bool(told(x)))
print("compiled:", bool(torch.compile(told, backend="eager")(x)))
print("exported:", bool(torch.export.export(told, (x,)).module()(x)))
PYTHON
"$folder/env/bin/python" "$folder/program.py" 2> "$folder/log" | tee "$folder/seen" || cat "$folder/log"
diff "$folder/seen" - <<'SEEN'
eager: False
compiled: True
exported: True
SEEN
