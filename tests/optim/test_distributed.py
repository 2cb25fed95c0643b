"""DTensor parameters, FSDP2, DDP: each process updates what it holds, and together they are as one alone.

Every check runs in this process as the only one of its group and, this file being a script too, in two processes.
"""

import copy
import datetime
import json
import os
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

if not dist.is_available():
    pytest.skip("torch.distributed is not there", allow_module_level=True)

from torch.distributed.checkpoint import state_dict as dcp_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

import torch_lecture_ops
from torch_lecture_ops import optim

CLASSES = {
    "SGD": dict(lr=0.02, momentum=0.9, nesterov=True),
    "Nesterov": dict(lr=0.02),
    "Adagrad": dict(lr=0.05),
    "RMSprop": dict(lr=0.005, momentum=0.9, centered=True),
    "Adadelta": dict(lr=1.0),
    "Adam": dict(lr=0.02, amsgrad=True),
    "AdamW": dict(lr=0.02),
    "NAdam": dict(lr=0.02, weight_decay=0.1),
}
ENGINES = {"c": {}, "foreach": dict(foreach=True), "loop": dict(foreach=False, fused=False)}
SCALARS = ("step", "mu_product")

# Shapes and placements; None: a plain tensor in the same group. Of 5 rows, one process has 3 and one 2; of 1, none.
LAYOUTS = [
    ((5, 3), Shard(0)),
    ((5, 3), Shard(1)),
    ((1,), Shard(0)),
    ((4,), Replicate()),
    ((), Replicate()),
    ((7,), None),
]

CHECKS = {}


def check(function):
    CHECKS[function.__name__] = function
    return function


def make(which, params, **flags):
    return getattr(optim, which)(params, **CLASSES[which] | flags)


def values(number, shape, dtype=torch.float32):
    """The same in every process."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(number)).to(dtype)


def whole(tensor):
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def laid_out(tensor, mesh, placement):
    if placement is None:
        return tensor
    if isinstance(placement, Partial):  # each process has its share of the sum
        return DTensor.from_local(tensor / mesh.size(), mesh, [placement])
    return distribute_tensor(tensor, mesh, [placement])


def parameters(mesh, dtype=torch.float32):
    """Sharded ones, and the same as they are without processes."""
    full = [values(number, shape, dtype) for number, (shape, _) in enumerate(LAYOUTS)]
    parts = [nn.Parameter(laid_out(t.clone(), mesh, layout)) for t, (_, layout) in zip(full, LAYOUTS, strict=True)]
    return parts, [nn.Parameter(t) for t in full]


def step(number, params, optimizer, mesh=None, other=None):
    """With the gradients of this step, in the layout of the parameters or in another."""

    def closure():
        for k, p in enumerate(params):
            g = values(100 * number + k, p.shape, p.dtype)
            if isinstance(p, DTensor):
                fits = other is not None and (not isinstance(other, Shard) or other.dim < p.dim())
                g = laid_out(g, mesh, other if fits else p.placements[0])
            p.grad = g

    optimizer.step(closure)


def assert_same(params, optimizer, others, other):
    """Bit by bit, in the order of the keys too; and arrays of the state lie as their parameter does."""
    for number, (p, q) in enumerate(zip(params, others, strict=True)):
        assert torch.equal(whole(p), whole(q)), f"parameter {number}"
        state, expected = optimizer.state[p], other.state[q]
        assert list(state) == list(expected), f"{list(state)}, {list(expected)}"
        for key, value in state.items():
            assert torch.equal(whole(value), whole(expected[key])), f"{key} of parameter {number}"
            kind = DTensor if isinstance(p, DTensor) and key not in SCALARS else torch.Tensor
            assert type(value) is kind, f"{key}: {type(value)}"
            if kind is DTensor:
                assert value.placements == p.placements, f"{key}: {value.placements}"
                assert value.to_local().shape == p.to_local().shape


@check
def sharded_parameters(mesh, which):
    """Every engine; and half types, compensated."""
    for engine, asked in ENGINES.items():
        for dtype, flags in ((torch.float32, {}), (torch.bfloat16, dict(kahan=True))):
            parts, full = parameters(mesh, dtype)
            optimizer, reference = make(which, parts, **asked, **flags), make(which, full, **asked, **flags)
            for number in range(3):
                versions = [p._version for p in parts]
                step(number, parts, optimizer, mesh)
                step(number, full, reference)
                assert all(p._version > version for p, version in zip(parts, versions, strict=True))
                assert_same(parts, optimizer, full, reference)
            assert optimizer.engine == reference.engine == engine, optimizer.engine


@check
def gradients_in_other_layouts(mesh, which):
    parts, full = parameters(mesh)
    optimizer, reference = make(which, parts), make(which, full)
    for number, layout in enumerate((Replicate(), Partial(), Shard(0), Shard(1), None)):
        step(number, parts, optimizer, mesh, layout)
        step(number, full, reference)
        assert_same(parts, optimizer, full, reference)


@check
def stale_saved_tensors(mesh, which):
    """Noticed by backward, as without shards."""
    parts, _ = parameters(mesh)
    optimizer = make(which, parts)
    for number in range(2):
        losses = [(p**3).sum() for p in parts]
        step(number, parts, optimizer, mesh)
        for loss in losses:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                loss.backward()


@check
def state_dicts(mesh, which):
    """Into another optimizer, which goes on alike, also if they lie otherwise among the processes."""
    parts, full = parameters(mesh)
    optimizer, reference = make(which, parts), make(which, full)
    for number in range(2):
        step(number, parts, optimizer, mesh)
        step(number, full, reference)
    others = [nn.Parameter(p.detach().clone()) for p in parts]
    other, saved = make(which, others), copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        for key, value in state.items():
            if isinstance(value, DTensor):
                state[key] = value.redistribute(mesh, [Replicate()])
    other.load_state_dict(saved)
    for number in range(2, 4):
        step(number, others, other, mesh)
        step(number, full, reference)
        assert_same(others, other, full, reference)


@check
def state_of_another_kind(mesh, which):
    """That of plain parameters for sharded ones, and the other way round: refused as it is loaded."""
    parts, full = ([p] for (p, *_) in parameters(mesh))
    runs = [(parts, make(which, parts)), (full, make(which, full))]
    for params, optimizer in runs:
        step(0, params, optimizer, mesh)
    for (params, optimizer), (_, other) in (runs, runs[::-1]):
        before, kept = copy.deepcopy(optimizer.state_dict()), [whole(p).clone() for p in params]
        with pytest.raises(ValueError, match=rf"^{which}: parameter 0: .* must be a D?Tensor, as the parameter is"):
            optimizer.load_state_dict(other.state_dict())
        for key, value in before["state"][0].items():
            assert torch.equal(whole(optimizer.state[params[0]][key]), whole(value)), key
        assert all(map(torch.equal, map(whole, params), kept))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3), nn.Tanh(), nn.Linear(3, 1))


def fully_sharded(mesh):
    model = network()
    fully_shard(model[2], mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def train(model, optimizer, numbers, process=0):
    """On the same data in every process, unless it is said which process this is."""
    for number in numbers:
        x = values(1000 + 10 * number + process, (8, 5))

        def closure(x=x):
            optimizer.zero_grad()
            loss = (model(x) - x[:, :1]).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)


def assert_same_models(model, optimizer, other_model, other):
    assert_same(list(model.parameters()), optimizer, list(other_model.parameters()), other)


@check
def fsdp2(mesh, which):
    """The mean of equal gradients is none other: bit by bit, with 7, 3 and 1 rows for two processes."""
    model, alone = fully_sharded(mesh), network()
    optimizer, reference = make(which, model.parameters()), make(which, alone.parameters())
    for number in range(4):
        train(model, optimizer, [number])
        train(alone, reference, [number])
        assert_same_models(model, optimizer, alone, reference)
    assert optimizer.engine == "c"


@check
def fsdp2_state_dicts(mesh, which):
    """Of torch.distributed.checkpoint, sharded and whole: another optimizer goes on alike, also one without shards."""
    model, alone = fully_sharded(mesh), network()
    optimizer, reference = make(which, model.parameters()), make(which, alone.parameters())
    train(model, optimizer, range(2))
    train(alone, reference, range(2))
    for full in (False, True):
        options = dcp_state_dict.StateDictOptions(full_state_dict=full)
        saved = [
            dcp_state_dict.get_model_state_dict(model, options=options),
            dcp_state_dict.get_optimizer_state_dict(model, optimizer, options=options),
        ]
        for build in (fully_sharded, lambda mesh: network()) if full else (fully_sharded,):
            other_model = build(mesh)
            other = make(which, other_model.parameters())
            weights, state = copy.deepcopy(saved)
            dcp_state_dict.set_model_state_dict(other_model, weights, options=options)
            dcp_state_dict.set_optimizer_state_dict(other_model, other, state, options=options)
            assert_same_models(other_model, other, alone, reference)
            continued, expected = copy.deepcopy((alone, reference))
            train(continued, expected, range(2, 4))
            train(other_model, other, range(2, 4))
            assert_same_models(other_model, other, continued, expected)


@check
def data_parallel(mesh, which):
    """Other data in every process: all end alike, and where torch's class ends."""
    models = [DistributedDataParallel(network()) for _ in range(2)]
    optimizers = [make(which, models[0].parameters())]
    if hasattr(torch.optim, which):
        optimizers.append(getattr(torch.optim, which)(models[1].parameters(), **CLASSES[which], foreach=False))
    for model, optimizer in zip(models, optimizers, strict=False):
        train(model, optimizer, range(5), dist.get_rank())
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        first = p.detach().clone()
        dist.broadcast(first, 0)
        assert torch.equal(p, first)
        if len(optimizers) == 2:
            # Five steps; those that divide by the size of a gradient lose 1e-7 (terms / gradient) of 0.05 at each.
            torch.testing.assert_close(p, q, rtol=0, atol=5e-6)


@check
def zero_redundancy(mesh, which):
    """The parameters divided among the processes' optimizers."""
    if which == "Nesterov":
        return  # ZeroRedundancyOptimizer evaluates the closure by itself, not ahead
    models = network(), network()
    kwargs = CLASSES[which]
    optimizer = ZeroRedundancyOptimizer(models[0].parameters(), optimizer_class=getattr(optim, which), **kwargs)
    reference = make(which, models[1].parameters())
    for model, run in zip(models, (optimizer, reference), strict=True):
        train(model, run, range(4))
    assert all(map(torch.equal, models[0].parameters(), models[1].parameters()))


@check
def gradients_that_are_still_on_their_way(mesh, which):
    (p, q) = nn.Parameter(laid_out(values(0, (5, 3)), mesh, Replicate())), nn.Parameter(values(0, (5, 3)))
    optimizer, reference = make(which, [p]), make(which, [q])

    def closure():
        p.grad = laid_out(values(1, (5, 3)), mesh, Shard(0)).redistribute(mesh, [Replicate()], async_op=True)

    for _ in range(3):
        optimizer.step(closure)
        q.grad = values(1, (5, 3))
        reference.step(lambda: None)
        assert_same([p], optimizer, [q], reference)


# ------------------------------------------------------------------------------------------------------------ processes

EACH = [pytest.param(name, which, id=f"{name}-{which}") for name in CHECKS for which in CLASSES]
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"}  # no network is needed, nor a name for this machine


def group(rank, size, folder):
    """The mesh of a group of processes that meet at a file."""
    dist.init_process_group(
        "gloo", f"file://{folder}/meeting", datetime.timedelta(seconds=60), world_size=size, rank=rank
    )
    return init_device_mesh("cpu", (size,))


@pytest.fixture(name="mesh", scope="module")
def _mesh(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for key, value in LOOPBACK.items():
            patch.setenv(key, value)
        yield group(0, 1, tmp_path_factory.mktemp("alone"))
        dist.destroy_process_group()


@pytest.mark.needs_compiler
@pytest.mark.parametrize(("what", "which"), EACH)
def test_alone(what, which, mesh):
    CHECKS[what](mesh, which)


@pytest.fixture(name="answers", scope="module")
def _answers(tmp_path_factory):
    """What the two processes found: (check, class) -> the error, if there is one."""
    folder = tmp_path_factory.mktemp("two")
    package = str(Path(torch_lecture_ops.__file__).parents[1])
    environment = os.environ | LOOPBACK | {"PYTHONPATH": package, "OMP_NUM_THREADS": "1"}
    logs = [folder / f"log{rank}" for rank in range(2)]
    processes = []
    for rank, log in enumerate(logs):
        with log.open("w") as file:
            command = [sys.executable, __file__, str(rank), "2", str(folder)]
            processes.append(subprocess.Popen(command, stdout=file, stderr=file, env=environment))
    limit = time.monotonic() + 150
    try:
        for process in processes:
            process.wait(limit - time.monotonic())
    except subprocess.TimeoutExpired:
        pass  # the answers say how far they came
    finally:
        for process in processes:
            process.kill()
            process.wait()
    found = {}
    for rank, log in enumerate(logs):
        lines = (folder / f"answers{rank}").read_text().splitlines() if (folder / f"answers{rank}").exists() else []
        answers = {tuple(key): error for key, error in map(json.loads, lines)}
        for name, which in ((param.values[0], param.values[1]) for param in EACH):
            error = answers.get((name, which), f"not run; the log ends with\n{log.read_text()[-2000:]}")
            if error:
                found[name, which] = found.get((name, which), "") + f"process {rank}: {error}\n"
    return found


@pytest.mark.slow
@pytest.mark.needs_compiler
@pytest.mark.parametrize(("what", "which"), EACH)
def test_in_two_processes(what, which, answers):
    if error := answers.get((what, which)):
        pytest.fail(error, pytrace=False)


def main(rank, size, folder):
    """Write an answer for every check; end where only some of the processes fail: they are no longer in step."""
    torch.set_num_threads(1)
    mesh, errors = group(rank, size, folder), dist.FileStore(f"{folder}/errors", size)
    warnings.simplefilter("error")
    with (Path(folder) / f"answers{rank}").open("w") as answers:
        for name in CHECKS:
            for which in CLASSES:
                error = ""
                try:
                    CHECKS[name](mesh, which)
                except BaseException:
                    error = traceback.format_exc()
                print(json.dumps([[name, which], error]), file=answers, flush=True)
                errors.set(f"{name} {which} {rank}", error)
                if len({bool(errors.get(f"{name} {which} {each}")) for each in range(size)}) > 1:
                    return
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
