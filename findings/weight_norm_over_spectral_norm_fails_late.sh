#!/usr/bin/env bash
# weight_norm may be put on a layer with spectral_norm, and then the layer cannot be used; the other order can.
#
# Versions: torch 2.14.1; the same in 2.11.0 and 2.15.0.
# Guess: parametrizations compose in either order, or registering the second one raises.
# Behaviour: weight_norm splits the weight in two, which only the first parametrization of a weight may do.
#   register_parametrization lets it pass, for the weight it hands on is there already; the first forward calls it with one
#   tensor instead of two.
# Output seen:
#   spectral_norm(weight_norm(layer)) is built
#   spectral_norm(weight_norm(layer)) gives (2, 3)
#   weight_norm(spectral_norm(layer)) is built
#   weight_norm(spectral_norm(layer)) raises TypeError: _WeightNorm.forward() missing 1 required positional argument: 'weight_v'
# Why it matters: the model is built, moved and given to an optimizer before it fails, with an error that names no layer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check 'torch==2.14.1' numpy==2.3.5
cat > "$folder/program.py" <<'PYTHON'
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

for outer, inner in ((spectral_norm, weight_norm), (weight_norm, spectral_norm)):
    name = f"{outer.__name__}({inner.__name__}(layer))"
    layer = outer(inner(nn.Linear(3, 3)))
    print(f"{name} is built")
    try:
        print(f"{name} gives", tuple(layer(torch.ones(2, 3)).shape))
    except TypeError as error:
        print(f"{name} raises TypeError: {error}")
PYTHON
"$folder/env/bin/python" "$folder/program.py" 2> "$folder/log" | tee "$folder/seen" || cat "$folder/log"
diff "$folder/seen" - <<'SEEN'
spectral_norm(weight_norm(layer)) is built
spectral_norm(weight_norm(layer)) gives (2, 3)
weight_norm(spectral_norm(layer)) is built
weight_norm(spectral_norm(layer)) raises TypeError: _WeightNorm.forward() missing 1 required positional argument: 'weight_v'
SEEN
