#!/usr/bin/env bash
# The profiler shows autograd Functions under other names than theirs.
#
# Versions: torch 2.14.1; the same in 2.11.0 and 2.15.0.
# Guess: a Function is listed under the name of its class.
# Behaviour: forward is, but the name goes through the demangler of C++ first, and a short name may be the code of a type:
#   M, a, x are "pointer to member of signed char, of type long long", P and d "pointer to double". The node of backward
#   has "Backward" behind the name, which is no code, and keeps it.
# Output seen:
#   class Max: forward is shown as long long signed char::*, backward by its name: True
#   class Pd: forward is shown as double*, backward by its name: True
#   class St: forward is shown as St, backward by its name: True
#   class Pair: forward is shown as Pair, backward by its name: True
# Why it matters: who looks for the time of a layer named Max finds nothing, and a line that nobody can explain. Look for
#   MaxBackward, or give the class a longer name.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check 'torch==2.14.1' numpy==2.3.5
cat > "$folder/program.py" <<'PYTHON'
import torch


def shown(name):
    function = type(name, (torch.autograd.Function,), {
        "forward": staticmethod(lambda ctx, x: x.clone()),
        "backward": staticmethod(lambda ctx, g: g.clone()),
    })
    x = torch.ones(2, requires_grad=True)
    with torch.autograd.profiler.profile() as profile:
        function.apply(x).sum().backward()
    names = [event.name for event in profile.function_events if not event.name.startswith("aten::")]
    return names[0], f"{name}Backward" in names


for name in ("Max", "Pd", "St", "Pair"):
    print(f"class {name}: forward is shown as {shown(name)[0]}, backward by its name: {shown(name)[1]}")
PYTHON
"$folder/env/bin/python" "$folder/program.py" 2> "$folder/log" | tee "$folder/seen" || cat "$folder/log"
diff "$folder/seen" - <<'SEEN'
class Max: forward is shown as long long signed char::*, backward by its name: True
class Pd: forward is shown as double*, backward by its name: True
class St: forward is shown as St, backward by its name: True
class Pair: forward is shown as Pair, backward by its name: True
SEEN
