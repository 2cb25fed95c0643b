"""Rules in LaTeX and in JavaScript: read back and run, they are what the loop engine computes."""

import javascript
import numpy as np
import pytest
import torch
from latex_reader import Reader, split

from torch_lecture_ops import optim
from torch_lecture_ops.formula import where
from torch_lecture_ops.formula.latex import letter_of

STEPS = 50
DEFAULTS = [dict(lr=0.02), dict(lr=0.02, weight_decay=0.1, maximize=True)]
DEFAULTS += [dict(lr=0.02, weight_decay=0.1, decoupled_weight_decay=True)]

# Class, form -> rows of keyword arguments, besides DEFAULTS and the rows of all tests.
MORE = {
    ("SGD", "cs231n"): [dict(lr=0.02, momentum=0.9), dict(lr=0.02, momentum=0.9, nesterov=True, weight_decay=0.1)],
    ("SGD", "larson"): [dict(lr=0.02, momentum=0.01)],
    ("Nesterov", "torch"): [dict(lr=0.02, momentum=0.5)],
    ("Adagrad", "larson"): [dict(lr=0.05, gamma=0.5, initial_accumulator_value=0.75)],
    ("RMSprop", "torch"): [dict(lr=0.02, momentum=0.5, centered=True, initial_accumulator_value=0.75)],
    ("RMSprop", "larson"): [dict(lr=0.02, initial_accumulator_value=1.0)],
}
CLASSES = [getattr(optim, name) for name in optim.__all__ if name not in ("Buffer", "RuleOptimizer")]


class Signs(optim.RuleOptimizer):
    """A rule of a user: Lion, without hints of its options in the signature."""

    buffers = {"m": optim.Buffer("exp_avg")}

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, **options):
        options = dict(decoupled_weight_decay=True) | options
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay, **options))

    @staticmethod
    def rule(p, g, m, *, lr, beta1, beta2):
        u = beta1 * m + (1 - beta1) * g
        sign = where(u > 0, 1.0, where(u < 0, -1.0, 0.0))
        return p - lr * sign, beta2 * m + (1 - beta2) * g


def pytest_generate_tests(metafunc):
    if "row" in metafunc.fixturenames:
        rows = [
            (cls, form, kwargs)
            for cls in [*CLASSES, Signs]
            for form in ("torch", *cls.forms)
            for kwargs in DEFAULTS + MORE.get((cls.__name__, form), [])
        ]
        ids = [f"{cls.__name__},{form},{kwargs}" for cls, form, kwargs in rows]
        metafunc.parametrize("row", rows, ids=ids)


@pytest.fixture
def case_row(case):
    return getattr(optim, case.name), "torch", case.kwargs


def run_loop(table, cls, form, kwargs):
    """The gradients of the steps, and the parameter after each, by the loop engine in float64."""
    with table.default_dtype(torch.float64):
        p = torch.nn.Parameter(table.values((4,), 1, 2, torch.float64, 0))
        gradients = [table.values((4,), 0.5, 2, torch.float64, 1 + step) for step in range(STEPS)]
        form = {} if form == "torch" else {"form": form}
        optimizer = cls([p], foreach=False, fused=False, **form, **kwargs)
        path = [p.tolist()]
        for p.grad in gradients:
            table.step(optimizer)
            path.append(p.tolist())
    return optimizer, [g.tolist() for g in gradients], path


def numbers_of(optimizer):
    """The numbers of the group as a rule takes them."""
    group = optimizer.param_groups[0]
    betas = dict(zip(("beta1", "beta2"), group.get("betas", ()), strict=False))
    numbers = {**optim.rule_optimizer.options_of(type(optimizer)), **group, **betas}
    return {
        name: float(value)
        for name, value in numbers.items()
        if isinstance(value, (float, int, torch.Tensor)) and not isinstance(value, bool)
    }


def check_latex(table, cls, form, kwargs):
    optimizer, gradients, path = run_loop(table, cls, form, kwargs)
    numbers = numbers_of(optimizer)
    group = {**numbers, "mu_product": 1.0}
    starts = {letter: group.get(buffer.initial, buffer.initial) for letter, buffer in cls.buffers.items()}
    starts["mu_product"] = 1.0
    values = {**numbers, **starts, "t": 0.0, "p": np.array(path[0])}
    letters = {letter_of(name): np.asarray(value) for name, value in values.items()}
    lines = list(map(split, cls.latex(form, **kwargs)))
    only_first = {left for left, _, first in lines if first}
    is_counted = any(left == "t" for left, _, _ in lines)
    for number, gradient in enumerate(gradients):
        letters["g"] = np.array(gradient)
        for left, right, first in lines:
            if first if number else (not first and left in only_first):
                continue
            letters[left] = Reader(letters).value(right)
        assert is_counted or letters["t"] == 0
        np.testing.assert_allclose(letters["p"], path[number + 1], rtol=1e-12)


def check_javascript(table, cls, form, kwargs):
    _, gradients, path = run_loop(table, cls, form, kwargs)
    text = f"""(start, gradients) => {{
        {cls.javascript(form, **kwargs)}
        let states = start.map(p => ({{p}}));
        return gradients.map(gradient => {{
            states = states.map((state, k) => {cls.__name__}({{...state, g: gradient[k]}}));
            return states.map(state => state.p);
        }});
    }}"""
    # Math.pow of node and that of the C library may differ in the last place, and powers make the bias corrections.
    np.testing.assert_allclose(javascript.run(text, path[0], gradients), path[1:], rtol=1e-12)


def test_latex(table, row):
    check_latex(table, *row)


def test_latex_of_options(table, case_row):
    check_latex(table, *case_row)


@javascript.needs_node
def test_javascript(table, row):
    check_javascript(table, *row)


@javascript.needs_node
def test_javascript_of_options(table, case_row):
    check_javascript(table, *case_row)


@javascript.needs_node
@pytest.mark.parametrize("form", ["torch", "larson"])
def test_the_point_ahead(table, form):
    kwargs = dict(lr=0.02, momentum=0.5)
    optimizer, _, path = run_loop(table, optim.Nesterov, form, kwargs)
    ((p, state),) = optimizer.state.items()
    letter = {"torch": "v", "larson": "g_before"}[form]
    (kept,) = state.values()
    with optimizer.lookahead():
        ahead = p.tolist()
    function = optim.Nesterov.javascript(form, **kwargs)
    text = f"(p, kept) => {{ {function} return Nesterov.ahead({{p, {letter}: kept}}); }}"
    numbers = [javascript.run(text, *pair) for pair in zip(path[-1], kept.tolist(), strict=True)]
    np.testing.assert_allclose(numbers, ahead, rtol=1e-15)
    assert ahead != path[-1]


def test_as_on_the_slide():
    assert optim.Adam.latex() == (
        r"t = t + 1",
        r"m = \beta_{1}\, m + \left(1 - \beta_{1}\right)\, g",
        r"v = \beta_{2}\, v + \left(1 - \beta_{2}\right)\, g^{2}",
        r"\hat{m} = \frac{m}{1 - \beta_{1}^{t}}",
        r"\hat{v} = \frac{v}{1 - \beta_{2}^{t}}",
        r"p = p - \frac{\eta\, \hat{m}}{\sqrt{\hat{v}} + \varepsilon}",
    )
    assert optim.SGD.latex(momentum=0.9, nesterov=True, form="cs231n") == (
        r"v_{\text{before}} = v",
        r"v = \mu\, v_{\text{before}} - \eta\, g",
        r"p = p - \mu\, v_{\text{before}} + \left(1 + \mu\right)\, v",
    )
    assert optim.RMSprop.latex() == (
        r"v = \alpha\, v + \left(1 - \alpha\right)\, g^{2}",
        r"p = p - \eta\, \frac{g}{\sqrt{v} + \varepsilon}",
    )


def test_what_the_constructor_refuses_is_refused():
    with pytest.raises(TypeError, match="momentun"):
        optim.SGD.latex(momentun=0.9)
    with pytest.raises(ValueError, match="form must be one of 'torch', 'cs231n', 'larson', got 'slide'"):
        optim.SGD.javascript(form="slide")
    with pytest.raises(ValueError, match="form='larson' has no amsgrad"):
        optim.Adam.latex("larson", amsgrad=True)


def test_in_a_notebook():
    assert optim.SGD.latex()._repr_latex_() == "$$\n\\begin{aligned}\np &= p - \\eta\\, g\n\\end{aligned}\n$$"
