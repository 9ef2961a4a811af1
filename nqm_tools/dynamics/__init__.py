"""The exact low-dimensional dynamics of quadratic models under gradient descent, and what follows from them.

All of it is for gradient descent (with momentum where it says so) on ``half_sum``, ``1/2 sum_i r_i^2`` (a rate for
``mse`` is n/2 times that for ``half_sum``). One example moves the quadratic model of a two-layer ReLU network by a
closed map of its prediction ``g`` and its tangent kernel ``lambda``::

    r' = (1 - eta lambda + c eta^2 r g) r
    lambda' = lambda - eta c r (4 g - eta lambda r),      r = g - y,  c = |x|^2 / (m d)

with input x in R^d and width m. In the dimensionless ``z = sqrt(c) eta r``, ``v = eta lambda``,
``beta = sqrt(c) eta y`` and in ``u = z^2``, ``w = beta z``::

    z' = (1 - v + u + w) z,   v' = v - u (4 - v) - 4 w

All of that holds for the *quadratic model* of the two-layer ReLU network (for one-dimensional inputs also with many
examples), and for the general quadratic models of :func:`nqm_tools.quadratic.exact_map`. The network itself shares
the mechanism, not the numbers. With heavy-ball momentum the map has four numbers (:func:`heavy_ball_step`), six for
any velocity. :func:`forecast` goes from a model and an example to the answers in one call.

Steps use additions and multiplications only: they work on floats, NumPy and JAX arrays alike (under ``jit``, ``vmap``
and ``scan``; in float32 and float64), and on exact or high-precision numbers. Answers (:func:`peak_u`,
:func:`final_v`, ...) are computed in float64 whatever JAX's default is, and take arrays.

>>> final_v(2.5), peak_u(2.5)  # the tangent kernel falls to 51 %, the loss peaks at u / (2 c eta^2)
(1.282..., 0.1676...)
"""

from nqm_tools.dynamics._balanced import (
    CHAOS,
    PERIOD_FOUR,
    PERIOD_TWO,
    Lyapunov,
    TwoCycle,
    attractor,
    balanced_step,
    gradient_flow_kernel,
    lyapunov_exponent,
    sharpness_from_state,
    two_cycle,
)
from nqm_tools.dynamics._biased import BiasedExample, biased_step, norm_change
from nqm_tools.dynamics._critical import CriticalConstants, critical_constants
from nqm_tools.dynamics._forecast import Forecast, forecast
from nqm_tools.dynamics._heavy_ball import (
    HeavyBall,
    HeavyBallGram,
    heavy_ball_gram,
    heavy_ball_observables,
    heavy_ball_state,
    heavy_ball_step,
    transient_growth,
)
from nqm_tools.dynamics._laws import (
    FINAL_V_SERIES,
    PEAK_U_SERIES,
    adiabatic_invariant,
    final_v,
    final_v_series,
    peak_u,
    peak_u_series,
)
from nqm_tools.dynamics._maps import (
    Dimensionless,
    ManyExamples,
    OneExample,
    Quadratic,
    Signed,
    SignGroups,
    coupling,
    dimensionless,
    dimensionless_step,
    group_eigenvalues,
    iterate,
    kernel_from_v,
    loss_from_u,
    many_examples_step,
    one_example_step,
    quadratic_step,
    sign_groups,
    signed_step,
)
from nqm_tools.dynamics._momentum_laws import (
    Scaling,
    ScalingFunctions,
    first_divergence,
    momentum_scaling,
    scaling_functions,
)
from nqm_tools.dynamics._stability import (
    Equilibrium,
    Triangle,
    equilibrium,
    isolated_equilibria,
    jacobian,
    max_learning_rate,
    predict_regime,
    stable_interval,
    triangle,
)
from nqm_tools.dynamics._two_eigenvalues import (
    TwoEigenvalues,
    two_eigenvalue_curve,
    two_eigenvalue_edge,
    two_eigenvalue_end,
    two_eigenvalue_step,
)

__all__ = [
    "CHAOS",
    "FINAL_V_SERIES",
    "PEAK_U_SERIES",
    "PERIOD_FOUR",
    "PERIOD_TWO",
    "BiasedExample",
    "CriticalConstants",
    "Dimensionless",
    "Equilibrium",
    "Forecast",
    "HeavyBall",
    "HeavyBallGram",
    "Lyapunov",
    "ManyExamples",
    "OneExample",
    "Quadratic",
    "Scaling",
    "ScalingFunctions",
    "SignGroups",
    "Signed",
    "Triangle",
    "TwoCycle",
    "TwoEigenvalues",
    "adiabatic_invariant",
    "attractor",
    "balanced_step",
    "biased_step",
    "coupling",
    "critical_constants",
    "dimensionless",
    "dimensionless_step",
    "equilibrium",
    "final_v",
    "final_v_series",
    "first_divergence",
    "forecast",
    "gradient_flow_kernel",
    "group_eigenvalues",
    "heavy_ball_gram",
    "heavy_ball_observables",
    "heavy_ball_state",
    "heavy_ball_step",
    "isolated_equilibria",
    "iterate",
    "jacobian",
    "kernel_from_v",
    "loss_from_u",
    "lyapunov_exponent",
    "many_examples_step",
    "max_learning_rate",
    "momentum_scaling",
    "norm_change",
    "one_example_step",
    "peak_u",
    "peak_u_series",
    "predict_regime",
    "quadratic_step",
    "scaling_functions",
    "sharpness_from_state",
    "sign_groups",
    "signed_step",
    "stable_interval",
    "transient_growth",
    "triangle",
    "two_cycle",
    "two_eigenvalue_curve",
    "two_eigenvalue_edge",
    "two_eigenvalue_end",
    "two_eigenvalue_step",
]
