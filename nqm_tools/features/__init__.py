"""Which directions of its inputs a function uses: average gradient outer products, and machines that learn from them.

The average gradient outer product (AGOP) of a function f over inputs ``x_1, ..., x_n`` is

    G = (1/n) sum_i J(x_i)^T J(x_i),    J(x) = df/dx  (k, d),

a symmetric positive semi-definite matrix (d, d). Zhu et al. (2023) measure features by its cosine with the AGOP of the
function that made the data; Radhakrishnan et al. (2022) by the Pearson correlation of its powers with the first layer's
``W^T W``, and make a kernel machine learn features by it. The two similarities are different numbers: the cosine with
the identity of a matrix that has r equal eigenvalues is already ``sqrt(r/d)``.

An AGOP can be given by its root, rows R (r, d) with ``G = R^T R`` and r < d, which for images is much the smaller one.
"""

from nqm_tools.features._agop import agop, agop_alignment, agop_root
from nqm_tools.features._catapults import Catapults, catapults
from nqm_tools.features._layers import feature_correlation, layer_agop, neural_feature_matrix
from nqm_tools.features._machine import RecursiveFeatureMachine, recursive_feature_machine

__all__ = [
    "Catapults",
    "RecursiveFeatureMachine",
    "agop",
    "agop_alignment",
    "agop_root",
    "catapults",
    "feature_correlation",
    "layer_agop",
    "neural_feature_matrix",
    "recursive_feature_machine",
]
