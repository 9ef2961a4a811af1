"""What a step would compute anew each time although it never changes, computed once.

A step of a Taylor model of any function passes through that function at the expansion point, with the same inputs, at
every step. Here such a computation is traced once and its operations are told apart by what they depend on: those on
what is fixed are done once and their results kept, the others are done at each step, in two stages.
"""

import itertools

import jax

from nqm_tools._program import Fresh, bind, inlined, purified, same_operation

# Results that are computed again rather than kept: they cost no more than reading them would.
CHEAP = {
    "abs", "add", "add_any", "and", "broadcast_in_dim", "clamp", "concatenate", "convert_element_type", "copy",
    "copy_p", "div", "eq", "expand_dims", "ge", "gt", "integer_pow", "iota", "is_finite", "le", "lt", "max", "min",
    "mul", "ne", "neg", "not", "or", "pad", "reduce_precision", "reshape", "rev", "select_n", "sign", "slice",
    "split", "square", "squeeze", "stop_gradient", "sub", "transpose", "xor",
}  # fmt: skip


def keep(function, fixed, moving, last):
    """``function(fixed, moving, last) -> (value, result)`` as a :class:`Kept`, for other ``moving`` and ``last``.

    All are pytrees of arrays; ``value`` must not depend on ``last``. None where the function does more than compute
    (prints, say), which should then be done at each step.
    """
    leaves, tree = jax.tree.flatten((moving, last))
    shapes = []

    def flat(fixed, *leaves):
        value, result = function(fixed, *jax.tree.unflatten(tree, leaves))
        shapes.append((jax.tree.structure(value), jax.tree.structure(result)))
        return *jax.tree.leaves(value), *jax.tree.leaves(result)

    key, closed, constants = purified(flat, fixed, *leaves)
    if closed.effects:
        return None
    first = [*constants, *jax.tree.leaves(fixed)]
    stages = _Stages(closed, len(first), jax.tree.structure(moving), jax.tree.structure(last), *shapes[0], key)
    return Kept(stages, stages.once(first))


@jax.tree_util.register_pytree_node_class
class Kept:
    """A computation in two stages, ``kept(moving) -> (value, finish)`` and ``finish(last) -> result``; a pytree."""

    def __init__(self, stages, values):
        self.stages, self.values = stages, values

    def tree_flatten(self):
        return (self.values,), self.stages

    @classmethod
    def tree_unflatten(cls, stages, children):
        return cls(stages, *children)

    def __call__(self, moving):
        return self.stages(self.values, moving)


class _Stages:
    """The operations of a program by what they depend on: 0 on nothing that moves, 1 on ``moving``, 2 on ``last``."""

    def __init__(self, closed, first, moving, last, value, result, key):
        self.same = key, moving, last, value, result
        self.moving, self.last, self.value, self.result = moving, last, value, result
        numbers = itertools.count()
        inputs = [next(numbers) for _ in closed.jaxpr.invars]
        found = {}
        outputs = _flatten(closed.jaxpr, inputs, numbers, found)
        self.inputs = inputs[:first], inputs[first : first + moving.num_leaves], inputs[first + moving.num_leaves :]
        self.outputs = outputs[: value.num_leaves], outputs[value.num_leaves :]
        operations = _alive(found.values(), outputs)
        stage = {number: i for i, part in enumerate(self.inputs) for number in part}
        for operation in operations:
            at = max([stage[operand] for operand in operation.operands if isinstance(operand, int)], default=0)
            stage |= dict.fromkeys(operation.results, at)
        of_value = max([stage[number] for number in self.outputs[0] if isinstance(number, int)], default=0)
        assert of_value < 2, "the value depends on what comes last"
        by_stage = [[o for o in operations if stage[o.results[0]] == at] for at in range(3)]
        self.kept, again = self._kept(by_stage)
        needed = _alive(by_stage[0], self.kept)
        self.first, self.steps = needed, (again + by_stage[1], by_stage[2])

    def _kept(self, by_stage):
        """The results of the first stage that the others need, and its cheap operations, to be done again."""
        made_by = {number: operation for operation in by_stage[0] for number in operation.results}
        kept, again, fixed = [], set(), set(self.inputs[0]) | set(made_by)
        wanted = [o for operation in by_stage[1] + by_stage[2] for o in operation.operands]
        wanted += [*self.outputs[0], *self.outputs[1]]
        seen = set()
        while wanted:
            number = wanted.pop()
            if not isinstance(number, int) or number in seen or number not in fixed:
                continue
            seen.add(number)
            operation = made_by.get(number)
            if operation is not None and operation.name in CHEAP:
                again.add(operation)
                wanted += operation.operands
            else:
                kept.append(number)
        return sorted(kept), [operation for operation in by_stage[0] if operation in again]

    def once(self, values):
        """What is kept of a program whose fixed inputs have these values."""
        given = dict(zip(self.inputs[0], values, strict=True))

        def made(*values):
            known = _do(self.first, dict(zip(self.inputs[0], values, strict=True)))
            return {number: known[number] for number in self.kept if number not in given}

        known = given | Fresh(made)(*values)
        return [known[number] for number in self.kept]

    def __call__(self, values, moving):
        known = dict(zip(self.kept, values, strict=True))
        known |= zip(self.inputs[1], self.moving.flatten_up_to(moving), strict=True)
        known = _do(self.steps[0], known)
        value = jax.tree.unflatten(self.value, [_read(known, number) for number in self.outputs[0]])

        def finish(last):
            more = known | dict(zip(self.inputs[2], self.last.flatten_up_to(last), strict=True))
            more = _do(self.steps[1], more)
            return jax.tree.unflatten(self.result, [_read(more, number) for number in self.outputs[1]])

        return value, finish

    def __eq__(self, other):
        return isinstance(other, _Stages) and self.same == other.same

    def __hash__(self):
        return hash(self.same)


class _Operation:
    """An operation of a traced program; operands are numbers of values, or literals as they are traced."""

    def __init__(self, equation, operands, results):
        self.equation, self.operands, self.results = equation, operands, results
        self.name = equation.primitive.name


def _flatten(jaxpr, inputs, numbers, found):
    """The numbers of the results; what the program does is added to ``found``, inner programs' operations among it.

    The same operation on the same operands stands there once: derivatives repeat much, and XLA could not tell that
    two kept arrays are the same.
    """
    number = dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom):
        return atom if hasattr(atom, "val") else number[atom]

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        inner = inlined(equation)
        if inner is None:
            key = same_operation(equation, [o if isinstance(o, int) else None for o in operands])
            if key not in found:
                found[key] = _Operation(equation, operands, [next(numbers) for _ in equation.outvars])
            results = found[key].results
        else:
            results = _flatten(inner, operands, numbers, found)
        number |= zip(equation.outvars, results, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _alive(operations, outputs):
    """Those of the operations that the outputs depend on."""
    wanted, alive = {number for number in outputs if isinstance(number, int)}, []
    for operation in reversed(list(operations)):
        if wanted.intersection(operation.results):
            wanted.update(operand for operand in operation.operands if isinstance(operand, int))
            alive.append(operation)
    return alive[::-1]


def _do(operations, known):
    known = dict(known)
    for operation in operations:
        results = bind(operation.equation, [_read(known, operand) for operand in operation.operands])
        known |= zip(operation.results, results, strict=True)
    return known


def _read(known, number):
    return known[number] if isinstance(number, int) else number.val
