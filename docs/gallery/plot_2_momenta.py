"""
Three momenta on one valley
===========================

The lectures write momentum in three ways. IISER and torch have the learning rate outside of the velocity, CS231n has it
inside, and Larson's review slide remembers one gradient alone. While the learning rate is constant, the first two are
the same; when it changes, they part.
"""

from torch_lecture_ops.pictures import momentum_forms
from torch_lecture_ops.pictures.valleys import momentum_runs

figure = momentum_forms()

# %%
# How far the first two are from each other, at most:

constant, falling = momentum_runs()
for title, runs in (("constant", constant), ("halved every 5 steps", falling)):
    first, second = runs[0].points, runs[1].points
    print(f"rate {title}: {(first - second).abs().max():.2g}")

# %%
# With form="cs231n" the velocity keeps the rate that it was made with: after a drop it coasts on.
