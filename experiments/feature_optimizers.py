"""Optimisers of recorded sweeps: five whose rate falls to 0, and gradient descent whose rate is raised again and again.

Never edited: its checksum is in the keys of recorded runs.
"""

import optax

# Steps after which a falling rate is 0: adaptive optimisers are not trained out at a rate that stays.
STEPS = 3000
# Steps of each raise; the first rate, over the one that is given; how much higher each further one is; and the rate at
# which the run is trained out, over the last one. After a catapult of 1.15 times the critical rate the kernel is lower
# by about a quarter, so that 1.3 times the rate is again a little above critical.
PHASE, FIRST, FURTHER, LAST = 120, 1.15, 1.3, 0.8


def _raised(times, rate):
    rates = [FIRST * FURTHER**i * rate for i in range(times)]
    last = LAST * (rates[-1] if rates else rate)
    boundaries = [PHASE * (i + 1) for i in range(times)]
    return optax.sgd(optax.join_schedules([optax.constant_schedule(r) for r in (*rates, last)], boundaries))


def not_raised(rate):
    """Gradient descent at 0.8 times the rate."""
    return _raised(0, rate)


def raised_once(rate):
    """120 steps at 1.15 times the rate, then at 0.8 times that."""
    return _raised(1, rate)


def raised_twice(rate):
    """The same with another 120 steps at 1.3 times that in between."""
    return _raised(2, rate)


def raised_3_times(rate):
    """And so on."""
    return _raised(3, rate)


def raised_4_times(rate):
    """And so on."""
    return _raised(4, rate)


def sgd(rate):
    """Gradient descent from a rate of 3 times ``rate``."""
    return optax.sgd(_falling(3.0 * rate))


def momentum(rate):
    """Heavy ball of momentum 0.9, from 0.3 times ``rate``."""
    return optax.sgd(_falling(0.3 * rate), momentum=0.9)


def rmsprop(rate):
    """RMSprop, from 0.015 times ``rate``."""
    return optax.rmsprop(_falling(0.015 * rate))


def adagrad(rate):
    """Adagrad, from 0.5 times ``rate``."""
    return optax.adagrad(_falling(0.5 * rate))


def adam(rate):
    """Adam, from 0.03 times ``rate``."""
    return optax.adam(_falling(0.03 * rate))


def _falling(rate):
    return optax.linear_schedule(rate, 0.0, STEPS)
