"""The main job: its command line, its pairing of runs, its files, its data."""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")

ROOT = Path(__file__).parents[2]
FULL_MNIST = ROOT.parent / "shared" / "data"


with pytest.MonkeyPatch.context() as patch:  # the scripts find their modules beside themselves
    patch.syspath_prepend(ROOT / "benchmarks")
    import make_mnist_subset
    from suite import choices, command_line, data, network, training
    from suite.setting import Setting


@pytest.fixture
def few_digits(monkeypatch):
    """The subset's first 256 training and 64 test images in place of all."""
    digits = data.load_subset()
    sizes = dict(train_images=256, train_labels=256, test_images=64, test_labels=64)
    few = data.Digits(**{part: getattr(digits, part)[:size] for part, size in sizes.items()})
    monkeypatch.setattr(data, "load_subset", lambda: few)
    return few


def complaint(capsys, *argv: str) -> tuple[int, str]:
    """Exit status and the one line on stderr."""
    with pytest.raises(SystemExit) as exit:
        command_line.main(list(argv))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("mnist.py: ")
    return exit.value.code, err


# ---- command line


@pytest.mark.parametrize(
    "argv, named",
    [
        (["--optimizer", "adan"], ["'adan'", "sgd", "rmsprop", "adam"]),
        (["--optimizer", "sgd,"], ["''", "sgd", "rmsprop", "adam"]),
        (["--activation", "relu,gelo"], ["'gelo'", "relu", "sigmoid", "tanh", "silu"]),
        (["--init", "he"], ["'he'", "he_uniform", "he_normal", "glorot_uniform", "glorot_normal"]),
        (["--dataset", "cifar"], ["'cifar'", "subset", "mnist"]),
        (["--epochs", "-1"], ["'-1'", "at least 1"]),
        (["--epochs", "0"], ["'0'", "at least 1"]),
        (["--epochs", "1.5"], ["'1.5'", "whole number"]),
        (["--batch-size", "0"], ["'0'", "at least 1"]),
        (["--hidden", "256,x"], ["'x'", "whole number"]),
        (["--seeds", "0"], ["'0'", "at least 1"]),
        (["--seeds", "1,-2"], ["'-2'", "at least 0"]),
        (["--lr", "nan"], ["'nan'", "positive"]),
        (["--lr", "-0.1"], ["'-0.1'", "positive"]),
        (["--data-dir", "somewhere"], ["--dataset mnist"]),
        (["--devices", "0"], ["'0'", "at least 1"]),
        (["--devices", "two"], ["'two'", "whole number"]),
        (["--devices", "3"], ["--batch-size", "multiple of 3", "128"]),
        (["--strategy", "fsdp"], ["'fsdp'", "auto", "ddp"]),
        (["--momentum", "0.9"], ["--momentum"]),
    ],
)
def test_a_mistake_takes_one_line_that_names_what_is_valid(capsys, argv, named):
    status, line = complaint(capsys, *argv)
    assert status == 2
    for word in named:
        assert word in line


def test_all_our_optimizers_can_be_chosen_and_compared_if_torch_has_them(capsys):
    assert {"sgd", "nesterov", "rmsprop", "adam"} <= set(choices.OPTIMIZERS)
    assert not {"ruleoptimizer", "buffer"} & set(choices.OPTIMIZERS)
    assert "torch has no Nesterov" in complaint(capsys, "--optimizer", "nesterov")[1]


def test_names_are_case_insensitive_and_seeds_a_count_or_a_list():
    options = command_line.parse_options(["--optimizer", "Adam,SGD,adam", "--seeds", "3", "--hidden", "64"])
    assert (options.optimizer, options.seeds, options.hidden) == (["adam", "sgd"], [0, 1, 2], [(64,)])
    assert command_line.parse_options(["--seeds", "7,"]).seeds == [7]
    assert command_line.parse_options(["--seeds", "7,0"]).seeds == [7, 0]


def test_a_folder_that_cannot_be_written_is_found_before_training(capsys, tmp_path, few_digits):
    (tmp_path / "file").touch()
    status, line = complaint(capsys, "--out", str(tmp_path / "file" / "runs"))
    assert status == 1
    assert "--out" in line


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "cut", "altered", "other arrays", "other shapes"])
def test_a_damaged_subset_takes_one_line(capsys, tmp_path, monkeypatch, damage):
    file = tmp_path / "digits.npz"
    whole = data.SUBSET.read_bytes()
    if damage == "other arrays":
        np.savez(file, images=np.zeros(3))
    elif damage == "other shapes":
        np.savez(file, **{name: np.zeros((3, 3), np.uint8) for name in vars(data.load_subset())})
    elif damage != "missing":
        middle = len(whole) // 2
        altered = whole[:middle] + bytes(100) + whole[middle + 100 :]
        file.write_bytes({"empty": b"", "text": b"hello", "cut": whole[:middle], "altered": altered}[damage])
    monkeypatch.setattr(data.load_subset, "__defaults__", (file,))
    status, line = complaint(capsys, "--out", str(tmp_path / "out"))
    assert status == 1
    assert str(file) in line
    assert not (tmp_path / "out").exists()


def test_mnist_that_is_neither_there_nor_to_be_had_takes_one_line(capsys, tmp_path, monkeypatch):
    torchvision = pytest.importorskip("torchvision")
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://localhost:9/"])
    status, line = complaint(capsys, "--dataset", "mnist", "--data-dir", str(tmp_path / "nothing"))
    assert status == 1
    assert "cannot be downloaded" in line
    assert "--dataset subset" in line


def test_damaged_mnist_takes_one_line(capsys, tmp_path):
    pytest.importorskip("torchvision")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, kind in itertools.product(("train", "t10k"), ("images-idx3", "labels-idx1")):
        (raw / f"{part}-{kind}-ubyte").write_bytes(b"\0" * 100)
    status, line = complaint(capsys, "--dataset", "mnist", "--data-dir", str(tmp_path))
    assert status == 1
    assert "damaged" in line


# ---- a run


def test_a_small_run_prints_its_table_and_writes_its_files(capsys, tmp_path, few_digits):
    argv = ["--epochs", "2", "--hidden", "16", "--batch-size", "100", "--seeds", "2", "--no-progress"]
    assert (
        command_line.main([*argv, "--optimizer", "sgd,adam", "--activation", "relu,tanh", "--out", str(tmp_path)]) == 0
    )
    out, err = capsys.readouterr()
    assert err == ""
    for column in ("test accuracy, %", "s per epoch", "µs per optimizer step", "ours | torch"):
        assert column in out
    table = [line for line in out.splitlines() if "|" in line]
    assert len(table) == 1 + 4
    assert len({len(line) for line in table}) == 1
    assert table[1].startswith("SGD ReLU he_normal")

    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 2 * 2
    assert {(row["optimizer"], row["activation"], row["seed"], row["library"]) for row in rows} == set(
        itertools.product(("sgd", "adam"), ("relu", "tanh"), "01", ("ours", "torch"))
    )
    for row in rows:
        assert 0 <= float(row["test_accuracy"]) <= 100
        for column in ("lr", "train_loss", "seconds_per_epoch", "microseconds_per_step"):
            assert 0 < float(row[column]) < math.inf

    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results) == {"options", "versions", "machine", "summary", "runs"}
    assert results["options"]["hidden"] == [[16]]
    assert results["versions"]["torch"] == torch.__version__
    for run, row in zip(results["runs"], rows, strict=True):
        assert len(run["losses"]) == 2 * 3
        assert len(run["test_accuracies"]) == 2
        assert run["test_accuracies"][-1] == run["test_accuracy"] == float(row["test_accuracy"])
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.processes
@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """They share the batches, and one of them writes what one alone writes, but for rounding and times."""
    argv = ["--epochs", "2", "--hidden", "16", "--batch-size", "1000", "--seeds", "1", "--no-progress"]
    argv += ["--optimizer", "sgd,adam", "--lr", "0.01"]
    assert command_line.main([*argv, "--out", str(tmp_path / "one")]) == 0
    # No network is needed, nor a name for this machine.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, ROOT / "benchmarks" / "mnist.py", *argv, "--devices", "2", "--strategy", "ddp"]
    two = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    # Now and then a process of torch's aborts as it ends, with all done: see test_examples.py.
    said = two.stderr.replace("terminate called without an active exception\n", "")
    assert (two.returncode, said) == (0, "")
    assert two.stdout.count("Times: medians of the first of 2 processes, 1 threads") == 1
    assert two.stdout.count("ours | torch") == 3
    assert two.stdout.count("[1/4]") == 1

    (folder,) = (tmp_path / "runs").iterdir()
    assert {file.name for file in folder.iterdir()} == {"results.csv", "results.json", "results.jsonl", "loss.png"}
    assert (folder / "results.csv").read_text().count("\n") == 1 + 4
    got, expected = (json.loads((path / "results.json").read_text()) for path in (folder, tmp_path / "one"))
    assert (got["options"]["devices"], got["options"]["strategy"]) == (2, "ddp")
    for run, alone in zip(got["runs"], expected["runs"], strict=True):
        assert run["losses"] == pytest.approx(alone["losses"], rel=1e-4)
        assert run["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-4)
        assert run["test_accuracies"] == pytest.approx(alone["test_accuracies"], abs=0.2)  # four images
        assert run["seconds_per_epoch"] > 0
        assert run["microseconds_per_step"] > 0


def test_torchrun_says_how_many_processes_there_are(monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert command_line.parse_options([]).devices == 2
    assert "--devices must be 2" in complaint(capsys, "--devices", "4")[1]
    monkeypatch.setenv("GROUP_WORLD_SIZE", "3")  # machines
    assert "multiple of 6" in complaint(capsys)[1]
    assert command_line.processes(command_line.parse_options(["--batch-size", "120"])) == 6


def test_the_bar_names_the_run(capsys, tmp_path, few_digits):
    argv = ["--optimizer", "sgd", "--epochs", "1", "--hidden", "8", "--seeds", "1", "--out", str(tmp_path)]
    assert command_line.main(argv) == 0
    assert "[1/2] SGD ReLU he_normal, seed 0, ours, epoch 1/1" in capsys.readouterr().out


def test_a_run_that_diverges_is_written_as_valid_json(tmp_path, few_digits):
    argv = ["--optimizer", "sgd", "--lr", "1e30", "--epochs", "2", "--seeds", "1", "--no-progress"]
    assert command_line.main([*argv, "--out", str(tmp_path)]) == 0

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    results = json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert results["runs"][0]["losses"][-1] is None
    assert results["runs"][0]["lr"] == 1e30


def test_ctrl_c_keeps_what_is_finished(tmp_path, capsys, few_digits, monkeypatch, ctrl_c):
    """In the middle of the training of the second run."""
    step, steps = training.Classifier.training_step, itertools.count(1)

    def training_step(self, batch):
        if next(steps) == 5:  # of 3 a run
            signal.raise_signal(signal.SIGINT)
        return step(self, batch)

    monkeypatch.setattr(training.Classifier, "training_step", training_step)
    argv = ["--epochs", "1", "--no-progress", "--optimizer", "sgd", "--hidden", "8", "--batch-size", "100"]
    assert command_line.main([*argv, "--out", str(tmp_path)]) == 130
    out, err = capsys.readouterr()
    assert out.startswith("[1/4]")
    assert "[2/4]" not in out
    assert "interrupted; runs finished: 1" in err
    assert "Traceback" not in err
    assert "|     -" in out
    assert (tmp_path / "loss.png").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # another Ctrl-C is heard


INTERRUPTED = """
import runpy, signal, sys
from suite import training

def interrupted(self, batch):
    signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
training.Classifier.training_step = interrupted
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.processes
def test_ctrl_c_ends_the_process_with_130(tmp_path):
    script = ROOT / "benchmarks" / "mnist.py"
    code = f"import sys; sys.argv[:1] = [{str(script)!r}]; sys.path[:0] = [{str(script.parent)!r}]\n{INTERRUPTED}"
    argv = ["--epochs", "1", "--no-progress", "--optimizer", "sgd", "--out", tmp_path]
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "\nmnist.py: interrupted; runs finished: 0\n"


# ---- pairing


def test_runs_of_a_seed_start_alike_and_see_the_same_batches(few_digits, monkeypatch):
    starts: dict[str, list] = {}
    batches: dict[str, list] = {}

    class Recorder(training.Classifier):
        def on_fit_start(self) -> None:
            starts[key] = [p.detach().clone() for p in self.mlp.parameters()]

        def training_step(self, batch):
            batches.setdefault(key, []).append(torch.cat([batch[0].flatten(), batch[1]]))
            return super().training_step(batch)

    monkeypatch.setattr(training, "Classifier", Recorder)
    cases = itertools.product(("sgd", "rmsprop", "adam"), ("relu", "silu"), choices.LIBRARIES, (0, 1))
    for optimizer, activation, library, seed in cases:
        key = f"{optimizer} {activation} {library} {seed}"
        chosen = dict(optimizer=optimizer, activation=activation, library=library, seed=seed)
        training.train(Setting(**chosen, lr=0.001, hidden=(16,), batch_size=100, epochs=2), few_digits)

    for recorded in (starts, batches):
        for key, tensors in recorded.items():
            torch.testing.assert_close(tensors, recorded[f"sgd relu ours {key[-1]}"], rtol=0, atol=0)
        assert not torch.equal(recorded["sgd relu ours 0"][0], recorded["sgd relu ours 1"][0])
    first_epoch, second_epoch = batches["sgd relu ours 0"][:3], batches["sgd relu ours 0"][3:]
    assert not torch.equal(first_epoch[0], second_epoch[0])


def test_activations_of_other_gain_scale_the_same_draw():
    relu, tanh = (
        network.build_mlp(Setting(hidden=(16,), activation=activation, init="glorot_uniform", seed=3))
        for activation in ("relu", "tanh")
    )
    torch.testing.assert_close(relu[0].weight, math.sqrt(2) * tanh[0].weight)


def test_a_pass_visits_every_image_once_in_an_order_set_by_seed_and_pass():
    rows = torch.arange(10)

    def passes(seed: int) -> list[list[int]]:
        batches = data.Batches(rows, rows, batch_size=4, seed=seed)
        assert len(batches) == 3
        return [torch.cat([images for images, _ in batches]).tolist() for _ in range(2)]

    first, second = passes(seed=0)
    assert sorted(first) == sorted(second) == rows.tolist()
    assert first != second
    assert passes(seed=0) == [first, second]
    assert passes(seed=1) != [first, second]


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_the_parts_of_processes_make_up_the_batches(processes):
    rows = torch.arange(50)
    whole = list(data.Batches(rows, rows, 12, seed=0))
    parts = [data.Batches(rows, rows, 12, 0, process, processes) for process in range(processes)]
    assert {len(part) for part in parts} == {math.ceil((50 - 50 % processes) / 12)}
    left_out = 50
    for (images, _), *shares in zip(whole, *parts, strict=False):
        assert len({len(share) for share, _ in shares}) == 1
        together = torch.cat([share for share, _ in shares])
        assert set(together.tolist()) <= set(images.tolist())
        left_out -= len(together)
    assert left_out == 50 % processes


def test_step_time_leaves_out_forward_and_backward(few_digits, monkeypatch):
    clock = [0.0]  # which only a forward pass and a step move on
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    class Slow(torch.nn.Module):
        def forward(self, x):
            clock[0] += 8.0
            return x

    class SGD(torch.optim.SGD):
        def step(self, closure=None):
            clock[0] += 1.0
            return super().step(closure)

    mlp = torch.nn.Sequential(Slow(), torch.nn.Linear(784, 10))
    classifier = training.Classifier(mlp, SGD(mlp.parameters()), few_digits, Setting())
    options = dict(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False)
    trainer = training.Trainer(**options, enable_progress_bar=False, enable_model_summary=False)
    with training.warnings.catch_warnings():
        training.warnings.simplefilter("ignore")
        trainer.fit(classifier, data.Batches(few_digits.train_images, few_digits.train_labels, 128, 0))
    assert classifier.step_seconds == [1.0, 1.0]
    assert classifier.epoch_seconds == [18.0]


# ---- data


def test_the_subset_is_balanced_real_and_small():
    assert data.SUBSET.stat().st_size < 3_000_000
    with np.load(data.SUBSET) as file:
        arrays = dict(file)
    assert {name: (array.shape, array.dtype) for name, array in arrays.items()} == {
        "train_images": ((10_000, 28, 28), np.uint8),
        "train_labels": ((10_000,), np.uint8),
        "test_images": ((2_000, 28, 28), np.uint8),
        "test_labels": ((2_000,), np.uint8),
    }
    assert np.bincount(arrays["train_labels"]).tolist() == [1000] * 10
    assert np.bincount(arrays["test_labels"]).tolist() == [200] * 10
    train, test = ({image.tobytes() for image in arrays[f"{part}_images"]} for part in ("train", "test"))
    assert (len(train), len(test)) == (10_000, 2_000)
    assert not train & test


def test_pixels_become_rows_in_the_unit_interval():
    digits = data.load_subset()
    assert digits.train_images.shape == (10_000, 784)
    assert digits.test_images.shape == (2_000, 784)
    assert (digits.train_images.min(), digits.train_images.max()) == (0, 1)
    assert (digits.train_images.dtype, digits.train_labels.dtype) == (torch.float32, torch.int64)


@pytest.mark.skipif(not (FULL_MNIST / "MNIST" / "raw").exists(), reason="needs the full MNIST")
def test_the_script_chooses_the_committed_subset_again():
    pytest.importorskip("torchvision")
    again = make_mnist_subset.make_subset(FULL_MNIST)
    with np.load(data.SUBSET) as file:
        assert set(file) == set(again)
        for name, array in again.items():
            np.testing.assert_array_equal(file[name], array)


@pytest.mark.skipif(not (FULL_MNIST / "MNIST" / "raw").exists(), reason="needs the full MNIST")
def test_torchvisions_folder_is_read():
    pytest.importorskip("torchvision")
    digits = data.load_full("mnist", FULL_MNIST)
    assert digits.train_images.shape == (60_000, 784)
    assert digits.test_images.shape == (10_000, 784)
