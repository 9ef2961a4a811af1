"""How raw examples become inputs: scaling by the training sample, spectrograms, and TF-IDF."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nqm_tools import _features
from nqm_tools._features import image_features, speech_features, text_features

WINDOW = _features.FRAME + (_features.FRAMES - 1) * _features.HOP
PIXELS = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=4, max_dims=4, max_side=4))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# Images


@given(train=PIXELS)
def test_training_images_end_with_mean_0_and_standard_deviation_1(train):
    assume(train.min() < train.max())
    scaled, _ = image_features(train, train[:0])
    assert scaled.shape == train.shape
    np.testing.assert_allclose([scaled.mean(), scaled.std()], [0, 1], atol=1e-12)


@given(train=PIXELS, shift=st.integers(-50, 50), factor=st.integers(1, 5))
def test_brightness_and_contrast_of_the_sample_do_not_matter(train, shift, factor):
    assume(train.min() < train.max())
    changed = train.astype(float) * factor + shift
    np.testing.assert_allclose(image_features(changed, changed)[1], image_features(train, train)[0], atol=1e-10)


def test_all_images_and_channels_are_scaled_by_one_mean_and_deviation_of_the_training_sample(rng):
    train, test = rng.normal((3, 40, 9), (5, 1, 2), (6, 4, 4, 3)), rng.normal(-1, 2, (5, 4, 4, 3))
    scaled_train, scaled_test = image_features(train, test)
    np.testing.assert_allclose(scaled_train, (train - train.mean()) / train.std(), rtol=1e-12)
    np.testing.assert_allclose(scaled_test, (test - train.mean()) / train.std(), rtol=1e-12)


@pytest.mark.parametrize("colour", [0, 7, 255, 0.1, 1 / 3, -18.420680743952367])
@pytest.mark.parametrize("n", [1, 3, 7])
def test_training_images_of_one_colour_are_refused(colour, n):
    """Also where rounding gives them a mean that is not quite their colour."""
    with pytest.raises(ValueError, match="one colour"):
        image_features(np.full((n, 5, 5, 3), colour), np.zeros((1, 5, 5, 3)))


# Speech


def tone(frequency, length=WINDOW, amplitude=0.5):
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(length) / _features.SAMPLE_RATE)


def band_of(frequency):
    """The band whose centre lies nearest in mel, by the scale's definition."""
    mels = 2595 * np.log10(1 + np.array([frequency, 4000]) / 700)
    centres = mels[1] / (_features.MELS + 1) * np.arange(1, _features.MELS + 1)
    return int(np.argmin(np.abs(centres - mels[0])))


@pytest.mark.parametrize("frequency", [250, 500, 1000, 2000, 3000, 3750])
def test_a_pure_tone_is_loudest_in_its_mel_band_at_all_times(rng, frequency):
    (image,), _ = speech_features([tone(frequency)], [])
    assert image.shape == (32, 32, 1)
    assert set(image[:, :, 0].argmax(axis=1)) == {band_of(frequency)}


def test_every_mel_band_hears_the_frequency_at_its_centre():
    edges = np.linspace(0, 2595 * np.log10(1 + 4000 / 700), _features.MELS + 2)
    for band, centre in enumerate(700 * (10 ** (edges[1:-1] / 2595) - 1)):
        (image,), _ = speech_features([tone(centre)], [])
        assert image[:, :, 0].sum(axis=0).argmax() == band


def test_a_louder_recording_gives_larger_values():
    features, _ = speech_features([tone(1000, amplitude=0.01), tone(1000, amplitude=0.9)], [])
    assert (features[1] > features[0])[:, band_of(1000)].all()


def test_time_runs_along_the_first_axis_of_a_spectrogram():
    half = WINDOW // 2
    (image,), _ = speech_features([np.concatenate([tone(500, half), tone(3000, half)])], [])
    loudest = image[:, :, 0].argmax(axis=1)
    assert set(loudest[:14]) == {band_of(500)}
    assert set(loudest[-14:]) == {band_of(3000)}


@given(length=st.integers(0, 3 * WINDOW))
def test_recordings_of_any_length_give_images_of_one_shape(length):
    train, test = speech_features([tone(440), tone(880)], [tone(440, length)])
    assert train.shape == (2, 32, 32, 1)
    assert test.shape == (1, 32, 32, 1)
    assert np.isfinite(test).all()


def test_a_longer_recording_counts_up_to_the_window_and_a_shorter_one_ends_in_silence(rng):
    sound = rng.uniform(-0.5, 0.5, 2 * WINDOW)
    changed = sound.copy()
    changed[WINDOW:] = 0
    short = sound[: WINDOW // 2]
    _, test = speech_features([tone(440)], [sound, changed, sound[:WINDOW], short, np.pad(short, (0, 9000))])
    np.testing.assert_array_equal(test[0], test[1])
    np.testing.assert_array_equal(test[0], test[2])
    np.testing.assert_array_equal(test[3], test[4])
    assert (test[0] != test[3]).any()


def test_silence_is_finite_and_the_quietest_of_all():
    train, test = speech_features([tone(440)], [np.zeros(WINDOW), np.zeros(0)])
    assert np.isfinite(test).all()
    assert np.ptp(test) == 0
    assert test.max() <= train.min()


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_a_training_sample_of_silence_is_refused(n):
    with pytest.raises(ValueError, match="one colour"):
        speech_features([np.zeros(WINDOW)] * n, [])


def test_spectrograms_are_scaled_by_the_training_sample(rng):
    recordings = [tone(frequency) for frequency in (300, 700, 1500)]
    train, test = speech_features(recordings, recordings[:1])
    np.testing.assert_allclose([train.mean(), train.std()], [0, 1], atol=1e-12)
    np.testing.assert_allclose(test[0], train[0], rtol=1e-12)
    again, _ = speech_features(recordings, [rng.uniform(-1, 1, WINDOW)])
    np.testing.assert_array_equal(again, train)


# News


TRAIN = ["stocks rally", "stocks fall", "striker scores"]


def test_a_tiny_vocabulary_gives_1024_columns_all_the_same():
    train, test = text_features(TRAIN, ["stocks"])
    assert train.shape == (3, 1024)
    assert test.shape == (1, 1024)
    assert np.count_nonzero(train.any(axis=0)) == 5
    assert not train[:, 5:].any()


def test_a_large_vocabulary_is_cut_to_the_1024_most_frequent_words():
    texts = [f"common{index % 1000} common{index % 1000} rare{index}" for index in range(2000)]
    texts += [f"frequent{index} " * 50 for index in range(100)]
    train, _ = text_features(texts, [])
    assert train.shape == (2100, 1024)
    assert np.count_nonzero(train.any(axis=0)) == 1024
    assert train[2000:].any(axis=1).all()


def test_training_texts_end_with_mean_square_1():
    train, _ = text_features(TRAIN, [])
    np.testing.assert_allclose(np.mean(train**2), 1, rtol=1e-12)


def test_words_of_the_test_texts_alone_count_for_nothing():
    train, test = text_features(TRAIN, ["zebra giraffe", "stocks zebra", "stocks"])
    assert not test[0].any()
    np.testing.assert_allclose(test[1], test[2], rtol=1e-12)
    np.testing.assert_array_equal(train, text_features(TRAIN, ["rally rally"])[0])


def test_a_text_has_the_same_features_in_the_training_and_in_the_test_sample():
    train, test = text_features(TRAIN, TRAIN)
    np.testing.assert_allclose(test, train, rtol=1e-12)


def test_a_rarer_word_weighs_more_than_a_common_one():
    train, _ = text_features(TRAIN, [])
    # Words are columns in alphabetical order: fall, rally, scores, stocks, striker.
    assert train[0, 1] > train[0, 3] > 0
    # The inverse document frequencies, smoothed: ln(4/2) + 1 of one text in three, ln(4/3) + 1 of two.
    np.testing.assert_allclose(train[0, 1] / train[0, 3], (np.log(2) + 1) / (np.log(4 / 3) + 1), rtol=1e-12)


@pytest.mark.parametrize(
    ("features", "train"),
    [(image_features, np.arange(8.0).reshape(2, 2, 2, 1)), (speech_features, [tone(440)]), (text_features, TRAIN)],
)
def test_an_empty_test_sample_keeps_the_shape_of_an_example(features, train):
    scaled, test = features(train, train[:0])
    assert test.shape == (0, *scaled.shape[1:])
