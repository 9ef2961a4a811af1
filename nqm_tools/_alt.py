"""What notebooks put out, for pages: figures in words, from the code that draws them; formulas of tables in letters."""

from __future__ import annotations

import ast
import re
import unicodedata

_TITLES = ("set_title", "suptitle", "title")
# Calls and keywords whose texts name an axis, a line or a column, or are printed: no finding.
_OTHERS = {"set_xlabel", "set_ylabel", "supxlabel", "supylabel", "print", "plot", "text", "annotate", "legend"}
_LABELS = {"label", "xlabel", "ylabel", "y", "x", "hue", "columns"}
_SIGNS = {"geq": "≥", "leq": "≤", "ll": "≪", "gg": "≫", "to": "→", "cdot": "·", "approx": "≈", "propto": "∝"}
_SIGNS |= {"infty": "∞", "pm": "±", "ldots": "…", "sqrt": "√", "sum": "Σ", "lVert": "|", "rVert": "|", "top": "T"}
_SIGNS |= {"times": "\N{MULTIPLICATION SIGN}"}
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def name_figures(notebook: dict) -> list[str]:
    """Give each picture among a notebook's outputs a text that says what it shows; the texts, in order.

    It is made of the heading above the figure and the titles in its code, for our titles state what is found.
    """
    heading, before, texts = "", "", []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            found = re.findall(r"^#+ (.+)$", source, re.MULTILINE)
            heading = found[-1] if found else heading
            before = re.sub(r"^#.*$", "", source, flags=re.MULTILINE).strip() or before
            continue
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                found = [plain(text) for text in _titles(source)]
                found = [text for text in found if _SAYS_SOMETHING.search(text)] or [plain(_first_sentence(before))]
                texts.append("; ".join(text for text in dict.fromkeys([plain(heading), *found]) if text) or "A figure")
                output.setdefault("metadata", {}).setdefault("image/png", {})["alt"] = texts[-1]
    return texts


def letter_formulas(notebook: dict) -> None:
    """Put letters in the place of formulas in tables, which only Jupyter draws."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/html" in data:
                table = "".join(data["text/html"])
                data["text/html"] = re.sub(r"\$[^$<>\n]+\$", lambda formula: plain(formula[0]), table)


def plain(text: str) -> str:
    r"""A text with LaTeX in it as letters: ``$\eta \leq 2/\lambda_1$`` as ``η ≤ 2/λ₁``."""
    text = text.replace("★", "").replace("\\\\", " ").replace("{,}", ",")
    text = re.sub(r"\\(?:mathrm|text|operatorname|hat|tilde|mathbf|boldsymbol|bar)\s*", "", text)
    text = re.sub(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}", r"\1/\2", text)
    text = re.sub(r"\\([A-Za-z]+)(?: +(?=[A-Za-z]))?", _letter, text)
    text = re.sub(r"\\[,;:! ]", " ", text)
    text = re.sub(r"_\{?(\d+)\}?", lambda found: found[1].translate(SUBSCRIPTS), text)
    text = re.sub(r"_\{?(\w+)\}?", r"_\1", text)
    return " ".join(re.sub(r"[{}$\\`*]", "", text).split()).strip(" :;,")


# Two words in a row: no name of a column, no piece of code, no place of values alone.
_SAYS_SOMETHING = re.compile(r"^(?!.*==).*[^\W\d_]{2,}\S* \S*[^\W\d]")


def _first_sentence(markdown):
    return re.split(r"(?<=[.!?])\s", re.sub(r"\]\([^)]*\)|\[", "", markdown), maxsplit=1)[0]


def _letter(found):
    return _SIGNS.get(found[1]) or greek(found[1]) or f"{found[1]} "


def greek(name: str) -> str | None:
    """The letter of a name as LaTeX has it, such as ``Sigma`` or ``varphi``; None for other names."""
    case, letter = ("CAPITAL" if name[0].isupper() else "SMALL"), name.removeprefix("var").upper()
    try:
        return unicodedata.lookup(f"GREEK {case} LETTER {letter.replace('LAMBDA', 'LAMDA')}")
    except KeyError:
        return None


def _titles(source):
    """Texts of titles in a cell's code; where a title is computed, also the other sentences that it may be made of."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a cell with IPython's magic in it, or one that fails
        return []
    titles, computed = [], False
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        given = [keyword.value for keyword in node.keywords if keyword.arg == "title"]
        if name in _TITLES:
            given += node.args[:1]
        for value in given:
            titles += _constants(value)
            computed |= not isinstance(value, ast.Constant)
    return titles + (_sentences(tree) if computed or not titles else [])


def _sentences(tree):
    docstrings = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    others = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in _OTHERS:
            others += [node]
        elif isinstance(node, ast.keyword) and node.arg in _LABELS:
            others += [node.value]
    skipped = docstrings | {text for node in others for text in _constants(node)}
    return [text for text in _constants(tree) if text not in skipped and len(re.findall(r"[^\W\d_]{2,}", text)) >= 3]


def _constants(tree):
    """Texts in a piece of code; those with values in them with dots in the values' places."""
    if isinstance(tree, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "…" for part in tree.values]
        return ["".join(parts)]
    if isinstance(tree, ast.Constant):
        return [re.sub(r"\{:[^}]*\}", "…", tree.value)] if isinstance(tree.value, str) else []
    return [text for child in ast.iter_child_nodes(tree) for text in _constants(child)]
