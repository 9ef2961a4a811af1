"""Sweeps that are killed, interrupted, shared, starved of disk space or of workers: what was finished stays."""

import contextlib
import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pandas as pd
import pytest

from nqm_tools import cli, sweeps
from nqm_tools.store import Store, StoreError

SETTINGS = {
    "data": {"name": "digits", "n_train": 12, "n_test": 10},
    "network": {"name": "two_layer_fc", "width": 24},
    "models": ["f_lin", "f_quad"],
    "learning_rates": [0.5, 1.5, 5.0],
    "seeds": 3,
    "steps": 40,
    "record_every": 3,
}
GROUPS, RUNS = 6, 18

PREAMBLE = """
import json, os, signal, sys
from nqm_tools import cli, sweeps
sweep, folder = sweeps.Sweep(**json.loads(sys.argv[1])), sys.argv[2]
"""

# A group stops in the middle, until it is told to go on: the third, or the first.
STOPPED = """
from nqm_tools.training import _train
run_batch, calls = _train.run_batch, []
def stop(*args, **kwargs):
    calls.append(args)
    if len(calls) == 3:
        print("computing", flush=True)
        sys.stdin.readline()
    return run_batch(*args, **kwargs)
_train.run_batch = stop
"""
STOPPED_AT_FIRST = STOPPED.replace("== 3", "== 1")

TOML = """
models = ["f_lin", "f_quad"]
seeds = 3
[data]
name = "digits"
n_train = 12
n_test = 10
[network]
name = "two_layer_fc"
width = 24
[learning_rates]
critical = [0.5, 1.5, 5.0]
[training]
steps = 40
record_every = 3
"""


def child(code, folder, settings=SETTINGS, **options):
    return start([sys.executable, "-c", PREAMBLE + code, json.dumps(settings), str(folder)], **options)


def start(command, env=None):
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, **pipes, text=True, env=os.environ | (env or {}))


def result_of(process, code=0):
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    return out, err


def line_with(stream, words):
    """Wait for a line that holds ``words``."""
    for line in stream:
        if words in line:
            return line
    raise AssertionError(f"the process ended without {words!r}")


def files(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}


def assert_same(folder, expected, rtol=0):
    """The two stores hold the same runs and curves, apart from the time that they took."""
    for load in (sweeps.load, sweeps.load_curves):
        a, b = (load(store).drop(columns="seconds") for store in (folder, expected))
        pd.testing.assert_frame_equal(a, b, check_exact=rtol == 0, **({"rtol": rtol, "atol": rtol} if rtol else {}))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    frame = sweeps.run(sweeps.Sweep(**SETTINGS), folder, say=lambda line: None)
    assert len(frame) == RUNS
    assert set(frame["status"]) == {"finished", "diverged"}
    return folder


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a disk with the given options; called again, it changes them."""
    disk, mounted = tmp_path / "disk", []
    disk.mkdir()

    def mount(options):
        how = ["-o", f"remount,{options}"] if mounted else ["-t", "tmpfs", "-o", options]
        try:
            subprocess.run(["mount", *how, "tmpfs", disk], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"a small disk can be mounted by the administrator of a Linux system only: {error}")
        mounted.append(options)
        return disk

    yield mount
    if mounted:
        subprocess.run(["umount", disk], check=True)


# A process that dies


def test_killed_in_the_middle_of_a_group_goes_on_with_that_group(tmp_path, undisturbed):
    process = child(STOPPED + "sweeps.run(sweep, folder)", tmp_path)
    assert process.stdout.readline() == "computing\n"
    process.kill()
    process.communicate()
    before = files(tmp_path)
    assert len(before) == 2
    lines = []
    sweeps.run(sweeps.Sweep(**SETTINGS), tmp_path, say=lines.append)
    assert lines[0].startswith(f"{RUNS} runs in {GROUPS} groups; 6 are in ")
    assert len(lines) == 1 + 4
    assert before.items() <= files(tmp_path).items()
    assert_same(tmp_path, undisturbed)


def test_the_command_killed_at_any_time_goes_on_where_it_was(tmp_path, undisturbed, capsys):
    store, file = tmp_path / "store", tmp_path / "sweep.toml"
    file.write_text(TOML)
    command = ["sweep", str(file), "--store", str(store)]
    last = sweeps.Sweep(**SETTINGS).groups()[-1]
    with Store(store).lock(last.name):  # which the command waits for, however fast it is
        process = start([sys.executable, "-m", "nqm_tools", *command])
        line_with(process.stderr, f"/{RUNS}] ")
        process.kill()
        process.communicate()
    before = files(store)
    assert 0 < len(before) < GROUPS
    assert cli.main(command) == 0
    out, err = capsys.readouterr()
    assert out == f"12 finished, 6 diverged; read them with sweeps.load({str(store)!r})\n"
    assert len(err.splitlines()) == 1 + GROUPS - len(before)
    assert before.items() <= files(store).items()
    assert_same(store, undisturbed)


# Several processes


def test_two_processes_share_a_sweep_and_compute_every_run_once(tmp_path, undisturbed):
    both = [child(STOPPED_AT_FIRST + "sweeps.run(sweep, folder)", tmp_path) for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "computing\n"  # each has a group, before either goes on
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    titles, most = [], []
    for process in both:
        _, err = result_of(process)
        assert f"; 0 are in {tmp_path} already" in err
        counts = [int(line[1:].split("/")[0]) for line in err.splitlines() if line.startswith("[")]
        assert counts == sorted(set(counts))
        most.append(counts[-1])
        titles.append([line.split("] ")[1].split(":")[0] for line in err.splitlines() if line.startswith("[")])
    assert max(most) == RUNS  # what the other process finished is counted, too
    assert len(titles[0] + titles[1]) == len({*titles[0], *titles[1]}) == GROUPS
    assert titles[0]
    assert titles[1]
    assert len(files(tmp_path)) == GROUPS
    assert_same(tmp_path, undisturbed)


def test_a_group_that_another_process_has_in_hand_is_waited_for(tmp_path, undisturbed, monkeypatch):
    monkeypatch.setattr("nqm_tools.sweeps._run.PATIENCE", 0.05)
    process = child(STOPPED + "sweeps.run(sweep, folder)", tmp_path)
    assert process.stdout.readline() == "computing\n"
    lines = []

    def say(line):
        lines.append(line)
        if f"/{RUNS}]" in line and len(lines) == 4:  # all but the one that is computing
            process.stdin.write("\n")
            process.stdin.flush()

    frame = sweeps.run(sweeps.Sweep(**SETTINGS), tmp_path, say=say)
    _, err = result_of(process)
    assert len(frame) == RUNS
    assert len(lines) - 1 + err.count(f"/{RUNS}]") == GROUPS
    assert_same(tmp_path, undisturbed)


@contextlib.contextmanager
def local_cluster(**options):
    distributed = pytest.importorskip("distributed")
    options = {"threads_per_worker": 1, "dashboard_address": ":0", "protocol": "tcp", "host": "127.0.0.1"} | options
    with distributed.LocalCluster(**options) as cluster:
        yield cluster


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_cluster_that_loses_workers_finishes_the_sweep(tmp_path, undisturbed, monkeypatch):
    distributed = pytest.importorskip("distributed")
    sweep, store = sweeps.Sweep(**SETTINGS), tmp_path / "store"
    lines, killed = [], []
    with local_cluster(n_workers=2, processes=True) as cluster:
        with distributed.Client(cluster) as client:
            for nanny in cluster.workers.values():
                nanny.auto_restart = False  # the other one does
            pids = client.run(os.getpid)
            assert len({*pids.values(), os.getpid()}) == 3

            def say(line):
                lines.append(line)
                busy = [worker for worker, tasks in client.processing().items() if tasks]
                if line.startswith("[") and not killed and busy:
                    killed.append(busy[0])
                    os.kill(pids[busy[0]], signal.SIGKILL)

            frame = sweeps.run(sweep, store, client=client, say=say)
        assert killed
        assert len(frame) == RUNS
        assert sum(line.startswith("[") for line in lines) == GROUPS
        assert (
            f"the Dask worker {killed[0]} is gone (1 left); what it was computing is computed by another one" in lines
        )
        assert len(files(store)) == GROUPS
        assert_same(store, undisturbed, rtol=1e-6)

        # A group that takes its worker with it is failed runs, not the end. (From text, so that it travels by value.)
        deadly = eval("lambda group: __import__('os')._exit(1)", {})
        with monkeypatch.context() as patch:
            patch.setattr("nqm_tools.sweeps._run.compute", deadly)
            patch.setattr(cluster.scheduler, "allowed_failures", 0)
            one = sweeps.Sweep(**SETTINGS | {"models": ["f_lin"], "seeds": 1})
            frame = sweeps.run(one, tmp_path / "deadly", client=cluster.scheduler_address, say=lines.append)
        assert frame["status"].tolist() == ["failed"] * 3
        assert frame["reason"].str.startswith("KilledWorker: ").all()
        assert frame["learning_rate_ratio"].tolist() == [0.5, 1.5, 5.0]
        pids = {*pids.values(), *(nanny.pid for nanny in cluster.workers.values() if nanny.pid)}
    assert not any(is_running(pid) for pid in pids)


def test_the_command_takes_the_address_of_a_scheduler(tmp_path, undisturbed):
    (tmp_path / "sweep.toml").write_text(TOML)
    with local_cluster(n_workers=1, processes=False) as cluster:
        command = ["sweep", str(tmp_path / "sweep.toml"), "--store", str(tmp_path / "store")]
        assert cli.main([*command, "--dask", cluster.scheduler_address]) == 0
        assert not cluster.scheduler.clients.keys() - {"fire-and-forget"}  # ours is closed
    assert_same(tmp_path / "store", undisturbed, rtol=1e-6)


def test_a_full_disk_under_a_cluster_leaves_no_lock_behind(tmp_path, monkeypatch):
    sweep = sweeps.Sweep(**SETTINGS | {"models": ["f_lin"], "seeds": 1})
    monkeypatch.setattr(os, "fsync", refuse)
    with local_cluster(n_workers=1, processes=False) as cluster, pytest.raises(StoreError) as caught:
        sweeps.run(sweep, tmp_path, client=cluster.scheduler_address, say=lambda line: None)
    # The error is still at hand here, and with it every local variable on the way.
    assert "No space left" in str(caught.value)
    (group,) = sweep.groups()
    with Store(tmp_path).lock(group.name).acquire(timeout=0):
        pass


def test_a_lost_scheduler_is_one_line_that_says_how_to_go_on(tmp_path, capsys, caplog, monkeypatch):
    pytest.importorskip("distributed")
    (tmp_path / "sweep.toml").write_text(TOML)
    store = tmp_path / "store"
    with local_cluster(n_workers=1, processes=False) as cluster:
        done = sweeps._run._Progress.done

        def lose(progress, *args):
            done(progress, *args)
            streams = cluster.scheduler.client_comms.values()
            cluster.loop.add_callback(lambda: [stream.comm.abort() for stream in streams])

        monkeypatch.setattr(sweeps._run._Progress, "done", lose)
        address = cluster.scheduler_address
        assert cli.main(["sweep", str(tmp_path / "sweep.toml"), "--store", str(store), "--dask", address]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    # The scheduler, in this process here, may note the end of its own side after that of ours.
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not [record for record in told if record.name in ("distributed.batched", "distributed.client")]
    assert [line for line in err.splitlines() if line.startswith("nqm: ")] == [
        f"nqm: the Dask scheduler at {address} was lost, or dropped the tasks of this sweep. {store} holds what was "
        "finished before; the same command goes on with the rest"
    ]
    found = Store(store)
    assert len(found.finished()) == 3 * err.count(f"/{RUNS}] ") < RUNS
    for group in sweeps.Sweep(**SETTINGS).groups():  # no lock is left behind
        with found.lock(group.name).acquire(timeout=0):
            pass


def test_a_cluster_without_a_worker_says_so_at_once(tmp_path):
    """Such as one whose workers cannot start."""
    lines = []

    def say(line):
        lines.append(line)
        if "has no worker" in line:
            cluster.scale(1)

    with local_cluster(n_workers=0, processes=False) as cluster:
        sweep = sweeps.Sweep(**SETTINGS | {"models": ["f_lin"], "seeds": 1})
        sweeps.run(sweep, tmp_path, client=cluster.scheduler_address, say=say)
        assert lines[1] == f"the Dask scheduler at {cluster.scheduler_address} has no worker; waiting for one"
    assert len(lines) == 3


def test_no_scheduler_at_an_address_is_one_line(tmp_path, capsys):
    dask = pytest.importorskip("dask")
    pytest.importorskip("distributed")
    (tmp_path / "sweep.toml").write_text(TOML)
    command = ["sweep", str(tmp_path / "sweep.toml"), "--store", str(tmp_path / "s")]
    with dask.config.set({"distributed.comm.timeouts.connect": "200ms"}):
        assert cli.main([*command, "--dask", "tcp://127.0.0.1:1"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"{RUNS} runs in {GROUPS} groups")
    assert "tcp://127.0.0.1:1" in lines[-1]


# Several devices


def test_four_devices_give_the_frame_of_one(tmp_path, undisturbed):
    code = "import jax; assert len(jax.devices()) == 4; sweeps.run(sweep, folder)"
    result_of(child(code, tmp_path, env={"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}))
    assert len(jax.devices()) == 1
    one, four = sweeps.load(undisturbed), sweeps.load(tmp_path)
    same = ["key", "status", "regime", "reason", "data", "network", "model", "seed", "learning_rate_ratio"]
    pd.testing.assert_frame_equal(one[same], four[same])
    close = ["learning_rate", "critical_learning_rate", "best_test_loss", "best_test_accuracy"]
    pd.testing.assert_frame_equal(one[close], four[close], rtol=1e-5)
    one, four = (sweeps.load_curves(folder).query("status == 'finished'") for folder in (undisturbed, tmp_path))
    np.testing.assert_allclose(one["train_loss"], four["train_loss"], rtol=1e-4, atol=1e-6)


# Damage


def test_a_truncated_file_is_named_set_aside_and_computed_anew(tmp_path, undisturbed):
    for path in undisturbed.glob("*.parquet"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    before = files(tmp_path)
    broken = min(tmp_path.glob("*.parquet"))
    broken.write_bytes(broken.read_bytes()[:-100])
    lines = []
    with pytest.warns(UserWarning, match=f"{broken.name} is damaged") as warned:
        frame = sweeps.run(sweeps.Sweep(**SETTINGS), tmp_path, say=lines.append)
    assert len(warned) == 1
    assert len(frame) == RUNS
    assert lines[0].startswith(f"{RUNS} runs in {GROUPS} groups; {RUNS - 3} are in ")
    assert len(lines) == 2
    assert broken.with_name(f"{broken.name}.corrupt").exists()
    after = files(tmp_path)
    assert {name for name in after if after[name] != before[name]} == {broken.name}
    assert_same(tmp_path, undisturbed)


# A store that is taken away


@pytest.mark.parametrize("how", ["a file is deleted", "moved, and made anew", "moved", "deleted at the end"])
def test_a_store_that_loses_runs_meanwhile_is_an_error_that_names_them(tmp_path, undisturbed, monkeypatch, capsys, how):
    (tmp_path / "sweep.toml").write_text(TOML)
    store = tmp_path / "store"
    store.mkdir()
    for path in sorted(undisturbed.glob("*.parquet"))[:4]:
        (store / path.name).write_bytes(path.read_bytes())
    compute, calls = sweeps._run.compute, []

    def meanwhile(group):
        calls.append(group)
        if how == "a file is deleted" and len(calls) == 2:
            min(store.glob("*.parquet")).unlink()
        elif how.startswith("moved") and len(calls) == 2:
            store.rename(tmp_path / "elsewhere")
            if "anew" in how:
                store.mkdir()
        elif how == "deleted at the end" and len(calls) == 2:
            monkeypatch.setattr(sweeps._run._Progress, "done", lambda *_: shutil.rmtree(store))
        return compute(group)

    monkeypatch.setattr(sweeps._run, "compute", meanwhile)
    command = ["sweep", str(tmp_path / "sweep.toml"), "--store", str(store)]
    assert cli.main(command) == 1
    out, err = capsys.readouterr()
    (line,) = [line for line in err.splitlines() if line.startswith("nqm: ")]
    assert out == ""
    lost = {"a file is deleted": 1, "moved, and made anew": GROUPS - 1}.get(how)
    if lost is None:
        assert line == f"nqm: the store {store} is no longer there: it was moved or deleted meanwhile"
        return
    assert line.startswith(f"nqm: the store {store} lacks {3 * lost} of {RUNS} runs that it held during the sweep: ")
    assert line.count("3 of digits, two_layer_fc 24, f_") == lost
    monkeypatch.setattr(sweeps._run, "compute", compute)
    assert cli.main(command) == 0  # it says what to do, and that helps
    assert f"{RUNS - 3 * lost} are in " in capsys.readouterr().err


# No space


def refuse(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("refusing", ["fsync", "replace"])
def test_a_refused_write_ends_the_sweep_and_leaves_what_was_finished(tmp_path, undisturbed, monkeypatch, refusing):
    allowed, calls = getattr(os, refusing), []

    def third_time_full(*args):
        # A file and its folder are synchronised, so that is called twice a group.
        calls.append(args)
        return allowed(*args) if len(calls) <= (4 if refusing == "fsync" else 2) else refuse()

    with monkeypatch.context() as patch:
        patch.setattr(os, refusing, third_time_full)
        with pytest.raises(StoreError, match=r"No space left on device. What was finished before is intact") as caught:
            sweeps.run(sweeps.Sweep(**SETTINGS), tmp_path, say=lambda line: None)
    assert str(tmp_path) in str(caught.value)
    assert len(sweeps.load(tmp_path)) == 6
    lines = []
    sweeps.run(sweeps.Sweep(**SETTINGS), tmp_path, say=lines.append)
    assert len(lines) == 1 + 4
    assert_same(tmp_path, undisturbed)


# Blocks run out, or names: at a lock's file or at the results'.
@pytest.mark.parametrize("limit", ["size=44k", "nr_inodes=8", "nr_inodes=9"])
def test_a_full_disk_is_one_line_and_the_sweep_goes_on_once_there_is_space(
    tmp_path, undisturbed, small_disk, capsys, limit
):
    disk = small_disk(limit)
    (tmp_path / "sweep.toml").write_text(TOML)
    command = ["sweep", str(tmp_path / "sweep.toml"), "--store", str(disk)]
    assert cli.main(command) == 1
    out, err = capsys.readouterr()
    finished = err.count(f"/{RUNS}] ")
    assert 0 < finished < GROUPS
    assert out == ""
    assert err.splitlines()[1 + finished :] == [
        f"nqm: the store {disk} cannot be written to: No space left on device. What was finished before is intact."
    ]
    assert len(sweeps.load(disk)) == 3 * finished
    before = files(disk)
    small_disk("size=1m,nr_inodes=100")
    assert cli.main(command) == 0
    assert f"{3 * finished} are in " in capsys.readouterr().err
    assert before.items() <= files(disk).items()
    assert_same(disk, undisturbed)


# Ctrl-C

COMMAND = 'sys.exit(cli.main(["sweep", sys.argv[2] + "/sweep.toml", "--store", sys.argv[2] + "/store"]))'


def test_ctrl_c_finishes_and_stores_the_group_in_hand(tmp_path, undisturbed):
    (tmp_path / "sweep.toml").write_text(TOML)
    process = child(STOPPED + COMMAND, tmp_path)
    assert process.stdout.readline() == "computing\n"
    process.send_signal(signal.SIGINT)
    line_with(process.stderr, "interrupted: the group that is computing is finished first (Ctrl-C again ends at once)")
    out, err = process.communicate("\n", timeout=300)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[1:] == [f"interrupted: {tmp_path / 'store'} holds 9 of {RUNS} runs"]
    assert len(files(tmp_path / "store")) == 3
    sweeps.run(sweeps.Sweep(**SETTINGS), tmp_path / "store", say=lambda line: None)
    assert_same(tmp_path / "store", undisturbed)


def test_a_second_ctrl_c_ends_at_once_and_stores_nothing_half_done(tmp_path):
    code = """
from nqm_tools.training import _loop
steps, calls = _loop._steps, []
def count(*args):
    calls.append(args)
    if len(calls) == 5:
        print("computing", flush=True)
    return steps(*args)
_loop._steps = count
"""
    (tmp_path / "sweep.toml").write_text(TOML.replace("steps = 40", "steps = 1000000000"))  # years
    process = child(code + COMMAND, tmp_path)
    assert process.stdout.readline() == "computing\n"
    process.send_signal(signal.SIGINT)
    line_with(process.stderr, "interrupted: the group that is computing is finished first")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert (out, err) == ("", "interrupted\n")
    assert files(tmp_path / "store") == {}
