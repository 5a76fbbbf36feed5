"""Pictures: what an independent decoder reads of them, colours that are as bright as asked, tones where they belong."""

import io

import av
import numpy as np
import pytest

from train.pictures import colours, encode_png, spectrogram_pictures

RATE = 8000
# Perceived brightness, after which Green (2011) made his colours.
LUMA = np.array([0.30, 0.59, 0.11])


def tone(frequency_hz, level=1.0, seconds=1.0, channels=2):
    time = np.arange(round(seconds * RATE)) / RATE
    return np.repeat(level * np.sin(2 * np.pi * frequency_hz * time)[:, None], channels, axis=1).astype(np.float32)


def brightness_of(picture):
    return picture @ LUMA / 255


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (513, 200)])
def test_ffmpeg_reads_the_pixels_that_were_encoded(shape):
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    with av.open(io.BytesIO(encode_png(picture)), format="png_pipe") as container:
        (frame,) = container.decode(video=0)
    np.testing.assert_array_equal(frame.to_ndarray(format="rgb24"), picture)


def test_colours_are_as_bright_as_asked():
    asked = np.linspace(0, 1, 500)[None]
    found = brightness_of(colours(asked))
    np.testing.assert_allclose(found, asked, atol=0.5 / 255)  # each colour is rounded to a level of 255
    assert np.array_equal(colours(np.array([[-1.0, 0.0, 1.0, 2.0]]))[0], [[0] * 3, [0] * 3, [255] * 3, [255] * 3])


def test_a_tone_is_a_line_at_its_frequency_low_ones_at_the_bottom():
    (picture,) = spectrogram_pictures([tone(1000)])
    height, width, _ = picture.shape
    assert (height, width) == (513, 1 + (8000 - 1024) // 256)
    assert (brightness_of(picture).argmax(axis=0) == 512 - 1000 * 1024 // RATE).all()


def test_levels_are_on_one_scale_of_80_decibels():
    # At the middle of bins: 1000 Hz is bin 128, 2000 Hz is bin 256.
    loud, quiet, silent = spectrogram_pictures([tone(1000), tone(2000, level=0.01), 0 * tone(1000)])
    assert brightness_of(loud)[512 - 128].min() == pytest.approx(1, abs=0.01)
    # 40 dB of 80 below; 0.02 for colours and rounding.
    np.testing.assert_allclose(brightness_of(quiet)[512 - 256], 0.5, atol=0.02)
    assert not silent.any()


def test_long_excerpts_are_no_wider_and_short_ones_are_padded():
    assert spectrogram_pictures([tone(1000, seconds=60)])[0].shape == (513, 800, 3)
    assert spectrogram_pictures([tone(1000, seconds=0.01)])[0].shape == (513, 1, 3)


def test_silence_alone_has_a_picture():
    (picture,) = spectrogram_pictures([0 * tone(1000)])
    assert len(np.unique(picture)) == 1
