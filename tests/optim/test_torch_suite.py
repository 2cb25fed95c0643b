"""What torch's own suite of tests asserts of its optimizers, of ours; on the configurations and mistakes of its table.

Tests of torch (TestOptimRenewed in test/test_optim.py and two more classes) whose assertion is tested elsewhere:

    test_tensor_lr                                test_against_torch: test_lr_tensor_is_lr_number
    test_set_default_dtype_works_with_foreach     test_against_torch: test_step_has_torchs_dtype
    test_optimizer_can_be_printed                 test_against_torch: test_groups_and_defaults_are_torchs
    test_mixed_device_dtype, on one device        test_rule_optimizer: test_several_dtypes_in_a_group
    test_step_pre_hook, _post_hook, _all_hooks    test_rule_optimizer: test_order_of_hooks, test_a_hook_changes_...
    test_step_is_noop_when_params_have_no_grad    test_rule_optimizer: test_no_gradients
    test_fused_does_not_step_if_foundinf          test_rule_optimizer: test_gradient_scaling;
                                                  test_defects: test_first_step_overflows
    test_load_nontensor_step                      test_state_dict: test_older_checkpoints
    test_save_load_equality_with_weights_only     test_state_dict: test_through_a_file
    TestDifferentiableOptimizer                   test_rule_optimizer: test_gradcheck_through_a_step
    CompiledOptimizerParityTests                  test_compile

Those that are neither there nor here need a GPU or memory for 2**32 elements, or are about other optimizers. The table
is private to torch and is imported if it is there.
"""

import copy
import warnings
from itertools import product

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from torch_lecture_ops import optim

ON_DEVICE = pytest.mark.usefixtures("device")
BOTH = [name for name in optim.__all__ if hasattr(torch.optim, name)]
SCHEDULES, LATER = {}, {}
CONFIGS, FUSED, SPARSE, MISTAKES, MISSING = [], [], [], [], ""
try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's testing package warns about itself on import
        from torch.testing._internal.common_optimizers import OptimizerErrorEnum, optim_db
    for info in optim_db:
        which = info.optim_cls.__name__
        if which in BOTH and info.optim_cls is getattr(torch.optim, which):
            SCHEDULES[which], LATER[which] = info.scheduler_inputs, info.not_og_supported_flags
            rows = info.optim_inputs_func(device="cpu")
            for row in rows:
                CONFIGS.append(pytest.param(which, row, id=f"{which}-{row.desc}"))
            for row in info.optim_error_inputs_func(device="cpu", dtype=torch.float32):
                MISTAKES.append(pytest.param(which, row, id=f"{which}-{row.optimizer_error_input.desc}"))
            if "cpu" in info.supports_fused_on:
                FUSED.extend(CONFIGS[-len(rows) :])
            if info.supports_sparse:
                settings, schedule = info.metadata_for_sparse
                for row in rows:
                    kwargs = row.kwargs | settings
                    if (which, kwargs) not in [known.values[:2] for known in SPARSE]:
                        SPARSE.append(pytest.param(which, kwargs, schedule, id=f"{which}-{row.desc}"))
except (ImportError, AttributeError, TypeError, ValueError) as error:
    MISSING = f"torch's table of optimizers is not there, or another one: {error}"

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)
EACH_CONFIG = pytest.mark.parametrize(("which", "config"), CONFIGS)
YES_NO = [False, True]


def test_all_are_in_torchs_table():
    assert sorted(SCHEDULES) == sorted(BOTH)
    assert not any({"foreach", "fused", "differentiable"} & set(row.values[1].kwargs) for row in CONFIGS)


def make(where, which, params, config, **more):
    """An optimizer of this configuration. (Schedulers write into a learning rate that is a tensor: it is copied.)"""
    return getattr(where, which)(params, **copy.deepcopy(config.kwargs) | more)


def weight_and_bias(contiguous=True):
    shapes = [(10, 5), (10,)] if contiguous else [(10, 5, 2), (10, 2)]
    return [nn.Parameter(t if contiguous else t[..., 0]) for t in map(torch.randn, shapes)]


def copied(params):
    return [nn.Parameter(p.detach().clone()) for p in params]


def differentiate(params):
    """Give a weight and a bias the gradients of a quadratic function, and return its value."""
    for p in params:
        p.grad = None
    loss = (params[0].mv(torch.linspace(-1, 1, 5)) + params[1]).pow(2).sum()
    loss.backward()
    return loss.item()


def descend(params, optimizer, schedulers=(), steps=20):
    """The values of the function before and after; after each step the schedulers are asked, too."""
    first = loss = differentiate(params)
    for _ in range(steps):
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step(*[loss] if isinstance(scheduler, ReduceLROnPlateau) else [])
        loss = differentiate(params)
    return first, loss


# ---------------------------------------------------------------------------------------------------------- the numbers


@pytest.mark.sweep
@pytest.mark.not_interpreted
@EACH_CONFIG
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_seven_iterations_are_torchs(which, config, dtype, engine, table):
    seven_iterations(table, which, config, dtype, engine)


@pytest.mark.sweep
@pytest.mark.parametrize(("which", "config"), FUSED)
def test_seven_fused_iterations_are_torchs_in_float16(which, config, compiling, table):
    seven_iterations(table, which, config, torch.float16, compiling)


def seven_iterations(table, which, config, dtype, engine):
    """TestOptimRenewed._compare_between: no gradients at 2, a layer frozen at 3 and unfrozen at 5, a 0-dim one.

    Half types as torch's loop in float32, rounded: in half types it rounds every intermediate result, which leads away
    by more than torch's own tolerance for the dtype.
    """
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    model = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1), nn.Sigmoid()).to(dtype).to(wide)
    theirs = [*model.parameters(), nn.Parameter(torch.tensor(1.0, dtype=wide))]
    ours = [nn.Parameter(q.detach().to(dtype, copy=True)) for q in theirs]
    optimizer = make(optim, which, ours, config, **engine.kwargs)
    reference = make(torch.optim, which, theirs, config, foreach=False)
    x = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], dtype=wide).reshape(3, 2)
    for iteration in range(7):
        reference.zero_grad()
        if iteration in (3, 5):
            model[2].requires_grad_(iteration == 5)
        if iteration != 2:
            model(x).sum().backward()
            theirs[-1].grad = torch.full_like(theirs[-1], 0.5)
        for p, q in zip(ours, theirs, strict=True):
            p.grad = None if q.grad is None else q.grad.to(dtype)
            q.grad = None if q.grad is None else p.grad.to(wide)
        optimizer.step()
        reference.step()
        got, expected = table.entries(ours, optimizer), table.entries(theirs, reference)
        assert list(got) == list(expected)
        for key, column in expected.items():
            assert list(got[key]) == list(column)
            a, b = (torch.cat([t.reshape(-1) for t in each.values()]) for each in (got[key], column))
            torch.testing.assert_close(a, b.to(a), msg=lambda text, key=key: f"{key}: {text}")
            for number, right in column.items():
                right.copy_(got[key][number])
    assert optimizer.engine == engine.name
    assert all(optimizer.state.values())  # nobody has an empty one


def rosenbrock(p):
    x, y = p
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


@ON_DEVICE
@pytest.mark.parametrize("flags", [{}, dict(foreach=True), dict(foreach=False, fused=False)], ids=str)
@pytest.mark.parametrize("scheduled", YES_NO)
@pytest.mark.parametrize(("which", "kwargs", "schedule"), SPARSE)
def test_sparse_gradients_lead_down_rosenbrocks_valley(which, kwargs, schedule, scheduled, flags):
    """Of x and y in turns, in two parts, as dense ones do. (The classes that torch's table says take sparse ones.)"""
    runs = []
    for _ in range(2):
        p = nn.Parameter(torch.tensor([1.5, 1.5], dtype=torch.float64))
        optimizer = getattr(optim, which)([p], **kwargs, **flags)
        runs.append((p, optimizer, [each(optimizer) for each in schedule] if scheduled else []))
    with torch.sparse.check_sparse_tensor_invariants():
        for number in range(60):
            for (p, optimizer, schedulers), sparse in zip(runs, (True, False), strict=True):
                loss = rosenbrock(p)
                (g,) = torch.autograd.grad(loss, p)
                place = torch.tensor([number % 2] * 2)
                parts = torch.stack([g[place[0]] / 4, g[place[0]] * 3 / 4])
                if sparse:
                    p.grad = torch.sparse_coo_tensor(place.unsqueeze(0), parts, (2,))
                else:
                    p.grad = torch.zeros_like(p).index_add(0, place, parts)
                optimizer.step()
                for scheduler in schedulers:
                    scheduler.step(*[loss.item()] if isinstance(scheduler, ReduceLROnPlateau) else [])
            torch.testing.assert_close(*(p for p, _, _ in runs))
    start, end = rosenbrock(torch.tensor([1.5, 1.5])), rosenbrock(runs[0][0])
    assert end > start if kwargs.get("maximize") else end < start


def as_real(t):
    return torch.view_as_real(t) if t.is_complex() else t


@pytest.mark.sweep
@EACH_CONFIG
def test_complex_numbers_are_pairs_of_real_ones(which, config, engine):
    """In a group with a parameter that is real."""
    kinds = [((10, 5), torch.complex64), ((10,), torch.complex64), ((10, 5), torch.float32)]
    numbers = [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape, dtype in kinds]
    pairs = [nn.Parameter(as_real(p.detach()).clone()) for p in numbers]
    optimizers = [make(optim, which, params, config, **engine.kwargs) for params in (numbers, pairs)]
    for _ in range(3):
        for p, q in zip(numbers, pairs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = as_real(p.grad).clone()
        for optimizer in optimizers:
            optimizer.step()
        for p, q in zip(numbers, pairs, strict=True):
            torch.testing.assert_close(as_real(p), q)
    assert [optimizer.engine for optimizer in optimizers] == [engine.name] * 2


@pytest.mark.not_interpreted
@EACH_CONFIG
def test_complex_numbers_are_real_and_imaginary_parts(which, config, engine):
    """torch's test_complex_2d: down the absolute value of Rosenbrock's function of complex numbers."""
    a = nn.Parameter(0.1 * torch.randn(2, dtype=torch.complex64))
    parts = copied([a.real, a.imag])
    optimizer = make(optim, which, [a], config, **engine.kwargs)
    reference = make(optim, which, parts, config, **engine.kwargs)
    for _ in range(10):
        optimizer.zero_grad()
        reference.zero_grad()
        rosenbrock(a).abs().backward()
        rosenbrock(torch.complex(*parts)).abs().backward()
        for got, expected in zip((a.grad.real, a.grad.imag), parts, strict=True):
            torch.testing.assert_close(got, expected.grad)
            expected.grad.copy_(got)
        optimizer.step()
        reference.step()
        torch.testing.assert_close(a, torch.complex(*parts))
    assert a.abs().max() < 100


# -------------------------------------------------------------------------------------------------- the right direction


@pytest.mark.not_interpreted
@EACH_CONFIG
def test_goes_the_right_direction(which, config, engine):
    """In 20 steps: parameters that are contiguous and not, without schedulers and with each set of torch's table."""
    for contiguous, schedule in [(False, []), (True, []), *((True, each) for each in SCHEDULES[which])]:
        params = weight_and_bias(contiguous)
        assert [p.is_contiguous() for p in params] == [contiguous] * 2
        optimizer = make(optim, which, params, config, **engine.kwargs)
        before, after = descend(params, optimizer, [each(optimizer) for each in schedule])
        assert after > before if config.kwargs.get("maximize") else after < before
        assert optimizer.engine == engine.name


@pytest.mark.not_interpreted
def test_groups_with_schedulers_go_the_right_direction(name, engine):
    for schedule in SCHEDULES[name]:
        weight, bias = params = weight_and_bias()
        groups = [{"params": [weight]}, {"params": [bias], "lr": 0.01}]
        optimizer = getattr(optim, name)(groups, **engine.kwargs)
        before, after = descend(params, optimizer, [each(optimizer) for each in schedule])
        assert after < before


@pytest.mark.not_interpreted
@EACH_CONFIG
def test_weight_decay_of_a_group(which, config, engine):
    """Of one group, not of the other: 20 steps go in the right direction."""
    weight, bias = params = weight_and_bias()
    kwargs = copy.deepcopy(config.kwargs) | engine.kwargs
    groups = [{"params": [weight], **kwargs}, {"params": [bias], **kwargs, "weight_decay": 0.0}]
    before, after = descend(params, getattr(optim, which)(groups))
    assert after > before if config.kwargs.get("maximize") else after < before


@pytest.mark.not_interpreted
@EACH_CONFIG
def test_learning_rate_of_a_group(which, config, engine):
    """Where it is next to nothing, a parameter stays as it is, to the bit."""
    params, still = weight_and_bias(), nn.Parameter(torch.randn(2, 2))
    start = still.detach().clone()
    still.grad = torch.rand(2, 2)
    kwargs = {"lr": 1e-3} | copy.deepcopy(config.kwargs)
    optimizer = getattr(optim, which)([{"params": params, **kwargs}, {"params": [still]}], lr=1e-28, **engine.kwargs)
    before, after = descend(params, optimizer)
    assert after > before if config.kwargs.get("maximize") else after < before
    assert torch.equal(still, start)


@pytest.mark.parametrize(("which", "config"), [row for row in CONFIGS if not row.values[1].kwargs.get("weight_decay")])
def test_zero_gradients_change_nothing(which, config, engine):
    """Without weight decay, which AdamW has by default."""
    p = nn.Parameter(torch.randn(5, 1))
    start, p.grad = p.detach().clone(), torch.zeros(5, 1)
    optimizer = make(optim, which, [p], config, **engine.kwargs, weight_decay=0.0)
    for _ in range(3):
        optimizer.step()
    assert torch.equal(p, start)


@pytest.mark.needs_compiler
def test_fused_without_memory(name):
    """An error that leaves no state; with memory it steps. (In torch's test, to_empty makes other parameters.)"""
    params = [nn.Parameter(torch.empty(3, 2, device="meta"))]
    kwargs = dict(lr=0.125, **{"momentum": 0.9, "dampening": 0.5} if name == "SGD" else {})
    optimizer = getattr(optim, name)(params, fused=True, **kwargs)
    params[0].grad = torch.empty(3, 2, device="meta")
    with pytest.raises(RuntimeError, match=rf"^{name}: fused=True cannot be had: "):
        optimizer.step()
    assert any(optimizer.state.values()) == (name == "Adagrad")  # which made it at once
    optimizer.zero_grad()
    torch.utils.swap_tensors(params[0], nn.Parameter(torch.ones(3, 2)))
    if name == "Adagrad":
        optimizer = getattr(optim, name)(params, fused=True, **kwargs)
    references = copied(params)
    reference = getattr(torch.optim, name)(references, foreach=False, **kwargs)
    for _ in range(2):
        params[0].grad, references[0].grad = torch.ones(3, 2), torch.ones(3, 2)
        optimizer.step()
        reference.step()
        torch.testing.assert_close(params, references)


# -------------------------------------------------------------------------------------------------- copies, checkpoints


def test_a_copy_has_all_public_attributes(name, engine):
    params = weight_and_bias()
    optimizer = getattr(optim, name)(params, **engine.kwargs)
    descend(params, optimizer, steps=1)
    got, before, torchs = (
        {key for key in vars(each) if not key.startswith("_")}
        for each in (copy.deepcopy(optimizer), optimizer, getattr(torch.optim, name)(params))
    )
    assert got == before == torchs


def perhaps_named(params, named):
    return list(zip(("weight", "bias"), params, strict=True)) if named else params


@pytest.mark.not_interpreted
@EACH_CONFIG
def test_a_loaded_run_goes_on_to_the_bit(which, config, engine):
    """Whether parameters have names or not, then and now; who has no names takes those of the checkpoint."""
    for named, others_named in product(YES_NO, YES_NO):
        a_loaded_run_goes_on_to_the_bit(which, config, engine, named, others_named)


def a_loaded_run_goes_on_to_the_bit(which, config, engine, named, others_named):
    params = weight_and_bias()
    optimizer = make(optim, which, perhaps_named(params, named), config, **engine.kwargs)
    descend(params, optimizer, steps=3)
    others = copied(params)
    other = make(optim, which, perhaps_named(others, others_named), config, **engine.kwargs)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(3):
        differentiate(others)
        optimizer.step()
        other.step()
        assert all(map(torch.equal, params, others))
        differentiate(params)
    for each in (optimizer, other):
        each.param_groups.extend(each.param_groups)  # parameters that are in two groups have the same number in both
    expected, got = optimizer.state_dict(), other.state_dict()
    torch.testing.assert_close(got["state"], expected["state"], rtol=0, atol=0)
    names = {"param_names": ["weight", "bias"]} if named or others_named else {}
    assert got["param_groups"] == [group | names for group in expected["param_groups"]]
    assert [group["params"] for group in got["param_groups"]] == [[0, 1]] * 2


@EACH_CONFIG
def test_older_checkpoints_are_loaded_as_by_torch(which, config, engine):
    """Without all the options that the class did not have at first; and the step after."""
    params = weight_and_bias()
    optimizer = make(optim, which, params, config, **engine.kwargs)
    descend(params, optimizer, steps=2)
    saved = copy.deepcopy(optimizer.state_dict())
    for key in LATER[which]:
        saved["param_groups"][0].pop(key, None)
    others = copied(params)
    reference = make(torch.optim, which, others, config, foreach=False)
    reference.load_state_dict(copy.deepcopy(saved))
    optimizer.load_state_dict(saved)
    got, expected = (each.state_dict()["param_groups"] for each in (optimizer, reference))
    for group in (*got, *expected):
        group.pop("fused", None)  # ours stays as asked for; torch has None, SGD False
    assert got == expected
    descend(params, optimizer, steps=1)
    descend(others, reference, steps=1)
    torch.testing.assert_close(params, others)


@EACH_CONFIG
def test_checkpoints_of_fused_runs(which, config, compiling):
    """As torch's fused optimizers on a GPU leave them, also moved to the CPU: torch's test_cpu_load_state_dict."""
    params = weight_and_bias()
    reference = make(torch.optim, which, params, config, foreach=False)
    descend(params, reference, steps=2)
    saved = copy.deepcopy(reference.state_dict())
    saved["param_groups"][0] |= {"foreach": None, "fused": True}
    others = copied(params)
    optimizer = make(optim, which, others, config, fused=True)
    optimizer.load_state_dict(saved)
    descend(others, optimizer, steps=1)
    descend(params, reference, steps=1)
    assert optimizer.engine == compiling.name
    torch.testing.assert_close(others, params)


# ---------------------------------------------------------------------------------------------------------------- hooks


def test_hooks_of_state_dict(name):
    """One before may write into the state, one after may write into the dict or return another."""
    params = weight_and_bias()
    optimizer = getattr(optim, name)(params)

    def before(optimizer):
        optimizer.state["note"] = 1

    def after(optimizer, state_dict):
        state_dict["noted"] = state_dict["state"].pop("note", None)

    def replace(optimizer, state_dict):
        return {**state_dict, "replaced": True}

    handle = optimizer.register_state_dict_post_hook(after)
    assert optimizer.state_dict()["noted"] is None
    handle.remove()
    optimizer.register_state_dict_pre_hook(before)
    assert optimizer.state_dict()["state"]["note"] == 1
    optimizer.register_state_dict_post_hook(after)
    optimizer.register_state_dict_post_hook(replace)
    saved = optimizer.state_dict()
    assert (saved["noted"], saved["replaced"], "note" in saved["state"]) == (1, True, False)
    first, last = descend(params, optimizer)  # it goes on, whatever is in the state
    assert last < first


@ON_DEVICE
def test_hooks_of_load_state_dict(name):
    """One before may write into the dict or return another, in the order asked for; one after sees what was loaded."""
    params = weight_and_bias()
    optimizer = getattr(optim, name)(params)
    descend(params, optimizer, steps=1)
    saved = optimizer.state_dict()

    def write(optimizer, state_dict):
        state_dict["param_groups"][0]["lr"] = 0.002

    def replace(optimizer, state_dict):
        return copy.deepcopy(state_dict) | {"param_groups": [state_dict["param_groups"][0] | {"lr": 0.003}]}

    def after(optimizer):
        optimizer.state["loaded"] = optimizer.param_groups[0]["lr"]

    optimizer.register_load_state_dict_post_hook(after)
    optimizer.load_state_dict(copy.deepcopy(saved))
    assert optimizer.state["loaded"] == saved["param_groups"][0]["lr"]
    handle = optimizer.register_load_state_dict_pre_hook(replace)
    optimizer.load_state_dict(copy.deepcopy(saved))
    assert optimizer.state["loaded"] == 0.003
    handle.remove()
    optimizer.register_load_state_dict_pre_hook(write)
    optimizer.register_load_state_dict_pre_hook(replace, prepend=True)
    optimizer.load_state_dict(copy.deepcopy(saved))
    assert optimizer.state["loaded"] == 0.002  # replaced first, then written
    first, last = descend(params, optimizer)
    assert last < first


# ------------------------------------------------------------------------------------------------------------- mistakes


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
