"""The examples of the README, of the documentation and of the docstrings run, and print what they say."""

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

ROOT = Path(__file__).parent.parent
GUIDES = ROOT / "docs" / "guides"
PAGES = [ROOT / "README.md", ROOT / "docs" / "index.md", *sorted(GUIDES.glob("*.md"))]
FOUND = pkgutil.walk_packages(torch_lecture_ops.__path__, "torch_lecture_ops.")
MODULES = [module.name for module in FOUND if not module.name.endswith("__main__")]  # which is a program


SCRIPTS = TRAIN, SHARDED = "# train.py\n", "# sharded.py\n"


def python_blocks(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


BLOCKS = [
    pytest.param(page, block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(python_blocks(page))
    if not block.startswith(SCRIPTS)
]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a block by itself, in an empty folder; gives its names."""
    monkeypatch.chdir(tmp_path)

    def run(page, block):
        names: dict = {"__name__": "example"}
        exec(compile(block, str(page), "exec"), names)
        return names

    return run


# Lightning's advice on a training as small as an example
@pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning")
@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_blocks_run(run, page, block, capsys):
    """And print what the comments beside print, or the block of output behind, say."""
    run(page, block)
    printed = capsys.readouterr().out
    after = page.read_text().split(block)[1]
    if output := re.match(r"```\n+```text\n(.*?)```", after, re.DOTALL):
        assert printed == output[1]
    said = re.findall(r"^print\(.*\) +# ([\d.\[\], -]*[\d\]])", block, re.MULTILINE)
    assert printed.split("\n")[: len(said)] == said


def test_pages_have_blocks():
    """But for those that only compare."""
    assert {page.stem for page in PAGES if not python_blocks(page)} == {"choose", "differences", "measured"}


def one_block(page, text):
    (block,) = (block for block in python_blocks(page) if text in block)
    return block


def test_readme_begins_with_the_swap_of_imports():
    assert "# instead of: import torch.optim as optim" in python_blocks(ROOT / "README.md")[0]


def test_lookahead_of_the_guide(run):
    assert run("use", one_block(GUIDES / "use.md", "lookahead"))["w"].item() == pytest.approx(0.56)


def test_lion_of_the_guide(run):
    names = run("own", one_block(GUIDES / "own.md", "class Lion"))
    w = torch.nn.Parameter(torch.tensor([1.0, -1.0, 0.0]))
    w.grad = torch.tensor([0.5, -2.0, 0.0])
    names["Lion"]([w], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(w, torch.tensor([0.85, -0.85, 0.0]))


def test_mish_of_the_guide(run):
    names = run("own", one_block(GUIDES / "own.md", "class Mish"))
    x = torch.linspace(-3, 3, 7)
    torch.testing.assert_close(names["Mish"].call(x), torch.nn.functional.mish(x))


@pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning")
def test_monitors_of_the_guide_draw(run, tmp_path):
    run("monitors", one_block(GUIDES / "monitors.md", "plot()"))
    assert {file.name for file in (tmp_path / "runs").glob("*.png")} == {"activations.png", "gradients.png"}


GALLERY = sorted((ROOT / "docs" / "gallery").glob("plot_*.py"))


@pytest.mark.parametrize("example", GALLERY, ids=[path.stem for path in GALLERY])
def test_the_gallery_runs(example, run, capsys):
    """Each example draws, and prints what its text speaks of."""
    figure = pytest.importorskip("matplotlib.figure").Figure
    names = run(example, example.read_text())
    assert isinstance(names["figure"], figure)
    assert capsys.readouterr().out


def test_the_gallery_is_whole():
    assert len(GALLERY) == 8


@pytest.mark.processes
def test_the_guides_command_trains_with_its_script(tmp_path):
    pytest.importorskip("jsonargparse")
    page = GUIDES / "monitors.md"
    (command,) = re.findall(r"^python train\.py .*?[^\\]$", page.read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "train.py").write_text(one_block(page, TRAIN))
    argv = command.replace("\\\n", " ").split()[1:]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *argv], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (config,) = tmp_path.glob("lightning_logs/*/config.yaml")
    for chosen in ("optim.NAdam", "form: simple", "lr_scheduler.StepDecay", "every: 10", "nn.SiLU", "init: he_normal"):
        assert chosen in config.read_text()


@pytest.mark.processes
@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized")
def test_the_guides_script_trains_in_two_processes_as_in_one(tmp_path, monkeypatch):
    """torchrun starts two; this process is one, and loads what they saved."""
    script = one_block(GUIDES / "distributed.md", SHARDED)
    (tmp_path / "sharded.py").write_text(script)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")  # no network is needed, nor a name for this machine
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    command += ["--nproc-per-node", "2", "sharded.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    # Now and then torch 2.15 aborts as a process of several threads of its own ends, with all written: what was saved
    # is compared below. (C++ says so when a std::thread is destroyed that nobody joined; we start none.)
    assert done.returncode == 0 or "terminate called without an active exception" in done.stderr, done.stderr

    (tmp_path / "alone").mkdir()
    monkeypatch.chdir(tmp_path / "alone")
    for key, value in dict(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0").items():
        monkeypatch.setenv(key, value)
    namespace: dict = {}
    exec(compile(script, "sharded.py", "exec"), namespace)
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
