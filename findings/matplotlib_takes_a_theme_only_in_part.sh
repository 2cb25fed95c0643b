#!/usr/bin/env bash
# Of a figure that matplotlib draws under a style, half of the colours are those of the style, half those of whoever saves.
#
# Versions: matplotlib 3.11.2.
# Guess: rc_context holds for what is made inside of it, or for what is saved inside of it.
# Behaviour: a line without a colour takes one from the cycle when it is made, so it keeps that of the style. A line, a
#   marker's face or a text of colour "C0" keeps the name, which is looked up when the figure is drawn: outside of the
#   context it is the "C0" of the user's own style, also in the legend. Spines and labels are as they were made, and the
#   paper's colour of savefig ("auto") is the figure's. So two lines that were of one colour are of two in the file.
# Output seen:
#   made and saved inside: line #ff0000, "C0" #ff0000
#   made inside, saved outside: line #ff0000, "C0" #1f77b4
# Why it matters: a function that returns a figure in a dark theme, as those of a plotting library do, returns one whose
#   curves no longer match the markers on them; resolve the names at once: matplotlib.colors.to_rgba("C0").
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check matplotlib==3.11.2
cat > "$folder/program.py" <<'PYTHON'
import io

import numpy as np
from matplotlib import cycler, rc_context
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

STYLE = {"axes.prop_cycle": cycler(color=["#ff0000", "#00ff00"])}


def made():
    figure = Figure(figsize=(1, 1), dpi=100, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.plot([0, 1], [1, 1], linewidth=20)
    axes.plot([0, 1], [0, 0], linewidth=20, color="C0")
    return figure


def colours(figure):
    """Of the two lines in the picture."""
    figure.savefig(buffer := io.BytesIO(), format="rgba")
    pixels = np.frombuffer(buffer.getvalue(), np.uint8).reshape(100, 100, 4)[:, 50, :3]
    seen = [to_hex(pixel / 255) for pixel in pixels if (pixel < 255).any()]
    return f'line {seen[len(seen) // 4]}, "C0" {seen[-len(seen) // 4]}'


with rc_context(STYLE):
    figure = made()
    print("made and saved inside:", colours(made()))
print("made inside, saved outside:", colours(figure))
PYTHON
MPLCONFIGDIR=$folder "$folder/env/bin/python" "$folder/program.py" 2> "$folder/log" | tee "$folder/seen" || cat "$folder/log"
diff "$folder/seen" - <<'SEEN'
made and saved inside: line #ff0000, "C0" #ff0000
made inside, saved outside: line #ff0000, "C0" #1f77b4
SEEN
