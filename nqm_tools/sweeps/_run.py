"""Runs what a store lacks of a sweep, group by group, here or on a Dask cluster."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from nqm_tools._store_file import STATUSES
from nqm_tools._types import FilePath
from nqm_tools.store import Store, StoreError, refusals
from nqm_tools.sweeps._compute import compute, failed_rows
from nqm_tools.sweeps._settings import Sweep

if TYPE_CHECKING:
    import distributed
    import pandas as pd

RATIOS = ("learning_rate_ratio", "sharpness_ratio")
SORT_BY = ("data", "network", "width", "batch_size", "momentum", "model", "seed", *RATIOS)
# How many groups an error names.
NAMED = 5
# How often to ask for a group that another process is computing, in seconds.
PATIENCE = 1.0
# How often to look after the workers of a cluster, in seconds.
WATCH = 1.0


def run(
    sweep: Sweep,
    store: FilePath,
    *,
    client: distributed.Client | str | None = None,
    say: Callable[[str], object] | None = None,
) -> pd.DataFrame:
    """Compute the runs of a sweep that a store does not hold yet, and return the frame of all of them.

    Parameters
    ----------
    sweep : Sweep
    store : path
        A folder; made if need be. Several processes may work on one store: each group is computed by one of them.
    client : distributed.Client or str, optional
        A Dask client, or the address of its scheduler: a group becomes a task, which another worker takes over when a
        worker dies. Results are written here.
    say : callable, optional
        Gets one line of progress at a time; by default they are printed to standard error.

    Returns
    -------
    pandas.DataFrame
        One row a run, as :func:`load` gives it. A run that diverged or failed is a row with its ``status`` and
        ``reason``; failed ones are tried again by the next call.

    Raises
    ------
    FileNotFoundError, ValueError
        If a data set is missing, or a setting is unavailable.
    nqm_tools.store.StoreError
        If the store cannot be written to, say because the disk is full: what was finished is intact. Or if, at the
        end, it lacks runs that it held before, because it was moved or files were deleted meanwhile: which.
    ConnectionError
        If the Dask scheduler is lost. The store holds what was finished.
    KeyboardInterrupt
        On Ctrl-C, after the group that is computing; a second Ctrl-C ends at once.

    Examples
    --------
    >>> import tempfile
    >>> network, data = {"name": "two_layer_fc", "width": 8}, {"name": "single_example", "dimension": 3}
    >>> sweep = Sweep(data=data, network=network, models="f_lin", learning_rates=[0.5, 2.5], steps=30)
    >>> frame = run(sweep, tempfile.mkdtemp(), say=lambda line: None)
    >>> frame[["learning_rate_ratio", "regime"]].to_numpy().tolist()
    [[0.5, 'monotone'], [2.5, 'divergent']]
    """
    if not isinstance(sweep, Sweep):
        raise TypeError(f"sweep must be an nqm_tools.sweeps.Sweep; got {type(sweep).__name__}")
    groups = sweep.groups()  # first: a sweep with something wrong in it leaves no folder behind
    store = Store(store)
    say = say or (lambda line: print(line, file=sys.stderr, flush=True))
    wanted = _Wanted(groups, store)
    progress = _Progress(wanted, len(groups), store, say)
    with _patient_interrupt(say) as interrupted, contextlib.ExitStack() as stack:
        work = _here if client is None else _on_cluster(stack, client, say)
        work(_Queue(groups, wanted, store, interrupted), store, progress)
    frame = _sorted(store.load(), SORT_BY)
    frame = frame[frame["key"].isin(wanted.model)].reset_index(drop=True)
    if interrupted:
        raise KeyboardInterrupt(f"interrupted: {store.folder} holds {len(frame)} of {len(sweep)} runs")
    _check_all_there(groups, set(frame["key"]), store)
    return frame


def _check_all_there(groups, found, store):
    """Refuse to end well without runs that were in the store, or computed, before."""
    lacking = [(group, sum(key not in found for key in group.keys)) for group in groups]
    lacking = [(group, count) for group, count in lacking if count]
    if lacking:
        named = "; ".join(f"{count} of {group.title}" for group, count in lacking[:NAMED])
        more = f"; and those of {len(lacking) - NAMED} more groups" if len(lacking) > NAMED else ""
        raise StoreError(
            f"the store {store.folder} lacks {sum(count for _, count in lacking)} of "
            f"{sum(len(group.keys) for group in groups)} runs that it held during the sweep: {named}{more}. It was "
            "moved, or files in it were changed or deleted meanwhile; the same command computes what is missing"
        )


def load(store: FilePath) -> pd.DataFrame:
    """All runs of a store as one tidy frame, a row a run: settings, status, regime, losses, times.

    ``best_test_loss`` is over the recorded steps; NaN for a run that diverged. Damaged files are warned of and left
    out.

    Examples
    --------
    >>> import nqm_tools as nqm
    >>> frame = load(nqm.report.recorded_results() / "figure_8_model")
    >>> frame["status"].unique().tolist()
    ['finished']
    """
    return _sorted(Store(store, create=False).load(), SORT_BY)


def load_curves(store: FilePath) -> pd.DataFrame:
    """The recorded steps of all runs of a store as one tidy frame, a row a step, with the columns of :func:`load`.

    Examples
    --------
    >>> import nqm_tools as nqm
    >>> frame = load_curves(nqm.report.recorded_results() / "figure_8_model")
    >>> {"key", "learning_rate_ratio", "step", "train_loss"} <= set(frame.columns)
    True
    """
    return _sorted(Store(store, create=False).load_curves(), (*SORT_BY, "step"))


def _sorted(frame, columns):
    return frame.sort_values([name for name in columns if name in frame], ignore_index=True, kind="stable")


class _Wanted:
    """The runs of a sweep, and which of them are finished by now, whichever process computed them."""

    def __init__(self, groups, store):
        self.store = store
        self.model = {key: group.settings["model"] for group in groups for key in group.keys}
        self.finished, self.failed = set(), set()  # what failed elsewhere is to be tried, what failed here was
        self.left = collections.Counter(self.model.values())
        self.mark(store.finished(set_aside=True))

    def look(self):
        """Take in what other processes finished since."""
        self.mark(self.store.arrived())

    def mark(self, finished, failed=()):
        new = self.model.keys() & finished
        for key in (new | set(failed)) - self.finished - self.failed:
            self.left[self.model[key]] -= 1
        self.finished |= new
        self.failed |= set(failed)

    def missing(self, group):
        return group.only({key for key in group.keys if key not in self.finished})


class _Queue:
    """The groups that are still to be computed, each with its lock; those that others are computing come last."""

    def __init__(self, groups, wanted, store, interrupted):
        self.waiting, self.wanted = collections.deque(groups), wanted
        self.store, self.interrupted = store, interrupted
        self.busy = 0  # how many in a row another process was computing

    def take(self, wait=True):
        """(group, lock), the lock held; None when nothing is left, or nothing can be had without waiting."""
        while self.waiting and not self.interrupted:
            group = self.waiting.popleft()
            if not self.wanted.missing(group).keys:
                continue
            lock = self.store.lock(group.name)
            if _acquire(self.store, lock):
                self.busy = 0
                # Asked again under the lock: another process may have finished it just now.
                self.wanted.look()
                missing = self.wanted.missing(group)
                if missing.keys:
                    return missing, lock
                lock.release()
                continue
            self.waiting.append(group)
            self.busy += 1
            if self.busy >= len(self.waiting):
                if not wait:
                    return None
                time.sleep(PATIENCE)
        return None


def _acquire(store, lock):
    from filelock import Timeout

    with refusals(store.folder):  # a full disk may have no room for the lock's file
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
    return True


def _here(queue, store, progress):
    while (taken := queue.take()) is not None:
        group, lock = taken
        try:
            rows, provenance = compute(group)
            store.write(rows, provenance)
        finally:
            lock.release()
        progress.done(group, rows, provenance["seconds"])


def _on_cluster(stack, client, say):
    """A function like :func:`_here` that has the workers of a Dask cluster compute."""
    try:
        import distributed
    except ModuleNotFoundError:
        raise ModuleNotFoundError("a Dask cluster needs distributed: the extra [distributed]") from None
    if isinstance(client, str):
        stack.enter_context(_quiet_client())
        client = stack.enter_context(distributed.Client(client))

    def work(queue, store, progress):
        flying, workers = {}, _Workers(client, say)
        try:
            while True:
                # A few more tasks than workers, so that none waits for the store; locks are held for those only.
                most = 2 * max(1, workers.count())
                while len(flying) < most and (taken := queue.take(wait=not flying)) is not None:
                    group, lock = taken
                    flying[client.submit(compute, group, pure=False)] = group, lock
                if not flying:
                    return
                for future in _completed(flying):
                    group, lock = flying.pop(future)
                    try:
                        rows, provenance = _result(future, group)
                        store.write(rows, provenance)
                    finally:
                        lock.release()
                    progress.done(group, rows, provenance["seconds"])
        except (concurrent.futures.CancelledError, distributed.comm.CommClosedError) as error:
            raise ConnectionError(
                f"the Dask scheduler at {client.scheduler.address} was lost, or dropped the tasks of this sweep. "
                f"{store.folder} holds what was finished before; the same command goes on with the rest"
            ) from error
        finally:
            if client.status == "running":  # else there is nobody to tell, and asking would wait for an answer
                client.cancel(list(flying))
            for _, lock in flying.values():
                lock.release()

    return work


@contextlib.contextmanager
def _quiet_client():
    """A context in which Dask's client does not log the tracebacks of a connection that it lost: the error says it."""
    loggers = [logging.getLogger(f"distributed.{name}") for name in ("batched", "client")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _completed(futures):
    """Those that are done by now, or by a while later."""
    import distributed

    try:
        return distributed.wait(list(futures), timeout=WATCH, return_when="FIRST_COMPLETED").done
    except TimeoutError:
        return ()


class _Workers:
    """Says when a cluster has lost a worker, or has none: else a worker that dies at once is hours of silence."""

    def __init__(self, client, say):
        self.client, self.say, self.known = client, say, None

    def count(self):
        if self.client.status != "running":  # asking would wait for an answer that nobody gives
            raise concurrent.futures.CancelledError
        now = set(self.client.scheduler_info(n_workers=-1)["workers"])
        before = self.known or set()
        for address in sorted(before - now):
            self.say(
                f"the Dask worker {address} is gone ({len(now)} left); what it was computing is computed by another one"
            )
        if not now and (before or self.known is None):
            self.say(f"the Dask scheduler at {self.client.scheduler.address} has no worker; waiting for one")
        self.known = now
        return len(now)


def _result(future, group):
    """What a task gave; if it died with several workers, rows that say so."""
    error = future.exception()
    return (
        future.result() if error is None else (failed_rows(group, error), {"settings": group.settings, "seconds": 0.0})
    )


class _Progress:
    """Says after each group how far the sweep is, and how long the rest may take."""

    def __init__(self, wanted, groups, store, say):
        self.wanted, self.say, self.total = wanted, say, len(wanted.model)
        self.before = wanted.left.copy()
        self.spent, self.ran = collections.Counter(), collections.Counter()
        self.began = time.perf_counter()
        kept = self.total - self.before.total()
        say(f"{self.total} runs in {groups} groups; {kept} are in {store.folder} already")

    def done(self, group, rows, seconds):
        model = group.settings["model"]
        self.wanted.look()
        failed = {row["key"] for row in rows if row["status"] == "failed"}
        self.wanted.mark({row["key"] for row in rows} - failed, failed)
        self.ran[model] += len(rows)
        self.spent[model] += seconds
        counts = collections.Counter(row["status"] for row in rows)
        how = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
        so_far = self.total - self.wanted.left.total()
        self.say(f"[{so_far}/{self.total}] {group.title}: {how} in {seconds:.1f} s; {self._time_left()}")
        for reason in sorted({row["reason"] for row in rows if row["status"] == "failed"}):
            self.say(f"    {reason}")

    def _time_left(self):
        left, passed = self.wanted.left, time.perf_counter() - self.began
        if not left.total():
            return f"all done after {_duration(passed)}"
        # Models differ in cost, so each is estimated from its own. Several workers, and other processes, go faster
        # than the sum of the times here, so what counts is how much was finished since the beginning, by anyone.
        mean = self.spent.total() / self.ran.total()
        cost = {model: self.spent[model] / self.ran[model] if self.ran[model] else mean for model in left}
        finished = sum((self.before[model] - left[model]) * cost[model] for model in left)
        to_do = sum(left[model] * cost[model] for model in left)
        return f"about {_duration(passed * to_do / max(finished, 1e-9))} left"


def _duration(seconds):
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )


@contextlib.contextmanager
def _patient_interrupt(say):
    """A list that is empty until Ctrl-C; the second one is an interrupt as usual."""
    interrupted = []

    def remember(signum, frame):
        if interrupted:
            raise KeyboardInterrupt
        interrupted.append(signum)
        say("interrupted: the group that is computing is finished first (Ctrl-C again ends at once)")

    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread only
        yield interrupted
        return
    before = signal.signal(signal.SIGINT, remember)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
