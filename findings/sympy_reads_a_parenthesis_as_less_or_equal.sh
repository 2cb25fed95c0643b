#!/usr/bin/env bash
# sympy's newer LaTeX parser takes \left( for "less or equal", times f, times t.
#
# Versions: sympy 1.14.0, lark 1.3.1.
# Guess: \left( and \right) are parentheses; or, where a product could be the call of a function, an ambiguity of the two.
# Behaviour: parse_latex(..., backend="lark") returns a tree of all the readings it finds, and one of them begins with \le:
#   the token \left is also \le, f, t. So the momentum average of a slide comes back as a comparison of beta with f t.
#   tanh has five readings, among them the tangent of h. Without \left and \right only product and call remain.
# Output seen:
#   \beta \left(1 - x\right): beta <= f*t(1 - x); beta <= f*t*(1 - x); beta(1 - x); beta*(1 - x)
#   \beta (1 - x): beta(1 - x); beta*(1 - x)
#   \tanh\left(x\right): tan(h(x)); tan(h) <= f*t(x); tan(h) <= f*t*x; tan(h*x); tanh(x)
# Why it matters: whoever reads formulas of a paper or of a notebook back with sympy gets no expression but a tree, and
#   the first of its readings may be an inequality.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check sympy==1.14.0 lark==1.3.1
cat > "$folder/program.py" <<'PYTHON'
from sympy.parsing.latex import parse_latex

for text in (r"\beta \left(1 - x\right)", r"\beta (1 - x)", r"\tanh\left(x\right)"):
    print(f"{text}: {'; '.join(sorted(map(str, parse_latex(text, backend='lark').children)))}")
PYTHON
"$folder/env/bin/python" "$folder/program.py" 2> "$folder/log" | tee "$folder/seen" || cat "$folder/log"
diff "$folder/seen" - <<'SEEN'
\beta \left(1 - x\right): beta <= f*t(1 - x); beta <= f*t*(1 - x); beta(1 - x); beta*(1 - x)
\beta (1 - x): beta(1 - x); beta*(1 - x)
\tanh\left(x\right): tan(h(x)); tan(h) <= f*t(x); tan(h) <= f*t*x; tan(h*x); tanh(x)
SEEN
