"""Wrong arguments: where torch has an error, ours is the same."""

import pytest
import torch
from torch import nn

from torch_lecture_ops import optim

two = torch.tensor([0.1, 0.2])

# Wrong for every class, then for one.
EVERY = [
    dict(lr=-0.1),
    dict(lr=torch.tensor(-0.1)),
    dict(lr=two),
    dict(weight_decay=-0.1),
    dict(lr=-0.1, weight_decay=-0.1),
    dict(no_such_option=1),
]
WRONG = {
    "SGD": [
        dict(momentum=-0.5),
        dict(nesterov=True),
        dict(nesterov=True, momentum=0.9, dampening=0.1),
        dict(nesterov=True, dampening=0.5),
        dict(fused=True, foreach=True),
        dict(fused=True, differentiable=True),
    ],
    "Adagrad": [
        dict(lr=float("nan")),
        dict(lr_decay=-0.5),
        dict(initial_accumulator_value=-0.5),
        dict(eps=-1e-8),
        dict(fused=True, foreach=True),
        dict(fused=True, differentiable=True),
    ],
    "Adadelta": [
        dict(lr=float("nan")),
        dict(rho=-0.1),
        dict(rho=1.1),
        dict(rho=float("nan")),
        dict(eps=-1e-8),
    ],
    "AdamW": [
        dict(eps=-1e-8),
        dict(betas=(1.0, 0.999)),
        dict(fused=True, foreach=True),
    ],
    "NAdam": [
        dict(lr=float("nan")),
        dict(eps=-1e-8),
        dict(betas=(1.0, 0.999)),
        dict(betas=(0.9, 1.0)),
        dict(momentum_decay=-0.1),
    ],
    "Adam": [
        dict(lr=float("nan")),
        dict(eps=-1e-8),
        dict(betas=(1.0, 0.999)),
        dict(betas=(-0.1, 0.999)),
        dict(betas=(0.9, 1.0)),
        dict(betas=(0.9, -0.1)),
        dict(betas=(0.9, float("nan"))),
        dict(betas=(torch.tensor(0.9), 0.999)),
        dict(betas=(0.9, torch.tensor(0.999))),
        dict(fused=True, foreach=True),
        dict(fused=True, differentiable=True),
    ],
    "RMSprop": [
        dict(lr=float("nan")),
        dict(eps=-1e-8),
        dict(eps=float("nan")),
        dict(momentum=-0.5),
        dict(alpha=-0.1),
        dict(alpha=float("nan")),
    ],
}


def one():
    return nn.Parameter(torch.ones(3))


def twice(p):
    return [p, p]


PARAMS = {
    "a tensor": lambda: torch.ones(3),
    "a parameter": one,
    "nothing": list,
    "numbers": lambda: [1.0, 2.0],
    "strings": lambda: ["weight"],
    "a dict": lambda: {"weight": one()},
    "a non-leaf": lambda: [one() * 2],
    "groups without params": lambda: [{"lr": 0.1}],
    "a set as a group": lambda: [{"params": {one()}}],
    "one parameter twice": lambda: twice(one()),
    "one parameter in two groups": lambda: [{"params": [p]} for p in twice(one())],
    "some of them named": lambda: [("weight", one()), one()],
    "some groups named": lambda: [{"params": [("weight", one())]}, {"params": [one()]}],
}


def mistake(make):
    """Type and text of what it raises (warnings are errors)."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        make()
    return type(caught.value), str(caught.value)


@pytest.mark.parametrize("kwargs", EVERY, ids=str)
def test_what_is_wrong_for_every_class(name, kwargs):
    assert mistake(lambda: getattr(optim, name)([one()], **kwargs)) == mistake(
        lambda: getattr(torch.optim, name)([one()], **kwargs)
    )


@pytest.mark.parametrize(("which", "kwargs"), [(name, row) for name, rows in WRONG.items() for row in rows], ids=str)
def test_what_is_wrong_for_one_class(which, kwargs):
    assert mistake(lambda: getattr(optim, which)([one()], **kwargs)) == mistake(
        lambda: getattr(torch.optim, which)([one()], **kwargs)
    )


@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
def test_what_is_wrong_with_parameters(name, params):
    assert mistake(lambda: getattr(optim, name)(params())) == mistake(lambda: getattr(torch.optim, name)(params()))


@pytest.mark.parametrize("group", [[one()], {"lr": 0.1}, {"params": one() * 2}, {"params": [1.0]}], ids=str)
def test_what_is_wrong_with_an_added_group(name, group):
    def add(where):
        getattr(where, name)([one()]).add_param_group(group)

    assert mistake(lambda: add(optim)) == mistake(lambda: add(torch.optim))


def test_loading_what_does_not_fit(name):
    def load(where):
        state = getattr(where, name)([one(), one()]).state_dict()
        getattr(where, name)([one()]).load_state_dict(state)

    assert mistake(lambda: load(optim)) == mistake(lambda: load(torch.optim))


def test_betas_of_two_elements():
    """torch compares the tensor before it counts its elements, and says that its truth is ambiguous."""
    with pytest.raises(ValueError, match=r"^Tensor betas\[0\] must be 1-element$"):
        optim.Adam([one()], betas=(two, two))


@pytest.mark.parametrize("betas", [(0.9,), (0.9, 0.99, 0.999)], ids=str)
def test_betas_are_two(betas):
    """torch: IndexError about a tuple; the third one is ignored."""
    with pytest.raises(ValueError, match=r"^Adam: betas must be a pair of numbers, got \(0\.9,"):
        optim.Adam([one()], betas=betas)
