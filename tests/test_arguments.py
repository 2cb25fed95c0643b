"""Arguments of a wrong type: every public function, module, Function, init helper, optimizer and schedule says so."""

from __future__ import annotations

import inspect
import re
import typing

import numpy as np
import pytest
import torch
from torch import nn

from torch_lecture_ops import functions, optim
from torch_lecture_ops import nn as ours
from torch_lecture_ops.nn import functional, init
from torch_lecture_ops.optim import lr_scheduler

WRONG = {
    "list": [1.0],
    "float": 3.0,
    "str": "0.1",
    "NoneType": None,
    "numpy.ndarray": np.ones(3, np.float32),
}
X, LABELS = torch.rand(3, 4), torch.tensor([0, 1, 3])

# Right arguments of the functions, for the parameters without a default.
RIGHT = {
    "prelu": dict(input=X, weight=X[0]),
    "maxout": dict(x=X, pieces=2),
    "matmul": dict(a=X, b=X.T),
    "cross_entropy": dict(input=X, target=LABELS),
    **{name: dict(input=X, dim=0) for name in ("softmax", "log_softmax")},
    **{name: dict(a=X, b=X) for name in ("add", "mul", "maximum")},
    **{name: dict(x=X) for name in ("affine", "copy")},
    **{
        name: dict(input=X, target=X)
        for name in ("quadratic_cost", "mse_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits")
    },
    **{name: dict(tensor=torch.zeros(4, 2)) for name in init.__all__ if name.endswith("_")},
    "gain": dict(activation="elu"),
    "initialize": dict(model=nn.Linear(2, 2)),
}
# What the annotations of the parameters take, by the names of WRONG.
TAKES = {
    "Tensor": set(),
    "Tensor | None": {"NoneType"},
    "float | Tensor": {"float"},
    "float": {"float"},
    "float | None": {"float", "NoneType"},
    "int": set(),
    "int | None": {"NoneType"},
    "torch.dtype | None": {"NoneType"},
    "torch.Generator | None": {"NoneType"},
    "nn.Module": set(),
}
# What has these as its value is taken by its truth, as by torch's functions.
FLAGS = {"bool", "bool | None"}


def calls_of(module, names):
    """Each parameter of each function, with each wrong value."""
    for name in names:
        function = getattr(module, name)
        right = RIGHT.get(name, dict(input=X))
        for parameter in inspect.signature(function).parameters.values():
            if parameter.annotation in FLAGS or parameter.name.startswith("_"):
                continue
            for kind, value in WRONG.items():
                if kind not in TAKES.get(parameter.annotation, WRONG):
                    row = function, right, parameter.name, value, kind
                    yield pytest.param(*row, id=f"{name}-{parameter.name}-{kind}")


@pytest.mark.parametrize("function, right, argument, value, kind", [
    *calls_of(functional, functional.__all__), *calls_of(init, [name for name in init.__all__ if name.islower()]),
])  # fmt: skip
def test_functions_name_the_argument_and_its_type(function, right, argument, value, kind):
    function(**right)
    if argument == "param":  # torch's error, for a param that is no valid number
        error, message = ValueError, "gain: .* not a valid number|gain: param must be None for all but"
    else:
        who = r"(uniform_|normal_)" if argument == "generator" else function.__name__
        position = list(inspect.signature(function).parameters).index(argument) + 1
        place = rf"( \(position {position}\))?"
        error, message = TypeError, rf"^{who}\(\): argument '{argument}'{place} must be [\w. ]+, not {re.escape(kind)}$"
    with pytest.raises(error, match=message):
        function(**right | {argument: value})


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "elu", "silu", "prelu"])
def test_the_words_are_torchs(name, kind):
    arguments = [WRONG[kind], X[0]] if name == "prelu" else [WRONG[kind]]
    said = []
    for module in (functional, nn.functional):
        with pytest.raises(TypeError) as caught:
            getattr(module, name)(*arguments)
        said.append(str(caught.value))
    assert said[0] == said[1]


@pytest.mark.parametrize("name", ["leaky_relu", "elu"])
@pytest.mark.parametrize("kind", ["list", "str", "numpy.ndarray"])
def test_the_words_for_numbers_are_torchs(name, kind):
    said = []
    for module in (functional, nn.functional):
        with pytest.raises(TypeError) as caught:
            getattr(module, name)(X, WRONG[kind])
        said.append(str(caught.value))
    assert said[0] == said[1]


MODULES = {
    "Maxout": lambda: ours.Maxout(4, 2),
    "Softmax": lambda: ours.Softmax(0),
    "LogSoftmax": lambda: ours.LogSoftmax(0),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", [name for name in ours.__all__ if inspect.isclass(getattr(ours, name))])
def test_modules_name_the_type_of_what_they_are_called_with(name, kind):
    module = MODULES.get(name, getattr(ours, name))()
    is_loss = issubclass(type(module), nn.modules.loss._Loss) or name == "QuadraticCost"
    with pytest.raises(TypeError, match=rf"argument '\w+' \(position 1\) must be Tensor, not {re.escape(kind)}$"):
        module(WRONG[kind], *[X] * is_loss)
    if is_loss:
        message = rf"argument 'target' \(position 2\) must be Tensor, not {re.escape(kind)}$"
        with pytest.raises(TypeError, match=message):
            module(X, WRONG[kind])


FUNCTIONS = [name for name in functions.__all__ if hasattr(getattr(functions, name), "call")]
# What follows the first tensor.
OTHERS = {
    **{name: [X, "mean"] for name in ("Max", "Add", "Mul", "PReLU", "BinaryCrossEntropy")},
    "BinaryCrossEntropyWithLogits": [X, "mean"],
    "SquaredError": [X, 1.0, "mean"],
    "MatMul": [X.T],
    "Maxout": [2, 1],
    "Copy": [2],
    "Softmax": [0],
    "LogSoftmax": [0],
    "CrossEntropy": [LABELS, None, "mean", -100, 0.0],
    "LeakyReLU": [False, 0.1],
    "ELU": [False, 1.0],
    "Affine": [False, 1.0, 0.0],
}


@pytest.mark.parametrize("kind", ["list", "float", "str", "numpy.ndarray"])  # None is a tensor that is not given
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("grad", [True, False])
def test_functions_of_autograd_name_the_type(name, kind, grad):
    others = OTHERS.get(name, [])
    with torch.set_grad_enabled(grad):
        getattr(functions, name).call(X, *others)
        with pytest.raises(TypeError, match=rf"^{name}\(\): argument '\w+' \(position 1\) must be Tensor, not {kind}$"):
            getattr(functions, name).call(WRONG[kind], *others)


OPTIMIZERS = [
    name for name in optim.__all__ if name not in ("Buffer", "RuleOptimizer") and inspect.isclass(getattr(optim, name))
]
NUMBERS = [
    (name, option)
    for name in OPTIMIZERS
    for option, parameter in inspect.signature(getattr(optim, name)).parameters.items()
    if isinstance(parameter.default, (int, float, tuple)) and not isinstance(parameter.default, bool)
]


@pytest.mark.parametrize("kind", ["list", "str", "NoneType", "numpy.ndarray"])
@pytest.mark.parametrize("name, option", NUMBERS)
def test_optimizers_name_the_option_and_its_type(name, option, kind):
    cls, p = getattr(optim, name), nn.Parameter(torch.ones(2))
    if option == "betas" and kind == "list":
        with pytest.raises(ValueError, match="betas must be a pair of numbers"):
            cls([p], betas=WRONG[kind])
        with pytest.raises(TypeError, match=rf"^{name}\(\): argument 'betas' must be float or Tensor, not str$"):
            cls([p], betas=("0.9", 0.99))
        return
    wanted = "tuple" if option == "betas" else "float or Tensor"
    message = rf"^{name}\(\): argument '{option}' must be {wanted}, not {re.escape(kind)}$"
    with pytest.raises(TypeError, match=message):
        cls([p], **{option: WRONG[kind]})
    with pytest.raises(TypeError, match=message):  # of one group alone
        cls([{"params": [p], option: WRONG[kind]}])


@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5), np.array(0.5), 1, torch.tensor(0.5)], ids=repr)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_number_is_taken(name, value):
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    optimizer = getattr(optim, name)([p], lr=value)
    optimizer.step()
    assert not torch.equal(p, torch.ones(2))


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_form_that_is_no_word_is_named(name, kind):
    with pytest.raises(ValueError, match=rf"^{name}: form must be one of 'torch', .*, got "):
        getattr(optim, name)([nn.Parameter(torch.ones(2))], form=WRONG[kind])


SCHEDULES = {
    "StepDecay": {},
    "ExponentialDecay": dict(k=0.1),
    "InverseTimeDecay": dict(k=0.1),
    "PowerCooling": dict(epsilon=0.1),
    "MomentumAnnealing": dict(steps=2),
}


@pytest.mark.parametrize("kind", ["list", "str", "numpy.ndarray"])
@pytest.mark.parametrize("name, option", [
    (name, option) for name in SCHEDULES
    for option in inspect.signature(getattr(lr_scheduler, name)).parameters if option != "optimizer"
])  # fmt: skip
def test_schedules_name_the_option_and_what_came(name, option, kind):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.5)
    with pytest.raises(ValueError, match=rf"^{name}: {option} must be .*, got .*"):
        getattr(lr_scheduler, name)(optimizer, **SCHEDULES[name] | {option: WRONG[kind]})


# ---- closed choices


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_forms_are_spelled_out_for_type_checkers(name):
    cls = getattr(optim, name)
    form = typing.get_type_hints(cls.__init__)["form"]
    assert typing.get_args(form) == ("torch", *cls.forms)


CHOICES = {
    lr_scheduler.MomentumAnnealing: dict(form=("linear", "sutskever")),
    functional.quadratic_cost: dict(reduction=("notes", "sum", "mean")),
    ours.QuadraticCost: dict(reduction=("notes", "sum", "mean")),
    init.initialize: dict(scheme=("auto", *init.SCHEMES)),
    **{getattr(init, name): dict(mode=("average", "forward", "backward")) for name in init.__all__ if name[-1] == "_"},
    **{
        getattr(functional, name): dict(reduction=("none", "mean", "sum"))
        for name in functional.__all__
        if "reduction" in inspect.signature(getattr(functional, name)).parameters and name != "quadratic_cost"
    },
}


@pytest.mark.parametrize("function", CHOICES, ids=lambda function: function.__qualname__)
def test_choices_are_spelled_out_for_type_checkers(function):
    hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    assert {name: typing.get_args(hints[name]) for name in CHOICES[function]} == CHOICES[function]


def test_no_public_choice_is_a_mere_string():
    """What is annotated as text is text: whatever has a list of choices is a Literal."""
    callables = [getattr(functional, name) for name in functional.__all__]
    callables += [getattr(init, name) for name in init.__all__] + [getattr(optim, name) for name in OPTIMIZERS]
    callables += [getattr(lr_scheduler, name) for name in SCHEDULES]
    for function in callables:
        for parameter in inspect.signature(function).parameters.values():
            assert not (isinstance(parameter.default, str) and parameter.annotation == "str"), (function, parameter)
