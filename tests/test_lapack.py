"""The number of LAPACK's threads, which belongs to the process, comes back whoever leaves last."""

import threading

import jax
import jax.numpy as jnp
import pytest
from threadpoolctl import threadpool_info

import nqm_tools as nqm
from nqm_tools import _lapack
from nqm_tools._lapack import one_thread


class Anyone:
    """A library with one number of threads that any thread can change, as threadpoolctl has it up to 3.7."""

    def __init__(self):
        self.number = 3

    def get(self):
        return self.number

    def set(self, number):
        self.number = number


class OnlyTheFirst(Anyone):
    """One number that only the first thread to change it can change while it lives, from threadpoolctl 3.8 on."""

    owner = None

    def set(self, number):
        if self.owner is None or not self.owner.is_alive():
            self.owner = threading.current_thread()
        if self.owner is threading.current_thread():
            self.number = number


class EachItsOwn(threading.local, Anyone):
    """A number for each thread, as MKL has it."""


class Holder(threading.Thread):
    """A thread that is in the context from ``enter`` to ``leave``, and ends with ``end``."""

    def __init__(self, library):
        super().__init__(daemon=True)
        self.library, self.seen = library, []
        self.steps = [threading.Event() for _ in range(5)]
        self.start()

    def run(self):
        enter, entered, leave, left, end = self.steps
        enter.wait(10)
        with one_thread():
            self.seen.append(self.library.get())
            entered.set()
            leave.wait(10)
        self.seen.append(self.library.get())
        left.set()
        end.wait(10)

    def enter(self):
        self.steps[0].set()
        self.steps[1].wait(10)

    def leave(self):
        self.steps[2].set()
        self.steps[3].wait(10)

    def end(self):
        self.steps[4].set()
        self.join()


@pytest.mark.parametrize("first_out", [0, 1])
@pytest.mark.parametrize("it_ends", [False, True])
@pytest.mark.parametrize("kind", [Anyone, OnlyTheFirst, EachItsOwn])
def test_contexts_that_overlap_in_two_threads_put_back_what_was_there(monkeypatch, kind, first_out, it_ends):
    library = kind()

    class Limits:
        def __init__(self, number, user_api):
            self.before = library.get()
            library.set(number)

        def restore_original_limits(self):
            library.set(self.before)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.restore_original_limits()

    monkeypatch.setattr(_lapack, "threadpool_limits", Limits)
    holders = [Holder(library), Holder(library)]
    for holder in holders:
        holder.enter()
    holders[first_out].leave()
    if it_ends:
        holders[first_out].end()
    holders[1 - first_out].leave()
    assert library.get() == 3
    for holder in holders:
        holder.end()
        if kind is not OnlyTheFirst:
            assert holder.seen == [1, 3]


def threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_an_error_inside_puts_back_what_was_there():
    before = threads()
    with pytest.raises(ZeroDivisionError), one_thread(), one_thread():
        raise ZeroDivisionError
    assert threads() == before


def test_trainings_with_eigenvalues_in_two_threads_leave_the_threads_as_they_were():
    before = threads()
    net = nqm.networks.two_layer_fc(8)
    x = jax.random.normal(jax.random.key(0), (4, 3))
    data = nqm.Data("own", x, jnp.ones(4))
    losses = []

    def work():
        losses.append(nqm.train(net, data, learning_rate=0.1, steps=20, record=("lambda_1",)).losses.tolist())

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert threads() == before
    assert losses[0] == losses[1]
