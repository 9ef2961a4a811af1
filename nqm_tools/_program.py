"""Compiled code that is found by what a function does, not by which object it is.

``jax.jit`` finds what it compiled by the identity of the function. A user's function that reads a global variable, an
attribute or an array around it (``scale = 2; f = lambda p, x: scale * net(p, x)``) does something else after these
change and is the same object, so its old program would answer. Here a function is traced anew, through a wrapper that
JAX has not seen, and what was compiled is found by the traced program itself: its operations, literals and shapes.
Arrays that the function closes over become arguments of the program: other values compile nothing, nothing big is
folded in as a constant, and what the user has dropped is freed.

Derivatives are taken while tracing, so the custom derivative rules that are left in a traced program no longer count:
they are replaced by the functions that they are for.
"""

import array
import collections
import contextlib
import itertools
import re

import jax
import jax.extend
import numpy as np

# Programs beyond this many are compiled again when they are needed again.
MOST_PROGRAMS = 512

_compiled = collections.OrderedDict()
_compilations = 0


def compilations():
    """How many programs were compiled so far."""
    return _compilations


NOT_FORWARD = (
    "f has a jax.custom_vjp in it, which JAX cannot differentiate forward. Linear and quadratic models and kernels of "
    "more than 1,024 rows need that; training f itself and smaller kernels do not. Write the rule with jax.custom_jvp, "
    "which goes both ways, or leave it out"
)


@contextlib.contextmanager
def plain_words():
    """What JAX says of a function of the user's that it cannot differentiate forward, with what to do about it."""
    try:
        yield
    except (TypeError, NotImplementedError) as error:
        if not re.search(r"\(jvp\) to a custom_vjp|'custom_lin'", str(error)):
            raise
        raise TypeError(NOT_FORWARD) from error


@contextlib.contextmanager
def plain_switches():
    """JAX without the checks that a user can switch on for code of their own; decorates functions too.

    Of the package's code they would refuse what is meant: the NaN of a run that diverged is a result, and a count of
    bools is a number.
    """
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.debug_nans(False),
        jax.debug_infs(False),
        jax.check_tracer_leaks(False),
    ):
        yield


class Fresh:
    """``function``, compiled for each shape of its arguments as it was at the first call with that shape.

    For one call write ``Fresh(function)(*args)``; in a loop keep the object, and nothing is traced again. Arguments and
    results are pytrees of arrays. Under a transformation of the caller's (arguments that are traced already) it is
    ``function`` itself.
    """

    def __init__(self, function):
        self.function = function
        self._programs = {}

    @plain_switches()
    def __call__(self, *args):
        leaves, tree = jax.tree.flatten(args)
        if jax.config.jax_disable_jit or any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            with plain_words():
                return self.function(*args)
        return self._program(leaves, tree)(leaves)

    @plain_switches()
    def primitives(self, *args):
        """The names of the operations that a call consists of."""
        with jax.disable_jit(False):
            return self._program(*jax.tree.flatten(args)).primitives

    def _program(self, leaves, tree):
        signature = tree, tuple(_signature(leaf) for leaf in leaves)
        if signature not in self._programs:
            self._programs[signature] = _Program(self.function, tree, leaves)
        return self._programs[signature]


def _signature(leaf):
    if isinstance(leaf, bool | int | float):
        return type(leaf)
    return np.shape(leaf), leaf.dtype, getattr(leaf, "weak_type", False)


class _Program:
    """A function traced for arguments of one shape, with the constants that it closes over."""

    def __init__(self, function, tree, leaves):
        structure = []

        def flat(*leaves):
            results, shape = jax.tree.flatten(function(*jax.tree.unflatten(tree, leaves)))
            structure.append(shape)
            return results

        with plain_words():
            part, self.constants, self.primitives = _read(jax.make_jaxpr(flat)(*leaves))
        (self.structure,) = structure
        if "custom_lin" in self.primitives:  # what differentiating a custom_vjp forward leaves, which cannot be run
            raise TypeError(NOT_FORWARD)
        self.run = _find_or_compile(part, self.constants, leaves)

    def __call__(self, leaves):
        return jax.tree.unflatten(self.structure, self.run(self.constants, *leaves))


def _read(closed):
    """A traced program as a :class:`_Part`, all constants in it, and the names of its operations."""
    reading = _Reading()
    part = reading.closed(closed)
    # On the device once, not at each call; also where the caller is being traced.
    with jax.ensure_compile_time_eval():
        constants = [value if _is_key(value) else jax.numpy.asarray(value) for value in reading.constants]
    return part, constants, frozenset(reading.primitives)


def _is_key(value):
    return jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended)


def _find_or_compile(part, constants, leaves):
    global _compilations
    key = part.key
    if key in _compiled:
        _compiled.move_to_end(key)
        return _compiled[key]
    _compilations += 1
    function = jax.extend.core.jaxpr_as_fun(_pure(part, constants, leaves))
    run = jax.jit(lambda constants, *leaves: function(*constants, *leaves))
    _compiled[key] = run
    if len(_compiled) > MOST_PROGRAMS:
        _compiled.popitem(last=False)
    return run


def _pure(part, constants, leaves):
    """Traced once more, so that what is kept holds nothing of the user's: no closures, no arrays."""

    def evaluate(constants, *leaves):
        return _evaluate(part, constants, leaves)

    return jax.make_jaxpr(evaluate)(constants, *leaves)


# Calls of other programs: the parameter that holds the program. What else they have does not change the result.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}
_CUSTOM_RULES = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
_CONTROL_FLOW = {"scan": ("jaxpr",), "while": ("cond_jaxpr", "body_jaxpr"), "cond": ("branches",)}


class _Part:
    """A program or a part of one, as read: ``key`` says all that its results depend on besides its arguments.

    ``constants`` are the places of its own constants among all of them; ``literals`` those of arrays that stand in
    its operations, by operation and operand; ``parts`` the parts of its operations, by number. ``plain`` tells that
    it can stay as it is.
    """

    def __init__(self, jaxpr, constants):
        self.jaxpr, self.constants = jaxpr, constants
        self.literals, self.parts = {}, {}
        self.plain = not constants


class _Reading:
    """Reads a traced program: its key, and the constants anywhere in it, in the order in which they are met."""

    def __init__(self):
        self.constants = []
        self.primitives = set()

    def closed(self, closed):
        part = _Part(closed.jaxpr, [self._place(value) for value in closed.consts])
        jaxpr, numbers = part.jaxpr, {}

        def number(variable):
            return numbers.setdefault(variable, len(numbers))

        inputs = tuple((number(v), v.aval) for v in (*jaxpr.constvars, *jaxpr.invars))
        equations = []
        for i, equation in enumerate(jaxpr.eqns):
            name = equation.primitive.name
            self.primitives.add(name)
            operands = tuple(
                number(atom) if not hasattr(atom, "val") else self._literal(part, (i, j), atom)
                for j, atom in enumerate(equation.invars)
            )
            results = tuple((number(v), v.aval) for v in equation.outvars)
            equations.append((equation.primitive, operands, self._parameters(part, i, equation), results))
        outputs = tuple(
            number(atom) if not hasattr(atom, "val") else self._literal(part, (-1, j), atom)
            for j, atom in enumerate(jaxpr.outvars)
        )
        part.key = _key((inputs, tuple(equations), outputs))
        return part

    def _parameters(self, part, i, equation):
        name, parameters = equation.primitive.name, equation.params
        if name in _CUSTOM_RULES or (name in _CALLS and _is_bare(parameters)):
            inner = self.closed(parameters[_CALLS[name]])
            part.parts[i] = inner
            part.plain &= inner.plain and name not in _CUSTOM_RULES
            return inner.key
        if name in _CONTROL_FLOW:
            inner = {}
            for parameter in _CONTROL_FLOW[name]:
                value = parameters[parameter]
                several = value if isinstance(value, tuple) else (value,)
                inner[parameter] = tuple(self.closed(closed) for closed in several)
            part.parts[i] = inner
            part.plain &= all(one.plain for parts in inner.values() for one in parts)
            rest = _value({k: v for k, v in parameters.items() if k not in inner})
            return rest, tuple(one.key for parts in inner.values() for one in parts)
        self.primitives |= {e.primitive.name for inner in _jaxprs(parameters) for e in inner.eqns}
        return _value(parameters)

    def _literal(self, part, place, literal):
        if np.ndim(literal.val) == 0:
            return _value(literal.val), literal.aval
        part.literals[place] = self._place(literal.val)
        part.plain = False
        return "array", literal.aval

    def _place(self, value):
        self.constants.append(value)
        return len(self.constants) - 1


# Every value that a key is made of has a number, so that a key is bytes: nested tuples of ten thousand entries, kept
# for each program, would be walked by every garbage collection.
_numbers, _counter = {}, itertools.count()


def _number(value):
    # The counter moves on whether its number is used or not: no two values can get the same one, in threads either.
    return _numbers.setdefault((type(value), value), next(_counter))


def _key(tree):
    """The number of nested tuples of hashable values."""
    flat = array.array("q")

    def add(value):
        if type(value) is tuple:
            flat.append(-1 - len(value))
            for entry in value:
                add(entry)
        else:
            flat.append(_number(value))

    add(tree)
    return _number(flat.tobytes())


def _value(value):
    """Something hashable that is equal for equal parameters only; ``1``, ``1.0`` and ``True`` differ."""
    if isinstance(value, dict):
        return tuple((name, _value(value[name])) for name in sorted(value, key=str))
    if isinstance(value, tuple | list):
        return type(value), tuple(map(_value, value))
    if hasattr(value, "eqns") or hasattr(value, "consts"):  # of an operation that is not looked into
        part = _Reading()
        closed = value if hasattr(value, "consts") else jax.extend.core.ClosedJaxpr(value, ())
        return part.closed(closed).key, tuple(map(_value, part.constants))
    # JAX has array types of its own for literals; NumPy's classes have an __array__ too, and are none.
    is_array = hasattr(value, "__array__") and hasattr(value, "dtype") and not isinstance(value, type)
    if isinstance(value, bool | int | float | complex) or (is_array and not _is_key(value)):
        numbers = np.asarray(value)
        return type(value), numbers.dtype.str, numbers.shape, numbers.tobytes()
    try:
        hash(value)
    except TypeError:
        return _Identity(value)
    return type(value), value


class _Identity:
    """What can be compared by identity only; kept alive by this, so that the identity stays its own."""

    def __init__(self, value):
        self.value = value

    def __hash__(self):
        return id(self.value)

    def __eq__(self, other):
        return isinstance(other, _Identity) and self.value is other.value


def _jaxprs(value):
    """All programs among the parameters of an operation."""
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return [inner for entry in value for inner in _jaxprs(entry)]
    value = getattr(value, "jaxpr", value)
    if not hasattr(value, "eqns"):
        return []
    return [value] + [inner for e in value.eqns for inner in _jaxprs(e.params)]


def _is_bare(parameters):
    """Whether a call says nothing about devices or compilers."""
    shardings = (*parameters.get("in_shardings", ()), *parameters.get("out_shardings", ()))
    return all(type(s).__name__ == "UnspecifiedValue" for s in shardings) and not parameters.get("compiler_options_kvs")


@plain_switches()
def purified(function, *args):
    """``function`` as a traced program of nothing but operations: ``(key, program, constants)``.

    The program takes the constants first, then the leaves of ``args``; two programs of one key are the same.
    """
    with plain_words():
        part, constants, _ = _read(jax.make_jaxpr(function)(*args))
    return part.key, _pure(part, constants, jax.tree.leaves(args)), constants


def inlined(equation):
    """The program that an operation of a pure program does nothing but call; None of any other operation."""
    parameters, name = equation.params, equation.primitive.name
    if name not in _CALLS or not _is_bare(parameters):
        return None
    inner = parameters[_CALLS[name]]
    inner = getattr(inner, "jaxpr", inner)
    return None if inner.constvars else inner


def same_operation(equation, operands):
    """Equal for operations that do the same to the same ``operands``, with literals as they stand where one is None."""
    literals = tuple(_value(atom.val) for atom in equation.invars if hasattr(atom, "val"))
    return equation.primitive, _value(equation.params), literals, tuple(operands)


def _evaluate(part, constants, arguments):
    """The results of a part, with its constants taken from ``constants``."""
    jaxpr = part.jaxpr
    values = dict(zip(jaxpr.constvars, (constants[place] for place in part.constants), strict=True))
    values |= zip(jaxpr.invars, arguments, strict=True)

    def read(i, j, atom):
        if not hasattr(atom, "val"):
            return values[atom]
        place = part.literals.get((i, j))
        return atom.val if place is None else constants[place]

    for i, equation in enumerate(jaxpr.eqns):
        operands = [read(i, j, atom) for j, atom in enumerate(equation.invars)]
        inner, name = part.parts.get(i), equation.primitive.name
        if isinstance(inner, _Part) and not (inner.plain and name not in _CUSTOM_RULES):
            results = _evaluate(inner, constants, operands)
        elif isinstance(inner, dict) and not all(one.plain for parts in inner.values() for one in parts):
            results = _CONTROL[name](inner, constants, equation.params, operands)
        else:
            results = bind(equation, operands)
        values |= zip(equation.outvars, results, strict=True)
    return [read(-1, j, atom) for j, atom in enumerate(jaxpr.outvars)]


def bind(equation, operands):
    """The results of an operation of a traced program, on other operands."""
    functions, parameters = (), equation.primitive.get_bind_params(equation.params)
    if isinstance(parameters, tuple):  # up to JAX 0.9
        functions, parameters = parameters
    with equation.ctx.manager:
        results = equation.primitive.bind(*functions, *operands, **parameters)
    return results if equation.primitive.multiple_results else [results]


def _scan(inner, constants, parameters, operands):
    (body,) = inner["jaxpr"]
    if "num_consts" in parameters:
        k = parameters["num_consts"]
        c = parameters["num_carry"]
        fixed, start, xs = operands[:k], operands[k : k + c], operands[k + c :]
    else:  # from JAX 0.12 on
        fixed, start, xs = map(list, parameters["ft_in"].update(operands).unpack())
        c = len(start)

    def step(carry, x):
        results = _evaluate(body, constants, [*fixed, *carry, *x])
        return results[:c], results[c:]

    options = {name: parameters[name] for name in ("length", "reverse", "unroll")}
    carry, ys = jax.lax.scan(step, start, xs, **options)
    return [*carry, *ys]


def _while(inner, constants, parameters, operands):
    (condition,), (body,) = inner["cond_jaxpr"], inner["body_jaxpr"]
    i, j = parameters["cond_nconsts"], parameters["cond_nconsts"] + parameters["body_nconsts"]
    return jax.lax.while_loop(
        lambda carry: _evaluate(condition, constants, [*operands[:i], *carry])[0],
        lambda carry: _evaluate(body, constants, [*operands[i:j], *carry]),
        operands[j:],
    )


def _cond(inner, constants, parameters, operands):
    branches = [lambda *args, branch=branch: _evaluate(branch, constants, args) for branch in inner["branches"]]
    index, *operands = operands
    return jax.lax.switch(index, branches, *operands)


_CONTROL = {"scan": _scan, "while": _while, "cond": _cond}
