"""Checkpoints: ours into torch's and torch's into ours, old ones, copies; and groups that change during a run."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from torch_lecture_ops import optim

ON_DEVICE = pytest.mark.usefixtures("device")

SHAPES = [(), (3,), (70,), (4, 5)]
LOOP = dict(foreach=False, fused=False)

# Three steps without correction in between, each of one unit (parameters) or four (state; see test_against_torch.py).
# An entry may be a sum of three gradients that cancel: the unit is eps times the largest value of all parameters.
LIMIT_PARAM, LIMIT_STATE = 3, 12


def steps(table, numbers, *runs):
    """The same steps for several runs (params, optimizer); parameter 1 has no gradient at step 1."""
    for number in numbers:
        table.give_gradients(number, *(params for params, _ in runs), without=[1] if number == 1 else [])
        for _, optimizer in runs:
            optimizer.step()


def assert_alike(table, run, reference, exact=False):
    got, expected = table.entries(*run), table.entries(*reference)
    assert list(got) == list(expected)
    for key, column in expected.items():
        limit = 0 if exact or key == "step" else LIMIT_PARAM if key == "param" else LIMIT_STATE
        largest = {n: torch.full_like(t, table.flat(column.values()).abs().max()) for n, t in column.items()}
        assert table.distance(got[key], column, largest) <= limit, key
        assert [t.dtype for t in got[key].values()] == [t.dtype for t in column.values()], key


def copied(params):
    return [nn.Parameter(p.detach().clone()) for p in params]


def assert_same_dict(got, expected):
    """Keys in the same order, values bit by bit."""
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        for key in expected:
            assert_same_dict(got[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert type(got) is type(expected)
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            assert_same_dict(a, b)
    elif isinstance(expected, torch.Tensor):
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        assert torch.equal(got.cpu(), expected.cpu())  # under torch.device, torch makes its step there
    else:
        assert type(got) is type(expected)
        assert got == expected


DIRECTIONS = {"torch into ours": ("torchs_loop", "ours"), "ours into torch": ("ours", "torchs_loop")}


@ON_DEVICE
@pytest.mark.parametrize(("before", "after"), DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_checkpoints_go_both_ways(case, before, after, dtype, table):
    """Three steps with one, then three with the other that loads its state: as with the first alone."""
    params = table.parameters(dtype, SHAPES)
    optimizer = getattr(case, before)(params)
    steps(table, range(3), (params, optimizer))
    saved = optimizer.state_dict()
    kept = copy.deepcopy(saved)
    others = copied(params)
    other = getattr(case, after)(others)
    other.load_state_dict(copy.deepcopy(saved))
    if after == "torchs_loop":  # rounds NAdam's product of momenta to the dtype of the parameter
        for p, q in zip(params, others, strict=True):
            if "mu_product" in optimizer.state.get(p, {}):
                other.state[q]["mu_product"] = optimizer.state[p]["mu_product"].clone()
    assert_same_dict(other.state_dict(), saved)
    steps(table, range(3, 6), (others, other))
    assert_same_dict(saved, kept)
    steps(table, range(3, 6), (params, optimizer))
    assert_alike(table, (others, other), (params, optimizer))


def test_keys_are_torchs(case, table):
    """A state_dict is torch's down to the order of the keys, named parameters included."""
    for named in (False, True):
        dicts = []
        for make in (case.ours, case.torchs):
            params = table.parameters(torch.float32, SHAPES)
            optimizer = make([(f"p{number}", p) for number, p in enumerate(params)] if named else params)
            steps(table, range(2), (params, optimizer))
            dicts.append(optimizer.state_dict())
        got, expected = dicts
        assert list(got["state"]) == list(expected["state"])
        for number, state in expected["state"].items():
            assert list(got["state"][number]) == list(state)
        assert_same_dict(got["param_groups"], expected["param_groups"])


@ON_DEVICE
def test_through_a_file(case, table):
    params = table.parameters(shapes=SHAPES)
    optimizer = case.ours(params)
    steps(table, range(3), (params, optimizer))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    others = copied(params)
    for make in (case.ours, case.torchs_loop):
        file.seek(0)
        other = make(others)
        other.load_state_dict(torch.load(file, weights_only=True))
        assert_same_dict(other.state_dict(), optimizer.state_dict())


@ON_DEVICE
def test_older_checkpoints(case, table):
    """Without the options that came later, and with the number of steps as a number."""
    params = table.parameters(shapes=SHAPES)
    optimizer = case.torchs_loop(params)
    steps(table, range(3), (params, optimizer))
    whole = optimizer.state_dict()
    recent = {"nesterov", "maximize", "foreach", "differentiable", "fused", "capturable", "centered", "amsgrad"}
    recent |= {"decoupled_weight_decay"}
    defaults = getattr(optim, case.name)([nn.Parameter(torch.ones(1))]).defaults
    for key in recent & set(whole["param_groups"][0]):
        if whole["param_groups"][0][key] not in (None, False):
            continue
        old = copy.deepcopy(whole)
        del old["param_groups"][0][key]
        for state in old["state"].values():
            if "step" in state:
                state["step"] = state["step"].item()
        others, references = copied(params), copied(params)
        other, reference = case.ours(others), case.torchs_loop(references)
        other.load_state_dict(old)
        reference.load_state_dict(copy.deepcopy(whole))
        assert other.param_groups[0][key] == defaults[key]
        steps(table, range(3, 5), (others, other), (references, reference))
        assert_alike(table, (others, other), (references, reference))


@ON_DEVICE
def test_the_start_of_an_average_is_the_groups():
    """RMSprop's, which torch has not: of each group, of one that is added, and it survives a state_dict of torch's."""
    params = [nn.Parameter(torch.ones(3)) for _ in range(4)]
    groups = [{"params": params[:1]}, {"params": params[1:3], "initial_accumulator_value": 0.5}]
    optimizer = optim.RMSprop(groups, initial_accumulator_value=1.0)
    optimizer.add_param_group({"params": params[3:], "initial_accumulator_value": 4.0})
    theirs = torch.optim.RMSprop([{"params": group["params"]} for group in optimizer.param_groups])
    optimizer.load_state_dict(theirs.state_dict())
    for p in params:
        p.grad = torch.zeros(3)
    optimizer.step()
    starts = [optimizer.state[p]["square_avg"][0].item() / 0.99 for p in params]
    assert starts == pytest.approx([1.0, 0.5, 0.5, 4.0])
    assert "initial_accumulator_value" not in optim.RMSprop(params).param_groups[0]


def test_momentum_buffer_none(table):
    """As torch's SGD wrote it for parameters that had not had a gradient."""
    params, references = table.parameters(shapes=SHAPES), table.parameters(shapes=SHAPES)
    optimizer, reference = (
        optim.SGD(params, lr=0.02, momentum=0.9),
        torch.optim.SGD(references, lr=0.02, momentum=0.9, foreach=False),
    )
    saved = optimizer.state_dict() | {"state": {number: {"momentum_buffer": None} for number in range(len(SHAPES))}}
    optimizer.load_state_dict(saved)
    steps(table, range(3), (params, optimizer), (references, reference))
    assert_alike(table, (params, optimizer), (references, reference))


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda run: pickle.loads(pickle.dumps(run))}


@ON_DEVICE
@pytest.mark.parametrize("copy_of", COPIES.values(), ids=COPIES)
def test_copies_go_on_alike(case, copy_of, table):
    params = table.parameters(shapes=SHAPES)
    optimizer = case.ours(params)
    for first in (0, 3):  # before the first step, too
        others, other = copy_of((params, optimizer))
        assert type(other) is type(optimizer)
        assert all(p is q for p, q in zip(other.param_groups[0]["params"], others, strict=True))
        steps(table, range(first, first + 3), (params, optimizer), (others, other))
        assert_alike(table, (others, other), (params, optimizer), exact=True)


@ON_DEVICE
def test_loading_into_itself_changes_nothing(case, table):
    runs = [(params, case.ours(params)) for params in (table.parameters(shapes=SHAPES) for _ in range(2))]
    steps(table, range(3), *runs)
    runs[0][1].load_state_dict(runs[0][1].state_dict())
    steps(table, range(3, 6), *runs)
    assert_alike(table, *runs, exact=True)


def test_another_engine_goes_on(case, compiling, table):
    """A group that asks for another engine at every step gets it, with the state that the one before left."""
    params, references = table.parameters(shapes=SHAPES), table.parameters(shapes=SHAPES)
    optimizer, reference = case.ours(params, fused=None), case.ours(references, **LOOP)
    asked = {compiling.name: dict(foreach=None, fused=True), "foreach": dict(foreach=True, fused=None), "loop": LOOP}
    for number, (engine, flags) in enumerate(asked.items()):
        optimizer.param_groups[0].update(flags)
        steps(table, [number], (params, optimizer), (references, reference))
        assert optimizer.engine == engine
    assert_alike(table, (params, optimizer), (references, reference))


@pytest.mark.needs_compiler
def test_state_loaded_by_another_engine(case, table):
    """The saved group says which engine, as with torch."""
    params, others = table.parameters(shapes=SHAPES), table.parameters(shapes=SHAPES)
    optimizer, other = case.ours(params, foreach=True), case.ours(others, **LOOP)
    steps(table, range(2), (params, optimizer), (others, other))
    assert (optimizer.engine, other.engine) == ("foreach", "loop")
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(table, range(2, 3), (params, optimizer), (others, other))
    assert other.engine == "foreach"


# --------------------------------------------------------------------------------------------------------------- groups

# Settings of a second group, beside those of the row.
GROUPS = {
    "SGD": [dict(lr=0.03), dict(momentum=0.5), dict(maximize=True), dict(weight_decay=0.2, momentum=0.75)],
    "Adam": [dict(lr=0.03), dict(betas=(0.25, 0.5)), dict(amsgrad=True), dict(weight_decay=0.2, eps=0.25)],
    "Adagrad": [dict(lr=0.03), dict(lr_decay=0.5), dict(maximize=True), dict(weight_decay=0.2, eps=0.25)],
    "Adadelta": [dict(lr=0.5), dict(rho=0.5), dict(maximize=True), dict(weight_decay=0.2, eps=0.25)],
    "AdamW": [dict(lr=0.03), dict(betas=(0.25, 0.5)), dict(amsgrad=True), dict(weight_decay=0.2, eps=0.25)],
    "NAdam": [dict(lr=0.03), dict(betas=(0.25, 0.5)), dict(momentum_decay=0.5), dict(decoupled_weight_decay=True)],
    "RMSprop": [dict(lr=0.01), dict(momentum=0.5), dict(centered=True), dict(weight_decay=0.2, alpha=0.5)],
}
EACH_GROUP = pytest.mark.parametrize(
    ("which", "settings"), [(which, row) for which, rows in GROUPS.items() for row in rows], ids=str
)


def base(table, which):
    return table.Case(which, dict(lr=table.cases[which][0]["lr"]))


@EACH_GROUP
def test_groups_of_different_settings(which, settings, asked, table):
    def run(make, **more):
        params = table.parameters(shapes=SHAPES * 2)
        groups = [{"params": params[:4]}, {"params": params[4:6], **settings}, {"params": params[6:]}]
        return params, make(groups, **more)

    case = base(table, which)
    runs = run(case.ours, **asked), run(case.torchs_loop)
    steps(table, range(3), *runs)
    assert_alike(table, *runs)


@EACH_GROUP
def test_a_group_added_in_the_middle(which, settings, asked, table):
    case = base(table, which)
    runs = []
    for make, more in ((case.ours, asked), (case.torchs_loop, {})):
        params = table.parameters(shapes=SHAPES * 2)
        runs.append((params, make(params[:4], **more)))
    steps(table, range(2), *runs)
    for params, optimizer in runs:
        optimizer.add_param_group({"params": params[4:], **settings})
    steps(table, range(2, 3), *runs)
    got, expected = (optimizer for _, optimizer in runs)
    assert [len(group["params"]) for group in got.param_groups] == [4, 4]
    keys = list(expected.param_groups[1])
    assert [key for key in got.param_groups[1] if key in keys] == keys
    assert_alike(table, *runs)


EDITS = {
    "SGD": [dict(lr=0.04), dict(momentum=0.5), dict(weight_decay=0.2), dict(weight_decay=0), dict(maximize=True)],
    "Adam": [dict(lr=0.04), dict(betas=(0.25, 0.5)), dict(weight_decay=0.2), dict(eps=0.25), dict(maximize=True)],
    "Adagrad": [dict(lr=0.04), dict(lr_decay=0.5), dict(weight_decay=0.2), dict(eps=0.25), dict(maximize=True)],
    "Adadelta": [dict(lr=0.5), dict(rho=0.5), dict(weight_decay=0.2), dict(eps=0.25), dict(maximize=True)],
    "AdamW": [dict(lr=0.04), dict(betas=(0.25, 0.5)), dict(weight_decay=0.2), dict(eps=0.25)],
    "NAdam": [dict(lr=0.04), dict(betas=(0.25, 0.5)), dict(weight_decay=0.2), dict(momentum_decay=0.5)],
    "RMSprop": [dict(lr=0.04), dict(alpha=0.5), dict(weight_decay=0.2), dict(eps=0.25), dict(momentum=0.5)],
}


@pytest.mark.parametrize(("which", "edit"), [(which, row) for which, rows in EDITS.items() for row in rows], ids=str)
def test_a_group_edited_in_the_middle(which, edit, asked, table):
    case = base(table, which)
    if "momentum" in edit:
        case.kwargs["momentum"] = 0.9
    runs = []
    for make, more in ((case.ours, asked), (case.torchs_loop, {})):
        params = table.parameters(shapes=SHAPES)
        runs.append((params, make(params, **more)))
    steps(table, range(2), *runs)
    for _, optimizer in runs:
        optimizer.param_groups[0].update(edit)
    steps(table, range(2, 3), *runs)
    assert_alike(table, *runs)


def test_parameters_of_a_group_replaced(name, asked, table):
    """As when layers are swapped: state stays with the parameters that stay."""
    case = base(table, name)
    runs = []
    for make, more in ((case.ours, asked), (case.torchs_loop, {})):
        params = table.parameters(shapes=SHAPES)
        runs.append((params, make(params, **more)))
    steps(table, range(2), *runs)
    for params, optimizer in runs:
        params[2] = nn.Parameter(torch.ones(9))
        optimizer.param_groups[0]["params"][2] = params[2]
    steps(table, range(2, 3), *runs)
    assert_alike(table, *runs)
