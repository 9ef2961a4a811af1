"""Many runs: data sets x networks x models x learning rates x seeds, kept in a store and continued where they were.

>>> import nqm_tools as nqm
>>> sweep = Sweep(
...     data={"name": "digits", "n_train": 16, "n_test": 16},
...     network={"name": "two_layer_fc", "width": 32},
...     learning_rates=[0.5, 1.5],
...     seeds=2,
...     steps=20,
... )
>>> len(sweep)  # 3 models, 2 rates, 2 seeds
12

``run(sweep, "results")`` computes what the folder ``results`` does not hold yet; ``load("results")`` reads it.
"""

from nqm_tools.sweeps._run import load, load_curves, run
from nqm_tools.sweeps._settings import Sweep

__all__ = ["Sweep", "load", "load_curves", "run"]
