#!/usr/bin/env bash
# With set_swap_module_params_on_conversion a model cannot be moved while anybody refers weakly to a parameter.
#
# Versions: torch 2.14.1; the same in 2.11.0 and 2.15.0.
# Guess: a weak reference is no owner; it keeps nothing from being done, and dies or goes on with its object.
# Behaviour: torch.utils.swap_tensors refuses a tensor with a weak reference, and Module.to, double and half, which use it
#   under that flag, raise "Couldn't swap". Without the flag they write into the parameter and do not ask. An optimizer
#   that has stepped is no hindrance.
# Output seen:
#   swap False, weak reference False: torch.float64
#   swap False, weak reference True: torch.float64
#   swap True, weak reference False: torch.float64
#   swap True, weak reference True: RuntimeError: _apply(): Couldn't swap Linear.weight
# Why it matters: a cache in a WeakKeyDictionary, the usual way to keep something beside parameters and not keep them alive,
#   breaks code that has nothing to do with it. Keep ids, or what tensors look like, instead.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check 'torch==2.14.1' numpy==2.3.5
cat > "$folder/program.py" <<'PYTHON'
import weakref

import torch


def converted(is_swapped, is_watched):
    torch.__future__.set_swap_module_params_on_conversion(is_swapped)
    layer = torch.nn.Linear(2, 2)
    watcher = weakref.ref(layer.weight) if is_watched else None
    try:
        return str(layer.double().weight.dtype)
    except RuntimeError as error:
        return f"RuntimeError: {error}"
    finally:
        del watcher


for is_swapped in (False, True):
    for is_watched in (False, True):
        print(f"swap {is_swapped}, weak reference {is_watched}: {converted(is_swapped, is_watched)}")
PYTHON
"$folder/env/bin/python" "$folder/program.py" 2> "$folder/log" | tee "$folder/seen" || cat "$folder/log"
diff "$folder/seen" - <<'SEEN'
swap False, weak reference False: torch.float64
swap False, weak reference True: torch.float64
swap True, weak reference False: torch.float64
swap True, weak reference True: RuntimeError: _apply(): Couldn't swap Linear.weight
SEEN
