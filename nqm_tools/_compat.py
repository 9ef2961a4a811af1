"""Lets neural-tangents 0.6.5, written for the JAX of 2023, run on today's JAX.

neural-tangents imports names that have since moved or gone (``jax.core.Jaxpr``, ``jax.util.safe_map``, ...) and,
through its ``experimental`` package, TensorFlow. While it is imported, ``sys.modules`` answers ``jax`` with an
*overlay*: a module that has the missing names and passes every other look-up on to JAX. neural-tangents keeps the
overlays as its globals; JAX itself is never changed, not even for a moment. A few functions whose *behaviour*
changed are replaced in neural-tangents' own modules afterwards.

Importing ``nqm_tools`` does all this once; ``import neural_tangents`` works from then on.
"""

import contextlib
import functools
import importlib
import importlib.metadata
import re
import sys
import types

# First version, first version beyond; setup.cfg says the same and a test compares. JAX up to 0.8.1 compiles gradients
# of linearised swish networks to wrong numbers (found by the tests of pullbacks; right uncompiled, and from 0.8.3 on).
JAX_RANGE = ("0.9.0", "0.13")
NEURAL_TANGENTS_VERSION = "0.6.5"


def _version_tuple(text):
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def check_versions(jax_version, neural_tangents_version):
    """Raise ImportError unless both versions are ones that the overlay was tested with."""
    first, beyond = JAX_RANGE
    if not _version_tuple(first) <= _version_tuple(jax_version) < _version_tuple(beyond):
        raise ImportError(
            f"nqm_tools runs neural-tangents on JAX >= {first}, < {beyond}; found JAX {jax_version}. "
            f"Install one of those, e.g. pip install 'jax>={first},<{beyond}'."
        )
    if neural_tangents_version != NEURAL_TANGENTS_VERSION:
        raise ImportError(
            f"nqm_tools needs neural-tangents {NEURAL_TANGENTS_VERSION}; found {neural_tangents_version}."
        )


def import_neural_tangents():
    """Import neural-tangents behind overlays of JAX and return it; at once if that has been done.

    Raises
    ------
    ImportError
        If JAX or neural-tangents is missing, or of a version outside the tested range.
    """
    if "neural_tangents" in sys.modules:
        return sys.modules["neural_tangents"]
    import jax

    check_versions(jax.__version__, importlib.metadata.version("neural-tangents"))
    # A plain `import neural_tangents` that failed earlier leaves half of its modules behind.
    for name in [name for name in sys.modules if name.startswith("neural_tangents.")]:
        del sys.modules[name]
    overlays = _jax_overlays()
    hidden = {name: sys.modules[name] for name in overlays if name in sys.modules}
    sys.modules.update(overlays)
    sys.modules["neural_tangents.experimental"] = _no_experimental()
    try:
        neural_tangents = importlib.import_module("neural_tangents")
    finally:
        for name in overlays:
            del sys.modules[name]
        sys.modules.update(hidden)
    _mend_behaviour(jax)
    return neural_tangents


def _overlay(module, **names):
    """A module that has ``names`` and otherwise answers as ``module`` does."""
    overlay = types.ModuleType(module.__name__, module.__doc__)
    overlay.__getattr__ = functools.partial(getattr, module)
    vars(overlay).update(names)
    return overlay


def _jax_overlays():
    import jax
    import jax.core

    # Loaded now, so that what they import is JAX and not an overlay.
    import jax.example_libraries.stax
    import jax.experimental
    import jax.extend.core
    import jax.image
    import jax.interpreters.ad
    import jax.scipy.linalg
    import jax.scipy.special
    from jax._src import source_info_util
    from jax._src.interpreters import ad as private_ad

    class NoSuchArray:
        """Stands for array types that JAX no longer has: nothing is an instance."""

    new_core = jax.extend.core
    core = _overlay(
        jax.core,
        DShapedArray=NoSuchArray,
        eval_context=jax.ensure_compile_time_eval,
        **{name: getattr(new_core, name) for name in ("Jaxpr", "JaxprEqn", "Literal", "Primitive", "Var")},
    )
    ad = _overlay(
        jax.interpreters.ad,
        add_tangents=private_ad.add_tangents,
        get_primitive_transpose=private_ad.get_primitive_transpose,
        linearize=_linearize,
        source_info_util=source_info_util,
        # Asked for one flag only, before a check whose own functions are gone.
        config=types.SimpleNamespace(jax_enable_checks=False),
        # Keys of rule tables; no traced program holds this primitive any more.
        zeros_like_p=new_core.Primitive("zeros_like"),
    )
    util = types.ModuleType("jax.util")
    util.safe_map = _safe_map
    util.safe_zip = _safe_zip
    interpreters = _overlay(jax.interpreters, ad=ad)
    random = _overlay(jax.random, KeyArray=jax.Array)
    top = _overlay(
        jax,
        core=core,
        interpreters=interpreters,
        random=random,
        util=util,
        tree_map=jax.tree_util.tree_map,
    )
    return {
        "jax": top,
        "jax.core": core,
        "jax.interpreters": interpreters,
        "jax.interpreters.ad": ad,
        "jax.random": random,
        "jax.util": util,
    }


def _safe_map(function, *sequences):
    return [function(*items) for items in _safe_zip(*sequences)]


def _safe_zip(*sequences):
    return list(zip(*sequences, strict=True))


def _linearize(flat_function, *primals, has_aux):
    """``ad.linearize`` of 2023: outputs, which tangents are known, the linear map's jaxpr, and its constants."""
    import jax

    assert not has_aux
    outputs, tangent_map = jax.linearize(flat_function.call_wrapped, *primals)
    closed = jax.make_jaxpr(tangent_map)(*primals)
    unknown = types.SimpleNamespace(is_known=lambda: False)
    return outputs, [unknown] * len(outputs), closed.jaxpr, closed.consts


def _no_experimental():
    """Stands for ``neural_tangents.experimental``, which would import TensorFlow and tf2jax."""
    module = types.ModuleType("neural_tangents.experimental")

    def missing(name):
        raise AttributeError(
            f"neural_tangents.experimental.{name} needs TensorFlow, which nqm_tools keeps out of the import"
        )

    module.__getattr__ = missing
    return module


def _mend_behaviour(jax):
    """Replace, inside neural-tangents, what no missing name can mend."""
    import scipy.linalg
    from neural_tangents._src import empirical, predict
    from neural_tangents._src.stax import linear

    from nqm_tools import _random

    linear.random = _overlay(linear.random, normal=_random.normal)  # the same numbers, and fewer programs

    def vjp_of_equation(equation, cotangent, *values):
        # The original first asks for `primitive.map_primitive`, which is gone with the primitives it told of.
        if equation is None:
            return (cotangent,)
        transpose = empirical.ad.get_primitive_transpose(equation.primitive)
        return transpose(cotangent, *values, **equation.params)

    def flops(function, optimize, *args, **kwargs):
        lowered = jax.jit(function).lower(*args, **kwargs)
        analysis = (lowered.compile() if optimize else lowered).cost_analysis()
        return analysis["flops"]  # a dict now, once a list of one dict

    empirical._eqn_vjp_fn = vjp_of_equation
    empirical._get_flops = flops

    def eigvalsh(matrix, eigvals):
        return scipy.linalg.eigvalsh(matrix, subset_by_index=eigvals)  # renamed in SciPy 1.14

    predict.sp = _overlay(predict.sp, linalg=_overlay(scipy.linalg, eigvalsh=eigvalsh))

    # predict caches what it computes from the training kernel under `eval_context`. That context now refuses
    # tracers, so enter it only where the kernel is a concrete array.
    predict.jax = _overlay(jax, core=_overlay(jax.core, eval_context=contextlib.nullcontext))
    for name in ("_get_cho_solve", "_get_fns_in_eigenbasis"):
        setattr(predict, name, _eagerly_if_concrete(jax, getattr(predict, name)))


def _eagerly_if_concrete(jax, function):
    @functools.wraps(function)
    def wrapped(kernel, *args):
        concrete = not isinstance(kernel, jax.core.Tracer)
        with jax.ensure_compile_time_eval() if concrete else contextlib.nullcontext():
            return function(kernel, *args)

    return wrapped
