"""The examples of the README and of the docstrings run, and print what they say."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import torch_lecture_ops

README = Path(__file__).parent.parent / "README.md"
MODULES = [module.name for module in pkgutil.walk_packages(torch_lecture_ops.__path__, "torch_lecture_ops.")]


# Lightning's advice on a training as small as an example
@pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning")
def test_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 6
    namespace: dict = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), namespace)
    assert namespace["w"].item() == pytest.approx(0.56)
    w = torch.nn.Parameter(torch.tensor([1.0, -1.0, 0.0]))
    w.grad = torch.tensor([0.5, -2.0, 0.0])
    namespace["Lion"]([w], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(w, torch.tensor([0.85, -0.85, 0.0]))
    x = torch.linspace(-3, 3, 7)
    assert {file.name for file in (tmp_path / "runs").glob("*.png")} == {"activations.png", "gradients.png"}
    torch.testing.assert_close(namespace["Mish"].call(x), torch.nn.functional.mish(x))


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, extraglobs={"torch": torch})
    assert failed == 0


def test_some_docstrings_have_examples():
    finder = doctest.DocTestFinder()
    examples = [test for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples]
    assert len(examples) >= 10
