"""What initialization draws from, in LaTeX: read back, it is what the functions use."""

import math
from itertools import product
from typing import get_args

import numpy as np
import pytest
import torch
from latex_reader import Reader

from torch_lecture_ops import nn

SCHEMES = [scheme for scheme in get_args(nn.init.Scheme) if scheme != "auto"]
ACTIVATIONS = ["tanh", "sigmoid", "relu", "leaky_relu", "elu", "maxout", torch.nn.functional.gelu]


@pytest.mark.parametrize("scheme, activation, mode", [*product(SCHEMES, ACTIVATIONS, [None, *get_args(nn.init.Mode)])])
def test_read_back(scheme, activation, mode):
    letters = {r"n_{\text{in}}": np.float64(300), r"n_{\text{out}}": np.float64(200), "a": np.float64(0.01)}
    *lines, law = nn.init.latex(scheme, activation, mode)
    for line in lines:
        left, right = line.split(" = ")
        letters[left] = Reader(letters).value(right)
    torch.manual_seed(0)
    options = {} if mode is None else {"mode": mode}
    w = getattr(nn.init, f"{scheme}_")(torch.empty(200, 300, dtype=torch.float64), activation, **options)
    torch.manual_seed(0)
    wanted = torch.empty(200, 300, dtype=torch.float64)
    if law == r"w \sim U\left[-b, b\right]":
        wanted.uniform_(-letters["b"], letters["b"])
    else:
        assert law == r"w \sim N\left(0, \sigma^{2}\right)"
        wanted.normal_(0, letters[r"\sigma"])
    torch.testing.assert_close(w, wanted, rtol=1e-14, atol=0)


def test_what_there_is_not():
    with pytest.raises(ValueError, match=r"scheme must be 'glorot_uniform', .*, got 'auto'"):
        nn.init.latex("auto")
    with pytest.raises(ValueError, match=r"mode must be .*, got 'fan_in'"):
        nn.init.latex("he_normal", mode="fan_in")
    with pytest.raises(ValueError, match=r"activation must be one of .*, got 'swoosh'"):
        nn.init.latex("he_normal", "swoosh")


def test_gains_of_the_notes_are_roots():
    assert nn.init.latex("glorot_normal", "relu")[0] == r"\mathrm{gain} = \sqrt{2}"
    assert math.isclose(float(nn.init.latex("glorot_normal", "elu")[0].split(" = ")[1]), nn.init.gain("elu"))
