"""Shared by all tests: 64-bit precision on request, and where the real data sets may lie."""

import gc
import os
import pathlib

from compiling import XLA_FLAGS

# Of the tests alone; benchmarks and `nqm reproduce` run as users do.
os.environ.setdefault("XLA_FLAGS", " ".join(XLA_FLAGS))
# As many workers run as there are cores: more threads of BLAS than these wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jax
import matplotlib
import pytest

import nqm_tools  # noqa: F401 (before any test module imports neural_tangents)

matplotlib.use("agg")
# Traced programs are many small objects that live: looking through all of them often is a twentieth of the time.
gc.set_threshold(100_000, 20, 100)


@pytest.fixture
def x64():
    """JAX in float64 for one test."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Compiled programs are dropped after a module where there are many.

    Each holds some ten maps of memory, and Linux ends a process that asks for more than 65,530 of them.
    """
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 28_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def real_data():
    """A folder with the publishers' files; tests that ask for it are skipped where there is none."""
    folder = pathlib.Path(os.environ.get("NQM_DATA_DIR") or pathlib.Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no real data: set NQM_DATA_DIR to a folder with the publishers' files")
    return folder
