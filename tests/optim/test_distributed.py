"""DTensor parameters, FSDP2, DDP: each process updates what it holds, and together they are as one alone.

Every check runs in this process as the only one of its group and, this file being a script too, in two processes;
those that depend on the number of processes run in four as well. No process waits for another for a limited time: a
busy machine would be an error.
"""

import copy
import datetime
import importlib.util
import json
import os
import subprocess
import sys
import time
import traceback
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

if not dist.is_available():
    pytest.skip("torch.distributed is not there", allow_module_level=True)

from torch.distributed import checkpoint as dcp
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

CHECKS = {}  # name -> the check and the numbers of processes in which it runs


def check(*sizes):
    def note(function):
        CHECKS[function.__name__] = function, sizes
        return function

    return note


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


@check(1, 2)
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


@check(1, 2, 4)
def gradients_in_other_layouts(mesh, which):
    parts, full = parameters(mesh)
    optimizer, reference = make(which, parts), make(which, full)
    for number, layout in enumerate((Replicate(), Partial(), Shard(0), Shard(1), None)):
        step(number, parts, optimizer, mesh, layout)
        step(number, full, reference)
        assert_same(parts, optimizer, full, reference)


@check(1, 2)
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


@check(1, 2)
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


@check(1, 2)
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


def fully_sharded(mesh, model=None):
    model = model or network()
    fully_shard(model[2], mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def batch(number, parts=(0,)):
    """These parts of a batch."""
    return torch.cat([values(1000 + 10 * number + part, (8, 5)) for part in parts])


def train(model, optimizer, numbers, parts=(0,)):
    """On the same data in every process, unless it is said which parts this one has."""
    dtype = next(model.parameters()).dtype
    for number in numbers:
        x = batch(number, parts).to(dtype)

        def closure(x=x):
            optimizer.zero_grad()
            loss = (model(x) - x[:, :1]).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)


def assert_same_models(model, optimizer, other_model, other):
    assert_same(list(model.parameters()), optimizer, list(other_model.parameters()), other)


@check(1, 2)
def fsdp2(mesh, which):
    """The mean of equal gradients is none other: bit by bit, with 7, 3 and 1 rows for two processes."""
    model, alone = fully_sharded(mesh), network()
    optimizer, reference = make(which, model.parameters()), make(which, alone.parameters())
    for number in range(4):
        train(model, optimizer, [number])
        train(alone, reference, [number])
        assert_same_models(model, optimizer, alone, reference)
    assert optimizer.engine == "c"


@check(1, 2)
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


@check(1, 2)
def data_parallel(mesh, which):
    """Other data in every process: all end alike, and where torch's class ends."""
    # Ours with gradients that are views into larger tensors
    models = [DistributedDataParallel(network(), gradient_as_bucket_view=is_view) for is_view in (True, False)]
    optimizers = [make(which, models[0].parameters())]
    if hasattr(torch.optim, which):
        optimizers.append(getattr(torch.optim, which)(models[1].parameters(), **CLASSES[which], foreach=False))
    for model, optimizer in zip(models, optimizers, strict=False):
        train(model, optimizer, range(5), [dist.get_rank()])
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        first = p.detach().clone()
        dist.broadcast(first, 0)
        assert torch.equal(p, first)
        if len(optimizers) == 2:
            # Five steps; those that divide by the size of a gradient lose 1e-7 (terms / gradient) of 0.05 at each.
            torch.testing.assert_close(p, q, rtol=0, atol=5e-6)


def gathered(model, optimizer):
    """The state_dicts of model and optimizer, whole, in every process."""
    options = dcp_state_dict.StateDictOptions(full_state_dict=True)
    weights, state = dcp_state_dict.get_state_dict(model, optimizer, options=options)
    return weights, state["state"], state["param_groups"]


@check(1, 2, 4)
def joint_batch(mesh, which):
    """A part of the batch for each process: with DDP and with FSDP2 as one process with the whole batch."""
    alone = network().double()
    reference = make(which, alone.parameters())
    train(alone, reference, range(5), range(mesh.size()))
    expected = gathered(alone, reference)
    for wrap in (DistributedDataParallel, partial(fully_sharded, mesh)):
        model = wrap(network().double())
        optimizer = make(which, model.parameters())
        train(model, optimizer, range(5), [dist.get_rank()])
        got = gathered(model, optimizer)
        # Gradients are rounded otherwise, by 1e-16 of their terms; what divides by small ones makes more of it.
        torch.testing.assert_close(got[:2], expected[:2], rtol=1e-11, atol=1e-11)
        assert got[2] == expected[2]


def checkpoint(which):
    """Where two processes leave their checkpoint for others."""
    return Path(os.environ["CHECKPOINTS"]) / which


@check(2)
def saved_checkpoint(mesh, which):
    model = fully_sharded(mesh)
    optimizer = make(which, model.parameters())
    train(model, optimizer, range(2))
    dcp.save(model_and_optimizer(model, optimizer), checkpoint_id=checkpoint(which))


def model_and_optimizer(model, optimizer):
    return dict(zip(("model", "optimizer"), dcp_state_dict.get_state_dict(model, optimizer), strict=True))


@check(1, 2, 4)
def loaded_checkpoint(mesh, which):
    """Of two processes, by as many as there are, and by a model without shards: each goes on alike."""
    alone = network()
    reference = make(which, alone.parameters())
    train(alone, reference, range(2))
    for model in (fully_sharded(mesh), network()):
        optimizer = make(which, model.parameters())
        saved = model_and_optimizer(model, optimizer)
        dcp.load(saved, checkpoint_id=checkpoint(which))
        dcp_state_dict.set_state_dict(
            model, optimizer, model_state_dict=saved["model"], optim_state_dict=saved["optimizer"]
        )
        assert_same_models(model, optimizer, alone, reference)
        continued, expected = copy.deepcopy((alone, reference))
        train(model, optimizer, range(2, 4))
        train(continued, expected, range(2, 4))
        for p, q in zip(model.parameters(), continued.parameters(), strict=True):
            # Of the sum of four equal gradients the last bit is lost. As in data_parallel.
            torch.testing.assert_close(whole(p), q, rtol=0, atol=5e-6 if mesh.size() > 2 else 0)


@check(1, 2, 4)
def zero_redundancy(mesh, which):
    """The parameters divided among the processes' optimizers; the state goes to an ordinary one and comes back."""
    if which == "Nesterov" and mesh.size() > 1:
        return  # each process would go ahead with its own parameters only
    models = network(), network()
    optimizer = zero(which, models[0])
    reference = make(which, models[1].parameters())
    for model, run in zip(models, (optimizer, reference), strict=True):
        train(model, run, range(4))
    assert all(map(torch.equal, models[0].parameters(), models[1].parameters()))
    for rank in range(mesh.size()):  # its state_dict is whole in one process at a time
        optimizer.consolidate_state_dict(rank)
        if rank == dist.get_rank():
            saved = copy.deepcopy(optimizer.state_dict())
    alone = copy.deepcopy(models[1])
    plain = make(which, alone.parameters())
    plain.load_state_dict(saved)
    assert_same_models(alone, plain, models[1], reference)
    other_model = copy.deepcopy(models[0])
    other = zero(which, other_model)
    other.load_state_dict(copy.deepcopy(reference.state_dict()))
    for model, run in ((alone, plain), (other_model, other), (models[1], reference)):
        train(model, run, range(4, 6))
    for model in (alone, other_model):
        assert all(map(torch.equal, model.parameters(), models[1].parameters()))


def zero(which, model):
    return ZeroRedundancyOptimizer(model.parameters(), optimizer_class=getattr(optim, which), **CLASSES[which])


def lightning_ddp(mesh, which):
    """A part of the batch for each process: as one process with the whole batch."""
    from lightning.pytorch import LightningModule, Trainer

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.network = network().double()

        def training_step(self, batch):
            (x,) = batch
            return (self.network(x) - x[:, :1]).square().mean()

        def configure_optimizers(self):
            return make(which, self.parameters())

    module, alone = Module(), network().double()
    optimizer = make(which, alone.parameters())
    rows = torch.cat([batch(number) for number in range(5)]).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's own, and its advice
        trainer = Trainer(
            accelerator="cpu",
            devices=mesh.size(),
            strategy="ddp",
            max_epochs=2,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        sampler = DistributedSampler(rows, shuffle=False)  # Lightning's own shuffles
        trainer.fit(module, DataLoader(TensorDataset(rows), 8 // mesh.size(), sampler=sampler))
    assert type(trainer.strategy).__name__ == "DDPStrategy"
    assert trainer.world_size == mesh.size()
    train(alone, optimizer, [*range(5), *range(5)])
    for p, q in zip(module.network.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-11)


if importlib.util.find_spec("lightning"):
    check(2)(lightning_ddp)


@check(1, 2)
def gradients_that_are_still_on_their_way(mesh, which):
    (p, q) = nn.Parameter(laid_out(values(0, (5, 3)), mesh, Replicate())), nn.Parameter(values(0, (5, 3)))
    optimizer, reference = make(which, [p]), make(which, [q])

    def closure():
        p.grad = laid_out(values(1, (5, 3)), mesh, Shard(0)).redistribute(mesh, [Replicate()], async_op=True)

    for _ in range(3):
        optimizer.step(closure)
        reference.step(lambda: setattr(q, "grad", values(1, (5, 3))))
        assert_same([p], optimizer, [q], reference)


# ------------------------------------------------------------------------------------------------------------ processes

LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"}  # no network is needed, nor a name for this machine
NEVER = datetime.timedelta(days=1)
FEW = ("NAdam",)  # whose state has all that there is: the others are slow in processes


def each(size, classes=CLASSES):
    """The checks for so many processes, with each of the classes."""
    return [(name, which) for name, (_, sizes) in CHECKS.items() if size in sizes for which in classes]


def in_few(*names):
    """Slow, but for a few classes: what starts processes."""
    return [pytest.param(*names, which, marks=() if which in FEW else pytest.mark.slow) for which in CLASSES]


def group(rank, size, folder):
    """The mesh of a group of processes that meet at a file."""
    dist.init_process_group("gloo", f"file://{folder}/meeting{size}", NEVER, world_size=size, rank=rank)
    return init_device_mesh("cpu", (size,))


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
    """Where processes meet, leave their checkpoints and their answers."""
    folder = tmp_path_factory.mktemp("processes")
    with pytest.MonkeyPatch.context() as patch:
        for key, value in (LOOPBACK | {"CHECKPOINTS": str(folder)}).items():
            patch.setenv(key, value)
        yield folder


@pytest.fixture(name="mesh", scope="module")
def _mesh(folder):
    yield group(0, 1, folder)
    dist.destroy_process_group()


@pytest.fixture(name="classes", scope="module")
def _classes(request):
    """Those that the tests of processes were asked for."""
    asked = {
        item.callspec.params["which"]
        for item in request.session.items
        if item.path == Path(__file__) and {"two", "four"}.intersection(item.fixturenames)
    }
    return [which for which in CLASSES if which in asked]


def answers(size, folder, classes):
    """What so many processes found: (check, class) -> the error, if there is one."""
    package = str(Path(torch_lecture_ops.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": package, "OMP_NUM_THREADS": "1"}
    logs = [folder / f"log{size}-{rank}" for rank in range(size)]
    processes = []
    for rank, log in enumerate(logs):
        with log.open("w") as file:
            command = [sys.executable, __file__, str(rank), str(size), str(folder), *classes]
            processes.append(subprocess.Popen(command, stdout=file, stderr=file, env=environment))
    try:
        # Until all have ended, or one with an error: the others would wait for it.
        while None in (codes := [process.poll() for process in processes]) and not any(codes):
            time.sleep(0.05)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    found = {}
    for rank, log in enumerate(logs):
        file = folder / f"answers{size}-{rank}"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        lines = [line for line in lines if line.endswith("\n")]  # one killed leaves half a line
        given = {tuple(key): error for key, error in map(json.loads, lines)}
        for key in each(size, classes):
            error = given.get(key, f"not run; the log ends with\n{log.read_text()[-2000:]}")
            if error:
                found[key] = found.get(key, "") + f"process {rank}: {error}\n"
    return found


@pytest.fixture(name="two", scope="module")
def _two(folder, classes):
    return answers(2, folder, classes)


@pytest.fixture(name="four", scope="module")
def _four(folder, classes, two):
    """They load what two have saved."""
    return answers(4, folder, classes)


@pytest.mark.needs_compiler
@pytest.mark.parametrize(("what", "which"), [key for key in each(1) if key[0] != "loaded_checkpoint"])
def test_alone(what, which, mesh):
    CHECKS[what][0](mesh, which)


@pytest.mark.processes
@pytest.mark.needs_compiler
@pytest.mark.parametrize("which", in_few())
def test_alone_with_a_checkpoint_of_two(which, mesh, two):
    CHECKS["loaded_checkpoint"][0](mesh, which)


@pytest.mark.processes
@pytest.mark.needs_compiler
@pytest.mark.parametrize(
    ("what", "which"), [row for name, (_, sizes) in CHECKS.items() if 2 in sizes for row in in_few(name)]
)
def test_in_two_processes(what, which, two):
    if error := two.get((what, which)):
        pytest.fail(error, pytrace=False)


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.needs_compiler
@pytest.mark.parametrize(("what", "which"), each(4))
def test_in_four_processes(what, which, four):
    if error := four.get((what, which)):
        pytest.fail(error, pytrace=False)


def main(rank, size, folder, classes):
    """Write an answer for every check; end at the first error: the processes may no longer be in step."""
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)  # tells Lightning that the processes are there
    mesh = group(rank, size, folder)
    warnings.simplefilter("error")
    with (Path(folder) / f"answers{size}-{rank}").open("w") as file:
        for name, which in each(size, classes):
            error = ""
            try:
                CHECKS[name][0](mesh, which)
            except BaseException:
                error = traceback.format_exc()
            print(json.dumps([[name, which], error]), file=file, flush=True)
            if error:
                os._exit(1)  # at once: an orderly end might wait for the others
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
