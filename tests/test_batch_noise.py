"""The kernel norm against the second moments of a linear model, written out over all batches, and against training."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import nqm_tools as nqm
from nqm_tools import batch_noise
from nqm_tools.papers.agarwala2024 import edge
from nqm_tools.papers.ours import noise

STEP = {"mse": lambda B: 2 / B, "half_sum": lambda B: 1.0}


def step_matrices(kernel, rate, batch_size, momentum, loss):
    """What each batch does to the residual and that of the step before, (batches, 2n, 2n)."""
    n = len(kernel)
    identity, nothing = np.eye(n), np.zeros((n, n))
    matrices = []
    for rows in itertools.combinations(range(n), batch_size):
        chosen = np.zeros((n, n))
        chosen[rows, rows] = 1
        move = (1 + momentum) * identity - rate * STEP[loss](batch_size) * kernel @ chosen
        matrices.append(np.block([[move, -momentum * identity], [identity, nothing]]))
    return np.array(matrices)


def radius(matrices):
    """Of the map of second moments."""
    return np.abs(np.linalg.eigvals(np.mean([np.kron(m, m) for m in matrices], axis=0))).max()


def a_kernel(n, seed, decay=0.0):
    rng = np.random.default_rng(seed)
    vectors, _ = np.linalg.qr(rng.normal(size=(n, n)))
    return (vectors * rng.uniform(0.5, 1, n) * np.arange(1.0, n + 1) ** -decay) @ vectors.T


@pytest.mark.parametrize("loss", STEP)
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(("n", "batch_size", "decay"), [(4, 1, 0), (4, 2, 2), (5, 4, 1), (3, 1, 3)])
def test_the_exact_form_is_one_where_second_moments_stop_shrinking(loss, momentum, n, batch_size, decay):
    kernel = a_kernel(n, seed=n + batch_size, decay=decay)
    options = dict(loss=loss, momentum=momentum, form="exact")
    threshold = nqm.stochastic_critical_learning_rate(kernel, batch_size, **options)
    assert nqm.kernel_norm(kernel, threshold, batch_size, **options) == pytest.approx(1, abs=1e-9)
    for share in (0.3, 0.9, 0.99, 1.01, 1.1):
        found = nqm.kernel_norm(kernel, share * threshold, batch_size, **options)
        grows = radius(step_matrices(kernel, share * threshold, batch_size, momentum, loss)) - 1
        assert (found > 1) == (grows > 0), (share, found, grows)
    assert radius(step_matrices(kernel, threshold, batch_size, momentum, loss)) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99])
@pytest.mark.parametrize("eigenvalues", [np.logspace(0, -12, 6), [1, 1, 1e-3, 1e-8, 0, 0], [1, 1e-17, 0.5, 0.1, 0, 0]])
def test_the_exact_form_of_ill_conditioned_kernels(eigenvalues, momentum):
    """As that of the kernel without its small eigenvalues: rounding makes nothing of them."""
    vectors, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))
    eigenvalues = np.array(eigenvalues)
    options = dict(momentum=momentum, form="exact")
    kernel, cut = (
        (vectors * values) @ vectors.T for values in (eigenvalues, np.where(eigenvalues < 1e-7, 0, eigenvalues))
    )
    for batch_size in (1, 5):
        threshold = nqm.stochastic_critical_learning_rate(kernel, batch_size, **options)
        assert threshold == pytest.approx(nqm.stochastic_critical_learning_rate(cut, batch_size, **options), rel=1e-5)
        norms = [nqm.kernel_norm(kernel, share * threshold, batch_size, **options) for share in (1e-3, 0.1, 1, 1.01)]
        assert norms == sorted(norms)
        assert norms[0] < 2e-3
        w = batch_noise.variances(eigenvalues / eigenvalues.max(), (6 - batch_size) / (5 * batch_size), 0.0)
        if momentum == 0:
            rate = 6 / 2 / eigenvalues.max()  # so that x are the eigenvalues over the largest
            assert nqm.kernel_norm(kernel, rate, batch_size, **options) >= (w / (1 + w)).sum() * (1 - 1e-9)


def test_directions_without_a_kernel_do_no_harm():
    vectors, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))
    kernel = (vectors[:, :2] * [1.0, 0.3]) @ vectors[:, :2].T
    threshold = nqm.stochastic_critical_learning_rate(kernel, 1, form="exact")
    onto = np.kron(*[np.kron(np.eye(2), vectors[:, :2])] * 2)
    for share, grows in ((0.99, False), (1.01, True)):
        matrices = step_matrices(kernel, share * threshold, 1, 0.0, "mse")
        # On the kernel's own directions; along the others the residual stays what it is.
        moved = onto.T @ np.mean([np.kron(m, m) for m in matrices], axis=0) @ onto
        assert (np.abs(np.linalg.eigvals(moved)).max() > 1) == grows


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_the_other_forms_are_their_sums(momentum):
    n, B, rate = 6, 2, 0.3
    kernel = a_kernel(n, seed=1)
    x = 2 * rate * np.linalg.eigvalsh(kernel) / n
    f = (n - B) / (B * (n - 1))
    w = f * x / ((1 - momentum) * (2 - x / (1 + momentum)))
    found = [nqm.kernel_norm(kernel, rate, B, momentum=momentum, form=form) for form in ("delocalised", "random")]
    np.testing.assert_allclose(found, [w.sum(), (w / (1 - w)).sum()], rtol=1e-12)
    assert nqm.kernel_norm(kernel, rate, B, momentum=momentum) == found[0]
    for form in batch_noise.FORMS:
        assert nqm.kernel_norm(kernel, rate, n, momentum=momentum, form=form) == pytest.approx(0, abs=1e-15)
        critical = nqm.critical_learning_rate(kernel, momentum=momentum)
        assert nqm.kernel_norm(kernel, 1.001 * critical, B, momentum=momentum, form=form) == np.inf
        assert nqm.stochastic_critical_learning_rate(kernel, n, momentum=momentum, form=form) == pytest.approx(critical)
        assert nqm.stochastic_critical_learning_rate(kernel, B, momentum=momentum, form=form) < critical
    both = np.einsum("ij,ab->ijab", kernel, np.eye(2))
    for form in ("delocalised", "random"):
        one, two = (nqm.kernel_norm(K, rate, B, momentum=momentum, form=form) for K in (kernel, both))
        assert two == pytest.approx(one), "two outputs that do not mix are as stable as one"


def test_for_random_eigenvectors_the_random_form_is_nearer_than_the_papers():
    """Ratios of the predicted threshold to the exact one, over kernels and batch sizes."""
    ratios = {form: [] for form in ("delocalised", "random")}
    for seed, batch_size in itertools.product(range(3), (1, 2, 8)):
        kernel = a_kernel(24, seed)
        exact = nqm.stochastic_critical_learning_rate(kernel, batch_size, form="exact")
        for form, found in ratios.items():
            found.append(nqm.stochastic_critical_learning_rate(kernel, batch_size, form=form) / exact)
    assert abs(np.mean(ratios["random"]) - 1) < 0.02
    assert 1.03 < np.mean(ratios["delocalised"]) < 1.2, "1 is optimistic"


def test_training_has_the_second_moments_of_the_theory(x64):
    """The mean loss over seeds against the recursion of second moments."""
    n, B, steps, momentum = 5, 2, 6, 0.5
    x = np.random.default_rng(3).normal(size=(n, n))
    y = np.random.default_rng(4).normal(size=(n, 1))
    kernel = x @ x.T
    rate = 0.7 * nqm.stochastic_critical_learning_rate(kernel, B, momentum=momentum, form="exact")
    matrices = step_matrices(kernel, rate, B, momentum, "mse")
    start = np.concatenate([-y, -y])
    moments, expected = start @ start.T, []
    for _ in range(steps + 1):
        expected.append(np.trace(moments[:n, :n]) / n)
        moments = np.mean([m @ moments @ m.T for m in matrices], axis=0)
    losses = np.array(
        [
            nqm.train(
                lambda w, x: x @ w, nqm.Data("linear", x, y), params=jnp.zeros((n, 1)), learning_rate=rate, steps=steps,
                batch_size=B, batches="iid", momentum=momentum, seed=seed, record=(),
            ).losses
            for seed in range(150)
        ]
    )  # fmt: skip
    error = losses.std(axis=0, ddof=1) / np.sqrt(len(losses))
    np.testing.assert_allclose(losses[:, 0], expected[0])
    assert (np.abs(losses.mean(axis=0) - expected)[1:] < 4 * error[1:]).all()


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"batch_size": 2, "momentum": 0.6, "loss": "half_sum"}])
def test_the_recorded_norm_is_that_of_the_kernel_at_each_row(x64, outputs, options):
    net = nqm.networks.two_layer_fc(16, outputs=outputs)
    x = np.random.default_rng(0).normal(size=(5, 3))
    data = nqm.Data("normal", x, np.ones((5, outputs)))
    params = net.init(jax.random.key(1), x.shape)
    kernel = nqm.empirical_ntk(net, params, x)
    momentum, loss = options.get("momentum", 0.0), options.get("loss", "mse")
    rate = 0.4 * nqm.critical_learning_rate(kernel, loss)
    record = ("kernel_norm", "kernel_norm_exact") if outputs == 1 else "kernel_norm"
    run = nqm.train(net, data, learning_rate=rate, steps=2, params=params, record=record, **options)
    norms, exact = [], []
    for steps in range(3):
        after = (
            nqm.train(net, data, learning_rate=rate, steps=steps, params=params, **options).params if steps else params
        )
        kernel = nqm.empirical_ntk(net, after, x)
        found = [
            nqm.kernel_norm(kernel, rate, options.get("batch_size", 5), loss=loss, momentum=momentum, form=form)
            for form in ("delocalised", "exact")[: 3 - outputs]
        ]
        norms.append(found[0])
        exact.append(found[-1])
    np.testing.assert_allclose(run.records["kernel_norm"], norms, rtol=1e-9)
    if outputs == 1:
        np.testing.assert_allclose(run.records["kernel_norm_exact"], exact, rtol=1e-9, atol=1e-15)
    assert (run.records["kernel_norm"] > 0).all() == ("batch_size" in options)


def test_beyond_the_critical_rate_the_recorded_norm_is_infinite():
    net = nqm.networks.two_layer_fc(16)
    data = nqm.Data("normal", np.eye(3), np.ones(3))
    params = net.init(jax.random.key(1), (3, 3))
    rate = 1.2 * nqm.critical_learning_rate(nqm.empirical_ntk(net, params, data.x_train))
    run = nqm.train(net, data, learning_rate=rate, steps=1, batch_size=2, params=params, record="kernel_norm")
    assert run.records["kernel_norm"][0] == np.inf


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"batch_size": 7}, ValueError, "batch_size must be at most the kernel's number of examples, 6; got 7"),
        ({"batch_size": 0}, ValueError, "batch_size must be"),
        ({"momentum": 1.0}, ValueError, "momentum must be"),
        ({"loss": "logistic"}, ValueError, "of constant curvature, 'mse' and 'half_sum'; the loss is 'logistic'"),
        ({"form": "Haar"}, ValueError, "form must be one of 'delocalised', 'random', 'exact'; got 'Haar'"),
        ({"kernel": np.ones((6, 5))}, ValueError, "kernel must have shape"),
        ({"kernel": np.triu(np.ones((6, 6)))}, ValueError, "kernel must be symmetric"),
        ({"kernel": np.ones((6, 6, 2, 2)), "form": "exact"}, ValueError, "this kernel has 2"),
    ],
)
def test_bad_arguments_are_refused(change, error, message):
    arguments = {"kernel": np.eye(6), "batch_size": 2} | change
    with pytest.raises(error, match=message):
        nqm.stochastic_critical_learning_rate(**arguments)
    with pytest.raises(error, match=message):
        nqm.kernel_norm(learning_rate=0.1, **arguments)


def test_a_norm_that_is_not_known_is_refused():
    data = nqm.Data("one", np.ones((2, 1)), np.ones(2))
    options = dict(learning_rate=0.1, steps=1, params=jnp.zeros((1, 1)), record="kernel_norm")
    with pytest.raises(ValueError, match="kernel_norm is of gradient descent and heavy ball"):
        nqm.train(lambda w, x: x @ w, data, momentum=0.5, nesterov=True, **options)
    with pytest.raises(ValueError, match="of constant curvature"):
        nqm.train(lambda w, x: x @ w, data, loss="logistic", **options)
    with pytest.raises(ValueError, match="learning_rate must be"):
        nqm.kernel_norm(np.eye(2), -1.0, 1)
    assert nqm.stochastic_critical_learning_rate(np.zeros((2, 2)), 1) == np.inf


def runs_of_the_edge(**changes):
    """Recorded rows as the claims have them; changes are ``{column: function of a run}``."""
    rows = []
    for batch_size, rate, seed in itertools.product((1, 2, 4, 8, 64), (0.3, 0.9), range(10)):
        start = {1: 0.7, 2: 0.35, 4: 0.2, 8: 0.1, 64: 0.0}[batch_size] * (1 if rate == 0.3 else 6)
        run = {
            "batch_size": batch_size, "model": "f", "learning_rate_ratio": rate, "seed": seed, "regime": "monotone",
            "grown": 1 - 0.1 / batch_size + 0.001 * (seed % 3), "start": start, "end": start if start < 1 else 0.8,
            "peak_loss": 1.0,
        }  # fmt: skip
        run |= {column: change(run) for column, change in changes.items()}
        norms = [{"kernel_norm": run[end], "kernel_norm_exact": run[end]} for end in ("start", "end")]
        rows += [
            run | norms[0] | {"step": 0, "lambda_1": 2.0, "train_loss": 1.0},
            run | norms[1] | {"step": 100, "lambda_1": 2 * run["grown"], "train_loss": 0.1},
        ]
    return pd.DataFrame(rows)


def test_rules_of_the_stochastic_edge_and_results_made_wrong_on_purpose():
    right = runs_of_the_edge()
    sharpens, comes = edge.sharpens_less("f"), edge.comes_to_the_edge("f")
    assert sharpens(right).holds
    assert comes(right).holds
    rng = np.random.default_rng(0)
    wrong = {
        "no difference": {"grown": lambda run: 1 + 0.01 * rng.normal()},
        "out of order": {"grown": lambda run: run["grown"] - 0.2 * (run["batch_size"] == 8)},
        "reversed": {"grown": lambda run: 2 - run["grown"]},
    }
    for name, changes in wrong.items():
        assert not sharpens(runs_of_the_edge(**changes)).holds, name
    wrong = {
        "stays above": {"end": lambda run: run["start"]},
        "one stays above": {"end": lambda run: 1.1 if (run["start"] > 1) & (run["seed"] == 9) else run["end"]},
        "one passes it from below": {
            "end": lambda run: 1.1 if run["start"] == 0.7 and run["seed"] == 3 else run["end"]
        },
        "one in five diverges": {
            "regime": lambda run: "divergent" if (run["start"] > 1) & (run["seed"] < 2) else "monotone"
        },
        "one diverges from below": {
            "regime": lambda run: "divergent" if (run["start"] < 0.3) & (run["seed"] == 2) else "monotone"
        },
    }
    for name, changes in wrong.items():
        assert comes(runs_of_the_edge(**changes)).holds is False, name
    few = right[right["seed"] < 4]
    assert sharpens(few).holds is None
    assert comes(few).holds is None
    assert comes(right[right["learning_rate_ratio"] == 0.3]).holds is None
    beyond = runs_of_the_edge(start=lambda run: np.inf if run["start"] > 1 else run["start"])
    assert comes(beyond).holds is None, "gradient descent itself is unstable there"
    for check in (sharpens, comes):
        assert check(right.assign(model="f_quad")).holds is None
        assert check(pd.DataFrame()).holds is None


def test_the_claim_of_the_exact_edge_fails_where_the_form_is_another(monkeypatch):
    assert noise.exact_threshold().holds
    other = noise.stochastic_critical_learning_rate
    monkeypatch.setattr(noise, "stochastic_critical_learning_rate", lambda *args, form, **kw: other(*args, **kw))
    noise.exact_threshold.cache_clear()
    try:
        assert not noise.exact_threshold().holds
    finally:
        noise.exact_threshold.cache_clear()


@pytest.mark.parametrize(("ratio", "holds"), [(1.08, True), (0.93, True), (1.12, False), (0.85, False)])
def test_the_delocalised_form_must_be_near_the_exact_one_at_every_batch_size(monkeypatch, ratio, holds):
    def thresholds(name, form):
        return np.array([[1.0, 1.0, 1.0, 1.0 if form == "exact" else ratio]] * 5)

    monkeypatch.setattr(edge, "_thresholds", thresholds)
    assert edge.near_one("flat kernel")().holds == holds
