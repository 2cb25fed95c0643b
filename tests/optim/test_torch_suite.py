"""The configurations and mistakes in torch's own table of optimizers, with ours in place of torch's classes.

The table is private to torch and is imported if it is there.
"""

import copy
import warnings

import pytest
import torch
from torch import nn

from torch_lecture_ops import optim

BOTH = [name for name in optim.__all__ if hasattr(torch.optim, name)]
INFOS, CONFIGS, MISTAKES, MISSING = {}, [], [], ""
try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's testing package warns about itself on import
        from torch.testing._internal.common_optimizers import OptimizerErrorEnum, optim_db
    for info in optim_db:
        which = info.optim_cls.__name__
        if which in BOTH and info.optim_cls is getattr(torch.optim, which):
            INFOS[which] = info
            for row in info.optim_inputs_func(device="cpu"):
                CONFIGS.append(pytest.param(which, row, id=f"{which}-{row.desc}"))
            for row in info.optim_error_inputs_func(device="cpu", dtype=torch.float32):
                MISTAKES.append(pytest.param(which, row, id=f"{which}-{row.optimizer_error_input.desc}"))
except (ImportError, AttributeError, TypeError) as error:
    MISSING = f"torch's table of optimizers is not there, or another one: {error}"

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def test_all_are_in_torchs_table():
    assert sorted(INFOS) == sorted(BOTH)


def model_and_optimizer(where, which, config, dtype, flags):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1), nn.Sigmoid()).to(dtype)
    params = [*model.parameters(), nn.Parameter(torch.tensor(1.0, dtype=dtype))]
    return model, params, getattr(where, which)(params, **copy.deepcopy(config.kwargs) | flags)


@pytest.mark.parametrize(("which", "config"), CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_seven_iterations_are_torchs(which, config, dtype, engine):
    """TestOptimRenewed._compare_between: no gradients at 2, a layer frozen at 3 and unfrozen at 5, a 0-dim one."""
    runs = [
        model_and_optimizer(optim, which, config, dtype, engine.kwargs),
        model_and_optimizer(torch.optim, which, config, dtype, dict(foreach=False)),
    ]
    x = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], dtype=dtype).reshape(3, 2)
    for iteration in range(7):
        for model, params, optimizer in runs:
            optimizer.zero_grad()
            if iteration in (3, 5):
                model[2].requires_grad_(iteration == 5)
            if iteration != 2:
                model(x).sum().backward()
                params[-1].grad = torch.full_like(params[-1], 0.5)
            optimizer.step()
        for p, q in zip(runs[0][1], runs[1][1], strict=True):
            state, expected = runs[0][2].state.get(p, {}), runs[1][2].state.get(q, {})
            assert list(state) == list(expected)
            # assert_close without tolerances: torch's own for the dtype, which its suite uses, too
            for got, right in zip((p.detach(), *state.values()), (q.detach(), *expected.values()), strict=True):
                torch.testing.assert_close(got, right)
                got.copy_(right)


@pytest.mark.parametrize(("which", "mistake"), MISTAKES)
def test_mistakes_of_torchs_table(which, mistake):
    given = mistake.optimizer_error_input
    if mistake.error_on is not OptimizerErrorEnum.CONSTRUCTION_ERROR:
        pytest.skip("an error of step")
    if given.kwargs.get("foreach") and "not supported for capturable=False and foreach=True" in mistake.error_regex:
        pytest.skip("ours takes tensors as hyper-parameters with foreach, too")
    params = given.params if given.params is not None else [nn.Parameter(torch.ones(2))]
    with pytest.raises(mistake.error_type, match=mistake.error_regex):
        getattr(optim, which)(params, **given.kwargs)
