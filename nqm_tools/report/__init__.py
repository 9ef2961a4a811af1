"""Which of the paper's claims the recorded results bear out: one row a claim, decided by rules in code.

>>> import tempfile
>>> claims(tempfile.mkdtemp())["verdict"].unique().tolist()
['not recorded', 'waits for data']

A record is a folder ``<store>/<sweep>``, named after the sweep's file in ``experiments/``, as ``nqm sweep`` fills it.
"""

import html
import pathlib

from nqm_tools.report._claims import AWAITED
from nqm_tools.report._claims import claims as _all_claims

VERDICTS = ("holds", "does not hold", "undecided", "waits for data", "not recorded")
MARK = "<!-- report -->\n"
COLUMNS = ("figure", "panel", "claim", "measured", "rule", "verdict", "recorded")


def recorded_results():
    """The clone's ``data/results``.

    Raises
    ------
    FileNotFoundError
        If the package does not lie in a clone: installed packages carry no results.
    """
    folder = pathlib.Path(__file__).resolve().parents[2] / "data" / "results"
    if not folder.is_dir():
        raise FileNotFoundError(
            "the recorded results are part of the repository, not of the installed package: run this in a clone, "
            "or name a folder of your own (--store)"
        )
    return folder


def claims(store, figures=None):
    """Decide every claim from recorded results.

    Parameters
    ----------
    store : path
        A folder with one store a sweep, such as the repository's ``data/results``.
    figures : sequence of str, optional
        Only these figures or theorems: ``["2b", "Theorem 1"]``.

    Returns
    -------
    pandas.DataFrame
        Columns figure, panel, claim (what the paper says), measured (with mean ± standard deviation over seeds), rule,
        verdict (one of :data:`VERDICTS`), recorded (models, seeds, rates, width, machine). ``undecided`` is a
        claim for which too few seeds, rates or models are recorded; ``not recorded`` one without any run; ``waits for
        data`` one whose data set could not be had.

    Raises
    ------
    ValueError
        If the folder does not exist, or there is no such figure.
    """
    import pandas as pd

    store = pathlib.Path(store)
    if not store.is_dir():
        raise ValueError(f"store must be a folder of results; there is no {str(store)!r}")
    wanted = _all_claims()
    if figures is not None:
        unknown = [figure for figure in figures if figure not in {claim.figure for claim in wanted}]
        if unknown:
            known = dict.fromkeys(claim.figure for claim in wanted)
            raise ValueError(f"no claim is about figure {', '.join(unknown)}; there are {', '.join(known)}")
        wanted = [claim for claim in wanted if claim.figure in figures]
    records = _Records(store)
    return pd.DataFrame([_row(claim, records) for claim in wanted], columns=COLUMNS)


def summary(frame):
    """The frame of :func:`claims` in short: one row a figure and panel, and which of its claims do not hold."""
    import pandas as pd

    rows = []
    for (figure, panel), group in frame.groupby(["figure", "panel"], sort=False):
        counts = group["verdict"].value_counts()
        decided = counts.get("holds", 0) + counts.get("does not hold", 0)
        open_ = [f"{counts[verdict]} {verdict}" for verdict in VERDICTS[2:] if verdict in counts]
        rows.append(
            {
                "figure": figure,
                "panel": panel,
                "holds": f"{counts.get('holds', 0)} of {decided}" if decided else "",
                "does not hold": "; ".join(
                    f"{row.claim} ({row.measured})" for row in group.itertuples() if row.verdict == "does not hold"
                ),
                "open": "waits for data" if open_ == [f"{len(group)} waits for data"] else ", ".join(open_),
                "recorded": group["recorded"].iloc[0],
            }
        )
    return pd.DataFrame(rows)


def readme_table(frame):
    """What the repository's README quotes of the frame of :func:`claims`."""
    short = summary(frame)
    undecided = short["holds"] == ""
    short["holds"] = short["holds"].where(~undecided, short["open"])
    short["open"] = short["open"].where(~undecided, "")
    columns = ["figure", "panel", "holds", "does not hold", *(["open"] if short["open"].any() else []), "recorded"]
    return f"{headline(frame)}\n\n{to_markdown(short[columns])}"


def quote(frame, path):
    """Put :func:`readme_table` between the two marks ``<!-- report -->`` of a file."""
    path = pathlib.Path(path)
    parts = path.read_text(encoding="utf-8").split(MARK)
    if len(parts) != 3:
        raise ValueError(f"{path} must have two marks {MARK.strip()}, each on a line of its own")
    path.write_text(MARK.join((parts[0], readme_table(frame), parts[2])), encoding="utf-8")


def to_markdown(frame):
    """A frame as a Markdown table."""
    lines = [list(frame.columns), ["---"] * len(frame.columns), *frame.astype(str).to_numpy().tolist()]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)


def write(frame, output):
    """Write ``report.md`` and ``report.html``: the summary, then every claim; both paths.

    Parameters
    ----------
    frame : pandas.DataFrame
        As :func:`claims` gives it.
    output : path
        A folder; made if need be.
    """
    output = pathlib.Path(output)
    output.mkdir(parents=True, exist_ok=True)
    counts = headline(frame)
    page = _MARKDOWN.format(counts=counts, summary=to_markdown(summary(frame)), claims=to_markdown(frame))
    tables = [
        table.to_html(index=False, border=0, formatters={"verdict": _mark}, escape=True)
        for table in (summary(frame), frame)
    ]
    written = output / "report.md", output / "report.html"
    written[0].write_text(page, encoding="utf-8")
    written[1].write_text(
        _HTML.format(counts=html.escape(counts), summary=tables[0], claims=tables[1]), encoding="utf-8"
    )
    return written


def headline(frame):
    """How many of the paper's claims hold, and how many checks of ours."""
    ours = frame["claim"].str.startswith("(ours)")
    theirs = _counted(frame[~ours], "claim")
    return f"{theirs} about the paper's figures and theorems; {_counted(frame[ours], 'check')} of ours."


def _counted(frame, noun):
    counts = frame["verdict"].value_counts()
    each = ", ".join(f"{counts[verdict]} {_PLURAL[verdict]}" for verdict in VERDICTS if verdict in counts)
    return f"{_count(len(frame), noun)} ({each})" if each else f"no {noun}"


_PLURAL = dict(
    zip(VERDICTS, ("hold", "do not hold", "are undecided", "wait for data", "are not recorded"), strict=True)
)


def _mark(verdict):
    return {"holds": "✓ ", "does not hold": "✗ "}.get(verdict, "") + verdict


class _Records:
    """The stores of a folder, each read once, as runs or as curves; None for one that is not there or is empty."""

    def __init__(self, folder):
        self.folder, self.frames = folder, {}

    def __call__(self, name, curves):
        from nqm_tools import sweeps

        if (name, curves) not in self.frames:
            frame = None
            if (self.folder / name).is_dir():
                frame = (sweeps.load_curves if curves else sweeps.load)(self.folder / name)
                frame = frame[frame["status"] != "failed"]
            self.frames[name, curves] = None if frame is None or frame.empty else frame
        return self.frames[name, curves]


def _row(claim, records):
    frame = records(claim.store, claim.curves)
    if frame is None:
        waits = any(name in claim.store for name in AWAITED)
        measured, verdict, recorded = "", "waits for data" if waits else "not recorded", ""
    else:
        finding = claim.check(frame)
        measured, recorded = finding.measured, _recorded(frame)
        verdict = {True: "holds", False: "does not hold", None: "undecided"}[finding.holds]
    return (claim.figure, claim.panel, claim.statement, measured, claim.rule, verdict, recorded)


def _recorded(frame):
    """Runs, seeds, rates, sizes and machine of a record, in words."""
    runs = frame.drop_duplicates("key")
    models = {}
    for model, rows in runs.groupby("model"):
        size = f"{_count(rows['seed'].nunique(), 'seed')}, {_count(rows['learning_rate_ratio'].nunique(), 'rate')}"
        models.setdefault(size, []).append(model)
    parts = [", ".join(names) + f": {size}" for size, names in models.items()]
    for name in ("width", "gamma"):
        if name in runs:
            parts.append(f"{name} " + ", ".join(f"{value:g}" for value in sorted(runs[name].dropna().unique())))
    machines = runs[["device", "cores"]].drop_duplicates()
    parts += [_count(cores, f"{device} core") if device == "cpu" else device for device, cores in machines.to_numpy()]
    return "; ".join(parts)


def _count(number, noun):
    return f"{number} {noun}{'s' if number != 1 else ''}"


_MARKDOWN = """# Which of the paper's claims hold

{counts}

Zhu, Liu, Radhakrishnan, Belkin, "Quadratic models for understanding catapult dynamics of neural networks" (ICLR 2024).
Computed from recorded results by `nqm report`; ± is one standard deviation over seeds.

## Summary

{summary}
## Claims

{claims}"""

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
<h1>Which of the paper's claims hold</h1>
<p>{counts}</p>
<p>Zhu, Liu, Radhakrishnan, Belkin, “Quadratic models for understanding catapult dynamics of neural networks” (ICLR
2024). Computed from recorded results by <code>nqm report</code>; ± is one standard deviation over seeds.</p>
<h2>Summary</h2>
{summary}
<h2>Claims</h2>
{claims}
</body>
</html>
"""
