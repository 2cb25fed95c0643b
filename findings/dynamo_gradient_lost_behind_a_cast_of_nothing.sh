#!/usr/bin/env bash
# Compiled, an autograd Function whose forward ends in x.to(x.dtype) has a gradient of 0.
#
# Versions: torch 2.11.0; mended in 2.12.0.
# Guess: a cast that has nothing to do returns its argument, so it changes nothing.
# Behaviour: the compiler sees the same tensor come out twice, takes the output for one that does not depend on the
#   inputs, and hands back zeros: no error, no warning, the value is right. The same behind .float(), .contiguous() and
#   .conj() where they return their argument; not behind a view, nor behind a cast that does something. So a layer
#   trains in bfloat16, whose result is cast, and stands still in float32.
# Output seen (the gradient of 2 x at three places):
#   eager: [2.0, 2.0, 2.0]
#   compiled, ending in a product: [2.0, 2.0, 2.0]
#   compiled, ending in .to(x.dtype): [0.0, 0.0, 0.0]
#   compiled, ending in .contiguous(): [0.0, 0.0, 0.0]
#   compiled, in bfloat16, ending in .to(x.dtype): [2.0, 2.0, 2.0]
# Why it matters: "compute in float32, cast back" is how every Function for half types is written. End with
#   y.view_as(y) where torch 2.11 is supported.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check 'torch==2.11.0' numpy==2.3.5
cat > "$folder/gradients.py" <<'PYTHON'
import torch


def doubling(end):
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return end(2 * x.float(), x)

        @staticmethod
        def backward(ctx, g):
            return 2 * g

    return Double.apply


def gradient(function, compiled=True, dtype=torch.float32):
    torch._dynamo.reset()
    x = torch.tensor([1.0, 2.0, 3.0], dtype=dtype, requires_grad=True)
    call = torch.compile(lambda x: function(x), backend="eager", fullgraph=True) if compiled else function
    return torch.autograd.grad(call(x).sum(), x)[0].tolist()


def cast(y, x):
    return y.to(x.dtype)


print("eager:", gradient(doubling(cast), compiled=False))
print("compiled, ending in a product:", gradient(doubling(lambda y, x: y)))
print("compiled, ending in .to(x.dtype):", gradient(doubling(cast)))
print("compiled, ending in .contiguous():", gradient(doubling(lambda y, x: y.contiguous())))
print("compiled, in bfloat16, ending in .to(x.dtype):", gradient(doubling(cast), dtype=torch.bfloat16))
PYTHON
"$folder/env/bin/python" "$folder/gradients.py" 2> "$folder/log" | tee "$folder/seen" || cat "$folder/log"
diff "$folder/seen" - <<'SEEN'
eager: [2.0, 2.0, 2.0]
compiled, ending in a product: [2.0, 2.0, 2.0]
compiled, ending in .to(x.dtype): [0.0, 0.0, 0.0]
compiled, ending in .contiguous(): [0.0, 0.0, 0.0]
compiled, in bfloat16, ending in .to(x.dtype): [2.0, 2.0, 2.0]
SEEN
