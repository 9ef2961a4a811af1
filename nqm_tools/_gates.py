"""The gates of a piecewise linear function: on which side of its kinks each of its hidden units is."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from nqm_tools._program import bind

# The parameters that hold the program that an operation calls, and operations whose programs run many times.
_CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_OPAQUE = ("scan",)
# ReLU is a maximum, leaky ReLU a comparison; softplus has a maximum in it, and no kink.
_KINKS = ("max", "gt", "ge")
_SMOOTH = ("logaddexp", "softplus")


def gates(f, params, x):
    """The gates of ``f(params, x)``, a list of arrays of bools, in the order in which they are computed; traceable.

    A gate is whether ``h > 0`` in ``max(h, 0)``, as ReLU is written, or in a comparison with 0, as leaky ReLU is. Those
    inside of loops and branches are not found.
    """
    closed = jax.make_jaxpr(lambda params, x: f(params, x))(params, x)
    found = []
    _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves((params, x)), found)
    return found


def _evaluate(jaxpr, consts, arguments, found):
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True))

    def read(atom):
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        inner = next((_program(equation.params[name]) for name in _CALLS if name in equation.params), None)
        if equation.primitive.name in _KINKS:
            sides = (operands, operands[::-1])
            found += [h > 0 for h, other in sides if _is_zero(other) and jnp.issubdtype(h.dtype, jnp.floating)]
        if inner is not None and equation.primitive.name not in _OPAQUE and equation.params.get("name") not in _SMOOTH:
            results = _evaluate(*inner, operands, found)
        else:
            results = bind(equation, operands)
        values |= zip(equation.outvars, results, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _program(value):
    """A program, and its constants; of a rematerialised one there are none."""
    return (value.jaxpr, value.consts) if hasattr(value, "consts") else (value, ())


def _is_zero(value):
    return not isinstance(value, jax.core.Tracer) and np.ndim(value) == 0 and float(value) == 0


def flipped(f, params0, params, x):
    """The share of gates that differ between two places; None for a function without any."""
    before, after = gates(f, params0, x), gates(f, params, x)
    count = sum(gate.size for gate in before)
    return None if not before else sum(jnp.sum(a != b) for a, b in zip(before, after, strict=True)) / count
