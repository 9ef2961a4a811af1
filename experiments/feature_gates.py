"""Recorded columns of ``features_gates``: what frozen gates do to the test error of a ReLU network's quadratic model.

Never edited: its checksum is in the keys of recorded runs.
"""


def gates(now):
    """The quadratic model and its network at the same weights: they differ by the units whose gates have flipped.

    All jumps of the model in its inputs are in that difference, since the network has none. Columns: the network's
    training and test loss (``moving_train_loss``, ``moving_test_loss``), and of the model's squared test error the
    share ``<error, difference>/<error, error>``, ``gates_share``; that of the rest is one less this.
    """
    f = now.model.f
    test = f(now.params, now.x_test)
    error, difference = now.test_prediction - now.y_test, now.test_prediction - test
    return {
        "moving_train_loss": ((f(now.params, now.x) - now.y) ** 2).sum() / len(now.y),
        "moving_test_loss": ((test - now.y_test) ** 2).sum() / len(now.y_test),
        "gates_share": (error * difference).sum() / (error**2).sum(),
    }
