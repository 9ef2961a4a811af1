"""The nqm command: what it prints, where it writes, and its exit codes."""

import hashlib
import os
import pathlib
import signal
import socket
import subprocess
import sys

import nbformat
import pytest

from nqm_tools import _files, cli, reproduce


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


@pytest.fixture
def clone(monkeypatch, tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    write_notebook(folder, "helper.ipynb", "raise SystemError('not numbered: must not run')")
    monkeypatch.setattr(reproduce, "notebooks_folder", lambda: folder)
    return folder


PLOT = """
import matplotlib.pyplot as plt
plt.plot([0, 1])
plt.title(scale);
"""


def test_reproduce_writes_pages_figures_and_an_index(clone, tmp_path, capsys):
    write_notebook(clone, "00_first.ipynb", "M:# A <title>\n\nwith $\\eta < 2$ and `$x$`", PLOT)
    write_notebook(clone, "A1_last.ipynb", "M:# Last", "assert scale == 'paper'", "raise ValueError('on purpose')")
    out = tmp_path / "out"
    assert cli.main(["reproduce", "--scale", "paper", "--output", str(out)]) == 1
    assert sorted(path.name for path in out.iterdir()) == [
        "00_first.html",
        "A1_last.html",
        "figures",
        "index.html",
        "notebooks",
        "report.html",
        "report.md",
        "results",
    ]
    assert (out / "figures" / "00_first_1.png").read_bytes().startswith(b"\x89PNG")
    index = (out / "index.html").read_text()
    assert 'src="figures/00_first_1.png"' in index
    assert "A &lt;title&gt;" in index
    assert "scale “paper”" in index
    assert "1 of 2 notebooks ran through" in index
    assert "failed in cell 4: ValueError: on purpose" in index
    page = (out / "00_first.html").read_text()
    assert "<math" in page
    assert "<code>$x$</code>" in page
    assert "<script src" not in page, "the page would need the web"
    printed = capsys.readouterr().out
    assert "[1/2] 00_first: done" in printed
    assert "[2/2] A1_last: failed in cell 4: ValueError: on purpose" in printed


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
    read = "import nqm_tools\nassert len(nqm_tools.sweeps.load(f'{results}/b')) == 1"
    write_notebook(clone, "00_first.ipynb", "M:# First", read)
    path = clone / "00_first.ipynb"
    path.write_text(path.read_text().replace('scale = \\"none\\"', "scale = 0\\nresults = 0"))
    out = tmp_path / "out"
    assert cli.main(["reproduce", "--scale", "paper", "--output", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "a waits for its data: data set 'svhn2' is not here" in printed
    assert "1 runs in 1 groups" in printed
    assert "href='report.html'" in (out / "index.html").read_text()
    assert cli.main(["reproduce", "--scale", "paper", "--only", "00", "--output", str(tmp_path / "other")]) == 1
    assert not (tmp_path / "other" / "results").exists(), "of some notebooks only, the sweeps do not run"


def test_reproduce_only_runs_the_numbers_asked_for(clone, tmp_path):
    write_notebook(clone, "00_first.ipynb", "raise SystemError('must not run')")
    write_notebook(clone, "01_second.ipynb", "1 + 1")
    out = tmp_path / "out"
    assert cli.main(["reproduce", "--only", "01", "--output", str(out)]) == 0
    assert [path.name for path in (out / "notebooks").iterdir()] == ["01_second.ipynb"]


def test_reproduce_refuses_unknown_numbers(clone, tmp_path, capsys):
    write_notebook(clone, "00_first.ipynb", "1 + 1")
    assert cli.main(["reproduce", "--only", "07", "--output", str(tmp_path)]) == 2
    assert "no notebook is numbered 07; there are 00" in capsys.readouterr().err


def test_reproduce_outside_a_clone_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(reproduce, "__file__", str(tmp_path / "site-packages" / "nqm_tools" / "reproduce.py"))
    assert cli.main(["reproduce", "--output", str(tmp_path / "out")]) == 1
    assert "the notebooks are part of the repository" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_ctrl_c_leaves_finished_notebooks_in_place(clone, tmp_path):
    """In a process of its own, with the signal that a terminal sends."""
    write_notebook(clone, "00_first.ipynb", "M:# First", PLOT)
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(120)
    call = f"import socket\nsocket.create_connection(('127.0.0.1', {server.getsockname()[1]})).recv(1)"
    write_notebook(clone, "01_long.ipynb", call)  # and waits for an answer
    out = tmp_path / "out"
    code = (
        "import pathlib, sys; from nqm_tools import cli, reproduce; "
        f"reproduce.notebooks_folder = lambda: pathlib.Path({str(clone)!r}); "
        f"sys.exit(cli.main(['reproduce', '--output', {str(out)!r}]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        with server, server.accept()[0]:
            os.kill(process.pid, signal.SIGINT)
            assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
    index = (out / "index.html").read_text()
    assert "00_first.html" in index
    assert "interrupted" in index
    assert (out / "figures" / "00_first_1.png").is_file()


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


def test_formulas_become_mathml_and_code_stays():
    text = "a $x_1$ b\n\n$$\\frac{1}{n}\\sum_i r_i^2$$\n\n`cost $5`\n\n```\n$HOME\n```\n"
    converted = reproduce.formulas_to_mathml(text)
    assert converted.count("<math") == 2
    assert 'display="block"' in converted
    assert "`cost $5`" in converted
    assert "```\n$HOME\n```" in converted


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
