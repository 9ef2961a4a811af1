"""How raw examples become inputs. The paper is silent here; every choice is in this file.

- Images: one mean and one standard deviation (scalars) of the training sample's pixels.
- Spoken digits: log-mel spectrograms of fixed length, then as images.
- News: TF-IDF of the training sample's most frequent words, scaled to mean square one.

All end at a mean square of one per input coordinate, so that ``|x|^2 / d`` is about one, as the NTK parameterisation
expects.
"""

import importlib

import numpy as np

SAMPLE_RATE = 8000  # of the recordings, Hz
FRAME = 256  # samples a window: 32 ms
HOP = 128  # samples between windows: 16 ms
FRAMES = 32  # windows kept: 0.5 s, longer than most of the recordings (their median is 0.42 s)
MELS = 32  # bands, from 0 Hz to 4 kHz
WORDS = 1024  # the size of the news vocabulary


def image_features(train, test):
    """Images (n, h, w, c) shifted and scaled by two scalars of the training sample."""
    train, test = np.asarray(train, np.float64), np.asarray(test, np.float64)
    mean, deviation = train.mean(), train.std()
    # Equal values can have a deviation of a rounding error, so that it says nothing here.
    if np.ptp(train) == 0:
        raise ValueError("the training images are all of one colour: they cannot be scaled")
    return (train - mean) / deviation, (test - mean) / deviation


def speech_features(train, test):
    """Recordings as log-mel images (n, 32 windows, 32 bands, 1), scaled as images are."""
    return image_features(_log_mel(train), _log_mel(test))


def _log_mel(recordings):
    from scipy.signal import stft

    filters = _mel_filters()
    images = np.empty((len(recordings), FRAMES, MELS, 1))
    length = FRAME + (FRAMES - 1) * HOP
    for image, samples in zip(images, recordings, strict=True):
        samples = np.asarray(samples, np.float64)[:length]
        padded = np.pad(samples, (0, length - len(samples)))
        _, _, spectrum = stft(padded, SAMPLE_RATE, nperseg=FRAME, noverlap=FRAME - HOP, boundary=None, padded=False)
        # 1e-8 is about the power of the recordings' rounding to 16 bit.
        image[:, :, 0] = np.log(np.abs(spectrum.T) ** 2 @ filters + 1e-8)
    return images


def _mel_filters():
    """Triangular filters (frequencies, bands), equally spaced in mel = 2595 log10(1 + f/700)."""

    def mel(frequency):
        return 2595 * np.log10(1 + frequency / 700)

    frequencies = np.linspace(0, SAMPLE_RATE / 2, FRAME // 2 + 1)
    edges = np.linspace(0, mel(SAMPLE_RATE / 2), MELS + 2)
    rising = (mel(frequencies)[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mel(frequencies)[:, None]) / (edges[2:] - edges[1:-1])
    return np.clip(np.minimum(rising, falling), 0, None)


def text_features(train, test):
    """TF-IDF rows (n, 1024) over the training sample's words; missing words are zero columns."""
    TfidfVectorizer = of_sklearn("feature_extraction.text").TfidfVectorizer

    vectorizer = TfidfVectorizer(max_features=WORDS, stop_words="english", sublinear_tf=True)
    rows = [vectorizer.fit_transform(train).toarray()]
    rows.append(vectorizer.transform(test).toarray() if len(test) else np.empty((0, rows[0].shape[1])))
    rows = [np.pad(part, ((0, 0), (0, WORDS - part.shape[1]))) for part in rows]
    scale = np.sqrt(np.mean(rows[0] ** 2))
    return rows[0] / scale, rows[1] / scale


def of_sklearn(module):
    """A module of scikit-learn, which the data sets need and nothing else does."""
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ModuleNotFoundError:
        raise ModuleNotFoundError("the data sets need scikit-learn, which is not installed: the extra [data]") from None
