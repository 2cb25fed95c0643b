"""
The zig-zag
===========

The valley is steep across and shallow along. A learning rate that is right for the shallow direction is nearly too
large for the steep one: gradient descent jumps from wall to wall (CS231n, slide 'Momentum update').
"""

from functools import partial

from torch_lecture_ops import optim
from torch_lecture_ops.pictures import descend, valley, zigzag

figure = zigzag()

# %%
# On f(x, y) = (x² + 20 y²) / 2 a step multiplies x by 1 - η and y by 1 - 20 η. From η = 0.1 on, the second factor is
# below -1, and the steps across grow.

for lr in (0.02, 0.095, 0.11):
    run = descend("valley", partial(optim.SGD, lr=lr), steps=40)
    x, y = run.points[-1].tolist()
    print(f"η = {lr}: after 40 steps x = {x:.4f}, y = {y:.4g}")

# %%
# Momentum averages the gradients: what changes its sign cancels, what does not adds up.

figure = valley()
