"""neural-tangents on today's JAX: everything the package and its readers use of it works, and JAX stays untouched."""

import configparser
import pathlib
import re
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import neural_tangents as nt
import numpy as np
import pytest
import scipy.linalg
from neural_tangents import stax

from nqm_tools import _compat

ROOT = pathlib.Path(__file__).parents[1]


def run_python(code):
    """Run code in a fresh interpreter; its standard output."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def dense(outputs):
    return stax.serial(stax.Dense(24), stax.Relu(), stax.Dense(16), stax.Erf(), stax.Dense(outputs)), (6,)


def convolutional(outputs):
    layers = stax.Conv(8, (3, 3), padding="SAME"), stax.Relu(), stax.GlobalAvgPool(), stax.Dense(outputs)
    return stax.serial(*layers), (5, 4, 3)


def flattened_convolutional(outputs):
    layers = stax.Conv(6, (3, 3), padding="SAME"), stax.Gelu(), stax.Flatten(), stax.Dense(outputs)
    return stax.serial(*layers), (4, 4, 2)


def plain_kernel(apply_fn, params, x1, x2):
    """The (n1, n2, k, k) kernel from whole Jacobians, without neural-tangents."""

    @jax.jit
    def jacobian(x):
        leaves = jax.tree.leaves(jax.jacobian(apply_fn)(params, x))
        return jnp.concatenate([leaf.reshape(*leaf.shape[:2], -1) for leaf in leaves], axis=2)

    return jnp.einsum("iap,jbp->ijab", jacobian(x1), jacobian(x2))


IMPLEMENTATIONS = {i.name: i for i in nt.NtkImplementation}


CASES = {"dense": (dense, 1), "outputs": (dense, 3), "convolution": (convolutional, 2)}
CASES["flattened"] = (flattened_convolutional, 1)
CHOICES = [
    *((case, name, 0) for case in CASES for name in IMPLEMENTATIONS if name != "AUTO"),
    *(("outputs", name, None) for name in IMPLEMENTATIONS if name != "AUTO"),
    # It compiles all the others to choose among them, which is slow.
    ("outputs", "AUTO", 0),
]


@pytest.mark.parametrize(("case", "implementation", "vmap_axes"), CHOICES)
def test_every_implementation_is_a_product_of_jacobians(x64, case, implementation, vmap_axes):
    network, outputs = CASES[case]
    (init_fn, apply_fn, _), shape = network(outputs)
    x1, x2 = (jax.random.normal(jax.random.key(seed), (n, *shape)) for seed, n in ((0, 4), (1, 3)))
    _, params = init_fn(jax.random.key(2), x1.shape)
    kernel_fn = nt.empirical_ntk_fn(
        apply_fn, trace_axes=(), vmap_axes=vmap_axes, implementation=IMPLEMENTATIONS[implementation]
    )
    expected = plain_kernel(apply_fn, params, x1, x2)
    np.testing.assert_allclose(jax.jit(kernel_fn)(x1, x2, params), expected, rtol=1e-10, atol=1e-10)


def test_kernel_vector_product_is_the_kernel_times_the_vector(x64):
    (init_fn, apply_fn, _), shape = dense(2)
    x = jax.random.normal(jax.random.key(0), (4, *shape))
    _, params = init_fn(jax.random.key(1), x.shape)
    v = jax.random.normal(jax.random.key(2), (4, 2))
    product = nt.empirical_ntk_vp_fn(apply_fn, x, None, params)(v)
    expected = jnp.einsum("ijab,jb->ia", plain_kernel(apply_fn, params, x, x), v)
    np.testing.assert_allclose(product, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("network", [dense, convolutional])
def test_taylor_models_are_sums_of_derivatives_along_the_step(x64, network):
    (init_fn, apply_fn, _), shape = network(2)
    x = jax.random.normal(jax.random.key(0), (3, *shape))
    _, params0 = init_fn(jax.random.key(1), x.shape)
    delta = jax.tree.map(lambda w: jax.random.normal(jax.random.key(2), w.shape), params0)
    params = jax.tree.map(jnp.add, params0, delta)

    def along(t):
        return apply_fn(jax.tree.map(lambda w, d: w + t * d, params0, delta), x)

    first = jax.jit(jax.jacfwd(along))(0.0)
    second = jax.jit(jax.jacfwd(jax.jacfwd(along)))(0.0)
    linear, quadratic = nt.linearize(apply_fn, params0), nt.taylor_expand(apply_fn, params0, 2)
    np.testing.assert_allclose(jax.jit(linear)(params, x), along(0.0) + first, rtol=1e-10)
    np.testing.assert_allclose(jax.jit(quadratic)(params, x), along(0.0) + first + second / 2, rtol=1e-10)


@pytest.fixture
def regression(x64):
    """An infinite-width kernel on training points, on test against training points, and targets."""
    _, _, kernel_fn = stax.serial(stax.Dense(1), stax.Relu(), stax.Dense(1))
    x, x_test = (jax.random.normal(jax.random.key(seed), (n, 5)) for seed, n in ((0, 6), (1, 4)))
    return kernel_fn(x, None, "ntk"), kernel_fn(x_test, x, "ntk"), jnp.sign(x[:, :1])


def test_gradient_descent_mse_solves_the_linear_flow(regression):
    kernel, kernel_test, y = regression
    predict = nt.predict.gradient_descent_mse(kernel, y, learning_rate=0.5)
    flow = scipy.linalg.expm(-0.5 * 3.0 * np.asarray(kernel) / y.size)  # d/dt f = -(1/size) K (f - y)
    expected = np.asarray(y) - flow @ y
    train, test = predict(3.0, 0.0, 0.0, kernel_test)
    np.testing.assert_allclose(train, expected, rtol=1e-8)
    np.testing.assert_allclose(test, kernel_test @ np.linalg.solve(kernel, expected), rtol=1e-8)
    _, limit = predict(None, 0.0, 0.0, kernel_test)
    np.testing.assert_allclose(limit, kernel_test @ np.linalg.solve(kernel, y), rtol=1e-8)


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, lambda f: jax.jit(jax.vmap(f))])
def test_gradient_descent_mse_works_inside_transformations(regression, transform):
    kernel, kernel_test, y = regression
    times = jnp.array([0.5, 3.0])
    predict = nt.predict.gradient_descent_mse(kernel, y)
    expected = jnp.stack([predict(t, 0.0, 0.0, kernel_test)[1] for t in times])

    def outside(t):
        return predict(t, 0.0, 0.0, kernel_test)[1]

    def inside(t):
        return nt.predict.gradient_descent_mse(kernel * (1 + 0 * t), y)(t, 0.0, 0.0, kernel_test)[1]

    for function in (outside, inside):
        if transform is jax.jit:
            result = jnp.stack([transform(function)(t) for t in times])
        else:
            result = transform(function)(times)
        np.testing.assert_allclose(result, expected, rtol=1e-9)
    # What was cached inside the transformation is no tracer that would leak into this call.
    np.testing.assert_allclose(predict(times[1], 0.0, 0.0, kernel_test)[1], expected[1], rtol=1e-9)


def test_max_learning_rate_is_two_over_the_largest_eigenvalue(regression):
    kernel, _, y = regression
    expected = 2 * y.size / np.linalg.eigvalsh(kernel)[-1]
    assert nt.predict.max_learning_rate(kernel, eps=0.0) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("device_count", [0, -1])
def test_batch_computes_the_same_kernel(x64, device_count):
    _, _, kernel_fn = stax.serial(stax.Dense(1), stax.Relu(), stax.Dense(1))
    x = jax.random.normal(jax.random.key(0), (8, 5))
    batched = nt.batch(kernel_fn, batch_size=2, device_count=device_count)
    np.testing.assert_allclose(batched(x, x, "ntk"), kernel_fn(x, x, "ntk"), rtol=1e-6)


def test_monte_carlo_kernel_approaches_the_infinite_width_kernel():
    init_fn, apply_fn, kernel_fn = stax.serial(stax.Dense(256), stax.Relu(), stax.Dense(1))
    x = jax.random.normal(jax.random.key(0), (3, 5))
    sampled = nt.monte_carlo_kernel_fn(init_fn, apply_fn, jax.random.key(1), 64, device_count=0)(x, None, "ntk")
    np.testing.assert_allclose(sampled, kernel_fn(x, None, "ntk"), atol=0.1)


def test_attention_kernels_with_positional_embeddings_are_positive():
    layers = stax.GlobalSelfAttention(
        4, 2, 2, 2, linear_scaling=False, attention_mechanism="IDENTITY", pos_emb_type="SUM"
    )
    _, _, kernel_fn = stax.serial(layers, stax.GlobalAvgPool(), stax.Dense(1))
    kernel = kernel_fn(jax.random.normal(jax.random.key(0), (3, 4, 4, 2)), None, "nngp")
    assert np.linalg.eigvalsh(kernel)[0] > 0


def test_import_changes_nothing_in_jax_and_needs_no_tensorflow():
    output = run_python(
        """
        import sys, types
        import jax, jax.core, jax.interpreters.ad, jax.random
        names = "jax", "jax.core", "jax.interpreters", "jax.interpreters.ad", "jax.random"
        before = {name: (sys.modules[name], dict(vars(sys.modules[name]))) for name in names}
        import nqm_tools
        import neural_tangents
        for name, (module, content) in before.items():
            assert sys.modules[name] is module, name
            now = vars(module)
            # Importing a submodule makes it an attribute of its package; anything else would be a change.
            new = {key for key, value in now.items() if key not in content
                   and getattr(value, "__name__", None) != f"{name}.{key}"}
            assert not new, (name, new)
            changed = {key for key, value in content.items() if now.get(key, None) is not value}
            assert not changed, (name, changed)
        assert "jax.util" not in sys.modules or sys.modules["jax.util"] is getattr(jax, "util", None)
        print(sorted({"tensorflow", "tf2jax"} & set(sys.modules)), neural_tangents.__version__)
        """
    )
    assert output.split() == ["[]", "0.6.5"]


def test_import_leaves_plotting_data_and_notebook_packages_alone():
    heavy = {"matplotlib", "seaborn", "sklearn", "pooch", "pandas", "IPython", "nbclient", "nbconvert"}
    loaded = run_python("import sys, nqm_tools; print(*{name.split('.')[0] for name in sys.modules})")
    assert not heavy & set(loaded.split())


def test_import_recovers_from_an_earlier_failed_import_of_neural_tangents():
    run_python(
        """
        import sys
        try:
            import neural_tangents
        except ImportError:
            pass
        leftover = [name for name in sys.modules if name.startswith("neural_tangents")]
        import nqm_tools
        import neural_tangents
        assert neural_tangents._src.empirical.core.Jaxpr
        assert leftover
        """
    )


def test_experimental_says_why_it_is_missing():
    with pytest.raises(AttributeError, match="TensorFlow"):
        _ = nt.experimental.empirical_ntk_fn_tf


@pytest.mark.parametrize("version", ["0.4.30", "0.8.3", "0.13.0", "1.0"])
def test_jax_outside_the_range_is_refused_with_the_range(version):
    with pytest.raises(ImportError, match=rf">= {re.escape(_compat.JAX_RANGE[0])}, < 0\.13; found JAX {version}"):
        _compat.check_versions(version, "0.6.5")


@pytest.mark.parametrize("version", ["0.9.0", "0.10.2", "0.12.0.1", "0.12.9.dev20260101+abc"])
def test_jax_inside_the_range_is_accepted(version):
    _compat.check_versions(version, "0.6.5")


def test_another_neural_tangents_is_refused():
    with pytest.raises(ImportError, match=r"needs neural-tangents 0\.6\.5; found 0\.6\.4"):
        _compat.check_versions(jax.__version__, "0.6.4")


def test_the_declared_range_is_the_tested_one():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    first, beyond = _compat.JAX_RANGE
    assert f"jax>={first},<{beyond}" in config["options"]["install_requires"]
    ends = re.search(r"^JAX_ENDS := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    low, high = (end.split(":")[1] for end in ends)
    assert low == first
    assert high.startswith(f"0.{int(beyond.split('.')[1]) - 1}.")
