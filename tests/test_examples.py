"""The examples of the README and of the docstrings run, and print what they say."""

import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import torch_lecture_ops

README = Path(__file__).parent.parent / "README.md"
MODULES = [module.name for module in pkgutil.walk_packages(torch_lecture_ops.__path__, "torch_lecture_ops.")]


SCRIPTS = TRAIN, SHARDED = "# train.py\n", "# sharded.py\n"


def python_blocks():
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


# Lightning's advice on a training as small as an example
@pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning")
def test_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = [block for block in python_blocks() if not block.startswith(SCRIPTS)]
    assert len(blocks) == 6
    namespace: dict = {}
    for block in blocks:
        alone: dict = {}  # each runs by itself
        exec(compile(block, str(README), "exec"), alone)
        namespace |= alone
    assert namespace["w"].item() == pytest.approx(0.56)
    w = torch.nn.Parameter(torch.tensor([1.0, -1.0, 0.0]))
    w.grad = torch.tensor([0.5, -2.0, 0.0])
    namespace["Lion"]([w], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(w, torch.tensor([0.85, -0.85, 0.0]))
    x = torch.linspace(-3, 3, 7)
    assert {file.name for file in (tmp_path / "runs").glob("*.png")} == {"activations.png", "gradients.png"}
    torch.testing.assert_close(namespace["Mish"].call(x), torch.nn.functional.mish(x))


@pytest.mark.processes
def test_readmes_command_trains_with_readmes_script(tmp_path):
    pytest.importorskip("jsonargparse")
    (script,) = (block for block in python_blocks() if block.startswith(TRAIN))
    (command,) = re.findall(r"^python train\.py .*?[^\\]$", README.read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "train.py").write_text(script)
    argv = command.replace("\\\n", " ").split()[1:]
    environment = os.environ | {"PYTHONPATH": str(README.parent)}
    done = subprocess.run([sys.executable, *argv], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (config,) = tmp_path.glob("lightning_logs/*/config.yaml")
    for chosen in ("optim.NAdam", "form: simple", "lr_scheduler.StepDecay", "every: 10", "nn.SiLU", "init: he_normal"):
        assert chosen in config.read_text()


@pytest.mark.processes
@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized")
def test_readmes_script_trains_in_two_processes_as_in_one(tmp_path, monkeypatch):
    """torchrun starts two; this process is one, and loads what they saved."""
    (script,) = (block for block in python_blocks() if block.startswith(SHARDED))
    (tmp_path / "sharded.py").write_text(script)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")  # no network is needed, nor a name for this machine
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    command += ["--nproc-per-node", "2", "sharded.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(README.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    # Now and then torch 2.15 aborts as a process of several threads of its own ends, with all written: what was saved
    # is compared below. (C++ says so when a std::thread is destroyed that nobody joined; we start none.)
    assert done.returncode == 0 or "terminate called without an active exception" in done.stderr, done.stderr

    (tmp_path / "alone").mkdir()
    monkeypatch.chdir(tmp_path / "alone")
    for key, value in dict(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0").items():
        monkeypatch.setenv(key, value)
    namespace: dict = {}
    exec(compile(script, str(README), "exec"), namespace)
    # None before the first: reading the state, where there is none, would be a step.
    assert {state["step"].item() for state in namespace["optimizer"].state.values()} == {100.0}
    expected = {name: p.detach().to_local() for name, p in namespace["model"].named_parameters()}
    weights = {name: torch.zeros_like(value) for name, value in expected.items()}
    namespace["checkpoint"].load({"model": weights}, checkpoint_id=tmp_path / "runs" / "checkpoint")
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-4)  # Adam divides by gradients that are rounded


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, extraglobs={"torch": torch})
    assert failed == 0


def test_some_docstrings_have_examples():
    finder = doctest.DocTestFinder()
    examples = [test for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples]
    assert len(examples) >= 10
