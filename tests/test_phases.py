"""The phases of early training against gradient descent written out, and their exact one-example values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import nqm_tools as nqm
from nqm_tools import dynamics, sweeps
from nqm_tools.dynamics import OneExample, Signed
from nqm_tools.training import Method, _phases, initial_sharpness, phases, prepare

# Phases


def written_out(net, params, x, y, order, grid, steps):
    """Of runs with dense derivatives: the sharpness, and losses, sharpness and losses on the segment, a list a run."""
    flat, unravel = ravel_pytree(params)

    def outputs(w):
        return net(unravel(w), x).ravel()

    first, jacobian, hessian = outputs(flat), jax.jacobian(outputs)(flat), jax.hessian(outputs)(flat)

    def model(w):
        d = w - flat
        return outputs(w) if order is None else first + jacobian @ d + jnp.einsum("nij,i,j->n", hessian, d, d) / 2

    def loss(w):
        return jnp.sum((model(w) - y.ravel()) ** 2) / len(x)

    loss, gradient, curvature = jax.jit(loss), jax.jit(jax.grad(loss)), jax.jit(jax.hessian(loss))
    top = np.linalg.eigvalsh(curvature(flat))[-1]
    columns = [], [], []
    for c in grid:
        run, w = ([], [], []), flat
        for _ in range(steps + 1):
            bent = np.asarray(curvature(w))
            run[0].append(float(loss(w)))
            run[1].append(np.linalg.eigvalsh(bent)[-1] if np.isfinite(bent).all() else np.inf)
            run[2].append(max(float(loss(flat + share * (w - flat))) for share in np.arange(1, 21) / 20))
            w = w - c / top * gradient(w)
        for column, values in zip(columns, run, strict=True):
            column.append(np.nan_to_num(values, nan=np.inf))
    return top, columns


@pytest.mark.parametrize("name", ["f", "f_quad"])
def test_phase_constants_are_those_of_gradient_descent_written_out(x64, name):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((6, 3)), rng.standard_normal((6, 2)) / 2
    net = nqm.networks.deep_fc(10, depth=2, outputs=2, activation="tanh", readout_init="normal")
    params = net.init(jax.random.key(3), x.shape)
    model, data = (net if name == "f" else nqm.quadraticize(net, params)), nqm.Data("own", x, y, x[:2], y[:2])
    grid = [1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 8.0, 40.0]
    found = nqm.phase_constants(model, data, params, steps=5, grid=grid)
    top, columns = written_out(net, params, x, y, None if name == "f" else 2, grid, 5)
    c_loss, c_sharp, c_barrier, c_max = phases(grid, *columns)
    assert found.sharpness == pytest.approx(top, rel=1e-5)
    assert found.sharpness_error < 1e-3 * top
    np.testing.assert_allclose((found.c_loss, found.c_barrier, found.c_max), (c_loss, c_barrier, c_max), rtol=1e-4)
    assert found.c_sharp == pytest.approx(c_sharp, rel=1e-2)
    assert np.isfinite(c_loss)
    assert name == "f" or np.isfinite(c_max)
    problem = prepare(model, data, Method(1, record=()), params=params)
    assert initial_sharpness(problem) == pytest.approx((found.sharpness, found.sharpness_error))


def test_phases_are_where_something_first_exceeds():
    c = np.array([1.0, 2.0, 4.0, 8.0])
    flat = [[1.0, 1.0, 1.0]] * 4
    halves = [[1.0, 0.5], [1.0, 0.5], [1.0, 2.0], [1.0, 1e6]]
    assert phases(c, halves, flat, flat) == (pytest.approx(np.sqrt(8), rel=1e-4), np.inf, 4.0, 4.0)
    # A rise that is gone at the end counts, but on the segment only what leads to the end.
    spike = [[1.0, 0.5, 0.5], [1.0, 2.0, 0.5], [1.0, 3.0, 0.1], [1.0, 4.0, 0.5]]
    assert phases(c, spike, flat, spike)[0] == pytest.approx(np.sqrt(2), rel=1e-4)
    assert phases(c, spike, flat, spike)[2:] == (np.inf, np.inf)
    # The smallest c that does it already, and one that overflows.
    found = phases(c, spike, [[1.0, 2.0]] * 4, flat)
    assert found[1] == 1.0
    found = phases(c, spike, [[1.0, 0.9], [1.0, 0.9], [1.0, np.nan], [1.0, 9.0]], flat)
    assert found[1] == 4.0
    # Ten steps that overflow there rise no later than the first of them did.
    late = [[1.0, 0.5, 0.5], [1.0, 0.5, 0.5], [1.0, 2.0, np.inf], [1.0, 9.0, np.inf]]
    found = phases(c, late, late, flat)
    assert found[:2] == pytest.approx([np.sqrt(8)] * 2, rel=2e-3)
    assert found[3] == 2.0
    with pytest.raises(ValueError, match="the smallest c of the grid, 1, diverges already: give smaller ones"):
        phases(c, [[1.0, 1e6]] * 4, flat, flat)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ([2.0], "grid must hold two or more rising numbers"),
        ([2.0, 1.0], "grid must hold two or more rising numbers"),
        ([0.0, 1.0], "each entry of grid must be a positive finite number; got 0.0"),
    ],
)
def test_impossible_grids_are_refused(grid, message):
    data = nqm.datasets.single_example(3, seed=0)
    with pytest.raises(ValueError, match=message):
        nqm.phase_constants(nqm.networks.two_layer_fc(4), data, grid=grid)


def test_a_start_without_curvature_is_refused():
    data = nqm.Data("one", np.ones((1, 1)), np.ones((1, 1)))
    with pytest.raises(ValueError, match="the loss must have a positive curvature at the start; its sharpness is 0"):
        nqm.phase_constants(lambda w, x: 0 * w * x, data, jnp.ones(1))


# One example


def test_critical_constants_are_the_first_steps_of_the_map():
    rng = np.random.default_rng(0)
    rates = np.linspace(1e-3, 12, 6000)
    checked = [0, 0, 0]
    for _ in range(200):
        c, y, g = rng.uniform(0.001, 0.3), rng.uniform(-2, 2) * rng.integers(0, 2), rng.normal()
        kernel = 2 * np.sqrt(c) * abs(g) + rng.exponential(1) + 0.2
        found = dynamics.critical_constants(g, kernel, c, y)
        after = dynamics.one_example_step(OneExample(g, kernel), rates, c, y)

        def sharpness(prediction, kernel, c=c, y=y):
            state = Signed(np.sqrt(c) * (prediction - y), kernel)
            return dynamics.sharpness_from_state(state, np.sqrt(c) * y)

        start = sharpness(g, kernel)
        assert found.sharpness == pytest.approx(start, rel=1e-12)
        # At the root nothing changes; before it the loss falls, behind it it rises.
        rate = found.c_loss / start
        at = dynamics.one_example_step(OneExample(g, kernel), rate, c, y)
        assert (at.prediction - y) ** 2 == pytest.approx((g - y) ** 2, rel=1e-9)
        rises = (after.prediction - y) ** 2 > (g - y) ** 2
        if rate < 12:
            assert not rises[rates < rate * 0.999].any()
            assert rises[(rates > rate * 1.0001) & (rates < rate * 1.01)].all()
            checked[0] += 1
        sharper = sharpness(after.prediction, after.kernel) > start * (1 + 1e-9)
        if found.c_sharp == 0:
            assert sharper[0]
            checked[1] += 1
        elif found.c_sharp < 12 * start:
            rate = found.c_sharp / start
            assert not sharper[rates < rate * 0.999].any()
            assert sharper[(rates > rate * 1.001) & (rates < rate * 1.005)].all()
            checked[2] += 1
    assert min(checked) > 10


def test_critical_constants_are_their_series_at_large_widths():
    g, y, kernel = 0.6, -0.5, 1.3
    errors = []
    for c in (1e-3, 1e-4):
        found = dynamics.critical_constants(g, kernel, c, y)
        series = 2 + 4 * c / kernel**2 * (2 * (g - y) * g + (g - y) ** 2 / 2)
        errors.append(abs(found.c_loss - series))
        assert found.c_sharp == pytest.approx(1 + 1.5 * g / (g - y), abs=20 * c)
    assert 50 < errors[0] / errors[1] < 200
    arrays = dynamics.critical_constants(np.array([0.6, 0.7]), kernel, 1e-3, y)
    assert arrays.c_loss.shape == arrays.c_sharp.shape == (2,)
    assert arrays.c_sharp[0] == dynamics.critical_constants(0.6, kernel, 1e-3, y).c_sharp


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, 1.0, 0.0), "c must be positive; got 0.0"),
        ((0.0, 0.0, 1.0, 1.0), "kernel must be positive; got 0.0"),
        ((1.0, 0.1, 1.0), "kernel must be at least 2 sqrt"),
        ((1.0, 5.0, 1.0, 1.0), "prediction must be another number than y"),
    ],
)
def test_impossible_states_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        dynamics.critical_constants(*arguments)


def test_ten_steps_of_a_quadratic_model_are_foretold_by_the_first(monkeypatch):
    """Of one example, for ``0 < f/r <= 1``, to a part of the grid's step; larger rates than diverge are not tried."""
    net, data = nqm.networks.two_layer_fc(256), nqm.datasets.single_example(3, seed=0)
    params = net.init(jax.random.key(2), data.x_train.shape)
    prediction = net(params, data.x_train).item()
    kernel = nqm.empirical_ntk(net, params, data.x_train).item()
    exact = dynamics.critical_constants(prediction, kernel, dynamics.coupling(data.x_train, 256))
    tried, train_rates = [], _phases.train_rates
    monkeypatch.setattr(
        _phases, "train_rates", lambda p, rates, *a, **k: tried.extend(rates) or train_rates(p, rates, *a, **k)
    )
    grid = [1.8, 1.9, 2.1, 2.4, 2.6, 3.5, 4.5, 5.5, 6.0, 7.0]
    found = nqm.phase_constants(nqm.quadraticize(net, params), data, params, grid=grid)
    assert len(tried) == 8
    assert found.c_max == 3.5
    assert found.c_loss == pytest.approx(exact.c_loss, rel=0.02)
    assert found.c_sharp == pytest.approx(exact.c_sharp, rel=0.03)
    assert found.sharpness == pytest.approx(2 * exact.sharpness, rel=1e-4), "of mse"


# Sweeps


@pytest.fixture(scope="module")
def plain():
    data = {"name": "digits", "classes": [0, 1, 2], "n_train": 10, "n_test": 0}
    network = {"name": "deep_fc", "width": 8, "depth": 2, "outputs": 3, "readout_init": "normal"}
    return {"data": data, "network": network, "models": ["f"], "steps": 3, "record": ["sharpness"]}


def test_rates_in_units_of_the_sharpness_have_a_ratio_of_their_own(tmp_path, plain):
    sweep = sweeps.Sweep(**plain, learning_rates=[0.5, 3.0], unit="sharpness", seeds=2)
    frame = sweeps.run(sweep, tmp_path, say=lambda line: None)
    assert frame["sharpness_ratio"].tolist() == [0.5, 3.0] * 2
    np.testing.assert_allclose(frame["learning_rate"] * frame["initial_sharpness"], frame["sharpness_ratio"], rtol=1e-6)
    assert not {"learning_rate_ratio", "critical_learning_rate"} & set(frame)
    assert (frame["initial_sharpness_error"] < 2e-3 * frame["initial_sharpness"]).all()
    first = sweeps.load_curves(tmp_path).query("step == 0")
    np.testing.assert_allclose(first["sharpness"], first["initial_sharpness"], rtol=1e-5)
    data = nqm.datasets.load("digits", classes=(0, 1, 2), n_train=10, n_test=0, seed=1)
    net = nqm.networks.deep_fc(8, depth=2, outputs=3, readout_init="normal")
    params = net.init(nqm._random.random_key(1), data.x_train.shape)
    exact = nqm.sharpness(net, params, data.x_train, data.y_train)
    assert frame.query("seed == 1")["initial_sharpness"].iloc[0] == pytest.approx(exact, rel=1e-4)


def test_a_failed_run_has_its_ratio(plain):
    from nqm_tools.sweeps._compute import failed_rows

    (group,) = sweeps.Sweep(**plain, learning_rates=[0.5], unit="sharpness").groups()
    assert failed_rows(group, ValueError("no"))[0]["sharpness_ratio"] == 0.5


def test_units_and_options_that_are_defaults_leave_keys_as_they_were(plain):
    def keys(network=None, **settings):
        network = plain["network"] | (network or {})
        return sweeps.Sweep(**plain | {"network": network}, learning_rates=[1.0], **settings).groups()[0].keys

    assert keys({"parameterization": "ntk", "hidden_variance": 1}) == keys()
    changes = ({"parameterization": "standard"}, {"hidden_variance": 2}, {"readout_init": "zero"})
    found = {keys(), keys(unit="sharpness"), *(keys(change) for change in changes)}
    assert len(found) == 5
    leaky = {"activation": "leaky_relu", "slope": 0.5}
    assert keys(leaky) != keys(leaky | {"slope": 0.25})


def test_a_sweep_file_may_give_its_rates_in_units_of_the_sharpness(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(
        '[data]\nname = "single_example"\ndimension = 3\n[network]\nname = "two_layer_fc"\nwidth = 4\n'
        "[learning_rates]\nsharpness = [1.0, 2.5]\n[training]\nsteps = 3\n"
    )
    sweep = sweeps.Sweep.from_toml(path)
    assert (sweep.unit, sweep.learning_rates) == ("sharpness", (1.0, 2.5))
