"""Scaled losses, clipped gradients, and Lightning's mixed precision around the optimizers."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn

from torch_lecture_ops import optim

ALL = [name for name in optim.__all__ if name not in ("RuleOptimizer", "Buffer")]
EACH_CLASS = pytest.mark.parametrize("which", ALL)
MORE = {"SGD": dict(momentum=0.9, nesterov=True), "RMSprop": dict(momentum=0.9, centered=True)}


@pytest.fixture(name="make")
def _make(table):
    """The optimizer of this name, of ours or of torch's."""

    def make(which, params, where=optim, **flags):
        kwargs = table.cases.get(which, [dict(lr=0.02)])[0] | MORE.get(which, {})
        return getattr(where, which)(params, **kwargs, **flags)

    return make


def network():
    """The same at every call."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, device="cpu") / 3)
    return model


def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(48, 6, generator=generator, device="cpu").to(torch.get_default_device())
    return x, x[:, :2] * x[:, 2:4]


def loss_of(model, step):
    """Of 8 of the 48 rows, others at each step."""
    x, y = data()
    rows = slice(8 * (step % 6), 8 * (step % 6) + 8)
    return (model(x[rows]) - y[rows]).square().mean()


def looking_ahead(optimizer):
    """Where the gradient is taken: for Nesterov not at the parameters themselves."""
    return optimizer.lookahead() if isinstance(optimizer, optim.Nesterov) else nullcontext()


def snapshot(model, optimizer):
    """Copies of the parameters and of their state, by name."""
    copies = {(name,): p.detach().clone() for name, p in model.named_parameters()}
    for name, p in model.named_parameters():
        copies |= {(name, key): value.clone() for key, value in optimizer.state.get(p, {}).items()}
    return copies


def assert_bits(got, expected):
    assert list(got) == list(expected)
    for key, right in expected.items():
        assert torch.equal(got[key], right), key


# ----------------------------------------------------------------------------------------------------------- GradScaler


@pytest.mark.not_interpreted
@EACH_CLASS
@pytest.mark.parametrize("overflows", [(), (0,), (3,), (0, 1, 4)], ids=str)
def test_scaled_training(which, asked, overflows, make):
    """scale, unscale_, clip, step, update: as without, but for the steps that overflow, which change nothing."""
    models = scaled, plain = network(), network()
    mine, reference = (make(which, model.parameters(), **asked) for model in models)
    scaler = torch.amp.GradScaler(torch.get_default_device().type, init_scale=1024.0, growth_interval=3)
    for step in range(7):
        mine.zero_grad()
        with looking_ahead(mine):
            scaler.scale(loss_of(scaled, step)).backward()
        before = snapshot(scaled, mine)
        if step in overflows:
            scaled[2].weight.grad[1, 3] = float("inf")
        scaler.unscale_(mine)
        nn.utils.clip_grad_norm_(scaled.parameters(), 0.5)
        scaler.step(mine)
        scaler.update()
        if step in overflows:
            assert_bits(snapshot(scaled, mine), before)
            continue
        reference.zero_grad()
        with looking_ahead(reference):
            loss_of(plain, step).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        reference.step()
        assert_bits(snapshot(scaled, mine), snapshot(plain, reference))  # a scale of 2ⁿ rounds nothing
    assert scaler.get_scale() == {(): 4096.0, (0,): 2048.0, (3,): 2048.0, (0, 1, 4): 128.0}[overflows]


@EACH_CLASS
def test_step_unscales(which, asked, make):
    """Without unscale_ before; and a scale that is not 2ⁿ rounds a gradient by a unit or two."""
    models = scaled, plain = network(), network()
    mine, reference = (make(which, model.parameters(), **asked) for model in models)
    scaler = torch.amp.GradScaler(torch.get_default_device().type, init_scale=1000.0)
    for step in range(4):
        for model, optimizer in ((scaled, mine), (plain, reference)):
            optimizer.zero_grad()
            with looking_ahead(optimizer):
                loss = loss_of(model, step)
                (scaler.scale(loss) if optimizer is mine else loss).backward()
        scaler.step(mine)
        scaler.update()
        reference.step()
    # Of a gradient g, a sum of terms that cancel, 1e-7 of the terms is lost. What divides by |g| moves a parameter by
    # 0.05 a step whatever g is, thus loses 1e-7 (terms / g) of that: 20 for the smallest g here.
    for p, q in zip(scaled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=4 * 0.05 * 20 * 1e-7)


@EACH_CLASS
@pytest.mark.parametrize("flags", [{}, dict(fused=True)], ids=str)
def test_the_scaler_is_to_unscale(which, flags, make):
    """torch's fused classes do it in step, which this attribute tells: Lightning then refuses to clip."""
    optimizer = make(which, network().parameters(), **flags)
    assert not hasattr(optimizer, "_step_supports_amp_scaling")


def test_nesterov_asks_for_the_point_ahead(make):
    """A scaler gives step no closure."""
    model, scaler = network(), torch.amp.GradScaler("cpu")
    optimizer = make("Nesterov", model.parameters())
    for step in range(2):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, step)).backward()
        if step == 0:
            scaler.step(optimizer)
            scaler.update()
    with pytest.raises(RuntimeError, match=r"^Nesterov: .*`with optimizer\.lookahead\(\):`$"):
        scaler.step(optimizer)


# ------------------------------------------------------------------------------------------------------------ Lightning

# Keyword arguments for both libraries, and those for ours alone: torch's fused Adam and Adagrad refuse to be clipped,
# the others are not there.
TRAINED = {
    "SGD": (dict(lr=0.05, momentum=0.9, nesterov=True), dict(fused=True)),
    "Adagrad": (dict(lr=0.01), dict(fused=True)),
    "RMSprop": (dict(lr=0.001, momentum=0.9), dict(fused=True)),
    "Adadelta": (dict(lr=1.0), dict(foreach=True)),
    "Adam": (dict(lr=0.01, amsgrad=True), dict(fused=True)),
    "AdamW": (dict(lr=0.01, weight_decay=0.1), {}),
    "NAdam": (dict(lr=0.01), dict(fused=True)),
}
EACH_TRAINED = pytest.mark.parametrize(("which", "kwargs", "ours"), [(k, *v) for k, v in TRAINED.items()], ids=TRAINED)
CLIPPED = dict(gradient_clip_val=0.5)
QUIET = [
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]


def quiet(test):
    """Without Lightning's advice about the machine."""
    for mark in QUIET:
        test = mark(test)
    return test


@pytest.fixture(name="fit")
def _fit(lightning):
    """Train `network` by Lightning on 6 batches an epoch, with a schedule; returns the trainer."""

    class Module(lightning.LightningModule):
        def __init__(self, make):
            super().__init__()
            self.network, self.make = network(), make

        def training_step(self, batch, number):
            x, y = batch
            return (self.network(x) - y).square().mean()

        def configure_optimizers(self):
            optimizer = self.make(self.parameters())
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)]

    class Manual(Module):
        """Optimizes by hand, with the optimizer as Lightning wraps it, which gives each step a closure."""

        def __init__(self, make, context):
            super().__init__(make)
            self.automatic_optimization, self.context = False, context

        def training_step(self, batch, number):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            with self.context(optimizer):
                self.manual_backward(super().training_step(batch, number))
            optimizer.step()

    def fit(make, epochs=3, resume=None, by_hand=None, **settings):
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            logger=False,
            **settings,
        )
        batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), batch_size=8)
        trainer.fit(Manual(make, by_hand) if by_hand else Module(make), batches, ckpt_path=resume)
        return trainer

    return fit


def trained(trainer):
    """Copies of the trained network and of the optimizer's state."""
    model = trainer.lightning_module.network
    return snapshot(model, trainer.optimizers[0])


def assert_trained_alike(got, expected, of_the_way):
    """Parameters differ by no more than this part of how far the expected ones have come."""
    start = snapshot(network(), optim.SGD(network().parameters()))
    way = max((expected[key] - value).abs().max().item() for key, value in start.items())
    assert way > 0.01
    for key in start:
        torch.testing.assert_close(got[key], expected[key], rtol=0, atol=of_the_way * way)


@quiet
@EACH_TRAINED
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_lightning_trains_as_with_torchs(which, kwargs, ours, precision, accumulated, fit):
    settings = dict(precision=precision, accumulate_grad_batches=accumulated, **CLIPPED)
    mine = fit(lambda params: getattr(optim, which)(params, **kwargs, **ours), **settings)
    reference = fit(lambda params: getattr(torch.optim, which)(params, **kwargs), **settings)
    assert mine.global_step == reference.global_step == 18 // accumulated
    # Parameters of size 1 are rounded by 1e-7 at each of 18 steps, while they come as far as 0.02 or more. In bfloat16
    # such a difference may lead to the neighbouring number, 2⁻⁸ away, of one of the factors of a gradient.
    assert_trained_alike(trained(mine), trained(reference), 1e-4 if precision == "32-true" else 2**-8)


@quiet
@EACH_TRAINED
def test_lightning_with_a_scaler(which, kwargs, ours, fit, lightning):
    """float16 on the CPU, starting with a scale that overflows."""
    runs = []
    for where, flags in ((optim, ours), (torch.optim, {})):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**19)
        plugin = lightning.plugins.MixedPrecision("16-mixed", "cpu", scaler)
        runs.append(fit(lambda params, w=where, f=flags: getattr(w, which)(params, **kwargs, **f), plugins=plugin))
        assert scaler.get_scale() < 2.0**19
    # As with bfloat16, but neighbours are 2⁻¹¹ apart; gradients that are small against the scale have fewer digits.
    assert_trained_alike(*map(trained, runs), 2**-8)


@pytest.mark.host
@quiet
@pytest.mark.parametrize("form", ["torch", "larson"])
def test_lightning_evaluates_nesterov_ahead(form, asked, fit):
    """Its closure, with zero_grad, backward and clipping, runs where the momentum leads: as by hand, bit by bit."""
    kwargs = dict(lr=0.05, momentum=0.5, form=form, **asked)
    trainer = fit(lambda params: optim.Nesterov(params, **kwargs), **CLIPPED)
    model = network()
    optimizer = optim.Nesterov(model.parameters(), **kwargs)
    for step in range(18):
        optimizer.param_groups[0]["lr"] = 0.05 * 0.5 ** (step // 6 // 2)
        optimizer.zero_grad()
        with optimizer.lookahead():
            loss_of(model, step).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    assert_bits(trained(trainer), snapshot(model, optimizer))


@quiet
def test_lightning_trains_nesterov(fit):
    make = partial(optim.Nesterov, lr=0.05, fused=True)
    trainer = fit(make, epochs=6, precision="bf16-mixed", **CLIPPED)
    losses = [sum(loss_of(model, step).item() for step in range(6)) for model in (network(), trainer.model.network)]
    assert losses[1] < 0.9 * losses[0]


@quiet
def test_lightning_optimizes_nesterov_by_hand(fit):
    """By the look ahead of Lightning's wrapper; without it the closure that does nothing is refused."""
    make = partial(optim.Nesterov, lr=0.05, momentum=0.5)
    trainer = fit(make, by_hand=lambda optimizer: optimizer.lookahead())
    model = network()
    optimizer = make(model.parameters())
    for step in range(18):
        with optimizer.lookahead():
            optimizer.zero_grad()
            loss_of(model, step).backward()
        optimizer.step()
    assert_bits(trained(trainer), snapshot(model, optimizer))
    with pytest.raises(RuntimeError, match=r"^Nesterov: .*the closure computed none there"):
        fit(make, by_hand=lambda optimizer: nullcontext())


@quiet
def test_lightning_accumulates_for_nesterov(fit):
    """Only the last batch would be evaluated ahead, which is said; by the callback all are, as by hand, bit by bit."""
    from torch_lecture_ops.callbacks import NesterovLookahead

    make = partial(optim.Nesterov, lr=0.05, momentum=0.5)
    with pytest.warns(UserWarning, match=r"^Nesterov: the closure added to a gradient from before.*NesterovLookahead$"):
        fit(make, epochs=2, accumulate_grad_batches=3, **CLIPPED)
    trainer = fit(make, epochs=2, accumulate_grad_batches=4, callbacks=[NesterovLookahead()], **CLIPPED)
    model = network()
    optimizer = make(model.parameters())
    for step in range(12):
        with optimizer.lookahead():
            (loss_of(model, step) / 4).backward()
        if step % 6 in (3, 5):  # four batches, or the end of an epoch
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
    assert_bits(trained(trainer), snapshot(model, optimizer))


@quiet
def test_lightning_with_a_scaler_gives_nesterov_no_closure(fit, lightning):
    """Then it would be ordinary momentum: refused. By the callback it is as without a scaler."""
    from torch_lecture_ops.callbacks import NesterovLookahead

    make = partial(optim.Nesterov, lr=0.05)

    def plugin():
        return lightning.plugins.MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1.0))

    with pytest.raises(RuntimeError, match=r"^Nesterov: .*`with optimizer\.lookahead\(\):`$"):
        fit(make, plugins=plugin())
    trainer = fit(make, plugins=plugin(), callbacks=[NesterovLookahead()], **CLIPPED)
    model = network()
    optimizer = make(model.parameters())
    for step in range(18):
        optimizer.param_groups[0]["lr"] = 0.05 * 0.5 ** (step // 6 // 2)
        optimizer.zero_grad()
        with optimizer.lookahead():
            with torch.autocast("cpu", torch.float16, cache_enabled=False):
                loss = loss_of(model, step)
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    assert_bits(trained(trainer), snapshot(model, optimizer))


RESUMED = {which: kwargs | ours for which, (kwargs, ours) in TRAINED.items()} | {"Nesterov": dict(lr=0.05)}


@quiet
@pytest.mark.parametrize(("which", "kwargs"), RESUMED.items(), ids=RESUMED)
def test_lightning_resumes(which, kwargs, fit, tmp_path):
    """Two epochs, a checkpoint, two more: the four epochs in one run, bit by bit."""

    def make(params):
        return getattr(optim, which)(params, **kwargs)

    settings = dict(precision="bf16-mixed", **CLIPPED)
    fit(make, epochs=2, **settings).save_checkpoint(tmp_path / "two.ckpt")
    resumed = fit(make, epochs=4, resume=tmp_path / "two.ckpt", **settings)
    whole = fit(make, epochs=4, **settings)
    assert_bits(trained(resumed), trained(whole))
    assert resumed.optimizers[0].param_groups[0]["lr"] == whole.optimizers[0].param_groups[0]["lr"] == kwargs["lr"] / 4
    assert resumed.optimizers[0].engine == whole.optimizers[0].engine


@quiet
@EACH_TRAINED
def test_lightning_resumes_a_run_of_torchs(which, kwargs, ours, fit, tmp_path):
    """And the other way round."""
    makes = [lambda params, w=where: getattr(w, which)(params, **kwargs) for where in (optim, torch.optim)]
    whole = trained(fit(makes[1], epochs=4, **CLIPPED))
    for before, after in (makes, makes[::-1]):
        fit(before, epochs=2, **CLIPPED).save_checkpoint(tmp_path / "two.ckpt")
        resumed = fit(after, epochs=4, resume=tmp_path / "two.ckpt", **CLIPPED)
        assert_trained_alike(trained(resumed), whole, 1e-4)  # as in test_lightning_trains_as_with_torchs
