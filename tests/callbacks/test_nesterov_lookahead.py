"""NesterovLookahead: where the parameters are during a batch, and what the callback is not for.

That it trains as by hand: tests/optim/test_amp.py.
"""

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from torch_lecture_ops import optim
from torch_lecture_ops.callbacks import NesterovLookahead


class Watching(Callback):
    """Notes when the weight is another one than after the step before."""

    def __init__(self):
        self.weight, self.moved = None, {}

    def note(self, when, module):
        moved = self.weight is not None and not torch.equal(self.weight, next(module.parameters()))
        self.moved.setdefault(when, []).append(moved)

    def on_before_backward(self, trainer, module, loss):
        self.note("before backward", module)

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.note("before the step", module)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            self.note("between", module)
        else:
            self.weight = next(module.parameters()).detach().clone()

    def on_exception(self, trainer, module, exception):
        self.note("exception", module)


def nesterov(kit, **kwargs):
    return kit.Classifier(optimizer=lambda params: optim.Nesterov(params, lr=0.1, **kwargs))


def test_where_the_parameters_are(train, kit):
    """Ahead in every forward and backward pass, and at no other time."""
    watching = Watching()
    train([NesterovLookahead(), watching], nesterov(kit), accumulate_grad_batches=2)
    ahead, *others = watching.moved.pop("before backward"), *watching.moved.values()
    assert ahead[:2] == [False, False]  # there is no velocity yet
    assert all(ahead[2:])
    assert len(ahead) > 4
    assert not any(map(any, others))


def test_an_exception_brings_the_parameters_back(train, kit):
    class Failing(Callback):
        def on_before_backward(self, trainer, module, loss):
            if trainer.global_step == 2:
                raise KeyError("mine")

    watching = Watching()
    with pytest.raises(KeyError, match="mine"):
        train([NesterovLookahead(), watching, Failing()], nesterov(kit))
    assert watching.moved["exception"] == [False]


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_batch_without_a_loss(train, kit):
    """Is skipped, as without the callback."""

    class Skipping(kit.Classifier):
        def training_step(self, batch, batch_idx):
            return None if batch_idx == 2 else super().training_step(batch, batch_idx)

    weights = []
    for callbacks in ([NesterovLookahead()], []):
        module = Skipping(optimizer=lambda params: optim.Nesterov(params, lr=0.1))
        train(callbacks, module)
        weights.append(next(module.parameters()).detach())
    assert torch.equal(*weights)


def test_other_optimizers(train, kit):
    with pytest.raises(MisconfigurationException, match=r"must be a torch_lecture_ops\.optim\.Nesterov, got Adam$"):
        train([NesterovLookahead()], kit.Classifier(optimizer=lambda params: optim.Adam(params)))


def test_manual_optimization(train, kit):
    module = nesterov(kit)
    module.automatic_optimization = False
    with pytest.raises(MisconfigurationException, match=r"must be automatic"):
        train([NesterovLookahead()], module)
