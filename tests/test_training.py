"""The trainer against gradient descent written out by hand, its records, its stops, and what it refuses."""

import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from covering import triples

import nqm_tools as nqm
from nqm_tools import networks
from nqm_tools._program import compilations
from nqm_tools.training import _loop


def problem(outputs=1, n=8, n_test=4, width=6, seed=0, **options):
    net = networks.two_layer_fc(width, outputs=outputs, **options)
    keys = jax.random.split(jax.random.key(seed), 5)
    x, x_test = (jax.random.normal(key, (m, 3)) for key, m in zip(keys, (n, n_test), strict=False))
    y, y_test = (jnp.sign(jax.random.normal(key, (m, outputs))) for key, m in zip(keys[2:], (n, n_test), strict=False))
    return net, net.init(keys[4], x.shape), nqm.Data("own", x, y, x_test, y_test, {"source": "test"})


def models(net, params):
    return {"f": net, "f_lin": nqm.linearize(net, params), "f_quad": nqm.quadraticize(net, params)}


def by_hand(f, params, data, rate, steps, *, momentum=0.0, loss="mse", batches=None):
    """Parameters of every step, by jax.grad on the loss as it is defined."""
    x, y = jnp.asarray(data.x_train), jnp.asarray(data.y_train)

    @jax.jit
    def gradient(params, rows):
        def value(p):
            squares = jnp.sum((f(p, x[rows]) - y[rows]) ** 2)
            return squares / 2 if loss == "half_sum" else squares / len(rows)

        return jax.grad(value)(params)

    velocity = jax.tree.map(jnp.zeros_like, params)
    path = [params]
    for step in range(steps):
        rows = jnp.arange(len(x)) if batches is None else batches[step]
        slope = gradient(params, rows)
        velocity = jax.tree.map(lambda v, g: momentum * v - rate * g, velocity, slope)
        params = jax.tree.map(jnp.add, params, velocity)
        path.append(params)
    return path


def mse(f, params, x, y):
    return float(jnp.sum((f(params, x) - y) ** 2) / len(x))


@pytest.mark.parametrize(
    ("model", "outputs", "momentum", "loss"), triples(("f", "f_lin", "f_quad"), (1, 2), (0.0, 0.6), ("mse", "half_sum"))
)
def test_training_is_gradient_descent(x64, model, outputs, momentum, loss):
    net, params, data = problem(outputs)
    chosen = models(net, params)[model]
    rate = 0.3 if loss == "mse" else 0.03
    path = by_hand(chosen, params, data, rate, 12, momentum=momentum, loss=loss)
    run = nqm.train(
        chosen, data, learning_rate=rate, steps=12, momentum=momentum, loss=loss, params=params, record_every=5
    )
    for a, b in zip(jax.tree.leaves(run.params), jax.tree.leaves(path[-1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    factor = len(data.x_train) / 2 if loss == "half_sum" else 1.0
    expected = [factor * mse(chosen, p, data.x_train, data.y_train) for p in path]
    np.testing.assert_allclose(run.losses, expected, rtol=1e-10)
    assert run.frame["step"].tolist() == [0, 5, 10, 12]
    np.testing.assert_allclose(run.frame["train_loss"], np.array(expected)[[0, 5, 10, 12]], rtol=1e-10)
    factor = len(data.x_test) / 2 if loss == "half_sum" else 1.0
    tested = [factor * mse(chosen, path[step], data.x_test, data.y_test) for step in (0, 5, 10, 12)]
    np.testing.assert_allclose(run.frame["test_loss"], tested, rtol=1e-10)
    flat = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(path[step])]) for step in (0, 5, 10, 12)]
    np.testing.assert_allclose(run.frame["distance"], [np.linalg.norm(w - flat[0]) for w in flat], rtol=1e-10)
    assert set(run.frame["model"]) == {model}
    assert run.regime == nqm.regime(expected)


@pytest.mark.parametrize("batch_size", [3, 8])
@pytest.mark.parametrize("loss", ["mse", "half_sum"])
def test_mini_batches_are_shuffled_epochs_and_their_loss_is_the_batchs(x64, batch_size, loss):
    net, params, data = problem()
    steps, a_epoch, key = 7, 8 // batch_size, jax.random.key(5)
    batches = [_loop.batch_rows(key, t, 8, batch_size) for t in range(steps)]
    for epoch in range(steps // a_epoch):
        rows = np.concatenate(batches[epoch * a_epoch : (epoch + 1) * a_epoch])
        assert len(set(rows.tolist())) == a_epoch * batch_size
    assert len({tuple(np.asarray(rows).tolist()) for rows in batches}) > 1
    path = by_hand(net, params, data, 0.05, steps, momentum=0.5, loss=loss, batches=batches)
    run = nqm.train(
        net,
        data,
        learning_rate=0.05,
        steps=steps,
        batch_size=batch_size,
        momentum=0.5,
        loss=loss,
        params=params,
        seed=5,
    )
    for a, b in zip(jax.tree.leaves(run.params), jax.tree.leaves(path[-1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    factor = 4.0 if loss == "half_sum" else 1.0
    np.testing.assert_allclose(run.losses, [factor * mse(net, p, data.x_train, data.y_train) for p in path], rtol=1e-10)


def test_the_seed_decides_the_order_of_mini_batches():
    net, params, data = problem()
    runs = [
        nqm.train(net, data, learning_rate=0.1, steps=5, batch_size=2, params=params, seed=seed) for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(runs[0].losses, runs[1].losses)
    assert not np.array_equal(runs[0].losses, runs[2].losses)


def test_half_sum_and_mse_are_one_dynamics_in_other_units(x64):
    net, params, data = problem()
    runs = [
        nqm.train(net, data, learning_rate=rate, steps=10, loss=loss, params=params)
        for loss, rate in (("mse", 0.2), ("half_sum", 0.2 * 2 / 8))
    ]
    np.testing.assert_allclose(runs[1].losses, 4 * runs[0].losses, rtol=1e-12)


def test_three_models_agree_while_the_parameters_hardly_move(x64):
    net, params, data = problem(width=64)
    runs = [nqm.train(m, data, learning_rate=1e-6, steps=3, params=params) for m in models(net, params).values()]
    np.testing.assert_allclose(runs[1].losses, runs[0].losses, rtol=1e-9)
    np.testing.assert_allclose(runs[2].losses, runs[0].losses, rtol=1e-9)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("model", ["f", "f_lin", "f_quad"])
def test_recorded_eigenvalues_are_those_of_the_kernel_at_that_step(x64, model, outputs):
    net, params, data = problem(outputs)
    chosen = models(net, params)[model]
    run = nqm.train(
        chosen, data, learning_rate=0.2, steps=4, params=params, record=("lambda_2", "lambda_1"), record_every=2
    )
    path = by_hand(chosen, params, data, 0.2, 4)
    for row, step in enumerate((0, 2, 4)):
        values, _ = nqm.top_eigenpairs(chosen, path[step], data.x_train, 2)
        np.testing.assert_allclose(run.frame.loc[row, ["lambda_1", "lambda_2"]].astype(float), values, rtol=1e-9)
    assert "test_loss" not in run.frame


def test_accuracy_counts_right_signs_or_largest_outputs():
    x = np.array([[1.0], [2.0], [-1.0], [3.0]])
    data = nqm.Data("own", x, np.sign(x), x, np.array([1.0, -1.0, -1.0, 1.0]))
    run = nqm.train(lambda w, x: w * x, data, learning_rate=0.01, steps=1, params=jnp.array([1.0]))
    assert run.frame["test_accuracy"].tolist() == [0.75, 0.75]
    onehot = np.eye(2)[[0, 0, 1, 1]]
    data = nqm.Data("own", x, onehot, x, onehot)
    run = nqm.train(lambda w, x: x * w, data, learning_rate=1e-3, steps=1, params=jnp.array([1.0, -1.0]))
    assert run.frame["test_accuracy"].tolist() == [0.75, 0.75]


def test_data_without_a_test_set_gives_nan_columns():
    net, params, data = problem()
    run = nqm.train(
        net, nqm.Data("own", data.x_train, data.y_train), learning_rate=0.1, steps=2, params=params, record_every=1
    )
    assert run.frame["test_loss"].isna().all()
    assert np.isnan(run.best_test_loss)


def test_an_integer_multiple_of_steps_is_recorded_once_at_the_end():
    net, params, data = problem()
    run = nqm.train(net, data, learning_rate=0.1, steps=6, params=params, record_every=3)
    assert run.frame["step"].tolist() == [0, 3, 6]
    assert len(run.losses) == 7


def test_regimes_of_a_wide_network_follow_its_critical_rate():
    net, params, data = problem(width=2000, n=4)
    eta = nqm.critical_learning_rate(nqm.empirical_ntk(net, params, data.x_train))
    found = {
        (name, ratio): nqm.train(model, data, learning_rate=ratio * eta, steps=400, params=params).regime
        for name, model in models(net, params).items()
        for ratio in (0.8, 1.3, 2.6)
    }
    assert found["f_lin", 0.8] == found["f_quad", 0.8] == found["f", 0.8] == "monotone"
    assert found["f_quad", 1.3] == found["f", 1.3] == "catapult"
    assert found["f_lin", 1.3] == found["f_lin", 2.6] == found["f_quad", 2.6] == "divergent"


def test_a_diverged_run_stops_says_so_and_has_no_best_test_loss():
    net, params, data = problem()
    run = nqm.train(nqm.linearize(net, params), data, learning_rate=50.0, steps=5000, params=params, record_every=7)
    assert run.regime == "divergent"
    assert len(run.losses) < 200
    assert not np.isfinite(run.losses[-1])
    assert np.isfinite(run.losses[:-1]).all()
    last = len(run.losses) - 1
    assert run.stopped == f"diverged at step {last}: the training loss is inf"
    assert run.frame["step"].iloc[-1] == last
    assert np.isnan(run.best_test_loss)
    assert np.isnan(run.best_step)
    assert run.peak_loss == np.inf
    assert "diverged" in repr(run)


def test_a_second_run_with_the_same_shapes_compiles_nothing():
    net, params, data = problem(width=7)
    nqm.train(nqm.quadraticize(net, params), data, learning_rate=0.1, steps=5)
    before = compilations()
    other_params = networks.two_layer_fc(7).init(jax.random.key(99), (1, 3))
    _, _, other_data = problem(width=7, seed=3)
    again = nqm.quadraticize(networks.two_layer_fc(7), other_params)
    nqm.train(again, other_data, learning_rate=0.7, steps=300, record_every=9, seed=4)
    assert compilations() == before
    nqm.train(again, other_data, learning_rate=0.7, steps=5, momentum=0.5)
    assert compilations() == before + 1
    nqm.train(again, other_data, learning_rate=0.7, steps=5, momentum=0.9)
    assert compilations() == before + 1


def test_nothing_big_is_a_constant_of_the_compiled_loop(monkeypatch):
    """Closing over parameters or data makes XLA fold their products at compile time, for minutes."""
    net, params, data = problem(width=500, n=40)
    seen = {}

    def capture(program, *args):
        leaves, tree = jax.tree.flatten(args)
        found = program._program(leaves, tree)
        seen["text"] = found.run.lower(found.constants, *leaves).as_text()
        return steps(program, *args)

    steps = _loop._steps
    monkeypatch.setattr(_loop, "_steps", capture)
    nqm.train(nqm.quadraticize(net, params), data, learning_rate=0.1, steps=1, record=("test_loss", "lambda_1"))
    constants = [line for line in seen["text"].splitlines() if "stablehlo.constant dense<" in line]
    assert constants
    assert not [line for line in constants if len(line) > 500], "an array was folded into the program"


def test_ctrl_c_returns_the_run_so_far(x64, monkeypatch):
    net, params, data = problem(width=400, n=100)
    steps, calls = _loop._steps, []

    def interrupted_in_the_third_chunk(*args):
        calls.append(args)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return steps(*args)

    monkeypatch.setattr(_loop, "_steps", interrupted_in_the_third_chunk)
    run = nqm.train(net, data, learning_rate=0.01, steps=10**8, params=params, record_every=1000)
    done = len(run.losses) - 1
    assert run.stopped == f"interrupted at step {done}"
    assert 0 < done < 10**8
    assert run.frame["step"].iloc[-1] == done
    # The parameters are those of the last loss, and both are those of the step that the run names.
    assert mse(net, run.params, data.x_train, data.y_train) == pytest.approx(run.losses[-1], rel=1e-9)
    whole = nqm.train(net, data, learning_rate=0.01, steps=done, params=params, record=(), record_every=1000)
    np.testing.assert_allclose(run.losses, whole.losses, rtol=1e-9)


@pytest.mark.parametrize(("progress", "shown"), [(None, False), (False, False), (True, True)])
def test_the_progress_bar_shows_on_request(capsys, progress, shown):
    net, params, data = problem()
    nqm.train(net, data, learning_rate=0.1, steps=20, params=params, progress=progress)
    assert ("f, learning rate 0.1" in capsys.readouterr().err) == shown


def test_a_network_without_params_starts_from_the_seed():
    net, _, data = problem()
    first, again, other = (nqm.train(net, data, learning_rate=0.1, steps=2, seed=seed) for seed in (3, 3, 4))
    drawn = net.init(jax.random.key(3), data.x_train.shape)
    assert first.losses[0] == pytest.approx(mse(net, drawn, data.x_train, data.y_train), rel=1e-5)
    np.testing.assert_array_equal(first.losses, again.losses)
    assert first.losses[0] != other.losses[0]


def test_data_are_taken_in_the_precision_of_the_parameters(x64):
    net, params, data = problem()
    params32 = jax.tree.map(lambda w: w.astype(jnp.float32), params)
    run = nqm.train(net, data, learning_rate=0.1, steps=2, params=params32)
    assert {leaf.dtype for leaf in jax.tree.leaves(run.params)} == {jnp.dtype("float32")}


def test_a_cnn_and_integer_inputs_train():
    net = networks.two_layer_cnn(4)
    x = jax.random.normal(jax.random.key(0), (4, 5, 5, 1))
    data = nqm.Data("own", x, jnp.array([1.0, -1.0, 1.0, -1.0]))
    assert nqm.train(net, data, learning_rate=0.1, steps=30).losses[-1] < 1.0
    tokens = nqm.Data("own", np.array([[0, 1], [2, 3]]), np.array([1.0, -1.0]))
    run = nqm.train(lambda w, x: w[x].sum(axis=1), tokens, learning_rate=0.1, steps=50, params=jnp.zeros(4))
    assert run.losses[-1] < 1e-3


def test_training_time_is_recorded_with_the_settings():
    net, params, data = problem()
    began = time.perf_counter()
    run = nqm.train(net, data, learning_rate=0.1, steps=2, params=params, seed=11)
    assert 0 <= run.settings["seconds"] <= time.perf_counter() - began
    expected = {"steps": 2, "batch_size": None, "momentum": 0.0, "loss": "mse", "seed": 11, "data": {"source": "test"}}
    assert expected.items() <= run.settings.items()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be a positive finite number; got 0.0"),
        ({"learning_rate": -1}, ValueError, "got -1"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate must be a positive finite number"),
        ({"learning_rate": "0.1"}, TypeError, "learning_rate must be a positive finite number; got '0.1'"),
        ({"learning_rate": jnp.ones(2)}, TypeError, "learning_rate must be"),
        ({"learning_rate": []}, ValueError, "learning_rate must not be an empty list"),
        ({"steps": 0}, ValueError, "steps must be a whole number >= 1; got 0"),
        ({"steps": 2.5}, ValueError, "steps must be a whole number >= 1; got 2.5"),
        ({"steps": None}, TypeError, "steps must be a whole number"),
        ({"batch_size": 9}, ValueError, "batch_size must be at most the number of training examples, 8; got 9"),
        ({"batch_size": 0}, ValueError, "batch_size must be a whole number >= 1; got 0"),
        ({"momentum": 1.0}, ValueError, r"momentum must be a number in \[0, 1\); got 1.0"),
        ({"momentum": -0.1}, ValueError, "got -0.1"),
        ({"momentum": float("nan")}, ValueError, "momentum must be"),
        ({"momentum": "heavy"}, TypeError, "momentum must be"),
        ({"loss": "cross_entropy"}, ValueError, "needs a model of at least two outputs"),
        ({"steps": 10**10}, ValueError, "steps must be a whole number <= 2147483646"),
        ({"learning_rate": 10**400}, ValueError, "learning_rate must be a positive finite number"),
        ({"learning_rate": np.array(1j)}, TypeError, "learning_rate must be a positive finite number"),
        ({"record": None}, TypeError, "record must be a sequence of column names and .*; got None"),
        ({"record": ("accuracy",)}, ValueError, "each entry of record must be one of 'test_loss'.*got 'accuracy'"),
        ({"record": ("lambda_11",)}, ValueError, "got 'lambda_11'"),
        ({"record": ("lambda_9",)}, ValueError, "lambda_9 asks for more eigenvalues than the kernel has, 8"),
        ({"record_every": 0}, ValueError, "record_every must be a whole number >= 1; got 0"),
        ({"seed": -1}, ValueError, "seed must be a whole number >= 0; got -1"),
        ({"data": None}, TypeError, "data must be an nqm_tools.Data; got NoneType"),
        ({"model": "f"}, TypeError, "f must be a function"),
        ({"model": lambda p, x: x}, ValueError, "params must be given for a model"),
        ({"params": {}}, ValueError, "params holds no arrays"),
        ({"params": [jnp.full((3, 6), jnp.nan)]}, ValueError, "params must be finite"),
    ],
)
def test_bad_arguments_are_refused_at_the_door(change, error, message):
    net, _, data = problem()
    arguments = {"model": net, "data": data, "learning_rate": 0.1, "steps": 2} | change
    if "params" not in change and "model" not in change:
        arguments["params"] = net.init(jax.random.key(0), data.x_train.shape)
    model, data = arguments.pop("model"), arguments.pop("data")
    with pytest.raises(error, match=message) as caught:
        nqm.train(model, data, **arguments)
    assert "Tracer" not in str(caught.value)


def test_mismatched_data_are_refused():
    net, params, data = problem()
    wider = nqm.Data("own", np.ones((4, 5)), np.ones(4))
    with pytest.raises(ValueError, match="does not fit the first weights"):
        nqm.train(net, wider, learning_rate=0.1, steps=1, params=params)
    several = nqm.Data("own", data.x_train, np.ones((8, 2)))
    with pytest.raises(ValueError, match=r"data.y_train must have shape \(8, 1\); got \(8, 2\)"):
        nqm.train(net, several, learning_rate=0.1, steps=1, params=params)
    with pytest.raises(ValueError, match="tree structure of params0"):
        nqm.train(nqm.linearize(net, params), data, learning_rate=0.1, steps=1, params=[jnp.ones(3)])


def test_more_eigenvalues_than_the_kernel_has_are_refused():
    net, params, data = problem(n=2)
    with pytest.raises(ValueError, match="lambda_3 asks for more eigenvalues than the kernel has, 2"):
        nqm.train(net, data, learning_rate=0.1, steps=1, params=params, record=("lambda_3",))
