"""
Nesterov looks ahead
====================

Momentum takes the gradient where it stands, Nesterov where the momentum will lead (CS231n, slide 'Nesterov Momentum
update'). The arrows are those of a real step.
"""

from functools import partial

from torch_lecture_ops import optim
from torch_lecture_ops.pictures import descend, nesterov

figure = nesterov()

# %%
# The gradient ahead already points back where the momentum would overshoot. So it settles sooner:

for name, build in {
    "momentum": partial(optim.SGD, lr=0.02, momentum=0.9),
    "Nesterov": partial(optim.Nesterov, lr=0.02, momentum=0.9),
}.items():
    run = descend("valley", build, steps=60)
    print(f"{name}: f = {run.values[-1]:.2g} after 60 steps")
