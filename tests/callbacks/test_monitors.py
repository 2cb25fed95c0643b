"""What every monitor promises."""

import io
import random
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from matplotlib.figure import Figure
from torch import nn

from torch_lecture_ops import callbacks, optim
from torch_lecture_ops.callbacks.monitor import MOST_RECORDS, Monitor

CLASSES = [
    cls for cls in map(callbacks.__dict__.get, callbacks.__all__) if isinstance(cls, type) and issubclass(cls, Monitor)
]
CASES = [(cls, {}) for cls in CLASSES] + [(callbacks.GradientMonitor, dict(of="outputs"))]
wild = pytest.mark.filterwarnings("ignore:parameter network")  # trainings that a monitor may well warn of
each = pytest.mark.parametrize("cls, options", CASES, ids=lambda value: getattr(value, "__name__", str(value)))


def test_all_are_found():
    assert len(CLASSES) == 4


def noisy_network():
    """Random numbers, running statistics, one part that does not train."""
    torch.manual_seed(0)
    frozen = nn.BatchNorm1d(8).eval()
    layers = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 8), frozen, nn.Tanh()
    return nn.Sequential(*layers, nn.Linear(8, 3))


class Spy(Callback):
    """Notes hooks, training modes and random states while others measure."""

    def __init__(self):
        self.hooks, self.modes, self.states = [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.hooks.append(hooks_of(trainer, pl_module))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.modes.append([module.training for module in pl_module.network.modules()])
        self.states.append((torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()))


def hooks_of(trainer, module):
    """Everything that waits to be called."""
    holders = [*module.modules(), *trainer.optimizers]
    entries = [value for holder in holders for key, value in vars(holder).items() if key.endswith("_hooks")]
    entries += [p._backward_hooks or {} for p in module.parameters()]
    return sum(len(entry) for entry in entries if isinstance(entry, dict))


@each
def test_it_changes_nothing(train, kit, cls, options):
    results = []
    for watched in (False, True):
        random.seed(3), np.random.seed(3)
        model, spy = kit.Classifier(noisy_network(), lambda params: optim.Adam(params, lr=0.01)), Spy()
        model.network[5].eval()
        torch.manual_seed(4)
        train([spy, *([cls(log_every_n_steps=1, **options)] if watched else [])], model)
        results.append((model.state_dict(), spy.modes, spy.states, torch.get_rng_state()))
    (without, *modes), (watched, *same_modes) = results
    assert set(without) == set(watched)
    for key in without:
        torch.testing.assert_close(without[key], watched[key], rtol=0, atol=0)
    assert modes[:2] == same_modes[:2]
    assert torch.equal(modes[2], same_modes[2])


@each
def test_it_writes_to_every_logger(train, rows, tmp_path, cls, options):
    loggers = [CSVLogger(tmp_path, name="a"), CSVLogger(tmp_path, name="b")]
    monitor = cls(**options)
    trainer = train(monitor, logger=loggers)
    assert len(monitor.history) >= 4
    first = rows(trainer, monitor.name)
    assert [row["step"] for row in first] == [step for step, _ in monitor.history]
    assert {1, 3, 5, 7} <= {row["step"] for row in first}
    assert (tmp_path / "a/version_0/metrics.csv").read_text() == (tmp_path / "b/version_0/metrics.csv").read_text()
    for row, (_, record) in zip(first, monitor.history, strict=True):
        for layer, statistics in record.items():
            for name, value in statistics.items():
                key = f"{monitor.name}/{layer}/{name}"
                logged = [row[f"{key}/{i:02}"] for i in range(len(value))] if isinstance(value, list) else row[key]
                assert logged == pytest.approx(value, nan_ok=True)


@each
def test_the_last_numbers_are_metrics_of_the_trainer_but_not_of_the_bar(train, cls, options):
    monitor = cls(**options)
    trainer = train(monitor)
    layer, statistics = next(iter(monitor.history[-1][1].items()))
    name = next(iter(statistics))
    assert trainer.callback_metrics[f"{monitor.name}/{layer}/{name}"] == pytest.approx(statistics[name])
    assert not trainer.progress_bar_metrics


@each
def test_its_own_interval(train, cls, options):
    monitor = cls(log_every_n_steps=3, **options)
    train(monitor)
    assert [step for step, _ in monitor.history if step] == [2, 5]
    with pytest.raises(ValueError, match=f"{cls.__name__}: log_every_n_steps must be at least 1, .* got 0"):
        cls(log_every_n_steps=0, **options)


@each
def test_hooks_live_for_a_measured_batch_only(train, kit, cls, options):
    before, after = Spy(), Spy()
    model = kit.Classifier()
    trainer = train([before, cls(**options), after], model)
    assert before.hooks == [before.hooks[0]] * 8
    assert after.hooks[2] == before.hooks[0] < after.hooks[1]
    assert hooks_of(trainer, model) == before.hooks[0]


@each
@pytest.mark.parametrize("exception", [ZeroDivisionError, KeyboardInterrupt])
def test_nothing_is_left_after_an_exception(train, kit, cls, options, exception):
    class Breaks(kit.Classifier):
        def training_step(self, batch, batch_idx):
            if batch_idx == 1:
                self.seen = hooks_of(self.trainer, self)
                raise exception
            return super().training_step(batch, batch_idx)

    model, monitor = Breaks(), cls(**options)
    bare = hooks_of(train([], kit.Classifier()), kit.Classifier())
    with pytest.raises((exception, SystemExit)):
        train(monitor, model)
    assert model.seen > bare
    assert hooks_of(model.trainer, model) - bare in (0, len(model.trainer.optimizers))  # a hook of the schedulers'
    assert [*monitor.scratch, *monitor.record, *monitor._handles] == []


@each
def test_the_history_outlives_a_checkpoint(train, tmp_path, cls, options):
    monitor = cls(**options)
    trainer = train(monitor)
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    loaded = torch.load(path, weights_only=True)["callbacks"][monitor.state_key]
    assert loaded == monitor.state_dict()

    resumed = cls(**options)
    train(resumed, ckpt_path=path, max_epochs=2)
    steps = [step for step, _ in resumed.history]
    assert resumed.history[: len(monitor.history)] == monitor.history
    assert steps[len(monitor.history) :] == [9, 11, 13, 15]


@each
def test_another_training_has_another_history(train, cls, options):
    monitor = cls(**options)
    train(monitor)
    before = len(monitor.history)
    train(monitor)
    assert len(monitor.history) == before


@each
def test_a_long_history_is_thinned(cls, options):
    monitor = cls(**options)

    class Silent:
        loggers, world_size, global_step, optimizers = [], 2, 1, []
        fit_loop = type("", (), {"epoch_loop": type("", (), {"_batches_that_stepped": 0})})

    monitor.warn = lambda *_: None
    for step in range(3 * MOST_RECORDS):
        Silent.fit_loop.epoch_loop._batches_that_stepped = step
        monitor.record = {"layer": {"norm": 1.0}}
        monitor.publish(Silent, None)
    steps = [step for step, _ in monitor.history]
    assert len(steps) <= MOST_RECORDS
    assert (steps[0], steps[-1]) == (0, 3 * MOST_RECORDS - 1)
    assert steps == sorted(steps)


@each
def test_a_logger_is_needed(train, cls, options):
    with pytest.raises(MisconfigurationException, match=f"{cls.__name__}: the Trainer must have a logger .* got none"):
        train(cls(**options), logger=False)


@each
def test_a_trial_run_measures_every_step(train, cls, options):
    monitor = cls(**options)
    train(monitor, fast_dev_run=2, log_every_n_steps=50)
    assert {step for step, _ in monitor.history} == {0, 1}


@each
def test_a_trainer_that_never_logs(train, cls, options):
    monitor = cls(**options)
    train(monitor, log_every_n_steps=0)
    assert [step for step, _ in monitor.history if step] == []


@each
def test_other_ranks_measure_nothing(train, monkeypatch, cls, options):
    from lightning.pytorch import Trainer

    monkeypatch.setattr(Trainer, "is_global_zero", property(lambda self: False))
    monitor = cls(**options)
    train(monitor)
    assert monitor.history == []


@each
def test_batches_accumulate_to_a_step(train, cls, options):
    monitor = cls(log_every_n_steps=1, **options)
    train(monitor, accumulate_grad_batches=4)
    counts = Counter(step for step, _ in monitor.history)
    assert set(counts) == {0, 1}
    assert counts[1] == 1


@each
@pytest.mark.parametrize("is_wrapped", [True, False])
def test_several_optimizers_by_hand(train, kit, cls, options, is_wrapped):
    monitor = cls(**options)
    train(monitor, kit.TwoOptimizers(is_wrapped))
    step, record = monitor.history[-1]
    assert step == 7
    layers = {name.removeprefix("network.").split(".")[0] for name in record}
    assert ({"1", "3"} if cls is callbacks.ActivationMonitor else {"0", "2", "4"}) <= layers


@wild
@each
@pytest.mark.parametrize("space", [torch.optim, optim], ids=["torch", "ours"])
@pytest.mark.parametrize("name", ["SGD", "Adagrad", "RMSprop", "Adadelta", "Adam", "AdamW", "NAdam"])
def test_every_optimizer(train, kit, cls, options, space, name):
    monitor = cls(**options)
    train(monitor, kit.Classifier(optimizer=lambda params: getattr(space, name)(params, lr=0.01)))
    assert [step for step, _ in monitor.history if step] == [1, 3, 5, 7]


@wild
@each
def test_a_literal_look_ahead_and_a_closure_called_often(train, kit, cls, options):
    for optimizer in (lambda params: optim.Nesterov(params, lr=0.1), lambda params: torch.optim.LBFGS(params, lr=0.1)):
        monitor = cls(**options)
        train(monitor, kit.Classifier(optimizer=optimizer))
        assert [step for step, _ in monitor.history if step] == [1, 3, 5, 7]


@wild
@each
@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_other_precisions(train, cls, options, precision):
    monitor = cls(**options)
    train(monitor, precision=precision)
    assert [step for step, _ in monitor.history if step] == [1, 3, 5, 7]


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@each
def test_a_step_that_is_skipped(train, kit, cls, options):
    class Skips(kit.Classifier):
        def training_step(self, batch, batch_idx):
            return None if batch_idx == 1 else super().training_step(batch, batch_idx)

    monitor = cls(**options)
    train(monitor, Skips())
    assert {3, 5, 7} <= {step for step, _ in monitor.history}


@each
def test_the_plot(train, tmp_path, cls, options):
    monitor = cls(**options)
    with pytest.raises(RuntimeError, match=f"{cls.__name__}: nothing to plot"):
        monitor.plot()
    train(monitor)
    figure = monitor.plot()
    assert isinstance(figure, Figure)
    assert all(panel.get_title() and panel.get_xlabel() and panel.lines for panel in figure.axes)
    figure.savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


@each
def test_a_plot_without_matplotlib(train, monkeypatch, cls, options):
    monitor = cls(**options)
    train(monitor)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'torch-lecture-ops\[plot\]'"):
        monitor.plot()


def test_all_together(train):
    monitors = [cls(**options) for cls, options in CASES]
    trainer = train(monitors)
    assert len({monitor.state_key for monitor in monitors}) == len(monitors)
    buffer = io.BytesIO()
    torch.save({monitor.state_key: monitor.state_dict() for monitor in monitors}, buffer)
    assert len({key.split("/")[0] for key in trainer.callback_metrics}) == len(monitors)


# ---------------------------------------------------------------- several of a class

# Monitor, its arguments, and the same with one of them changed.
OTHERS = [
    *((cls, options, options | dict(log_every_n_steps=4)) for cls, options in CASES),
    *((cls, options, options | dict(name="other")) for cls, options in CASES),
    (callbacks.ActivationMonitor, {}, dict(max_dead=0.9)),
    (callbacks.ActivationMonitor, {}, dict(max_saturated=0.9)),
    (callbacks.ActivationMonitor, {}, dict(probe=torch.ones(4, 6))),
    (callbacks.ActivationMonitor, dict(probe=torch.zeros(4, 6)), dict(probe=torch.ones(4, 6))),
    (callbacks.ActivationMonitor, dict(probe=[torch.ones(4, 6)]), dict(probe={"x": torch.ones(4, 6)})),
    (callbacks.GradientMonitor, {}, dict(bins=5)),
    (callbacks.GradientMonitor, dict(of="outputs"), dict(of="outputs", band=(1e-4, 1e4))),
    (callbacks.UpdateRatioMonitor, {}, dict(band=(-6.0, 0.0))),
    (callbacks.EffectiveLearningRateMonitor, {}, dict(least=0.1)),
]
two = pytest.mark.parametrize("cls, one, other", OTHERS, ids=lambda value: getattr(value, "__name__", ""))


@wild
@pytest.mark.filterwarnings("ignore:layer")
@two
def test_two_of_a_class(train, rows, tmp_path, cls, one, other):
    """Each has its own rows in the log, and its own history when it is resumed, in any order."""
    first, second = cls(**one), cls(**other)
    trainer = train([first, second])
    assert first.name == cls(**one).name
    assert second.name == other.get("name", f"{first.name}(2)")
    for monitor in (first, second):
        logged = {row["step"] for row in rows(trainer, monitor.name)}
        assert logged == {step for step, _ in monitor.history} >= {3, 7}
    trainer.save_checkpoint(tmp_path / "last.ckpt")

    again, back = cls(**other), cls(**one)
    train([again, back], ckpt_path=tmp_path / "last.ckpt", max_epochs=2)
    assert again.history[: len(second.history)] == second.history
    assert back.history[: len(first.history)] == first.history
    assert {step for step, _ in back.history} >= {3, 7, 11, 15}


def test_three_of_a_name(train):
    monitors = [callbacks.UpdateRatioMonitor(name="size"), callbacks.GradientMonitor(name="size")]
    monitors += [callbacks.UpdateRatioMonitor(), callbacks.UpdateRatioMonitor(name="size", log_every_n_steps=1)]
    trainer = train(monitors, max_steps=2)
    names = [monitor.name for monitor in monitors]
    assert names == ["size", "size(2)", "UpdateRatioMonitor", "size(3)"]
    assert {key.partition("/")[0] for key in trainer.callback_metrics} == set(names)
    train(monitors[1], max_steps=2)  # alone, it has the name for itself
    assert monitors[1].name == "size"


@each
def test_two_of_a_class_with_the_same_arguments(train, cls, options):
    with pytest.raises(RuntimeError, match=f"more than one stateful callback of type `{cls.__name__}`"):
        train([cls(**options), cls(**options)])


@each
@pytest.mark.parametrize("name", ["", 3])
def test_names_have_letters(cls, options, name):
    with pytest.raises(ValueError, match=f"{cls.__name__}: name must be a string, not empty, or None .* got {name!r}"):
        cls(name=name, **options)


def test_probes_are_told_apart_by_their_numbers():
    probes = [
        *(torch.zeros(4, 2), torch.ones(4, 2), torch.zeros(2, 4), torch.zeros(4, 2, dtype=torch.float64)),
        *(torch.ones(4, 2, dtype=torch.bfloat16), torch.tensor([True]), torch.tensor(1.0), torch.zeros(0, 2)),
        *(torch.ones(2, dtype=torch.complex64).conj(), torch.eye(3).to_sparse(), torch.empty(3, device="meta")),
        *((torch.ones(1), 0.5), (torch.ones(1), 1.5), {"x": torch.ones(1), "mode": "a"}, {"x": torch.ones(1)}),
    ]
    keys = [callbacks.ActivationMonitor(probe).state_key for probe in probes]
    assert len(set(keys)) == len(probes)
    assert keys == [callbacks.ActivationMonitor(probe).state_key for probe in probes]


# The keys of checkpoints that were written when arguments had no part in them, but for `of`.
@each
def test_the_key_of_old_checkpoints(cls, options):
    old = f"GradientMonitor{{'of': '{options.get('of', 'weights')}'}}"
    assert cls(**options).state_key == (old if cls is callbacks.GradientMonitor else cls.__name__)


@wild
@two
@pytest.mark.filterwarnings("ignore:layer")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")  # Lightning asks for the one that is gone
def test_a_training_is_resumed_with_other_arguments(train, tmp_path, cls, one, other):
    """From an old checkpoint, whose key is that of defaults, as from a new one."""
    first = cls(**one)
    train(first).save_checkpoint(tmp_path / "last.ckpt")
    second, of_another_kind = cls(**other), callbacks.GradientMonitor(of="outputs" if one == {} else "weights")
    train([of_another_kind, second], ckpt_path=tmp_path / "last.ckpt", max_epochs=2)
    assert second.history[: len(first.history)] == first.history
    assert len(second.history) > len(first.history)
    assert of_another_kind.history[0][0] > 7


@pytest.mark.filterwarnings("ignore:parameter network", "ignore:Be aware that when using `ckpt_path`")
def test_a_history_has_one_heir(train, tmp_path):
    """It goes to the monitor that it is of, else to the first, and to none if it could be either of two."""
    Monitor = callbacks.UpdateRatioMonitor
    train(Monitor()).save_checkpoint(tmp_path / "one.ckpt")
    train([Monitor(), Monitor(name="b")]).save_checkpoint(tmp_path / "two.ckpt")
    for path, monitors, inherits in [
        ("one.ckpt", [Monitor(name="new"), Monitor()], [False, True]),
        ("one.ckpt", [Monitor(name="new"), Monitor(name="newer")], [True, False]),
        ("two.ckpt", [Monitor(name="new")], [False]),
        ("two.ckpt", [Monitor(name="new"), Monitor(name="b")], [True, True]),
    ]:
        train(monitors, ckpt_path=tmp_path / path, max_epochs=2)
        assert [monitor.history[0][0] < 8 for monitor in monitors] == inherits


def test_optimizers_of_another_kind(train, kit, monkeypatch):
    from lightning.pytorch import Trainer

    monkeypatch.setattr(Trainer, "optimizers", property(lambda self: [object()], lambda self, value: None))
    with pytest.raises(MisconfigurationException, match=r"must be a torch\.optim\.Optimizer, got object"):
        train(callbacks.UpdateRatioMonitor())


# ---------------------------------------------------------------- imports

CODE = """
import sys
for name in {missing}:
    sys.modules[name] = None
import torch_lecture_ops
assert not set(sys.modules) & {{"lightning.pytorch", "matplotlib"}} - set({missing})
{then}
"""


@pytest.mark.processes
@pytest.mark.parametrize(
    "missing, then, said",
    [
        ([], "print('fine')", "fine"),
        (
            ["lightning", "lightning.pytorch"],
            "import torch_lecture_ops.callbacks",
            "pip install 'torch-lecture-ops[lightning]'",
        ),
    ],
)
def test_what_an_import_needs(missing, then, said):
    code = CODE.format(missing=missing, then=then)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said in result.stdout + result.stderr
