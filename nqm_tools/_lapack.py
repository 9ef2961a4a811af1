"""LAPACK beside XLA: on a CPU, decompositions run on threads of their own."""

from threadpoolctl import threadpool_limits


def one_thread():
    """A context in which LAPACK uses one thread.

    Its threads and XLA's wait for each other: inside the compiled loop eigenvalues took twenty times as long, and on a
    busy machine the QR decomposition of the inputs up to ten times.
    """
    return threadpool_limits(1, user_api="blas")
