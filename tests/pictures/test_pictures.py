"""Pictures: the claim of each, from its own runs; that they are drawn, on axes of others too, light and dark."""

import io
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch

pytest.importorskip("matplotlib")

from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from torch_lecture_ops import nn, optim, pictures
from torch_lecture_ops.nn.flat import FLAT
from torch_lecture_ops.pictures import activations, descend, glorot_figures, landscape, races, schedules, style, valleys
from torch_lecture_ops.pictures.choices import SCHEDULES
from torch_lecture_ops.pictures.digits import SUBSET, digits
from torch_lecture_ops.pictures.runs import Descent, runs
from torch_lecture_ops.pictures.surfaces import SURFACES

needs_digits = pytest.mark.skipif(not SUBSET.exists(), reason="the digits of a checkout are not there")

# What is drawn, quickly; all but those of several panels take axes.
ON_AXES = {
    "valley": pictures.valley,
    "zigzag": pictures.zigzag,
    "saddle": pictures.saddle,
    "race": partial(pictures.race, "valley", ["sgd", "adam"], steps=5),
    "race that leaves": partial(pictures.race, "valley", ["sgd"], steps=5, rates={"sgd": 0.2}),
    "activation": partial(pictures.activation, nn.Tanh),
    "schedule": pictures.schedule,
}
OF_PANELS = {
    "momentum_forms": pictures.momentum_forms,
    "nesterov": pictures.nesterov,
    "glorot": pytest.param(pictures.glorot, marks=needs_digits),
}


def table(functions):
    return pytest.mark.parametrize("draw", functions.values(), ids=functions)


def texts(figure):
    for ax in figure.axes:
        yield from (ax.get_title(), ax.get_xlabel())
        yield from (text.get_text() for text in (ax.get_legend().texts if ax.get_legend() else ()))


# ---------------------------------------------------------------- how they look


@pytest.mark.parametrize("theme", style.THEMES)
@table(ON_AXES | OF_PANELS)
def test_a_picture_is_a_figure_in_the_colours_of_its_theme(draw, theme):
    figure = draw(theme=theme)
    assert isinstance(figure, Figure)
    png = figure._repr_png_()
    assert png.startswith(b"\x89PNG")
    assert len(png) > 10_000
    paper, ink, _ = style.GROUND[theme]
    known = {to_rgba(one) for one in [*style.COLOURS[theme], paper, ink]}
    assert figure.get_facecolor() == to_rgba(paper)
    for ax in figure.axes:
        assert all((ax.get_title(), ax.get_xlabel()))
        assert ax.title.get_color() == ax.xaxis.label.get_color() == ink
        assert {to_rgba(line.get_color()) for line in ax.lines} <= known


@table(ON_AXES | OF_PANELS)
def test_all_of_a_picture_is_in_it(draw):
    figure = draw()
    figure.draw_without_rendering()
    whole = figure.bbox.padded(1)
    for ax in figure.axes:
        legend = ax.get_legend()
        for part in (ax.title, ax.xaxis.label, *([legend] if legend else [])):
            extent = part.get_window_extent()
            assert whole.x0 <= extent.x0 < extent.x1 <= whole.x1, part
            assert whole.y0 <= extent.y0 < extent.y1 <= whole.y1, part


@table(ON_AXES)
def test_a_picture_goes_on_axes_of_others(draw):
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert draw(ax=right) is figure
    assert right.get_title()
    assert not left.get_title()


@table(OF_PANELS)
def test_a_picture_of_several_panels_goes_on_axes_of_others(draw):
    figure = Figure()
    first, *others = figure.subplots(1, len(draw().axes) + 1)
    assert draw(axes=others) is figure
    assert all(ax.get_title() for ax in others)
    assert others[0].get_legend()
    assert not first.get_title()
    with pytest.raises(ValueError, match=f"it has {len(others)} panels, so it needs as many axes, got 1"):
        draw(axes=[first])


def test_nothing_is_kept_by_pyplot_and_matplotlib_is_not_imported_before_it_is_needed():
    code = """if True:
        import sys
        import torch_lecture_ops.pictures as pictures
        assert not {name for name in sys.modules if name.split(".")[0] in ("matplotlib", "PIL", "lightning")}
        pictures.race("bowl", ["sgd"], steps=2)._repr_png_()
        assert "matplotlib.pyplot" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_matplotlib(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch_lecture_ops.pictures.figure", raising=False)
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'torch-lecture-ops\[plot\]'"):
        pictures.valley()


def test_an_unknown_theme():
    with pytest.raises(ValueError, match="'light' or 'dark', got 'drak'"):
        pictures.valley(theme="drak")


# ---------------------------------------------------------------- claims


def test_valley_momentum_overshoots_and_gradient_descent_does_not():
    plain, heavy = valleys.valley_runs()
    assert valleys.overshoot(plain) == 0
    assert valleys.overshoot(heavy) > 1
    assert plain.points[-1, 0].abs() > 1 > heavy.points[-1].norm()
    # The way down points across the valley: more than 60 degrees away from the minimum
    down, goal = -torch.tensor(SURFACES["valley"].slope(*plain.points[0])), -plain.points[0]
    assert torch.cosine_similarity(down, goal, dim=0) < 0.5


def test_zigzag_a_large_rate_changes_the_side_at_every_step():
    large, small = valleys.zigzag_runs(40)
    assert valleys.sign_changes(large.points[:, 1]) == 40
    assert valleys.sign_changes(small.points[:, 1]) == 0
    assert abs(large.points[-1, 0]) < 0.1 < 1 < abs(small.points[-1, 0])


def test_saddle_exactly_on_it_nothing_escapes():
    on, off, heavy, rms = valleys.saddle_runs(60)
    assert torch.equal(on.points[:, 1], torch.zeros(61, dtype=torch.float64))
    assert on.points[-1].norm() < 1e-4
    assert valleys.escape(on) is None
    assert valleys.escape(rms) < valleys.escape(heavy) < valleys.escape(off) < 60
    assert off.values[-1] == pytest.approx(-0.5, abs=1e-3)


def test_momentum_forms_are_the_same_until_the_rate_changes():
    (torch_, cs231n, larson), (falling_torch, falling_cs231n, falling_larson) = valleys.momentum_runs()
    assert (torch_.points - cs231n.points).norm(dim=1).max() < 1e-14
    assert (falling_torch.points - falling_cs231n.points).norm(dim=1).max() > 0.5
    assert torch.equal(falling_torch.points[:6], torch_.points[:6])  # the first five steps have the first rate
    assert (torch_.points - larson.points).norm(dim=1).max() > 0.5
    assert (falling_torch.points - falling_larson.points).norm(dim=1).max() > 0.1


@pytest.mark.parametrize("after", [1, 2, 4, 9])
def test_nesterov_arrows_are_those_of_the_step_that_was_taken(after):
    here, coast, gradient_here, gradient_ahead, next_point = valleys.nesterov_arrows(after)
    torch.testing.assert_close(here + coast + gradient_ahead, next_point, rtol=1e-14, atol=1e-15)
    assert (here + coast + gradient_here - next_point).norm() > 1e-3  # momentum goes elsewhere


@needs_digits
def test_glorot_keeps_the_spread_of_signals():
    inputs, labels = digits(count=glorot_figures.EXAMPLES)
    ratios = {}
    for normalized in (False, True):
        found = glorot_figures.signals(glorot_figures.tanh_network(normalized), inputs, labels)
        assert [one.shape for one in found.activations] == [one.shape for one in found.gradients]
        for kind, tensors in zip(found._fields, found, strict=True):
            ratios[kind, normalized] = float(tensors[-1].std() / tensors[0].std())
    assert ratios["activations", False] < 0.2 < 0.6 < ratios["activations", True] < 1.7
    assert ratios["gradients", False] > 5 > 2 > ratios["gradients", True] > 0.5


# ---------------------------------------------------------------- activations


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_slope_and_flat_parts_of_every_activation(name):
    module = activations.ACTIVATIONS[name]()
    x, value, slope, flat = activations.curve_of(module)
    twin = getattr(torch.nn, type(module).__name__, None)
    other = x.clone().requires_grad_()
    expected = twin().double()(other) if twin else other * 1.0
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(slope, torch.autograd.grad(expected.sum(), other)[0])
    assert flat.any() == (name in ("sigmoid", "tanh", "relu", "elu"))
    if flat.any():
        assert slope[flat].abs().max() < slope.abs().max() / 5 + 1e-12


def test_every_elementwise_activation_of_the_package_has_its_picture():
    assert {cls.__name__ for cls in activations.ACTIVATIONS.values()} == {*nn.__all__} & {*FLAT} - {"Maxout"}


def test_an_own_module_is_left_as_it_is():
    module = nn.PReLU()
    pictures.activation(module)
    assert module.weight.dtype is torch.float32
    assert module.weight.grad is None


@pytest.mark.parametrize("given, message", [
    ("silo", "unknown activation 'silo', choose from affine, sigmoid"),
    ("elu:beta=1", "'elu:beta=1': .*beta"),
    (torch.nn.Softmax(0), "must be elementwise, got Softmax"),
])  # fmt: skip
def test_what_is_no_activation(given, message):
    with pytest.raises(ValueError, match=message):
        pictures.activation(given)


# ---------------------------------------------------------------- schedules


def test_schedules_are_followed_by_a_real_optimizer():
    rates, momenta = schedules.followed(schedules.built("step:drop=0.5:every=2"), 6, 0.4)
    assert rates == [0.4, 0.4, 0.2, 0.2, 0.1, 0.1]
    assert set(momenta) == {0.5}
    rates, momenta = schedules.followed(schedules.built("annealing:start=0.5:end=0.9:steps=2"), 4, 0.4)
    assert momenta == pytest.approx([0.5, 0.7, 0.9, 0.9])
    assert set(rates) == {0.4}


def test_every_schedule_is_in_the_picture():
    labels = [text.get_text() for text in pictures.schedule().axes[0].get_legend().texts]
    assert labels == ["step", "exponential", "inverse", "power", "annealing: μ"]
    assert {*SCHEDULES} == {"none", *(label.removesuffix(": μ") for label in labels)}


@pytest.mark.parametrize("text, message", [
    ("stepp", "unknown schedule 'stepp', choose from step, exponential"),
    ("none", "unknown schedule 'none'"),
    ("step:drp=1", "'step:drp=1': .*drp"),
    ("step:drop=-1", "'step:drop=-1': StepDecay: drop must be"),
])  # fmt: skip
def test_what_is_no_schedule(text, message):
    with pytest.raises(ValueError, match=message):
        pictures.schedule([text])


# ---------------------------------------------------------------- races


def test_the_rule_and_every_rate_stand_in_the_picture():
    said = "\n".join(texts(pictures.race("valley", ["sgd", "adam:larson", "nesterov"], steps=30, rates={"sgd": 0.05})))
    said = " ".join(said.split())
    assert "30 steps. Each rate η is, of 1, 2, 5 × 10ᵏ from 0.0001 to 500, the one that ends lowest after" in said
    assert "SGD: as given" in said
    for run in runs("valley", ["sgd", "adam:larson", "nesterov"], steps=30, rates={"sgd": 0.05}):
        assert f"{run.label} η {run.rate:g}" in said
    assert "the same rule for all" in races.rule(runs("valley", ["sgd"], steps=2))
    assert "as given" in races.rule(runs("valley", ["sgd:lr=0.1"], steps=2))
    fast = replace(SURFACES["bowl"], slope=lambda x, y: (1e9, 0.0), name="fast")
    assert "(SGD: all leave it, so the lowest of all)" in races.rule(runs(fast, ["sgd"], steps=2))


@pytest.mark.parametrize("lr, said", [(0.2, "left at step 2"), (1e200, "diverged at step 1")])
def test_divergence_is_shown_as_such(lr, said):
    figure = pictures.race("valley", ["sgd"], steps=5, rates={"sgd": lr}, start=(-4.0, 0.5))
    assert any(said in text for text in texts(figure))
    (ax,) = figure.axes
    (cross,) = [line for line in ax.lines if line.get_marker() == "X"]
    ((x,), (y,)) = cross.get_data()
    left, right, bottom, top = SURFACES["valley"].box
    assert min(abs(x - left), abs(x - right), abs(y - bottom), abs(y - top)) < 1e-9  # on the edge
    assert left - 1e-9 <= x <= right + 1e-9
    assert bottom - 1e-9 <= y <= top + 1e-9


def make_run(*points):
    return Descent(SURFACES["bowl"], torch.tensor(points, dtype=torch.float64))  # x from -3 to 3, y from -2 to 2


@pytest.mark.parametrize("points, line, cross", [
    ([[0, 0], [1, 1], [2, 0]], [(0, 0), (1, 1), (2, 0)], None),
    ([[0, 0], [4, 0], [1, 0]], [(0, 0), (4, 0), (1, 0)], None),  # it comes back
    ([[0, 0], [1, 0], [4, 3], [50, 60]], [(0, 0), (1, 0), (4, 3)], (3, 2)),
    ([[0, 0], [1, 0], [1e300, 0], [1, 1e300]], [(0, 0), (1, 0), (6, 0)], (3, 0)),  # no further than the neighbourhood
    ([[0, 0], [1, 0], [float("inf"), 0], [float("nan")] * 2], [(0, 0), (1, 0), (1, 0)], (1, 0)),
    ([[5, 5], [6, 6]], [(5, 5)], (5, 5)),  # never in it
])  # fmt: skip
def test_what_is_drawn_of_a_run(points, line, cross):
    ax = Figure().subplots()
    way = landscape.draw_way(ax, make_run(*points), "somebody")
    torch.testing.assert_close(torch.tensor(way.line.get_xydata()), torch.tensor(line).double())
    assert [tuple(point) for point in way.cross.get_xydata()] == ([] if cross is None else [pytest.approx(cross)])
    assert len(way.end.get_xydata()) == (cross is None)


def test_steps_are_shown_one_by_one():
    ax = Figure().subplots()
    way = landscape.Way(ax, make_run([0, 0], [1, 0], [4, 0], [5, 0]), "somebody")
    for step, (points, is_gone) in enumerate([(1, False), (2, False), (3, True), (3, True)]):
        way.show(step)
        assert (len(way.line.get_xydata()), len(way.cross.get_xydata())) == (points, is_gone)


@pytest.mark.parametrize("name", SURFACES)
def test_contours_lie_between_the_lowest_and_the_highest_and_half_of_them_in_view(name):
    *_, z = landscape.heights(SURFACES[name])
    at = torch.tensor(landscape.levels(z), dtype=torch.float64)
    assert (at.diff() > 0).all()
    assert at[0] <= z.min()
    assert at[-1] >= z.max() * (1 - 1e-12)
    assert sum(((z > low) & (z < high)).any() for low, high in pairwise(at)) >= landscape.LEVELS // 2


def test_a_gif_shows_everybody_step_by_step(tmp_path):
    from PIL import Image

    pictures.animate(tmp_path / "race.gif", "valley", ["sgd", "nesterov"], steps=6, dpi=30)
    with Image.open(tmp_path / "race.gif") as gif:
        assert gif.n_frames == 7
        frames = []
        for number in range(7):
            gif.seek(number)
            frames.append(gif.convert("RGB").tobytes())
        assert gif.info["duration"] > 1000  # the last one stays
    assert len(set(frames)) == 7


def test_a_long_race_has_no_more_frames():
    from PIL import Image

    stream = io.BytesIO()
    pictures.animate(stream, "bowl", ["sgd:lr=0.01"], steps=250, dpi=20)
    with Image.open(stream) as gif:
        assert gif.n_frames == 85  # every third, and the last one


def test_a_bar_on_a_terminal_only(monkeypatch, capsys):
    pytest.importorskip("tqdm")
    runs("bowl", ["sgd"], steps=2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    runs("bowl", ["sgd"], steps=3)
    assert "choosing rates" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert len(runs("bowl", ["sgd"], steps=4)) == 1


def test_runs_of_a_race_are_those_of_the_optimizer():
    (run,) = runs("beale", ["rmsprop:larson"], steps=20)
    again = descend("beale", partial(optim.RMSprop, form="larson", lr=run.rate), steps=20)
    assert torch.equal(run.points, again.points)
