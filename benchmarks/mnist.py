"""Trains an MLP on MNIST with our optimizers and activations and with torch's classes of the same names.

    python benchmarks/mnist.py
    python benchmarks/mnist.py --optimizer sgd,adam --activation relu,silu --seeds 5 --epochs 10
    python benchmarks/mnist.py --devices 2 --strategy ddp

Lightning's Trainer trains every optimizer x activation x init once per seed and library. The runs are paired: all
runs of a seed see the same batches in the same order, and their weights are the same random draw, scaled as the init
and the activation ask. The script ends with a table and writes results.csv, results.json and loss.png.

With several devices each process takes its part of every batch: the runs are those of one device but for rounding.
Losses are those of the whole batches; times, and all that is printed and written, are the first process's.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import math
import os
import platform
import signal
import sys
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from itertools import pairwise, product
from pathlib import Path
from statistics import mean, median, stdev
from tempfile import TemporaryFile
from typing import Any, NoReturn, TextIO

import lightning
import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from lightning.pytorch.utilities.warnings import PossibleUserWarning
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import torch_lecture_ops.nn
import torch_lecture_ops.nn.init
import torch_lecture_ops.optim

PROGRAM = "mnist.py"
SUBSET = Path(__file__).parent / "data" / "mnist_subset.npz"
PIXELS, DIGITS = 28 * 28, 10

LIBRARIES = ("ours", "torch")
OPTIM = {"ours": torch_lecture_ops.optim, "torch": torch.optim}
NN = {"ours": torch_lecture_ops.nn, "torch": torch.nn}

# The classes compared, keyed as on the command line: all optimizers of ours that torch has too.
OPTIMIZERS = {name.lower(): name for name in torch_lecture_ops.optim.__all__ if name in torch.optim.__all__}
ACTIVATIONS = {name.lower(): name for name in ("ReLU", "Sigmoid", "Tanh", "SiLU")}
INITS = ("glorot_uniform", "glorot_normal", "he_uniform", "he_normal")
DATASETS = ("subset", "mnist")
STRATEGIES = ("auto", "ddp")  # of Lightning's those that train in this very process, which keeps what it measures

# Where the class's own default does not suit this network; torch's RMSprop has lr 0.01.
SETTINGS: dict[str, dict[str, float]] = {"sgd": dict(lr=0.1, momentum=0.9), "rmsprop": dict(lr=1e-3)}


# ---------------------------------------------------------------- data


@dataclass(frozen=True)
class Digits:
    """Images as rows of pixels in [0, 1], float32 (n, 784), and labels, int64 (n,)."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def as_digits(train_images: Tensor, train_labels: Tensor, test_images: Tensor, test_labels: Tensor) -> Digits:
    """From MNIST's own form: bytes of shape (n, 28, 28) and labels of shape (n,)."""
    for images, labels in ((train_images, train_labels), (test_images, test_labels)):
        if images.shape != (len(labels), 28, 28) or not 0 <= labels.min() <= labels.max() < DIGITS:
            raise ValueError("not images of 28 x 28 with labels 0 to 9")
    train, test = (images.flatten(1).float() / 255 for images in (train_images, test_images))
    return Digits(train, train_labels.long(), test, test_labels.long())


def load_subset(path: Path = SUBSET) -> Digits:
    """The digits that come with this script."""
    try:
        with path.open("rb") as stream, np.load(stream) as file:
            return as_digits(**{field.name: torch.from_numpy(file[field.name]) for field in fields(Digits)})
    # All that NumPy, zipfile and torch raise for a file that is missing, cut short, altered or something else.
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        fail(f"cannot read {path}: {one_line(error)}; restore it from git or with make_mnist_subset.py")


def load_mnist(folder: Path) -> Digits:
    """The full MNIST in torchvision's layout, downloaded if it is not there."""
    from torchvision.datasets import MNIST  # a second of import that the default run does without

    absent = not (folder / "MNIST" / "raw" / "train-images-idx3-ubyte").exists()
    try:
        train, test = (MNIST(folder, train=is_train, download=True) for is_train in (True, False))
        return as_digits(train.data, train.targets, test.data, test.targets)
    except (OSError, ValueError, RuntimeError, AssertionError) as error:
        trouble = "is not there and cannot be downloaded" if absent else "is incomplete or damaged"
        fail(
            f"MNIST in {folder} {trouble} ({one_line(error)}); "
            "name the folder that holds MNIST/raw with --data-dir, or take the default, --dataset subset"
        )


class Batches:
    """Shuffled batches of tensors in memory: pass number n has the n-th order drawn from the seed.

    Of several processes each has its part of every batch. All parts are equally large, so that the mean of their
    gradients is the gradient of the batch: `batch_size` is a multiple of the number of processes, and a pass leaves
    out the last images of its order, fewer than there are processes.

    A DataLoader fetches and collates image by image, which would take longer than the training itself.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, batch_size: int, seed: int, process: int = 0, processes: int = 1
    ) -> None:
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.process, self.processes = process, processes
        self.count = len(images) - len(images) % processes
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return math.ceil(self.count / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.images), generator=self.generator)
        for rows in order[: self.count].split(self.batch_size):
            part = rows[self.process :: self.processes]
            yield self.images[part], self.labels[part]


# ---------------------------------------------------------------- training


@dataclass(frozen=True)
class Configuration:
    """What is compared between the libraries."""

    optimizer: str
    activation: str
    init: str

    def __str__(self) -> str:
        return f"{OPTIMIZERS[self.optimizer]} {ACTIVATIONS[self.activation]} {self.init}"


@dataclass(frozen=True)
class Run:
    """One training and what came out of it."""

    configuration: Configuration
    seed: int
    library: str
    engine: str  # which one of ours ran; empty for torch
    lr: float
    test_accuracy: float  # percent, after the last epoch
    train_loss: float  # mean over the last epoch
    seconds_per_epoch: float  # median over epochs, training only
    microseconds_per_step: float  # median over steps, `optimizer.step` without forward and backward
    test_accuracies: list[float]  # after every epoch
    losses: list[float]  # of every batch, the parts of all processes together


def build_mlp(hidden: list[int], configuration: Configuration, library: str, seed: int) -> nn.Sequential:
    """784 - hidden - 10 with the library's activation in between; weights from the seed, biases zero."""
    activation = getattr(NN[library], ACTIVATIONS[configuration.activation])
    fill = getattr(torch_lecture_ops.nn.init, f"{configuration.init}_")
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise([PIXELS, *hidden, DIGITS]):
        linear = nn.Linear(n_in, n_out)
        fill(linear.weight, configuration.activation, generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear, activation()]
    return nn.Sequential(*layers[:-1])


def build_optimizer(mlp: nn.Sequential, name: str, library: str, lr: float | None) -> torch.optim.Optimizer:
    """The library's class with the settings of this script; `lr` overrides theirs."""
    settings = SETTINGS.get(name, {}) | ({} if lr is None else dict(lr=lr))
    return getattr(OPTIM[library], OPTIMIZERS[name])(mlp.parameters(), **settings)


class Classifier(LightningModule):
    """Trains by cross-entropy; keeps all losses, the accuracy after each epoch and the time of every step and epoch."""

    def __init__(self, mlp: nn.Sequential, optimizer: torch.optim.Optimizer, digits: Digits) -> None:
        super().__init__()
        self.mlp, self.optimizer, self.digits = mlp, optimizer, digits
        self.losses: list[Tensor] = []
        self.test_accuracies: list[float] = []
        self.step_seconds: list[float] = []
        self.epoch_seconds: list[float] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        loss = cross_entropy(self.mlp(images), labels)
        self.losses.append(loss.detach())
        return loss

    # By default Lightning has `optimizer.step` call the closure, which does forward and backward. Called beforehand, it
    # stays out of the measured time, and so does what Lightning does around it: together more than a small step takes.
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        optimizer_closure()
        start = time.perf_counter()
        self.optimizer.step()
        self.step_seconds.append(time.perf_counter() - start)

    def on_train_epoch_start(self) -> None:
        self.epoch_start = time.perf_counter()

    def on_train_epoch_end(self) -> None:
        self.epoch_seconds.append(time.perf_counter() - self.epoch_start)
        self.test_accuracies.append(accuracy(self.mlp, self.digits.test_images, self.digits.test_labels))


class NamedBar(TQDMProgressBar):
    """Lightning's bar under the name of the run, cleared at its end."""

    def __init__(self, name: str) -> None:
        super().__init__(refresh_rate=10)
        self.name = name

    def init_train_tqdm(self) -> Any:
        bar = super().init_train_tqdm()
        bar.leave = False
        return bar

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(f"{self.name}, epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")

    def get_metrics(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        return {"loss": f"{module.losses[-1]:.3f}"}


def fit(classifier: Classifier, seed: int, options: argparse.Namespace, bar: NamedBar | None) -> Tensor:
    """Lightning's training on the CPU, without its files, its advice and its way out on Ctrl-C; the losses."""
    digits = classifier.digits
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec")  # Lightning 2.6 uses what torch 2.15 deprecates
        warnings.filterwarnings("ignore", category=PossibleUserWarning)  # there is a GPU, too
        trainer = Trainer(
            accelerator="cpu",
            devices=options.devices,
            num_nodes=machines(),
            strategy=options.strategy,
            max_epochs=options.epochs,
            callbacks=bar,
            enable_progress_bar=bar is not None,
            enable_model_summary=False,
            enable_checkpointing=False,
            logger=False,
        )
        part = trainer.global_rank, trainer.world_size
        batches = Batches(digits.train_images, digits.train_labels, options.batch_size, seed, *part)
        try:
            trainer.fit(classifier, batches)
            return trainer.strategy.reduce(torch.stack(classifier.losses), reduce_op="mean")
        except SystemExit:  # Lightning's answer to Ctrl-C; from then on it ignores the signal
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt from None


def train(
    configuration: Configuration, seed: int, library: str, digits: Digits, options: argparse.Namespace, name: str
) -> Run:
    """Train one network and measure it."""
    mlp = build_mlp(options.hidden, configuration, library, seed)
    optimizer = build_optimizer(mlp, configuration.optimizer, library, options.lr)
    classifier = Classifier(mlp, optimizer, digits)
    losses = fit(classifier, seed, options, NamedBar(name) if options.progress else None)
    return Run(
        configuration=configuration,
        seed=seed,
        library=library,
        engine=getattr(optimizer, "engine", ""),
        lr=optimizer.param_groups[0]["lr"],
        test_accuracy=classifier.test_accuracies[-1],
        train_loss=losses.reshape(options.epochs, -1)[-1].mean().item(),
        seconds_per_epoch=median(classifier.epoch_seconds),
        microseconds_per_step=1e6 * median(classifier.step_seconds),
        test_accuracies=classifier.test_accuracies,
        losses=losses.tolist(),
    )


@torch.no_grad()
def accuracy(mlp: nn.Sequential, images: Tensor, labels: Tensor) -> float:
    """Percentage of images whose label is the largest output."""
    return 100.0 * int((mlp(images).argmax(1) == labels).sum()) / len(labels)


# ---------------------------------------------------------------- results


@dataclass(frozen=True)
class Summary:
    """The seeds of one configuration and library."""

    configuration: str
    library: str
    seeds: int
    accuracy_mean: float
    accuracy_std: float | None  # over the seeds; None of a single one
    seconds_per_epoch: float  # these two: median over the seeds
    microseconds_per_step: float


def summarize(runs: Iterable[Run]) -> list[Summary]:
    """One summary per configuration and library, in order of first appearance."""
    groups: dict[tuple[Configuration, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.configuration, run.library), []).append(run)
    summaries = []
    for (configuration, library), group in groups.items():
        accuracies = [run.test_accuracy for run in group]
        summaries.append(
            Summary(
                configuration=str(configuration),
                library=library,
                seeds=len(group),
                accuracy_mean=mean(accuracies),
                accuracy_std=stdev(accuracies) if len(group) > 1 else None,
                seconds_per_epoch=median(run.seconds_per_epoch for run in group),
                microseconds_per_step=median(run.microseconds_per_step for run in group),
            )
        )
    return summaries


def show_accuracy(summary: Summary) -> str:
    spread = "" if summary.accuracy_std is None else f" ± {summary.accuracy_std:.2f}"
    return f"{summary.accuracy_mean:.2f}{spread}"


QUANTITIES: dict[str, Callable[[Summary], str]] = {
    "test accuracy, %": show_accuracy,
    "s per epoch": lambda summary: f"{summary.seconds_per_epoch:.3f}",
    "µs per optimizer step": lambda summary: f"{summary.microseconds_per_step:.0f}",
}


def format_table(summaries: Iterable[Summary]) -> str:
    """Aligned text, a row per configuration, ours | torch; "-" for what was not run."""
    by_run = {(summary.configuration, summary.library): summary for summary in summaries}
    configurations = list(dict.fromkeys(configuration for configuration, _ in by_run))

    def column(library: str, show: Callable[[Summary], str]) -> list[str]:
        cells = [by_run.get((configuration, library)) for configuration in configurations]
        return align([library, *(show(cell) if cell else "-" for cell in cells)], ">")

    columns = [align(["", "", *configurations], "<")]
    for quantity, show in QUANTITIES.items():
        ours, others = (column(library, show) for library in LIBRARIES)
        columns.append(align([quantity, *map(" | ".join, zip(ours, others, strict=True))], ">"))
    return "\n".join("   ".join(row) for row in zip(*columns, strict=True))


def align(cells: list[str], side: str) -> list[str]:
    """Pad to the widest, to the left "<" or to the right ">"."""
    width = max(map(len, cells))
    return [f"{cell:{side}{width}}" for cell in cells]


def flat(run: Run) -> dict[str, Any]:
    """A run with its configuration's fields among its own."""
    row = asdict(run)
    return row.pop("configuration") | row


def write_csv(path: Path, runs: list[Run]) -> None:
    """One row per run, without the curves."""
    rows = [{key: value for key, value in flat(run).items() if not isinstance(value, list)} for run in runs]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: Path, runs: list[Run], options: argparse.Namespace) -> None:
    """Everything: how it was run, where, the table's numbers and all runs with their curves."""
    contents = {
        "options": vars(options),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "lightning": lightning.__version__,
            "numpy": np.__version__,
        },
        "machine": {
            "platform": platform.platform(),
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        "summary": [asdict(summary) for summary in summarize(runs)],
        "runs": [flat(run) for run in runs],
    }
    path.write_text(json.dumps(finite(contents), indent=1, default=str))


def finite(value: Any) -> Any:
    """The same with None for NaN and infinity, which JSON does not have and a diverged run does."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plot_losses(path: Path, runs: list[Run], epochs: int) -> None:
    """Training loss, mean over the seeds: a row per activation, a column per init, a colour per optimizer."""
    optimizers, activations, inits = (
        list(dict.fromkeys(getattr(run.configuration, field.name) for run in runs)) for field in fields(Configuration)
    )
    figure = Figure(figsize=(2 + 5 * len(inits), 1 + 4 * len(activations)), layout="constrained")
    panels = figure.subplots(len(activations), len(inits), squeeze=False, sharex=True, sharey=True)
    for panel, (activation, init) in zip(panels.flat, product(activations, inits), strict=True):
        for (index, optimizer), library in product(enumerate(optimizers), LIBRARIES):
            configuration = Configuration(optimizer, activation, init)
            curves = [run.losses for run in runs if (run.configuration, run.library) == (configuration, library)]
            if curves:
                # Ours wide and pale, torch thin and dashed on top: both show where they agree.
                style = dict(lw=4, alpha=0.4) if library == "ours" else dict(lw=1.2, ls="--")
                label = f"{OPTIMIZERS[optimizer]}, {library}"
                panel.plot(*smooth(np.mean(curves, axis=0), epochs), color=f"C{index}", label=label, **style)
        panel.set(title=f"{ACTIVATIONS[activation]}, {init}", xlabel="epoch", ylabel="training loss", yscale="log")
        panel.grid(alpha=0.3)
        panel.label_outer()
    panels.flat[0].legend()
    figure.savefig(path, dpi=120)


def smooth(losses: np.ndarray, epochs: int) -> tuple[np.ndarray, np.ndarray]:
    """Places on the axis of epochs, ten in each, and the mean losses around them."""
    parts = np.array_split(losses, min(10 * epochs, len(losses)))
    ends = np.cumsum([len(part) for part in parts])
    middles = ends - [len(part) / 2 for part in parts]
    return middles * epochs / len(losses), np.array([part.mean() for part in parts])


# ---------------------------------------------------------------- command line


def fail(message: str, status: int = 1) -> NoReturn:
    print(f"{PROGRAM}: {message}", file=sys.stderr)
    raise SystemExit(status)


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong without repeating the usage."""

    def error(self, message: str) -> NoReturn:
        fail(message, status=2)


def listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def names(valid: Iterable[str]) -> Callable[[str], list[str]]:
    """Parser of a comma-separated list of `valid` names."""

    def parse(text: str) -> list[str]:
        chosen = list(dict.fromkeys(text.lower().split(",")))
        for name in chosen:
            if name not in valid:
                raise argparse.ArgumentTypeError(f"unknown {name!r}, choose from {listed(valid)}")
        return chosen

    return parse


def whole_number(text: str, least: int = 1) -> int:
    if not text.strip().isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, got {text!r}")
    return int(text)


def whole_numbers(text: str) -> list[int]:
    return [whole_number(part) for part in text.split(",")]


def seeds(text: str) -> list[int]:
    """A count or, with a comma, a list."""
    if "," not in text:
        return list(range(whole_number(text)))
    return list(dict.fromkeys(whole_number(part, least=0) for part in text.rstrip(",").split(",")))


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return value


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(PROGRAM, description="Train MLPs on MNIST, ours beside torch's.", allow_abbrev=False)
    add = parser.add_argument
    of = "one or several, with commas, of %s (default: %%(default)s)"
    add("--optimizer", type=names(OPTIMIZERS), default="sgd,rmsprop,adam", metavar="A,B", help=of % listed(OPTIMIZERS))
    add("--activation", type=names(ACTIVATIONS), default="relu", metavar="A,B", help=of % listed(ACTIVATIONS))
    add("--init", type=names(INITS), default="he_normal", metavar="A,B", help=of % listed(INITS))
    add("--seeds", type=seeds, default="2", metavar="N", help="how many, or with commas which (default: %(default)s)")
    add("--epochs", type=whole_number, default=3, metavar="N", help="(default: %(default)s)")
    add("--batch-size", type=whole_number, default=128, metavar="N", help="(default: %(default)s)")
    add("--hidden", type=whole_numbers, default="256,128", metavar="N,M", help="layer widths (default: %(default)s)")
    add("--lr", type=positive, metavar="X", help="learning rate for all optimizers (default: what suits each)")
    add("--dataset", choices=DATASETS, default="subset", help="the 12,000 digits kept here (default) or all 70,000")
    add("--data-dir", type=Path, metavar="DIR", help="folder of MNIST/raw for --dataset mnist (default: runs/data)")
    started = os.environ.get("LOCAL_WORLD_SIZE", "1")  # by torchrun, on this machine
    shares = "processes of this machine, each with its part of every batch (default: %(default)s)"
    add("--devices", type=whole_number, default=started, metavar="N", help=shares)
    add("--strategy", choices=STRATEGIES, default="auto", help="Lightning's for several devices (default: %(default)s)")
    add("--out", type=Path, metavar="DIR", help="folder for the results (default: runs/mnist-<time>)")
    add("--no-progress", dest="progress", action="store_false", help="no progress bar")
    options = parser.parse_args(argv)
    if options.dataset == "subset" and options.data_dir:
        parser.error("--data-dir goes with --dataset mnist")
    if "LOCAL_WORLD_SIZE" in os.environ and options.devices != int(started):
        parser.error(f"--devices must be {started}, the --nproc-per-node of torchrun, got {options.devices}")
    if options.batch_size % (count := processes(options)):
        parser.error(f"--batch-size must be a multiple of {count}, the number of processes, got {options.batch_size}")
    options.data_dir = options.data_dir or Path("runs/data")
    options.out = options.out or Path("runs", f"{datetime.now():mnist-%Y%m%d-%H%M%S}")
    return options


def machines() -> int:
    """How many take part; torchrun tells."""
    return int(os.environ.get("GROUP_WORLD_SIZE", 1))


def processes(options: argparse.Namespace) -> int:
    """On all machines."""
    return machines() * options.devices


@rank_zero_only
def check_writable(folder: Path) -> None:
    """Make the folder for the results and try it, before training rather than after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        fail_to_write(folder, error)


def fail_to_write(folder: Path, error: OSError) -> NoReturn:
    fail(f"cannot write to {folder}: {error.strerror}; name another folder with --out")


def train_all(options: argparse.Namespace, digits: Digits) -> Iterator[Run]:
    """The runs, seed by seed, so that an interrupted comparison is complete for the seeds it has."""
    configurations = [Configuration(*choice) for choice in product(options.optimizer, options.activation, options.init)]
    plan = list(product(options.seeds, configurations, LIBRARIES))
    for number, (seed, configuration, library) in enumerate(plan, start=1):
        name = f"[{number:{len(str(len(plan)))}}/{len(plan)}] {configuration}, seed {seed}, {library}"
        run = train(configuration, seed, library, digits, options, name)
        say(f"{name}: {run.test_accuracy:.2f} %, {run.seconds_per_epoch:.2f} s per epoch")
        yield run


@rank_zero_only
def say(text: str, file: TextIO | None = None) -> None:
    print(text, file=file, flush=True)


@rank_zero_only
def report(runs: list[Run], options: argparse.Namespace, digits: Digits) -> None:
    """Print the table and write the files."""
    network = "-".join(map(str, [PIXELS, *options.hidden, DIGITS]))
    count = processes(options)
    whose = "" if count == 1 else f" of the first of {count} processes"
    print(
        f"\nMLP {network}, batch size {options.batch_size}, epochs {options.epochs}, "
        f"{len(digits.train_images):,} training and {len(digits.test_images):,} test images\n"
        f"Accuracy: mean ± standard deviation over seeds {', '.join(map(str, options.seeds))}. "
        f"Times: medians{whose}, {torch.get_num_threads()} threads.\n"
    )
    print(format_table(summarize(runs)))
    try:
        write_csv(options.out / "results.csv", runs)
        write_json(options.out / "results.json", runs, options)
        plot_losses(options.out / "loss.png", runs, options.epochs)
    except OSError as error:
        fail_to_write(options.out, error)
    print(f"\nresults.csv, results.json and loss.png are in {options.out}")


def main(argv: list[str] | None = None) -> int:
    options = parse_options(argv)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # no notes on devices and processes, no tips
    digits = load_subset() if options.dataset == "subset" else load_mnist(options.data_dir)
    check_writable(options.out)

    runs: list[Run] = []
    status = 0
    try:
        for run in train_all(options, digits):
            runs.append(run)
    except KeyboardInterrupt:
        say(f"\n{PROGRAM}: interrupted; runs finished: {len(runs)}", sys.stderr)
        status = 130
    if runs:
        report(runs, options, digits)
    return status


if __name__ == "__main__":
    sys.exit(main())
