"""Arrays of every type that users hold: their numbers are used as they are, or the type is refused in plain words."""

import decimal
import fractions
import re

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nqm_tools._validation import check_inputs, check_number, check_params, check_targets, check_whole
from nqm_tools.datasets import Data

WIDE = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "p", "q", "Q", "f2", "f4", "f8", "g"]
TYPES = [order + code for code in WIDE for order in ("<", ">")] + [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn]


def given_data(x, y=(1, -1)):
    return Data("mine", x, y)


def layouts(values, dtype):
    """The same numbers, laid out in memory in ways that NumPy knows."""
    array = np.asarray(values).astype(dtype)
    padded = np.zeros((len(array) * 2, *array.shape[1:]), dtype)
    padded[::2] = array
    unaligned = np.frombuffer(b"x" + array.tobytes(), np.uint8)[1:].view(dtype).reshape(array.shape)
    frozen = array.copy()
    frozen.flags.writeable = False
    return [array, padded[::2], array[::-1].copy()[::-1], np.asfortranarray(array), unaligned, frozen]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_numbers_of_every_type_order_and_layout_are_used_as_they_are(dtype):
    values = [[1, 0, 1], [0, 1, 1]]
    for x in layouts(values, dtype):
        data = given_data(x, x[:, :1])
        np.testing.assert_array_equal(data.x_train, values)
        np.testing.assert_array_equal(data.y_train, [[1], [0]])
        assert data.x_train.dtype.isnative
        np.testing.assert_array_equal(jnp.asarray(check_inputs("x", x)), values)
        np.testing.assert_array_equal(jnp.asarray(check_targets("y", x, 2)), values)


@given(
    hnp.arrays(np.int16, hnp.array_shapes(max_dims=3, max_side=3)),
    st.sampled_from([">f4", ">f8", ">i2", ">i4", ">i8", "g", "O"]),
)
def test_the_numbers_stay_whatever_type_they_come_in(values, dtype):
    np.testing.assert_array_equal(given_data(values.astype(dtype), np.ones(len(values))).x_train, values)


@pytest.mark.parametrize("array_type", [np.array, np.ma.array, jnp.array, pd.DataFrame, list, tuple])
def test_containers_of_numbers_are_used(array_type):
    np.testing.assert_array_equal(given_data(array_type([[1.5, 2.0], [3.0, 4.0]])).x_train, [[1.5, 2], [3, 4]])


MASKED = {
    "an array": lambda: np.ma.array([[1.0, 2.0], [3.0, 4.0]], mask=[[False, True], [False, False]]),
    "integers": lambda: np.ma.array([[1, 2], [3, 4]], mask=[[False, True], [False, False]]),
    "a list of arrays": lambda: [np.ma.array([1.0, 2.0], mask=[False, True]), np.ones(2)],
    "a masked number": lambda: [[1.0, np.ma.masked], [1.0, 2.0]],
}


@pytest.mark.parametrize("make", MASKED.values(), ids=MASKED)
@pytest.mark.parametrize("name", ["x_train", "y_train"])
def test_masked_values_are_refused(name, make):
    with pytest.raises(ValueError, match=f"{name} holds masked values: fill them"):
        Data(**{"name": "mine", "x_train": np.ones((2, 2)), "y_train": np.ones(2), name: make()})


def test_masked_parameters_are_refused():
    with pytest.raises(ValueError, match="params holds masked values"):
        check_params({"w": np.ma.array([1.0, 2.0], mask=[False, True])})


def test_parameters_may_be_of_any_byte_order_and_width():
    for dtype in (">f4", "<f4", "g", "f8"):
        params = check_params([np.array([1.0, 2.0], dtype)])
        np.testing.assert_array_equal(params[0], [1, 2])


REFUSED = {
    "dates": (np.zeros((2, 1), "M8[s]"), "got dates or times, dtype datetime64"),
    "spans of time": (np.zeros((2, 1), "m8[s]"), "got dates or times, dtype timedelta64"),
    "dates of pandas": (pd.DataFrame({"d": pd.to_datetime(["2020", "2021"])}), "got dates or times"),
    "structures": (np.zeros(2, [("a", "f4"), ("b", "f4")]), "a structured array with the fields 'a', 'b'"),
    "raw bytes": (np.zeros((2, 1), "V4"), "got dtype"),
    "bytes": (np.array([[b"1"], [b"2"]]), "got dtype"),
    "text": (np.array([["1"], ["2"]]), "got dtype"),
    "text among numbers": (np.array([["a"], [2.0]], object), "it holds str"),
    "categories": (pd.DataFrame({"d": pd.Categorical(["a", "b"])}), "it holds str"),
    "arrays in an array": (np.array([{}, {}], object), "it holds dict"),
    "a sparse matrix": (scipy.sparse.eye(2), "it holds dia_"),
    "decimal numbers": (np.array([[decimal.Decimal(1)], [2]], object), "it holds Decimal"),
    "complex numbers": (np.ones((2, 1), "c8"), "real; got dtype"),
    "wide complex numbers": (np.ones((2, 1), "G"), "real; got dtype"),
    "complex numbers as objects": (np.array([[1j], [2]], object), "it holds complex"),
    "nothing": (None, "it holds NoneType"),
}


@pytest.mark.parametrize(("x", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_array_of_numbers_is_refused_in_plain_words(x, message):
    with pytest.raises(TypeError, match=f"x_train must be .*{re.escape(message)}"):
        given_data(x)


# Columns of pandas


@pytest.mark.parametrize("kind", ["Int64", "Float64", "boolean", "UInt8", "Float32"])
def test_nullable_columns_are_used_where_nothing_is_missing(kind):
    column = pd.array([1, 0], kind)
    frame = pd.DataFrame({"a": column, "b": [0.5, 2.0], "c": [True, False]})
    np.testing.assert_array_equal(given_data(frame, frame["a"]).x_train, [[1, 0.5, 1], [0, 2, 0]])
    np.testing.assert_array_equal(given_data(frame[["a"]], frame["a"]).y_train, [[1], [0]])


@pytest.mark.parametrize("kind", ["Int64", "Float64", "boolean"])
def test_missing_values_of_nullable_columns_are_refused(kind):
    frame = pd.DataFrame({"a": pd.array([1, None], kind), "b": [0.5, 2.0]})
    for x in (frame, frame[["a"]], frame["a"]):
        with pytest.raises(ValueError, match=r"x_train (holds missing values \(<NA>\)|must be finite; it holds NaN)"):
            given_data(x)


def test_none_among_numbers_is_a_missing_value():
    with pytest.raises(ValueError, match=r"holds missing values \(None\)"):
        given_data([[1.0, None], [2.0, 3.0]])


def test_objects_that_are_numbers_are_used():
    x = np.array([[fractions.Fraction(1, 2)], [np.float32(3)]], object)
    np.testing.assert_array_equal(given_data(x).x_train, [[0.5], [3]])


# Numbers too large for a type


@pytest.mark.parametrize(("dtype", "value"), [("i8", 2**31), ("i8", -(2**31) - 1), ("u8", 2**32), (">i8", 2**40)])
def test_whole_numbers_that_jax_would_wrap_are_refused_as_inputs_and_used_as_targets(dtype, value):
    array = np.array([[1], [value]], dtype)
    with pytest.raises(ValueError, match=f"x_train must be of whole numbers that JAX keeps; .*{value}"):
        given_data(array)
    np.testing.assert_array_equal(given_data(np.ones((2, 1)), array).y_train, np.float32(array))
    np.testing.assert_array_equal(jnp.asarray(check_targets("y", array, 2)), np.float32(array))


@pytest.mark.usefixtures("x64")
def test_in_64_bits_jax_keeps_large_whole_numbers():
    assert given_data(np.array([[1], [2**40]])).x_train.tolist() == [[1], [2**40]]


def test_whole_numbers_beyond_64_bits_are_refused():
    with pytest.raises(ValueError, match=f"at most 64 bits; it holds {2**70}"):
        given_data([[2**70], [1]])


def test_numbers_beyond_64_bits_are_refused():
    # Where long doubles are doubles, they are infinite.
    with pytest.raises(ValueError, match="x must be finite"):
        check_inputs("x", np.array(["1e400"], np.longdouble))


@pytest.mark.parametrize("value", [np.timedelta64(5, "s"), np.timedelta64(5), np.array(5, "m8[s]")])
def test_a_span_of_time_is_no_number(value):
    with pytest.raises(TypeError, match="n must be a whole number"):
        check_whole("n", value)
    with pytest.raises(TypeError, match="n must be a finite number"):
        check_number("n", value)
