"""What is trained in a model's place: the cheapest form that gives the same run.

A model is bound to the training inputs and to where it starts. The package's networks have closed forms; fully
connected ones train in the span of their inputs; linear models train in function space. Everything else stays as it is.
"""

from nqm_tools import function_space, input_span, two_layer_conv
from nqm_tools.expansions import LinearModel, TaylorModel, same
from nqm_tools.networks import architecture


def bind(model, x_train, params):
    """``model`` bound to the training inputs ``x_train`` and the start ``params``: same run, less work.

    See :class:`nqm_tools.expansions.Model` for what a bound model has. None of the forms is exact with weight decay or
    Adam, which the trainer does not offer.
    """
    if isinstance(model, LinearModel):
        return function_space.bind(model, x_train, params, network=_bind_network)
    return _bind_network(model, x_train, params)


def _bind_network(model, x_train, params):
    known = architecture(getattr(model, "f", None))
    if known is None or (isinstance(model, TaylorModel) and not same(params, model.params0)):
        # A Taylor model that starts elsewhere: that offset outside the span would have to be carried along.
        return model
    if known.kind == "cnn":
        return two_layer_conv.bind(model)
    return input_span.bind(model, known, x_train, params)
