"""Networks of recorded sweeps whose activation goes from Swish to ReLU step by step.

Never edited: its checksum is in the keys of recorded runs.
"""

import dataclasses
import functools

import jax

from nqm_tools import networks


@dataclasses.dataclass(frozen=True)
class SharpSwish:
    """The activation ``h / (1 + exp(-sharpness h))``: Swish at sharpness 1, ReLU in the limit."""

    sharpness: float

    def __call__(self, h):
        return h * jax.nn.sigmoid(self.sharpness * h)


@functools.cache
def sharp_fc(width, sharpness=1.0):
    """:func:`nqm_tools.networks.two_layer_fc` with this activation; its starts are the same at every sharpness."""
    known = networks.FullyConnected(2, SharpSwish(sharpness))

    def apply_fn(params, x):
        readout = jax.tree.leaves(params)[1]
        return known.activation(known.preactivations(params, x)[0]) @ readout / width**0.5

    return networks.Network(networks.two_layer_fc(width).init_fn, apply_fn, None, known)
