"""The built site, as `make docs` leaves it: no formula as text, ways on, figures described, no other host."""

import functools
import html.parser
import importlib.util
import pathlib
import re
import urllib.parse

import nbformat
import pytest

from nqm_tools import reproduce
from nqm_tools._alt import letter_formulas, name_figures, plain

DOCS = pathlib.Path(__file__).parents[1] / "docs"
SITE = DOCS / "_build" / "html"
# Pages that are no text of ours in Sphinx's order: the playground and the slides, and what Sphinx lists by itself.
APART = ("playground/index.html", "slides/index.html")
LISTS = ("genindex.html", "py-modindex.html", "search.html")
# Markup of LaTeX's, and a dollar that begins or ends a formula.
LATEX = re.compile(r"\\[A-Za-z]+|\\[()\[\]{},;!]|&=|\$")
NOT_READ = {"script", "style", "pre", "code", "annotation", "textarea", "svg"}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}

built = pytest.mark.skipif(not (SITE / "index.html").is_file(), reason="no site is built here: make docs")


class Page(html.parser.HTMLParser):
    """What a page's markup says: its text without code, its tags with their attributes, and where tables stand."""

    def __init__(self, markup):
        super().__init__()
        self.texts, self.tags, self.bare_tables, self._open = [], [], [], []
        self.feed(markup)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag == "table" and not any("table-wrapper" in kind or "output" in kind.split() for _, kind in self._open):
            self.bare_tables.append(self.getpos()[0])
        if tag not in VOID:
            self._open.append((tag, attributes.get("class") or ""))

    def handle_endtag(self, tag):
        while any(name == tag for name, _ in self._open) and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        if not NOT_READ & {name for name, _ in self._open}:
            self.texts.append(data)

    @property
    def text(self):
        return "".join(self.texts)

    def attributes(self, *tags):
        return [attributes for tag, attributes in self.tags if tag in tags]


@functools.cache
def parse(name):
    return Page((SITE / name).read_text(encoding="utf-8"))


def weights():
    spec = importlib.util.spec_from_file_location("_weights", DOCS / "_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ours():
    """The pages of Sphinx's order, by name."""
    return [name for name in weights().pages(SITE) if name not in (*APART, *LISTS)]


def test_latex_that_is_left_is_found_and_code_is_left_alone():
    assert LATEX.findall(Page(r"<p>from $a to \eta_1, x &amp;= 2</p>").text) == ["$", r"\eta", "&="]
    page = Page(
        r'<p>good <code>$HOME</code></p><pre>\eta</pre><span class="katex"><annotation>\eta</annotation>η</span>'
    )
    assert page.text == "good η"


@built
def test_no_formula_is_left_as_text_on_any_page():
    names = [name for name in weights().pages(SITE) if not name.startswith("slides")]  # drawn when they are opened
    assert len(names) > 40
    for name in names:
        page = parse(name)
        said = [page.text, *(tag.get("alt") or "" for tag in page.attributes("img"))]
        assert [found for text in said for found in LATEX.findall(text)] == [], name
        assert not any("katex-error" in (tag.get("class") or "") for tag in page.attributes("span")), name


@built
def test_every_page_leads_back_on_and_home():
    lacking = {"prev": [], "next": []}
    for name in ours():
        page = parse(name)
        links = {rel: tag["href"] for tag in page.attributes("link") for rel in (tag.get("rel") or "").split()}
        shown = [tag for tag in page.attributes("a") if "class" in tag]
        for rel, kind in (("prev", "prev-page"), ("next", "next-page")):
            visible = [tag["href"] for tag in shown if kind in tag["class"].split()]
            assert visible == ([links[rel]] if rel in links else []), name
            lacking[rel] += [] if rel in links else [name]
    # Only the first page has none before it, and the last one none after it.
    assert lacking["prev"] == ["index.html"]
    assert len(lacking["next"]) == 1
    for name in weights().pages(SITE):
        folder = pathlib.PurePosixPath(name).parent
        to = {urllib.parse.urlsplit(tag["href"]).path for tag in parse(name).attributes("a") if "href" in tag}
        home = {(SITE / folder / path).resolve() for path in to if path.endswith("index.html")}
        assert name == "index.html" or SITE / "index.html" in home, name


@built
def test_every_figure_says_what_it_shows():
    figures = 0
    for name in (*ours(), *APART):
        for image in parse(name).attributes("img"):
            alt = image.get("alt") or ""
            assert len(re.findall(r"\w+", alt)) >= 3, f"{name}: {image['src']}"
            assert not alt.endswith((".png", ".svg")), f"{name}: {image['src']}"
            figures += 1
    assert figures > 60


@built
def test_wide_tables_scroll():
    for name in ours():
        assert parse(name).bare_tables == [], name


@built
def test_no_page_asks_another_host():
    sheets = set()
    for name in weights().pages(SITE):
        page, folder = parse(name), (SITE / name).parent
        markup = (SITE / name).read_text(encoding="utf-8")
        asked = [
            tag.get("src") for tag in page.attributes("script", "img", "iframe", "source", "embed", "video", "audio")
        ]
        asked += [address for tag in page.attributes("img", "source") for address in (tag.get("srcset") or "").split()]
        loads = [tag for tag in page.attributes("link") if tag.get("rel") not in ("index", "search", "next", "prev")]
        asked += [tag["href"] for tag in loads]
        asked += _urls("".join(re.findall(r"<style.*?</style>", markup, re.DOTALL)))
        for address in asked:
            if not address or address.startswith("#"):
                continue
            assert not re.match(r"(?:https?:)?//", address), f"{name} asks {address}"
            path = (folder / urllib.parse.unquote(urllib.parse.urlsplit(address).path)).resolve()
            assert address.startswith("data:") or path.is_file(), f"{name}: there is no {address}"
            sheets |= {path} if path.suffix == ".css" else set()
    assert len(sheets) > 5
    for sheet in sheets:
        found = _urls(sheet.read_text(encoding="utf-8"))
        assert [address for address in found if re.match(r"(?:https?:)?//", address)] == [], sheet.name


def _urls(css):
    return re.findall(r"url\(\s*['\"]?([^'\")]+)", css) + re.findall(r"@import\s+['\"]([^'\"]+)", css)


@built
def test_every_page_in_a_browser():
    """No request elsewhere, no complaint, nothing wider than a phone; on the slides no formula as text."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no browser to drive: make browser")
    weighing = weights()
    if not weighing.CHROMIUM:
        pytest.skip("no browser to drive: apt install chromium, or set CHROMIUM")
    for visit in weighing.visits(SITE):
        assert (visit.page, visit.elsewhere, visit.complaints) == (visit.page, [], [])
        assert visit.overhang <= 0, visit
        assert visit.bytes < 4e6, visit
    with weighing.served(SITE) as site, playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=weighing.CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"{site}slides/index.html")
        page.wait_for_selector(".katex")
        script = """() => { const copy = document.body.cloneNode(true);
            copy.querySelectorAll("script, style, code, annotation").forEach((each) => each.remove());
            return copy.textContent; }"""
        assert LATEX.findall(page.evaluate(script)) == []
        # The playground stands in the place of notebook 02's slider, and is drawn.
        page.goto(f"{site}notebooks/02_catapult_one_example.html")
        page.locator("iframe.playground").scroll_into_view_if_needed()
        inside = page.frame_locator("iframe.playground")
        inside.locator("#one-status").filter(has_text="Catapult").wait_for()
        assert inside.locator("h1").is_hidden()
        browser.close()


@pytest.mark.parametrize("path", reproduce.select(), ids=lambda path: path.stem)
def test_figures_of_notebooks_are_described_by_their_titles(path):
    texts = name_figures(nbformat.read(path, 4))
    assert texts
    for text in texts:
        assert len(re.findall(r"[^\W\d_]{2,}", text)) >= 3, text
        assert not LATEX.search(text), text
        assert not re.search(r"[{}]|_\w+_", text), text


def test_figures_are_described_by_headings_titles_and_what_titles_are_made_of():
    def notebook(code):
        output = {"output_type": "display_data", "data": {"image/png": ""}, "metadata": {}}
        text = {
            "cell_type": "markdown",
            "source": ["## 2. Where it *ends*\n", "\n", "It falls below $2/\\eta$. And stays."],
        }
        return {"cells": [text, {"cell_type": "code", "source": code, "outputs": [output]}]}

    fixed = notebook(
        '"""Sums up all of it."""\nax.set_title(r"The kernel $\\lambda_1 \\to 0$")\nax.set_xlabel("steps of the run")'
    )
    assert name_figures(fixed) == ["2. Where it ends; The kernel λ₁ → 0"]
    assert fixed["cells"][1]["outputs"][0]["metadata"]["image/png"]["alt"] == "2. Where it ends; The kernel λ₁ → 0"
    made = notebook(
        'for v, said in ((1, "falls to the end"), (3, "rises at first")):\n    ax.set_title(f"${v}$: {said}")'
    )
    assert name_figures(made) == ["2. Where it ends; falls to the end; rises at first"]
    assert name_figures(notebook("plot(x)")) == ["2. Where it ends; It falls below 2/η."]
    assert name_figures(notebook("%matplotlib inline\nplot(x)")) == ["2. Where it ends; It falls below 2/η."]
    assert plain(r"$\frac{1}{2}\,\eta\lambda_{\mathrm{max}} \geq 10{,}000$") == "1/2 ηλ_max ≥ 10,000"


def test_formulas_in_tables_are_letters():
    table = "<style>a { b: c }</style><table><td>$|f - f_{\\mathrm{lin}}|$, ReLU</td><td>$5</td><td>$6</td></table>"
    notebook = {"cells": [{"cell_type": "code", "outputs": [{"data": {"text/html": [table]}}, {"data": {}}]}]}
    letter_formulas(notebook)
    expected = table.replace("$|f - f_{\\mathrm{lin}}|$", "|f - f_lin|")
    assert notebook["cells"][0]["outputs"][0]["data"]["text/html"] == expected


def test_pages_of_reproduce_describe_their_figures_lead_home_and_ask_no_other_host():
    notebook = nbformat.read(reproduce.select(["00"])[0], 4)
    captions = name_figures(notebook)
    page = Page(reproduce._to_html(notebook, "Start here", None, "01_linear_and_quadratic_models"))
    assert [image["alt"] for image in page.attributes("img")] == captions
    assert LATEX.findall(page.text) == []
    loads = [tag.get("src") or tag.get("href") for tag in page.attributes("script", "img", "iframe", "link")]
    assert [address[:80] for address in filter(None, loads) if not address.startswith("data:")] == []
    links = [tag["href"] for tag in page.attributes("a") if not tag["href"].startswith(("#", "http"))]
    assert links[:2] == ["index.html", "01_linear_and_quadratic_models.html"]
