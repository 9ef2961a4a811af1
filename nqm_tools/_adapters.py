"""Modules of Flax and Equinox as functions of their parameters; imported on first use."""

import importlib
import inspect

import jax
import jax.numpy as jnp

# Arguments by which modules are told, by the libraries' own habit, whether they are being trained.
_MODES = {"train": False, "training": False, "is_training": False, "deterministic": True, "use_running_average": True}
_RANDOM = ("train", "training", "is_training", "deterministic")


def from_flax(module, x, key, dropout, options):
    linen, nnx = _library("flax.linen", "Flax"), _library("flax.nnx", "Flax")
    if isinstance(module, linen.Module):
        return _from_linen(linen, module, jnp.asarray(x), key, dropout, options)
    if isinstance(module, nnx.Module):
        return _from_nnx(nnx, module, key, dropout, options)
    raise TypeError(f"module must be a Flax module (linen or NNX), made but not drawn; got {_name(module)}")


def from_equinox(module, state, key):
    equinox = _library("equinox", "Equinox")
    if not isinstance(module, equinox.Module):
        raise TypeError(
            f"module must be an Equinox module (and its state, if it has one, be given as state=); got {_name(module)}"
        )
    if key is None:
        module = equinox.nn.inference_mode(module)
    arguments = {"key": key} if "key" in _arguments(type(module).__call__) else {}
    params, fixed, names = _by_name(module)

    def f(params, x):
        module = _put_back(fixed, names, params)

        def of_one(example):
            if state is None:
                return module(example, **arguments)
            return module(example, state, **arguments)[0]

        return jax.vmap(of_one)(x)

    return f, params


def _from_linen(linen, module, x, key, dropout, options):
    if key is None:
        raise TypeError("a linen module needs a key, to draw its parameters, such as jax.random.key(0); got None")
    known = _arguments(type(module).__call__)
    asked = [name for name in _MODES if name in known and getattr(module, name, None) is None]  # not at its making
    options = {name: _MODES[name] != (dropout and name in _RANDOM) for name in asked} | options
    key, *keys = jax.random.split(key, 3)
    variables = linen.meta.unbox(module.init({"params": key, "dropout": keys[0]}, x, **options))
    params = variables.get("params", {})
    trained = jax.tree.map(lambda leaf: leaf if _is_trained(leaf) else None, params)
    others = {name: collection for name, collection in variables.items() if name != "params"}

    def apply(trained, x):
        whole = jax.tree.map(lambda new, old: old if new is None else new, trained, params, is_leaf=_is_none)
        # What a module would write into its other collections is dropped: they stay as they are.
        outputs, _ = module.apply(
            {"params": whole} | others, x, rngs={"dropout": keys[1]}, mutable=[*others], **options
        )
        return outputs

    return (_one_by_one(apply) if dropout else apply), trained


def _from_nnx(nnx, module, key, dropout, options):
    module = nnx.merge(*nnx.split(module))  # a copy: what follows changes it
    module.eval()
    if dropout:
        module.set_attributes(nnx.Dropout, deterministic=False)
    graph, params, others = nnx.split(module, nnx.Param, ...)
    params, fixed, names = _by_name(params)

    def apply(params, x):
        return nnx.merge(graph, _put_back(fixed, names, params), others, copy=True)(x, **options)

    return (_one_by_one(apply) if dropout else apply), params


def _one_by_one(apply):
    """Each example by itself, so that all have the mask of the first."""
    return lambda params, x: jax.vmap(lambda example: apply(params, example[None])[0])(x)


def _by_name(tree):
    """The floating-point arrays of a tree by name; the tree, flat; and the names of its leaves, None for the others."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    names = [_path(path) if _is_trained(leaf) else None for path, leaf in leaves]
    params = {name: leaf for name, (_, leaf) in zip(names, leaves, strict=True) if name is not None}
    return params, ([leaf for _, leaf in leaves], structure), names


def _put_back(fixed, names, params):
    leaves, structure = fixed
    chosen = [leaf if name is None else params[name] for name, leaf in zip(names, leaves, strict=True)]
    return jax.tree.unflatten(structure, chosen)


def _path(path):
    return jax.tree_util.keystr(path).replace("['", ".").replace("']", "").removesuffix(".value").lstrip(".")


def _is_trained(leaf):
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating)


def _is_none(leaf):
    return leaf is None


def _arguments(function):
    return inspect.signature(function).parameters


def _name(thing):
    return thing.__name__ if isinstance(thing, type) else f"a {type(thing).__name__}"


def _library(module, name):
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{name} is not installed: the extra [models]") from None
