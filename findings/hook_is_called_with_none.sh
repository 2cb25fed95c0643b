#!/usr/bin/env bash
# A tensor's hook is called although its tensor has no gradient, and is given None.
#
# Versions: torch 2.14.1; the same in 2.11.0 and 2.15.0.
# Guess: Tensor.register_hook is called each time a gradient for the tensor is computed, with that gradient; that is its
#   documentation. Nobody uses the tensor, so it is not called.
# Behaviour: where several tensors come out of one operation (unbind, split, chunk, a Function or a recurrent layer) and one
#   of them is used, the hooks of the others are called with None. Of a tensor alone they are not.
# Output seen:
#   unbind: the hook of the unused one is called with [None]
#   chunk: the hook of the unused one is called with [None]
#   two views: the hook of the unused one is called with []
# Why it matters: a hook that clips, scales or measures (lambda g: g * 2) ends the training with a TypeError as soon as one
#   output of a layer is not used; the hook must ask for None.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check 'torch==2.14.1' numpy==2.3.5
cat > "$folder/program.py" <<'PYTHON'
import torch

for name, split in {
    "unbind": lambda x: x.unbind(0),
    "chunk": lambda x: x.chunk(2),
    "two views": lambda x: (x[0], x[1]),
}.items():
    seen = []
    used, unused = split(torch.ones(2, 3, requires_grad=True) * 1)
    unused.register_hook(seen.append)
    used.sum().backward()
    print(f"{name}: the hook of the unused one is called with {seen}")
PYTHON
"$folder/env/bin/python" "$folder/program.py" 2> "$folder/log" | tee "$folder/seen" || cat "$folder/log"
diff "$folder/seen" - <<'SEEN'
unbind: the hook of the unused one is called with [None]
chunk: the hook of the unused one is called with [None]
two views: the hook of the unused one is called with []
SEEN
