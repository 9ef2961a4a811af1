"""What a user adds from outside: a quantity, a loss, an optimiser, a network, a closed form; alone and in a sweep."""

import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nqm_tools as nqm
from nqm_tools import _program, closed_forms, expansions, networks, sweeps
from nqm_tools.store import Store


def problem(outputs=1, width=30, n=6, d=4, activation="relu"):
    net = networks.two_layer_fc(width, outputs=outputs, activation=activation)
    keys = jax.random.split(jax.random.key(0), 3)
    x, x_test = jax.random.normal(keys[0], (n, d)), jax.random.normal(keys[1], (5, d))
    y = jnp.ones((n, outputs)).at[::2].set(-1)
    return net, net.init(keys[2], x.shape), nqm.Data("own", x, y, x_test, jnp.ones((5, outputs)))


def models(net, params):
    return {name: make(net, params) for name, make in expansions.MODELS.items()}


SWEEP = {
    "data": {"name": "digits", "n_train": 12, "n_test": 8},
    "network": {"name": "two_layer_fc", "width": 16},
    "learning_rates": [0.5],
    "steps": 6,
}


@pytest.fixture
def module(tmp_path, monkeypatch):
    """``module(code)`` is the name of a module with that code beside the sweeps."""

    def write(code):
        (tmp_path / "my_own.py").write_text(textwrap.dedent(code))
        monkeypatch.syspath_prepend(str(tmp_path))
        return "my_own"

    yield write
    sys.modules.pop("my_own", None)
    sweeps._references.find_function.cache_clear()


def run(tmp_path, **changes):
    frame = sweeps.run(sweeps.Sweep(**SWEEP | changes), tmp_path / "store", say=lambda line: None)
    assert (frame["status"] == "finished").all(), frame["reason"].tolist()
    return frame


# A new quantity


@pytest.mark.parametrize("name", ["f", "f_lin", "f_quad"])
def test_a_new_quantity_is_a_function_of_the_snapshot(x64, name):
    net, params, data = problem(width=300)
    own = {
        "weight norm": lambda now: jnp.sqrt(sum(jnp.sum(w**2) for w in jax.tree.leaves(now.params))),
        "first": lambda now: now.prediction[:2, 0],
        "flipped": lambda now: jnp.mean((now.x @ now.params[1][0] > 0) != (now.x @ now.start[1][0] > 0)),
        "rate": lambda now: now.learning_rate * now.step,
    }
    model = models(net, params)[name]
    run = nqm.train(model, data, learning_rate=0.1, steps=4, params=params, record=("test_loss", own))
    assert run.frame.columns.tolist()[3:] == [
        "train_loss", "test_loss", "weight norm", "first_1", "first_2", "flipped", "rate"
    ]  # fmt: skip
    norm = np.sqrt(sum(float(jnp.sum(w**2)) for w in jax.tree.leaves(run.params)))
    assert run.frame["weight norm"].iloc[-1] == pytest.approx(norm, rel=1e-12)
    assert run.frame["first_2"].iloc[-1] == pytest.approx(
        float(expansions.as_model(model)(run.params, data.x_train)[1, 0])
    )
    assert run.frame["rate"].tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert nqm.plotting.loss_curves(run.frame, column="weight norm") is not None


def test_a_recorder_carries_something_from_row_to_row(x64):
    net, params, data = problem()
    largest = nqm.Recorder(
        init=lambda now: jnp.zeros(()),
        update=lambda carry, now: (jnp.maximum(carry, now.train_loss), jnp.maximum(carry, now.train_loss)),
    )
    eta = nqm.critical_learning_rate(nqm.empirical_ntk(net, params, data.x_train))
    run, low = nqm.train(
        nqm.quadraticize(net, params), data, learning_rate=[1.4 * eta, eta / 2], steps=30, record=({"peak": largest},)
    )
    for each in (run, low):
        np.testing.assert_allclose(each.frame["peak"], np.maximum.accumulate(each.losses), rtol=1e-12)
    assert run.frame["peak"].iloc[-1] > run.losses[0]


def test_each_quantity_of_a_row_is_computed_once_and_only_if_asked_for():
    net, params, data = problem(width=40)

    def decompositions(record):
        method = nqm.training.Method(3, record=record)
        ready = nqm.training.prepare(net, data, method, params=params)
        counts = []

        def row(state):
            now = nqm.training.Snapshot(ready, state, 0.1, 0)
            return method.recording.row(method.recording.init(None), now)[1]

        def count(jaxpr):
            for equation in jaxpr.eqns:
                counts.append(equation.primitive.name)
                for inner in _program._jaxprs(equation.params)[:1]:
                    count(inner)

        count(jax.make_jaxpr(row)(ready.state0).jaxpr)
        return counts.count("eigh")

    assert decompositions(("test_loss", {"norm": lambda now: jnp.linalg.norm(now.residual)})) == 0
    everything = ("lambda_1", "lambda_2", "projection_1", "R_f", "R_K", {"own": lambda now: now.eigenpairs[0][2]})
    assert decompositions(everything) == 1


@pytest.mark.parametrize(
    ("record", "error", "message"),
    [
        ({"bad": lambda now: now.nothing}, ValueError, "record: 'bad' failed: AttributeError: .*nothing"),
        ({"bad": lambda now: {1: 2}}, TypeError, "the columns of 'bad' must have names"),
        ({"bad": lambda now: "text"}, TypeError, "record: 'bad' must give a number or a vector; got str"),
        ({"bad": lambda now: now.x}, TypeError, r"record: 'bad' must give a real number or a vector; got .*\(6, 4\)"),
        ({"bad": 3}, TypeError, "record: 'bad' must be a function of the snapshot"),
        ({"step": lambda now: 1}, ValueError, "the column 'step' is there already"),
        ({"lambda_1": lambda now: 1}, ValueError, "the column 'lambda_1' is there already"),
        ((lambda now: 1,), ValueError, "give the function a name"),
    ],
)
def test_a_quantity_that_is_none_is_told_by_its_name(record, error, message):
    net, params, data = problem()
    with pytest.raises(error, match=message):
        nqm.train(net, data, learning_rate=0.1, steps=2, params=params, record=record)


def test_nan_in_a_column_is_warned_of_once():
    net, params, data = problem()
    record = {"gap": lambda now: jnp.where(now.step < 2, 1.0, jnp.nan), "other": lambda now: jnp.nan}
    with pytest.warns(UserWarning, match="the recorded .* is NaN at step") as caught:
        nqm.train(net, data, learning_rate=0.1, steps=9, params=params, record=record)
    assert len(caught) == 1
    assert "gap is NaN at step 2" in str(caught[0].message) or "other is NaN at step 0" in str(caught[0].message)


def test_a_new_quantity_in_a_sweep(tmp_path, module):
    name = module("""
        def size(now):
            return abs(now.prediction).max()
        def two(now):
            return now.prediction[:2, 0]
    """)
    frame = run(tmp_path, record=["test_loss", f"{name}:size", {"pair": f"{name}:two"}])
    curves = sweeps.load_curves(tmp_path / "store")
    assert {"size", "pair_1", "pair_2"} <= set(curves)
    assert np.isfinite(curves[["size", "pair_1"]]).all(axis=None)
    again = run(tmp_path, record=["test_loss", f"{name}:size", {"pair": f"{name}:two"}])
    assert again["key"].tolist() == frame["key"].tolist()
    (provenance, *_) = Store(tmp_path / "store").provenance().values()
    assert set(provenance["settings"]["modules"]) == {name}


# A new loss


def fourth_power(prediction, y):
    return jnp.sum((prediction - y) ** 4, axis=1)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("name", ["f", "f_lin", "f_quad"])
def test_a_new_loss_is_a_function_of_predictions_and_targets(x64, name, outputs):
    net, params, data = problem(outputs)
    model = models(net, params)[name]
    run = nqm.train(model, data, learning_rate=0.005, steps=20, params=params, loss=fourth_power)
    losses, end = by_hand(model, params, data, lambda p, y: fourth_power(p, y).mean(), optax.sgd(0.005), 20)
    np.testing.assert_allclose(run.losses, losses, rtol=1e-10)
    close(run.params, end)
    assert run.settings["loss"] == "fourth_power"


def test_a_new_loss_in_a_sweep(tmp_path, module):
    name = module("""
        def cubed(prediction, y):
            return (abs(prediction - y) ** 3).sum(axis=1)
    """)
    frame = run(tmp_path, loss=f"{name}:cubed")
    # In units of 2 over the Gauss-Newton sharpness at the start.
    data = nqm.datasets.load("digits", n_train=12, n_test=8, seed=0)
    net = networks.two_layer_fc(16)
    params = net.init(jax.random.key(0), data.x_train.shape)
    own = sys.modules[name].cubed
    sharpest = nqm.curvature.gauss_newton_sharpness(net, params, data.x_train, data.y_train, own)
    np.testing.assert_allclose(frame["critical_learning_rate"], 2 / sharpest, rtol=1e-5)


# A new optimiser


def by_hand(model, params, data, loss, optimizer, steps):
    """Losses and parameters of a plain loop with optax."""
    model, x, y = expansions.as_model(model), jnp.asarray(data.x_train), jnp.asarray(data.y_train)

    @jax.jit
    def step(params, state):
        value, gradient = jax.value_and_grad(lambda p: loss(model.predict(p, x), y))(params)
        updates, state = optimizer.update(gradient, state, params)
        return value, optax.apply_updates(params, updates), state

    losses, state = [], optimizer.init(params)
    for _ in range(steps):
        value, params, state = step(params, state)
        losses.append(float(value))
    return [*losses, float(loss(model.predict(params, x), y))], params


def close(tree, other, tolerance=1e-10):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), tree, other)


OPTIMIZERS = {
    "adam": optax.adam,
    "weight decay": lambda rate: optax.adamw(rate, weight_decay=0.1),
    "decayed sgd": lambda rate: optax.chain(optax.add_decayed_weights(0.05), optax.sgd(rate, momentum=0.5)),
}
LOSSES = {
    "mse": lambda p, y: jnp.sum((p - y) ** 2) / len(y),
    "cross_entropy": lambda p, y: optax.softmax_cross_entropy(p, y).mean(),
    "logistic": lambda p, y: optax.sigmoid_binary_cross_entropy(p, (y + 1) / 2).mean(),
}


@pytest.mark.parametrize(
    ("optimizer", "loss", "outputs"),
    [
        ("adam", "mse", 1),
        ("adam", "cross_entropy", 3),
        ("weight decay", "mse", 3),
        ("weight decay", "logistic", 1),
        ("decayed sgd", "logistic", 1),
    ],
)
@pytest.mark.parametrize("name", ["f", "f_lin", "f_quad"])
def test_optimisers_and_losses_are_a_plain_loop_with_optax(x64, name, loss, outputs, optimizer):
    net, params, data = problem(outputs, n=3)  # fewer examples than inputs, where the span would pay
    if loss == "cross_entropy":
        data = nqm.Data("own", data.x_train, jnp.eye(3))
    model = models(net, params)[name]
    run = nqm.train(
        model, data, learning_rate=0.02, steps=25, params=params, loss=loss, optimizer=OPTIMIZERS[optimizer]
    )
    losses, end = by_hand(model, params, data, LOSSES[loss], OPTIMIZERS[optimizer](0.02), 25)
    np.testing.assert_allclose(run.losses, losses, rtol=1e-10)
    close(run.params, end)


def test_numbers_of_classes_and_zero_one_labels_are_taken_and_said(x64):
    net, params, data = problem(3, n=3)
    one_hot = nqm.train(
        net, nqm.Data("own", data.x_train, jnp.eye(3)), learning_rate=0.1, steps=5, params=params, loss="cross_entropy"
    )
    numbers = nqm.train(
        net,
        nqm.Data("own", data.x_train, np.arange(3)),
        learning_rate=0.1,
        steps=5,
        params=params,
        loss="cross_entropy",
    )
    np.testing.assert_array_equal(one_hot.losses, numbers.losses)
    assert numbers.settings["data"]["targets"] == "numbers of classes, 0 to 2"
    single, params, data = problem()
    signs = nqm.train(single, data, learning_rate=0.1, steps=5, params=params, loss="logistic")
    bits = nqm.Data("own", data.x_train, (data.y_train + 1) / 2, data.x_test, data.y_test)
    zero_one = nqm.train(single, bits, learning_rate=0.1, steps=5, params=params, loss="logistic")
    np.testing.assert_array_equal(signs.losses, zero_one.losses)
    assert zero_one.settings["data"]["targets"] == "0 and 1, taken as -1 and +1"
    for loss, y, message in (
        ("logistic", [0.0, 2, 1, 0, 1, 1], "must be -1 and \\+1, or 0 and 1"),
        ("cross_entropy", np.ones(6), "needs a model of at least two outputs"),
        ("hinge", np.ones(6), ", ".join(map(repr, nqm.losses.LOSSES)) + ", or a function"),
    ):
        with pytest.raises(ValueError, match=message):
            nqm.train(single, nqm.Data("own", data.x_train, y), learning_rate=0.1, steps=1, params=params, loss=loss)


def test_a_new_optimiser_in_a_sweep(tmp_path, module):
    name = module("""
        import optax
        def gentle(rate):
            return optax.chain(optax.clip(0.1), optax.adam(rate))
    """)
    for optimizer in (f"{name}:gentle", "optax:adam"):
        frame = run(tmp_path, optimizer=optimizer, unit="absolute", learning_rates=[0.01])
        assert set(frame["optimizer"]) == {optimizer}
        assert set(frame["model"]) == {"f", "f_lin", "f_quad"}


# A new network


def narrow(width):
    """Two layers of softplus, in plain JAX: no closed form knows it."""

    def init_fn(key, shape):
        keys = jax.random.split(key)
        d = int(np.prod(shape[1:]))
        return (shape[0], 1), (jax.random.normal(keys[0], (d, width)), jax.random.normal(keys[1], (width, 1)))

    def apply_fn(params, x):
        hidden = jax.nn.softplus(x.reshape(len(x), -1) @ params[0] / 4)
        return hidden @ params[1] / jnp.sqrt(width)

    return networks.Network(init_fn, apply_fn, architecture="of a kind that no form knows")


def test_a_new_architecture_is_trained_as_itself(x64):
    _, _, data = problem(n=3)
    net = narrow(12)
    params = net.init(jax.random.key(1), data.x_train.shape)
    for name, model in models(net, params).items():
        run = nqm.train(model, data, learning_rate=0.1, steps=20, params=params, record=("lambda_1", "distance"))
        losses, end = by_hand(model, params, data, LOSSES["mse"], optax.sgd(0.1), 20)
        np.testing.assert_allclose(run.losses, losses, rtol=1e-10)
        close(run.params, end)
        assert run.settings["form"] == ("function space" if name == "f_lin" else "parameters")


def test_a_new_architecture_in_a_sweep(tmp_path, module):
    name = module("""
        import jax, jax.numpy as jnp, nqm_tools as nqm
        def narrow(width):
            def init_fn(key, shape):
                return (shape[0], 1), jax.random.normal(key, (64, width))
            return nqm.Network(init_fn, lambda w, x: jnp.tanh(x.reshape(len(x), 64) @ w / 8).sum(1) / width**0.5)
        def make(n, seed):
            return nqm.datasets.load("digits", n_train=n, n_test=5, seed=seed)
    """)
    frame = run(
        tmp_path, network={"name": f"{name}:narrow", "width": 8}, data={"name": f"{name}:make", "n": 9}, seeds=2
    )
    assert set(frame["network"]) == {f"{name}:narrow"}
    assert frame["final_loss"].nunique() == 6
    with pytest.raises(ValueError, match="the module 'my_own' has no 'broad'"):
        sweeps.run(sweeps.Sweep(**SWEEP | {"network": {"name": f"{name}:broad"}}), tmp_path / "other", say=print)


# A new closed form


class HalvedNetwork(expansions.FunctionModel):
    """Trains everything as it is, and says so."""

    form = "a form of the user's"


def test_a_new_closed_form_is_one_function(x64, monkeypatch, tmp_path):
    monkeypatch.setattr(closed_forms, "FORMS", list(closed_forms.FORMS))
    cls = expansions.pytree_model(HalvedNetwork)

    @closed_forms.register
    def bind(model, x_train, params, rule):
        return cls(model.f) if type(model) is expansions.FunctionModel and rule.linear else None

    net, params, data = problem()
    run_of = {
        name: nqm.train(m, data, learning_rate=0.1, steps=3, params=params) for name, m in models(net, params).items()
    }
    assert run_of["f"].settings["form"] == "a form of the user's"
    assert run_of["f_quad"].settings["form"] == "two layers"
    adam = nqm.train(net, data, learning_rate=0.1, steps=3, params=params, optimizer=optax.adam)
    assert adam.settings["form"] == "two layers"
    frame = run(tmp_path, models=["f"])
    (provenance,) = Store(tmp_path / "store").provenance().values()
    assert provenance["form"] == "a form of the user's"
    assert len(frame) == 1


# Step rules in closed forms


def schedule(step):
    return 0.9 + 0.3 * jnp.sin(step / 3)


RULES = {
    "momentum": {"momentum": 0.5},
    "nesterov": {"momentum": 0.4, "nesterov": True},
    "schedule": {"schedule": True},
    "scheduled momentum": {"momentum": 0.3, "schedule": True},
    "iid batches": {"batch_size": 2, "batches": "iid"},
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["f", "f_lin", "f_quad"])
def test_closed_forms_are_exact_for_rules_that_are_linear_in_the_gradients(x64, monkeypatch, name, rule):
    net, params, data = problem(n=3, d=5, width=60)
    options = dict(RULES[rule])
    momentum = options.get("momentum", 0.0)
    eta = nqm.critical_learning_rate(nqm.empirical_ntk(net, params, data.x_train), momentum=momentum)
    if options.get("nesterov"):  # stable up to 2 (1 + momentum) / (1 + 2 momentum) / lambda
        eta /= 1 + 2 * momentum
    rate = eta * (0.9 if name == "f_lin" else 1.2)
    if options.pop("schedule", False):
        rate = lambda step, rate=rate: rate * schedule(step)  # noqa: E731

    def run():
        model = models(net, params)[name]
        return nqm.train(model, data, learning_rate=rate, steps=50, params=params, record=("test_loss",), **options)

    fast = run()
    monkeypatch.setattr(closed_forms, "FORMS", [])
    plain = run()
    assert fast.settings["form"] != plain.settings["form"] == "parameters"
    assert np.isfinite(plain.losses).all()
    # Training losses fall to rounding on the way.
    np.testing.assert_allclose(fast.losses, plain.losses, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(fast.frame["test_loss"], plain.frame["test_loss"], rtol=1e-10)
    close(fast.params, plain.params)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_at_a_constant_rate_is_that_of_optax(x64, nesterov):
    net, params, data = problem(n=3)
    run = nqm.train(net, data, learning_rate=0.05, steps=20, params=params, momentum=0.6, nesterov=nesterov)
    losses, end = by_hand(net, params, data, LOSSES["mse"], optax.sgd(0.05, momentum=0.6, nesterov=nesterov), 20)
    np.testing.assert_allclose(run.losses, losses, rtol=1e-10)
    close(run.params, end)


GOING_ON = {
    "plain": {},
    "momentum": {"momentum": 0.5},
    "sgd": {"batch_size": 2, "momentum": 0.3},
    "adam": {"optimizer": optax.adam},
}


@pytest.mark.parametrize("options", GOING_ON.values(), ids=GOING_ON)
@pytest.mark.parametrize("name", ["f", "f_lin", "f_quad"])
def test_a_run_goes_on_where_it_ended(x64, tmp_path, name, options):
    net, params, data = problem(n=3, d=5)
    model = models(net, params)[name]
    arguments = {"learning_rate": 0.05, "record_every": 4, "record": ("test_loss",)} | options
    whole = nqm.train(model, data, steps=30, params=params, seed=5, **arguments)
    half = nqm.train(model, data, steps=14, params=params, seed=5, **arguments)
    half = nqm.Run.load(half.save(tmp_path / "half.npz"))
    rest = nqm.train(model, data, steps=16, start=half, **arguments)
    np.testing.assert_allclose(np.concatenate([half.losses, rest.losses[1:]]), whole.losses, rtol=1e-10)
    close(rest.params, whole.params)
    assert rest.frame["step"].tolist() == [14, 16, 20, 24, 28, 30]
    if options:
        with pytest.raises(ValueError, match="another rule"):
            nqm.train(model, data, steps=1, start=half, learning_rate=0.1, optimizer=optax.adafactor)


def test_a_list_of_rates_gives_a_list_of_runs():
    net, params, data = problem()
    runs = nqm.train(net, data, learning_rate=[0.01, schedule, 0.1], steps=3, params=params)
    assert [run.learning_rate for run in runs] == pytest.approx([0.01, float(schedule(2)), 0.1])
    alone = nqm.train(net, data, learning_rate=0.1, steps=3, params=params)
    np.testing.assert_allclose(runs[2].losses, alone.losses, rtol=1e-5)
    assert isinstance(alone, nqm.Run)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"nesterov": True}, ValueError, "nesterov=True needs a momentum > 0"),
        ({"nesterov": 1, "momentum": 0.1}, TypeError, "nesterov must be True or False; got 1"),
        ({"optimizer": "adam"}, TypeError, "optimizer must be a function of the learning rate"),
        ({"optimizer": optax.adam(0.1)}, TypeError, "optimizer must be a function of the learning rate"),
        ({"optimizer": lambda rate: 3}, TypeError, "must give an optax.GradientTransformation"),
        ({"optimizer": optax.adam, "momentum": 0.1}, ValueError, "momentum is the optimizer's own matter"),
        ({"batches": "shuffled"}, ValueError, "batches must be one of 'epochs', 'iid'"),
        ({"learning_rate": lambda step: -1.0}, ValueError, "a finite number that is not negative"),
        ({"learning_rate": lambda step: 1 if step > 3 else 2}, ValueError, "must be JAX-traceable"),
        (
            {"loss": lambda p, y: (p - y) ** 2},
            ValueError,
            r"must give one number an example, shape \(6,\); got \(6, 1\)",
        ),
        ({"loss": 3}, TypeError, "loss must be one of"),
        ({"start": 3}, TypeError, "start must be a Run"),
    ],
)
def test_bad_rules_and_losses_are_refused(change, error, message):
    net, params, data = problem()
    arguments = {"learning_rate": 0.1, "steps": 2} | change
    if "start" not in change:
        arguments["params"] = params
    with pytest.raises(error, match=message):
        nqm.train(net, data, **arguments)


def test_a_loss_without_curvature_at_the_start_has_no_critical_rate(tmp_path):
    sweep = sweeps.Sweep(
        data={"name": "digits", "n_train": 8, "n_test": 4},
        network={"name": "two_layer_fc", "width": 8},
        models=["f"],
        learning_rates=[0.5],
        steps=2,
        loss=absolute_error,
    )
    frame = sweeps.run(sweep, tmp_path, say=lambda line: None)
    assert "has no curvature at the start, hence no critical learning rate" in frame["reason"].iloc[0]


def absolute_error(prediction, y):
    return abs(prediction - y)[:, 0]
