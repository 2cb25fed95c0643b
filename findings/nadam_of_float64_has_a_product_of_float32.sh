#!/usr/bin/env bash
# torch.optim.NAdam computes with float64 parameters as if some of its digits were of float32; Adam does not.
#
# Versions: torch 2.14.1.
# Guess: state of float64 parameters is float64, so a NAdam written again in double precision agrees to 1e-12, like Adam.
# Behaviour: the product of the momenta, mu_product, has torch's default dtype, whatever that of the parameters is, and is
#   rounded to it at each step; so the steps are off by 1e-8 of their size unless the default is float64 as well. Adam's
#   number of steps has the same dtype, but is a whole number, which float32 holds.
# Output seen:
#   Adam: the path of float64 parameters depends on the default dtype: False
#   NAdam: mu_product torch.float32, the path depends on it: True, by between 1e-10 and 1e-7: True
# Why it matters: whoever checks a NAdam in another language, or by finite differences in float64, looks for an error of
#   1e-8 that is not theirs; set the default dtype to float64 first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check 'torch==2.14.1' numpy==2.3.5
cat > "$folder/program.py" <<'PYTHON'
import torch


def path(cls, default):
    """200 steps down a bowl with float64 parameters."""
    torch.set_default_dtype(default)
    p = torch.nn.Parameter(torch.tensor([-2.5, 1.5], dtype=torch.float64))
    optimizer = cls([p], lr=0.5, foreach=False)
    points = []
    for _ in range(200):
        p.grad = p.detach().clone()
        optimizer.step()
        points.append(p.detach().clone())
    return torch.stack(points), optimizer.state[p]


def off(cls):
    (one, state), (other, _) = path(cls, torch.float32), path(cls, torch.float64)
    return (one - other).abs().max().item(), state


print("Adam: the path of float64 parameters depends on the default dtype:", off(torch.optim.Adam)[0] > 0)
most, state = off(torch.optim.NAdam)
print(f"NAdam: mu_product {state['mu_product'].dtype}, the path depends on it: {most > 0}, "
      f"by between 1e-10 and 1e-7: {1e-10 < most < 1e-7}")
PYTHON
"$folder/env/bin/python" "$folder/program.py" 2> "$folder/log" | tee "$folder/seen" || cat "$folder/log"
diff "$folder/seen" - <<'SEEN'
Adam: the path of float64 parameters depends on the default dtype: False
NAdam: mu_product torch.float32, the path depends on it: True, by between 1e-10 and 1e-7: True
SEEN
