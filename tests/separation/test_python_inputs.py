"""What `Separator.separate` takes from Python: all that is an array and a rate; the rest is refused in a sentence."""

import jax.numpy as jnp
import numpy as np
import pytest
from separation.conftest import noise

from jaxsep.errors import AudioError
from jaxsep.separation.separator import Separator, _checked_rate

MIXTURE = noise(3000)


@pytest.fixture
def separator(gains_model):
    return Separator(gains_model())


def on_disk(path):
    np.save(path / "mixture.npy", MIXTURE)
    return np.load(path / "mixture.npy", mmap_mode="r")


def read_only():
    array = MIXTURE.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "make",
    [
        lambda path: MIXTURE.tolist(),
        lambda path: [tuple(frame) for frame in MIXTURE],
        lambda path: jnp.asarray(MIXTURE),
        lambda path: MIXTURE.astype(np.float64),
        lambda path: MIXTURE.astype(">f4"),
        lambda path: np.asfortranarray(MIXTURE),
        lambda path: np.repeat(MIXTURE, 2, axis=0)[::2],
        lambda path: read_only(),
        on_disk,
    ],
    ids=["lists", "tuples", "jax", "float64", "big-endian", "Fortran", "strided", "read-only", "memory map"],
)
def test_whatever_numpy_makes_an_array_of_is_separated_as_the_array_itself(separator, tmp_path, make):
    """The same float32 samples in another container: the same stems, bit for bit."""
    expected = separator.separate(MIXTURE, 44100).stems
    found = separator.separate(make(tmp_path), 44100).stems
    for stem in expected:
        np.testing.assert_array_equal(found[stem], expected[stem])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_mixtures_in_half_precision_are_separated_as_their_values_in_float32(separator, dtype):
    half = np.asarray(MIXTURE, dtype)
    expected = separator.separate(half.astype(np.float32), 44100).stems
    found = separator.separate(half, 44100).stems
    for stem in expected:
        np.testing.assert_array_equal(found[stem], expected[stem])


def test_the_mixture_that_was_given_is_left_as_it_was(separator):
    mixture = MIXTURE.copy()
    separator.separate(mixture, 48000)
    np.testing.assert_array_equal(mixture, MIXTURE)


@pytest.mark.parametrize("shape", [(2, 400), (1, 65), (6, 44100)])
def test_channels_first_are_refused_and_the_sentence_says_transpose(separator, shape):
    with pytest.raises(AudioError, match=rf"{shape[0]} samples of {shape[1]} channels.* transpose it"):
        separator.separate(np.zeros(shape, np.float32), 44100)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 6), (1, 64), (65, 65)])
def test_clips_of_a_few_samples_are_legal(separator, shape):
    """The first source is the mixture itself."""
    mixture = noise(*shape)
    np.testing.assert_allclose(separator.separate(mixture, 44100).stems["stem0"], mixture, atol=1e-6)


@pytest.mark.parametrize(
    ("mixture", "sentence"),
    [
        (np.zeros(100, np.float32), r"not float32 of shape \(100,\); give one channel as mixture\[:, None\]\.$"),
        (np.zeros((2, 100, 2), np.float32), r"not float32 of shape \(2, 100, 2\)\.$"),
        (np.float32(0.5), r"not float32 of shape \(\)\.$"),
        (np.zeros((100, 2), np.int16), r"full scale at 1, not int16"),
        (np.zeros((100, 2), np.complex64), r"full scale at 1, not complex64"),
        (np.zeros((100, 2), bool), r"full scale at 1, not bool"),
        ("song.wav", r"full scale at 1, not <U8"),
        ([[0.1, 0.2], [0.3]], "no array"),
        (np.full((100, 2), 1e300), "all finite"),
        (np.zeros((0, 2), np.float32), "one sample or more"),
        (np.zeros((100, 0), np.float32), "one sample or more"),
    ],
)
def test_what_is_no_mixture_is_refused_in_one_sentence(separator, mixture, sentence):
    with pytest.raises(AudioError, match=sentence) as refused:
        separator.separate(mixture, 44100)
    assert "\n" not in str(refused.value)


RATES = [44100, 44100.0, np.int64(44100), np.uint16(44100), np.float32(44100), np.array(44100), jnp.asarray(44100)]


@pytest.mark.parametrize("rate", RATES, ids=lambda rate: type(rate).__name__)
def test_whole_numbers_of_any_type_are_rates(separator, rate):
    separation = separator.separate(MIXTURE, rate)
    assert type(separation.sample_rate) is int
    assert separation.sample_rate == 44100


@pytest.mark.parametrize(
    "rate",
    [44100.5, "44100", True, np.True_, 0, -1, 0.0, float("nan"), float("inf"), None, [44100], 44100j, 2**70],
    ids=repr,
)
def test_what_is_no_rate_is_refused_in_one_sentence(rate):
    with pytest.raises(AudioError, match=r"^The sample rate is .*; give a whole number of Hz, such as 44100\.$"):
        _checked_rate(rate)
