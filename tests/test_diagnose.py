"""`diagnose` against gradient descent and Taylor models written out, in float64: every number; and what it says."""

import dataclasses

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import nqm_tools as nqm
from nqm_tools import _gates, _validity, diagnose

N, N_TEST, D, M, STEPS = 5, 3, 3, 24, 20
RATIOS = (0.5, 1.2)
CLOSE = {"rtol": 1e-8, "atol": 1e-12}


def tanh_net(p, x):
    return jnp.tanh(x @ p["a"]) @ p["b"]


def problem(outputs=1):
    rng = np.random.default_rng(0)
    params = {"a": rng.standard_normal((D, M)) / 2, "b": rng.standard_normal((M, outputs)) / 8}
    x, y = rng.standard_normal((N + N_TEST, D)), np.sign(rng.standard_normal((N + N_TEST, outputs)))
    return jax.tree.map(jnp.asarray, params), nqm.Data("own", x[:N], y[:N], x[N:], y[N:])


@pytest.fixture(scope="module")
def found():
    with jax.enable_x64(True):
        params, data = problem()
        return nqm.diagnose(tanh_net, data, params, ratios=RATIOS, steps=STEPS)


class ByHand:
    """The three models of flat weights on training and test inputs, from dense derivatives; all arrays NumPy's."""

    def __init__(self):
        params, self.data = problem()
        self.w0, unravel = ravel_pytree(params)
        inputs = jnp.concatenate([self.data.x_train, self.data.x_test])
        self.network = jax.jit(lambda w: tanh_net(unravel(w), inputs)[:, 0])
        self.jacobian = jax.jit(jax.jacobian(self.network))
        self.hessian = np.asarray(jax.jit(jax.hessian(self.network))(self.w0))
        self.w0 = np.asarray(self.w0)
        self.f0, self.J0 = np.asarray(self.network(self.w0)), np.asarray(self.jacobian(self.w0))
        self.y = np.concatenate([self.data.y_train, self.data.y_test])[:, 0]
        self.K0 = self.J0[:N] @ self.J0[:N].T
        self.critical = N / np.linalg.eigvalsh(self.K0)[-1]

    def outputs(self, model, w):
        d = w - self.w0
        if model == "f":
            return np.asarray(self.network(w))
        return self.f0 + self.J0 @ d + (np.einsum("i,nij,j->n", d, self.hessian, d) / 2 if model == "f_quad" else 0)

    def gradients(self, model, w):
        if model == "f":
            return np.asarray(self.jacobian(w))
        return self.J0 + (self.hessian @ (w - self.w0) if model == "f_quad" else 0)

    def weights(self, model, rate, momentum=0.0):
        """Of every step of heavy-ball gradient descent on the mean squared error."""
        path, v = [self.w0], 0.0
        for _ in range(STEPS):
            w = path[-1]
            residual = self.outputs(model, w)[:N] - self.y[:N]
            v = momentum * v - rate * 2 / N * residual @ self.gradients(model, w)[:N]
            path.append(w + v)
        return path

    def losses(self, model, path, rows):
        return np.array([np.mean((self.outputs(model, w)[rows] - self.y[rows]) ** 2) for w in path])

    def missed(self, model, w, rows=slice(0, N)):
        f = self.outputs("f", w)[rows]
        return np.linalg.norm(f - self.outputs(model, w)[rows]) / np.linalg.norm(f - self.f0[rows])


@pytest.fixture(scope="module")
def by_hand():
    with jax.enable_x64(True):
        yield ByHand()


TRAIN, TEST = slice(0, N), slice(N, None)


def test_the_numbers_of_the_start(found, by_hand):
    values = found.about.set_index("quantity")["value"]
    assert values[["parameters", "outputs", "n_train", "n_test"]].tolist() == [D * M + M, 1, N, N_TEST]
    eigenvalues = np.linalg.eigvalsh(by_hand.K0)[::-1]
    np.testing.assert_allclose([values[f"lambda_{i}"] for i in range(1, 6)], eigenvalues, **CLOSE)
    np.testing.assert_allclose(values["critical_learning_rate"], by_hand.critical, **CLOSE)
    np.testing.assert_allclose(found.critical, by_hand.critical, **CLOSE)
    residual = by_hand.f0[:N] - by_hand.y[:N]
    gauss_newton = 2 / N * by_hand.J0[:N].T @ by_hand.J0[:N]
    hessian = gauss_newton + 2 / N * np.einsum("n,nij->ij", residual, by_hand.hessian[:N])
    sharpest = np.linalg.eigvalsh(hessian)[-1]
    np.testing.assert_allclose(values["gauss_newton_sharpness"], np.linalg.eigvalsh(gauss_newton)[-1], **CLOSE)
    np.testing.assert_allclose(values["sharpness"], sharpest, **CLOSE)
    apart = sharpest / np.linalg.eigvalsh(gauss_newton)[-1]
    np.testing.assert_allclose(values["sharpness_over_gauss_newton"], apart, **CLOSE)
    np.testing.assert_allclose(values["hessian_trace"], np.trace(hessian), **CLOSE)


@pytest.mark.parametrize("model", ["f", "f_lin", "f_quad"])
def test_the_runs_are_gradient_descent_on_each_model(found, by_hand, model):
    for ratio in RATIOS:
        path = by_hand.weights(model, ratio * by_hand.critical)
        losses, test_losses = (by_hand.losses(model, path, rows) for rows in (TRAIN, TEST))
        curve = found.curves.query("model == @model and ratio == @ratio")
        np.testing.assert_allclose(curve["train_loss"], losses, **CLOSE)
        np.testing.assert_allclose(curve["test_loss"], test_losses, **CLOSE)
        (run,) = found.runs.query("model == @model and ratio == @ratio").to_dict("records")
        assert run["regime"] == nqm.regime(losses)
        np.testing.assert_allclose(run["learning_rate"], ratio * by_hand.critical, **CLOSE)
        expected = [losses[0], losses.max(), losses[-1]]
        np.testing.assert_allclose([run[n] for n in ("first_loss", "peak_loss", "final_loss")], expected, **CLOSE)
        np.testing.assert_allclose(run["lambda_1_start"], np.linalg.eigvalsh(by_hand.K0)[-1], **CLOSE)
        J = by_hand.gradients(model, path[-1])[:N]
        if run["regime"] != "divergent":
            np.testing.assert_allclose(run["lambda_1_end"], np.linalg.eigvalsh(J @ J.T)[-1], **CLOSE)
            np.testing.assert_allclose(run["best_test_loss"], test_losses.min(), **CLOSE)
            assert run["best_step"] == test_losses.argmin()
        else:
            assert np.isnan(run["best_test_loss"])


def test_what_the_taylor_models_miss_is_by_their_own_polynomials(found, by_hand):
    for ratio in RATIOS:
        path = by_hand.weights("f", ratio * by_hand.critical)
        curve = found.curves.query("model == 'f' and ratio == @ratio")
        distances = np.array([np.linalg.norm(w - by_hand.w0) for w in path])
        np.testing.assert_allclose(curve["distance"], distances, **CLOSE)
        for model in ("f_lin", "f_quad"):
            for inputs, rows in (("training", TRAIN), ("test", TEST)):
                suffix = "_test" if inputs == "test" else ""
                missed = np.array([0.0] + [by_hand.missed(model, w, rows) for w in path[1:]])
                np.testing.assert_allclose(curve[f"missed_by_{model}{suffix}"], missed, rtol=1e-8, atol=1e-10)
                wanted = f"model == {model!r} and inputs == {inputs!r} and ratio == {ratio}"
                (row,) = found.passed.query(wanted).to_dict("records")
                np.testing.assert_allclose([row["largest"], row["at_the_end"]], [missed.max(), missed[-1]], rtol=1e-8)
                beyond = np.flatnonzero(missed > 0.1)
                first = [beyond[0], distances[beyond[0]]] if len(beyond) else [np.nan, np.nan]
                np.testing.assert_allclose([row["step"], row["distance"]], first, **CLOSE)
    assert found.passed["step"].notna().sum() > 2, "the case shows little"


def test_the_radius_is_where_a_tenth_is_missed_along_directions(found, by_hand):
    assert len(found.radius) == 2 * _validity.DIRECTIONS
    for row in found.radius.itertuples():
        rng = np.random.default_rng(row.direction)
        direction = np.concatenate([rng.standard_normal((D, M)).ravel(), rng.standard_normal((M, 1)).ravel()])
        direction /= np.linalg.norm(direction)
        distances = _validity.DISTANCES * np.linalg.norm(by_hand.w0)
        shares = np.array([by_hand.missed(row.model, by_hand.w0 + r * direction) for r in distances])
        i = np.flatnonzero(shares > 0.1)[0]
        between = np.interp(np.log(0.1), np.log(shares[i - 1 : i + 1]), np.log(distances[i - 1 : i + 1]))
        np.testing.assert_allclose(row.distance, np.exp(between), rtol=1e-8)
        np.testing.assert_allclose(row.relative, np.exp(between) / np.linalg.norm(by_hand.w0), rtol=1e-8)


def test_the_forecast_is_the_leading_order_of_notebook_04(found, by_hand):
    _, vectors = np.linalg.eigh(by_hand.K0)
    p = vectors[:, -1]
    q, H = p @ by_hand.J0[:N], np.einsum("n,nij->ij", p, by_hand.hessian[:N])
    across = H @ q - q * (q @ H @ q) / (q @ q)
    a = across @ across / (q @ q)
    (row,) = found.forecast.query("model == 'f'").to_dict("records")
    rate = 2 / N * 1.2 * by_hand.critical  # for half_sum
    delta = rate * (q @ q) - 2
    np.testing.assert_allclose(row["delta"], delta, **CLOSE)
    np.testing.assert_allclose(row["peak_forecast"], 2 / N * delta**2 / (4 * rate**2 * a), **CLOSE)
    np.testing.assert_allclose(row["end_forecast"], 2 - delta, **CLOSE)
    path = by_hand.weights("f", 1.2 * by_hand.critical)
    J = by_hand.gradients("f", path[-1])[:N]
    np.testing.assert_allclose(row["end"], rate * np.linalg.eigvalsh(J @ J.T)[-1], **CLOSE)
    np.testing.assert_allclose(row["peak_loss"], by_hand.losses("f", path, TRAIN).max(), **CLOSE)


def test_the_largest_rates_lie_between_a_run_that_converges_and_one_that_does_not(found, by_hand):
    assert found.rates["model"].tolist() == ["f", "f_lin", "f_quad"]
    for row in found.rates.itertuples():
        assert row.does_not / row.converges <= 1.1 + 1e-12
        for rate, diverges in ((row.converges, False), (row.does_not, True)):
            with np.errstate(over="ignore", invalid="ignore"):
                losses = by_hand.losses(row.model, by_hand.weights(row.model, rate), TRAIN)
            assert (nqm.regime(losses) == "divergent") == diverges
        np.testing.assert_allclose(row.converges_ratio, row.converges / by_hand.critical, **CLOSE)


def test_its_text_and_figure_say_what_the_frames_say(found):
    text = str(found)
    regimes = found.runs.pivot(index="model", columns="ratio", values="regime")
    assert f"Critical learning rate: {found.critical:.3g}" in text
    assert "Does it catapult? " + ("Yes, at 1.2." if regimes.loc["f", 1.2] == "catapult" else "Not") in text
    assert f"{D * M + M} parameters, 1 output, {N} training and {N_TEST} test examples, loss 'mse'" in text
    assert len(text.splitlines()) < 45
    assert max(map(len, text.splitlines())) <= 140
    axes = found.plot()
    assert axes.shape == (2, 2)
    assert [len(ax.lines) > 0 for ax in axes.ravel()] == [True] * 4
    plt.close("all")


def test_a_rate_that_converges_beyond_one_that_does_not_is_said(found):
    rates = found.rates.assign(does_not_ratio=0.3, converges_ratio=0.2)
    fine = found.runs["regime"] != "divergent"
    beyond = found.runs[fine & (found.runs["model"] == "f")]["ratio"]
    assert len(beyond)
    text = str(dataclasses.replace(found, rates=rates))
    assert f"f diverges at about 0.3, but not at {beyond.min():g}" in text
    assert "f diverges from" not in text
    assert "f diverges from" in str(dataclasses.replace(found, rates=found.rates.assign(does_not_ratio=50.0)))


@pytest.mark.parametrize("times", [1, 3, 30])
def test_every_end_of_a_kernel_is_within_its_panel(found, times):
    """As with cross-entropy, where kernels grow tenfold."""
    grown = dataclasses.replace(found, runs=found.runs.assign(lambda_1_end=times * found.runs["lambda_1_end"]))
    ax = grown.plot()[1, 1]
    low, high = ax.get_ylim()
    ends = grown.runs[grown.runs["regime"] != "divergent"]
    ratios = (ends["lambda_1_end"] / ends["lambda_1_start"]).dropna()
    assert len(ratios)
    assert ratios.between(low, high).all()
    plt.close("all")


@pytest.mark.parametrize(("loss", "known"), [("mse", True), ("cross_entropy", False)])
def test_what_a_kernel_must_fall_below_is_known_for_constant_curvatures(found, loss, known):
    legend = dataclasses.replace(found, loss=loss).plot()[1, 1].get_legend()
    assert (r"$\eta$ is critical" in [text.get_text() for text in legend.get_texts()]) is known
    plt.close("all")


@pytest.mark.parametrize(("flipped", "shown"), [(0.0, False), (0.1, True)])
def test_gates_that_never_flip_are_not_in_the_legend(found, flipped, shown):
    """As the guard of a normalisation against a negative variance."""
    axes = dataclasses.replace(found, curves=found.curves.assign(flipped_gates=flipped)).plot()
    assert ("flipped gates" in [text.get_text() for text in axes[1, 0].get_legend().get_texts()]) is shown
    plt.close("all")


def test_what_it_will_cost_is_said_before_the_runs(found, capsys):
    with jax.enable_x64(True):
        params, data = problem()
        nqm.diagnose(tanh_net, data, params, ratios=(1.2,), steps=STEPS)
    said = capsys.readouterr()
    assert said.out == ""
    runs = 3 * (1 + diagnose_module().SEARCH)
    assert (
        f"{D * M + M} parameters, 1 output, 5 examples; {runs * (STEPS + 1):,} evaluations will take about" in said.err
    )


def diagnose_module():
    import sys

    return sys.modules["nqm_tools.diagnose"]


def test_momentum_and_other_losses_have_their_own_critical_rates(by_hand):
    with jax.enable_x64(True):
        params, data = problem()
        heavy = nqm.diagnose(tanh_net, data, params, ratios=(0.5,), steps=STEPS, momentum=0.4)
        np.testing.assert_allclose(heavy.critical, 1.4 * by_hand.critical, **CLOSE)
        losses = by_hand.losses("f", by_hand.weights("f", 0.7 * by_hand.critical, 0.4), TRAIN)
        np.testing.assert_allclose(heavy.curves.query("model == 'f'")["train_loss"], losses, **CLOSE)
        assert heavy.forecast.empty
        logistic = nqm.diagnose(tanh_net, data, params, ratios=(0.5,), steps=5, loss="logistic")
        curvature = 1 / (2 + np.exp(by_hand.f0[:N]) + np.exp(-by_hand.f0[:N])) / N
        gauss_newton = by_hand.J0[:N].T @ (curvature[:, None] * by_hand.J0[:N])
        np.testing.assert_allclose(logistic.critical, 2 / np.linalg.eigvalsh(gauss_newton)[-1], **CLOSE)


def relu_net(p, x):
    return jax.nn.relu(x @ p["a"]) @ p["b"]


def test_flipped_gates_are_counted_for_any_relu_and_for_nothing_smooth():
    params, data = problem()
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    moved = jax.tree.map(lambda leaf: -leaf, params)
    x = jnp.asarray(data.x_train, jnp.float32)
    assert float(_gates.flipped(relu_net, params, moved, x)) == 1
    assert float(_gates.flipped(jax.jit(relu_net), params, params, x)) == 0
    leaky = jax.checkpoint(lambda p, x: jax.nn.leaky_relu(x @ p["a"]) @ p["b"])
    assert float(_gates.flipped(leaky, params, moved, x)) == 1
    for smooth in (tanh_net, lambda p, x: jax.nn.softplus(x @ p["a"]) @ p["b"]):
        assert _gates.flipped(smooth, params, moved, x) is None
    with pytest.raises(ValueError, match="no such gate was found"):
        nqm.train(tanh_net, data, params=params, learning_rate=0.1, steps=1, record="flipped_gates")


def coupled(p, x):
    h = (x - x.mean(axis=0)).astype(jnp.bfloat16).astype(x.dtype)
    return jax.nn.relu(h @ p["a"]) @ p["b"] + 0 * p["mean"]


def test_what_a_model_does_is_said_in_its_place():
    params, data = problem()
    alone = nqm.Data("own", data.x_train, data.y_train)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params) | {"mean": jnp.zeros((), jnp.float32)}
    start = diagnose_module()._start(coupled, alone, params, 5, "mse", 0.0)
    notes = " ".join(diagnose_module()._notes(start))
    assert "f couples its examples" in notes
    assert "f leaves float32 for bfloat16" in notes
    assert "params['mean'] is named like a statistic" in notes
    assert "params['mean']: f does not depend on it at the start" in notes
    assert "there are no test examples" in notes


@jax.custom_vjp
def backwards_only(h):
    return jnp.tanh(h)


backwards_only.defvjp(lambda h: (jnp.tanh(h), h), lambda h, g: (g * (1 - jnp.tanh(h) ** 2),))


def test_what_cannot_be_computed_is_said_and_the_rest_is():
    params, data = problem()
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    found = nqm.diagnose(lambda p, x: backwards_only(x @ p["a"]) @ p["b"], data, params, ratios=(0.5,), steps=5)
    assert found.runs["model"].tolist() == ["f"]
    assert "f_quad cannot be computed: f has a jax.custom_vjp in it" in " ".join(found.notes)
    assert "Is its quadratic model right? It cannot be computed" in str(found)
    found.plot()
    plt.close("all")
    still = nqm.diagnose(lambda p, x: 0 * tanh_net(p, x), data, params, steps=5)
    assert "nothing moves at the start" in str(still)
    with pytest.raises(ValueError, match="this diagnosis has no runs"):
        still.plot()


def test_powers_of_the_width_are_fitted_with_their_interval():
    def make(m):
        rng = np.random.default_rng(m)
        params = {"a": rng.standard_normal((D, m)), "b": rng.standard_normal((m, 1))}
        return lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"] / jnp.sqrt(m), jax.tree.map(jnp.asarray, params)

    params, data = problem()
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    found = nqm.diagnose(tanh_net, data, params, ratios=(0.5,), steps=10, widths=(make, (8, 64)))
    row = found.exponents.query("quantity == 'missed by f_lin at the end'").iloc[0]
    assert row["low"] == -np.inf, "two widths have no interval"
    assert row["exponent"] < -0.2
    assert f"missed by f_lin at the end, at 0.5: {row['exponent']:+.2f}" in str(found)
    found.plot()
    plt.close("all")
    for wrong, error in (((make, (8,)), ValueError), (make, TypeError), ((make, (0, 8)), ValueError)):
        with pytest.raises(error, match="widths"):
            nqm.diagnose(tanh_net, data, params, ratios=(0.5,), steps=1, widths=wrong)


def test_exponents_are_least_squares_with_students_interval():
    import pandas as pd
    from scipy import stats

    widths, noise = np.array([8, 16, 32, 64]), np.array([0.1, -0.2, 0.15, -0.05])
    values = 3 * widths**-0.7 * np.exp(noise)
    frame = pd.DataFrame({"width": widths, "quantity": "q", "ratio": 1.1, "value": values})
    (row,) = _validity.exponents(frame).to_dict("records")
    X = np.stack([np.ones(4), np.log(widths)], axis=1)
    solution, rest, _, _ = np.linalg.lstsq(X, np.log(values), rcond=None)
    half = stats.t.ppf(0.975, 2) * np.sqrt(rest[0] / 2 * np.linalg.inv(X.T @ X)[1, 1])
    np.testing.assert_allclose([row["exponent"], row["low"], row["high"]], solution[1] + half * np.array([0, -1, 1]))


def test_ratios_are_refused_in_the_users_words():
    params, data = problem()
    with pytest.raises(ValueError, match="each of ratios must be a positive finite number; got -1"):
        nqm.diagnose(tanh_net, data, params, ratios=(-1,))
    assert diagnose is nqm.diagnose
