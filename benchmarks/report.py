"""The measurements as Markdown."""

import statistics

from benchmarks import cases

# Tables that get a column of times relative to the first row with the same values of these columns.
RELATIVE = {
    "A step": (("problem", "model"), "step"),
    "Tangent kernel": (("problem",), "again"),
    "A run": (("problem", "model"), "run"),
    "A step of f_quad": (("function",), "step"),
}
UNITS = ((1, "s"), (1e-3, "ms"))
MARK = "<!-- benchmarks -->"


def markdown(results):
    """The page of everything that was measured."""
    lines = ["# Benchmarks", "", *_machine(results)]
    for name, part in results["parts"].items():
        lines += ["", f"## {name}", "", cases.PARTS[name].about, "", *_part(part)]
    return "\n".join(lines) + "\n"


def summary(results):
    """The table that the top README quotes: a step as the package runs it, and the general way's time over it."""
    lines = {}
    for problem, model, rows in _by_problem(results["parts"]["steps"]["cases"]):
        ours, general = rows[0], rows[1]
        ratio = statistics.median(general["step"]["seconds"]) / statistics.median(ours["step"]["seconds"])
        line = lines.setdefault(problem, {"setting": problem})
        line[f"`{model}`"] = f"{_median(ours['step'])} ({_number(ratio)} times)"
    return table(list(lines.values()))


def _by_problem(part_cases):
    for case in part_cases:
        for rows in case["tables"].values():
            yield rows[0]["problem"], rows[0]["model"], rows


def _median(times):
    return _time([statistics.median(times["seconds"])])


def put_summary(results, readme):
    """The text of a README with the summary between its marks ``<!-- benchmarks -->``."""
    before, _, after = readme.split(MARK)
    return f"{before}{MARK}\n" + "\n".join(summary(results)) + f"\n{MARK}{after}"


def _machine(results):
    machine = results["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    quick = results["scale"] == "quick"
    return [
        f"Written by `python -m benchmarks{' --quick' if quick else ''}`; `benchmarks.json` has every repeat."
        f"{' These are small sizes, to see whether everything runs: no numbers to quote.' if quick else ''}",
        "Times are medians over repeats, with the shortest and longest in brackets; *relative* is to the first row of"
        " the same problem. Each case ran in a process of its own, whose largest resident memory is its peak.",
        "",
        f"- {machine['CPU']}, {machine['cores']} cores, {cell(machine['memory'])}; {machine['system']}",
        f"- Python {machine['python']}; {versions}",
    ]


def _where(environment):
    return f"{environment['CPU']}, {environment['cores']} cores, jax {environment['versions']['jax']}"


def _part(part):
    load = ", ".join(f"{value:.2f}" for value in part["load before"])
    lines = []
    for title, rows in _tables(part["cases"]).items():
        lines += _notes(rows) if title == "note" else [f"**{title}**", "", *table(_relative(title, rows)), ""]
    missing = [case for case in part["cases"] if case["status"] != "done"]
    for case in missing:
        lines += [f"- {case['settings']['title']}: **{case['status']}** ({case['reason']})"]
    lines += [""] if missing else []
    processes = [
        {
            "process": case["settings"]["title"],
            "in all": {"seconds": [case["seconds"]]},
            "peak memory": case.get("peak memory"),
        }
        for case in part["cases"]
    ]
    # A part that was measured on another machine than the page's says so.
    where = f", elsewhere: {_where(part['environment'])}" if "environment" in part else ""
    return [*lines, *table(processes), "", f"On {part['date']}{where}, load before: {load}."]


def _tables(part_cases):
    tables = {}
    for case in part_cases:
        for title, rows in case["tables"].items():
            tables.setdefault(title, []).extend(rows)
    return tables


def _notes(rows):
    return [line for row in rows for line in (row, "")]


def _relative(title, rows):
    if title not in RELATIVE:
        return rows
    same, time = RELATIVE[title]
    first, extended = {}, []
    for row in rows:
        if time in row:
            median = statistics.median(row[time]["seconds"])
            ratio = median / first.setdefault(tuple(row[name] for name in same), median)
            position = list(row).index(time) + 1
            items = list(row.items())
            row = dict([*items[:position], ("relative", ratio), *items[position:]])
        extended.append(row)
    return extended


def table(rows):
    """Rows, as dictionaries, as a table of Markdown; columns in the order in which they first come, notes last."""
    names = list(dict.fromkeys(name for row in rows for name in row if name != "note"))
    names += ["note"] if any("note" in row for row in rows) else []
    lines = [names, ["---"] * len(names), *([cell(row.get(name)) for name in names] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def cell(value):
    """A value as text: a time with its spread, a memory, a number of three digits."""
    if value is None:
        return ""
    if isinstance(value, dict) and "bytes" in value and value["bytes"] < 2**26:
        return f"{value['bytes'] / 2**20:.3g} MiB"
    if isinstance(value, dict) and "bytes" in value:
        return f"{value['bytes'] / 2**30:.2f} GiB"
    if isinstance(value, dict):
        return _time(value["seconds"])
    return _number(value) if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _time(seconds):
    median = statistics.median(seconds)
    scale, unit = next((pair for pair in UNITS if median >= pair[0]), UNITS[-1])
    text = f"{_number(median / scale)} {unit}"
    if len(seconds) == 1:
        return text
    return f"{text} ({_number(min(seconds) / scale)} to {_number(max(seconds) / scale)})"


def _number(value):
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
