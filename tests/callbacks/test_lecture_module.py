"""LectureModule through LightningCLI, as from a shell."""

import warnings

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from torch_lecture_ops import callbacks, optim
from torch_lecture_ops import nn as lecture_nn
from torch_lecture_ops.callbacks import GradientMonitor, LectureModule
from torch_lecture_ops.nn.init import initialize

pytest.importorskip("jsonargparse")

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
LABELS = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()


class Classifier(LectureModule):
    def __init__(self, hidden: int = 8, **options):
        super().__init__(**options)
        torch.manual_seed(0)
        layers = nn.Linear(6, hidden), self.activation(), nn.Linear(hidden, 3)
        self.network = self.initialized(nn.Sequential(*layers))

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, LABELS), batch_size=8)


@pytest.fixture
def cli(tmp_path, monkeypatch):
    """cli(*options) runs `fit` with them, as the shell would, and returns the LightningCLI."""

    def cli(*options, model=Classifier):
        quiet = dict(enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
        trainer = dict(accelerator="cpu", max_epochs=2, default_root_dir=str(tmp_path), log_every_n_steps=2, **quiet)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*(num_workers|tensorboardX)")
            warnings.filterwarnings("ignore", category=DeprecationWarning)  # Lightning's use of jsonargparse
            monkeypatch.setattr("sys.argv", ["train.py", "fit", *options])
            return LightningCLI(model, trainer_defaults=trainer, seed_everything_default=0)

    return cli


def test_the_command_of_the_docstring(cli):
    used = cli(
        "--optimizer=torch_lecture_ops.optim.NAdam",
        "--optimizer.lr=0.01",
        "--optimizer.form=simple",
        "--lr_scheduler=torch_lecture_ops.optim.lr_scheduler.StepDecay",
        "--lr_scheduler.every=1",
        "--model.hidden=5",
        "--model.activation=torch_lecture_ops.nn.SiLU",
        "--model.init=he_normal",
        "--trainer.callbacks+=torch_lecture_ops.callbacks.GradientMonitor",
        "--trainer.callbacks.of=outputs",
    )
    (optimizer,) = used.trainer.optimizers
    assert type(optimizer) is optim.NAdam
    assert optimizer.param_groups[0]["form"] == "simple"
    (schedule,) = used.trainer.lr_scheduler_configs
    assert type(schedule.scheduler) is optim.lr_scheduler.StepDecay
    assert schedule.interval == "epoch"
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 0.5**2)
    assert type(used.model.network[1]) is lecture_nn.SiLU
    assert used.model.network[0].out_features == 5
    (monitor,) = (callback for callback in used.trainer.callbacks if isinstance(callback, GradientMonitor))
    assert monitor.of == "outputs"
    assert [step for step, _ in monitor.history] == [0, 1, 3, 5, 7]


OPTIMIZERS = [name for name, cls in vars(optim).items() if isinstance(cls, type) and name in optim.__all__]


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in ("Buffer", "RuleOptimizer")])
def test_every_optimizer(cli, name):
    used = cli(f"--optimizer=torch_lecture_ops.optim.{name}", "--optimizer.lr=0.01")
    assert type(used.trainer.optimizers[0]) is getattr(optim, name)
    assert used.trainer.global_step == 8


@pytest.mark.parametrize("name", [name for name in callbacks.__all__ if name.endswith("Monitor")])
def test_every_monitor(cli, name):
    used = cli(
        "--optimizer=torch_lecture_ops.optim.Adam",
        "--optimizer.betas=[0.8, 0.99]",
        f"--trainer.callbacks+=torch_lecture_ops.callbacks.{name}",
        "--trainer.callbacks.log_every_n_steps=4",
    )
    (monitor,) = (found for found in used.trainer.callbacks if type(found).__name__ == name)
    assert [step for step, _ in monitor.history if step] == [3, 7]
    assert tuple(used.trainer.optimizers[0].param_groups[0]["betas"]) == (0.8, 0.99)


@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_torchs_optimizers_and_its_activations(cli, name):
    used = cli(f"--optimizer=torch.optim.{name}", "--model.activation=torch.nn.GELU")
    assert type(used.trainer.optimizers[0]) is getattr(torch.optim, name)
    assert type(used.model.network[1]) is nn.GELU


def test_an_activation_with_options(cli):
    used = cli(
        "--optimizer=torch_lecture_ops.optim.SGD",
        "--model.activation=torch_lecture_ops.nn.ELU",
        "--model.activation.alpha=0.5",
    )
    assert used.model.network[1].alpha == 0.5


@pytest.mark.parametrize(
    "schedule, options",
    [
        ("torch.optim.lr_scheduler.StepLR", dict(step_size=1, gamma=0.5)),
        ("torch_lecture_ops.optim.lr_scheduler.StepDecay", dict(every=1, drop=0.5)),
    ],
)
def test_a_schedule_that_counts_steps(cli, schedule, options):
    used = cli(
        "--optimizer=torch_lecture_ops.optim.SGD",
        f"--lr_scheduler={schedule}",
        *(f"--lr_scheduler.{name}={value}" for name, value in options.items()),
        "--model.schedule_interval=step",
    )
    assert used.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-3 * 0.5**8)


def test_a_configuration_file(cli, tmp_path):
    (tmp_path / "config.yaml").write_text(
        "model:\n  init: glorot_uniform\n"
        "optimizer:\n  class_path: torch_lecture_ops.optim.Adagrad\n  init_args:\n    form: larson\n    gamma: 0.9\n"
    )
    used = cli(f"--config={tmp_path}/config.yaml")
    group = used.trainer.optimizers[0].param_groups[0]
    assert (group["form"], group["gamma"], used.model.init) == ("larson", 0.9, "glorot_uniform")


@pytest.mark.parametrize("option", ["--optimizer.form=cubic", "--model.init=he", "--model.schedule_interval=year"])
def test_mistakes_end_before_training(cli, capsys, option):
    with pytest.raises((SystemExit, ValueError)) as raised:
        cli("--optimizer=torch_lecture_ops.optim.NAdam", option)
    assert option.partition("=")[2] in capsys.readouterr().err + str(raised.value)


def test_without_an_optimizer(cli):
    with pytest.raises(MisconfigurationException, match="No `configure_optimizers"):
        cli()


# ---------------------------------------------------------------- without a command line


@pytest.mark.parametrize("scheme", ["auto", "glorot_uniform", "glorot_normal", "he_uniform", "he_normal", None])
def test_initialization(scheme):
    model = Classifier(init=scheme)
    torch.manual_seed(0)
    expected = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    if scheme:
        initialize(expected, scheme=scheme)
    torch.testing.assert_close(model.network[0].weight, expected[0].weight, rtol=0, atol=0)


def test_an_optimizer_of_ones_own(train, kit):
    class Own(Classifier):
        def configure_optimizers(self):
            return optim.Adam(self.parameters())

    assert type(train([], Own(activation=nn.Tanh)).optimizers[0]) is optim.Adam


def test_an_unknown_interval():
    with pytest.raises(ValueError, match="Classifier: schedule_interval must be 'epoch' or 'step', got 'year'"):
        Classifier(schedule_interval="year")


def test_it_leaves_the_optimizer_to_the_command_line():
    assert LectureModule.configure_optimizers is LightningModule.configure_optimizers  # else LightningCLI would warn
