"""Neural quadratic models and catapult dynamics of wide networks, over neural-tangents and JAX.

Start with ``notebooks/00_start_here.ipynb``. The public names:

- ``networks``: the paper's architectures; ``datasets``: its data; ``plotting``: its figures.
- ``linearize``, ``quadraticize``, ``second_order_term``, ``remainder``: Taylor models of any ``f(params, x)``.
- ``empirical_ntk``, ``top_eigenpairs``, ``critical_learning_rate``, ``kernel_step``: kernels; ``sharpness``,
  ``curvature``: the loss's Hessian and Gauss-Newton matrix. ``kernel_norm``, ``stochastic_critical_learning_rate``: the
  noise of mini-batches.
- ``agop``, ``agop_alignment``, ``catapults``, ``recursive_feature_machine``, and more in ``features``: what a function
  learns of its inputs' directions.
- ``diagnose``: a model of your own, in one call: does it catapult, and is its quadratic model right.
- ``dynamics``: the exact low-dimensional maps of quadratic models and their laws; ``quadratic``: general models.
- ``train``, ``Run``, ``regime``: gradient descent and what a run showed; ``max_stable_learning_rate``;
  ``phase_constants``, of the first steps. ``losses``, ``Recorder``, ``closed_forms``: what is minimised, what is
  recorded, and what is trained in a model's place.
- ``sweeps``: many runs, kept in a store of Parquet files; ``papers``, ``report``: which claims they bear out.
"""

import importlib

from nqm_tools._compat import import_neural_tangents

import_neural_tangents()

from nqm_tools import (  # noqa: E402 (neural_tangents has to be importable first)
    closed_forms,
    curvature,
    datasets,
    dynamics,
    features,
    losses,
    networks,
    papers,
    quadratic,
    report,
    sweeps,
    training,
)
from nqm_tools._version import __version__  # noqa: E402
from nqm_tools.batch_noise import kernel_norm, stochastic_critical_learning_rate  # noqa: E402
from nqm_tools.curvature import sharpness  # noqa: E402
from nqm_tools.datasets import Data  # noqa: E402
from nqm_tools.diagnose import Diagnosis, diagnose  # noqa: E402
from nqm_tools.expansions import linearize, quadraticize, remainder, second_order_term  # noqa: E402
from nqm_tools.features import agop, agop_alignment, catapults, recursive_feature_machine  # noqa: E402
from nqm_tools.kernels import (  # noqa: E402
    KernelStep,
    critical_learning_rate,
    empirical_ntk,
    kernel_step,
    top_eigenpairs,
)
from nqm_tools.networks import Network  # noqa: E402
from nqm_tools.training import (  # noqa: E402
    PhaseConstants,
    Recorder,
    Run,
    max_stable_learning_rate,
    phase_constants,
    regime,
    train,
)

__all__ = [
    "Data",
    "Diagnosis",
    "KernelStep",
    "Network",
    "PhaseConstants",
    "Recorder",
    "Run",
    "__version__",
    "agop",
    "agop_alignment",
    "catapults",
    "closed_forms",
    "critical_learning_rate",
    "curvature",
    "datasets",
    "diagnose",
    "dynamics",
    "empirical_ntk",
    "features",
    "kernel_norm",
    "kernel_step",
    "linearize",
    "losses",
    "max_stable_learning_rate",
    "networks",
    "papers",
    "phase_constants",
    "plotting",
    "quadratic",
    "quadraticize",
    "recursive_feature_machine",
    "regime",
    "remainder",
    "report",
    "second_order_term",
    "sharpness",
    "stochastic_critical_learning_rate",
    "sweeps",
    "top_eigenpairs",
    "train",
    "training",
]


def __getattr__(name):
    # Loads matplotlib and seaborn, which the other helpers do without.
    if name == "plotting":
        return importlib.import_module("nqm_tools.plotting")
    raise AttributeError(f"module 'nqm_tools' has no attribute {name!r}")
