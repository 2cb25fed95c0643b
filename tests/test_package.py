"""What is in the package, the source distribution and the names that `dir` shows."""

import ast
import importlib
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from shutil import copytree, ignore_patterns
from types import ModuleType

import pytest

import torch_lecture_ops

ROOT = Path(__file__).parents[1]
LEFT_OUT = ignore_patterns("__pycache__", ".*", "runs", "build", "dist", "*.egg-info", "*.pyc")


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_source_distribution_has_the_version_and_all_tests(tmp_path):
    """With what they need: the benchmarks, whose own tests are among them, and all data."""
    pytest.importorskip("setuptools")
    copytree(ROOT, tmp_path / "checkout", ignore=LEFT_OUT)
    whole = files_of(tmp_path / "checkout")
    code = f"import setuptools.build_meta as backend; backend.build_sdist({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "checkout", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    name = f"torch_lecture_ops-{torch_lecture_ops.__version__}"
    with tarfile.open(tmp_path / f"{name}.tar.gz") as archive:
        packed = {os.path.relpath(member.name, name) for member in archive if member.isfile()}
    assert whole - packed <= {"MANIFEST.in"}
    made = {file for file in packed - whole if ".egg-info" not in file}
    assert made <= {"PKG-INFO", "setup.cfg", "MANIFEST.in"}
    assert {"tests/conftest.py", "tests/optim/conftest.py", "benchmarks/data/mnist_subset.npz"} <= packed


PUBLIC = {
    "torch_lecture_ops": set(),
    "torch_lecture_ops.optim": {"lr_scheduler"},
    "torch_lecture_ops.optim.lr_scheduler": set(),
    "torch_lecture_ops.nn": set(),
    "torch_lecture_ops.nn.functional": set(),
    "torch_lecture_ops.nn.init": set(),
    "torch_lecture_ops.functions": set(),
    "torch_lecture_ops.formula": set(),
    "torch_lecture_ops.callbacks": set(),
    "torch_lecture_ops.pictures": set(),
}  # and the modules among their names that __all__ leaves out


@pytest.mark.parametrize("name", PUBLIC)
def test_dir_shows_what_is_public_and_no_helper(name):
    if name.endswith("callbacks"):
        pytest.importorskip("lightning")
    module = importlib.import_module(name)
    assert len(set(module.__all__)) == len(module.__all__)
    assert set(dir(module)) == set(module.__all__) | PUBLIC[name]
    for shown in dir(module):
        value = getattr(module, shown)
        assert getattr(value, "__module__", "torch_lecture_ops").startswith(("torch_lecture_ops", "torch.optim")), shown
        if isinstance(value, ModuleType):
            assert value.__name__ == f"{name}.{shown}"


BELOW = {
    "formula": set(),
    "optim": {"formula"},
    "functions": {"formula"},
    "nn": {"formula", "functions"},
    "callbacks": {"optim", "nn"},
    "pictures": {"formula", "optim", "nn"},
}  # what a package may import of the others, as DESIGN.md draws it


@pytest.mark.parametrize("package", BELOW)
def test_imports_point_one_way(package):
    found = set()
    for path in (ROOT / "torch_lecture_ops" / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 2:
                found |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
    assert found & set(BELOW) <= BELOW[package]


def test_formula_shows_its_whole_vocabulary():
    shown, home = torch_lecture_ops.formula, "torch_lecture_ops.formula.math"
    words = {name for name, value in vars(shown).items() if getattr(value, "__module__", "") == home}
    assert "where" in words <= set(shown.__all__)
