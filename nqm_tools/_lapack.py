"""LAPACK beside XLA: on a CPU, decompositions run on threads of their own."""

import contextlib
import threading

from threadpoolctl import threadpool_limits

_lock = threading.Lock()
_inside, _first = 0, None


@contextlib.contextmanager
def one_thread():
    """A context in which LAPACK uses one thread.

    Its threads and XLA's wait for each other: inside the compiled loop eigenvalues took twenty times as long, and on a
    busy machine the QR decomposition of the inputs up to ten times.

    Most libraries have one number of threads for the whole process. Where contexts overlap in threads of the caller's,
    the second finds the limit of the first, so all of them put back what the first found. All, and not the last alone:
    threadpoolctl from 3.8 on lets only one thread change the number, and some libraries have one for each thread.
    """
    global _inside, _first
    with _lock:
        limits = threadpool_limits(1, user_api="blas")
        if _inside == 0:
            _first = limits
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            _first.restore_original_limits()
