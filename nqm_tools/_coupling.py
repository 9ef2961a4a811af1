"""Whether a function makes its examples depend on each other, as statistics of the batch do."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from nqm_tools._program import Fresh, plain_switches
from nqm_tools._tiles import MEMORY, REVERSE, working_numbers
from nqm_tools.expansions import FunctionModel, TaylorModel
from nqm_tools.networks import Convolutional, FullyConnected, architecture

# A model couples its examples where its gradients on them one by one and together differ by more than a share. In
# float32 a matrix product that is rounded otherwise flips a gate of a ReLU now and then, which makes up to a hundredth:
# what lies between the first two is decided in float64, by the third.
SUSPICIOUS, CERTAIN, COUPLED = 1e-4, 0.1, 1e-6
_WIDE = 8  # bytes of a float64


@plain_switches()
def is_coupled(model, params, x):
    """Whether a model makes examples depend on each other, so that its gradients must be those on all of them together.

    The gradients of a random sum of the outputs are compared, on the examples together and one by one, here and at a
    place nearby (a term of second order shows there). The package's networks are known not to. A Taylor model does
    where its function does, whose gradients cost less. Where values are being traced, others stand for them.
    """
    if isinstance(model, TaylorModel):
        model, params = FunctionModel(model.f), model.params0
    known = architecture(getattr(model, "f", None))
    if len(x) == 1 or isinstance(known, FullyConnected | Convolutional):
        return False
    if not takes_single_examples(model, params, x):
        return True
    # As many examples as fit: what couples does so in a small batch, too.
    few = max(2, int(MEMORY / 4 / max(1, REVERSE * working_numbers(model, params, x[:1]) * _WIDE)))
    return _is_coupled(*_without_tracers((model, params, x[:few])))


def takes_single_examples(model, params, x):
    """Whether a model gives the outputs of one example where it gets one."""
    try:
        return jax.eval_shape(lambda: model(params, x[:1])).shape[0] == 1
    except Exception:  # a function of the user's, for which this size is another than it was written for
        return False


def _is_coupled(model, params, x):
    narrow = jnp.result_type(*jax.tree.leaves(params)) == np.float32
    noise = _random_like(params)
    places = jax.tree.map(lambda leaf, noise: np.stack([leaf, np.asarray(leaf) + noise]), params, noise)
    apart = _couplings(model, places, x) if narrow else [math.nan, math.nan]
    doubtful = [place for place, share in enumerate(apart) if not share <= SUSPICIOUS and not share > CERTAIN]
    if doubtful:
        chosen = jax.tree.map(lambda leaf: leaf[doubtful], places)
        with jax.enable_x64(True):
            with jax.ensure_compile_time_eval():
                wide = jax.tree.map(_in_float64, (model, chosen, x))
            apart += _couplings(*wide)
        return any(share > CERTAIN for share in apart[:2]) or any(share > COUPLED for share in apart[2:])
    return any(share > CERTAIN for share in apart)


def _couplings(model, places, x):
    """Differences of the gradients one by one and together, as shares of the larger; 0 where they are not known.

    ``places`` are parameters with one more axis.
    """
    apart = Fresh(_gradients_apart)
    apart.primitives(model, places, x)  # which traces it; below, all in it that is constant would run by itself
    with jax.ensure_compile_time_eval():
        found = apart(model, places, x)
    if any(isinstance(numbers, jax.core.Tracer) for numbers in found):
        return [0.0] * len(found[0])  # the function reads what is being traced
    return [_share(*map(float, numbers)) for numbers in zip(*map(np.asarray, found), strict=True)]


def _share(apart, together, each):
    if math.isfinite(together) and not math.isfinite(each):
        return math.inf  # as the variance of one example, 0, makes it
    return apart / max(together, each) if apart > 0 else 0.0


def _gradients_apart(model, places, x):
    return jax.lax.map(lambda params: _norms_at(model, params, x), places)


def _norms_at(model, params, x):
    together, vjp = jax.vjp(lambda p: model(p, x), params)
    _, vjp_of_each = jax.vjp(lambda p: jax.vmap(lambda one: model(p, one[None])[0])(x), params)
    weights = jnp.asarray(_random_like(together))
    (gradient,), (other,) = vjp(weights), vjp_of_each(weights)

    def norm(tree):
        return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))

    return norm(jax.tree.map(jnp.subtract, gradient, other)), norm(gradient), norm(other)


def _in_float64(leaf):
    return leaf.astype(np.float64) if getattr(leaf, "dtype", None) == np.float32 else leaf


def _without_tracers(tree):
    """The tree with random numbers in place of tracers."""
    return jax.tree.map(
        lambda leaf, numbers: numbers if isinstance(leaf, jax.core.Tracer) else leaf, tree, _random_like(tree)
    )


def _random_like(tree):
    """Random numbers of the shapes and types of a tree's leaves: normal, or 0 and 1 for whole numbers."""
    rng = np.random.default_rng(0)  # JAX would compile for each shape

    def draw(leaf):
        numbers, dtype = rng.standard_normal(jnp.shape(leaf)), jnp.result_type(leaf)
        return (numbers if jnp.issubdtype(dtype, jnp.floating) else numbers > 0).astype(dtype)

    return jax.tree.map(draw, tree)
