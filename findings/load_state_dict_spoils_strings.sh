#!/usr/bin/env bash
# Optimizer.load_state_dict makes the text of a generator out of every string in the state.
#
# Versions: torch 2.14.1; the same in 2.11.0 and 2.15.0.
# Guess: what somebody keeps in optimizer.state[p] is loaded as it was saved; torch casts tensors only.
# Behaviour: to find tensors inside of lists the load goes through everything that is iterable and rebuilds it as
#   type(value)(generator). A list, a tuple, a set and bytes come out as they were, a str becomes the generator's text, in
#   dicts and lists as well. Dicts are handled before, other kinds (a range) raise.
# Output seen:
#   str: '<generator object Optimizer.load_state_dict.<locals>._cast.<locals>.<genexpr>
#   bytes: as it was
#   list: as it was
#   list of str: ['<generator object Optimizer.load_state_dict.<locals>._cast.<locals>.<genexpr>
#   set: as it was
#   int: as it was
# Why it matters: the name of a phase or a mode kept beside the moments is lost at the first resume, without an error.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check 'torch==2.14.1' numpy==2.3.5
cat > "$folder/program.py" <<'PYTHON'
import torch

p = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.SGD([p], lr=0.1)
kept = {"str": "warm", "bytes": b"warm", "list": [1, 2], "list of str": ["warm"], "set": {1}, "int": 3}
optimizer.state[p] = dict(kept)
optimizer.load_state_dict(optimizer.state_dict())
for name, before in kept.items():
    after = optimizer.state[p][name]
    print(f"{name}:", "as it was" if after == before else f"{after!r}".split(" at 0x")[0])
PYTHON
"$folder/env/bin/python" "$folder/program.py" 2> "$folder/log" | tee "$folder/seen" || cat "$folder/log"
diff "$folder/seen" - <<'SEEN'
str: '<generator object Optimizer.load_state_dict.<locals>._cast.<locals>.<genexpr>
bytes: as it was
list: as it was
list of str: ['<generator object Optimizer.load_state_dict.<locals>._cast.<locals>.<genexpr>
set: as it was
int: as it was
SEEN
