"""The nqm command: what it prints, where it writes, and its exit codes."""

import asyncio
import hashlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.parse

import nbformat
import pytest

from nqm_tools import _files, _shipped, cli, papers, reproduce


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """An empty cache, no folder of the user's, and one published file whose publisher cannot be reached."""
    monkeypatch.setenv("NQM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("NQM_DATA_DIR", raising=False)
    content = b"published"
    source = _files.Source("mini/file.bin", "http://127.0.0.1:9/file.bin", hashlib.md5(content).hexdigest())
    monkeypatch.setattr(_files, "SOURCES", {"mini": (source,)})
    return content


def put(folder, content):
    path = folder / "mini" / "file.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def test_doctor_reports_versions_devices_and_a_working_kernel(offline, capsys):
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "neural-tangents  works: kernel off by" in out
    assert "jax" in out
    assert "(cpu)" in out or "(gpu)" in out
    assert "mini      not here; `nqm datasets fetch mini` downloads it" in out


def test_doctor_goes_on_past_a_missing_folder_and_missing_extras(offline, capsys, monkeypatch):
    monkeypatch.setenv("NQM_DATA_DIR", "/no/such/folder")
    assert cli.main(["doctor"]) == 0
    assert "NQM_DATA_DIR must be the path of an existing folder" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "pooch", None)
    monkeypatch.setattr(cli, "_version", lambda name: "not installed" if name == "pooch" else "1")
    assert cli.main(["doctor"]) == 0
    assert "needs pooch" in capsys.readouterr().out


def test_doctor_fails_when_kernels_are_wrong(offline, capsys, monkeypatch):
    monkeypatch.setattr(cli, "_kernel_error", lambda: 0.5)
    assert cli.main(["doctor"]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_datasets_list_says_what_is_here(offline, tmp_path, capsys):
    put(tmp_path / "mine", offline)
    assert cli.main(["datasets", "list", "--root", str(tmp_path / "mine")]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["mini", str(tmp_path / "mine" / "mini")]


@pytest.mark.parametrize(
    ("content", "code", "verdict"), [(b"published", 0, "as published"), (b"other", 1, "NOT the published file")]
)
def test_datasets_verify_compares_checksums(offline, tmp_path, capsys, content, code, verdict):
    put(tmp_path / "mine", content)
    with pytest.warns(UserWarning, match="not the published file") if code else _nothing():
        assert cli.main(["datasets", "verify", "mini", "--root", str(tmp_path / "mine")]) == code
    assert verdict in capsys.readouterr().out


class _nothing:
    def __enter__(self):
        return self

    def __exit__(self, *args):
        return False


def test_datasets_fetch_offline_says_which_files_to_put_where(offline, capsys):
    with pytest.warns(UserWarning, match="could not be downloaded"):
        assert cli.main(["datasets", "fetch"]) == 1
    assert "mini/file.bin" in capsys.readouterr().err


def test_unknown_data_sets_and_folders_are_refused(offline, capsys):
    assert cli.main(["datasets", "fetch", "imagenet"]) == 2
    assert "unknown data set imagenet; there are mini" in capsys.readouterr().err
    assert cli.main(["datasets", "verify", "--root", "/no/such/folder"]) == 2
    assert "root must be the path of an existing folder" in capsys.readouterr().err


def write_notebook(folder, name, *sources):
    cells = [nbformat.v4.new_code_cell('scale = "none"', metadata={"tags": ["parameters"]})]
    cells += [
        nbformat.v4.new_markdown_cell(source[2:]) if source.startswith("M:") else nbformat.v4.new_code_cell(source)
        for source in sources
    ]
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), folder / name)


# What a path may contain, and what formats, links or pages could take for something else.
ODD = "{odd} {} 50% #1 &amp; 'ü' <b>"


@pytest.fixture
def clone(monkeypatch, tmp_path):
    monkeypatch.setattr(papers, "NAMES", papers.NAMES[:1])  # the claims of all are decided in test_report
    folder = tmp_path / ODD / "notebooks"
    folder.mkdir(parents=True)
    write_notebook(folder, "helper.ipynb", "raise SystemError('not numbered: must not run')")
    monkeypatch.setattr(reproduce, "notebooks_folder", lambda: folder)
    return folder


PLOT = """
import matplotlib.pyplot as plt
plt.plot([0, 1])
plt.title(scale);
"""


def test_reproduce_writes_pages_figures_and_an_index(clone, tmp_path, capfd, monkeypatch):
    write_notebook(clone, "00_größe.ipynb", "M:# A <title>\n\nwith $\\eta < 2$ and `$x$`", PLOT)
    write_notebook(clone, "A1_last.ipynb", "M:# Last", "assert scale == 'paper'", "raise ValueError('on purpose')", "1")
    last = nbformat.read(clone / "A1_last.ipynb", 4)
    last.cells[-1].outputs = [nbformat.v4.new_output("stream", text="of an earlier run")]
    nbformat.write(last, clone / "A1_last.ipynb")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    out = tmp_path / f"out {ODD}"
    assert cli.main(["reproduce", "--scale", "paper", "--output", str(out)]) == 1
    assert sorted(path.name for path in out.iterdir()) == [
        "00_größe.html",
        "A1_last.html",
        "figures",
        "index.html",
        "notebooks",
        "report.csv",
        "report.html",
        "report.md",
        "results",
    ]
    assert (out / "figures" / "00_größe_1.png").read_bytes().startswith(b"\x89PNG")
    index = (out / "index.html").read_text()
    links = re.findall(r"(?:href|src)=[\"']([^\"']+)", index)
    assert {urllib.parse.unquote(link) for link in links} == {
        "00_größe.html",
        "A1_last.html",
        "figures/00_größe_1.png",
        "report.html",
    }
    assert all(link.isascii() and (out / urllib.parse.unquote(link)).is_file() for link in links)
    assert "A &lt;title&gt;" in index
    assert "scale “paper”" in index
    assert "1 of 2 notebooks ran through" in index
    assert "failed in cell 4: ValueError: on purpose" in index
    assert "of an earlier run" not in (out / "A1_last.html").read_text()
    page = (out / "00_größe.html").read_text()
    assert re.search('<svg [^>]*aria-label="', page)
    assert "<code>$x$</code>" in page
    assert "<script src" not in page, "the page would need the web"
    printed = capfd.readouterr()
    assert "[1/2] 00_größe: done" in printed.out
    assert "[2/2] A1_last: failed in cell 4: ValueError: on purpose" in printed.out
    assert "TCP" not in printed.err, "a kernel warns of its transport"
    assert not list((tmp_path / "temporary").iterdir()), "sockets are left"


SWEEP = """
seeds = 1
models = ["f_quad"]
data = { name = "DATA" }
network = { name = "diagonal_quadratic", gamma = 0.1 }
learning_rates = { critical = [0.5] }
training = { steps = 2, record = [] }
"""


@pytest.mark.filterwarnings("ignore:.*could not be downloaded")
def test_reproduce_at_paper_scale_runs_the_sweeps_for_notebooks_and_report(
    clone, offline, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(_files.SOURCES, "svhn2", _files.SOURCES["mini"])
    experiments = clone.parent / "experiments"
    experiments.mkdir()
    (experiments / "b.toml").write_text(SWEEP.replace('"DATA"', '"single_example", dimension = 3'))
    (experiments / "a.toml").write_text(SWEEP.replace('"DATA"', '"svhn2", n_train = 3, n_test = 0'))
    read = "import nqm_tools\nassert len(nqm_tools.sweeps.load(f'{results}/b')) == 1\nprint(results)"
    write_notebook(clone, "00_first.ipynb", "M:# First", read)
    path = clone / "00_first.ipynb"
    path.write_text(path.read_text().replace('scale = \\"none\\"', "scale = 0\\nresults = 0"))
    out = tmp_path / f"out {ODD}"
    assert cli.main(["reproduce", "--scale", "paper", "--output", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "a waits for its data: data set 'svhn2' is not here" in printed
    assert "1 runs in 1 groups" in printed
    assert "href='report.html'" in (out / "index.html").read_text()
    executed = (out / "notebooks" / "00_first.ipynb").read_text()
    assert "results = '../results'" in executed
    assert "output/results" in executed
    assert str(tmp_path) not in executed + (out / "00_first.html").read_text()
    assert cli.main(["reproduce", "--scale", "paper", "--only", "00", "--output", str(tmp_path / "other")]) == 1
    assert not (tmp_path / "other" / "results").exists(), "of some notebooks only, the sweeps do not run"


def test_reproduce_only_runs_the_numbers_asked_for(clone, tmp_path, monkeypatch):
    """Also where temporary files have longer paths than sockets can."""
    (tmp_path / ("t" * 100)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("t" * 100)))
    write_notebook(clone, "00_first.ipynb", "raise SystemError('must not run')")
    write_notebook(clone, "01_second.ipynb", "1 + 1")
    (clone.parent / "data" / "results").mkdir(parents=True)
    out = tmp_path / "out"
    assert cli.main(["reproduce", "--only", "01", "--output", str(out)]) == 0
    assert [path.name for path in (out / "notebooks").iterdir()] == ["01_second.ipynb"]
    assert not (out / "report.html").exists(), "it takes longer than a notebook"


def test_reproduce_refuses_unknown_numbers(clone, tmp_path, capsys):
    write_notebook(clone, "00_first.ipynb", "1 + 1")
    assert cli.main(["reproduce", "--only", "07", "--output", str(tmp_path)]) == 2
    assert "no notebook is numbered 07; there are 00" in capsys.readouterr().err


def test_reproduce_without_notebooks_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(_shipped, "__file__", str(tmp_path / "site-packages" / "nqm_tools" / "_shipped.py"))
    assert cli.main(["reproduce", "--output", str(tmp_path / "out")]) == 1
    assert "this installation of nqm-tools has no notebooks/" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_ctrl_c_leaves_finished_notebooks_in_place(clone, tmp_path):
    """In a process of its own, with the signal that a terminal sends."""
    write_notebook(clone, "00_first.ipynb", "M:# First", PLOT)
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(120)
    call = f"import socket\nsocket.create_connection(('127.0.0.1', {server.getsockname()[1]})).recv(1)"
    for number in ("01", "02"):
        write_notebook(clone, f"{number}_long.ipynb", call)  # and waits for an answer
    write_notebook(clone, "03_waits.ipynb", "1 + 1")
    out = tmp_path / "out"
    code = (
        "import pathlib, sys; from nqm_tools import cli, reproduce; "
        f"reproduce.notebooks_folder = lambda: pathlib.Path({str(clone)!r}); reproduce._side_by_side = lambda: 2; "
        f"sys.exit(cli.main(['reproduce', '--output', {str(out)!r}]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        with server, server.accept()[0], server.accept()[0]:
            os.kill(process.pid, signal.SIGINT)
            assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
    index = (out / "index.html").read_text()
    assert "00_first.html" in index
    assert index.count("interrupted") == 2
    assert "03" not in re.findall(r"<h2>.*?(\d\d)  ", index)
    assert (out / "figures" / "00_first_1.png").is_file()


def test_reproduce_can_be_called_in_a_notebook(clone, tmp_path):
    """Where an event loop runs already."""
    write_notebook(clone, "00_first.ipynb", "M:# First", "1 + 1")

    async def cell():
        return reproduce.reproduce(tmp_path / "out", say=lambda line: None)

    assert [result.problem for result in asyncio.run(cell())] == [None]
    assert (tmp_path / "out" / "00_first.html").is_file()


def test_two_notebooks_run_at_a_time_and_one_whose_kernel_dies_stops_no_other(clone, tmp_path, monkeypatch):
    """The first two wait for each other."""
    monkeypatch.setattr(reproduce, "_side_by_side", lambda: 2)
    meet = (
        "import pathlib, time\npathlib.Path({0!r}).touch()\nend = time.monotonic() + 60\n"
        "while not pathlib.Path({1!r}).exists():\n    time.sleep(0.1)\n    assert time.monotonic() < end"
    )
    one, other = str(tmp_path / "one"), str(tmp_path / "other")
    write_notebook(clone, "00_first.ipynb", meet.format(one, other), "import time; time.sleep(1)")
    write_notebook(clone, "01_second.ipynb", meet.format(other, one))
    write_notebook(clone, "02_dies.ipynb", "import os; os._exit(1)")
    bar = "from tqdm.auto import tqdm\nfor i in tqdm(range(3)):\n    print(i)"
    write_notebook(clone, "03_bar.ipynb", bar)
    lines = []
    results = reproduce.reproduce(tmp_path / "out", say=lines.append)
    assert [result.number for result in results] == ["00", "01", "02", "03"], (
        "the order is the notebooks', not that of ends"
    )
    assert [result.problem for result in results[:2]] == [None, None]
    assert results[2].problem == "failed: Kernel died (is there enough memory?)"
    done = [line.split(":")[0] for line in lines if "done" in line]
    assert done.index("[2/4] 01_second") < done.index("[1/4] 00_first")
    outputs = nbformat.read(tmp_path / "out" / "notebooks" / "03_bar.ipynb", 4).cells[-1].outputs
    assert [output["text"] for output in outputs] == ["0\n1\n2\n"], "no bar, one output"


@pytest.mark.parametrize(("cores", "at_a_time"), [(1, 1), (2, 2), (64, 2)])
def test_no_more_notebooks_run_than_there_are_cores(cores, at_a_time, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    assert reproduce._side_by_side() == at_a_time


def test_two_kernels_share_a_gpu_unless_the_user_says_how(monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE", raising=False)
    assert reproduce._kernel_environment()["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    assert reproduce._kernel_environment()["XLA_PYTHON_CLIENT_PREALLOCATE"] == "true"


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (3, 1), (64, 32)])
def test_two_kernels_share_the_cores_unless_the_user_says_how(cores, threads, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert reproduce._kernel_environment()["OMP_NUM_THREADS"] == str(threads)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert reproduce._kernel_environment()["OMP_NUM_THREADS"] == "5"


def test_output_among_what_belongs_to_the_repository_is_refused(clone, tmp_path, capsys):
    write_notebook(clone, "00_first.ipynb", "raise SystemError('must not run')")
    root = clone.parent
    (root / "data" / "results").mkdir(parents=True)
    (tmp_path / "link").symlink_to(root)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notebooks").symlink_to(clone)
    before = sorted(tmp_path.rglob("*"))
    for output in (
        root,
        clone,
        clone / "new",
        clone / ".." / "new" / "..",
        root / "data" / "results",
        tmp_path / "link",
        tmp_path / "link" / "data" / "new",
        tmp_path / "out",
    ):
        assert cli.main(["reproduce", "--output", str(output)]) == 2
        error = capsys.readouterr().err
        assert error.startswith(
            f"nqm: output must be a folder of its own, such as 'out'; {str(output)!r} would write in"
        )
        assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_clone_that_is_called_notebooks_is_no_place_for_notebooks(tmp_path, monkeypatch):
    folder = tmp_path / "notebooks" / "notebooks"
    folder.mkdir(parents=True)
    monkeypatch.setattr(reproduce, "notebooks_folder", lambda: folder)
    with pytest.raises(ValueError, match="would write in the repository itself"):
        reproduce.reproduce(tmp_path)


def test_pages_do_not_say_where_things_lie_on_this_machine(clone, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NQM_DATA_DIR", str(tmp_path / "sets"))
    monkeypatch.setattr(tempfile, "tempdir", "/temporary")
    packages = pathlib.Path(nbformat.__file__).parents[1]
    for text, shown in {
        f"{packages}/jax/x.py:1: UserWarning": "site-packages/jax/x.py:1: UserWarning",
        f"File \x1b[32m~/{ODD}/nqm_tools/x.py\x1b[0m": "File \x1b[32mnqm-tools/nqm_tools/x.py\x1b[0m",
        f"open('{tmp_path}/out/results')": "open('output/results')",
        f"{tmp_path}/sets/mnist, {tmp_path}/else, {tmp_path}2": f"NQM_DATA_DIR/mnist, ~/else, {tmp_path}2",
        "/temporary/ipykernel_12/345.py:1: W, /temporary/x": "cell.py:1: W, tmp/x",
        "either/or, a/tmp/b, 1/2": "either/or, a/tmp/b, 1/2",
    }.items():
        assert reproduce._without_paths(text, tmp_path / "out") == shown


def test_notebooks_between_two_numbers_are_found_and_pages_leave_out_checks(clone, tmp_path):
    write_notebook(clone, "02_first.ipynb", "raise SystemError('must not run')")
    write_notebook(clone, "02b_more.ipynb", "M:# More", "print('for read' + 'ers')", "print('for te' + 'sts')")
    notebook = nbformat.read(clone / "02b_more.ipynb", 4)
    notebook.cells[-1].metadata["tags"] = ["remove-cell"]
    nbformat.write(notebook, clone / "02b_more.ipynb")
    out = tmp_path / "out"
    assert cli.main(["reproduce", "--only", "02b", "--output", str(out)]) == 0
    page = (out / "02b_more.html").read_text()
    assert "for readers" in page
    assert "for tests" not in page


def test_formulas_are_drawn_and_code_stays():
    text = "a $x_1$ b\n\n$$\\frac{1}{n}\\sum_i r_i^2$$\n\n`cost $5`\n\n```\n$HOME\n```\n"
    converted = reproduce.formulas_to_svg(text)
    assert converted.count("<svg") == 2
    assert 'aria-label="\\frac{1}{n}\\sum_i r_i^2"' in converted
    assert "display:block" in converted
    assert "`cost $5`" in converted
    assert "```\n$HOME\n```" in converted


def test_no_formula_of_the_notebooks_is_left_as_text():
    """Neither whole nor in parts: an "&" of an alignment, say, that is drawn as a letter."""
    import ziamath

    seen = 0
    for path in reproduce.select():
        for cell in nbformat.read(path, 4).cells:
            if cell.cell_type == "markdown":
                seen += cell.source.count("$")
                drawn = reproduce.formulas_to_svg(cell.source)
                outside = re.sub(r"<svg.*?</svg>|```.*?```|`[^`\n]*`", "", drawn, flags=re.DOTALL)
                assert not re.search(r"\$|\\[a-z]+|\\begin", outside), path.name
    assert seen > 1000
    aligned = ziamath.Latex(r"\begin{split} a &= b \\ c &= d \end{split}").svg()
    ampersand = ziamath.Latex(r"\&").svg()
    (letter,) = re.findall(r'symbol id="([^"]+)"', ampersand)
    assert letter not in aligned
    assert letter not in reproduce.formulas_to_svg(r"$$\begin{aligned} a &= b \\ c &= d \end{aligned}$$")


def test_the_clones_notebooks_are_found_in_order():
    folder = reproduce.notebooks_folder()
    assert folder == pathlib.Path(__file__).parents[1] / "notebooks"
    numbers = [path.name.split("_")[0] for path in reproduce.select()]
    assert numbers[0] == "00"
    assert "02b" in numbers
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("arguments", [[], ["dance"], ["reproduce", "--scale", "huge"], ["datasets"]])
def test_wrong_usage_exits_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: nqm" in capsys.readouterr().err
