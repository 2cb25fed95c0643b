"""What leaves an optimizer: state in shared memory, copies with their hooks, checkpoints that fit and some that do not.

As a script: Hogwild training, processes that step on shared parameters and state.
"""

import copy
import itertools
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

import torch_lecture_ops
from torch_lecture_ops import optim

SHAPES = [(), (3,), (70,), (4, 5)]
CLASSES = {
    "SGD": dict(lr=0.02, momentum=0.9),
    "Nesterov": dict(lr=0.02),
    "Adagrad": dict(lr=0.05),
    "RMSprop": dict(lr=0.005, momentum=0.9, centered=True),
    "Adadelta": dict(lr=1.0),
    "Adam": dict(lr=0.02, amsgrad=True),
    "AdamW": dict(lr=0.02, amsgrad=True),
    "NAdam": dict(lr=0.02),
}
EACH_CLASS = pytest.mark.parametrize("which", CLASSES)


def make(which, params, where=optim, **flags):
    return getattr(where, which)(params, **CLASSES[which] | flags)


def parameters(shapes=SHAPES):
    return [nn.Parameter(torch.linspace(1, 2, 1 + sum(shape)).sum() * torch.ones(shape)) for shape in shapes]


def step(optimizer, number):
    """With the gradients of this step, which are the same for every optimizer, and others for each parameter."""

    def closure():
        for group in optimizer.param_groups:
            for k, p in enumerate(group["params"]):
                p.grad = torch.linspace(0.5 + number, 1 + k, p.numel()).reshape(p.shape)

    optimizer.step(closure)


def run(which, steps=2, where=optim, shapes=SHAPES, **flags):
    params = parameters(shapes)
    optimizer = make(which, params, where, **flags)
    for number in range(steps):
        step(optimizer, number)
    return params, optimizer


def snapshot(params, optimizer):
    """All that there is, with copies of all tensors, and the tensors of the state themselves."""
    values = copy.deepcopy((optimizer.state_dict(), [p.detach() for p in params]))
    return values, [(key, value) for state in optimizer.state.values() for key, value in state.items()]


def assert_same(got, expected):
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        for key in expected:
            assert_same(got[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            assert_same(a, b)
    elif isinstance(expected, torch.Tensor):
        assert (got.dtype, got.stride()) == (expected.dtype, expected.stride())
        assert torch.equal(got, expected)
    else:
        assert got == expected


def assert_goes_on_alike(got, expected):
    for number in range(2, 4):
        for _, optimizer in (got, expected):
            step(optimizer, number)
        assert_same(snapshot(*got)[0], snapshot(*expected)[0])


# -------------------------------------------------------------------------------------------------------- shared memory


START = dict.fromkeys(CLASSES, 1) | {"Adagrad": 0}  # the others have no state before their first step
STEPS = {"fork": 3, "spawn": 1}
HOGWILD = [("SGD", "fork"), ("Adagrad", "fork"), ("NAdam", "fork"), ("Adagrad", "spawn")]


@EACH_CLASS
def test_share_memory(which, asked):
    """All of the state lies in shared memory, and the run goes on as if nothing had happened."""
    (params, optimizer), expected = (run(which, START[which], **asked) for _ in range(2))
    optimizer.share_memory()
    state = [value for entries in optimizer.state.values() for value in entries.values()]
    assert len(state) >= len(SHAPES)
    assert all(value.is_shared() for value in state)
    assert_goes_on_alike((params, optimizer), expected)
    assert all(value.is_shared() for entries in optimizer.state.values() for value in entries.values())


def hogwild(which, method):
    """Processes that make a step each, one after the other so that the sum is known; what their parent sees."""
    params, optimizer = run(which, steps=START[which])
    for p in params:
        p.share_memory_()
    optimizer.share_memory()
    for number in range(START[which], START[which] + STEPS[method]):
        process = torch.multiprocessing.get_context(method).Process(target=step, args=(optimizer, number))
        process.start()
        process.join()
        assert process.exitcode == 0, process.exitcode
    return params, optimizer


@pytest.fixture(name="seen", scope="module")
def _seen():
    """(class, how processes start) -> whether the parent sees the steps of its children."""
    environment = os.environ | {"PYTHONPATH": str(Path(torch_lecture_ops.__file__).parents[1])}
    command = [sys.executable, __file__]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return {tuple(key): value for key, value in json.loads(answer.stdout)}


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize(("which", "method"), HOGWILD)
def test_steps_of_other_processes(which, method, seen):
    assert seen[which, method] == "seen"


def main():
    answers = []
    for which, method in HOGWILD:
        shared, alone = hogwild(which, method), run(which, steps=START[which] + STEPS[method])
        try:
            assert_same(snapshot(*shared)[0], snapshot(*alone)[0])
        except AssertionError as error:
            answers.append([(which, method), repr(error)])
        else:
            answers.append([(which, method), "seen"])
    print(json.dumps(answers))


# ---------------------------------------------------------------------------------------------------------------- hooks

KINDS = ["step_pre", "step_post", "state_dict_pre", "state_dict_post", "load_state_dict_pre", "load_state_dict_post"]
COPIES = {"deepcopy": copy.deepcopy, "copy": copy.copy, "pickle": lambda it: pickle.loads(pickle.dumps(it))}
EACH_COPY = pytest.mark.parametrize("copy_of", COPIES.values(), ids=COPIES)

EVENTS = []


class Hook:
    """Notes that it was called, on what and with what. (Of a module, so that it can be pickled.)"""

    def __init__(self, label, result=None):
        self.label, self.result = label, result

    def __call__(self, optimizer, *arguments):
        what = [sorted(a, key=str) if isinstance(a, dict) else type(a).__name__ for a in arguments]
        EVENTS.append((self.label, type(optimizer).__name__, what))
        return self.result(optimizer, *arguments) if self.result else None


def register(optimizer, kind, label, result=None, **more):
    return getattr(optimizer, f"register_{kind}_hook")(Hook(label, result), **more)


def use(optimizer):
    """Everything that calls hooks; the labels of those called, in order."""
    EVENTS.clear()
    step(optimizer, 2)
    optimizer.load_state_dict(optimizer.state_dict())
    return [label for label, *_ in EVENTS]


@EACH_CLASS
@EACH_COPY
def test_copies_keep_their_hooks(which, copy_of):
    """All six kinds, in their order. (torch: none.)"""
    _, optimizer = run(which)
    for kind in KINDS:
        for number in range(2):
            register(optimizer, kind, f"{kind} {number}")
    expected = [f"{kind} {number}" for kind in KINDS for number in range(2)]
    assert use(optimizer) == expected
    assert use(copy_of(optimizer)) == expected
    assert use(copy_of(copy_of(optimizer))) == expected


def test_a_hook_that_cannot_be_pickled():
    """Is dropped with a warning, the others are not; a deepcopy takes it along."""
    _, optimizer = run("Adam")
    seen = []
    for kind in KINDS:
        register(optimizer, kind, f"{kind} before")
        getattr(optimizer, f"register_{kind}_hook")(lambda *_: seen.append("called"))
        register(optimizer, kind, f"{kind} after")
    with pytest.warns(UserWarning, match=r"^Adam: the hook <function .*lambda.* is not in the pickle") as warned:
        other = pickle.loads(pickle.dumps(optimizer))
    assert len(warned) == len(KINDS)
    assert use(other) == [f"{kind} {when}" for kind in KINDS for when in ("before", "after")]
    assert not seen
    use(copy.deepcopy(optimizer))
    assert seen == len(KINDS) * ["called"]


class Wrapper:
    """Keeps an optimizer, whose hook is a method of it."""

    def __init__(self, optimizer):
        self.optimizer, self.calls = optimizer, 0
        optimizer.register_step_post_hook(self.count)

    def count(self, *_):
        self.calls += 1


@EACH_COPY
def test_a_hook_of_who_holds_the_optimizer(copy_of):
    """The copies hold each other as the originals do."""
    _, optimizer = run("Adam")
    wrapper = Wrapper(optimizer)
    other = copy_of(wrapper)
    step(other.optimizer, 2)
    assert (wrapper.calls, other.calls) == ((1, 0) if copy_of is copy.copy else (0, 1))


@EACH_COPY
def test_hooks_of_copies_are_their_own(copy_of, asked):
    """Removing or adding one on either side leaves the other side as it is."""
    _, optimizer = run("Adam", **asked)
    handles = {kind: register(optimizer, kind, kind) for kind in KINDS}
    other = copy_of(optimizer)
    for kind in KINDS[::2]:
        handles[kind].remove()
    assert use(other) == KINDS
    assert use(optimizer) == KINDS[1::2]
    added = {kind: register(other, kind, f"added {kind}") for kind in KINDS}
    assert use(optimizer) == KINDS[1::2]
    assert use(other) == [label for kind in KINDS for label in (kind, f"added {kind}")]
    for handle in added.values():
        handle.remove()
    assert use(other) == KINDS
    register(optimizer, KINDS[0], "late")
    assert use(other) == KINDS


def test_hooks_of_an_optimizer_from_another_process(monkeypatch):
    """Their numbers come along, and are not given to new hooks once more."""
    _, optimizer = run("Adam")
    for kind in KINDS:
        register(optimizer, kind, kind)
    pickled = pickle.dumps(optimizer)
    monkeypatch.setattr(RemovableHandle, "next_id", min(optimizer._optimizer_step_pre_hooks))  # a new process's count
    other = pickle.loads(pickled)
    for kind in KINDS * 6:
        register(other, kind, f"added {kind}")
    assert use(other) == [label for kind in KINDS for label in [kind] + 6 * [f"added {kind}"]]


@pytest.mark.parametrize("replaces", [False, True], ids=["in place", "replaced"])
@pytest.mark.parametrize("prepend", [False, True], ids=["in order", "prepended"])
def test_hooks_of_checkpoints_are_called_as_torchs(name, replaces, prepend):
    """In torch's order, with torch's arguments; what they return goes to the next one, or to the caller."""

    def edited(optimizer, saved):
        """The next hook sees one more entry, either in what it is given or in a dict that takes its place."""
        after = dict(saved) if replaces else saved
        after[f"edit {len(after)}"] = True
        return after if replaces else None

    seen = []
    for where in (optim, torch.optim):
        _, optimizer = run(name, where=where)
        for kind in KINDS[2:]:
            for number in range(2):
                result = edited if kind in ("state_dict_post", "load_state_dict_pre") else None
                register(optimizer, kind, f"{kind} {number}", result, prepend=prepend)
        EVENTS.clear()
        saved = optimizer.state_dict()
        keys = list(saved)
        optimizer.load_state_dict(saved)
        assert list(saved) == keys  # a pre-hook edits a copy
        seen.append((keys, list(EVENTS), list(optimizer.state_dict())))
    assert seen[0] == seen[1]
    order = [1, 0] if prepend else [0, 1]
    assert [label for label, *_ in seen[0][1]][:4] == [f"{kind} {n}" for kind in KINDS[2:4] for n in order]


def test_hooks_see_what_is_loaded(name):
    """A pre-hook the state before, and its dict counts; a post-hook the state after."""
    for where in (optim, torch.optim):
        params, optimizer = run(name, where=where)
        _, other = run(name, steps=3, where=where)
        key = next(key for key, value in optimizer.state[params[1]].items() if value.dim())
        saved, events = copy.deepcopy(other.state_dict()), []

        def before(o, given, events=events, params=params, key=key):
            events.append(o.state[params[1]][key].clone())
            given["param_groups"] = [group | {"lr": 0.125} for group in given["param_groups"]]
            given["state"] = {n: {**state, key: torch.full_like(state[key], 7)} for n, state in given["state"].items()}

        def after(o, events=events, params=params, key=key):
            events.append(o.state[params[1]][key].clone())
            o.param_groups[0]["lr"] *= 2

        expected = optimizer.state[params[1]][key].clone()
        optimizer.register_load_state_dict_pre_hook(before)
        optimizer.register_load_state_dict_post_hook(after)
        optimizer.load_state_dict(saved)
        assert torch.equal(events[0], expected)
        assert torch.equal(events[1], torch.full((3,), 7.0))
        assert optimizer.param_groups[0]["lr"] == 0.25
        assert_same(saved, other.state_dict())


# ------------------------------------------------------------------------------------------------- what belongs to whom


def test_loaded_tensors_are_taken(name):
    """As in torch: those of the right dtype and device as they are, the others cast."""
    for where in (optim, torch.optim):
        (params, optimizer), saved = run(name, where=where), run(name, where=where)[1].state_dict()
        doubled = copy.deepcopy(saved)
        for state in doubled["state"].values():
            state.update({key: value.double() for key, value in state.items() if key != "step"})
        optimizer.load_state_dict(saved)
        for number, p in enumerate(params):
            assert all(value is saved["state"][number][key] for key, value in optimizer.state[p].items())
        optimizer.load_state_dict(doubled)
        for number, p in enumerate(params):
            for key, value in optimizer.state[p].items():
                if value.dim():
                    assert_same(value, saved["state"][number][key])


def named_run(which, names, steps=2, where=optim):
    """Parameters by name; each has gradients, and by them a state, of its own."""
    params = {name: nn.Parameter(torch.ones(3)) for name in names}
    optimizer = make(which, list(params.items()), where)
    for number in range(steps):
        named_step(params, optimizer, number)
    return params, optimizer


def named_step(params, optimizer, number):
    def closure():
        for name, p in params.items():
            p.grad = torch.full((3,), 1.0 + number + sum(map(ord, name)) % 7)

    optimizer.step(closure)


NAMES = ["encoder.weight", "encoder.bias", "decoder.weight"]


@EACH_CLASS
def test_state_goes_by_name(which):
    """torch goes by order, names or not: parameters of one shape get each other's state."""
    for order in itertools.permutations(NAMES):
        params, optimizer = named_run(which, NAMES)
        others, other = named_run(which, order, steps=0)
        for name, p in params.items():
            others[name].data.copy_(p.data)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        assert other.param_groups[0]["param_names"] == list(order)
        for number in range(2, 4):
            named_step(params, optimizer, number)
            named_step(others, other, number)
        for name in NAMES:
            assert torch.equal(params[name], others[name])
            assert_same(other.state[others[name]], optimizer.state[params[name]])


def test_other_names(name):
    """Both sides are told."""
    params, optimizer = named_run(name, ["encoder.weight", "head.weight", "head.bias"])
    before = snapshot(list(params.values()), optimizer)
    _, other = named_run(name, ["encoder.weight", "tail.weight", "tail.bias"])
    expected = (
        f"{name}: the state_dict has parameters of other names: tail.bias, tail.weight in place of head.bias, "
        "head.weight; rename them in a load_state_dict pre-hook, or make the optimizer without names"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        optimizer.load_state_dict(other.state_dict())
    assert_unchanged((list(params.values()), optimizer), before)

    def rename(optimizer, saved):
        groups = [
            group | {"param_names": [n.replace("tail", "head") for n in group["param_names"]]}
            for group in saved["param_groups"]
        ]
        return saved | {"param_groups": groups}

    optimizer.register_load_state_dict_pre_hook(rename)
    optimizer.load_state_dict(other.state_dict())
    assert optimizer.param_groups[0]["param_names"] == list(params)


@pytest.mark.parametrize("names", [(NAMES, None), (None, NAMES)], ids=["saved named", "loading named"])
def test_one_side_without_names(name, names):
    """By order, as torch; and as in torch the names that there are stay."""
    got = []
    for where in (optim, torch.optim):
        sides = []
        for side in names:
            params, optimizer = named_run(name, NAMES, where=where)
            if side is None:
                values = list(params.values())
                optimizer = make(name, values, where)
                for number in range(2):
                    named_step(params, optimizer, number)
            sides.append((params, optimizer))
        (_, saved), (_, loading) = sides
        loading.load_state_dict(copy.deepcopy(saved.state_dict()))
        assert_same(list(loading.state.values()), list(saved.state.values()))
        got.append(loading.param_groups[0].get("param_names"))
    assert got == [NAMES, NAMES]


# Group settings -> the rule, as p loses so much of itself by the weight decay in a step without a gradient.
DECAYS = {
    ("Adam", None): 0.0,
    ("AdamW", None): 0.05,
    ("AdamW", False): 0.0,
    ("Adam", True): 0.05,
    ("NAdam", True): 0.05,
    ("NAdam", None): 0.0,
}


@pytest.mark.parametrize("where", [optim, torch.optim], ids=["ours", "torchs"])
@pytest.mark.parametrize("saved", [None, False, True])
@pytest.mark.parametrize(("which", "own"), DECAYS)
def test_a_load_does_not_make_another_rule(which, own, saved, where):
    """The optimizer's own decoupled_weight_decay wins, whatever the state_dict says or does not say."""
    p = nn.Parameter(torch.ones(1))
    flags = {} if own is None else {"decoupled_weight_decay": own}
    optimizer = getattr(optim, which)([p], lr=0.1, weight_decay=0.25, eps=1e30, **flags)  # the gradient does not count
    other = getattr(where, "NAdam" if which == "NAdam" else "Adam")([p], lr=0.1, weight_decay=0.5, eps=1e30)
    group = other.param_groups[0]
    group["decoupled_weight_decay"] = saved
    if saved is None:
        del group["decoupled_weight_decay"]
    has_key = "decoupled_weight_decay" in optimizer.param_groups[0]
    optimizer.load_state_dict(other.state_dict())
    assert optimizer.param_groups[0]["weight_decay"] == 0.5
    assert ("decoupled_weight_decay" in optimizer.param_groups[0]) == has_key
    p.grad = torch.zeros(1)
    optimizer.step()
    assert p.item() == pytest.approx(1 - DECAYS[which, own], abs=1e-6)


# --------------------------------------------------------------------------------------- what others keep in the state

FOREIGN = {
    "my_average": torch.tensor([0.5, 0.25], dtype=torch.float64),
    "counts": torch.tensor([1, 2, 3]),
    "word": "of a wrapper",
    "nothing": None,
    "nested": {"tensors": [torch.ones(2), (torch.zeros(()), "word")], "flag": True},
    7: 0.5,
}


@EACH_CLASS
@pytest.mark.parametrize("copy_of", [*COPIES.values(), None], ids=[*COPIES, "state_dict"])
@pytest.mark.parametrize("steps", [0, 2], ids=["before the first step", "later"])
def test_what_others_keep_stays(which, copy_of, steps):
    """As it was, and the optimizer goes on as without it."""
    (params, optimizer), expected = run(which, steps), run(which, steps)
    for p in params:
        optimizer.state[p] |= copy.deepcopy(FOREIGN)
    optimizer.state["of no parameter"] = {"word": "kept"}
    saved = optimizer.state_dict()
    if copy_of is None:
        params, optimizer = run(which, 0)
        for p, q in zip(params, expected[0], strict=True):
            p.data.copy_(q.data)
        optimizer.load_state_dict(copy.deepcopy(saved))
    else:
        params, optimizer = copy_of((params, optimizer)) if copy_of is not copy.copy else (params, copy_of(optimizer))
    optimizer.share_memory()
    for number in range(2, 4):
        step(optimizer, number)
        step(expected[1], number)
    assert optimizer.state["of no parameter"] == {"word": "kept"}
    for p, q in zip(params, expected[0], strict=True):
        assert torch.equal(p, q)
        assert_same({key: optimizer.state[p][key] for key in FOREIGN}, FOREIGN)
        assert_same({key: optimizer.state[p][key] for key in expected[1].state[q]}, expected[1].state[q])


def test_an_entry_of_the_name_that_another_class_has():
    """Is an entry of others as long as the groups are not that class's."""
    _, optimizer = run("Adam")
    for state in optimizer.state.values():
        state["mu_product"] = torch.ones(2)
    optimizer.load_state_dict(optimizer.state_dict())
    assert all(torch.equal(state["mu_product"], torch.ones(2)) for state in optimizer.state.values())


# ---------------------------------------------------------------------------------------------------- what does not fit


def assert_unchanged(run, before):
    """To the bit, and the very same tensors; what comes next is what would have come."""
    (values, tensors), (now, now_tensors) = before, snapshot(*run)
    assert_same(now, values)
    assert [key for key, _ in now_tensors] == [key for key, _ in tensors]
    assert all(a is b for (_, a), (_, b) in zip(now_tensors, tensors, strict=True))


def assert_refused(run, saved, says=""):
    twin, before = copy.deepcopy(run), snapshot(*run)
    with pytest.raises(ValueError, match=says):
        run[1].load_state_dict(saved)
    assert_unchanged(run, before)
    assert_goes_on_alike(run, twin)


RELATED = {("Adam", "AdamW"), ("AdamW", "Adam")}  # decoupled_weight_decay, which each keeps, is the difference


@pytest.mark.parametrize(("which", "saved"), list(itertools.permutations(CLASSES, 2)))
def test_state_of_another_optimizer(which, saved):
    params, optimizer = run(which)
    theirs = run(saved)
    if (which, saved) in RELATED:
        optimizer.load_state_dict(copy.deepcopy(theirs[1].state_dict()))
        for p, q in zip(params, theirs[0], strict=True):
            p.data.copy_(q.data)
        theirs[1].param_groups[0]["decoupled_weight_decay"] = which == "AdamW"
        assert_goes_on_alike((params, optimizer), theirs)
    else:
        assert_refused((params, optimizer), theirs[1].state_dict(), rf"^{which}: .* of another optimizer: ")


def state_entry(saved):
    """The first entry of the second parameter's state that is an array."""
    return next((saved["state"][1], key) for key, value in saved["state"][1].items() if value.dim())


def other_shape(saved):
    state, key = state_entry(saved)
    state[key] = torch.ones(4)


def same_size_in_another_shape(saved):
    saved["state"][3] = {key: v.reshape(5, 4) if v.dim() else v for key, v in saved["state"][3].items()}


def a_number_for_an_array(saved):
    state, key = state_entry(saved)
    state[key] = 1.0


def a_text_for_a_number(saved):
    saved["state"][1]["step"] = "two"


def one_element_for_all(saved):
    state, key = state_entry(saved)
    state[key] = torch.ones(())


def an_entry_less(saved):
    state, key = state_entry(saved)
    del state[key]


def another_group(saved):
    saved["param_groups"].append(saved["param_groups"][0] | {"params": []})


def no_group(saved):
    saved["param_groups"].clear()


def a_parameter_less(saved):
    saved["param_groups"][0]["params"].pop()


def a_parameter_more(saved):
    saved["param_groups"][0]["params"].append(4)


def no_lr(saved):
    del saved["param_groups"][0]["lr"]


def another_form(saved):
    saved["param_groups"][0]["form"] = "larson"


def a_negative_lr(saved):
    saved["param_groups"][0]["lr"] = -0.5


def a_negative_weight_decay(saved):
    saved["param_groups"][0]["weight_decay"] = -0.5


DAMAGES = [
    (other_shape, r"parameter 1: \w+ must have shape \(3,\), got \(4,\)$"),
    (same_size_in_another_shape, r"parameter 3: \w+ must have shape \(4, 5\), got \(5, 4\)$"),
    (a_number_for_an_array, r"parameter 1: \w+ must be a tensor of shape \(3,\), got 1\.0$"),
    (a_text_for_a_number, r"parameter 1: step must be a tensor of shape \(\), got 'two'$"),
    (one_element_for_all, r"parameter 1: \w+ must have shape \(3,\), got \(\)$"),
    (an_entry_less, r"parameter 1 has the state of another optimizer"),
    (another_group, r"^loaded state dict has a different number of parameter groups$"),
    (no_group, r"^loaded state dict has a different number of parameter groups$"),
    (a_parameter_less, r"^loaded state dict contains a parameter group that doesn't match the size of"),
    (a_parameter_more, r"^loaded state dict contains a parameter group that doesn't match the size of"),
    (no_lr, r"have no lr"),
    (another_form, r"^\w+: the state_dict has form='larson', the optimizer form='torch'; make both alike$"),
    (a_negative_lr, r"^Invalid learning rate: -0\.5$"),
    (a_negative_weight_decay, r"^Invalid weight_decay value: -0\.5$"),
]


@EACH_CLASS
@pytest.mark.parametrize(("damage", "says"), DAMAGES, ids=lambda it: getattr(it, "__name__", ""))
def test_damaged_checkpoints(which, damage, says):
    saved = copy.deepcopy(run(which)[1].state_dict())
    if damage is an_entry_less and len(saved["state"][1]) == 1:
        pytest.skip("its only entry: a parameter without state has not had a gradient")
    if damage is a_text_for_a_number and "step" not in saved["state"][1]:
        pytest.skip("no number of steps")
    damage(saved)
    kept = copy.deepcopy(saved)
    assert_refused(run(which), saved, says)
    assert_same(saved, kept)


if __name__ == "__main__":
    main()
