"""The suite of MNIST comparisons: choices, grids, statistics, store, tables, reports, papers. Trainings are tiny."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from torch_lecture_ops.formula import c_engine, engine
from torch_lecture_ops.pictures.style import theme

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")
stats = pytest.importorskip("scipy.stats")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(BENCHMARKS)
    from papers import frame, glorot_2010, larson
    from suite import choices, command_line, data, execution, network, pictures, statistics, store, tables, training
    from suite.run import Run
    from suite.setting import Setting, grid, key, labels

SMALL = ["--hidden", "8", "--epochs", "1", "--no-progress"]


@pytest.fixture(autouse=True)
def few_digits(monkeypatch):
    """256 training and 64 test images of noise in place of the subset."""
    generator = torch.Generator().manual_seed(0)
    train, test = (torch.rand(count, 784, generator=generator) for count in (256, 64))
    few = data.Digits(train, torch.arange(256) % 10, test, torch.arange(64) % 10)
    monkeypatch.setattr(data, "load_subset", lambda: few)
    return few


def make_run(accuracy: float = 90.0, diverged: bool = False, **chosen) -> Run:
    """A result that nobody has trained."""
    losses = [2.0, math.nan if diverged else 1.0, 0.5, 0.4]
    numbers = dict(test_accuracy=accuracy, train_loss=losses[-1], seconds_per_epoch=1.5, microseconds_per_step=100.0)
    curves = dict(test_accuracies=[accuracy - 5, accuracy], epoch_seconds=[1.0, 2.0], losses=losses)
    return Run(setting=Setting(**chosen), engine="c", diverged=diverged, **numbers, **curves)


def run(capsys, *argv: str, status: int = 0) -> tuple[str, str]:
    """What a command prints."""
    assert command_line.main(list(argv)) == status
    return capsys.readouterr()


def complaint(capsys, *argv: str) -> tuple[int, str]:
    """Exit status and the one line on stderr."""
    with pytest.raises(SystemExit) as exit:
        command_line.main(list(argv))
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("mnist.py: ")
    return exit.value.code, err


# ---- choices


@pytest.mark.parametrize(
    "kind, text, canonical",
    [
        ("optimizer", "Adam", "adam"),
        ("optimizer", "adam:larson", "adam:form=larson"),
        ("optimizer", "adadelta:rho=0.9:EPS=1e-6", "adadelta:eps=1e-06:rho=0.9"),
        ("optimizer", "adam:betas=0.8/0.99", "adam:betas=0.8/0.99"),
        ("optimizer", "sgd:nesterov=true", "sgd:nesterov=true"),
        ("activation", "elu:alpha=0.5", "elu:alpha=0.5"),
        ("activation", "maxout:pieces=3", "maxout:pieces=3"),
        ("init", "uniform:bound=0.05", "uniform:bound=0.05"),
        ("init", "glorot_normal:mode=forward", "glorot_normal:mode=forward"),
        ("schedule", "inverse:k=0.2+annealing:steps=5", "inverse:k=0.2+annealing:steps=5"),
        ("loss", "quadratic", "quadratic"),
    ],
)
def test_a_choice_has_one_form(kind, text, canonical):
    check = choices.checked(kind, choices.LIBRARIES)
    assert check(text) == check(canonical) == canonical


@pytest.mark.parametrize("init", [*choices.INITS, "glorot_uniform:mode=backward"])
@pytest.mark.parametrize("activation", choices.ACTIVATIONS)
def test_every_init_goes_with_every_activation(activation, init):
    mlp = network.build_mlp(Setting(activation=activation, init=init, hidden=(12, 6)))
    assert mlp(torch.rand(3, 784)).shape == (3, 10)
    for name, parameter in mlp.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()


@pytest.mark.parametrize("loss", choices.LOSSES)
def test_losses_of_both_libraries_agree(loss):
    z, target = torch.randn(6, 10), torch.arange(6)
    ours, others = (choices.loss_function(loss, library)(z, target) for library in choices.LIBRARIES)
    torch.testing.assert_close(ours, others)


def test_softsign_is_torchs():
    from suite.softsign import Softsign, SoftsignFunction

    from torch_lecture_ops.functions import check_slope

    x = torch.linspace(-4, 4, 16)  # without 0, where the curvature jumps
    torch.testing.assert_close(Softsign()(x), torch.nn.functional.softsign(x))
    check_slope(SoftsignFunction, x)


@pytest.mark.parametrize("optimizer", [*choices.OPTIMIZERS, "nesterov:larson", "adam:larson", "adagrad:memoryless"])
def test_every_optimizer_trains(optimizer, few_digits):
    setting = Setting(optimizer=optimizer, lr=choices.initial_lr(optimizer, None), hidden=(8,), epochs=2)
    run = training.train(setting, few_digits)
    assert len(run.test_accuracies) == len(run.epoch_seconds) == 2
    assert not run.diverged
    assert run.engine


def test_a_schedule_moves_the_learning_rate_and_norms_are_limited(few_digits):
    setting = Setting(schedule="step:drop=0.5:every=1+annealing:steps=2", lr=0.4, hidden=(8,), epochs=2, max_norm=0.1)
    seen = []

    class Recorder(training.Classifier):
        def on_train_epoch_start(self) -> None:
            super().on_train_epoch_start()
            seen.append((self.optimizer.param_groups[0]["lr"], self.optimizer.param_groups[0]["momentum"]))

    mlp = network.build_mlp(setting)
    optimizer = choices.build_optimizer(mlp.parameters(), setting.optimizer, "ours", setting.lr)
    training.fit(Recorder(mlp, optimizer, few_digits, setting), execution.Execution())
    assert np.allclose(seen, [(0.4, 0.5), (0.2, 0.745)])
    assert max(layer.weight.norm(dim=1).max().item() for layer in mlp if hasattr(layer, "weight")) <= 0.1 + 1e-6


# ---- grids and keys


def test_a_grid_is_seed_by_seed_and_fills_in_learning_rates():
    settings = grid(Setting(), dict(optimizer=["sgd", "adam"], lr=[None]), [3, 4])
    assert [(one.seed, one.optimizer, one.lr) for one in settings] == [
        (3, "sgd", 0.1), (3, "adam", 0.001), (4, "sgd", 0.1), (4, "adam", 0.001)
    ]  # fmt: skip
    assert list(labels(settings).values()) == ["SGD ReLU he_normal", "Adam ReLU he_normal"]


def test_an_empty_grid_and_what_does_not_go_together_are_errors():
    with pytest.raises(ValueError, match="grid is empty: 0 x optimizer"):
        grid(Setting(), dict(optimizer=[]), [0])
    with pytest.raises(ValueError, match="adagrad, schedule annealing"):
        grid(Setting(), dict(optimizer=["adagrad"], schedule=["annealing"]), [0])


def test_labels_name_what_is_not_the_same_in_all():
    settings = [Setting(hidden=(8, 4)), Setting(hidden=(4,), lr=0.5)]
    names = list(labels(settings).values())
    assert names == ["SGD ReLU he_normal 8-4 lr 0.1", "SGD ReLU he_normal 4 lr 0.5"]
    assert list(labels([Setting(), Setting(stop_at=97.0)]).values()) == [
        "SGD ReLU he_normal",
        "SGD ReLU he_normal stop at 97",
    ]


@pytest.mark.parametrize(
    "change", [dict(lr=0.2), dict(seed=1), dict(optimizer="sgd:momentum=0.5"), dict(epochs=4), dict(stop_at=97.0)]
)
def test_the_key_changes_with_the_setting_and_the_digits(change):
    assert key(Setting(), "a") == key(Setting(), "a")
    assert key(replace(Setting(), **change), "a") != key(Setting(), "a") != key(Setting(), "b")


# ---- statistics


def test_intervals_are_those_of_scipy():
    values = [94.1, 94.4, 93.9, 94.6, 94.3]
    mean = statistics.estimate(values)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert mean.interval == pytest.approx((low, high))
    assert str(mean) == "94.26 ± 0.34"
    assert str(statistics.estimate([94.0])) == "94.00"
    assert str(statistics.estimate([0.0812, 0.0814])) == "0.0813 ± 0.0013"


def test_the_t_quantile_is_that_of_the_tables():
    assert statistics.t_quantile(4) == pytest.approx(2.776, abs=5e-4)


def test_pairs_are_tested_over_the_seeds_that_both_have():
    first, other = {0: 1.0, 1: 2.0, 2: 4.0, 9: 7.0}, {0: 1.5, 1: 2.1, 2: 4.9, 5: 3.0}
    expected = stats.ttest_rel([1.5, 2.1, 4.9], [1.0, 2.0, 4.0]).pvalue
    assert statistics.paired_p(first, other) == pytest.approx(expected)
    assert statistics.paired_p(first, first) == 1.0
    assert statistics.paired_p({0: 1.0, 1: 2.0}, {0: 2.0, 1: 3.0}) == 0.0
    assert statistics.paired_p({0: 1.0}, {0: 2.0}) is None


def test_holms_correction():
    assert statistics.holm([None, 0.01, 0.04, 0.03]) == [
        None,
        pytest.approx(0.03),
        pytest.approx(0.06),
        pytest.approx(0.06),
    ]
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]


# ---- the store


@pytest.mark.parametrize("diverged", [False, True])
def test_what_is_kept_is_found_again(tmp_path, diverged):
    run = make_run(diverged=diverged, hidden=(8, 4), dropout=(0.2, 0.5))
    store.Store(tmp_path).append(run, "digits")
    again = store.Store(tmp_path)
    found = again.find(run.setting, "digits")
    assert found.setting == run.setting
    assert found.losses == pytest.approx(run.losses, nan_ok=True)
    assert (again.damaged, again.find(run.setting, "others")) == ([], None)


@pytest.mark.parametrize("torn", [b'{"key": "a', b"\xff\xfe", b'{"key": 3}', b"[]"])
@pytest.mark.parametrize("ended", [False, True])
def test_a_torn_line_is_named_and_what_follows_is_whole(tmp_path, torn, ended, capsys):
    first, second = make_run(seed=0), make_run(seed=1)
    store.Store(tmp_path).append(first, "digits")
    with (tmp_path / store.FILE).open("ab") as file:
        file.write(torn + b"\n" * ended)
    resumed = store.Store(tmp_path)
    assert resumed.damaged == [2]
    resumed.append(second, "digits")
    again = store.Store(tmp_path)
    assert [run.setting.seed for run in again.runs.values()] == [0, 1]
    command_line.main(["run", *SMALL, "--out", str(tmp_path), "--dry-run"])
    assert "line 2 damaged, ignored" in capsys.readouterr().err


def test_what_is_there_is_not_trained_again(tmp_path, capsys, monkeypatch):
    argv = ["run", *SMALL, "--optimizer", "sgd,adam", "--seeds", "2", "--out", str(tmp_path)]
    run(capsys, *argv)
    lines = (tmp_path / store.FILE).read_text().splitlines()
    assert len(lines) == 4
    (tmp_path / store.FILE).write_text("\n".join(lines[:3]) + "\n" + lines[3][:50])  # killed while it wrote

    trained = []
    train = training.train
    monkeypatch.setattr(training, "train", lambda setting, *others: trained.append(setting) or train(setting, *others))
    out, err = run(capsys, *argv)
    assert "3 of 4 runs are in" in out
    assert "line 4 damaged" in err
    assert [(one.optimizer, one.seed) for one in trained] == [("adam", 1)]
    out, _ = run(capsys, *argv, "--dry-run")
    assert "4 runs, of which 4 are in" in out


@pytest.mark.processes
@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path):
    """The process is killed, without a chance to tidy up, after its first run."""
    argv = [sys.executable, BENCHMARKS / "mnist.py", "run", "--optimizer", "sgd", "--hidden", "8", "--epochs", "2"]
    argv += ["--batch-size", "5000", "--no-progress", "--out", tmp_path]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(BENCHMARKS.parent), os.environ.get("PYTHONPATH", "")])
    }
    with subprocess.Popen([*argv, "--seeds", "200"], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout.readline().startswith("[  1/200]")
        process.kill()
    kept = len(store.Store(tmp_path).runs)
    assert kept >= 1
    done = subprocess.run([*argv, "--seeds", str(kept)], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{kept} of {kept} runs are in" in done.stdout


# ---- commands


def test_a_dry_run_says_what_and_how_long_and_leaves_nothing(tmp_path, capsys):
    argv = ["--optimizer", "sgd,adam", "--batch-size", "1,32,full", "--seeds", "3", "--out", str(tmp_path / "out")]
    out, _ = run(capsys, "run", *SMALL, *argv, "--dry-run")
    assert "SGD ReLU he_normal batch size 256" in out
    assert re.search(r"18 runs, of which 0 are in .*; the others take about \d+ s\.", out)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("optimizer", choices.OPTIMIZERS)
def test_a_dry_run_knows_every_optimizer(optimizer, tmp_path, capsys):
    out, _ = run(capsys, "run", *SMALL, "--optimizer", optimizer, "--out", str(tmp_path), "--dry-run")
    assert "2 runs, of which 0 are in" in out


HEAVY = ["lightning", "torchvision", "scipy", "matplotlib", "torch._dynamo"]


@pytest.mark.parametrize("script, argv, status", [
    ("mnist.py", ["--help"], 0),
    ("mnist.py", ["run", "--optimizer", "adma"], 2),
    ("mnist.py", ["paper"], 2),
    ("mnist.py", ["run", "--hidden", "8", "--optimizer", "sgd,nesterov", "--dry-run"], 0),
    ("mnist.py", ["--hidden", "8", "--dry-run"], 0),
    ("mnist.py", ["paper", "elu_2015", "--dry-run"], 0),
    *((script, ["--help"], 0) for script in ("epoch.py", "callbacks.py", "optimizer_step.py", "make_mnist_subset.py")),
])  # fmt: skip
@pytest.mark.processes
def test_what_trains_nothing_waits_for_no_import(script, argv, status, tmp_path):
    code = f"""import runpy, sys
sys.path.insert(0, {str(BENCHMARKS)!r}); sys.argv = [{script!r}, *{argv!r}]
try:
    runpy.run_path({str(BENCHMARKS / script)!r}, run_name="__main__")
except SystemExit as exit:
    print("status", exit.code, "imported", [name for name in {HEAVY} if name in sys.modules])
else:
    print("status 0 imported", [name for name in {HEAVY} if name in sys.modules])
"""
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS.parent)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == f"status {status} imported []", done.stdout + done.stderr
    assert "None" not in done.stdout


@pytest.mark.parametrize("kind", ["optimizer", "activation", "init", "loss", "schedule"])
@pytest.mark.parametrize("argv, libraries", [
    (["compare"], choices.LIBRARIES), (["run"], ["ours"]), (["run", "--library", "torch"], ["torch"])
])  # fmt: skip
def test_a_command_takes_what_it_suggests_and_nothing_else(argv, libraries, kind, capsys):
    suggested = complaint(capsys, *argv, f"--{kind}", "anything")[1].strip().partition("choose from ")[2].split(", ")
    if "torch" not in argv:  # --library may follow
        assert suggested == choices.available(kind, libraries)
    for name in choices.KNOWN[kind]:
        if name in choices.available(kind, libraries):
            assert getattr(command_line.parse_options([*argv[1:], f"--{kind}", name], argv[0]), kind) == [name]
        else:
            line = complaint(capsys, *argv, f"--{kind}", name)[1]
            assert f"torch has no {choices.label(kind, name)}" in line
            assert line.strip().endswith(f"choose from {', '.join(choices.available(kind, libraries))}")


def test_commands_without_their_argument_list_the_choices(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, line = complaint(capsys, "paper")
    assert code == 2
    for name in (*frame.NAMES, "all"):
        assert name in line
    code, line = complaint(capsys, "report")
    assert (code, "train first" in line) == (2, True)
    for name in ("one", "two"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        store.Store(tmp_path / "runs" / name).append(make_run(), "digits")
    code, line = complaint(capsys, "report")
    assert (code, "runs/one, runs/two" in line) == (2, True)


@pytest.mark.parametrize("schedule, said", [
    ("none", None),
    ("step", "schedule step has no effect yet in 3 epochs: its first change comes after 10"),
    ("step:every=3", "schedule step:every=3 has no effect yet in 3 epochs: its first change comes after 3"),
    ("step:every=2", None),
    ("annealing", None),
    ("exponential:k=0", "its first change comes after more than 1003"),
    ("step:every=7:per=batch", "schedule step:every=7:per=batch has no effect yet in 6 batches"),
    ("step:every=5:per=batch", None),
    ("inverse+step", "schedule step has no effect yet"),
])  # fmt: skip
def test_a_schedule_that_changes_nothing_yet_is_named(schedule, said, few_digits):
    plan = grid(Setting(epochs=3, batch_size=128), dict(schedule=["none", schedule], optimizer=["sgd", "adam"]), [0, 1])
    lines = execution.idle_schedules(plan, few_digits)
    assert len(lines) == (said is not None)
    assert all(said in line for line in lines)


def test_a_schedule_that_changes_nothing_yet_is_named_before_the_training(tmp_path, capsys):
    out, _ = run(capsys, "run", *SMALL, "--optimizer", "sgd", "--schedule", "none,step", "--out", str(tmp_path))
    assert out.startswith("schedule step has no effect yet in 1 epochs")


@pytest.mark.parametrize("schedule", ["none", "annealing:start=0"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "nesterov"])
def test_no_step_of_a_training_builds_a_kernel(optimizer, schedule, few_digits, monkeypatch):
    """Nor an epoch: kernels are built before the first one."""
    events = []
    engine._kernel_or_reason.cache_clear()
    monkeypatch.setattr(c_engine, "load", lambda source, load=c_engine.load: events.append("built") or load(source))
    start = training.Classifier.on_train_epoch_start
    monkeypatch.setattr(
        training.Classifier, "on_train_epoch_start", lambda self: events.append("started") or start(self)
    )
    network.warm_up_once.cache_clear()
    setting = Setting(optimizer=optimizer, schedule=schedule, lr=0.01, hidden=(8,), epochs=3, batch_size=256)
    ran = training.train(setting, few_digits)
    assert ran.engine != "c" or "built" in events
    assert "built" not in events[events.index("started") :]
@pytest.mark.parametrize(
    "command, options, said",
    [
        ("compare", [], ["ours | torch", "± standard deviation"]),
        pytest.param(
            *("compare", ["--budget", "short", "--dataset", "subset"], ["± 95 % interval", "ours against torch, p"]),
            marks=pytest.mark.slow,
        ),
        ("run", ["--activation", "relu,softsign"], ["first", "p: paired t-test"]),
        pytest.param(
            *("sensitivity", ["--lr", "1e-3..1e-1:3"], ["0.001", "0.01", "0.1", "*"]), marks=pytest.mark.slow
        ),
        ("time-to-target", ["--target", "5,99.9"], ["5 %: reached", "0 of 2", "since the process was started"]),
    ],
)
def test_a_command_prints_its_table_and_writes_its_files(command, options, said, tmp_path, capsys):
    argv = [command, *SMALL, "--optimizer", "sgd,adam", "--seeds", "2", "--out", str(tmp_path), *options]
    out, err = run(capsys, *argv)
    assert err == ""
    for words in said:
        assert words in out
    files = {file.name for file in tmp_path.iterdir()}
    assert {"results.jsonl", "results.csv"} <= files
    assert ("results.json" if command == "compare" else "report.html") in files

    out, _ = run(capsys, "report", str(tmp_path), "--target", "5")
    assert "Ranking" in out
    page = (tmp_path / "report.html").read_text()
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"(src|href)(set)?='(?!data:)", page)  # asks for no other file
    pictures = {file.stem for file in tmp_path.glob("*.png")}
    assert {"loss", "loss_dark", "time_to_target", "time_to_target_dark"} <= pictures
    assert page.count("<picture>") == sum(not name.endswith("_dark") for name in pictures)


@pytest.mark.parametrize(
    "argv, status, named",
    [
        (["sensitivty"], 2, ["'sensitivty'", "sensitivity", "report"]),
        (["run", "--optimizer", "adam:larsen"], 2, ["'larsen'", "'larson'"]),
        (["run", "--optimizer", "adam:lr"], 2, ["form"]),
        (["run", "--optimizer", "adam:lr="], 2, ["key=value"]),
        (["run", "--schedule", "cosine"], 2, ["'cosine'", "exponential"]),
        (["run", "--schedule", "annealing", "--optimizer", "adagrad"], 2, ["MomentumAnnealing", "Adagrad"]),
        (["run", "--schedule", "power", "--lr", "2"], 2, ["below 1"]),
        (["run", "--library", "torch", "--optimizer", "adam:larson"], 2, ["torch has no form larson"]),
        (["run", "--library", "torch", "--activation", "maxout", "--optimizer", ""], 2, ["''"]),
        (["run", "--lr", ""], 2, ["positive"]),
        (["sensitivity", "--lr", "10..1"], 2, ["range", "empty"]),
        (["run", "--batch-size", "0"], 2, ["'0'"]),
        (["run", "--budget", "huge"], 2, ["'huge'", "paper"]),
        (["time-to-target", "--target", "101"], 2, ["percentage"]),
        (["paper", "adam_2015"], 2, ["'adam_2015'", "zeiler_2012"]),
        (["report", "nowhere"], 1, ["no results in nowhere"]),
    ],
)
def test_a_mistake_takes_one_line(argv, status, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, line = complaint(capsys, *argv)
    assert code == status
    for words in named:
        assert words in line


def test_a_disk_that_is_full_takes_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(store.os, "write", lambda file, contents: 3)
    with pytest.raises(SystemExit) as exit:
        command_line.main(["run", *SMALL, "--out", str(tmp_path)])
    assert exit.value.code == 1
    err = capsys.readouterr().err
    assert (err.count("\n"), "no space left" in err) == (1, True)


def test_ctrl_c_prints_the_table_so_far(tmp_path, capsys, monkeypatch):
    train = training.train

    def interrupted(setting, *others):
        if setting.seed == 1:
            raise KeyboardInterrupt
        return train(setting, *others)

    monkeypatch.setattr(training, "train", interrupted)
    argv = ["run", *SMALL, "--optimizer", "sgd,adam", "--seeds", "3", "--out", str(tmp_path)]
    out, err = run(capsys, *argv, status=130)
    assert "interrupted; runs finished: 2" in err
    assert "Adam ReLU he_normal" in out
    assert len(store.Store(tmp_path).runs) == 2
    assert (tmp_path / "report.html").exists()


def test_ctrl_c_before_the_first_run_takes_one_line(tmp_path, capsys, monkeypatch, ctrl_c):
    def interrupted():
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(data, "load_subset", interrupted)
    out, err = run(capsys, "run", "--out", str(tmp_path), status=130)
    assert (out, err) == ("", "\nmnist.py: interrupted\n")


# ---- tables


def test_diverged_runs_are_shown_and_not_averaged():
    runs = [make_run(90.0 + seed, seed=seed, lr=0.1) for seed in range(3)]
    runs += [make_run(80.0, diverged=seed == 0, seed=seed, lr=1.0) for seed in range(3)]
    runs += [make_run(10.0, diverged=True, seed=seed, lr=9.0) for seed in range(3)]
    rows = {row[0].split()[-1]: row for row in tables.ranking(runs).rows}
    assert rows["0.1"][2].startswith("91.00 ±")
    assert rows["1"][2] == "80.00 ± 0.00 (1 of 3 diverged)"
    assert rows["9"][2] == "3 of 3 diverged"
    assert [row[4] for row in rows.values()] == ["-", "-", "-"]
    assert "3 of 3 diverged" in tables.sensitivity(runs).text()


def test_ties_and_differences_are_marked():
    shift = {0.1: 0.0, 0.2: 1.0, 0.3: -1.0, 0.4: 0.0}
    noise = [0.1, -0.1, 0.05, 0.0, -0.05]
    runs = [
        make_run(90 + 2 * seed + by + noise[seed] * (rate > 0.1), seed=seed, lr=rate)
        for rate, by in shift.items()
        for seed in range(5)
    ]
    assert [row[3] for row in tables.ranking(runs).rows] == ["first", "better", "worse", "≈"]


def test_a_seed_that_misses_the_target_counts_as_infinite():
    runs = [make_run(accuracy, seed=seed) for seed, accuracy in enumerate([97.5, 96.0, 103.0])]
    (row,) = tables.time_to_target(runs, [97.0]).rows
    assert row[1:] == ["2 of 3", "2 [1, -]", "3.0 [1.0, -]"]


# ---- pictures


def test_a_heat_map_averages_over_all_else():
    accuracy = {"relu": 90.0, "tanh": 80.0}
    runs = [
        make_run(accuracy[activation] + seed - 10 * (optimizer == "adam"), seed=seed, optimizer=optimizer, lr=lr,
                 activation=activation, diverged=(lr == 0.3))
        for optimizer in ("sgd", "adam") for activation in accuracy for lr in (0.1, 0.3) for seed in (0, 1)
    ]  # fmt: skip
    maps = {panel.get_title(): panel for panel in pictures.heat_maps(runs).axes if panel.get_title()}
    shown = {tuple(title.split("\n")): [text.get_text() for text in panel.texts] for title, panel in maps.items()}
    over = [f"Test accuracy, %: optimizer and {axis} (× diverged)" for axis in ("lr", "activation")]
    assert shown == {
        (over[0], "mean over activation, seed"): ["85.5", "×", "75.5", "×"],
        (over[1], "mean over lr, seed"): ["90.5 ×", "80.5 ×", "80.5 ×", "70.5 ×"],
    }


def varied_runs(count: int) -> list[Run]:
    """Of so many learning rates and of activations with long names, two seeds each."""
    return [
        make_run(90.0 + seed, seed=seed, lr=float(f"{0.001 * 1.3**number:.3g}"), activation=activation)
        for activation in ("relu", "leakyrelu:negative_slope=0.25")
        for number in range(count)
        for seed in (0, 1)
    ]


@pytest.mark.parametrize("draw", [
    pictures.loss_curves,
    pictures.learning_rates,
    lambda runs: pictures.target_profile(runs, [85.0, 90.5]),
    lambda runs: pictures.compared_losses([replace(run, setting=replace(run.setting, library=library))
                                           for run in runs for library in choices.LIBRARIES]),
])  # fmt: skip
def test_curves_say_what_they_average_and_a_legend_covers_no_data(draw):
    with theme("light"):
        figure = draw(varied_runs(4))
        figure.draw_without_rendering()
    said = [panel.get_title() for panel in figure.axes] + ([figure.get_suptitle()] if figure.get_suptitle() else [])
    assert "mean over 2 seeds" in " ".join(said) or all("seeds" in panel.get_ylabel() for panel in figure.axes)
    legends = [*figure.legends, *(panel.get_legend() for panel in figure.axes if panel.get_legend())]
    assert legends
    whole = figure.bbox.padded(1)
    for legend in legends:
        extent = legend.get_window_extent()
        assert whole.x0 <= extent.x0 < extent.x1 <= whole.x1
        assert whole.y0 <= extent.y0 < extent.y1 <= whole.y1
        assert not any(extent.overlaps(panel.bbox) for panel in figure.axes if panel.get_visible())


def test_every_table_of_a_page_fits_into_a_window_of_1200_pixels():
    """By the widths of DejaVu Sans, which is wider than what browsers take, for words that cannot be broken."""
    from matplotlib.textpath import TextPath

    @cache
    def width(text: str) -> float:
        return TextPath((0, 0), text.replace("\u00a0", " "), size=0.85 * 22).get_extents().width if text else 0.0

    runs = [*varied_runs(13), make_run(80.0, diverged=True, seed=0, lr=1.0), make_run(80.0, seed=1, lr=1.0)]
    both = [replace(run, setting=replace(run.setting, library=one)) for run in runs for one in choices.LIBRARIES]
    targets = [float(target) for target in range(80, 92)]
    made = [tables.comparison(both, "interval"), tables.ranking(runs), tables.sensitivity(runs)]
    for table in (*made, tables.time_to_target(runs, targets)):
        seen = set()
        for block in re.findall("<table>(.*?)</table>", table.html(), re.DOTALL):
            rows = [re.findall("<t[hd]>(.*?)</t[hd]>", row) for row in re.findall("<tr>(.*?)</tr>", block)]
            columns = list(zip(*rows, strict=True))
            seen.update(columns[1:])
            words = [re.split("[ \\n]", " ".join(column)) for column in columns[1:]]
            padding = 2 * 0.6 * 0.85 * 22
            inner = 12 * 0.85 * 22 + padding + sum(max(map(width, column)) + padding for column in words)
            assert inner <= 1200 - 2 * 1.5 * 16 - 17  # margins and a scroll bar
        assert len(seen) >= len(set(zip(*(row[1:] for row in table.rows), strict=True)))


def test_bands_of_the_sensitivity_stay_between_0_and_100():
    runs = [make_run(10.0 + 80 * (seed == lr), seed=seed, lr=float(lr)) for seed in (1, 2) for lr in (1, 2, 3)]
    (panel,) = pictures.learning_rates(runs).axes
    (band,) = panel.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (0.0, 100.0)


# ---- papers


@pytest.mark.parametrize("name", frame.NAMES)
def test_a_papers_table_is_complete_and_its_grid_can_be_built(name, few_digits):
    table = frame.load(name)
    assert set(table.budgets) == {"smoke", "short", "paper"}
    assert len({row.label for row in table.rows}) == len(table.rows)
    assert {label for claim in table.claims for label in (claim.smaller, claim.larger)} <= {
        row.label for row in table.rows
    }
    for budget in table.budgets.values():
        plan = frame.plan_of(table, budget, few_digits)
        assert sum(map(len, plan.values())) == budget.seeds * len(table.rows)
    for row in table.rows:
        assert row.published is None or row.low <= row.published <= row.high


def test_algoperfs_pixels_and_target_are_the_workloads():
    pixels = torch.tensor([[0, 1, 128, 255]])
    digits = data.Digits(pixels.float() / 255, torch.tensor([0]), pixels.float() / 255, torch.tensor([0]))
    torch.testing.assert_close(digits.scaled("algoperf").train_images, (pixels.float() - 0.1307) / 0.3081)

    table = frame.load("algoperf_mnist")
    by_label = {row.label: row.setting for row in table.rows}
    assert (by_label["Adam"].scale, by_label["Adam"].batch_size) == ("algoperf", 1024)
    assert (by_label["Adam, standard pixels"].scale, by_label["Adam, standard pixels"].batch_size) == ("standard", 64)
    reached = {accuracy: math.isfinite(table.measure(make_run(accuracy))) for accuracy in (97.0, 100 * 9701 / 10_000)}
    assert list(reached.values()) == [False, True]  # more than 97 %


def test_lecuns_initialization_has_its_variance():
    weight = choices.lecun_normal_(torch.empty(300, 400), "sigmoid", generator=torch.Generator().manual_seed(0))
    assert weight.var().item() == pytest.approx(1 / 400, rel=0.02)
    assert weight.abs().max().item() <= 2 / math.sqrt(400) / 0.8796


def test_a_paper_is_reproduced_in_small(tmp_path, capsys):
    argv = ["paper", "elu_2015", "--epochs", "1", "--seeds", "2", "--no-progress", "--out", str(tmp_path)]
    out, _ = run(capsys, *argv)
    for words in (
        "ours, mean ± 95 % (n seeds)",
        "inside the band?",
        "Budget reduced: ",
        "seeds 2, epochs 1",
        "falls faster",
    ):
        assert words in out
    page = (tmp_path / "elu_2015.md").read_text()
    assert page.startswith("# ELU 2015, figure 2")
    assert "Measured on: platform" in page
    out, _ = run(capsys, *argv, "--dry-run")
    assert "6 runs, of which 6 are in" in out


@pytest.mark.parametrize(
    "accuracies, dataset, verdict",
    [
        ([98.0, 98.1, 97.9], "mnist", "yes"),
        ([95.0, 95.1, 94.9], "mnist", "no"),
        ([98.0, 98.1, 97.9], "subset", "-"),
    ],
)
def test_the_verdict_is_whether_interval_and_band_meet(accuracies, dataset, verdict):
    table = frame.load("zeiler_2012")
    row = next(row for row in table.rows if row.label == "momentum, lr 0.1")  # 2.03 %
    runs = [make_run(accuracy, seed=seed) for seed, accuracy in enumerate(accuracies)]
    budget = replace(table.budgets["short"], dataset=dataset)
    (shown,) = frame.results(table, {row.label: runs}, budget)[0].rows
    assert (shown[1], shown[3]) == ("2.03", verdict)


@pytest.mark.parametrize("loss, sensitivity", [
    ("binary", lambda a, y: a - y),
    ("quadratic", lambda a, y: -2 * (y - a) * a * (1 - a)),
])  # fmt: skip
@pytest.mark.parametrize("rule", ["fixed", "adagrad"])
def test_larsons_steps_are_those_of_gradients_that_are_sums(rule, loss, sensitivity):
    """The notebook's update of one layer, in NumPy: V A^T + C W, no means."""
    eta, alpha, penalty, batch, gamma = 0.01, 0.001, 0.1, 64, 0.1
    generator = np.random.default_rng(0)
    inputs, labels, start = (
        generator.normal(size=(batch, 5)),
        generator.integers(10, size=batch),
        generator.normal(size=(10, 5)),
    )
    chosen = larson.fixed(eta, alpha, penalty, batch) if rule == "fixed" else larson.adagrad(eta, penalty, batch)
    weight = torch.nn.Parameter(torch.tensor(start))
    optimizer = choices.build_optimizer([weight], chosen["optimizer"], lr=chosen["lr"])
    for _ in range(3):
        optimizer.zero_grad()
        choices.loss_function(loss, "ours")(torch.tensor(inputs) @ weight.T, torch.tensor(labels)).backward()
        optimizer.step()

    want, before, squares = start.copy(), 0.0, 0.0
    for _ in range(3):
        outputs = 1 / (1 + np.exp(-want @ inputs.T))
        gradient = sensitivity(outputs, np.eye(10)[labels].T) @ inputs + penalty * want
        if rule == "fixed":
            want -= eta * gradient + alpha * before
            before = eta * gradient
        else:
            squares = gradient**2 + gamma * squares
            want -= eta * gradient / np.sqrt(squares + 1e-7)
    # torch's momentum also adds alpha² of the step before the last, 1e-6 of a step; epsilon is written with 6 digits
    assert np.allclose(weight.detach().numpy(), want, rtol=0, atol=2e-6 if rule == "fixed" else 1e-8)


def test_figures_6_and_7_come_out():
    """Before training: the standard initialization loses gradients on their way back, the normalized one does not."""
    digits = data.load_subset()
    shrunk, kept = (
        glorot_2010.spreads(Setting(activation="tanh", init=init, hidden=(200,) * 5), digits)
        for init in ("standard", "normalized")
    )
    assert glorot_2010.TABLE.extras is glorot_2010.figures
    assert shrunk[0][-1] / shrunk[0][0] < 0.3 < kept[0][-1] / kept[0][0]
    assert shrunk[1][-1] / shrunk[1][0] > 5 > 2 > kept[1][-1] / kept[1][0]


def test_epoch_script_writes_its_rows(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import epoch

    assert epoch.main(["--rounds", "2", "--images", "300", "--json", str(tmp_path / "epoch.json")]) == 0
    rows = json.loads((tmp_path / "epoch.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["bare, torch", "bare, ours", "Lightning, torch", "Lightning, ours"]
    assert [row["ceiling"] for row in rows] == [None, None, None, 1.1]
