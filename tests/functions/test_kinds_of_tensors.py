"""Tensors of other layouts and tensors that compute by themselves: what torch's functions take, ours take."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.masked import MaskedTensor, masked_tensor

from torch_lecture_ops import nn as ours_nn
from torch_lecture_ops.nn import functional as F

Y = torch.tensor([[0.5, 0.0, 1.0, 0.25, 0.75, 1.0]]).repeat(4, 1)
LABELS = torch.tensor([0, 5, 2, 2])
X = torch.tensor([[0.0, -1, 2, 0, 3, -2], [0.0] * 6, [1, 2, 3, 4, 5, 6], [-1, -2, -3, -4, -5, -6]])

# Each function of a tensor, and of the same tensor made of other numbers: F, x, make -> y.
TABLE = {
    "relu": lambda F, x, make: F.relu(x),
    "relu in place": lambda F, x, make: F.relu(x * 1, inplace=True),
    "leaky_relu": lambda F, x, make: F.leaky_relu(x, 0.1),
    "elu": lambda F, x, make: F.elu(x, 0.5),
    "silu": lambda F, x, make: F.silu(x),
    "sigmoid": lambda F, x, make: F.sigmoid(x),
    "tanh": lambda F, x, make: F.tanh(x),
    "prelu": lambda F, x, make: F.prelu(x, torch.tensor([0.25])),
    "softmax": lambda F, x, make: F.softmax(x, -1),
    "log_softmax": lambda F, x, make: F.log_softmax(x, -1),
    "mse_loss": lambda F, x, make: F.mse_loss(x, make(Y)),
    "binary_cross_entropy": lambda F, x, make: F.binary_cross_entropy(torch.sigmoid(x), make(Y)),
    "binary_cross_entropy_with_logits": lambda F, x, make: F.binary_cross_entropy_with_logits(x, make(Y)),
    "cross_entropy": lambda F, x, make: F.cross_entropy(x, LABELS),
    "cross_entropy of probabilities": lambda F, x, make: F.cross_entropy(x, make(Y.softmax(-1))),
    "affine": lambda F, x, make: F.affine(x, 2.0, 1.0) if F is not nn.functional else 2.0 * x + 1.0,
    "maxout": lambda F, x, make: F.maxout(x, 2) if F is not nn.functional else x.unflatten(-1, (-1, 2)).max(-1).values,
    "add": lambda F, x, make: F.add(x, make(Y)) if F is not nn.functional else torch.add(x, make(Y)),
    "mul": lambda F, x, make: F.mul(x, make(Y)) if F is not nn.functional else torch.mul(x, make(Y)),
    "maximum": lambda F, x, make: F.maximum(x, make(Y)) if F is not nn.functional else torch.maximum(x, make(Y)),
    "copy": lambda F, x, make: F.copy(x)[1] if F is not nn.functional else x.clone(),
    "matmul": lambda F, x, make: F.matmul(x, Y.t()) if F is not nn.functional else torch.matmul(x, Y.t()),
    "quadratic_cost": lambda F, x, make: (
        F.quadratic_cost(x, make(Y), "mean") if F is not nn.functional else F.mse_loss(x, make(Y))
    ),
}
EACH = pytest.mark.parametrize("function", TABLE.values(), ids=TABLE)

LAYOUTS = {
    "coo": Tensor.to_sparse,
    "csr": Tensor.to_sparse_csr,
    "csc": Tensor.to_sparse_csc,
    "bsr": lambda x: x.to_sparse_bsr((2, 2)),
    "mkldnn": Tensor.to_mkldnn,
    "nested": lambda x: torch.nested.nested_tensor([x[0], x[1, :4]]),
    "jagged": lambda x: torch.nested.nested_tensor([x[0], x[1, :4]], layout=torch.jagged),
    "masked": lambda x: masked_tensor(x, X > 0),
}
NAMES_THE_LAYOUT = "(?i)layout|sparse|sizes|nested|jagged|mkldnn|masked|dispatch|csr|bsr|bsc|blocksize"


def test_every_function_is_in_the_table():
    assert {name.split()[0] for name in TABLE} == set(F.__all__)


def plain(y: Tensor) -> list[Tensor]:
    """The numbers in it."""
    if y.is_nested:
        return list(y.unbind())
    if isinstance(y, MaskedTensor):
        return [y.get_mask(), torch.where(y.get_mask(), y.get_data(), 0.0)]
    return [y if y.layout is torch.strided else y.to_dense()]


def outcome(function, where, make, wanted):
    """Of what kind the value and the gradient are, and their numbers; or the error."""
    try:
        x = make(X).requires_grad_(wanted)
        results = [y := function(where, x, make)]
        if wanted:
            results += torch.autograd.grad(y, x, torch.ones_like(y))
        return [(type(t), t.layout) for t in results], [plain(t.detach()) for t in results]
    except (RuntimeError, TypeError, ValueError) as error:  # NotImplementedError is a RuntimeError
        return error


@EACH
@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(function, layout, wanted):
    """The same kinds of results with the same numbers; or an error, as torch, that names the layout."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # prototypes
        ours, builtin = (outcome(function, where, LAYOUTS[layout], wanted) for where in (F, nn.functional))
    if isinstance(builtin, Exception):
        assert isinstance(ours, Exception)
        assert pytest.raises(type(ours), match=NAMES_THE_LAYOUT).matches(ours) or type(ours) is type(builtin)
    else:
        assert not isinstance(ours, Exception), ours
        assert ours[0] == builtin[0]
        torch.testing.assert_close(ours[1], builtin[1], equal_nan=True)


@pytest.mark.parametrize("name", ["coo", "csr", "mkldnn"])
def test_options_that_torch_does_not_have_name_the_layout(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = LAYOUTS[name](X)
    for call, option in (
        (lambda: F.relu(x, subgradient=0.5), "relu: subgradient=0.5"),
        (lambda: F.elu(x, save="output"), "elu: save='output'"),
        (lambda: ours_nn.LeakyReLU(save="output")(x), "leaky_relu: save='output'"),
    ):
        with pytest.raises(
            NotImplementedError, match=f"^{option} needs a plain, strided tensor, got a Tensor of layout"
        ):
            call()
    for call in (lambda: F.affine(x, 2.0), lambda: F.maxout(x, 2), lambda: F.quadratic_cost(x, x)):
        with pytest.raises(NotImplementedError, match=r"must be a strided tensor, got a Tensor of layout torch\."):
            call()


@pytest.fixture(scope="module")
def mesh():
    """Of one process, in which every placement still has to be taken for what it is."""
    from torch.distributed.device_mesh import init_device_mesh

    if dist.is_initialized():
        pytest.skip("there is a process group already")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@EACH
@pytest.mark.parametrize("placement", [("Shard", 0), ("Shard", 1), ("Replicate",), ("Partial",)], ids=str)
def test_dtensors_in_all_placements(function, placement, mesh):
    from torch.distributed import tensor

    name, *dim = placement
    placed = getattr(tensor, name)(*dim)

    def make(x: Tensor) -> Tensor:
        return tensor.DTensor.from_local(x, mesh, [placed])

    def whole(function, where):
        x = X.clone().requires_grad_()
        arguments = dict(LABELS=LABELS, Y=Y)
        with pytest.MonkeyPatch.context() as patch:  # what is no DTensor yet becomes one
            for name, value in arguments.items():
                patch.setitem(globals(), name, tensor.DTensor.from_local(value, mesh, [tensor.Replicate()]))
            y = function(where, make(x), lambda t: t)
            (dx,) = torch.autograd.grad(y.full_tensor().sum(), x)
        return y.full_tensor().detach(), dx

    try:
        expected = whole(function, nn.functional)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        with pytest.raises(type(error)):
            whole(function, F)
    else:
        torch.testing.assert_close(whole(function, F), expected)
