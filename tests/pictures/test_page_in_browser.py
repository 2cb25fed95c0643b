"""The race page as it is used: in a real Chromium, by mouse, keyboard and screen reader."""

import chromium
import pytest

pytest.importorskip("matplotlib")

from torch_lecture_ops.pictures import SURFACES, race_page
from torch_lecture_ops.pictures.races import EVERYBODY
from torch_lecture_ops.pictures.style import GROUND

pytestmark = chromium.needs_chromium

OVER = "document.getElementById('news').textContent.startsWith('The race is over after')"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium.browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "race.html"
    path.write_text(race_page(), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def opened(browser, address):
    """Opens the page; nobody complained on its console at the end."""
    pages = []

    def open(**window):
        pages.append(browser.open(address, **window))
        return pages[-1]

    yield open
    for page in pages:
        assert page.complaints() == []
        page.close()


@pytest.fixture
def page(opened):
    """Of a reader who wants no motion: it stands still."""
    return opened(calm=True)


def text_of(page, selector):
    return page.value(f"document.querySelector({selector!r}).innerText")


def rows(page):
    cells = "[...row.cells].map(cell => cell.innerText.trim())"
    return page.value(f"[...document.querySelectorAll('#results tr')].map(row => {cells})")


def middle(page, selector):
    x, y, width, height = page.value(f"""(({{x, y, width, height}}) => [x, y, width, height])(
        document.querySelector({selector!r}).getBoundingClientRect())""")
    return x + width / 2, y + height / 2


def pixel(page, x, y):
    """The colour of the picture there, as red, green, blue and how opaque."""
    return page.value(f"""(() => {{
        const context = document.createElement("canvas").getContext("2d", {{willReadFrequently: true}});
        context.drawImage(picture.canvas, -Math.round({x}), -Math.round({y}));
        return [...context.getImageData(0, 0, 1, 1).data];
    }})()""")


def opaque(colour):
    """#rrggbb likewise."""
    return [*bytes.fromhex(colour[1:]), 255]


def tab_to(page, condition):
    """Presses Tab until what is focused is so; every stop on the way is seen to be focused."""
    for _ in range(60):
        page.press("Tab")
        assert page.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        if page.value(f"(element => {condition})(document.activeElement)"):
            return
    raise AssertionError(f"Tab does not lead to {condition}")


def test_a_race_runs_by_itself_to_its_end(opened):
    page = opened()
    assert text_of(page, "#play") == "Pause"
    page.value("document.getElementById('speed').value = 120")
    page.until(OVER)
    assert text_of(page, "caption") == "After 200 of 200 steps"
    assert text_of(page, "#play") == "Play"
    assert [row[0].split("\n")[0].lower() for row in rows(page)] == list(EVERYBODY)
    assert all(row[3] == "200" for row in rows(page))
    assert "Lowest: Adam" in text_of(page, "#news")
    assert page.value("[race.start, race.steps]") == [list(SURFACES["beale"].start), 200]


def test_without_motion_it_waits_and_steps(page):
    assert page.value("race.playing") is False
    assert text_of(page, "#play") == "Play"
    page.click(*middle(page, "#step"))
    page.click(*middle(page, "#step"))
    assert text_of(page, "caption") == "After 2 of 200 steps"
    page.click(*middle(page, "#restart"))
    shown = page.until("race.position > 31 && shownStep()")  # half a second of 30 steps at a time
    assert shown % 15 == 0
    page.click(*middle(page, "#play"))
    assert page.value("race.playing") is False


def test_a_click_sets_the_start(page):
    x, y = page.value("(({x, y}) => { const [a, b] = picture.place([1, -2]); return [x + a, y + b]; })"
                      "(picture.canvas.getBoundingClientRect())")  # fmt: skip
    page.click(x, y)
    assert page.value("race.start") == pytest.approx([1, -2], abs=0.02)
    assert [float(page.value(f"document.getElementById('{name}').value")) for name in "xy"] == pytest.approx(
        page.value("race.start"), abs=1e-3
    )
    assert page.value("race.playing") is True
    page.value("goTo(0)")
    values = {row[1] for row in rows(page)}
    assert len(values) == 1  # all begin at the same height
    assert float(values.pop()) == pytest.approx(page.value("race.surface.value(...race.start)"), rel=1e-3)


def test_the_start_in_numbers(page):
    page.value("document.getElementById('x').value = 0.25")
    page.value("document.getElementById('steps').value = 30")
    page.click(*middle(page, "#start button"))
    assert page.value("[race.start, race.steps, race.playing]") == [[0.25, -1.5], 30, True]
    assert "after 30 steps from this start" in text_of(page, "#rule")
    page.value("document.getElementById('x').value = 99")
    page.click(*middle(page, "#start button"))
    assert page.value("race.start") == [0.25, -1.5]  # outside the picture: the browser says so
    assert page.value("document.getElementById('x').validity.rangeOverflow") is True


def test_a_slider_changes_a_rate(page):
    page.value("document.querySelector('#lines input[type=range]').focus()")
    before = page.value("racers[0].run.rate")
    page.press("ArrowRight", "ArrowRight")
    after = page.value("racers[0].run.rate")
    assert after == pytest.approx(before * 10**0.1, rel=0.06)
    assert page.value("racers[0].run.byRule") is False
    assert rows(page)[0][0] == f"SGD\nη {after:g} by hand"
    assert page.value("document.activeElement.ariaValueText") == f"{after:g}, by hand"
    page.press("Tab")
    assert text_of(page, ":focus") == "by hand; back to the rule"
    page.press("Enter")
    assert page.value("[racers[0].run.rate, racers[0].run.byRule]") == [before, True]
    assert rows(page)[0][0] == f"SGD\nη {before:g}"


def test_all_by_the_keyboard(page):
    tab_to(page, "element.id === 'surface'")
    tab_to(page, "element.id === 'picture'")
    page.press("ArrowRight", "ArrowRight", "ArrowUp")
    page.press("ArrowLeft", shift=True)
    left, right, bottom, top = SURFACES["beale"].box
    x, y = SURFACES["beale"].start
    x, y = x + (right - left) * (2 / 50 - 1 / 500), y + (top - bottom) / 50
    assert page.value("race.crosshair") == pytest.approx([x, y])
    page.until("document.getElementById('news').textContent.startsWith('Cross-hair at x −0.7')")
    page.press("Enter")
    assert page.value("race.start") == pytest.approx([x, y])
    assert page.value("race.playing") is True
    page.press(" ")
    assert page.value("race.playing") is False
    tab_to(page, "element.id === 'step'")
    step = page.value("race.position")
    page.press("Enter")
    assert page.value("race.position") == int(step) + 1
    tab_to(page, "element.type === 'checkbox'")
    page.press(" ")
    assert [row[0].split("\n")[0].lower() for row in rows(page)] == list(EVERYBODY[1:])
    tab_to(page, "element.tagName === 'SUMMARY'")
    page.press("Enter")
    assert "function SGD({p, g" in text_of(page, "#program")


def test_divergence_is_shown(page):
    page.value("setRate(racers[0], 0.9)")
    page.value("goTo(200)")
    assert rows(page)[0][0] == "SGD\nη 0.9 by hand"
    assert rows(page)[0][1] == "not a number"
    assert rows(page)[0][3] == f"diverged at {page.value('racers[0].run.diverged')}"
    assert f"Diverged: SGD at step {page.value('racers[0].run.diverged')}." in text_of(page, "#news")
    # A cross in its colour where it leaves the picture.
    x, y = page.value("picture.place(exit(race.surface, racers[0].run))")
    assert pixel(page, x, y) == opaque(page.value("racers[0].style.colour"))


def test_who_leaves_the_picture_is_named(page):
    page.value("begin(chooseSurface('bowl'), false)")
    page.value("setRate(racers[0], 2.1)")
    page.value("goTo(100)")
    left = page.value("racers[0].run.left")
    assert rows(page)[0][3] == f"left at {left}"
    page.value("goTo(200)")
    assert f"Left the picture: SGD at step {left}." in text_of(page, "#news")
    page.value(f"goTo({left} - 1)")
    assert rows(page)[0][3] == f"{left - 1}"
    assert text_of(page, "#news") == ""


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark(opened, dark):
    page = opened(calm=True, dark=dark)
    for look in ("", "light", "dark"):
        page.value(f"document.getElementById('theme').value = {look!r}")
        page.value("document.getElementById('theme').dispatchEvent(new Event('change'))")
        paper = GROUND[look or ("dark" if dark else "light")][0]
        assert pixel(page, 2, 2) == opaque(paper)
        colour = page.value("getComputedStyle(document.documentElement).backgroundColor")
        assert colour == f"rgb{tuple(opaque(paper)[:3])}"


@pytest.mark.parametrize("width", [400, 800, 1366, 2560])
def test_no_width_scrolls_sideways(opened, width):
    page = opened(calm=True, width=width, height=800)
    page.value("document.querySelectorAll('#lines input[type=checkbox]:not(:checked)').forEach(one => one.click())")
    for name in SURFACES:
        page.value(f"begin(chooseSurface({name!r}), false)")
        page.value("racers.forEach(racer => setRate(racer, 123))")
        page.value("goTo(200)")
        assert page.value("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), name
        assert page.value("picture.canvas.getBoundingClientRect().right <= innerWidth")


def test_sharp_where_dots_are_small(opened):
    page = opened(calm=True)
    page.resize(1000, 800, dots=2)
    page.until("picture.dots === 2 || (dispatchEvent(new Event('resize')), false)")
    assert page.value("picture.canvas.width / picture.canvas.getBoundingClientRect().width") == pytest.approx(
        2, abs=0.01
    )


def test_every_control_has_a_name(page):
    page.value("document.querySelector('details').open = true")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "checkbox", "slider", "spinbutton", "combobox", "application", "table"}
    found = [
        (n["role"]["value"], n["name"]["value"]) for n in nodes if n["role"]["value"] in roles and not n["ignored"]
    ]
    assert {role for role, _ in found} >= roles
    assert [role for role, name in found if not name.strip()] == []
    assert ("slider", "Rate of NAdam") in found
    assert ("application", text_of(page, "#formula")) in found


def test_pausing_and_playing_leaves_one_clock(opened):
    page = opened()
    page.value("for (let k = 0; k < 6; k++) play(k % 2 === 1)")
    counted = """new Promise(done => {
        const asked = requestAnimationFrame, since = [0, 0];
        globalThis.requestAnimationFrame = what => { since[0] += what === frame; return asked(what); };
        const beat = () => ++since[1] < 20 ? asked(beat) : done(since);
        asked(beat);
    })"""
    ours, beats = page.value(counted)
    assert beats == 20
    assert 15 <= ours <= 21


def test_how_it_ended_is_told_anew(page):
    page.value("goTo(200)")
    page.value("document.querySelectorAll('#lines input[type=checkbox]:checked').forEach(one => one.click())")
    assert text_of(page, "#news") == "The race is over after 200 steps."
    assert rows(page) == []
    page.click(*middle(page, "#play"))
    assert page.value("race.playing") is False  # nobody is there
    page.value("document.querySelector('#lines input[type=checkbox]').click()")
    page.value("goTo(200)")
    assert "Lowest: SGD" in text_of(page, "#news")


def test_what_is_announced_is_not_the_table(page):
    live = "[aria-live], [role=status], [role=alert], output"
    live = page.value(f"[...document.querySelectorAll({live!r})].map(one => one.id)")
    assert live == ["news"]
    page.value("goTo(3)")
    assert text_of(page, "#news") == ""
    page.value("goTo(200)")
    assert page.value(OVER)


def test_on_paper(page):
    page.call("Emulation.setEmulatedMedia", media="print")
    hidden = page.value("['#play', '#start', 'details'].every(name => !document.querySelector(name).checkVisibility())")
    assert hidden
    assert page.value("['#picture', 'table', '#rule'].every(name => document.querySelector(name).checkVisibility())")
    assert page.call("Page.printToPDF")["data"]


def test_the_policy_lets_nothing_else_run(browser, address):
    page = browser.open(address, calm=True)
    page.value("""(() => {
        const script = document.createElement("script");
        script.textContent = "window.ran = true";
        document.body.append(script);
    })()""")
    assert page.value("window.ran === undefined")
    assert page.value("fetch('data:,x').then(() => 'loaded', () => 'refused')") == "refused"
    assert "Content Security Policy" in str(page.complaints())
    page.close()
