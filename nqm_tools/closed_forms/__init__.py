"""What is trained in a model's place: cheaper forms that give the same run.

A form is one function, ``bind(model, x_train, params, rule) -> Model | None``: the model bound to the training inputs
and to where it starts, or None where the model is not one that it knows, or where the form would not be exact or not
pay. They are asked in order, and the first answer counts; a model that nobody knows is trained as it is. What a bound
model has is said in :class:`nqm_tools.expansions.Model`.

Exactness: a form may train other coordinates than the parameters (a basis of what can move, one number an example)
where the step is linear in the gradients, ``rule.linear``: gradient descent on all examples or on mini-batches, heavy
ball and Nesterov from zero velocity, with any schedule. Weight decay, Adam and other optimisers are not: under them a
form whose state is not the parameters answers None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from jaxtyping import Array, PyTree, Real

from nqm_tools.closed_forms import function_space, input_span, two_layer, two_layer_conv
from nqm_tools.expansions import Model

if TYPE_CHECKING:
    from nqm_tools.training._rules import Rule

__all__ = [
    "FORMS",
    "bind",
    "register",
]

Form = Callable[[Model, Real[Array, "n ..."], PyTree, "Rule"], Model | None]

FORMS: list[Form] = [function_space.bind, input_span.bind, two_layer.bind, two_layer_conv.bind]


def register(bind: Form) -> Form:
    """Ask ``bind`` before all other forms from now on; returns it, so that it can decorate a function.

    Examples
    --------
    >>> @register
    ... def nothing_of_mine(model, x_train, params, rule):
    ...     return None
    >>> FORMS.remove(nothing_of_mine)
    """
    FORMS.insert(0, bind)
    return bind


def bind(model: Model, x_train: Real[Array, "n ..."], params: PyTree, rule: Rule) -> Model:
    """``model`` bound to the training inputs ``x_train`` and the start ``params`` for steps of a ``rule``.

    Examples
    --------
    >>> import jax
    >>> import nqm_tools as nqm
    >>> net, x = nqm.networks.two_layer_fc(4), jax.numpy.ones((2, 3))
    >>> params = net.init(jax.random.key(0), x.shape)
    >>> rule = nqm.training.GradientDescent()
    >>> [bind(make(net, params), x, params, rule).form for make in (nqm.linearize, nqm.quadraticize)]
    ['function space', 'input span, two layers']
    """
    for form in FORMS:
        bound = form(model, x_train, params, rule)
        if bound is not None:
            return bound
    return model
