"""Runs what a store lacks of a sweep, group by group, here or on a Dask cluster."""

from __future__ import annotations

import collections
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from nqm_tools._store_file import STATUSES
from nqm_tools._types import FilePath
from nqm_tools.store import Store, refusals
from nqm_tools.sweeps._compute import compute, failed_rows
from nqm_tools.sweeps._settings import Sweep

if TYPE_CHECKING:
    import distributed
    import pandas as pd

SORT_BY = ("data", "network", "width", "model", "seed", "learning_rate_ratio")
# How often to ask for a group that another process is computing, in seconds.
PATIENCE = 1.0


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
        If the store cannot be written to, say because the disk is full. What was finished is intact.
    KeyboardInterrupt
        On Ctrl-C, after the group that is computing; a second Ctrl-C ends at once.
    """
    if not isinstance(sweep, Sweep):
        raise TypeError(f"sweep must be an nqm_tools.sweeps.Sweep; got {type(sweep).__name__}")
    store = Store(store)
    groups = sweep.groups()
    say = say or (lambda line: print(line, file=sys.stderr, flush=True))
    progress = _Progress(groups, store, say)
    with _patient_interrupt(say) as interrupted, contextlib.ExitStack() as stack:
        work = _here if client is None else _on_cluster(stack, client)
        work(_Queue(groups, store, interrupted), store, progress)
    wanted = {key for group in groups for key in group.keys}
    frame = load(store.folder)
    frame = frame[frame["key"].isin(wanted)].reset_index(drop=True)
    if interrupted:
        raise KeyboardInterrupt(f"interrupted: {store.folder} holds {len(frame)} of {len(sweep)} runs")
    return frame


def load(store: FilePath) -> pd.DataFrame:
    """All runs of a store as one tidy frame, a row a run: settings, status, regime, losses, times.

    ``best_test_loss`` is over the recorded steps; NaN for a run that diverged. Damaged files are warned of and left
    out.
    """
    found = Store(store, create=False)
    frame = found.load()
    return frame.sort_values([name for name in SORT_BY if name in frame], ignore_index=True, kind="stable")


def load_curves(store: FilePath) -> pd.DataFrame:
    """The recorded steps of all runs of a store as one tidy frame, a row a step, with the columns of :func:`load`."""
    found = Store(store, create=False)
    frame = found.load_curves()
    return frame.sort_values([name for name in (*SORT_BY, "step") if name in frame], ignore_index=True, kind="stable")


class _Queue:
    """The groups that are still to be computed, each with its lock; those that others are computing come last."""

    def __init__(self, groups, store, interrupted):
        self.waiting, self.store, self.interrupted = collections.deque(groups), store, interrupted
        self.busy = 0  # how many in a row another process was computing

    def take(self, wait=True):
        """(group, lock), the lock held; None when nothing is left, or nothing can be had without waiting."""
        while self.waiting and not self.interrupted:
            group = self.waiting.popleft()
            lock = self.store.lock(group.name)
            if not self._missing(group).keys:
                continue
            if _acquire(self.store, lock):
                self.busy = 0
                # Asked again under the lock: another process may have finished it just now.
                missing = self._missing(group)
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

    def _missing(self, group):
        finished = self.store.finished(set_aside=True)
        return group.only({key for key in group.keys if key not in finished})


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


def _on_cluster(stack, client):
    """A function like :func:`_here` that has the workers of a Dask cluster compute."""
    try:
        import distributed
    except ModuleNotFoundError:
        raise ModuleNotFoundError("a Dask cluster needs distributed: the extra [distributed]") from None
    if isinstance(client, str):
        client = stack.enter_context(distributed.Client(client))

    def work(queue, store, progress):
        flying = {}
        pool = distributed.as_completed()
        try:
            while True:
                # A few more tasks than workers, so that none waits for the store; locks are held for those only.
                workers = len(client.scheduler_info(n_workers=-1)["workers"])
                while len(flying) < 2 * max(1, workers) and (taken := queue.take(wait=not flying)) is not None:
                    group, lock = taken
                    future = client.submit(compute, group, pure=False)
                    flying[future] = group, lock
                    pool.add(future)
                if not flying:
                    return
                future = next(pool)
                group, lock = flying.pop(future)
                try:
                    rows, provenance = _result(future, group)
                    store.write(rows, provenance)
                finally:
                    lock.release()
                progress.done(group, rows, provenance["seconds"])
        finally:
            client.cancel(list(flying))
            for _, lock in flying.values():
                lock.release()

    return work


def _result(future, group):
    """What a task gave; if it died with several workers, rows that say so."""
    error = future.exception()
    return (
        future.result() if error is None else (failed_rows(group, error), {"settings": group.settings, "seconds": 0.0})
    )


class _Progress:
    """Says after each group how far the sweep is, and how long the rest may take."""

    def __init__(self, groups, store, say):
        finished = store.finished(set_aside=True)
        self.say, self.total = say, sum(len(group.keys) for group in groups)
        self.left = collections.Counter()
        for group in groups:
            self.left[group.settings["model"]] += sum(key not in finished for key in group.keys)
        self.spent, self.ran = collections.Counter(), collections.Counter()
        self.began = time.perf_counter()
        kept = self.total - self.left.total()
        say(f"{self.total} runs in {len(groups)} groups; {kept} are in {store.folder} already")

    def done(self, group, rows, seconds):
        model = group.settings["model"]
        self.left[model] -= len(rows)
        self.ran[model] += len(rows)
        self.spent[model] += seconds
        counts = collections.Counter(row["status"] for row in rows)
        how = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
        so_far = self.total - self.left.total()
        self.say(f"[{so_far}/{self.total}] {group.title}: {how} in {seconds:.1f} s; {self._time_left()}")
        for reason in sorted({row["reason"] for row in rows if row["status"] == "failed"}):
            self.say(f"    {reason}")

    def _time_left(self):
        if not self.left.total():
            return f"all done after {_duration(time.perf_counter() - self.began)}"
        # Models differ in cost, so each is estimated from its own; several workers go faster than the sum of times.
        mean = self.spent.total() / self.ran.total()
        pace = (time.perf_counter() - self.began) / max(self.spent.total(), 1e-9)
        seconds = sum(
            count * (self.spent[model] / self.ran[model] if self.ran[model] else mean)
            for model, count in self.left.items()
        )
        return f"about {_duration(pace * seconds)} left"


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
