"""The race page: it holds everything, loads nothing, and computes what the classes compute."""

import dataclasses
import hashlib
import re
from base64 import b64encode
from functools import cache, partial
from html.parser import HTMLParser

import javascript
import numpy as np
import pytest

pytest.importorskip("matplotlib")

from torch_lecture_ops import optim
from torch_lecture_ops.formula import exp
from torch_lecture_ops.pictures import RATES, SURFACES, Surface, descend, fair_rate, race_page
from torch_lecture_ops.pictures.choices import racer
from torch_lecture_ops.pictures.landscape import edge
from torch_lecture_ops.pictures.page import every_choice
from torch_lecture_ops.pictures.races import EVERYBODY

CLASSES = [getattr(optim, name) for name in optim.__all__ if name not in ("Buffer", "RuleOptimizer")]
MOMENTUM = {("SGD", "torch"): 0.9, ("SGD", "cs231n"): 0.9, ("SGD", "larson"): 0.001, ("Nesterov", "larson"): 0.001}
EMPTY = {"meta", "input"}  # elements without an end
page_of = cache(race_page)


class Reader(HTMLParser):
    """The elements of a page, their attributes and texts; complains of what is not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.opened = [], []
        self.feed(text)
        self.close()
        assert not self.opened, self.opened

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), attributes
        self.elements.append((tag, dict(attributes), []))
        if tag not in EMPTY:
            self.opened.append(self.elements[-1])

    def handle_endtag(self, tag):
        assert self.opened.pop()[0] == tag

    def handle_data(self, data):
        if self.opened:
            self.opened[-1][2].append(data)

    def texts(self, tag):
        return ["".join(texts) for name, _, texts in self.elements if name == tag]

    def attributes(self, name):
        return [attributes[name] for _, attributes, _ in self.elements if name in attributes]


def in_page(function, *given, text=None):
    """The value of a function of the page's scripts that draw nothing yet, under node."""
    scripts = scripts_of(text or page_of())  # begin with "use strict", which a function of ...given must not
    return javascript.run(f"(...given) => {{ ; {scripts} return ({function})(...given); }}", *given)


@cache
def scripts_of(text):
    return "".join(Reader(text).texts("script")[:4])


# ---------------------------------------------------------------- the text


def test_all_classes_and_forms_are_in_it():
    rows = [(cls, form) for cls in CLASSES for form in ("torch", *cls.forms)]
    for cls, form in rows:
        settings = {} if form == "torch" else {"form": form}
        if (cls.__name__, form) in MOMENTUM:
            settings["momentum"] = MOMENTUM[cls.__name__, form]
        assert cls.javascript(**settings) in page_of(), (cls, form)
    assert len(every_choice()) == len(rows) + 1  # SGD without momentum, too


def test_it_is_whole_and_loads_nothing():
    page = Reader(page_of())
    assert "://" not in page_of()
    assert not {"link", "img", "iframe", "object", "base"} & {tag for tag, _, _ in page.elements}
    names = {name for _, attributes, _ in page.elements for name in attributes}
    assert not {name for name in names if name in ("src", "href", "style", "srcset") or name.startswith("on")}
    ids = page.attributes("id")
    assert len(set(ids)) == len(ids)
    pointed = " ".join(page.attributes("aria-labelledby") + page.attributes("aria-describedby")).split()
    assert set(pointed) <= set(ids)
    assert set(re.findall(r'byId\("(\w+)"\)', page_of())) <= set(ids)


def test_only_its_own_scripts_and_style_may_run():
    page = Reader(page_of())
    (policy,) = (attributes["content"] for _, attributes, _ in page.elements if "http-equiv" in attributes)
    allowed = dict(part.split(" ", 1) for part in policy.split("; "))
    assert allowed.pop("script-src").split() == [hashed(text) for text in page.texts("script")]
    assert allowed.pop("style-src").split() == [hashed(text) for text in page.texts("style")]
    assert allowed == dict.fromkeys(["default-src", "base-uri", "form-action"], "'none'")


def hashed(text):
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def evil(x, y):
    """</script><img src=x onerror=alert(1)><!-- & \u2028"""
    return (x**2 + y**2) / 2


def test_no_text_of_an_argument_ends_a_script():
    surface = dataclasses.replace(SURFACES["bowl"], name="</script><b>", value=evil, source="<!--<script>")
    page, usual = Reader(race_page(surface)), Reader(page_of())
    assert [tag for tag, _, _ in page.elements] == [tag for tag, _, _ in usual.elements]
    assert "alert(1)" in page.texts("script")[0]
    assert "<img" not in race_page(surface)


@javascript.needs_node
def test_what_is_shown_at_first_follows_the_arguments():
    text = race_page("camel", ["adadelta:rho=0.5", "ADAM:larson"], (1, 0.5), 7, {"adam:larson": 0.25}, "dark")
    assert '"start": [1.0, 0.5]' in text
    found = in_page("() => [FIRST.steps, ...RACERS.map(({rate}) => rate ?? 0)]", text=text)
    assert found[:3] == [7, 0, 0.25]
    names = in_page("() => [FIRST.surface, FIRST.theme, ...FIRST.racers, ...RACERS.map(({name}) => name)]", text=text)
    assert names[:6] == ["camel", "dark", *["adadelta:rho=0.5", "adam:form=larson"] * 2]
    assert sorted(names[4:]) == sorted({"adadelta:rho=0.5", *every_choice()})


@javascript.needs_node
def test_as_a_picture_if_nothing_is_said():
    found = in_page("() => [FIRST.surface, FIRST.theme, ...FIRST.racers]")
    assert found == ["beale", None, *EVERYBODY]
    start, steps = in_page("() => [FIRST.start, FIRST.steps]")
    assert (tuple(start), steps) == (SURFACES["beale"].start, 200)


@javascript.needs_node
def test_the_picture_holds_the_start():
    text = race_page(start=(9, 0))
    found = in_page("() => [FIRST.start, SURFACES.find(({name}) => name === 'beale').box]", text=text)
    left, right, bottom, top = found[1]
    assert found[0] == [9, 0]
    assert left < 3 < right >= 9
    assert bottom < 0 < top


def takes_numbers_only(x, y):
    return float(x) + float(y)


NO_FORMULA = Surface("own", takes_numbers_only, takes_numbers_only, (), (0, 1, 0, 1), (0, 0), "")


@pytest.mark.parametrize(
    "given, error, words",
    [
        (dict(surface="hill"), ValueError, "unknown surface 'hill', choose from bowl, "),
        (dict(surface=NO_FORMULA), ValueError, "race_page: the surface 'own' must be a formula: "),
        (dict(optimizers=["adan"]), ValueError, "unknown optimizer 'adan', choose from sgd, "),
        (dict(optimizers=[]), ValueError, "at least one optimizer, got none"),
        (dict(optimizers={"mine": optim.SGD}), TypeError, "optimizers must be choices such as 'adam:larson', got "),
        (dict(rates={"adamw": 1.0}), ValueError, "a rate for 'adamw', which is none of sgd, "),
        (dict(rates={"adam": float("nan")}), ValueError, "the rate of adam must be a positive number, got nan"),
        (dict(optimizers=["adam:lr=0"]), ValueError, "the rate of adam:lr=0 must be a positive number, got 0"),
        (dict(start=(float("nan"), 0.0)), ValueError, "start must be two finite numbers, got nan, 0.0"),
        (dict(steps=0), ValueError, "race_page: steps must be at least 1, got 0"),
        (dict(theme="blue"), ValueError, "race_page: theme must be 'light' or 'dark', got 'blue'"),
    ],
)
def test_errors(given, error, words):
    with pytest.raises(error, match=re.escape(words)):
        race_page(**given)


# ---------------------------------------------------------------- what it computes

RUN = """(name, surface, start, steps, rate) => {
    const racer = RACERS.find(one => one.name === name), on = SURFACES.find(one => one.name === surface);
    const run = rate === null ? fairRun(on, racer, start, steps) : descend(on, racer, start, steps, rate);
    return {numbers: [run.points, run.values, run.rate], facts: [run.byRule, run.diverged, run.left]};
}"""


def page_run(name, surface, steps, rate=None, start=None):
    found = in_page(RUN, name, surface, start or SURFACES[surface].start, steps, rate)
    points, values, rate = javascript._whole(found["numbers"])
    return np.array(points), np.array(values), rate, found["facts"]


@javascript.needs_node
@pytest.mark.parametrize("name", every_choice())
@pytest.mark.parametrize("surface", SURFACES)
def test_a_run_is_that_of_the_class(name, surface):
    points, values, _, facts = page_run(name, surface, 40, 0.001)
    run = descend(surface, partial(racer(name).build, lr=0.001), steps=40)
    np.testing.assert_allclose(points, run.points.numpy(), rtol=0, atol=1e-10)
    np.testing.assert_allclose(values, run.values.numpy(), rtol=1e-10, atol=1e-10)
    assert np.abs(points[-1] - points[0]).max() > 1e-4  # it moves
    assert facts == [False, run.diverged, run.left]


@javascript.needs_node
@pytest.mark.parametrize("name", EVERYBODY)
@pytest.mark.parametrize("surface", ["valley", "beale", "rosenbrock", "himmelblau"])
def test_rates_follow_the_same_rule(name, surface):
    points, _, rate, facts = page_run(name, surface, 25)
    run = fair_rate(surface, racer(name).build, steps=25)
    assert rate == run.rate
    assert facts == [True, run.diverged, run.left]
    np.testing.assert_allclose(points, run.points.numpy(), rtol=0, atol=1e-7)


@javascript.needs_node
@pytest.mark.parametrize("name", ["adagrad", "rmsprop"])
def test_equally_low_but_for_rounding(name):
    """Many rates end in the minimum of the camel, -1.03, and differ in the last places."""
    _, _, rate, facts = page_run(name, "camel", 200)
    run = fair_rate("camel", racer(name).build, steps=200)
    assert (rate, facts) == (run.rate, [True, None, None])


@javascript.needs_node
@pytest.mark.parametrize("name", ["sgd", "nesterov", "adam"])
@pytest.mark.parametrize("slope", [1.0, 0.0])
def test_if_all_leave_or_all_are_equal(name, slope):
    """At the edge of a slope down that leads out; where all is flat."""
    functions = (lambda x, y: slope * x), (lambda x, y: (slope + 0 * x, 0 * y))
    plane = Surface("plane", *functions, (), (0, 1, 0, 1), (0, 0.5), "")
    text = race_page(plane, [name])
    found = in_page(RUN, name, "plane", plane.start, 5, None, text=text)
    run = fair_rate(plane, racer(name).build, steps=5)
    assert found["facts"] == [True, run.diverged, run.left] == [True, None, 1 if slope else None]
    assert found["numbers"][2] == run.rate == (max(RATES) if slope else min(RATES))
    np.testing.assert_allclose(found["numbers"][0], run.points, rtol=0, atol=1e-10)


@javascript.needs_node
def test_what_lies_in_a_picture():
    points = [(x, y) for x in (-3.1, -3, 0, 3, 3.1) for y in (-2.1, -2, 0, 2, 2.1)] + [(0, None)]
    found = in_page("points => points.map(([x, y]) => holds(SURFACES[0], [x, y ?? NaN]))", points)
    assert found == [y is not None and SURFACES["bowl"].holds(x, y) for x, y in points]


@javascript.needs_node
@pytest.mark.parametrize(
    "name, surface, rate", [("sgd", "rosenbrock", 0.1), ("momentum", "beale", 1.0), ("adam", "valley", 500.0)]
)
def test_divergence_and_leaving_are_told_alike(name, surface, rate):
    points, _, _, facts = page_run(name, surface, 30, rate)
    run = descend(surface, partial(racer(name).build, lr=rate), steps=30)
    assert facts == [False, run.diverged, run.left]
    assert run.left is not None
    if run.diverged is not None:
        assert len(points) - 1 in (run.diverged, run.diverged + 1)  # a value is infinite a step before its slope's work


@javascript.needs_node
def test_a_slope_of_a_user_is_taken():
    def hump(x, y):
        return -exp(-x * x - y * y)

    def slope(x, y):
        e = exp(-x * x - y * y)
        return 2 * x * e, 2 * y * e

    own = Surface("own", hump, slope, (), (-2.0, 2.0, -1.0, 1.0), (1.0, 0.5), "mine")
    text = race_page(own, ["adam"], steps=9)
    found = in_page(RUN, "adam", "own", own.start, 9, 0.1, text=text)
    expected = descend(own, partial(optim.Adam, lr=0.1), steps=9).points
    np.testing.assert_allclose(found["numbers"][0], expected, rtol=0, atol=1e-12)
    assert in_page("() => SURFACES.at(-1).formula", text=text) == "own"


@javascript.needs_node
def test_the_rates_to_choose_from():
    assert tuple(in_page("() => RATES")) == RATES


@javascript.needs_node
def test_the_distance_is_to_the_nearest_minimum():
    text = "(name, point) => distance(SURFACES.find(one => one.name === name), point)"
    assert in_page(text, "bowl", (3, 4)) == 5
    assert in_page(text, "himmelblau", (3, 2.5)) == 0.5


# ---------------------------------------------------------------- what it draws


@javascript.needs_node
@pytest.mark.parametrize("name", SURFACES)
def test_contours_lie_at_their_heights(name):
    text = """name => {
        const surface = SURFACES.find(one => one.name === name), z = heights(surface);
        return surface.levels.slice(1, -1).map(level => pieces(z, surface.fine, level));
    }"""
    surface = SURFACES[name]
    left, right, bottom, top = surface.box
    for level, pieces in zip(in_page("name => SURFACES.find(one => one.name === name).levels", name)[1:-1],
                             in_page(text, name), strict=True):  # fmt: skip
        assert pieces
        i, j = np.array([end for ends in pieces for end in zip(ends[::2], ends[1::2], strict=True)]).T
        assert (np.isclose(i, i.round()) | np.isclose(j, j.round())).all()  # on a line of the grid
        x, y = (low + (high - low) * k / (surface.fine - 1) for low, high, k in ((left, right, i), (bottom, top, j)))
        # Between two points of the grid the height is taken to be straight: off by an eighth of its bend.
        steps = [(right - left) / (surface.fine - 1) / 2, (top - bottom) / (surface.fine - 1) / 2]
        near = np.array([[at(surface, x + a * steps[0], y + b * steps[1]) for a in (-1, 0, 1)] for b in (-1, 0, 1)])
        assert (near.min((0, 1)) <= level).all()
        assert (near.max((0, 1)) >= level).all()


def at(surface, x, y):
    return np.vectorize(surface.value)(x, y)


@javascript.needs_node
def test_bands_are_between_the_levels():
    text = "() => { const s = SURFACES[0]; return [...bands(heights(s), s.fine, s.levels, 31, 21)]; }"
    surface = SURFACES["bowl"]
    left, right, bottom, top = surface.box
    x, y = np.meshgrid(np.linspace(left, right, 31), np.linspace(top, bottom, 21))
    levels = in_page("() => SURFACES[0].levels")
    expected = np.searchsorted(levels[1:-1], surface.value(x, y).ravel(), side="left")
    found = np.array(in_page(text))
    assert (found != expected).mean() < 0.01  # what lies on a level may be rounded to either side
    assert np.abs(found - expected).max() <= 1


@javascript.needs_node
@pytest.mark.parametrize(
    "start, end, around, expected",
    [
        ((1, 1), (2, 1), 0, [[1, 1], [2, 1]]),
        ((1, 1), (9, 1), 0, [[1, 1], [4, 1]]),
        ((1, 1), (9, 1), 0.5, [[1, 1], [6, 1]]),
        ((-4, 1), (8, 1), 0, [[0, 1], [4, 1]]),
        ((-4, 5), (8, 5), 0, None),
        ((-4, 0), (0, 4), 0, None),
        ((1, 1), (1, -1e300), 0, [[1, 1], [1, 0]]),
        ((1, 1), (1, 1), 0, [[1, 1], [1, 1]]),
    ],
)
def test_a_way_is_drawn_up_to_the_edge(start, end, around, expected):
    found = in_page("(...given) => clipped([0, 4, 0, 2], ...given)", start, end, around)
    assert found == expected
    if expected and around == 0 and start == (1, 1):
        assert edge(dataclasses.replace(NO_FORMULA, box=(0, 4, 0, 2)), start, end) == tuple(expected[1])


@javascript.needs_node
def test_24_racers_look_different():
    text = """() => {
        globalThis.theme = () => "light";
        return Array.from({length: 24}, (_, k) => styleOf(k)).map(({colour, dash}) => `${colour} ${dash}`);
    }"""
    assert len(set(in_page(text))) == 24
    assert len(every_choice()) <= 24
