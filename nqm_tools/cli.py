"""The ``nqm`` command."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys
from collections.abc import Sequence

from nqm_tools._version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; returns the exit code: 0 good, 1 something failed, 2 wrong usage, 130 interrupted."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        return args.run(args)
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, ModuleNotFoundError) as error:
        # What a user can put right, in one line; anything else is a fault and keeps its traceback.
        print(f"nqm: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1


def _parser():
    parser = argparse.ArgumentParser(prog="nqm", description="Catapult dynamics and neural quadratic models.")
    parser.add_argument("--version", action="version", version=f"nqm-tools {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    doctor = commands.add_parser("doctor", help="versions, devices, a check of neural-tangents, data found")
    doctor.set_defaults(run=_doctor)

    datasets = commands.add_parser("datasets", help="list, fetch or verify the paper's data sets")
    datasets.add_argument("action", choices=("list", "fetch", "verify"))
    datasets.add_argument("names", nargs="*", metavar="NAME", help="data sets; all by default")
    datasets.add_argument("--root", help="a folder with the publishers' files (else NQM_DATA_DIR, else the cache)")
    datasets.set_defaults(run=_datasets)

    sweep = commands.add_parser("sweep", help="compute what a store lacks of a sweep (a TOML file)")
    sweep.add_argument("file", metavar="FILE", help="the sweep; figure_2b and its like come with the package")
    sweep.add_argument("--store", required=True, metavar="DIR", help="the folder of results; made if need be")
    sweep.add_argument("--scale", help="a scale that the file has besides its own, such as quick")
    sweep.add_argument("--models", nargs="+", metavar="MODEL", help="only these of its models")
    sweep.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="only these of its seeds")
    sweep.add_argument("--rates", nargs="+", type=float, metavar="RATE", help="only these of its learning rates")
    sweep.add_argument("--dask", metavar="ADDRESS", help="a Dask scheduler, such as tcp://127.0.0.1:8786")
    sweep.set_defaults(run=_sweep)

    report = commands.add_parser("report", help="which of the papers' claims the recorded results bear out")
    report.add_argument("--paper", metavar="NAME", help="one paper, such as zhu2024 (else all)")
    report.add_argument(
        "--store", metavar="DIR", help="a folder with one store a sweep (else the recorded ones, data/results)"
    )
    report.add_argument("--output", default="report", metavar="DIR", help="where report.md, .html and .csv go")
    report.add_argument(
        "--quote",
        metavar="FILE",
        help="also put the first paper's counts between the marks <!-- report --> of a file",
    )
    report.set_defaults(run=_report)

    reproduce = commands.add_parser("reproduce", help="run the notebooks; write pages and figures")
    reproduce.add_argument("--scale", choices=("quick", "paper"), default="quick")
    reproduce.add_argument("--only", nargs="+", default=(), metavar="NN", help="numbers of notebooks: 00, 02b, A1, ...")
    reproduce.add_argument("--output", default="reproduced", metavar="DIR")
    reproduce.set_defaults(run=_reproduce)

    notebooks = commands.add_parser("notebooks", help="copy the notebooks, with what they read, to run and to change")
    notebooks.add_argument("folder", metavar="DIR", help="where to; made if need be")
    notebooks.add_argument("--student", action="store_true", help="without solutions; their places are marked")
    notebooks.add_argument("--only", nargs="+", default=(), metavar="NN", help="numbers of notebooks: 00, 02b, A1, ...")
    notebooks.set_defaults(run=_notebooks)
    return parser


def _doctor(args):
    from nqm_tools import _files

    packages = ("jax", "jaxlib", "neural-tangents", "numpy", "scipy", "pandas")
    optional = ("seaborn", "scikit-learn", "pooch", "pyarrow", "filelock", "distributed", "jupyterlab", "nbclient")
    print(f"nqm-tools        {__version__}")
    print(f"python           {platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in packages + optional:
        print(f"{name:16} {_version(name)}")
    import jax

    print(f"{'devices':16} {', '.join(f'{d.device_kind} ({d.platform})' for d in jax.devices())}")
    error = _kernel_error()
    good = error < 1e-4
    print(f"{'neural-tangents':16} {'works' if good else 'WRONG'}: kernel off by {error:.1e} (relative, float32)")
    print(f"{'data cache':16} {_files.cache_folder() if _version('pooch') != 'not installed' else 'needs pooch'}")
    if _version("pooch") != "not installed":
        try:
            _print_data(_files.SOURCES, None)
        except ValueError as error:  # a folder that the environment names and that is not there
            print(f"{'data':16} {error}")
    return 0 if good else 1


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _kernel_error():
    """The largest relative error of neural-tangents' kernel against one from plain Jacobians."""
    import jax
    import jax.numpy as jnp

    import nqm_tools as nqm

    net = nqm.networks.two_layer_fc(64)
    x = jax.random.normal(jax.random.key(0), (5, 8))
    params = net.init(jax.random.key(1), x.shape)
    jacobian = jnp.concatenate(
        [leaf.reshape(len(x), -1) for leaf in jax.tree.leaves(jax.jacobian(net.apply_fn)(params, x))], axis=1
    )
    kernel = jacobian @ jacobian.T
    return float(jnp.abs(nqm.empirical_ntk(net, params, x) - kernel).max() / jnp.abs(kernel).max())


def _datasets(args):
    from nqm_tools import _files

    names = args.names or list(_files.SOURCES)
    unknown = [name for name in names if name not in _files.SOURCES]
    if unknown:
        raise ValueError(f"unknown data set {', '.join(unknown)}; there are {', '.join(_files.SOURCES)}")
    if args.action == "list":
        print("digits    ships inside scikit-learn")
        _print_data(names, args.root)
        return 0
    good = True
    for name in names:
        try:
            files = _files.locate(name, args.root, download=args.action == "fetch")
        except FileNotFoundError as error:
            print(f"{name}: {error}", file=sys.stderr)
            good = False
            continue
        for file in files:
            verdict = {
                True: "as published",
                False: "NOT the published file",
                None: "no checksum is published",
            }
            print(f"{name:9} {file.path}  MD5 {file.md5}  {verdict[file.as_published]}")
            good = good and file.as_published is not False
    return 0 if good else 1


def _print_data(names, root):
    import warnings

    from nqm_tools import _files

    for name in names:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the line below says whether the files are the published ones
                files = _files.locate(name, root, download=False)
        except FileNotFoundError:
            print(f"{name:9} not here; `nqm datasets fetch {name}` downloads it")
        else:
            changed = any(file.as_published is False for file in files)
            print(f"{name:9} {files[0].path.parent}{' (not the published files)' if changed else ''}")


def _sweep(args):
    from nqm_tools import _shipped, sweeps

    sweep = sweeps.Sweep.from_toml(_shipped.sweep_file(args.file), args.scale)
    sweep = sweep.only(models=args.models, seeds=args.seeds, learning_rates=args.rates)
    frame = sweeps.run(sweep, args.store, client=args.dask)
    counts = frame["status"].value_counts()
    print(
        ", ".join(f"{counts[status]} {status}" for status in counts.index)
        + f"; read them with sweeps.load({args.store!r})"
    )
    return 1 if "failed" in counts else 0


def _report(args):
    from nqm_tools import report

    if args.quote:
        report.around_quote(args.quote)  # a wrong file is told before anything is written
    store = args.store or report.recorded_results()
    frame = report.claims(store, paper=args.paper) if args.paper else report.all_claims(store)
    written = report.write(frame, args.output)
    if args.quote:
        report.quote(frame[frame["paper"] == frame["paper"].iloc[0]], args.quote)
    for name, rows in frame.groupby("paper", sort=False):
        print(f"{name}: {report.headline(rows)}\n")
        print(report.to_markdown(report.summary(rows)))
    for path in written:
        print(f"written: {path}")
    return 0


def _reproduce(args):
    from nqm_tools import reproduce

    results = reproduce.reproduce(args.output, scale=args.scale, only=args.only)
    if any(result.problem == reproduce.INTERRUPTED for result in results):
        return 130
    return 1 if any(result.problem for result in results) else 0


def _notebooks(args):
    import shlex

    from nqm_tools import notebooks

    copied = notebooks.copy(args.folder, only=args.only, student=args.student)
    print(f"{len(copied)} copied; open them with: jupyter lab {shlex.quote(str(copied[0].parent))}")
    return 0
