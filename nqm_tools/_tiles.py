"""Tangent kernels and their products with vectors in bounded memory: tile by tile, exactly.

A tile of gradients is computed and multiplied with all others, a smaller tile of them at a time; then the next one
takes its place. What is computed again costs time, no accuracy. Tiles are as large as memory allows, so that a kernel
that fits is one tile, and nothing is computed twice.
"""

import functools
import math

import jax
import jax.numpy as jnp
import neural_tangents as nt

# Bytes that computing a kernel may take besides its result, unless a call says otherwise.
MEMORY = 2e9
# What is taken into account, a little more than XLA allocates (tests/test_memory.py compares): the numbers between an
# example and its outputs so many times, a gradient so many times, and copies of the parameters in a product.
REVERSE, GRADIENT, COPIES = 1.5, 1.3, 4
# A product of gradients goes over so many of their numbers at a time.
COLUMNS = 4096


def tiled_kernel(model, params, x1, x2, *, memory, coupled, structured):
    """The tangent kernel (n1, n2, k, k) of a model; ``x2`` is None for ``x1``.

    ``coupled`` as :func:`nqm_tools._coupling.is_coupled` has it; ``structured`` says that neural-tangents knows the
    structure of all of the model's operations.
    """
    if coupled:
        return _of_batches(model, params, x1, x2, memory)
    if structured:
        return _of_layers(model, params, x1, x2, memory)
    return _of_examples(model, params, x1, x2, memory)


def kernel_vector_product(model, params, x, v, *, memory, coupled):
    """``J (J^T v)`` (n, k) with J the Jacobian on x."""
    n = len(x)
    left = memory - COPIES * _gradient_bytes(params)
    size = n if coupled else min(n, _most(left, _example_bytes(model, params, x[:1])))

    def pulled(total, part):
        x, v = part
        (gradient,) = jax.vjp(lambda p: model(p, x), params)[1](v)
        return jax.tree.map(jnp.add, total, gradient), None

    def pushed(x):
        return jax.jvp(lambda p: model(p, x), (params,), (direction,))[1]

    direction = jax.tree.map(jnp.zeros_like, params)
    whole, rest = n // size, n % size
    if whole == 1 and not rest:
        direction, _ = pulled(direction, (x, v))
        return pushed(x)
    parts = x[: n - rest].reshape(whole, size, *x.shape[1:]), v[: n - rest].reshape(whole, size, *v.shape[1:])
    direction, _ = jax.lax.scan(pulled, direction, parts)
    if rest:
        direction, _ = pulled(direction, (x[n - rest :], v[n - rest :]))
    moved = jax.lax.map(pushed, parts[0]).reshape(n - rest, *v.shape[1:])
    return jnp.concatenate([moved, pushed(x[n - rest :])]) if rest else moved


def working_numbers(model, params, x):
    """How many numbers a model computes between its inputs and its outputs."""
    traced = jax.make_jaxpr(lambda params, x: model(params, x))(params, x)
    return _numbers(traced.jaxpr)


def _numbers(jaxpr):
    total = 0
    for equation in jaxpr.eqns:
        values = jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program)
        inner = [getattr(value, "jaxpr", value) for value in values if _is_program(value)]
        if inner:
            total += equation.params.get("length", 1) * sum(map(_numbers, inner))
        else:
            total += sum(math.prod(variable.aval.shape) for variable in equation.outvars)
    return total


def _is_program(value):
    return hasattr(getattr(value, "jaxpr", value), "eqns")


def _gradient_bytes(params):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))


def _example_bytes(model, params, x):
    itemsize = max(leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    return REVERSE * working_numbers(model, params, x) * itemsize


def _most(memory, each):
    """How many of a size fit; at least one, without which there is nothing to compute."""
    return max(1, int(memory // max(each, 1)))


def _of_layers(model, params, x1, x2, memory):
    kernel_fn = nt.empirical_ntk_fn(
        model, trace_axes=(), vmap_axes=0, implementation=nt.NtkImplementation.STRUCTURED_DERIVATIVES
    )
    each = _example_bytes(model, params, x1[:1])
    n1, n2 = len(x1), len(x1) if x2 is None else len(x2)
    if n1 + (0 if x2 is None else n2) <= _most(memory, each):
        return kernel_fn(x1, x2, params)
    size = _most(memory / 2, each)
    k = jax.eval_shape(model, params, x1[:1]).shape[1]
    return _by_tiles(
        (n1, n2, k),
        (min(size, n1), k),
        (min(size, n2), k),
        lambda i, _: _taken(x1, i, min(size, n1)),
        lambda left, j, _: kernel_fn(left, _taken(x1 if x2 is None else x2, j, min(size, n2)), params),
        symmetric=x2 is None,
    )


def _of_examples(model, params, x1, x2, memory):
    of_one = jax.eval_shape(model, params, x1[:1])
    k, dtype = of_one.shape[1], of_one.dtype
    gradient, example = GRADIENT * _gradient_bytes(params), _example_bytes(model, params, x1[:1])
    n1, n2 = len(x1), len(x1) if x2 is None else len(x2)

    def jacobian(x, o, outputs):
        """Gradients of the outputs from o on: a tree of (n, outputs, ...)."""
        basis = jax.lax.dynamic_slice_in_dim(jnp.eye(k, dtype=dtype), o, outputs)

        def of_one(example):
            _, vjp = jax.vjp(lambda p: model(p, example[None])[0], params)
            return jax.vmap(lambda v: vjp(v)[0])(basis)

        return jax.vmap(of_one)(x)

    def shape_of(memory, n):
        examples = _most(memory, k * gradient + example)
        return (min(examples, n), k) if examples > 1 else (1, min(k, _most(memory - example, gradient)))

    if (n1 + (0 if x2 is None else n2)) * (k * gradient + example) <= memory:
        first = jacobian(x1, 0, k)
        return _products(first, first if x2 is None else jacobian(x2, 0, k))
    a, b = shape_of(memory * 2 / 3, n1), shape_of(memory / 3, n2)
    return _by_tiles(
        (n1, n2, k),
        a,
        b,
        lambda i, o: jacobian(_taken(x1, i, a[0]), o, a[1]),
        lambda left, j, o: _products(left, jacobian(_taken(x1 if x2 is None else x2, j, b[0]), o, b[1])),
        symmetric=x2 is None,
    )


def _of_batches(model, params, x1, x2, memory):
    """Where examples depend on each other: gradients of one output of one example, each through the whole batch."""
    gradient = GRADIENT * _gradient_bytes(params)

    def rows_of(x):
        outputs = jax.eval_shape(model, params, x)
        size = math.prod(outputs.shape)

        def jacobian(start, rows):
            _, vjp = jax.vjp(lambda p: model(p, x), params)
            places = start + jnp.arange(rows)

            def gradient_of(place):
                cotangent = jnp.zeros(size, outputs.dtype).at[place].set(1)
                return vjp(cotangent.reshape(outputs.shape))[0]

            return jax.tree.map(lambda leaf: leaf[:, None], jax.vmap(gradient_of)(places))

        return size, jacobian, gradient + _example_bytes(model, params, x)

    rows1, jacobian1, each1 = rows_of(x1)
    rows2, jacobian2, each2 = (rows1, jacobian1, each1) if x2 is None else rows_of(x2)
    k = rows1 // len(x1)
    a, b = min(rows1, _most(memory * 2 / 3, each1)), min(rows2, _most(memory / 3, each2))
    if rows1 * each1 + (0 if x2 is None else rows2 * each2) <= memory:
        first = jacobian1(0, rows1)
        kernel = _products(first, first if x2 is None else jacobian2(0, rows2))
    else:
        kernel = _by_tiles(
            (rows1, rows2, 1),
            (a, 1),
            (b, 1),
            lambda i, _: jacobian1(i, a),
            lambda left, j, _: _products(left, jacobian2(j, b)),
            symmetric=x2 is None,
        )
    return kernel.reshape(rows1 // k, k, rows2 // k, k).transpose(0, 2, 1, 3)


def _taken(x, i, size):
    return jax.lax.dynamic_slice_in_dim(x, i, size)


def _products(first, second):
    """Of two trees of gradients (n1, k1, ...) and (n2, k2, ...): (n1, n2, k1, k2)."""

    def of_leaves(one, other):
        rows, others = one.shape[:2], other.shape[:2]
        products = _product(one.reshape(math.prod(rows), -1), other.reshape(math.prod(others), -1))
        return products.reshape(*rows, *others).transpose(0, 2, 1, 3)

    return functools.reduce(jnp.add, map(of_leaves, jax.tree.leaves(first), jax.tree.leaves(second)))


def _product(one, other):
    """``one @ other.T``, some columns at a time: at once, XLA's product would make copies of half of them."""
    whole, rest = divmod(one.shape[1], COLUMNS)
    if whole < 2:
        return one @ other.T

    def add(i, total):
        columns = [jax.lax.dynamic_slice_in_dim(rows, i * COLUMNS, COLUMNS, axis=1) for rows in (one, other)]
        return total + columns[0] @ columns[1].T

    dtype = jnp.result_type(one, other)
    total = jax.lax.fori_loop(0, whole, add, jnp.zeros((len(one), len(other)), dtype))
    return total + one[:, whole * COLUMNS :] @ other[:, whole * COLUMNS :].T if rest else total


def _by_tiles(shape, a, b, left, block, symmetric):
    """A kernel (n1, n2, k, k) of ``shape`` (n1, n2, k), put together from tiles.

    ``a`` and ``b`` are (examples, outputs) of a tile of its rows and of its columns. ``left(example, output)`` is what
    ``block(left, example, output)`` needs of a tile of rows, to give its products with a tile of columns. The last
    tiles begin earlier, so that all have one size; of a symmetric kernel the columns up to the diagonal are computed.
    """
    n1, n2, k = shape
    outputs_a, outputs_b = -(-k // a[1]), -(-k // b[1])

    def start(number, n, tile, outputs):
        return jnp.minimum(number // outputs * tile[0], n - tile[0]), jnp.minimum(
            number % outputs * tile[1], k - tile[1]
        )

    def row(number, kernel):
        i, o = start(number, n1, a, outputs_a)
        rows = left(i, o)

        def column(number, kernel):
            j, p = start(number, n2, b, outputs_b)
            products = block(rows, j, p)
            kernel = jax.lax.dynamic_update_slice(kernel, products, (i, j, o, p))
            if symmetric:
                kernel = jax.lax.dynamic_update_slice(kernel, products.transpose(1, 0, 3, 2), (j, i, p, o))
            return kernel

        last = (i + a[0] - 1) // b[0] + 1 if symmetric else -(-n2 // b[0])
        return jax.lax.fori_loop(0, last * outputs_b, column, kernel)

    dtype = jax.eval_shape(lambda: block(left(0, 0), 0, 0)).dtype
    return jax.lax.fori_loop(0, -(-n1 // a[0]) * outputs_a, row, jnp.zeros((n1, n2, k, k), dtype))
