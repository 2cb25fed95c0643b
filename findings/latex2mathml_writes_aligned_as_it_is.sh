#!/usr/bin/env bash
# latex2mathml writes the ampersands of an aligned environment into the MathML, unescaped.
#
# Versions: latex2mathml 3.81.1.
# Guess: aligned is a table, as align, align* and cases are; or it is refused.
# Behaviour: \begin{aligned} is passed over: every & becomes <mi>&</mi>, which is no XML, and \\ a line break that browsers
#   do not know, so that all lines stand in one. align* makes the table.
# Output seen:
#   aligned: no XML (not well-formed (invalid token): line 1, column 92), tables: 0
#   align*: XML, tables: 1
# Why it matters: aligned is how several lines stand in one formula; nothing is said when it is not known.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check 'latex2mathml==3.81.1'
cat > "$folder/program.py" <<'PYTHON'
from xml.etree import ElementTree

from latex2mathml.converter import convert

for name in ("aligned", "align*"):
    mathml = convert(rf"\begin{{{name}}} a &= b \\ c &= d \end{{{name}}}", display="block")
    try:
        ElementTree.fromstring(mathml)
        said = "XML"
    except ElementTree.ParseError as error:
        said = f"no XML ({error})"
    print(f"{name}: {said}, tables: {mathml.count('<mtable')}")
PYTHON
"$folder/env/bin/python" "$folder/program.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
aligned: no XML (not well-formed (invalid token): line 1, column 92), tables: 0
align*: XML, tables: 1
SEEN
