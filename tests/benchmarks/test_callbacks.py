"""The script that times the monitors runs and writes what it promises; what it measures is the machine's."""

import importlib
import json
from pathlib import Path

import pytest

from torch_lecture_ops import callbacks


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("callbacks")


def test_every_monitor_is_timed(script):
    names = {type(make(None)).__name__ for make in script.MONITORS.values()}
    assert names == {name for name in callbacks.__all__ if name.endswith("Monitor")}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_run(capsys, script, tmp_path, monkeypatch, device):
    monkeypatch.setattr(script, "INTERVAL", 5)
    path = tmp_path / "results.json"
    argv = ["--monitor", "gradient,all", "--batch", "4", "--seconds", "0.01", "--json", str(path), "--device", device]
    assert script.main(argv) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["gradient", "all"]
    for row in json.loads(path.read_text())["rows"]:
        assert row["rounds"] >= 5
        assert row["ceiling"] is None  # of another batch
        assert row["seconds"]["with"]["median"] > 0
        ratio = row["seconds"]["with"]["median"] / row["seconds"]["without"]["median"]
        assert row["cost"]["low"] <= row["cost"]["median"] <= row["cost"]["high"]
        assert 0.1 < ratio < 10


def test_a_ceiling(script):
    spread = script.Spread(0.06, 0.05, 0.07)
    cost = script.Cost("gradient", 5, {"without": spread, "with": spread}, spread, 0.05)
    assert cost.verdicts() == [("gradient: costs 6.00 % of the training, ceiling 5 %", False)]


def test_a_training_cannot_be_captured(capsys, script):
    with pytest.raises(SystemExit):
        script.main(["--graph"])
    assert "--graph" in capsys.readouterr().err


def test_an_unknown_monitor(capsys, script):
    with pytest.raises(SystemExit):
        script.main(["--monitor", "loss"])
    assert "'loss'" in capsys.readouterr().err
