"""Which claims the recorded results bear out: one row a claim, decided by rules in code.

The papers, with their claims and rules, are in :mod:`nqm_tools.papers`; here is the engine. A record is a folder
``<store>/<sweep>``, named after the sweep's file in ``experiments/``, as ``nqm sweep`` fills it.

>>> import tempfile
>>> claims(tempfile.mkdtemp(), figures=["4"])["verdict"].unique().tolist()
['not recorded']
"""

from __future__ import annotations

import html
import pathlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nqm_tools import _shipped, papers
from nqm_tools._types import FilePath
from nqm_tools._validation import check_output
from nqm_tools._writing import write_text

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "VERDICTS",
    "all_claims",
    "claims",
    "decide",
    "escape",
    "headline",
    "quote",
    "readme_table",
    "recorded_claims",
    "summary",
    "to_markdown",
    "write",
]

VERDICTS = ("holds", "does not hold", "undecided", "identity", "not recorded")
MARK = "<!-- report -->\n"
COLUMNS = ("paper", "figure", "panel", "kind", "status", "claim", "measured", "rule", "verdict", "recorded")


def recorded_results() -> pathlib.Path:
    """The clone's ``data/results`` or, in a package that was installed from a wheel, its own.

    Raises
    ------
    FileNotFoundError
        If this installation has none.
    """
    return _shipped.folder("data/results")


def recorded_claims() -> pd.DataFrame:
    """What :func:`all_claims` made of this version's recorded results, as ``make report`` wrote it down.

    Examples
    --------
    >>> found = recorded_claims()
    >>> sorted(set(found["kind"]))
    ['check', 'claim', 'identity']
    """
    import pandas as pd

    return pd.read_csv(recorded_results() / "claims.csv", dtype=str, keep_default_na=False)


def claims(store: FilePath, figures: Sequence[str] | None = None, paper: str = "zhu2024") -> pd.DataFrame:
    """Decide the claims of a paper from recorded results.

    Parameters
    ----------
    store : path
        A folder with one store a sweep, such as the repository's ``data/results``.
    figures : sequence of str, optional
        Only these figures or theorems: ``["2b", "Theorem 1"]``.
    paper : str
        One of ``nqm_tools.papers.NAMES``.

    Returns
    -------
    pandas.DataFrame
        As :func:`decide` gives it.

    Raises
    ------
    ValueError
        If the folder or the paper does not exist, or there is no such figure.

    Examples
    --------
    >>> import tempfile
    >>> frame = claims(tempfile.mkdtemp(), figures=["2b"])
    >>> frame.columns.tolist()
    ['paper', 'figure', 'panel', 'kind', 'status', 'claim', 'measured', 'rule', 'verdict', 'recorded']
    """
    wanted = papers.load(paper).claims()
    if figures is not None:
        known = list(dict.fromkeys(claim.figure for claim in wanted))
        unknown = [figure for figure in figures if figure not in known]
        if unknown:
            raise ValueError(f"no claim is about figure {', '.join(unknown)}; there are {', '.join(known)}")
        wanted = [claim for claim in wanted if claim.figure in figures]
    return decide(wanted, store).assign(paper=paper)


def all_claims(store: FilePath) -> pd.DataFrame:
    """The claims of all papers, under each other.

    Examples
    --------
    >>> all_claims("no such folder")
    Traceback (most recent call last):
        ...
    ValueError: store must be a folder of results; there is no 'no such folder'
    """
    import pandas as pd

    return pd.concat([claims(store, paper=name) for name in papers.NAMES], ignore_index=True)


def decide(claims: Sequence[papers.Claim], store: FilePath) -> pd.DataFrame:
    """Decide claims (:class:`nqm_tools.papers.Claim`) from a folder of recorded results.

    Returns
    -------
    pandas.DataFrame
        Columns paper, figure, panel, kind, status, claim (what is said), measured, rule, verdict (one of
        :data:`VERDICTS`), recorded (models, seeds, rates, width, machine). ``undecided`` is a claim for which too few
        seeds, rates or models are recorded, or whose runs are not of the regime that it is about; ``identity`` what
        cannot fail and did not; ``not recorded`` a claim without any run.

    Raises
    ------
    ValueError
        If the folder does not exist.

    Examples
    --------
    >>> from nqm_tools import papers
    >>> def check():
    ...     return papers.Finding("1 + 1 = 2", True)
    >>> claim = papers.Claim("1", "a panel", "", "1 + 1 is 2", "they are equal", check)
    >>> frame = decide([claim], ".")
    >>> frame[["claim", "measured", "verdict"]].to_numpy().tolist()
    [['1 + 1 is 2', '1 + 1 = 2', 'holds']]
    """
    import pandas as pd

    store = pathlib.Path(store)
    if not store.is_dir():
        raise ValueError(f"store must be a folder of results; there is no {str(store)!r}")
    frames, together = {}, {}
    rows = []
    for claim in claims:
        names = tuple(name for name in (claim.sweep, *claim.beside) if name)
        if names not in together:
            for name in names:
                if name not in frames:
                    frames[name] = papers.recorded(store, name)
            together[names] = papers.together([frames[name] for name in names])
        rows.append(_row(claim, together[names]))
    return pd.DataFrame(rows, columns=COLUMNS)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame of :func:`claims` in short: one row a figure and panel, and which of its claims do not hold.

    Examples
    --------
    >>> from nqm_tools import papers
    >>> def check():
    ...     return papers.Finding("1 + 1 = 2", True)
    >>> claim = papers.Claim("1", "a panel", "", "1 + 1 is 2", "they are equal", check)
    >>> frame = decide([claim], ".").assign(paper="ours")
    >>> summary(frame)[["panel", "holds"]].to_numpy().tolist()
    [['a panel', '1 of 1']]
    """
    import pandas as pd

    rows = []
    for (figure, panel), group in frame.groupby(["figure", "panel"], sort=False):
        claimed = group[group["kind"] == "claim"]
        counts = claimed["verdict"].value_counts()
        decided = counts.get("holds", 0) + counts.get("does not hold", 0)
        open_ = [f"{counts[verdict]} {verdict}" for verdict in VERDICTS[2:] if verdict in counts]
        # Checks of the recording and identities say nothing for a panel, but something against it.
        broken = group[(group["kind"] != "claim") & (group["verdict"] == "does not hold")]
        open_ += [f"not so: {row.claim} ({row.measured})" for row in broken.itertuples()]
        rows.append(
            {
                "figure": figure,
                "panel": panel,
                "holds": f"{counts.get('holds', 0)} of {decided}" if decided else "",
                "does not hold": "; ".join(
                    f"{row.claim} ({row.measured})" for row in claimed.itertuples() if row.verdict == "does not hold"
                ),
                "open": ", ".join(open_),
                "recorded": group["recorded"].iloc[0],
            }
        )
    return pd.DataFrame(rows)


def readme_table(frame: pd.DataFrame) -> str:
    r"""What the README quotes of the frame of :func:`claims`: the counts, and by panel what does not hold.

    Examples
    --------
    >>> from nqm_tools import papers
    >>> def check():
    ...     return papers.Finding("1 + 1 = 2", True)
    >>> claim = papers.Claim("1", "a panel", "", "1 + 1 is 2", "they are equal", check)
    >>> frame = decide([claim], ".").assign(paper="ours")
    >>> readme_table(frame)
    '1 claim (1 hold).\n'
    """
    failed = frame[(frame["verdict"] == "does not hold") & (frame["kind"] == "claim")]
    lines = []
    for panel, rows in failed.groupby("panel", sort=False):
        said = "; ".join(f"figure {row.figure}: {row.claim} ({row.measured})" for row in rows.itertuples())
        lines.append(f"- {escape(f'{panel}, {said}')}\n")
    return headline(frame) + (" What does not hold:\n\n" + "".join(lines) if lines else "\n")


def quote(frame: pd.DataFrame, path: FilePath) -> None:
    r"""Put :func:`readme_table` between the two marks ``<!-- report -->`` of a file.

    Examples
    --------
    >>> import tempfile
    >>> from nqm_tools import papers
    >>> def check():
    ...     return papers.Finding("1 + 1 = 2", True)
    >>> claim = papers.Claim("1", "a panel", "", "1 + 1 is 2", "they are equal", check)
    >>> frame = decide([claim], ".").assign(paper="ours")
    >>> path = pathlib.Path(tempfile.mkdtemp(), "README.md")
    >>> _ = path.write_text("Above.\n" + 2 * "<!-- report -->\n" + "Below.\n", encoding="utf-8")
    >>> quote(frame, path)
    >>> print(path.read_text(encoding="utf-8").strip())
    Above.
    <!-- report -->
    1 claim (1 hold).
    <!-- report -->
    Below.
    """
    above, below = around_quote(path)
    write_text(path, MARK.join((above, readme_table(frame), below)))


def around_quote(path: FilePath) -> tuple[str, str]:
    """What a file has above and below its two marks.

    Raises
    ------
    ValueError
        If it has not two of them, or is no text.
    """
    try:
        parts = pathlib.Path(path).read_text(encoding="utf-8").split(MARK)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be a text in UTF-8 with two marks {MARK.strip()}: {error}") from None
    if len(parts) != 3:
        raise ValueError(f"{path} must have two marks {MARK.strip()}, each on a line of its own")
    return parts[0], parts[2]


def to_markdown(frame: pd.DataFrame) -> str:
    r"""A frame as a Markdown table, in which every text is shown as it is.

    Examples
    --------
    >>> import pandas as pd
    >>> print(to_markdown(pd.DataFrame({"claim": ["a | b"], "verdict": ["holds"]})))
    | claim | verdict |
    | --- | --- |
    | a \| b | holds |
    """
    cells = [[escape(cell) for cell in line] for line in [list(frame.columns), *frame.astype(str).to_numpy().tolist()]]
    lines = [cells[0], ["---"] * len(frame.columns), *cells[1:]]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


# What begins markup inside a line, also of GitHub's ($formulas$, ~~strokes~~, bare addresses). A "_" within a word, a
# "~" or "<" before a space and a lone "&" begin none: they stay, so that the text can be read as well.
_MARKUP = re.compile(
    r"[\\`*$|\[\]@]"
    r"|(?<![^\W_])_|_(?![^\W_])"
    r"|(?<!\s)~|~(?!\s)"
    r"|<(?=[A-Za-z/!?])|&(?=\#?\w+;)"
    r"|:(?=//)|(?<=www)\.",
    re.IGNORECASE,
)


def escape(text: str) -> str:
    r"""A text in one line of Markdown that shows it letter by letter; line ends and control characters as spaces.

    Examples
    --------
    >>> print(escape("2 * 3 = $6"))
    2 \* 3 = \$6
    """
    return _MARKUP.sub(r"\\\g<0>", "".join(letter if letter.isprintable() else " " for letter in text))


def write(frame: pd.DataFrame, output: FilePath) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
    """Write ``report.md`` and ``report.html``, for each paper the summary, then every claim, and ``report.csv``.

    Returns
    -------
    tuple of pathlib.Path
        The three files.

    Parameters
    ----------
    frame : pandas.DataFrame
        As :func:`claims` gives it; those of several papers under each other.
    output : path
        A folder; made if need be.

    Raises
    ------
    ValueError
        If the output is among what belongs to the repository.

    Examples
    --------
    >>> import tempfile
    >>> from nqm_tools import papers
    >>> def check():
    ...     return papers.Finding("1 + 1 = 2", True)
    >>> claim = papers.Claim("1", "a panel", "", "1 + 1 is 2", "they are equal", check)
    >>> frame = decide([claim], ".").assign(paper="ours")
    >>> [path.name for path in write(frame, tempfile.mkdtemp())]
    ['report.md', 'report.html', 'report.csv']
    """
    output = check_output(output, _shipped.root())
    output.mkdir(parents=True, exist_ok=True)
    sections, pages = [], []
    for name, rows in frame.groupby("paper", sort=False):
        title, shown = papers.load(name).TITLE, rows.drop(columns="paper")
        if not shown["status"].any():
            shown = shown.drop(columns="status")
        tables = summary(rows), shown
        sections.append(_MARKDOWN_PAPER.format(title, headline(rows), *map(to_markdown, tables)))
        as_html = [t.to_html(index=False, border=0, formatters={"verdict": _mark}, escape=True) for t in tables]
        pages.append(_HTML_PAPER.format(html.escape(title), html.escape(headline(rows)), *as_html))
    written = output / "report.md", output / "report.html", output / "report.csv"
    write_text(written[0], _MARKDOWN.format("\n".join(sections)))
    write_text(written[1], _HTML.format("\n".join(pages)))
    write_text(written[2], frame.to_csv(index=False, lineterminator="\n"))
    return written


def headline(frame: pd.DataFrame) -> str:
    """How many of a paper's claims hold, of its identities, and of the checks of ours.

    Examples
    --------
    >>> from nqm_tools import papers
    >>> def check():
    ...     return papers.Finding("1 + 1 = 2", True)
    >>> claim = papers.Claim("1", "a panel", "", "1 + 1 is 2", "they are equal", check)
    >>> frame = decide([claim], ".").assign(paper="ours")
    >>> headline(frame)
    '1 claim (1 hold).'
    """
    claimed, identities = frame[frame["kind"] == "claim"], frame[frame["kind"] == "identity"]
    parts = [_counted(claimed, "claim")]
    if len(identities):
        broken = int((identities["verdict"] == "does not hold").sum())
        parts.append(
            f"{_count(len(identities), 'identity', 'identities')}, which cannot fail "
            + (f"({broken} did: a fault)" if broken else "(and did not)")
        )
    checks = frame[frame["kind"] == "check"]
    if len(checks):
        parts.append(f"{_counted(checks, 'check')} of the recordings")
    return "; ".join(parts) + "."


def _counted(frame, noun):
    counts = frame["verdict"].value_counts()
    each = ", ".join(f"{counts[verdict]} {_PLURAL[verdict]}" for verdict in VERDICTS if verdict in counts)
    return f"{_count(len(frame), noun)} ({each})" if each else f"no {noun}"


_PLURAL = dict(
    zip(
        VERDICTS,
        ("hold", "do not hold", "are undecided", "are identities", "are not recorded"),
        strict=True,
    )
)


def _mark(verdict):
    return {"holds": "✓ ", "does not hold": "✗ "}.get(verdict, "") + verdict


def _row(claim, frame):
    if not claim.sweep:
        finding, recorded = claim.check(), "computed by the report"
    elif frame.empty:
        return ("", *claim[:2], claim.kind, claim.status, claim.statement, "", claim.rule, "not recorded", "")
    else:
        finding, recorded = claim.check(frame), _recorded(papers.runs_of(frame))
    verdict = {True: "holds", False: "does not hold", None: "undecided"}[finding.holds]
    panel = claim.panel + (f", on {frame['images'].iloc[0]} images" if "images" in frame else "")
    if claim.kind == "identity" and verdict == "holds":
        verdict = "identity"
    said = (claim.statement, finding.measured, claim.rule)
    return ("", claim.figure, panel, claim.kind, claim.status, *said, verdict, recorded)


def _recorded(runs):
    """Runs, seeds, rates, sizes and machine of a record, in words."""
    models = {}
    ratio = "sharpness_ratio" if "sharpness_ratio" in runs else "learning_rate_ratio"
    for model, rows in runs.groupby("model"):
        size = f"{_count(rows['seed'].nunique(), 'seed')}, {_count(rows[ratio].nunique(), 'rate')}"
        models.setdefault(size, []).append(model)
    parts = [", ".join(names) + f": {size}" for size, names in models.items()]
    for name in ("width", "gamma"):
        if name in runs:
            parts.append(f"{name} " + ", ".join(f"{value:g}" for value in sorted(runs[name].dropna().unique())))
    machines = runs[["device", "cores"]].drop_duplicates()
    parts += [_count(cores, f"{device} core") if device == "cpu" else device for device, cores in machines.to_numpy()]
    return "; ".join(parts)


def _count(number, noun, plural=None):
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


_MARKDOWN = """# Which claims hold

Computed from recorded results by `nqm report`. "a (b to c; n seeds)" is a mean with its 95 % interval (Student's t over
seeds); ± is one standard deviation. Gains are paired over seeds, with the learning rate and the step chosen on the
other seeds; the number beside each, with both chosen on the test examples themselves, is the one that the papers draw.
An identity holds by construction or by a proof for every run: it cannot fail, and supports nothing.

{}"""

_MARKDOWN_PAPER = """## {}

{}

### Summary

{}
### Claims

{}"""

_HTML = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>nqm-tools: which claims hold</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 90rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; width: 100%; margin: 1rem 0 2rem; }}
th, td {{ text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid #ddd; }}
th {{ border-bottom: 2px solid #888; }}
</style>
</head>
<body>
<h1>Which claims hold</h1>
<p>Computed from recorded results by <code>nqm report</code>. “a (b to c; n seeds)” is a mean with its 95 % interval
(Student's t over seeds); ± is one standard deviation. Gains are paired over seeds, with the learning rate and the step
chosen on the other seeds.</p>
{}
</body>
</html>
"""

_HTML_PAPER = """<h2>{}</h2>
<p>{}</p>
<h3>Summary</h3>
{}
<h3>Claims</h3>
{}
"""
