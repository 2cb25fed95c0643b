"""Every public name has its page, every formula its card, and what a card says follows from the formula."""

import ast
import doctest
import inspect
import re
from textwrap import dedent
from xml.etree import ElementTree

import pytest
from generator import cards, catalogue, docstrings, examples, formulas, reference

from torch_lecture_ops import functions, nn, optim
from torch_lecture_ops.optim import lr_scheduler

NAMES = catalogue.public_names()
CARDS = catalogue.cards()
FORMS = [pytest.param(card, form, id=f"{card.page}-{form}") for card in CARDS for form in ("torch", *card.forms)]
DESCRIBES = r"^\.\. (?:auto(?:class|function)|py:(?:class|data)):: (\S+)"


@pytest.fixture(scope="module")
def pages():
    """All pages without pictures and without what examples print."""
    return dict([*cards.pages(lambda card, form: None, run=False), *reference.pages()])


def test_every_public_name_is_described_once(pages):
    described = re.findall(DESCRIBES, "\n".join(pages.values()), re.MULTILINE)
    assert sorted(described) == sorted(NAMES)


def test_every_public_module_has_a_page_that_lists_its_names(pages):
    for module in catalogue.modules():
        listed = set(re.findall(r"^    \* - :py:obj:`\w+ <([\w.]+)>`", pages[f"reference/{module}"], re.MULTILINE))
        assert listed == {name for name in NAMES if name.rpartition(".")[0] == module}


def test_every_page_is_in_a_table_of_contents(pages):
    for page in pages:
        folder, _, name = page.rpartition("/")
        if name != "index":
            assert re.search(rf"^    ({name}|.* <{re.escape(name)}>)$", pages[f"{folder}/index"], re.MULTILINE)


def test_all_formulas_have_cards():
    shown = {card.kind: set() for card in CARDS}
    for card in CARDS:
        shown[card.kind] |= {name.rpartition(".")[2] for name in card.names}
    ours = {name for name in lr_scheduler.__all__ if getattr(lr_scheduler, name).__module__ == lr_scheduler.__name__}
    assert shown["optimizers"] == set(optim.__all__) - {"Buffer", "RuleOptimizer"}
    assert shown["schedules"] == ours - {"ClosedFormLR"}
    assert shown["gates"] == {"Add", "Mul", "Copy", "Max", "MatMul", "add", "mul", "copy", "maximum", "matmul"}
    of_functions = shown["activations"] | shown["gates"] | shown["losses"]
    assert of_functions >= set(functions.__all__) - {"Elementwise", "Pointwise", "Rowwise", "check_slope"}
    modules = {name for name in nn.__all__ if inspect.isclass(getattr(nn, name))}
    assert of_functions >= modules | set(nn.functional.__all__)
    assert set(nn.init.__all__) - {"latex"} == shown["initialization"]
    assert shown["callbacks"] == set(catalogue.modules()["torch_lecture_ops.callbacks"].__all__)


def test_every_form_has_a_card():
    for card in CARDS:
        if card.kind == "optimizers" and card.title != "AdamW":  # whose forms are Adam's
            assert set(card.forms) == set(card.value.forms)


@pytest.mark.parametrize(("card", "form"), FORMS)
def test_a_card_says_where_the_formula_stands_and_how_torch_differs(card, form):
    documented = card.value if form == "torch" else card.value.forms[form]
    assert docstrings.summary(documented)
    if card.kind != "callbacks":
        assert docstrings.source(documented)
        assert docstrings.difference(documented)


@pytest.mark.parametrize(("card", "form"), FORMS)
def test_a_card_has_a_formula(card, form):
    written = list(formulas.written(card, form))
    assert bool(written) == (card.kind != "callbacks" and card.title not in ("gain", "initialize"))
    for options, latex in written:
        assert latex.startswith(r"\begin{aligned}")
        assert options or latex == written[0][1]
    assert len({latex for _, latex in written}) == len(written)


@pytest.mark.parametrize(("card", "form"), FORMS)
def test_a_cards_formula_is_shown_by_browsers(card, form):
    """As MathML, of which everything is an element: what the converter does not know, it writes as it is."""
    pytest.importorskip("sphinx")
    pytest.importorskip("latex2mathml")
    from generator.extension import mathml

    for _, latex in formulas.written(card, form):
        shown = ElementTree.fromstring(mathml(latex, "block"))
        text = "".join(shown.itertext())
        assert not set(text) & set("&\\}$")
        assert "{" not in text or "cases" in latex
        assert len(list(shown.iter("{http://www.w3.org/1998/Math/MathML}mtr"))) >= latex.count(r"\\") + 1


@pytest.mark.parametrize(("card", "form"), FORMS)
@pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning")
def test_a_cards_example_runs(card, form):
    code = examples.example(card, form)
    assert len([line for line in code.splitlines() if line]) <= (30 if card.kind == "callbacks" else 11)
    assert examples.output(code)[0] or card.kind == "callbacks"
    assert any(name.rpartition(".")[2] in code for name in card.names)


def test_forms_print_different_numbers():
    """But for Adam's epsilon inside of the root, which is too small to be seen."""
    for card in (card for card in CARDS if card.forms):
        printed = [examples.output(examples.example(card, form))[0] for form in ("torch", *card.forms)]
        assert len(set(printed)) >= len(printed) - 1


def test_drawings(tmp_path):
    """A picture of each kind of card, light and dark, which are not the same."""
    pytest.importorskip("matplotlib")
    from generator import drawings

    draw = drawings.into(tmp_path / "pictures")
    for kind in ("optimizers", "schedules", "activations", "gates", "losses", "initialization"):
        card = [card for card in CARDS if card.kind == kind][-2]
        file = draw(card, "torch")
        light, dark = ((tmp_path / f"{file}-{theme}.png").read_bytes() for theme in ("light", "dark"))
        assert light.startswith(b"\x89PNG")
        assert light != dark


RULES = [card for card in CARDS if card.kind in ("optimizers", "schedules")]


@pytest.mark.parametrize("card", RULES, ids=[card.page for card in RULES])
def test_a_card_shows_code_that_is_the_rule(card, pages):
    (code,) = re.findall(r"rubric:: The code\n\n\.\. code-block:: python\n\n((?:    .*\n|\n)+)", pages[card.page])[:1]
    assert isinstance(ast.parse(dedent(code)), ast.Module)
    assert "Any" not in code
    assert '"""' not in code


@pytest.mark.parametrize("module", [cards, catalogue, docstrings, examples, formulas, reference])
def test_docstrings_of_the_generator(module):
    assert doctest.testmod(module).failed == 0
