"""``python -m benchmarks``: run the parts, write ``benchmarks.json`` and ``README.md``, and the top README's table."""

import argparse
import pathlib
import sys

from benchmarks import cases, report, runner

HERE = pathlib.Path(__file__).parent


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure speed and memory.")
    parser.add_argument("--quick", action="store_true", help="small sizes: whether everything runs")
    parser.add_argument("--only", nargs="+", choices=list(cases.PARTS), metavar="PART", help=", ".join(cases.PARTS))
    parser.add_argument(
        "--output", type=pathlib.Path, help="a folder (default: benchmarks/results, or build/benchmarks)"
    )
    options = parser.parse_args(arguments)
    # Results to be quoted are not to be overwritten by a quick look.
    output = options.output or (HERE.parent / "build" / "benchmarks" if options.quick else HERE / "results")
    results = runner.run(options.only or list(cases.PARTS), options.quick, output / "benchmarks.json", _say)
    (output / "README.md").write_text(report.markdown(results), encoding="utf-8")
    if options.output is None and not options.quick:
        readme = HERE.parent / "README.md"
        readme.write_text(report.put_summary(results, readme.read_text(encoding="utf-8")), encoding="utf-8")
    failed = [case for part in results["parts"].values() for case in part["cases"] if case["status"] == "failed"]
    return 1 if failed else 0


def _say(line):
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
