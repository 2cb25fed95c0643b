#!/usr/bin/env bash
# An animation that matplotlib writes at 60 frames a second has 100 in its file, and fewer frames than were drawn.
#
# Versions: matplotlib 3.11.2, pillow 13.0.0.
# Guess: 60 frames a second become 50, as GIF counts hundredths of a second and the nearest to 16.7 ms is 20; every frame
#   that is drawn is in the file.
# Behaviour: both libraries round down, 16.7 ms to 16 and 16 to 10. Browsers take 10 ms for a mistake and show such frames
#   for 100 ms each, so the race that was to be faster is six times as slow. Rates that divide 100 (50, 25, 20, 10) are
#   kept. A frame that equals the one before is left out, and its time is added to that one: frame numbers of the file
#   are not those of the animation.
# Output seen:
#   60 frames a second: 6 of 6 frames, milliseconds [10, 10, 10, 10, 10, 10]
#   50 frames a second: 6 of 6 frames, milliseconds [20, 20, 20, 20, 20, 20]
#   24 frames a second: 6 of 6 frames, milliseconds [40, 40, 40, 40, 40, 40]
#   10 frames a second, still from the fourth on: 5 of 10 frames, milliseconds [100, 100, 100, 100, 600]
# Why it matters: animations of training runs, which end where nothing moves, are slower, shorter and numbered otherwise
#   than was asked for.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check matplotlib==3.11.2 pillow==13.0.0
cat > "$folder/program.py" <<'PYTHON'
import os
import sys

from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.figure import Figure
from PIL import Image

path = os.path.join(sys.argv[1], "animation.gif")


def written(fps, frames, still_from):
    figure = Figure(figsize=(1, 1), dpi=50)
    (line,) = figure.subplots().plot([0, 1], [0, 1])

    def draw(number):
        line.set_ydata([0, min(number, still_from) / frames])
        return [line]

    FuncAnimation(figure, draw, frames=frames).save(path, writer=PillowWriter(fps=fps))
    with Image.open(path) as image:
        durations = []
        for number in range(image.n_frames):
            image.seek(number)
            durations.append(image.info["duration"])
        return f"{image.n_frames} of {frames} frames, milliseconds {durations}"


for fps in (60, 50, 24):
    print(f"{fps} frames a second: {written(fps, 6, 6)}")
print(f"10 frames a second, still from the fourth on: {written(10, 10, 4)}")
PYTHON
MPLCONFIGDIR=$folder "$folder/env/bin/python" "$folder/program.py" "$folder" 2> "$folder/log" | tee "$folder/seen" || cat "$folder/log"
diff "$folder/seen" - <<'SEEN'
60 frames a second: 6 of 6 frames, milliseconds [10, 10, 10, 10, 10, 10]
50 frames a second: 6 of 6 frames, milliseconds [20, 20, 20, 20, 20, 20]
24 frames a second: 6 of 6 frames, milliseconds [40, 40, 40, 40, 40, 40]
10 frames a second, still from the fourth on: 5 of 10 frames, milliseconds [100, 100, 100, 100, 600]
SEEN
