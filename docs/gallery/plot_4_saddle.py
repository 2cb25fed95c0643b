"""
At a saddle
===========

Exactly on the ridge the gradient points to the saddle, and plain descent ends there. Slightly off it, everybody
escapes, but not equally soon: rules that divide by the gradient's magnitude do not mind that the slope is small.
"""

from torch_lecture_ops.pictures import saddle
from torch_lecture_ops.pictures.valleys import escape, saddle_runs

figure = saddle()

# %%
for run in saddle_runs():
    print(f"{run.label}: {escape(run) or 'never'}")
