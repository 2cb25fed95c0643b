#!/usr/bin/env bash
# sympy's LaTeX parser returns the part of a formula that it could read, without a word about the rest.
#
# Versions: sympy 1.14.0, antlr4-python3-runtime 4.11.1.
# Guess: a bar that it cannot read is an error, an accent makes another variable, an upright e is Euler's number.
# Behaviour: parse_latex stops where an expression might end: a factor \left|x\right| and all after it are gone. (|x| is
#   read.) An unknown command is a variable times its argument: \hat{m} is hat times m, so that the hats of m and v cancel
#   in Adam's step; \mathrm{e} is e times a variable called mathrm. Asked to be strict, it refuses the bar alone.
# Output seen:
#   2 \left|x\right| + 1: 2
#   2 |x| + 1: 2*Abs(x) + 1
#   \frac{\hat{m}}{\hat{v}}: (hat*m)/((hat*v))
#   \mathrm{e}^{-x}: mathrm/e**x
#   strict, 2 \left|x\right| + 1: LaTeXParsingError
#   strict, \hat{m}: hat*m
# Why it matters: a formula of a paper that is checked by way of sympy loses terms silently; compare what was read with
#   what was written, or evaluate the text some other way.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check sympy==1.14.0 antlr4-python3-runtime==4.11.1
cat > "$folder/program.py" <<'PYTHON'
from sympy.parsing.latex import LaTeXParsingError, parse_latex

for text in (r"2 \left|x\right| + 1", "2 |x| + 1", r"\frac{\hat{m}}{\hat{v}}", r"\mathrm{e}^{-x}"):
    print(f"{text}: {parse_latex(text)}")
for text in (r"2 \left|x\right| + 1", r"\hat{m}"):
    try:
        print(f"strict, {text}: {parse_latex(text, strict=True)}")
    except LaTeXParsingError as error:
        print(f"strict, {text}: {type(error).__name__}")
PYTHON
"$folder/env/bin/python" "$folder/program.py" 2> "$folder/log" | tee "$folder/seen" || cat "$folder/log"
diff "$folder/seen" - <<'SEEN'
2 \left|x\right| + 1: 2
2 |x| + 1: 2*Abs(x) + 1
\frac{\hat{m}}{\hat{v}}: (hat*m)/((hat*v))
\mathrm{e}^{-x}: mathrm/e**x
strict, 2 \left|x\right| + 1: LaTeXParsingError
strict, \hat{m}: hat*m
SEEN
