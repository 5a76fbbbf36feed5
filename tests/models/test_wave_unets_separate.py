"""Checkpoints of the Wave-U-Nets, from file to stems: the moving window, rates, channels, the command line."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from jaxsep.models import FAMILIES
from jaxsep.models.cutting import whole_outputs
from jaxsep.models.spec import ModelSpec
from jaxsep.separation.estimate import estimate_sources
from jaxsep.separation.separator import Separator
from jaxsep.weights.checkpoint import save_checkpoint
from jaxsep.weights.rules import SPECS

SHAPES = {
    "wave-unet-m4": {"levels": 3, "filters": 3},
    "wave-unet-m2": {"levels": 3, "filters": 3},
    "wave-unet-torch": {"filters": (8, 16)},
}


def small_spec(name):
    form = SPECS[name]
    config = type(form.config).parse({**form.config.model_dump(), **SHAPES[name]}, where="the test")
    return ModelSpec.parse(
        {
            **form.model_dump(),
            "config": config,
            "procedure": {"cutting": whole_outputs(*config.lengths(1000), last=form.procedure.cutting.last)},
            "provenance": "made up",
        },
        where="the test",
    )


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = {}
    for name in SHAPES:
        spec = small_spec(name)
        network = FAMILIES[spec.family].module(spec.config)
        mixture = jnp.zeros((spec.procedure.cutting.chunk_length, spec.channels))
        variables = jax.jit(lambda key: network.init(key, mixture, train=False))(jax.random.key(0))  # noqa: B023
        paths[name] = folder / f"{name}.safetensors"
        save_checkpoint(paths[name], spec, variables)
    return paths


@pytest.fixture(scope="module")
def separators(checkpoints):
    return {name: Separator.from_pretrained(path) for name, path in checkpoints.items()}


estimate_whole = jax.jit(estimate_sources, static_argnames=("model", "spec"))


def noise(length, channels, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (length, channels)).astype(np.float32)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("chunks", [0.001, 0.7, 1, 1.3, 2, 3.6])
def test_the_moving_window_gives_what_the_whole_track_gives_whatever_blocks_come(separators, name, chunks):
    separator = separators[name]
    spec = separator.model.spec
    mixture = noise(int(chunks * spec.procedure.cutting.chunk_hop), spec.channels)
    whole = estimate_whole(separator.model.variables, jnp.asarray(mixture), model=separator.model.module, spec=spec)
    assert whole.shape == (len(spec.stems), *mixture.shape)
    for size in (1 + len(mixture) // 3, 10_000):
        blocks = [mixture[start : start + size] for start in range(0, len(mixture), size)]
        streamed = np.concatenate(list(separator.stream(lambda: iter(blocks))), axis=1)  # noqa: B023
        # The same chunks in batches of other shapes: float32 rounding.
        np.testing.assert_allclose(streamed, whole, atol=3e-6)
    assert np.asarray(whole).std() > 1e-3


@pytest.mark.parametrize("name", SHAPES)
def test_every_sample_is_the_networks_own_with_all_of_its_context(separators, name):
    """The last chunk of the original's ends with the track, that of the redesign's sees zeros behind it."""
    separator = separators[name]
    spec, module = separator.model.spec, separator.model.module
    chunking = spec.procedure.cutting
    mixture = noise(3 * chunking.chunk_hop + chunking.chunk_length + 77, spec.channels)
    stems = separator.separate(mixture, spec.sample_rate).stems
    padded = np.pad(mixture, [(chunking.context, chunking.chunk_length), (0, 0)])
    hop = chunking.chunk_hop
    places = [*range(0, len(mixture) - hop, hop)]
    last = len(mixture) - hop if spec.family == "wave_unet" else places[-1] + hop
    apply = jax.jit(partial(module.apply, train=False))
    for start in (*places[:2], last):
        seen = jnp.asarray(padded[start : start + chunking.chunk_length])
        expected = np.asarray(apply(separator.model.variables, seen))
        for stem, estimate in zip(spec.stems, expected, strict=True):
            found = stems[stem][start : start + hop]
            np.testing.assert_allclose(found, estimate[: len(found)], atol=3e-6)  # float32 rounding


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("sample_rate", "channels", "length"), [(44100, 2, 9001), (48000, 1, 3000), (8000, 3, 1)])
def test_stems_have_the_rate_channels_and_length_of_any_mixture(separators, name, sample_rate, channels, length):
    separation = separators[name].separate(noise(length, channels), sample_rate)
    assert separation.sample_rate == sample_rate
    assert {waveform.shape for waveform in separation.stems.values()} == {(length, channels)}
    assert tuple(separation.stems) == separators[name].model.spec.stems


def test_stems_that_are_asked_for_are_those_of_all(checkpoints, separators):
    mixture = noise(5000, 2)
    every = separators["wave-unet-torch"].separate(mixture, 44100).stems
    one = Separator.from_pretrained(checkpoints["wave-unet-torch"], stems=["vocals"]).separate(mixture, 44100).stems
    assert list(one) == ["vocals"]
    np.testing.assert_allclose(one["vocals"], every["vocals"], atol=1e-6)  # another program: float32 rounding


def test_the_command_line_separates_with_a_checkpoint_of_ones_own(checkpoints, tmp_path):
    soundfile.write(tmp_path / "song.wav", noise(20_000, 2), 44100)
    # In a process of its own, because the command line sets JAX up for the whole of its process.
    command = [Path(sys.executable).with_name("jaxsep"), "separate", "song.wav", "-o", "out", "--residual"]
    environment = {**os.environ, "JAXSEP_CACHE": str(tmp_path / "cache")}
    subprocess.run(
        [*command, "-m", checkpoints["wave-unet-m4"]],
        cwd=tmp_path,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    for stem in ("vocals", "accompaniment", "residual"):
        waveform, sample_rate = soundfile.read(tmp_path / "out" / "song" / f"{stem}.wav")
        assert (waveform.shape, sample_rate) == ((20_000, 2), 44100)
        assert np.abs(waveform).max() > 1e-3
    done = subprocess.run(
        [*command, "-m", checkpoints["wave-unet-m4"], "--wiener", "--overwrite"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0 and "works on waveforms" in done.stderr
