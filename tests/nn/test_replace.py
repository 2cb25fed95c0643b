"""Models with torch's activations against the same models with ours."""

import copy
import doctest
import io
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from torch_lecture_ops import nn as ours
from torch_lecture_ops.functions.operation import IS_TORCH_2_11
from torch_lecture_ops.nn import replace, replace_activations, restore_activations

# torch's class, its arguments
ROWS = [
    ("ReLU", {}),
    ("ReLU", {"inplace": True}),
    ("LeakyReLU", {"negative_slope": 0.2}),
    ("LeakyReLU", {"negative_slope": -0.2}),
    ("LeakyReLU", {"inplace": True}),
    ("PReLU", {"num_parameters": 3, "init": 0.1}),
    ("ELU", {"alpha": 0.7}),
    ("ELU", {"inplace": True}),
    ("Sigmoid", {}),
    ("Tanh", {}),
    ("SiLU", {}),
    ("SiLU", {"inplace": True}),
    ("Softmax", {"dim": -1}),
    ("LogSoftmax", {"dim": 0}),
]
ROWS = [(name, options) for name, options in ROWS if hasattr(ours, name)]
EACH_ROW = pytest.mark.parametrize(("name", "options"), ROWS, ids=str)


def built(name, options):
    return getattr(nn, name)(**options).double()


def counted(model, *classes):
    return sum(type(m) in classes for m in model.modules())


def outcome(model, x, seed=0):
    """The output, the gradients and the buffers, which batch norm updates."""
    torch.manual_seed(seed)
    x = x.clone().requires_grad_()
    model.zero_grad()
    y = model(x.clone())  # which the model may overwrite
    y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in model.parameters()), *(b.clone() for b in model.buffers())]


def test_the_table_has_all_activations():
    assert {getattr(nn, name): getattr(ours, name) for name, _ in ROWS} == replace.OURS


# ------------------------------------------------------------------------------------------------------ one activation


@EACH_ROW
def test_the_values_and_gradients_are_torchs(name, options, device):
    torch.manual_seed(0)
    x = torch.randn(5, 3, dtype=torch.float64, device=device)
    module = built(name, options).to(device)
    expected = outcome(module, x)
    torch.testing.assert_close(outcome(replace_activations(module), x), expected)


@EACH_ROW
def test_all_but_the_class_is_kept(name, options):
    module = built(name, options).eval().requires_grad_(False)
    module.note = ["mine"]
    module.register_buffer("seen", torch.zeros(2))
    before, text = dict(vars(module)), repr(module)
    assert replace_activations(module) is module
    assert type(module) is getattr(ours, name)
    assert vars(module).keys() == before.keys()
    assert all(vars(module)[key] is value for key, value in before.items())
    assert repr(module) == text


@EACH_ROW
def test_ours_is_an_instance_of_torchs(name, options):
    assert isinstance(getattr(ours, name)(**options), getattr(nn, name))


@EACH_ROW
def test_restored_it_is_what_it_was(name, options):
    module = built(name, options).eval()
    before = dict(vars(module))
    assert restore_activations(replace_activations(module)) is module
    assert type(module) is getattr(nn, name)
    assert vars(module) == before
    made = restore_activations(getattr(ours, name)(**options))  # one that never was torch's
    assert type(made) is getattr(nn, name)
    assert vars(made).keys() == vars(getattr(nn, name)(**options)).keys()


def test_what_torch_does_not_have_is_not_restored():
    class Mine(ours.Tanh):
        pass

    for module in (ours.Affine(2.0), ours.Maxout(2, 3), ours.ReLU(subgradient=0.5), Mine()):
        before = type(module), repr(module)
        restore_activations(module)
        assert (type(module), repr(module)) == before


def test_restored_models_can_be_scripted():
    model = nn.Sequential(nn.Linear(3, 3), *(built(name, options) for name, options in ROWS if name != "PReLU")).float()
    x = torch.randn(5, 3)
    expected = model(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        scripted = torch.jit.script(restore_activations(replace_activations(model)))
    torch.testing.assert_close(scripted(x), expected)


@pytest.mark.parametrize(("name", "number"), [("LeakyReLU", "negative_slope"), ("ELU", "alpha")])
def test_the_output_can_be_what_is_saved(name, number):
    model = nn.Sequential(getattr(nn, name)(), nn.ReLU())
    assert replace_activations(model, save="output") is model
    assert model[0].save == "output"
    assert type(model[1]) is ours.ReLU
    assert "save" not in vars(restore_activations(model)[0])
    model = nn.Sequential(nn.ReLU(), getattr(nn, name)(-0.5))
    text = rf"^replace_activations: {name}\({number}=-0.5\): save='output' needs {number} >= 0, got -0.5"
    with pytest.raises(ValueError, match=text):
        replace_activations(model, save="output")
    assert type(model[0]) is nn.ReLU
    with pytest.raises(ValueError, match="save must be 'input' or 'output', got 'nothing'"):
        replace_activations(model, save="nothing")


@EACH_ROW
def test_ours_looks_for_no_attribute_that_torchs_lacks(name, options):
    cls = getattr(ours, name)
    missing = vars(cls(**options)).keys() - vars(built(name, options)).keys()
    assert all(hasattr(cls, attribute) for attribute in missing)


@EACH_ROW
def test_hooks_fire_and_their_handles_remove_them(name, options):
    fired = []

    def hook(text):
        return lambda *args, **kwargs: fired.append(text)

    module = built(name, options | ({"inplace": False} if "inplace" in options else {}))
    handles = [
        module.register_forward_pre_hook(hook("forward pre")),
        module.register_forward_pre_hook(hook("forward pre, keywords"), with_kwargs=True),
        module.register_forward_hook(hook("forward")),
        module.register_forward_hook(hook("forward, always"), always_call=True),
        module.register_full_backward_pre_hook(hook("backward pre")),
        module.register_full_backward_hook(hook("backward")),
        module.register_state_dict_pre_hook(hook("state_dict pre")),
        module.register_state_dict_post_hook(hook("state_dict post")),
        module.register_load_state_dict_pre_hook(hook("load_state_dict pre")),
        module.register_load_state_dict_post_hook(hook("load_state_dict post")),
    ]
    replace_activations(module)

    def use():
        fired.clear()
        module(torch.ones(5, 3, dtype=torch.float64, requires_grad=True)).sum().backward()
        module.load_state_dict(module.state_dict())
        return fired

    assert len(set(use())) == len(handles)
    for handle in handles:
        handle.remove()
    assert use() == []


@EACH_ROW
def test_a_second_time_changes_nothing(name, options):
    module = replace_activations(built(name, options))
    assert type(replace_activations(module)) is getattr(ours, name)


@EACH_ROW
def test_copies_and_pickles(name, options):
    model = replace_activations(nn.Sequential(nn.Linear(3, 3).double(), built(name, options)))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    x = torch.linspace(-2, 2, 15, dtype=torch.float64).reshape(5, 3)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)):
        assert type(twin[1]) is getattr(ours, name)
        torch.testing.assert_close(outcome(twin, x), outcome(model, x), rtol=0, atol=0)


def test_the_slope_at_zero_is_torchs():
    x = torch.zeros(1, requires_grad=True)
    replace_activations(nn.ReLU())(x).backward()
    assert x.grad == 0


def test_our_own_options_stay():
    assert replace_activations(ours.ReLU(subgradient=0.5)).subgradient == 0.5


def test_a_forward_attached_to_the_object_stays():
    module = nn.Tanh()
    module.forward = lambda x: x + 1
    assert replace_activations(module)(1) == 2


# --------------------------------------------------------------------------------------------------------------- places


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.attribute = nn.ReLU()
        self.list = nn.ModuleList([nn.Linear(2, 2), nn.Sigmoid()])
        self.dict = nn.ModuleDict({"a": nn.Tanh(), "b": nn.Sequential(nn.Sequential(nn.SiLU()))})
        self.none = None
        self.register_module("nothing", None)


def test_every_registered_module_is_found():
    net = replace_activations(Net())
    found = [net.attribute, net.list[1], net.dict["a"], net.dict["b"][0][0]]
    assert [type(m) for m in found] == [ours.ReLU, ours.Sigmoid, ours.Tanh, ours.SiLU]
    assert type(net) is Net
    assert type(net.list[0]) is nn.Linear


def test_one_object_at_several_places_stays_one():
    act = nn.ReLU()
    model = nn.Sequential(nn.Linear(2, 2), act, nn.Sequential(nn.Linear(2, 2), act), act)
    replace_activations(model)
    assert model[1] is model[2][1] is model[3] is act
    assert type(act) is ours.ReLU


def test_other_models_share_the_change_and_a_copy_spares_them():
    act = nn.ReLU()
    first, second = nn.Sequential(act), nn.Sequential(act)
    assert type(replace_activations(copy.deepcopy(first))[0]) is ours.ReLU
    assert type(second[0]) is nn.ReLU
    replace_activations(first)
    assert type(second[0]) is ours.ReLU


def test_what_refers_to_the_object_sees_ours():
    class Unregistered(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()
            self.steps = [self.act]
            self.call = lambda x: self.act(x)

    model = replace_activations(Unregistered())
    assert type(model.steps[0]) is ours.ReLU
    assert model.call(torch.tensor([-1.0, 2.0])).tolist() == [0.0, 2.0]


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, lambda m: torch.fx.symbolic_trace(m)])
def test_wrapped_models(wrap):
    model = wrap(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
    assert replace_activations(model) is model
    assert counted(model, ours.ReLU) == 1
    assert counted(model, nn.ReLU) == 0


@pytest.mark.parametrize("method", [False, True])
def test_a_compiled_model_compiles_anew(method):
    graphs = []

    def backend(graph, inputs):
        graphs.append({str(node.target) for node in graph.graph.nodes})
        return graph.forward

    class Network(nn.Module):  # torch's own, compiled by their method, are skipped until 2.13
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(3, 3), nn.ReLU())

        def forward(self, x):
            return self.layers(x)

    torch.compiler.reset()
    model = compiled = Network()
    if method:
        model.compile(backend=backend, fullgraph=True)
    else:
        compiled = torch.compile(model, backend=backend, fullgraph=True)
    x = torch.randn(4, 3)
    before = compiled(x)
    replace_activations(compiled)
    if IS_TORCH_2_11:
        torch.compiler.reset()  # its guards do not see another class
    assert torch.equal(compiled(x), before)
    assert len(graphs) == 2
    assert graphs[0] != graphs[1]


def test_transformer_layers():
    layers = nn.ModuleList(nn.TransformerEncoderLayer(4, 2, 8, activation=f) for f in (F.relu, nn.ReLU()))
    layers.eval()
    x = torch.randn(3, 2, 4)
    expected = [layer(x) for layer in layers]
    replace_activations(layers)
    assert layers[0].activation is F.relu
    assert type(layers[1].activation) is ours.ReLU
    torch.testing.assert_close([layer(x) for layer in layers], expected)
    with torch.no_grad():  # torch's fast path, which does not call the module
        torch.testing.assert_close([layer(x) for layer in layers], expected)


# ----------------------------------------------------------------------------------------------------------- left alone


class MyReLU(nn.ReLU):
    def forward(self, input):
        return super().forward(input) + 1


def parametrized():
    module = nn.PReLU()
    parametrize.register_parametrization(module, "weight", nn.Identity())
    return module


RELATIVES = [nn.ReLU6, nn.RReLU, nn.SELU, nn.CELU, nn.GELU, nn.Hardsigmoid, nn.Hardswish, nn.Softmin, nn.Softmax2d]


@pytest.mark.parametrize("build", [MyReLU, parametrized, *RELATIVES, nn.MSELoss, nn.CrossEntropyLoss, nn.Identity])
def test_left_alone(build):
    module = build()
    cls = type(module)
    replace_activations(nn.Sequential(module))
    assert type(module) is cls


def test_an_activation_within_a_subclass_is_replaced():
    class Twice(nn.ReLU):
        def __init__(self):
            super().__init__()
            self.first = nn.Tanh()

    module = replace_activations(Twice())
    assert type(module) is Twice
    assert type(module.first) is ours.Tanh


@pytest.mark.parametrize("compiled", [torch.jit.script, lambda m: torch.jit.trace(m, torch.ones(1, 3))])
def test_scripted_and_traced_modules_are_left_alone(compiled):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        inner = compiled(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
    classes = [type(m) for m in inner.modules()]
    model = replace_activations(nn.Sequential(inner, nn.ReLU()))
    assert [type(m) for m in model.modules()] == [nn.Sequential, *classes, ours.ReLU]
    assert replace_activations(inner) is inner
    assert (model(torch.randn(4, 3)) >= 0).all()


@pytest.mark.parametrize("what", [nn.ReLU, F.relu, [nn.ReLU()], None])
def test_only_modules_have_modules(what):
    got = type(what).__name__
    with pytest.raises(TypeError, match=rf"^replace_activations: module must be a torch.nn.Module, got .* {got}; "):
        replace_activations(what)


# --------------------------------------------------------------------------------------------------------------- models


def test_an_optimizer_keeps_training_the_parameter():
    model = nn.Sequential(nn.Linear(3, 4), nn.PReLU(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    parameters = list(model.parameters())
    replace_activations(model)
    assert all(p is q for p, q in zip(model.parameters(), parameters, strict=True))
    before = model[1].weight.item()
    model(torch.randn(8, 3)).sum().backward()
    optimizer.step()
    assert model[1].weight.item() != before


def test_modes_are_kept_one_by_one():
    model = Net()
    model.list.eval()
    before = [m.training for m in model.modules()]
    assert [m.training for m in replace_activations(model).modules()] == before


def test_the_state_dict_is_the_same():
    model = nn.Sequential(nn.Linear(3, 3), nn.PReLU(3), nn.BatchNorm1d(3), nn.ReLU())
    model[3].register_buffer("seen", torch.zeros(2))
    before = model.state_dict()
    after = replace_activations(model).state_dict()
    assert [(k, v.data_ptr()) for k, v in after.items()] == [(k, v.data_ptr()) for k, v in before.items()]
    assert after._metadata == before._metadata
    model.load_state_dict(before)


# torchvision's name, the activations replaced, those that stay torch's
VISION = [
    ("resnet18", {"ReLU": 9}, {}),
    ("mobilenet_v3_small", {"ReLU": 14}, {"Hardswish": 19, "Hardsigmoid": 9}),
    ("efficientnet_b0", {"SiLU": 49, "Sigmoid": 16}, {}),
]


@pytest.mark.parametrize(("name", "replaced", "kept"), VISION)
def test_torchvisions_models_compute_the_same(name, replaced, kept):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    twin = getattr(models, name)(weights=None, num_classes=5).double()
    model = replace_activations(copy.deepcopy(twin))

    for cls, n in replaced.items():
        assert counted(twin, getattr(nn, cls)) == counted(model, getattr(ours, cls)) == n
    assert sum(replaced.values()) == counted(model, *replace.OURS.values())
    assert counted(model, *replace.OURS) == 0
    for cls, n in kept.items():
        assert counted(model, getattr(nn, cls)) == n

    x = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    for mode in (True, False):  # dropout and stochastic depth draw the same numbers
        torch.testing.assert_close(outcome(model.train(mode), x), outcome(twin.train(mode), x))


def test_examples_of_the_docstrings():
    results = doctest.testmod(replace)
    assert results.attempted > 0
    assert results.failed == 0
