"""A slice through the loss of a network: exact slopes, and directions that no scale of the weights changes."""

import pytest
import torch

from torch_lecture_ops import nn, optim
from torch_lecture_ops.pictures import digits, network_slice, runs, slices

GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.rand(20, 6, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.randint(3, (20,), generator=GENERATOR)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), nn.Tanh(), torch.nn.Linear(8, 3)).double()


@pytest.mark.parametrize("shape", [(5, 7), (4, 3, 2, 2)])
def test_every_filter_of_a_direction_is_as_long_as_its_own(shape):
    weight = torch.randn(shape, dtype=torch.float64)
    d = slices.filter_normalized(weight, torch.Generator().manual_seed(1))
    assert d.shape == weight.shape
    torch.testing.assert_close(d.flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1))
    assert slices.filter_normalized(torch.ones(5), torch.Generator()).tolist() == [0.0] * 5


def test_the_slope_is_that_of_the_value(model):
    surface = network_slice(model, INPUTS, LABELS)
    h = 1e-6
    for x, y in [(0.0, 0.0), (0.3, -0.7), surface.start]:
        by_differences = (
            (surface.value(x + h, y) - surface.value(x - h, y)) / (2 * h),
            (surface.value(x, y + h) - surface.value(x, y - h)) / (2 * h),
        )
        assert surface.slope(x, y) == pytest.approx(by_differences, rel=1e-6, abs=1e-8)


def test_in_the_middle_stands_the_network_as_it_is(model):
    before = {name: p.clone() for name, p in model.named_parameters()}
    surface = network_slice(model, INPUTS, LABELS)
    assert surface.value(0.0, 0.0) == pytest.approx(nn.functional.cross_entropy(model(INPUTS), LABELS).item())
    surface.slope(0.5, 0.5)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())


def test_a_grid_has_the_values_of_its_points(model):
    surface = network_slice(model, INPUTS, LABELS)
    x, y = torch.rand(2, 3, 4, dtype=torch.float64)
    found = surface.value(x, y)
    assert found.shape == (3, 4)
    assert found[1, 2].item() == surface.value(x[1, 2].item(), y[1, 2].item())


def test_weights_ten_times_as_large_that_do_the_same_have_the_same_slice(model):
    """The first layer times ten, the second one divided by it: with ReLU the same network."""
    model[1] = nn.ReLU()
    torch.nn.init.zeros_(model[0].bias)
    first = network_slice(model, INPUTS, LABELS, seed=3)
    points = [(0.2, 0.1), (-0.6, 0.9)]
    values = [first.value(*point) for point in points]
    with torch.no_grad():
        model[0].weight *= 10
        model[2].weight /= 10
    second = network_slice(model, INPUTS, LABELS, seed=3)
    assert [second.value(*point) for point in points] == pytest.approx(values, rel=1e-12)


def test_the_default_is_a_trained_network_on_digits():
    if not digits.SUBSET.exists():
        pytest.skip("the digits of a checkout are not there")
    first, second = network_slice(), network_slice()
    assert first.value(0.0, 0.0) < 0.1 < 1 < first.value(*first.start)
    assert first.slope(*first.start) == second.slope(*second.start)
    (run,) = runs(first, {"Adam": optim.Adam}, steps=15)
    assert run.final < 0.5


def test_digits_of_torchvisions_folder(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = torch.arange(3 * 28 * 28).remainder(256).to(torch.uint8)
    sizes = b"".join(n.to_bytes(4, "big") for n in (3, 28, 28))
    (raw / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + sizes + bytes(images.tolist()))
    (raw / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + (3).to_bytes(4, "big") + bytes([7, 2, 1]))
    found, labels = digits.digits(tmp_path, count=2)
    assert labels.tolist() == [7, 2]
    torch.testing.assert_close(found, images[: 2 * 784].reshape(2, 784) / 255.0, check_dtype=False)
    assert found.dtype is torch.float64


@pytest.mark.parametrize("folder", [None, "nowhere"])
def test_no_digits(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(digits, "SUBSET", tmp_path / "mnist_subset.npz")
    with pytest.raises(FileNotFoundError, match=r"digits: there are none in .*; name a folder that holds MNIST/raw"):
        digits.digits(folder and tmp_path / folder)


def test_what_is_no_network_for_a_slice(model):
    with pytest.raises(ValueError, match="a model needs the inputs and labels"):
        network_slice(model)
    with pytest.raises(ValueError, match=r"must be float64, got torch.float32; call model.double\(\) first"):
        network_slice(model.float(), INPUTS, LABELS)
