"""Sparse gradients: dense ones, written briefly, for SGD; for the others the rows that the rule is applied to."""

import copy
from contextlib import nullcontext
from itertools import product

import pytest
import torch
from torch import nn

from torch_lecture_ops import optim

ON_DEVICE = pytest.mark.usefixtures("device")

SHAPES = [(7,), (5, 3), (4, 2, 3)]
LOOP = dict(foreach=False, fused=False)

# Keyword arguments of the optimizers that go by rows, and of those that make a gradient dense.
ROWS = {
    "Adagrad": [dict(lr=0.05), dict(lr=0.05, form="memoryless"), dict(lr=0.05, form="larson", gamma=0.5)],
    "RMSprop": [dict(lr=0.005), dict(lr=0.005, momentum=0.9, centered=True, maximize=True)],
    "Adadelta": [dict(lr=8.0), dict(lr=0.005, form="larson")],
    "Adam": [dict(lr=0.02, amsgrad=True), dict(lr=0.02, weight_decay=0.1, decoupled_weight_decay=True)],
    "AdamW": [dict(lr=0.02), dict(lr=0.02, form="larson", maximize=True)],
    "NAdam": [dict(lr=0.02), dict(lr=0.02, weight_decay=0.1, decoupled_weight_decay=True, form="simple")],
    "SGD": [dict(lr=0.02), dict(lr=0.02, maximize=True)],
}
DENSE = {
    "SGD": [
        dict(lr=0.02, momentum=0.9),
        dict(lr=0.02, momentum=0.9, dampening=0.5),
        dict(lr=0.02, momentum=0.9, nesterov=True, maximize=True),
        dict(lr=0.02, momentum=0.9, weight_decay=0.1),
        dict(lr=0.02, weight_decay=0.1),
        dict(lr=0.02, weight_decay=0.1, decoupled_weight_decay=True),
        dict(lr=0.02, momentum=0.9, form="cs231n"),
    ],
    "Nesterov": [dict(lr=0.02), dict(lr=0.02, momentum=0.5, weight_decay=0.1)],
}
# Ways to ask for an engine that rows can be had with.
ASKED = {"default": {}, "foreach": dict(foreach=True), "loop": LOOP}


def rows_of(table):
    return [(which, row) for which, rows in table.items() for row in rows]


def named(value):
    return ",".join([value[0], *(f"{key}={v}" for key, v in value[1].items())])


EACH_BY_ROWS = pytest.mark.parametrize("which_kwargs", rows_of(ROWS), ids=named)
EACH_DENSE = pytest.mark.parametrize("which_kwargs", rows_of(DENSE), ids=named)
EACH_ASKED = pytest.mark.parametrize("flags", ASKED.values(), ids=ASKED)


@pytest.fixture(autouse=True)
def checked_invariants():
    """torch checks every sparse tensor that is made, and does not warn that it does not."""
    with torch.sparse.check_sparse_tensor_invariants():
        yield


# What a gradient may be -> places of a tensor of this shape, as columns of indices; they wander from step to step.
PLACES = {
    "rows": lambda shape, step: [[0, 2, 3]],
    "rows named twice": lambda shape, step: [[3, 0, 3, 1, 0]],
    "elements": lambda shape, step: [[0, 1, 3, 3], [1, 0, 0, 1]],
    "elements named twice": lambda shape, step: [[3, 0, 3], [1, 1, 1]],
    "nothing": lambda shape, step: [[]],
    "nothing at times": lambda shape, step: [[1, 3]] if step % 2 else [[]],
    "everything": lambda shape, step: [list(range(shape[0]))],
}
EACH_PLACE = pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)


def sparse_gradient(table, p, places, step, seed=0):
    """Of magnitude 1/2 to 2, at these places, shifted by the step."""
    indices = torch.tensor(places(p.shape, step), dtype=torch.long)[: p.dim()]
    indices = (indices + step) % torch.tensor(p.shape[: len(indices)]).unsqueeze(1)
    values = table.values((indices.shape[1], *p.shape[len(indices) :]), 0.5, 2, p.dtype, 1000 * (step + 1) + seed)
    return torch.sparse_coo_tensor(indices, values, p.shape)


def parameters(table, dtype=torch.float32):
    return table.parameters(dtype, SHAPES)


def make(which_kwargs, params, **more):
    which, kwargs = which_kwargs
    return getattr(optim, which)(params, **copy.deepcopy(kwargs) | more)


def step(optimizer):
    with getattr(optimizer, "lookahead", nullcontext)():  # Nesterov asks for it
        pass
    optimizer.step()


def snapshot(params, optimizer):
    """Parameters and state, copied."""
    return [
        {"param": p.detach().clone()} | {key: value.clone() for key, value in optimizer.state.get(p, {}).items()}
        for p in params
    ]


def after_a_step(which_kwargs, entries, g, flags):
    """What a step leads to: by a sparse gradient on the rows alone, as dense parameters of their own."""
    p = entries["param"]
    place = ...
    if g.layout != torch.strided:
        g = g.coalesce()
        place, g = tuple(g.indices()), g.values()
    alone = nn.Parameter(p[place].clone())
    alone.grad = g.clone()
    optimizer = make(which_kwargs, [alone], **flags)
    state = {key: value for key, value in entries.items() if key != "param"}
    if state:
        optimizer.state[alone] = {
            key: value[place].clone() if value.shape == p.shape else value.clone() for key, value in state.items()
        }
    step(optimizer)
    whole = {}
    for key, value in snapshot([alone], optimizer)[0].items():
        whole[key] = value
        if key in ("param", *state) and value.shape == alone.shape:
            whole[key] = entries[key].clone()
            whole[key][place] = value
        elif value.shape == alone.shape:  # made in this step
            whole[key] = torch.zeros_like(p)
            whole[key][place] = value
    return whole


def assert_entries(params, optimizer, expected):
    for got, right in zip(snapshot(params, optimizer), expected, strict=True):
        assert list(got) == list(right)
        for key, value in right.items():
            assert got[key].dtype == value.dtype
            assert got[key].stride() == value.stride()
            assert torch.equal(got[key], value), key


# ---------------------------------------------------------------------------------------------------------- row by row


@pytest.mark.sweep
@ON_DEVICE
@EACH_ASKED
@EACH_PLACE
@EACH_BY_ROWS
def test_the_rule_is_applied_to_the_rows(which_kwargs, places, flags, table):
    """To the bit: what they name does as it would alone, the rest stays as it is, buffers and decay included."""
    params = parameters(table)
    optimizer = make(which_kwargs, params, **flags)
    for number in range(4):
        before = snapshot(params, optimizer)
        for seed, p in enumerate(params):
            p.grad = sparse_gradient(table, p, places, number, seed)
        engine, asked = ("foreach", flags) if flags.get("foreach") else ("loop", LOOP)
        expected = [after_a_step(which_kwargs, row, p.grad, asked) for row, p in zip(before, params, strict=True)]
        step(optimizer)
        assert_entries(params, optimizer, expected)
        assert optimizer.engine == engine
        for row, p in zip(before, params, strict=True):  # once more, so that nobody need believe the line above
            rest = torch.ones(p.shape, dtype=torch.bool)
            rest[tuple(p.grad.coalesce().indices())] = False
            for key, value in {"param": p.detach(), **optimizer.state[p]}.items():
                if key in row and value.shape == p.shape:
                    assert torch.equal(value[rest], row[key][rest]), key


@ON_DEVICE
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64, torch.bfloat16, torch.float16], ids=str)
@EACH_BY_ROWS
def test_dtypes_by_rows(which_kwargs, dtype, table):
    """Complex numbers as pairs of real ones, half types in float32."""
    params = parameters(table, dtype)
    optimizer = make(which_kwargs, params)
    for number, kind in enumerate(("rows", "elements named twice", "rows named twice", "nothing")):
        before = snapshot(params, optimizer)
        for p in params:
            p.grad = sparse_gradient(table, p, PLACES[kind], number)
        expected = [after_a_step(which_kwargs, row, p.grad, LOOP) for row, p in zip(before, params, strict=True)]
        step(optimizer)
        assert_entries(params, optimizer, expected)


@ON_DEVICE
@pytest.mark.parametrize("which", [which for which in ROWS if which != "SGD"])
def test_kahan_by_rows(which, table):
    """What is left of a row waits until the row is named again."""
    which_kwargs = which, ROWS[which][0] | dict(kahan=True)
    params = parameters(table, torch.bfloat16)
    optimizer = make(which_kwargs, params)
    for number in range(4):
        before = snapshot(params, optimizer)
        for p in params:
            p.grad = sparse_gradient(table, p, PLACES["rows"], number)
        expected = [after_a_step(which_kwargs, row, p.grad, LOOP) for row, p in zip(before, params, strict=True)]
        step(optimizer)
        assert_entries(params, optimizer, expected)
    assert any(optimizer.state[p]["compensation"].count_nonzero() for p in params)


@ON_DEVICE
@EACH_ASKED
@EACH_BY_ROWS
def test_dense_and_sparse_in_turns(which_kwargs, flags, table):
    """The state goes on through both: of a dense gradient all rows, of a sparse one those that it names."""
    params = parameters(table)
    optimizer = make(which_kwargs, params, **flags)
    for number, kind in enumerate(("dense", "rows", "elements", "dense", "dense", "rows named twice", "dense")):
        before = snapshot(params, optimizer)
        if kind == "dense":
            table.give_gradients(number, params)
        else:
            for p in params:
                p.grad = None
                p.grad = sparse_gradient(table, p, PLACES[kind], number)
        how = flags if kind == "dense" else LOOP
        expected = [after_a_step(which_kwargs, row, p.grad, how) for row, p in zip(before, params, strict=True)]
        step(optimizer)
        assert_entries(params, optimizer, expected)


@ON_DEVICE
@pytest.mark.parametrize("which", ROWS)
def test_a_single_number(which, table):
    """A parameter without dimensions has no rows: it is one."""
    which_kwargs = which, ROWS[which][0]
    runs = [(table.parameters(shapes=[()]), layout) for layout in (torch.Tensor.to_sparse, torch.Tensor.clone)]
    optimizers = [make(which_kwargs, params, **LOOP) for params, _ in runs]
    for number in range(3):
        for (params, layout), optimizer in zip(runs, optimizers, strict=True):
            params[0].grad = None
            params[0].grad = layout(table.values((), 0.5, 2, torch.float32, number))
            step(optimizer)
    assert torch.equal(runs[0][0][0], runs[1][0][0])


@ON_DEVICE
def test_strides_by_rows(table):
    """Parameters that lie otherwise: the same numbers, in the same places of the memory around them."""
    around, plain = torch.linspace(1, 2, 77).reshape(11, 7), torch.linspace(1, 2, 77).reshape(11, 7)
    ours, theirs = nn.Parameter(around[1:9:2, 2:5]), nn.Parameter(plain[1:9:2, 2:5].clone())
    optimizer, reference = optim.Adam([ours], lr=0.02), optim.Adam([theirs], lr=0.02)
    for number in range(3):
        for p in (ours, theirs):
            p.grad = sparse_gradient(table, p, PLACES["rows"], number)
        step(optimizer)
        step(reference)
    assert torch.equal(ours, theirs)
    plain[1:9:2, 2:5] = theirs.detach()
    assert torch.equal(around, plain)


# ---------------------------------------------------------------------------------------------------------------- dense


def against_dense(which_kwargs, places, flags, table, units):
    """Four steps by sparse gradients, and four by the same ones made dense."""
    runs = [(params, make(which_kwargs, params, **flags)) for params in (parameters(table) for _ in range(2))]
    for number in range(4):
        for seed, (p, q) in enumerate(zip(*(params for params, _ in runs), strict=True)):
            p.grad = sparse_gradient(table, p, places, number, seed)
            q.grad = p.grad.to_dense()
        for _, optimizer in runs:
            step(optimizer)
    got, expected = (table.entries(*run) for run in runs)
    assert list(got) == list(expected)
    for key, column in expected.items():
        assert table.distance(got[key], column) <= units, key


@EACH_PLACE
@EACH_DENSE
def test_sgd_takes_it_as_dense(which_kwargs, places, asked, table):
    """To the bit as the dense gradient, on every engine: momentum and decay go on for all rows."""
    against_dense(which_kwargs, places, asked, table, units=0)


@ON_DEVICE
@EACH_PLACE
@EACH_ASKED
def test_sgd_without_state_goes_by_rows(flags, places, table):
    """Which comes to the same; engines may round η g otherwise, to a neighbour at each step."""
    for kwargs in ROWS["SGD"]:
        against_dense(("SGD", kwargs), places, flags, table, units=4)


TORCHS_SGD = [
    dict(lr=0.02),
    dict(lr=0.02, maximize=True),
    dict(lr=0.02, momentum=0.9),
    dict(lr=0.02, momentum=0.9, nesterov=True),
    dict(lr=0.02, momentum=0.5, dampening=0.5, maximize=True),
]
TORCHS_ADAGRAD = [
    dict(lr=0.05),
    dict(lr=0.05, lr_decay=0.5, maximize=True),
    dict(lr=0.05, initial_accumulator_value=0.75, eps=0.5),
]
AS_TORCH = rows_of({"SGD": TORCHS_SGD, "Adagrad": TORCHS_ADAGRAD})


@ON_DEVICE
@EACH_PLACE
@pytest.mark.parametrize("which_kwargs", AS_TORCH, ids=named)
def test_as_torch(which_kwargs, places, table):
    """The two classes of torch that take sparse gradients. (Its SGD has no weight decay then, and a sparse buffer.)"""
    which, kwargs = which_kwargs
    ours, theirs = parameters(table), parameters(table)
    optimizer, reference = make(which_kwargs, ours), getattr(torch.optim, which)(theirs, **kwargs, foreach=False)
    for number in range(4):
        for seed, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            p.grad, q.grad = (sparse_gradient(table, each, places, number, seed) for each in (p, q))
        step(optimizer)
        step(reference)
    got, expected = table.entries(ours, optimizer), table.entries(theirs, reference)
    assert list(got) == list(expected)
    for key, column in expected.items():
        if key != "momentum_buffer":
            # Each step leads to the same number or to its neighbour, twice where a row is named twice; Adagrad's sum
            # is one of squares.
            assert table.distance(got[key], column) <= 8, key


@ON_DEVICE
def test_a_sparse_buffer_of_torch(table):
    """torch's SGD keeps its first gradient, sparse as it is. It is loaded, and the run goes on as torch's."""
    for kwargs, kind in product((dict(momentum=0.9), dict(momentum=0.5, nesterov=True)), ("rows", "rows named twice")):
        ours, theirs = parameters(table), parameters(table)
        optimizer = optim.SGD(ours, lr=0.1)
        reference = torch.optim.SGD(theirs, lr=0.02, **kwargs, foreach=False)

        def give(number, ours=ours, theirs=theirs, kind=kind):
            for p in (*ours, *theirs):
                p.grad = sparse_gradient(table, p, PLACES[kind], number)

        for number in range(3):
            give(number)
            reference.step()
        assert all(state["momentum_buffer"].is_sparse for state in reference.state.values())
        with torch.no_grad():
            for p, q in zip(ours, theirs, strict=True):
                p.copy_(q)
        optimizer.load_state_dict(copy.deepcopy(reference.state_dict()))
        assert not any(state["momentum_buffer"].is_sparse for state in optimizer.state.values())
        for number in range(3, 6):
            give(number)
            optimizer.step()
            reference.step()
        got, expected = (dict(enumerate(p.detach() for p in params)) for params in (ours, theirs))
        assert table.distance(got, expected) <= 3  # each step leads to the same number or to its neighbour


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("which", [which for which in ROWS if which != "SGD"])
@pytest.mark.parametrize("beside_dense", [False, True])
def test_an_l2_penalty_is_refused(which, beside_dense, asked, table):
    """It would move the rows that are not named. torch's text; and nothing has moved."""
    kwargs = dict(weight_decay=0.1) | (dict(decoupled_weight_decay=False) if which == "AdamW" else {})
    params = parameters(table)
    optimizer = getattr(optim, which)(params, **kwargs, **asked)
    table.give_gradients(0, params)
    step(optimizer)
    before = snapshot(params, optimizer)
    for p in params[1:] if beside_dense else params:
        p.grad = None
        p.grad = sparse_gradient(table, p, PLACES["rows"], 0)
    says = r"^weight_decay option is not compatible with sparse gradients$"
    if asked.get("fused"):
        says += rf"|^{which}: fused=True cannot be had: a gradient is sparse"
    with pytest.raises(RuntimeError, match=says):
        step(optimizer)
    assert_entries(params, optimizer, before)


@ON_DEVICE
@EACH_BY_ROWS
def test_fused_by_rows(which_kwargs, table):
    """Asked for by name, it cannot be had; what to use instead works."""
    params = parameters(table)
    optimizer = make(which_kwargs, params, fused=True)
    before = snapshot(params, optimizer)
    for p in params:
        p.grad = sparse_gradient(table, p, PLACES["rows"], 0)
    says = rf"^{which_kwargs[0]}: fused=True cannot be had: a gradient is sparse; use foreach=True, or fused=None"
    with pytest.raises(RuntimeError, match=says):
        step(optimizer)
    assert all(torch.equal(p, row["param"]) for p, row in zip(params, before, strict=True))
    optimizer.param_groups[0]["fused"] = None
    step(optimizer)
    assert optimizer.engine == "loop"


def test_fused_of_sgd_with_momentum(compiling, table):
    params = parameters(table)
    optimizer = optim.SGD(params, lr=0.02, momentum=0.9, fused=True)
    for p in params:
        p.grad = sparse_gradient(table, p, PLACES["rows"], 0)
    step(optimizer)
    assert optimizer.engine == compiling.name


# --------------------------------------------------------------------------------------------------------- all the rest


@ON_DEVICE
@pytest.mark.parametrize("which_kwargs", rows_of(ROWS) + rows_of(DENSE), ids=named)
def test_gradients_are_not_written(which_kwargs, table):
    """Not even coalesced."""
    params = parameters(table)
    optimizer = make(which_kwargs, params)
    for number, kind in enumerate(("rows", "rows named twice", "elements named twice")):
        for p in params:
            p.grad = sparse_gradient(table, p, PLACES[kind], number)
        grads = [p.grad for p in params]
        kept = [(g.is_coalesced(), g._version, g._indices().clone(), g._values().clone()) for g in grads]
        step(optimizer)
        for p, g, (coalesced, version, indices, values) in zip(params, grads, kept, strict=True):
            assert p.grad is g
            assert (g.is_coalesced(), g._version) == (coalesced, version)
            assert torch.equal(g._indices(), indices)
            assert torch.equal(g._values(), values)


@ON_DEVICE
@EACH_ASKED
@pytest.mark.parametrize("which_kwargs", rows_of(ROWS) + rows_of(DENSE), ids=named)
def test_dense_and_sparse_side_by_side(which_kwargs, flags, table):
    """In one group and in several: each parameter does as it would alone."""
    which, kwargs = which_kwargs
    together, alone = table.parameters(shapes=SHAPES * 3), table.parameters(shapes=SHAPES * 3)
    optimizer = make(
        which_kwargs, [{"params": together[:6]}, {"params": together[6:], "lr": kwargs["lr"] / 2}], **flags
    )
    each = [make(which_kwargs, [p], **flags) for p in alone[:6]]
    each += [make((which, kwargs | dict(lr=kwargs["lr"] / 2)), [p], **flags) for p in alone[6:]]
    for number in range(4):
        table.give_gradients(number, together, alone)
        for seed, (p, q) in enumerate(zip(together, alone, strict=True)):
            if seed not in (0, 4, 7):
                p.grad = q.grad = None
                p.grad, q.grad = (sparse_gradient(table, r, PLACES["rows named twice"], number, seed) for r in (p, q))
        step(optimizer)
        for one in each:
            step(one)
    for p, q, one in zip(together, alone, each, strict=True):
        assert torch.equal(p, q)
        assert list(optimizer.state.get(p, {})) == list(one.state.get(q, {}))
        assert all(map(torch.equal, optimizer.state.get(p, {}).values(), one.state.get(q, {}).values()))


class Bag(nn.Module):
    """The mean of embedded words, and a linear layer."""

    def __init__(self, sparse):
        super().__init__()
        self.embedding = nn.Embedding(20, 4, sparse=sparse)
        self.linear = nn.Linear(4, 1)
        with torch.no_grad():
            for number, p in enumerate(self.parameters()):
                p.copy_(torch.rand(p.shape, generator=torch.Generator().manual_seed(number)) - 0.5)

    def forward(self, words):
        return self.linear(self.embedding(words).mean(1))


RATES = {"Adadelta": 1.0} | dict.fromkeys(("SGD", "Nesterov", "Adagrad"), 0.1)


@ON_DEVICE
@pytest.mark.parametrize("which", [*ROWS, "Nesterov"])
def test_training_an_embedding(which, table):
    """The loss falls, words that never occur stay to the bit; for SGD and Nesterov as with the dense gradient."""
    runs = []
    more = dict(weight_decay=0.0) if which == "AdamW" else dict(momentum=0.9) if which == "SGD" else {}
    for sparse in (True, False):
        model = Bag(sparse)
        optimizer = getattr(optim, which)(model.parameters(), lr=RATES.get(which, 0.02), **more)
        words = torch.randint(0, 15, (16, 3), generator=torch.Generator().manual_seed(0))
        right = (words % 2).sum(1, keepdim=True) - 1.5
        start = model.embedding.weight.detach().clone()

        def closure(model=model, optimizer=optimizer, words=words, right=right):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(words), right)
            loss.backward()
            return loss

        losses = [optimizer.step(closure).item() for _ in range(60)]
        assert model.embedding.weight.grad.is_sparse == sparse
        assert losses[-1] < losses[0] / 2
        assert torch.equal(model.embedding.weight[15:], start[15:])
        runs.append([p.detach() for p in model.parameters()])
    if which in ("SGD", "Nesterov"):
        for p, q in zip(*runs, strict=True):
            # Gradients are summed in another order; their errors of 1e-7 add up over 60 steps.
            torch.testing.assert_close(p, q, rtol=0, atol=1e-5)
