"""Writes the slides as one page for reveal.js: formulas for KaTeX, figures from the committed notebooks.

    python docs/_slides.py OUT

makes ``OUT/index.html`` and ``OUT/figures/`` from ``teach/slides/slides.md`` (slides parted by ``---``, what follows
``Note:`` for the speaker) and ``teach/slides/index.html``; ``make docs`` does, for the site. Seen from OUT, the folders
``dist/`` of npm's packages ``reveal.js`` and ``katex`` are to lie in ``../vendor/reveal`` and ``../vendor/katex``; the
page needs nothing else, no net and no server. A figure is named as ``nqm reproduce`` names it:
``figures/02_catapult_one_example_3.png``.
"""

import base64
import html
import json
import pathlib
import posixpath
import re
import sys

import mistune

from nqm_tools import reproduce

SLIDES = pathlib.Path(__file__).parent / "teach" / "slides"


def sources():
    """The slides, each as its Markdown and its speaker's notes."""
    text = (SLIDES / "slides.md").read_text(encoding="utf-8")
    parts = [slide.partition("\nNote:\n") for slide in re.split(r"^---$", text, flags=re.MULTILINE)]
    return [(slide.strip(), note.strip()) for slide, _, note in parts]


def figure(name):
    """A figure of a committed notebook, ``02_catapult_one_example_3.png`` being its third, as PNG."""
    stem, _, number = name.removesuffix(".png").rpartition("_")
    cells = json.loads((reproduce.notebooks_folder() / f"{stem}.ipynb").read_text(encoding="utf-8"))["cells"]
    data = [out["data"] for cell in cells for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
    return base64.b64decode(data[int(number) - 1]["image/png"])


def _page(link):
    """Where the page of the site lies that a link in the slides' source means, seen from the written slides."""
    return posixpath.join("..", posixpath.normpath(posixpath.join("teach/slides", link)))


def _to_html(markdown):
    """A slide's Markdown as HTML; formulas, which Markdown must not touch, between the delimiters of KaTeX."""
    formulas = []

    def keep(match):
        if match["code"]:
            return match["code"]
        left, right = (r"\[", r"\]") if match["display"] else (r"\(", r"\)")
        formulas.append(html.escape(left + (match["display"] or match["inline"]).strip() + right, quote=False))
        return f"FORMULA{len(formulas) - 1}END"

    pattern = r"(?P<code>`[^`\n]*`)|\$\$(?P<display>.+?)\$\$|\$(?P<inline>[^$]+)\$"
    text = re.sub(pattern, keep, markdown, flags=re.DOTALL)
    shown = mistune.create_markdown(escape=False, plugins=["table"])(text)
    return re.sub(r"FORMULA(\d+)END", lambda match: formulas[int(match[1])], shown)


def write(folder):
    """Write the page and its figures; the page's path."""
    folder = pathlib.Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    sections = []
    for slide, note in sources():
        for name in re.findall(r"\]\(figures/([^)]+)\)", slide):
            (folder / "figures" / name).write_bytes(figure(name))
        slide = re.sub(r"\]\((\.\./[^)]+)\.(?:ipynb|md)\)", lambda link: f"]({_page(link[1])}.html)", slide)
        sections.append(f'<section>\n{_to_html(slide)}<aside class="notes">{_to_html(note)}</aside>\n</section>')
    page = (SLIDES / "index.html").read_text(encoding="utf-8").replace("<!-- slides -->", "\n".join(sections))
    (folder / "index.html").write_text(page, encoding="utf-8")
    return folder / "index.html"


if __name__ == "__main__":
    print(write(sys.argv[1]))
