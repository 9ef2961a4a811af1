"""Runs the cases of parts in processes of their own, and keeps what they measured as one JSON file."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
import time

from benchmarks import cases

ROOT = pathlib.Path(__file__).parents[1]
DISTRIBUTIONS = ("nqm-tools", "jax", "jaxlib", "neural-tangents", "numpy", "torch")


def run(names, quick, path, say):
    """Run the parts ``names`` and write everything to the file ``path`` after each; returns the results.

    Parts that the file already holds are kept if their scale and settings are those of today, and the machine and
    versions that they were measured on; a part that is measured elsewhere now says where.
    """
    here = environment()
    results = {"scale": "quick" if quick else "paper", "environment": here, "parts": {}}
    kept = _kept(path, results, quick, names)
    for name, part in cases.PARTS.items():
        if name in names:
            say(f"{name}:")
            results["parts"][name] = _run_part(name, part.cases(quick), say)
            if here != results["environment"]:
                results["parts"][name]["environment"] = here
        elif name in kept:
            results["parts"][name] = kept[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


def _kept(path, results, quick, names):
    if set(names) >= set(cases.PARTS) or not path.exists():
        return {}
    old = json.loads(path.read_text(encoding="utf-8"))
    if old["scale"] != results["scale"]:
        return {}
    kept = {
        name: part
        for name, part in old["parts"].items()
        if name in cases.PARTS
        and name not in names
        and [case["settings"] for case in part["cases"]] == _plain(cases.PARTS[name].cases(quick))
    }
    if kept:
        results["environment"] = old["environment"]
    return kept


def _plain(value):
    """As JSON has it: tuples are lists."""
    return json.loads(json.dumps(value))


def _run_part(name, part_cases, say):
    part = {"date": datetime.date.today().isoformat(), "load before": os.getloadavg(), "cases": []}
    began = time.perf_counter()
    for settings in part_cases:
        case = run_case(name, settings)
        say(f"  {settings['title']}: {case['status']} in {case['seconds']:.0f} s {case.get('reason', '')}".rstrip())
        part["cases"].append(case)
    return part | {"seconds": time.perf_counter() - began}


def run_case(part, settings):
    """What one case gave; ``status`` is "done", "over the limit" (of time, where it has one) or "failed"."""
    began = time.perf_counter()
    limit = settings.get("limit", cases.LIMIT)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "rows"
        command = [sys.executable, "-m", "benchmarks.child", part, json.dumps(settings), str(file)]
        reason = _wait(command, limit)
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    case = {"settings": _plain(settings), "status": "done", "seconds": time.perf_counter() - began, "tables": {}}
    for line in lines:
        if "table" in line:
            case["tables"].setdefault(line["table"], []).append(line["row"])
        else:
            case |= line
    if reason is not None:
        over = reason == _over(limit) and "limit" in settings
        case |= {"status": "over the limit" if over else "failed", "reason": _without_paths(case.get("reason", reason))}
    return case


def _wait(command, limit):
    """None if a command ends well, else why not."""
    # A cache of compiled code would hide what compiling takes.
    variables = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    try:
        done = subprocess.run(command, cwd=ROOT, env=variables, stderr=subprocess.PIPE, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return _over(limit)
    if done.returncode == 0:
        return None
    sys.stderr.write(done.stderr)
    return f"ended by signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"


def _over(limit):
    return f"more than {limit} s"


def _without_paths(text):
    return re.sub(r"(?<![\w.])(?:/[\w.+-]+){2,}/?", "(a path)", text)


def environment():
    """The machine and versions; no host name."""
    installed = {}
    for name in DISTRIBUTIONS:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "CPU": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": {"bytes": memory},
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": installed,
    }


def _cpu():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
