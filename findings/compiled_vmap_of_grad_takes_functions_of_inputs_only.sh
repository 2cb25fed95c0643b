#!/usr/bin/env bash
# Under torch.compile, vmap(grad(f)) takes an autograd Function of the input, and none of an intermediate result.
#
# Versions: torch 2.14.1; the same in 2.11.0.
# Guess: a Function with setup_context and generate_vmap_rule=True, which runs under vmap(grad) in eager mode, runs there
#   compiled, or not at all.
# Behaviour: applied to the argument of grad the compiler takes its forward apart (and differentiates that, not its
#   backward). Applied to anything computed from the argument it becomes a node of the graph, which knows nothing of the
#   Function's rule for vmap, and compiling fails with the advice to set generate_vmap_rule.
# Output seen:
#   of the input, eager: [[2.0, 4.0]]
#   of the input, compiled: [[2.0, 4.0]]
#   of the input times 1, eager: [[2.0, 4.0]]
#   of the input times 1, compiled: InternalTorchDynamoError True
# Why it matters: gradients of each example of a network compile only if Functions come first in it. A torch.library
#   operator, whose kernel applies the Function, compiles in both places.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check 'torch==2.14.1' numpy==2.3.5
cat > "$folder/program.py" <<'PYTHON'
import torch
from torch.func import grad, vmap


class Square(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * x * g


x = torch.tensor([[1.0, 2.0]])
for place, function in {
    "the input": lambda x: Square.apply(x).sum(),
    "the input times 1": lambda x: Square.apply(x * 1).sum(),
}.items():
    print(f"of {place}, eager:", vmap(grad(function))(x).tolist())
    try:
        print(f"of {place}, compiled:", torch.compile(vmap(grad(function)), backend="eager", fullgraph=True)(x).tolist())
    except RuntimeError as error:
        print(f"of {place}, compiled: {type(error).__name__}", "generate_vmap_rule" in str(error))
PYTHON
"$folder/env/bin/python" "$folder/program.py" 2> "$folder/log" | tee "$folder/seen" || cat "$folder/log"
diff "$folder/seen" - <<'SEEN'
of the input, eager: [[2.0, 4.0]]
of the input, compiled: [[2.0, 4.0]]
of the input times 1, eager: [[2.0, 4.0]]
of the input times 1, compiled: InternalTorchDynamoError True
SEEN
