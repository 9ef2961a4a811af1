"""The problems of two classes and more: what is drawn, how it is labelled, scaled and recorded, and what is refused."""

import contextlib
import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import publishers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.datasets import load_digits

from nqm_tools import _features, _files, datasets
from nqm_tools._readers import DataFileError
from nqm_tools.datasets import Data, gaussians_1d, load, single_example

PUBLISHED = list(publishers.SOURCES)
SHAPES = {
    "digits": (8, 8, 1),
    "cifar2": (32, 32, 3),
    "mnist": (28, 28, 1),
    "svhn2": (32, 32, 3),
    "fsdd": (32, 32, 1),
    "ag_news": (1024,),
}
DEFAULTS = {"digits": (0, 2), "cifar2": (0, 2), "mnist": (0, 2), "svhn2": (0, 2), "fsdd": (1, 3), "ag_news": (1, 2)}
FEATURES = {"fsdd": _features.speech_features, "ag_news": _features.text_features}
ONE_POOL = ("digits", "fsdd")
NO_NUMBERS = (float("nan"), float("inf"), -float("inf"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("published")


@pytest.fixture(scope="module")
def pools(folder):
    """What the loaders should read: for every data set its training and its test pool, with the publishers' labels."""
    digits = load_digits()
    return {
        "digits": ((digits.images[..., None], digits.target), None),
        **{name: publishers.publish(name, folder) for name in PUBLISHED},
    }


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path_factory, pools, folder):
    publishers.isolate(
        monkeypatch, tmp_path_factory.getbasetemp() / "cache", publishers.sources(publishers.NOWHERE, folder)
    )
    monkeypatch.setenv("NQM_DATA_DIR", str(folder))


def short(value):
    """The name of a parametrised case."""
    return value.__name__ if isinstance(value, type) else re.sub(r"\s+", " ", str(value))[:30]


def draw(name="digits", n_train=7, n_test=4, seed=0, **settings):
    return load(name, n_train=n_train, n_test=n_test, seed=seed, **settings)


def arrays(data):
    return data.x_train, data.y_train, data.x_test, data.y_test


def assert_equal(data, other):
    for values, others in zip(arrays(data), arrays(other), strict=True):
        np.testing.assert_array_equal(values, others)


def of_classes(pool, classes):
    """The examples of two classes, and their labels as ±1."""
    examples, labels = pool
    rows = [row for row, label in enumerate(labels) if label in classes]
    signs = np.array([1.0 if labels[row] == classes[0] else -1.0 for row in rows])
    return (examples[rows] if isinstance(examples, np.ndarray) else [examples[row] for row in rows]), signs


def rows_of(x, expected):
    """Which of the expected examples each of x is; every one must be found to rounding."""
    x, expected = (np.asarray(values, np.float64).reshape(len(values), -1) for values in (x, expected))
    distances = np.abs(x[:, None] - expected[None]).max(axis=-1)
    np.testing.assert_allclose(distances.min(axis=1), 0, atol=1e-4)
    assert (np.sort(distances, axis=1)[:, 1] > 1e-2).all(), "examples must differ for this comparison"
    return distances.argmin(axis=1)


# What is loaded


@pytest.mark.parametrize("name", datasets.NAMES)
def test_all_of_a_set_is_its_two_classes_with_the_first_labelled_plus_one(pools, name):
    classes = DEFAULTS[name]
    train, test = (None if pool is None else of_classes(pool, classes) for pool in pools[name])
    n_test = 0 if test is None else len(test[1])
    data = draw(name, len(train[1]), n_test)
    features = FEATURES.get(name, _features.image_features)
    expected = features(train[0], train[0][:0] if test is None else test[0])
    for x, y, values, pool in zip(
        (data.x_train, data.x_test), (data.y_train, data.y_test), expected, (train, test), strict=True
    ):
        if pool is None:
            assert len(x) == len(y) == 0
            continue
        rows = rows_of(x, values)
        assert sorted(rows) == list(range(len(pool[1]))), "each example of the two classes once"
        np.testing.assert_array_equal(y[:, 0], pool[1][rows])


@pytest.mark.parametrize("name", datasets.NAMES)
@pytest.mark.parametrize("n_test", [0, 4])
def test_shapes_labels_and_precision(name, n_test):
    data = draw(name, 7, n_test)
    assert data.name == name
    assert data.x_train.shape == (7, *SHAPES[name])
    assert data.x_test.shape == (n_test, *SHAPES[name])
    assert data.y_train.shape == (7, 1)
    assert data.y_test.shape == (n_test, 1)
    assert {values.dtype for values in arrays(data)} == {np.dtype("float32")}
    assert set(np.concatenate([data.y_train, data.y_test]).ravel()) <= {-1.0, 1.0}


@pytest.mark.usefixtures("x64")
def test_examples_are_float64_where_jax_is():
    assert {values.dtype for values in arrays(draw())} == {np.dtype("float64")}


@pytest.mark.parametrize("name", datasets.NAMES)
def test_the_default_classes_are_the_papers(name):
    assert draw(name).provenance["classes"] == list(DEFAULTS[name])
    assert_equal(draw(name), draw(name, classes=DEFAULTS[name]))


@pytest.mark.parametrize("name", datasets.NAMES)
def test_swapping_the_classes_flips_the_labels_and_nothing_else(name):
    first, second = DEFAULTS[name]
    data, swapped = draw(name), draw(name, classes=(second, first))
    np.testing.assert_array_equal(swapped.y_train, -data.y_train)
    np.testing.assert_array_equal(swapped.y_test, -data.y_test)
    np.testing.assert_array_equal(swapped.x_train, data.x_train)
    np.testing.assert_array_equal(swapped.x_test, data.x_test)


@pytest.mark.parametrize("name", datasets.NAMES)
def test_more_classes_have_one_hot_labels_in_their_order(pools, name):
    examples, labels = pools[name][0]
    classes = tuple(np.unique(labels)[:3].tolist())[::-1]
    kept = np.flatnonzero(np.isin(labels, classes))
    chosen = examples[kept] if isinstance(examples, np.ndarray) else [examples[i] for i in kept]
    data = draw(name, len(kept), 0, classes=classes)
    rows = rows_of(data.x_train, FEATURES.get(name, _features.image_features)(chosen, chosen[:0])[0])
    assert data.y_train.shape == (len(kept), 3)
    assert set(data.y_train.sum(axis=1)) == {1.0}
    np.testing.assert_array_equal(np.array(classes)[data.y_train.argmax(axis=1)], np.asarray(labels)[kept][rows])
    assert data.provenance["classes"] == list(classes)


def test_all_ten_classes_are_a_range():
    assert draw("digits", 60, 30, classes=range(10)).y_test.shape == (30, 10)


def test_labels_of_more_than_two_classes_are_not_flipped():
    with pytest.raises(ValueError, match=r"label_noise flips the labels of two classes; got 0\.1 with 3 classes"):
        datasets.load("digits", classes=(0, 1, 2), n_train=20, n_test=0, label_noise=0.1, seed=0)


def test_a_pair_may_be_any_of_the_classes_in_a_list_or_an_array(pools):
    data = draw("cifar2", 20, 20, classes=np.array([7, 2]))
    images, signs = of_classes(pools["cifar2"][0], (7, 2))
    rows = rows_of(data.x_train, (images - images.mean()) / images.std())
    np.testing.assert_array_equal(data.y_train[:, 0], signs[rows])
    assert_equal(data, draw("cifar2", 20, 20, classes=[7, 2]))


def test_provenance_says_what_was_drawn_and_from_which_files(folder):
    data = draw("ag_news", 5, 3, seed=9, classes=(3, 1), label_noise=0.25)
    files = [(path.name, publishers.md5(path)) for path in (folder / s.path for s in publishers.SOURCES["ag_news"])]
    assert data.provenance == {
        "name": "ag_news",
        "classes": [3, 1],
        "n_train": 5,
        "n_test": 3,
        "label_noise": 0.25,
        "seed": 9,
        "files": [{"file": file, "md5": md5, "as_published": True} for file, md5 in files],
    }


# How it is drawn


@pytest.mark.parametrize("name", datasets.NAMES)
def test_draws_with_the_same_seed_are_equal_and_with_another_differ(name):
    data = draw(name, seed=3, label_noise=0.3)
    assert_equal(data, draw(name, seed=3, label_noise=0.3))
    other = draw(name, seed=4, label_noise=0.3)
    assert (data.x_train != other.x_train).any()
    assert (data.x_test != other.x_test).any()


def test_a_draw_leaves_the_pool_as_it_is():
    first = draw("digits", seed=0)
    first.x_train[:] = 0
    first.y_train[:] = 0
    draw("digits", seed=0, label_noise=0.9)
    again = draw("digits", seed=0)
    assert again.x_train.any()
    assert set(again.y_train.ravel()) <= {-1.0, 1.0}


@pytest.mark.parametrize("name", datasets.NAMES)
def test_no_example_is_drawn_twice(name):
    data = draw(name, 12, 8)
    for x in (data.x_train, data.x_test):
        assert len(np.unique(x.reshape(len(x), -1), axis=0)) == len(x)


@pytest.mark.parametrize("name", ONE_POOL)
def test_training_and_test_examples_of_one_pool_are_disjoint(name):
    data = draw(name, 12, 8)
    both = np.concatenate([data.x_train, data.x_test]).reshape(20, -1)
    assert len(np.unique(both, axis=0)) == 20


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**63 - 1), n_train=st.integers(1, 355), everything=st.booleans(), data=st.data())
def test_any_split_of_one_pool_is_disjoint(seed, n_train, everything, data):
    """The 355 images of the digits 0 and 2 all differ."""
    n_test = 355 - n_train if everything else data.draw(st.integers(0, 355 - n_train))
    split = draw("digits", n_train, n_test, seed)
    both = np.concatenate([split.x_train, split.x_test]).reshape(n_train + n_test, -1)
    assert len(np.unique(both, axis=0)) == n_train + n_test


@pytest.mark.parametrize("name", sorted(set(datasets.NAMES) - set(ONE_POOL)))
def test_test_examples_come_from_the_publishers_test_set(pools, name):
    train, test = (of_classes(pool, DEFAULTS[name]) for pool in pools[name])
    data = draw(name, 20, 6, seed=1)
    features = FEATURES.get(name, _features.image_features)
    rows_of(data.x_test, features(train[0], test[0])[1])


@pytest.mark.parametrize("name", sorted(set(datasets.NAMES) - set(ONE_POOL)))
def test_the_training_sample_does_not_depend_on_how_many_test_examples_are_drawn(name):
    np.testing.assert_array_equal(draw(name, 7, 0).x_train, draw(name, 7, 9).x_train)


# Label noise


@settings(deadline=None, max_examples=40)
@given(n_train=st.integers(1, 200), share=st.floats(0, 1, exclude_max=True), seed=st.integers(0, 1000))
def test_label_noise_flips_that_share_of_training_labels_and_no_test_label(n_train, share, seed):
    clean, noisy = draw("digits", n_train, 20, seed), draw("digits", n_train, 20, seed, label_noise=share)
    flips = noisy.y_train != clean.y_train
    assert np.count_nonzero(flips) == round(share * n_train)
    np.testing.assert_array_equal(np.abs(noisy.y_train), 1)
    for values, others in zip(arrays(noisy)[2:], arrays(clean)[2:], strict=True):
        np.testing.assert_array_equal(values, others)
    np.testing.assert_array_equal(noisy.x_train, clean.x_train)


@pytest.mark.parametrize("name", datasets.NAMES)
def test_label_noise_works_for_every_set(name):
    clean, noisy = draw(name, 10, 5), draw(name, 10, 5, label_noise=0.3)
    assert np.count_nonzero(noisy.y_train != clean.y_train) == 3
    np.testing.assert_array_equal(noisy.y_test, clean.y_test)


def test_other_seeds_flip_other_labels():
    flips = [
        (draw(seed=seed, n_train=50, label_noise=0.5).y_train != draw(seed=seed, n_train=50).y_train).ravel()
        for seed in range(2)
    ]
    assert (flips[0] != flips[1]).any()


def test_available_says_whether_the_files_are_here_and_fetches_nothing(folder, tmp_path, monkeypatch):
    assert datasets.available("digits")
    assert datasets.available("mnist", root=folder)
    monkeypatch.delenv(_files.DATA_DIR_VARIABLE, raising=False)
    monkeypatch.setenv(_files.CACHE_DIR_VARIABLE, str(tmp_path))
    assert not datasets.available("mnist", root=tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="name must be one of"):
        datasets.available("cifar")


# Scaling


@pytest.mark.parametrize("name", [name for name in datasets.NAMES if name != "ag_news"])
def test_training_images_and_spectrograms_have_mean_0_and_standard_deviation_1(name):
    x = draw(name).x_train.astype(np.float64)
    np.testing.assert_allclose([x.mean(), x.std()], [0, 1], atol=1e-5)


def test_training_news_have_mean_square_1():
    np.testing.assert_allclose(np.mean(draw("ag_news").x_train.astype(np.float64) ** 2), 1, rtol=1e-5)


@pytest.mark.parametrize("name", datasets.NAMES)
def test_the_features_are_fitted_on_the_training_sample_alone(pools, name, monkeypatch):
    """Test examples that are all changed do not move the training examples."""
    data = draw(name)
    features = datasets._DATASETS[name].features

    def disturbed(train, test):
        test = [f"{text} other words" for text in test] if name == "ag_news" else [1 - 3 * value for value in test]
        return features(train, test)

    monkeypatch.setitem(datasets._DATASETS, name, datasets._DATASETS[name]._replace(features=disturbed))
    changed = draw(name)
    np.testing.assert_array_equal(changed.x_train, data.x_train)
    if name != "ag_news":
        assert (changed.x_test != data.x_test).any()


# What load refuses


@pytest.mark.parametrize("name", ["cifar", "CIFAR2", "", None, 3, ["digits"]])
def test_an_unknown_name_is_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match="name must be one of 'digits', 'cifar2', 'mnist'") as caught:
        draw(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    "classes",
    [
        (0, 0),
        (0,),
        (0, 1, 1),
        (),
        (0, 10),
        (-1, 2),
        (0, 0.5),
        (0, float("nan")),
        ("0", "2"),
        "02",
        5,
        ([0], [2]),
        np.zeros((2, 2)),
        {0, 2},
    ],
    ids=short,
)
def test_classes_that_are_no_two_of_the_sets_are_refused(classes):
    with pytest.raises((ValueError, TypeError), match="classes must be") as caught:
        draw(classes=classes)
    assert re.search(re.escape(str(classes)) + r"|array\(", str(caught.value))


def test_classes_of_ag_news_are_the_publishers_1_to_4():
    with pytest.raises(
        ValueError, match=re.escape("classes must be two or more different ones of (1, 2, 3, 4); got (0, 1)")
    ):
        draw("ag_news", classes=(0, 1))


WHOLE = {
    ValueError: (-1, 1.5, 3.0, *NO_NUMBERS),
    TypeError: ("3", None, True, [3], 3j, np.array([3])),
}


def no_whole(*extra):
    return [*((error, value) for error, values in WHOLE.items() for value in values), *extra]


@pytest.mark.parametrize(("error", "value"), no_whole((ValueError, 0)), ids=short)
@pytest.mark.parametrize("function", [draw, lambda n_train: gaussians_1d(n_train, seed=0)], ids=["load", "gaussians"])
def test_a_number_of_training_examples_must_be_whole_and_positive(function, error, value):
    with pytest.raises(error, match=re.escape(f"n_train must be a whole number >= 1; got {value!r}")):
        function(n_train=value)


@pytest.mark.parametrize(("error", "value"), no_whole(), ids=short)
@pytest.mark.parametrize("argument", ["n_test", "seed"])
@pytest.mark.parametrize("function", [draw, gaussians_1d], ids=["load", "gaussians"])
def test_a_number_of_test_examples_and_a_seed_must_be_whole(function, argument, error, value):
    with pytest.raises(error, match=re.escape(f"{argument} must be a whole number >= 0; got {value!r}")):
        function(**{"seed": 0, argument: value})


@pytest.mark.parametrize(
    ("error", "value"),
    [*((ValueError, v) for v in (-0.1, 1, 1.0, 7, *NO_NUMBERS)), *((TypeError, v) for v in ("0.1", None, True, [0.1]))],
    ids=short,
)
def test_label_noise_must_be_a_share_below_1(error, value):
    with pytest.raises(error, match=re.escape("label_noise must be a number in [0, 1); got ") + ".+"):
        draw(label_noise=value)


@pytest.mark.parametrize("name", ["cifar2", "mnist", "svhn2", "ag_news"])
@pytest.mark.parametrize(("argument", "numbers"), [("n_train", (21, 4)), ("n_test", (4, 21))])
def test_more_than_a_pool_has_is_an_error_that_says_how_many_there_are(name, argument, numbers):
    with pytest.raises(ValueError, match=re.escape(f"{name} has 20 examples of classes")) as caught:
        draw(name, *numbers)
    assert argument in str(caught.value)
    assert "21 asked for" in str(caught.value)


@pytest.mark.parametrize(("name", "total"), [("digits", 355), ("fsdd", 20)])
def test_more_than_one_pool_has_is_an_error_that_says_how_many_there_are(name, total):
    assert len(draw(name, total - 1, 1).x_train) == total - 1
    with pytest.raises(ValueError, match=f"{name} has {total} examples .* {total + 1} asked for"):
        draw(name, total, 1)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_damaged_file_is_refused_by_name(tmp_path, name):
    publishers.publish(name, tmp_path)
    path = tmp_path / publishers.SOURCES[name][-1].path
    path.write_bytes(path.read_bytes()[:-3])
    with (
        pytest.warns(UserWarning, match="is not the published file") if name != "fsdd" else contextlib.nullcontext(),
        pytest.raises(DataFileError, match=re.escape(str(path))),
    ):
        draw(name, root=tmp_path)


@pytest.mark.parametrize("position", range(4))
def test_mnist_files_that_do_not_belong_together_are_refused_by_name(tmp_path, position):
    """Each file is a good one, but of another length than its partner."""
    publishers.publish("mnist", tmp_path)
    path = tmp_path / publishers.SOURCES["mnist"][position].path
    publishers.write_idx(path, np.zeros((5, 28, 28) if position % 2 == 0 else 5, np.uint8))
    with (
        pytest.warns(UserWarning, match="is not the published file"),
        pytest.raises(DataFileError, match=re.escape(path.name)),
    ):
        draw("mnist", root=tmp_path)


# Data


def given_data(**changes):
    fields = {"name": "mine", "x_train": np.ones((3, 2)), "y_train": np.ones((3, 1))}
    return Data(**{**fields, **changes})


@given(
    n=st.tuples(st.integers(1, 4), st.integers(0, 4)),
    shape=hnp.array_shapes(max_dims=3, max_side=3),
    k=st.integers(1, 3),
    dtype=st.sampled_from([np.uint8, np.int32, np.float32, np.float64, np.float16]),
)
def test_data_keeps_shapes_and_values(n, shape, k, dtype):
    x_train, x_test = (np.arange(m * np.prod(shape)).reshape(m, *shape).astype(dtype) for m in n)
    y_train, y_test = (np.arange(m * k).reshape(m, k) for m in n)
    data = Data("mine", x_train, y_train, x_test, y_test)
    for values, expected in zip(arrays(data), (x_train, y_train, x_test, y_test), strict=True):
        assert values.shape == expected.shape
        np.testing.assert_array_equal(values, expected)
    assert data.x_train.dtype == (np.float32 if np.issubdtype(dtype, np.floating) else dtype)
    assert data.y_train.dtype == np.float32


@pytest.mark.parametrize("convert", [list, tuple, np.array, jnp.array], ids=["list", "tuple", "numpy", "jax"])
def test_targets_in_a_row_become_a_column(convert):
    data = given_data(y_train=convert([1, -1, 1]), x_test=convert([[1.0, 2.0]]), y_test=convert([-1]))
    assert data.y_train.tolist() == [[1], [-1], [1]]
    assert data.y_test.tolist() == [[-1]]
    assert {type(values) for values in arrays(data)} == {np.ndarray}


def test_data_without_a_test_set_has_an_empty_one():
    data = given_data(x_train=np.ones((3, 4, 4, 1)))
    assert data.x_test.shape == (0, 4, 4, 1)
    assert data.y_test.shape == (0, 1)
    assert data.provenance == {}


def test_data_does_not_share_its_targets_with_the_callers_array():
    targets = np.ones((3, 1), np.float32)
    data = given_data(y_train=targets)
    targets[:] = 5
    np.testing.assert_array_equal(data.y_train, 1)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Data)])
def test_data_is_frozen(field):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(given_data(), field, None)


def test_data_is_public_with_its_fields_in_order():
    names = [field.name for field in dataclasses.fields(Data)]
    assert names == ["name", "x_train", "y_train", "x_test", "y_test", "provenance", "agop"]


BAD_ARRAYS = [
    (ValueError, [[1.0, float("nan")]] * 3),
    (ValueError, [[1.0, float("inf")]] * 3),
    (ValueError, [[1.0, 1e39]] * 3),  # infinite in JAX's default precision
    (ValueError, []),
    (ValueError, np.ones((3, 0))),
    (ValueError, 5.0),
    (ValueError, [[1.0, 2.0], [3.0]]),
    (TypeError, [["a", "b"]] * 3),
    (TypeError, None),
    (TypeError, [[1j, 2.0]] * 3),
]


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("field", ["x_train", "y_train", "x_test", "y_test"])
@pytest.mark.parametrize(("error", "value"), BAD_ARRAYS, ids=short)
def test_data_refuses_arrays_that_are_not_finite_numbers_of_examples(field, error, value):
    others = {"x_test": np.ones((3, 2)), "y_test": np.ones((3, 2)), "y_train": np.ones((3, 2))}
    others = others if field.endswith("test") else {}
    if value is None and others:
        error = ValueError  # x_test and y_test must be given together
    with pytest.raises(error, match=field):
        given_data(**{**others, field: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": np.ones((2, 1))}, r"y_train must have shape \(3, k\); got \(2, 1\)"),
        ({"y_train": np.ones((3, 1, 1))}, r"y_train must have shape \(3, k\); got \(3, 1, 1\)"),
        ({"x_test": np.ones((2, 2))}, "x_test and y_test must be given together"),
        ({"y_test": np.ones((2, 1))}, "x_test and y_test must be given together"),
        ({"x_test": np.ones((2, 3)), "y_test": np.ones(2)}, r"x_test .* shape \(2,\), as x_train has; got \(3,\)"),
        ({"x_test": np.ones((2, 2)), "y_test": np.ones((2, 2))}, r"y_test must have shape \(2, 1\); got \(2, 2\)"),
        ({"x_test": np.ones((2, 2)), "y_test": np.ones(3)}, r"y_test must have shape \(2, 1\); got \(3, 1\)"),
        ({"x_test": np.ones((0, 2)), "y_test": np.ones(3)}, "[xy]_test"),
        ({"x_test": [], "y_test": [1.0]}, "[xy]_test"),
    ],
)
def test_data_refuses_shapes_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        given_data(**changes)


@pytest.mark.parametrize("name", [None, 5, ["mine"]])
def test_a_name_of_data_must_be_a_string(name):
    with pytest.raises(TypeError, match=re.escape(f"name must be a string; got {name!r}")):
        given_data(name=name)


@pytest.mark.parametrize("provenance", [None, "from a friend", [("name", "mine")]])
def test_a_provenance_must_be_a_dictionary(provenance):
    with pytest.raises(TypeError, match=re.escape(f"provenance must be a dictionary; got {provenance!r}")):
        given_data(provenance=provenance)


# Synthetic sets


def test_gaussians_lie_around_plus_and_minus_their_mean_by_label():
    data = gaussians_1d(20000, mean=3.0, std=0.5, n_test=10, seed=0)
    assert data.x_train.shape == data.y_train.shape == (20000, 1)
    assert data.x_test.shape == data.y_test.shape == (10, 1)
    assert set(data.y_train.ravel()) == {-1.0, 1.0}
    np.testing.assert_allclose(data.y_train.mean(), 0, atol=0.05)
    for label in (1, -1):
        values = data.x_train[data.y_train == label].astype(np.float64)
        np.testing.assert_allclose(values.mean(), 3 * label, atol=0.03)  # six standard errors of 10,000 draws
        np.testing.assert_allclose(values.std(), 0.5, atol=0.03)


def test_gaussians_default_to_the_papers_figure():
    data = gaussians_1d(seed=0)
    assert_equal(data, gaussians_1d(128, mean=2.0, std=1.0, n_test=0, seed=0))
    assert data.x_test.shape == (0, 1)
    assert data.provenance["seed"] == 0


def test_gaussians_of_one_seed_are_equal_and_of_another_differ():
    assert_equal(gaussians_1d(9, n_test=4, seed=1), gaussians_1d(9, n_test=4, seed=1))
    assert (gaussians_1d(9, seed=1).x_train != gaussians_1d(9, seed=2).x_train).all()


@pytest.mark.parametrize(
    ("error", "value"),
    [*((ValueError, v) for v in (0, 0.0, -2.0, *NO_NUMBERS)), *((TypeError, v) for v in ("2", None, True, [2.0]))],
    ids=short,
)
@pytest.mark.parametrize("argument", ["mean", "std"])
def test_gaussians_need_a_positive_mean_and_deviation(argument, error, value):
    with pytest.raises(error, match=f"{argument} must be a positive finite number; got .+"):
        gaussians_1d(seed=0, **{argument: value})


@pytest.mark.parametrize("dimension", [1, 7])
def test_a_single_example_is_normal_with_the_given_label_and_no_test_set(dimension):
    data = single_example(dimension, label=-2.5, seed=3)
    assert data.x_train.shape == (1, dimension)
    assert data.y_train.tolist() == [[-2.5]]
    assert data.x_test.shape == (0, dimension)
    assert data.provenance == {"name": "single_example", "dimension": dimension, "label": -2.5, "seed": 3}
    assert single_example(dimension, seed=3).y_train.tolist() == [[0.0]]


def test_a_single_examples_coordinates_are_standard_normal():
    x = single_example(10000, seed=0).x_train
    np.testing.assert_allclose([x.mean(), x.std()], [0, 1], atol=0.05)
    np.testing.assert_array_equal(x, single_example(10000, seed=0).x_train)
    assert (x != single_example(10000, seed=1).x_train).any()


@pytest.mark.parametrize(("error", "value"), no_whole((ValueError, 0)), ids=short)
def test_a_dimension_must_be_whole_and_positive(error, value):
    with pytest.raises(error, match=re.escape(f"dimension must be a whole number >= 1; got {value!r}")):
        single_example(value, seed=0)


@pytest.mark.parametrize(("error", "value"), no_whole(), ids=short)
def test_a_single_examples_seed_must_be_whole(error, value):
    with pytest.raises(error, match=re.escape(f"seed must be a whole number >= 0; got {value!r}")):
        single_example(2, seed=value)


@pytest.mark.parametrize(
    ("error", "value"),
    [*((ValueError, v) for v in NO_NUMBERS), *((TypeError, v) for v in ("one", "1", None, [1.0], 1j, True))],
    ids=short,
)
def test_a_single_examples_label_must_be_a_finite_number(error, value):
    with pytest.raises(error, match=re.escape(f"label must be a finite number; got {value!r}")):
        single_example(2, label=value, seed=0)


# The publishers' own files


REAL = {"cifar2": (400, 0.7), "mnist": (200, 0.95), "fsdd": (400, 0.85), "ag_news": (400, 0.85)}


@pytest.mark.filterwarnings("ignore:.* is not the published file")
@pytest.mark.parametrize("name", REAL)
def test_a_linear_fit_tells_the_classes_of_the_real_data_apart(real_data, monkeypatch, name):
    """So examples and labels belong together, in the training and in the test sample."""
    sources = publishers.sources(publishers.NOWHERE)
    monkeypatch.setattr(_files, "SOURCES", sources)
    if any(_files._find(source, [real_data]) is None for source in sources[name]):
        pytest.skip(f"the files of {name} are not in {real_data}")
    before = {path: path.stat().st_mtime_ns for path in real_data.rglob("*")}
    n, accuracy = REAL[name]
    data = load(name, n_train=n, n_test=150, seed=0, root=real_data)
    assert {path: path.stat().st_mtime_ns for path in real_data.rglob("*")} == before
    assert data.x_train.shape == (n, *SHAPES[name])
    assert abs(data.y_train.mean()) < 0.2
    for file in data.provenance["files"]:
        published = {form.md5 for source in publishers.SOURCES[name] for form in source.forms} - {None}
        assert file["as_published"] is (file["md5"] in published if published else None)

    x_train, x_test = (x.reshape(len(x), -1).astype(np.float64) for x in (data.x_train, data.x_test))
    kernel = x_train @ x_train.T / x_train.shape[1]
    weights = np.linalg.solve(kernel + np.eye(n), data.y_train)
    predictions = x_test @ x_train.T @ weights / x_train.shape[1]
    assert np.mean(np.sign(predictions) == data.y_test) >= accuracy


def test_the_embedded_digits_are_told_apart_by_a_linear_fit():
    data = draw("digits", 200, 150)
    x_train, x_test = (x.reshape(len(x), -1) for x in (data.x_train, data.x_test))
    weights = np.linalg.lstsq(np.c_[x_train, np.ones(200)], data.y_train, rcond=1e-4)[0]
    assert np.mean(np.sign(np.c_[x_test, np.ones(150)] @ weights) == data.y_test) > 0.95
