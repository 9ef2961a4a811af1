"""Recorded columns of ``features_gates``: what frozen gates do to the test error of a ReLU network's quadratic model.

Never edited: its checksum is in the keys of recorded runs.
"""

import jax
import jax.numpy as jnp

# Of the gates that are blurred: pre-activations have about the standard deviation 1 at the start.
SHARPNESS = 8.0


def gates(now):
    """Columns of a two-layer ReLU network's quadratic model, which is that network with the gates of the start.

    ``moving_train_loss``, ``moving_test_loss``: the network's losses at the same weights, its gates as these have them.
    All jumps of the model in its inputs are in the difference of the two. ``moving_share``: of the model's squared test
    error the part along that difference, ``<error, difference>/<error, error>``.

    ``blurred_test_loss``: the model's with sigmoids in the place of its gates, so without jumps.

    ``seen_test_loss``, ``unseen_share``: with its gates frozen, the model is linear in the products ``v_k u_k``. Of
    their change, what acts on training examples is kernel regression with the first layer's tangent kernel of the start
    to the model's own outputs there; the rest is zero on all of them. The test loss of the former, and the part of the
    squared test error along the latter.
    """
    f, x, x_test = now.model.f, now.x, now.x_test
    (first, readout), (start, signs) = jax.tree.leaves(now.params), jax.tree.leaves(now.start)
    scale = 1 / (start.shape[0] * start.shape[1])

    def kernel(a):
        open_in_both = ((a @ start >= 0) * signs[:, 0] ** 2) @ (x @ start >= 0).T.astype(a.dtype)
        return open_in_both * (a @ x.T) * scale

    def loss(prediction, y):
        return ((prediction - y) ** 2).sum() / len(y)

    moving, error = f(now.params, x_test), now.test_prediction - now.y_test
    fitted = jnp.linalg.solve(kernel(x), now.prediction - f(now.start, x))
    seen = f(now.start, x_test) + kernel(x_test) @ fitted
    soft = jax.nn.sigmoid(SHARPNESS * (x_test @ start) / start.shape[0] ** 0.5)
    blurred = soft * (x_test @ first) @ readout * scale**0.5

    def share(part):
        return (error * part).sum() / (error**2).sum()

    return {
        "moving_train_loss": loss(f(now.params, x), now.y),
        "moving_test_loss": loss(moving, now.y_test),
        "moving_share": share(now.test_prediction - moving),
        "blurred_test_loss": loss(blurred, now.y_test),
        "seen_test_loss": loss(seen, now.y_test),
        "unseen_share": share(now.test_prediction - seen),
    }
