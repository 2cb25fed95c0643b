"""The speed scripts run and write what they promise. What they measure is not tested: it is the machine's."""

from __future__ import annotations

import importlib
import json
import os
import platform
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as builtin

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(request, monkeypatch):
    """The script of this name, which finds its helper beside itself."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module(request.param)


def scripts(*names: str):
    return pytest.mark.parametrize("script", names, indirect=True)


each_script = scripts("optimizer_step", "activations", "losses", "training_step")


@pytest.fixture
def helper(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("side_by_side")


def complaint(capsys, script, *argv: str) -> str:
    """The one line on stderr of a call that exits with 2."""
    with pytest.raises(SystemExit) as exit:
        script.main(list(argv))
    out, err = capsys.readouterr()
    assert (exit.value.code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(script.PROGRAM)
    return err


def read_results(path: Path) -> list[dict]:
    """The rows of a JSON file that says where and how they were measured."""
    contents = json.loads(path.read_text())
    assert set(contents) == {"machine", "options", "rows"}
    assert contents["machine"]["torch"] == torch.__version__
    assert {"cpu", "capability", "cores", "threads", "load", "date"} <= set(contents["machine"])
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    return contents["rows"]


def assert_spread(spread: dict[str, float]) -> None:
    assert 0 < spread["low"] <= spread["median"] <= spread["high"]


# ---- command line


@each_script
@pytest.mark.parametrize(
    "argv, named",
    [
        (["--dtype", "float8"], ["'float8'", "float32", "bfloat16"]),
        (["--device", "tpu"], ["'tpu'", "cpu", "cuda"]),
        (["--seconds", "0"], ["'0'", "positive"]),
        (["--seconds", "soon"], ["'soon'", "positive"]),
        (["--check", "--dtype", "float64"], ["--check", "float32"]),
        (["--graph"], ["--graph", "--device cuda"]),
        (["--momentum", "0.9"], ["--momentum"]),
    ],
)
def test_a_mistake_takes_one_line_that_names_what_is_valid(capsys, script, argv, named):
    line = complaint(capsys, script, *argv)
    for word in named:
        assert word in line


@scripts("optimizer_step")
@pytest.mark.parametrize(
    "argv, named",
    [
        (["--model", "mlp,vgg"], ["'vgg'", "tiny", "mlp", "many", "resnet18", "gpt2"]),
        (["--optimizer", "adan"], ["'adan'", "sgd", "momentum", "rmsprop", "rmsprop-centered", "adam", "amsgrad"]),
        (["--processes", "0"], ["'0'", "at least 1"]),
        (["--first-step", "--dtype", "float64"], ["--first-step", "float32"]),
        (["--first-step", "--compile"], ["--first-step", "--compile"]),
        (["--memory", "--first-step"], ["--first-step", "--memory"]),
        (["--memory", "--dtype", "float64"], ["--memory", "float32"]),
    ],
)
def test_a_mistake_about_optimizers(capsys, script, argv, named):
    line = complaint(capsys, script, *argv)
    for word in named:
        assert word in line


@scripts("activations")
@pytest.mark.parametrize(
    "argv, named",
    [
        (["--function", "gelo"], ["'gelo'", "relu", "leaky_relu", "elu", "sigmoid", "tanh", "silu", "prelu", "maxout"]),
        (["--size", "1000"], ["'1000'", "1024", "65536", "1048576", "8388608"]),
    ],
)
def test_a_mistake_about_activations(capsys, script, argv, named):
    line = complaint(capsys, script, *argv)
    for word in named:
        assert word in line


@scripts("losses")
@pytest.mark.parametrize(
    "argv, named",
    [
        (["--function", "mae"], ["'mae'", "mse_loss", "binary_cross_entropy", "softmax", "cross_entropy"]),
        (["--size", "10x128"], ["'10x128'", "1024", "8388608", "128x10", "1024x1000", "64x50257"]),
        (["--function", "softmax", "--size", "65536"], ["65536", "softmax", "128x10", "1024x1000", "64x50257"]),
        (["--function", "mse_loss", "--size", "1024,128x10"], ["128x10", "mse_loss has 1024"]),
    ],
)
def test_a_mistake_about_losses(capsys, script, argv, named):
    line = complaint(capsys, script, *argv)
    for word in named:
        assert word in line


@scripts("training_step")
def test_a_mistake_about_training(capsys, script):
    assert "'adan'" in complaint(capsys, script, "--optimizer", "adan")
    assert "at least 1" in complaint(capsys, script, "--batch", "0")


@pytest.mark.parametrize(
    "script, argv, named",
    [
        ("optimizer_step", ["--graph", "--compile"], ["--compile and --graph"]),
        ("optimizer_step", ["--memory", "--graph"], ["--memory and --graph"]),
        ("optimizer_step", ["--memory"], ["--memory", "--device cpu"]),
        ("optimizer_step", ["--check", "--dtype", "float16"], ["--check", "cpu or cuda", "float32"]),
        ("activations", ["--check", "--dtype", "float16"], ["--check", "cpu or cuda", "float32"]),
        ("activations", ["--memory", "--graph"], ["--memory and --graph"]),
        ("losses", ["--memory", "--graph"], ["--memory and --graph"]),
        ("training_step", ["--check"], ["--check", "--device cpu"]),
    ],
    indirect=["script"],
)
def test_a_mistake_about_cuda(capsys, script, monkeypatch, argv, named):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    line = complaint(capsys, script, "--device", "cuda", *argv)
    for word in named:
        assert word in line


@pytest.mark.parametrize(
    "script, modes",
    [("optimizer_step", ["--first-step", "--memory"]), ("activations", ["--memory"]), ("losses", ["--memory"])],
    indirect=["script"],
)
def test_modes_do_not_overwrite_each_others_results(script, modes, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    on_cuda = (["--device", "cuda"], ["--device", "cuda", "--graph"])
    files = [script.parse_options(argv).json for argv in ([], *on_cuda, *([mode] for mode in modes))]
    assert len(set(files)) == len(files)
    assert all(file.name.startswith(script.__name__) for file in files)


@each_script
def test_a_device_that_is_not_there(capsys, script, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no CUDA device" in complaint(capsys, script, "--device", "cuda")


@each_script
def test_a_file_that_cannot_be_written_is_found_before_measuring(capsys, script, tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "results.json", tmp_path):
        assert "--json" in complaint(capsys, script, "--json", str(path))


@scripts("optimizer_step")
def test_a_model_that_needs_torchvision(capsys, script, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    assert "--model tiny, mlp, many, gpt2" in complaint(capsys, script, "--model", "tiny,resnet18")


# ---- a run


@scripts("optimizer_step")
def test_steps_are_compared_with_every_path_of_torch(capsys, script, tmp_path):
    path = tmp_path / "results.json"
    argv = ["--model", "tiny", "--optimizer", "sgd,rmsprop", "--seconds", "0.01", "--json", str(path)]
    assert script.main(argv) == 0
    out, err = capsys.readouterr()
    assert err == ""
    _, header, *table = out.splitlines()
    assert header.split()[:7] == ["model", "optimizer", "engine", "ours", "loop", "foreach", "fused"]
    assert [line.split()[:2] for line in table] == [["tiny", "sgd"], ["tiny", "rmsprop"]]

    sgd, rmsprop = read_results(path)
    assert set(sgd["seconds"]) == {"ours", "loop", "foreach", "fused", "copy"}
    assert set(rmsprop["seconds"]) == {"ours", "loop", "foreach", "copy"}
    assert rmsprop["unavailable"] == {"fused": "torch.optim.RMSprop has no fused"}
    for row in (sgd, rmsprop):
        assert row["engine"]
        assert row["rounds"] >= 5
        assert row["best"] in ("loop", "foreach", "fused")
        assert row["floor"] == (1.0 if row is sgd else 1.5)
        assert set(row["gigabytes_per_second"]) == set(row["seconds"])
        for spread in (row["ratio"], *row["seconds"].values()):
            assert_spread(spread)


@scripts("optimizer_step")
def test_first_steps_come_cold_then_warm_then_torchs(capsys, script, tmp_path, monkeypatch):
    seen = []

    def first_step(module, case, cache):
        seen.append((module, cache))
        return 0.1 * len(seen), "" if module == "torch.optim" else "c"

    monkeypatch.setattr(script, "first_step", first_step)
    path = tmp_path / "results.json"
    argv = ["--first-step", "--optimizer", "sgd", "--processes", "2", "--json", str(path), "--check"]
    assert script.main(argv) == 1
    assert "missed: first step of sgd, warm" in capsys.readouterr().out
    assert [module for module, _ in seen] == ["torch_lecture_ops.optim", "torch_lecture_ops.optim", "torch.optim"] * 2
    assert seen[0][1] == seen[1][1] != seen[3][1]
    (row,) = read_results(path)
    assert (row["optimizer"], row["engine"], row["processes"]) == ("sgd", "c", 2)
    for kind, median in (("cold", 0.25), ("warm", 0.35), ("torch", 0.45)):
        assert_spread(row[kind])
        assert row[kind]["median"] == pytest.approx(median)


@pytest.mark.processes
@scripts("optimizer_step")
def test_a_first_step_is_taken_in_a_fresh_process(script, tmp_path):
    seconds, engine = script.first_step("torch_lecture_ops.optim", script.CASES["momentum"], str(tmp_path))
    assert seconds > 0
    assert engine
    assert (engine == "c") == any(tmp_path.rglob("*.so"))  # the cache was the one given


@pytest.mark.processes
@pytest.mark.slow
@scripts("optimizer_step")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_step(capsys, script, tmp_path, monkeypatch):
    monkeypatch.setitem(script.MODELS, "tiny", script.Model(lambda: [(1000, 1000)] * 2, 2, 2_000_000))
    path = tmp_path / "results.json"
    assert script.main(["--memory", "--model", "tiny", "--optimizer", "rmsprop", "--json", str(path), "--check"]) == 0
    (row,) = read_results(path)
    assert row["parameters"] == 8_000_000
    assert set(row["bytes"]) == {"ours", "loop", "foreach"}
    assert row["bytes"]["foreach"] > 7_000_000 > 1_000_000 > row["bytes"]["ours"]


@scripts("training_step")
def test_training_is_compared_with_every_path_of_torch(capsys, script, tmp_path):
    path = tmp_path / "results.json"
    argv = ["--optimizer", "adam,nadam", "--batch", "2", "--seconds", "0.01", "--json", str(path)]
    assert script.main(argv) == 0
    assert capsys.readouterr().err == ""
    adam, nadam = read_results(path)
    assert set(adam["seconds"]) == {"ours", "default", "loop", "foreach", "fused"}
    assert set(nadam["images_per_second"]) == {"ours", "default", "loop", "foreach"}
    for row in (adam, nadam):
        assert row["best"] in row["seconds"]
        assert row["floor"] is None  # of another batch
        assert row["images_per_second"]["ours"] == pytest.approx(2 / row["seconds"]["ours"]["median"])
        assert_spread(row["ratio"])


@scripts("activations")
def test_functions_are_compared_with_the_built_in_ones(capsys, script, tmp_path):
    path = tmp_path / "results.json"
    argv = ["--function", "relu,silu", "--size", "1024", "--seconds", "0.01", "--json", str(path)]
    assert script.main(argv) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [line.split()[:3] for line in out.splitlines()[2:]] == [
        [function, "1024", direction] for function in ("relu", "silu") for direction in ("forward", "forward+backward")
    ]
    rows = read_results(path)
    assert [row["floor"] for row in rows] == [None, 0.55] * 2
    for row in rows:
        assert_compared(row)


def assert_compared(row: dict) -> None:
    assert set(row["seconds"]) == set(row["gigabytes_per_second"]) == {"ours", "torch", "copy"}
    assert row["rounds"] >= 5
    for spread in (row["ratio"], *row["seconds"].values()):
        assert_spread(spread)


def bytes_moved(row: dict, side: str = "ours") -> float:
    return row["gigabytes_per_second"][side] * 1e9 * row["seconds"][side]["median"]


@scripts("activations")
def test_what_torch_has_under_another_name_is_compared(script, tmp_path):
    path = tmp_path / "results.json"
    argv = ["--function", "affine,prelu,maxout", "--size", "1024", "--seconds", "0.01", "--json", str(path)]
    assert script.main(argv) == 0
    rows = read_results(path)
    assert [row["floor"] for row in rows] == [None, 0.8, None, None, None, None]
    for row in rows:
        assert_compared(row)
    affine, prelu, maxout = rows[1::2]
    assert bytes_moved(affine) == pytest.approx(4 * 4096)  # x, y, g, dx
    assert bytes_moved(prelu) == pytest.approx(5 * 4096 + 3 * 4)  # and x again; the slope twice and its gradient
    assert bytes_moved(maxout) == pytest.approx(2.5 * 4096 + 2 * 256)  # and a byte for each output, both ways


@scripts("losses")
def test_losses_are_compared_with_the_built_in_ones(capsys, script, tmp_path):
    path = tmp_path / "results.json"
    argv = ["--size", "1024,128x10", "--seconds", "0.01", "--json", str(path)]
    assert script.main(argv) == 0
    out, err = capsys.readouterr()
    assert err == ""
    sizes = dict.fromkeys(["mse_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits"], "1024")
    sizes |= dict.fromkeys(["softmax", "log_softmax", "cross_entropy"], "128x10")
    assert [line.split()[:3] for line in out.splitlines()[2:]] == [
        [function, size, direction] for function, size in sizes.items() for direction in ("forward", "forward+backward")
    ]
    rows = read_results(path)
    assert [row["floor"] for row in rows[1::2]] == [0.7, 0.7, 0.8, 0.5, None, 0.7]
    for row in rows:
        assert_compared(row)
    mse_forward, _, _, bce, *_ = rows
    assert bytes_moved(mse_forward) == pytest.approx(2 * 4096 + 4)  # x, target and the loss
    assert bytes_moved(bce) == pytest.approx(5 * 4096 + 4)  # and x, target once more, dx


@scripts("activations", "losses")
def test_every_floor_is_that_of_a_row(script):
    rows = {(name, size) for name, case in script.CASES.items() for size in case.shapes}
    assert set(script.FLOORS) <= rows


@scripts("activations", "losses")
def test_functions_save_no_more_than_they_may(capsys, script, tmp_path):
    path = tmp_path / "results.json"
    assert script.main(["--memory", "--json", str(path), "--check"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    rows = {(row["function"], row["size"]): row for row in read_results(path)}
    assert {function for function, _ in rows} == set(script.CASES)
    assert f"{len(rows)} of {len(rows)} floors held" in out
    if script.__name__ == "activations":
        buffers = {name: rows[name, "mlp"]["saved"] for name in ("relu", "leaky_relu", "elu")}
        x = rows["relu", "mlp"]["x"]
        assert buffers["relu"] == {"ours": 5 * x, "torch": 5 * x}
        assert buffers["leaky_relu"] == buffers["elu"] == {"ours": 5 * x, "torch": 8 * x}
        assert rows["maxout", "65536"]["saved"] == {"ours": 65_536 // 4, "torch": 8 * 65_536 // 4}
    else:
        own = rows["cross_entropy", "1024x1000"]["own"]
        assert 10 * own["ours"] < 1_024 * 1_000 * 4 <= own["torch"]


@pytest.mark.parametrize(
    "script, missed",
    [
        ("activations", ["leaky_relu of mlp", "elu of mlp", "maxout of 65536"]),
        ("losses", ["cross_entropy of 1024x1000"]),
    ],
    indirect=["script"],
)
def test_torchs_own_functions_would_miss_the_limits_of_memory(capsys, script, tmp_path, monkeypatch, missed):
    stand_in = SimpleNamespace(**vars(builtin))
    stand_in.affine = lambda x, a, c: a * x + c
    stand_in.maxout = lambda x, pieces: x.unflatten(-1, (-1, pieces)).max(-1).values
    stand_in.leaky_relu = lambda x, save="input": builtin.leaky_relu(x)
    stand_in.elu = lambda x, save="input": builtin.elu(x)
    monkeypatch.setattr(sys.modules["passes"], "ours", stand_in)
    assert script.main(["--memory", "--json", str(tmp_path / "results.json"), "--check"]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("missed: ")]
    assert sorted(line.removeprefix("missed: ").partition(":")[0] for line in lines) == sorted(missed)


@scripts("activations")
def test_a_storage_is_counted_once(script):
    keep = sys.modules["passes"].keep
    x, weight = torch.ones(10, requires_grad=True), torch.ones(10, requires_grad=True)
    kept, _ = keep(lambda x: (x * weight).exp().exp(), (x,))
    assert (kept.saved, kept.own) == (4 * 40, 2 * 40)  # x, weight and both results; weight is no argument
    kept, _ = keep(lambda x: (x * weight).exp().exp(), (x,), [weight])
    assert (kept.saved, kept.own) == (3 * 40, 40)
    kept, _ = keep(lambda x: x * x.view(2, 5).view(10), (x,))
    assert (kept.saved, kept.own) == (40, 0)


@pytest.mark.processes
@pytest.mark.parametrize("script", ["activations.py", "losses.py"])
def test_a_script_runs_from_any_folder(tmp_path, script):
    command = [sys.executable, BENCHMARKS / script, "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--check" in done.stdout


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="the CPU has no AVX2")
@pytest.mark.parametrize("capability, said", [("avx2", "AVX2"), ("default", "DEFAULT")])
def test_the_capability_is_that_of_torch_and_of_our_kernels(tmp_path, capability, said):
    """The process starts anew, before torch is imported; the floors are those of the capability."""
    path = tmp_path / "results.json"
    command = [sys.executable, BENCHMARKS / "losses.py", "--function=mse_loss", "--size=1024", "--seconds=0.01"]
    command += [f"--capability={capability}", f"--json={path}"]
    environment = {key: value for key, value in os.environ.items() if key != "ATEN_CPU_CAPABILITY"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    contents = json.loads(path.read_text())
    assert contents["machine"]["capability"] == said
    assert contents["options"]["capability"] == capability
    assert f", {said}, " in done.stdout


@each_script
def test_a_capability_is_for_the_command_line(capsys, script, monkeypatch):
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx512")
    assert "set ATEN_CPU_CAPABILITY before torch is imported" in complaint(capsys, script, "--capability", "default")


@scripts("losses")
def test_a_capability_that_the_cpu_does_not_have(capsys, script, helper, monkeypatch):
    monkeypatch.setitem(helper.CAPABILITIES, "avx512", "no_such_flag")
    assert "this CPU does not have it" in complaint(capsys, script, "--capability", "avx512")


@pytest.mark.parametrize("script, row, floors", [
    ("activations", ("prelu", str(2**20)), {True: 2.5, False: 2.0}),
    ("losses", ("cross_entropy", "1024x1000"), {True: 1.2, False: 1.0}),
    ("losses", ("cross_entropy", "128x10"), {True: 0.7, False: 0.7}),
    ("losses", ("softmax", "128x10"), {True: 0.5, False: 0.5}),
    ("losses", ("log_softmax", "128x10"), {True: None, False: None}),
], indirect=["script"])  # fmt: skip
def test_floors_without_avx512(script, row, floors, monkeypatch):
    passes = sys.modules["passes"]
    for is_there, floor in floors.items():
        monkeypatch.setattr(passes, "has_avx512", lambda is_there=is_there: is_there)
        options = SimpleNamespace(device="cpu", dtype="float32")
        assert passes.floor_of(row, script.CASES[row[0]].shapes[row[1]], script.FLOORS, options) == floor


@scripts("optimizer_step")
def test_goals_of_optimizers_on_the_cpu(script, monkeypatch):
    """Beyond the caches in parts of what the memory gives in the same run."""
    options = SimpleNamespace(device="cpu", dtype="float32")
    for is_there, many in ((True, 2.0), (False, 1.5)):
        monkeypatch.setattr(script, "has_avx512", lambda is_there=is_there: is_there)
        for model, name, floors in (
            ("tiny", "sgd", {"best": 1.0}),
            ("many", "adam", {"best": many}),
            ("many", "nadam", {"best": 5.0}),
            ("resnet18", "adamw", {"best": 0.95, "copy": 0.95}),
            ("gpt2", "adadelta", {"best": 2.3, "copy": 0.95}),
        ):
            assert script.floors_of(model, name, options) == floors
    assert script.floors_of("gpt2", "sgd", SimpleNamespace(device="cpu", dtype="float64")) == {}


@pytest.mark.sweep
@each_script
@pytest.mark.parametrize("floor, status", [(0.0, 0), (1e9, 1)])
def test_a_missed_floor_fails_the_check_and_is_named(capsys, script, tmp_path, monkeypatch, floor, status):
    monkeypatch.setattr(script, "FLOORS", dict.fromkeys(script.FLOORS, floor))
    rows = {"optimizer_step": "--model=tiny --optimizer=sgd", "activations": "--function=relu --size=1024"}
    rows |= {"losses": "--function=mse_loss --size=1024", "training_step": "--optimizer=sgd"}
    argv = [*rows[script.__name__].split(), "--seconds=0.01", f"--json={tmp_path / 'results.json'}", "--check"]
    assert script.main(argv) == status
    out = capsys.readouterr().out
    assert f"{1 - status} of 1 floors held" in out
    assert ("missed: " in out) == bool(status)


@scripts("optimizer_step")
def test_goals_of_optimizers_on_cuda(script):
    on_cuda = SimpleNamespace(device="cuda", dtype="float32")
    for model, name, floors in (
        ("gpt2", "amsgrad", {"fused": 1.0, "copy": 0.85}),
        ("gpt2", "rmsprop-centered", {"foreach": 3.0, "copy": 0.85}),
        ("many", "sgd", {"fused": 1.0}),
        ("many", "nadam", {"fused": 1.0}),
        ("mlp", "sgd", {}),
    ):
        assert script.floors_of(model, name, on_cuda) == floors
    assert script.floors_of("gpt2", "sgd", SimpleNamespace(device="cuda", dtype="bfloat16")) == {}


@scripts("optimizer_step")
def test_optimizers_of_graphs_can_be_captured(script):
    for name, case in script.CASES.items():
        params = [torch.nn.Parameter(torch.ones(10))]
        has_option = case.class_name not in ("SGD", "Adagrad")
        ours = script.our_optimizer(case, params, 0.1, graph=True)
        assert ours.defaults["fused"]
        assert ours.defaults.get("capturable", False) is has_option
        for path in ("loop", "foreach", "fused") if script.HAS_FUSED[name] else ("loop", "foreach"):
            optimizer = script.torch_optimizer(case, path, params, 0.1, graph=True)
            assert optimizer.defaults.get("capturable", False) is has_option
        for defaults in (
            script.our_optimizer(case, params, 0.1, graph=False).defaults,
            script.torch_optimizer(case, "loop", params, 0.1, graph=False).defaults,
        ):
            assert not defaults.get("capturable", False)
            assert not defaults.get("fused", False)


@scripts("optimizer_step")
def test_a_floor_beside_a_path_that_torch_lacks_is_skipped(capsys, script, helper):
    def row(ratios: dict[str, float], floors: dict[str, float]):
        spreads = {name: helper.Spread(value, value, value) for name, value in ratios.items()}
        return script.Comparison(
            model="many",
            optimizer="nadam",
            engine="triton",
            rounds=5,
            seconds={name: helper.Spread(1e-3, 1e-3, 1e-3) for name in ("ours", "foreach", "copy")},
            first_step_seconds={},
            unavailable={"fused": "torch.optim.NAdam has no fused"},
            best="foreach",
            ratio=spreads["foreach"],
            compiled_ratio=None,
            ratios=spreads,
            floor=1.0,
            floors=floors,
            gigabytes_per_second=dict.fromkeys(("ours", "foreach", "copy"), 1.0),
        )

    missed = row({"foreach": 2.5, "copy": 0.9}, {"foreach": 3.0, "copy": 0.85, "fused": 1.0})
    assert not helper.floors_are_held([missed])
    assert capsys.readouterr().out.splitlines() == [
        "",
        "1 of 2 floors held",
        "missed: nadam on many: foreach / ours 2.500, floor 3.0",
        "skipped: nadam on many: fused / ours, floor 1.0: torch.optim.NAdam has no fused",
    ]
    assert len(missed.cells()) == len(script.STEP_COLUMNS)
    held = row({"foreach": 3.5, "copy": 0.9}, {"best": 3.0, "fused": 1.0})
    assert held.verdicts()[0] == ("nadam on many: foreach / ours 3.500, floor 3.0", True)
    assert helper.floors_are_held([held])


@scripts("activations", "losses")
def test_goals_of_functions_on_cuda(script):
    floor_of = sys.modules["passes"].floor_of
    for name, case in script.CASES.items():
        for size, shape in case.shapes.items():
            elements = torch.Size(shape).numel()
            expected = 0.95 if elements >= 2**20 else None
            on_cuda = SimpleNamespace(device="cuda", dtype="float32")
            assert floor_of((name, size), shape, script.FLOORS, on_cuda) == expected
            on_cuda.dtype = "bfloat16"
            assert floor_of((name, size), shape, script.FLOORS, on_cuda) is None


@scripts("optimizer_step")
def test_ctrl_c_keeps_what_is_finished(capsys, script, tmp_path, monkeypatch):
    def compare_and_stop(model, name, params, options, compare=script.compare):
        if name == "adam":
            raise KeyboardInterrupt
        return compare(model, name, params, options)

    monkeypatch.setattr(script, "compare", compare_and_stop)
    path = tmp_path / "results.json"
    argv = ["--model", "tiny", "--optimizer", "sgd,adam", "--seconds", "0.01", "--json", str(path)]
    assert script.main(argv) == 130
    assert "interrupted; rows finished: 1" in capsys.readouterr().err
    assert [row["optimizer"] for row in read_results(path)] == ["sgd"]


# ---- models and measuring


@scripts("optimizer_step")
def test_models_have_the_parameters_they_should(script):
    pytest.importorskip("torchvision")
    for model in script.MODELS.values():
        assert len(model.checked_shapes()) == model.tensors


@scripts("optimizer_step")
def test_bytes_of_a_step(script):
    params = [torch.nn.Parameter(torch.ones(10)), torch.nn.Parameter(torch.ones(5, 2))]
    for p in params:
        p.grad = torch.ones_like(p)
    for optimizer, touched, moved in (
        (torch.optim.SGD(params), 2, 3),  # p and g; p goes both ways
        (torch.optim.Adam(params), 4, 7),  # and the two averages
    ):
        optimizer.step()
        assert script.bytes_of_step(optimizer) == (20 * 4 * touched, 20 * 4 * moved)


class Device:
    """One that computes nothing: calls take their time of Python and, one after the other, of the device."""

    def __init__(self, monkeypatch) -> None:
        self.host = self.device = 0.0
        self.captured: list[float] | None = None
        now, device = self.now, self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.time = now()

            def synchronize(self) -> None:
                device.host = max(device.host, self.time)

            def elapsed_time(self, end: Event) -> float:
                assert device.host >= end.time  # has been waited for
                return 1e3 * (end.time - self.time)

        class CUDAGraph:
            def replay(self) -> None:
                device.launch(1e-5, sum(self.calls))

        @contextmanager
        def graph(graph: CUDAGraph, stream: object, capture_error_mode: str):
            device.captured = graph.calls = []
            yield
            device.captured = None

        stream = SimpleNamespace(wait_stream=lambda other: None)
        fakes = {"Event": Event, "CUDAGraph": CUDAGraph, "graph": graph, "Stream": lambda: stream}
        fakes |= {"current_stream": lambda: stream, "stream": nullcontext}
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)

    def now(self) -> float:
        return max(self.host, self.device)

    def launch(self, of_python: float, of_device: float) -> None:
        self.host += of_python
        if self.captured is None:
            self.device = self.now() + of_device
        else:
            self.captured.append(of_device)


@pytest.mark.parametrize("graph, expected", [(False, [2e-5, 5e-5, 4e-2]), (True, [5e-6, 5e-5, 4e-2])])
def test_what_is_seen_between_two_events(helper, monkeypatch, graph, expected):
    """The slower of Python and device; with graphs the device."""
    device = Device(monkeypatch)
    options = SimpleNamespace(device="cuda", graph=graph, seconds=1e-9)
    times = {"bound by Python": (2e-5, 5e-6), "bound by the device": (2e-5, 5e-5), "long": (2e-5, 4e-2)}
    contenders = {name: helper.contender(lambda of=of: device.launch(*of), options) for name, of in times.items()}
    samples = helper.measure(contenders, options)
    for seconds, values in zip(expected, samples.values(), strict=True):
        assert len(values) == helper.LEAST_ROUNDS
        assert values == pytest.approx([seconds] * len(values), rel=0.02)


def test_a_batch_in_a_graph_is_what_python_launches_in_one(helper, monkeypatch):
    device = Device(monkeypatch)
    replay = helper.Replay(lambda: device.launch(1e-4, 1e-6))
    assert replay.calls == pytest.approx(helper.BATCH_SECONDS / 1e-4, rel=0.05)
    assert replay.graph.calls == [1e-6] * replay.calls


def test_the_machine_names_the_gpu_and_what_drives_it(helper, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(helper, "driver_version", lambda: "580.65")
    monkeypatch.setattr(helper, "triton_version", lambda: "3.9.0")
    where = helper.machine("cuda")
    assert set(where) > set(helper.machine("cpu"))
    text = helper.describe(where, SimpleNamespace(dtype="float32", graph=True))
    assert "NVIDIA H200, compute capability 9.0, driver 580.65, CUDA 13.2, Triton 3.9.0, CUDA graphs, torch" in text


def test_a_driver_that_does_not_tell_its_version(helper, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert helper.driver_version() == "unknown"


# ---- on a device


@pytest.mark.gpu
@each_script
@pytest.mark.parametrize("mode", [[], ["--graph"]])
def test_a_run_on_cuda(capsys, script, tmp_path, mode):
    rows = {"optimizer_step": "--model=tiny --optimizer=sgd,nesterov,adagrad,rmsprop,adam,nadam"}
    rows |= {"activations": "--size=1024,65536", "losses": "--size=1024,128x10"}
    rows |= {"training_step": "--optimizer=sgd,adagrad,adam,nadam --batch=2"}
    path = tmp_path / "results.json"
    argv = [*rows[script.__name__].split(), "--device=cuda", "--seconds=0.01", f"--json={path}", *mode]
    assert script.main(argv) == 0
    assert capsys.readouterr().err == ""
    for row in read_results(path):
        assert row["rounds"] >= 5
        assert row["floor"] is None
        for spread in row["seconds"].values():
            assert_spread(spread)
        if script.__name__ in ("optimizer_step", "training_step"):
            has_fused = row["optimizer"] not in ("rmsprop", "nadam")
            assert set(row["seconds"]) >= {"ours", "loop", "fused" if has_fused else "foreach"}
        if script.__name__ == "optimizer_step":
            assert row["engine"] == "triton"
    where = json.loads(path.read_text())["machine"]
    assert {"gpu", "compute capability", "driver", "CUDA", "Triton"} <= set(where)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "script, argv, count",
    [
        ("optimizer_step", ["--model=many", "--optimizer=sgd,nadam"], 1),  # torch's NAdam has no fused path
        ("activations", ["--function=relu", "--size=65536,1048576"], 1),
        ("losses", ["--function=softmax", "--size=64x50257"], 1),
    ],
    indirect=["script"],
)
def test_goals_are_checked_on_cuda(capsys, script, tmp_path, argv, count):
    common = ["--device=cuda", "--check", "--seconds=0.01", f"--json={tmp_path / 'results.json'}"]
    assert script.main([*argv, *common]) in (0, 1)  # whether they are reached is not tested
    assert f" of {count} floors held" in capsys.readouterr().out


# ---- the order of measuring, and how results are shown


def test_no_batch_is_measured_with_a_call_that_builds(helper, monkeypatch):
    """The first three calls take a second each, as those of an optimizer that has two kernels do."""
    clock, calls = [0.0], count()
    monkeypatch.setattr(helper, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def call():
        clock[0] += 1.0 if next(calls) < 3 else 0.001

    assert helper.calls_per_batch(call, "cpu") == pytest.approx(helper.BATCH_SECONDS / 0.001, abs=1)


def test_every_contender_runs_at_every_place_of_a_round(helper):
    names = ["a", "b", "c"]
    rounds = [helper.order_of_round(names, number) for number in range(50)]
    assert all(sorted(order) == names for order in rounds)
    assert all({order[place] for order in rounds} == set(names) for place in range(3))
    assert {after for order in rounds for before, after in pairwise(order) if before == "a"} == {"b", "c"}


def test_a_ratio_is_taken_within_rounds(helper):
    slowed_in_the_third_round = helper.ratio([2.0, 2.0, 200.0], [1.0, 1.0, 100.0])
    assert slowed_in_the_third_round == helper.Spread(2.0, 2.0, 2.0)


def test_a_spread_of_one_value_is_that_value(helper):
    assert helper.spread([3.0]) == helper.Spread(3.0, 3.0, 3.0)
    assert helper.spread([1.0, 2.0, 3.0, 4.0, 5.0]) == helper.Spread(3.0, 2.0, 4.0)


@pytest.mark.parametrize("seconds, text", [(2.5e-7, "0.25 µs"), (9.4e-5, "94 µs"), (0.4342, "434 ms"), (17.0, "17 s")])
def test_times_are_shown_in_their_unit(helper, seconds, text):
    assert helper.show_seconds(seconds) == text


@pytest.mark.processes
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="tells glibc to keep freed memory")
def test_freed_memory_is_kept():
    """In a process of its own, whose memory stays so: tensors of 4 and 64 MB come back without a page fault."""
    text = """
import resource, torch
from side_by_side import keep_freed_memory
assert keep_freed_memory()
def faults():
    for size in (2**20, 2**24):
        torch.ones(size), torch.ones(size)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
faults(), faults()
before = faults()
assert faults() - before < 100  # 17408 pages in each pair
"""
    subprocess.run([sys.executable, "-c", text], cwd=BENCHMARKS, check=True)


# ---------------------------------------------------------------- pictures


@scripts("pictures")
def test_pictures(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "PICTURES", {"schedule": 1e6, "schedule --format svg": 1e-6})
    assert script.main(["--rounds", "1", "--json", str(tmp_path / "pictures.json"), "--check"]) == 1
    slow, missed = read_results(tmp_path / "pictures.json")
    assert slow["seconds"]["median"] > 0
    assert missed["ceiling"] == 1e-6
    assert "1 of 2 floors held\nmissed: schedule --format svg" in capsys.readouterr().out


@scripts("pictures")
def test_a_picture_that_fails(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "PICTURES", {"race --surface moon": None})
    with pytest.raises(SystemExit) as exit:
        script.main(["--rounds", "1", "--json", str(tmp_path / "pictures.json")])
    assert exit.value.code == 1
    assert "race --surface moon failed: " in capsys.readouterr().err
