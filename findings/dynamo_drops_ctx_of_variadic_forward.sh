#!/usr/bin/env bash
# torch.compile takes the context away from an autograd Function whose forward is forward(ctx, *inputs).
#
# Versions: torch 2.14.1; the same in 2.11, 2.12 and 2.13, mended in 2.15.0.
# Guess: whether a Function has ctx as its first argument depends on its having a setup_context, not on how many values
#   one call passes.
# Behaviour: where no gradient is wanted, the compiler counts: as many arguments as forward has parameters means a
#   forward without ctx. forward(ctx, *inputs) has two parameters, so a call with two values loses ctx, and the first
#   value takes its place; with one value or three, with a gradient, or without the compiler, all is well.
# Output seen:
#   eager, no gradient, 1 to 3 values: [1, 2, 3]
#   compiled, with gradients, 1 to 3 values: [1, 2, 3]
#   compiled, no gradient, 1 to 3 values: [1, 1, 3]
# Why it matters: a layer trains compiled and fails, or silently computes with other arguments, in inference. A Function
#   with a fixed list of parameters is safe, and so is a forward with an empty __signature__.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check 'torch==2.14.1' numpy==2.3.5
cat > "$folder/count.py" <<'PYTHON'
import torch


class Count(torch.autograd.Function):
    """How many values it is called with, as a tensor of the first one's shape."""

    @staticmethod
    def forward(ctx, *inputs):
        return torch.zeros_like(inputs[0]) + len(inputs)

    @staticmethod
    def backward(ctx, g):
        return (g, None, None)[: len(ctx.needs_input_grad)]


def counts(compiled, gradient):
    seen = []
    for values in ([1.0], [1.0, 2.0], [1.0, 2.0, 3.0]):
        torch._dynamo.reset()
        call = torch.compile(Count.apply, backend="eager", fullgraph=True) if compiled else Count.apply
        tensors = [torch.tensor(value, requires_grad=gradient and not n) for n, value in enumerate(values)]
        seen.append(int(call(*tensors)))
    return seen


print("eager, no gradient, 1 to 3 values:", counts(False, False))
print("compiled, with gradients, 1 to 3 values:", counts(True, True))
print("compiled, no gradient, 1 to 3 values:", counts(True, False))
PYTHON
"$folder/env/bin/python" "$folder/count.py" 2> "$folder/log" | tee "$folder/seen" || cat "$folder/log"
diff "$folder/seen" - <<'SEEN'
eager, no gradient, 1 to 3 values: [1, 2, 3]
compiled, with gradients, 1 to 3 values: [1, 2, 3]
compiled, no gradient, 1 to 3 values: [1, 1, 3]
SEEN
