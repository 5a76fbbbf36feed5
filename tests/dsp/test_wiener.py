import functools
import importlib
import importlib.util
import sys
import types
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from weights.published import wheel

from jaxsep.dsp.wiener import (
    NORBERT,
    OPEN_UNMIX,
    SpatialModel,
    WienerConfig,
    WienerStatistics,
    accumulate_statistics,
    chunk_statistics,
    filter_step,
    initial_estimates,
    spatial_model,
    wiener_filter,
)
from jaxsep.errors import SeparationError

with warnings.catch_warnings():
    # norbert 0.2.1 asks scipy for a name that is deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    import norbert

compiled = jax.jit(wiener_filter, static_argnames="config")

# Float32 carries 24 bits: -144 dB. Each number passes some ten roundings, and the inverse of a covariance magnifies
# what the inputs of an iteration lost: 24 dB are left for that. Norbert's own complex64 is at -28 to -148 dB.
FLOAT32_DB = -120.0
# The same formulas in float64: -313 dB, the same 24 dB, and 60 dB for norbert's determinant, the difference of products
# of numbers up to 1e3 times as large as the noise that keeps it from zero.
FLOAT64_DB = -313.0 + 24 + 60


def sources_and_mixture(
    *, sources: int, channels: int, frames: int = 50, bins: int = 5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns magnitudes, off the true ones, and mixture: float64 and complex128, with values exact in float32.

    Each source is of one place per bin plus something diffuse, and comes and goes: mixtures are peaky (above 10, so
    that they are scaled) and pauses occur.
    """
    rng = np.random.default_rng(seed)

    def noise(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)

    signals = noise(sources, frames, bins, 1) * noise(sources, 1, bins, channels)
    signals = (signals + 0.1 * noise(sources, frames, bins, channels)) * rng.gamma(0.5, 4, (sources, frames, 1, 1))
    magnitudes = np.abs(signals) * np.exp(0.3 * rng.standard_normal(signals.shape))
    return in_float32(magnitudes, signals.sum(0))


def in_float32(magnitudes: np.ndarray, mixture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return magnitudes.astype(np.float32).astype(np.float64), mixture.astype(np.complex64).astype(np.complex128)


@functools.cache
def music() -> tuple[np.ndarray, np.ndarray]:
    """Returns magnitudes of four stems, off by noise, and the mixture of six seconds of rock: every fourth bin."""
    import av

    specification = importlib.util.find_spec("stempeg")
    assert specification is not None and specification.origin is not None
    (path,) = (Path(specification.origin).parent / "data").glob("*.stem.mp4")
    spectra = []
    for stream in range(5):
        with av.open(str(path)) as container:
            blocks = [frame.to_ndarray() for frame in container.decode(audio=stream)]
        audio = np.concatenate(blocks, axis=-1).T
        frames = np.lib.stride_tricks.sliding_window_view(audio, 4096, axis=0)[::1024]
        spectra.append(np.fft.rfft(frames * np.hanning(4096), axis=-1)[..., :1024:4].swapaxes(-1, -2))
    mixture, stems = spectra[0], np.stack(spectra[1:])
    rng = np.random.default_rng(0)
    return in_float32(np.abs(stems) * np.exp(0.3 * rng.standard_normal(stems.shape)), mixture)


def norbert_wiener(
    magnitudes: np.ndarray, mixture: np.ndarray, config: WienerConfig, dtype: type = np.complex128
) -> np.ndarray:
    # norbert scales the mixture in place, hence the copy; eps is explicit, since it would follow the precision.
    arguments = np.moveaxis(magnitudes, 0, -1).astype(np.zeros(0, dtype).real.dtype), mixture.astype(dtype)
    with np.errstate(all="ignore"):
        estimates = norbert.wiener(*arguments, config.iterations, config.softmask, config.eps)
    return np.moveaxis(estimates, -1, 0)


def jaxsep_wiener(magnitudes: np.ndarray, mixture: np.ndarray, config: WienerConfig) -> np.ndarray:
    return np.asarray(compiled(jnp.asarray(magnitudes), jnp.asarray(mixture), config=config))


def difference_db(estimates: np.ndarray, expected: np.ndarray, mixture: np.ndarray) -> float:
    """Returns the root mean square of the difference in dB below that of the mixture."""
    assert estimates.shape == expected.shape
    assert np.isfinite(estimates).all()
    error, level = (np.sqrt(np.mean(np.abs(values) ** 2)) for values in (estimates - expected, mixture))
    return float(20 * np.log10(error / level + 1e-30))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("softmask", [True, False])
@pytest.mark.parametrize("iterations", [0, 1, 2, 3])
def test_filter_matches_norbert(iterations: int, softmask: bool, channels: int) -> None:
    magnitudes, mixture = sources_and_mixture(sources=2, channels=channels)
    config = WienerConfig(iterations=iterations, softmask=softmask)
    expected = norbert_wiener(magnitudes, mixture, config)
    assert difference_db(jaxsep_wiener(magnitudes, mixture, config), expected, mixture) < FLOAT32_DB


@pytest.mark.parametrize("sources", [1, 3, 4])
def test_filter_of_each_number_of_sources_matches_norbert(sources: int) -> None:
    magnitudes, mixture = sources_and_mixture(sources=sources, channels=2, seed=1)
    expected = norbert_wiener(magnitudes, mixture, NORBERT)
    assert difference_db(jaxsep_wiener(magnitudes, mixture, NORBERT), expected, mixture) < FLOAT32_DB


@pytest.mark.parametrize("channels", [1, 2])
def test_filter_in_float64_matches_norbert(channels: int) -> None:
    magnitudes, mixture = sources_and_mixture(sources=3, channels=channels)
    config = WienerConfig(iterations=2)
    expected = norbert_wiener(magnitudes, mixture, config)
    with jax.enable_x64(True):
        estimates = jaxsep_wiener(magnitudes, mixture, config)
    assert difference_db(estimates, expected, mixture) < FLOAT64_DB


@pytest.mark.parametrize("iterations", [1, 2])
def test_filter_of_four_channels_matches_the_formulas_in_float64(iterations: int) -> None:
    magnitudes, mixture = sources_and_mixture(sources=3, channels=4)
    config = WienerConfig(iterations=iterations)
    scale = max(1.0, np.abs(mixture).max() / 10)
    x = mixture / scale
    y = x * magnitudes / (config.eps + magnitudes.sum(0))
    for _ in range(iterations):
        v = np.mean(np.abs(y) ** 2, axis=-1)
        r = np.einsum("jtfa,jtfb->jfab", y, y.conj()) / (config.eps + v.sum(1))[..., None, None]
        c = np.sqrt(config.eps) * np.eye(4) + np.einsum("jtf,jfab->tfab", v, r)
        y = np.einsum("jtf,jfab,tfbc,tfc->jtfa", v, r, np.linalg.inv(c), x)
    # Here the covariances are inverted as they are, and float32 has what their condition, up to 1e6, leaves of it.
    assert difference_db(jaxsep_wiener(magnitudes, mixture, config), y * scale, mixture) < -70
    with jax.enable_x64(True):
        estimates = jaxsep_wiener(magnitudes, mixture, config)
    assert difference_db(estimates, y * scale, mixture) < FLOAT64_DB


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("softmask", [False, True])
def test_filter_in_blocks_matches_open_unmix(residual: bool, softmask: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # openunmix asks for torchaudio at import and uses none of it in its filter.
    monkeypatch.setitem(sys.modules, "torchaudio", types.ModuleType("torchaudio"))
    monkeypatch.syspath_prepend(wheel("openunmix"))
    filtering = importlib.import_module("openunmix.filtering")
    magnitudes, mixture = sources_and_mixture(sources=2, channels=2, frames=320, bins=3)
    config = OPEN_UNMIX.model_copy(update={"residual": residual, "softmask": softmask})
    blocks = []
    # openunmix.model.Separator cuts the track into windows of 300 frames.
    for start in range(0, 320, 300):
        block = slice(start, start + 300)
        filtered = filtering.wiener(
            torch.tensor(np.moveaxis(magnitudes[:, block], 0, -1)),
            torch.view_as_real(torch.tensor(mixture[block])),
            1,
            softmask=softmask,
            residual=residual,
        )
        blocks.append(np.moveaxis(filtered.numpy(), -1, 0))
    expected = np.ascontiguousarray(np.concatenate(blocks, axis=1)).view(np.complex128)[..., 0]
    assert difference_db(jaxsep_wiener(magnitudes, mixture, config), expected, mixture) < FLOAT32_DB


@pytest.mark.parametrize("config", [NORBERT, NORBERT.model_copy(update={"iterations": 3})], ids=["once", "thrice"])
def test_filter_of_music_is_nearer_to_norbert_in_complex128_than_its_complex64(config: WienerConfig) -> None:
    magnitudes, mixture = music()
    expected = norbert_wiener(magnitudes, mixture, config)
    single = norbert_wiener(magnitudes, mixture, config, np.complex64)
    ours = difference_db(jaxsep_wiener(magnitudes, mixture, config), expected, mixture)
    assert ours < FLOAT32_DB
    # 38 and 78 dB nearer when measured.
    assert ours < difference_db(single, expected, mixture) - 20


def panned(gain: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the music as a mono recording put at one place."""
    magnitudes, mixture = music()
    return in_float32(magnitudes[:, :, ::4, :1] * np.abs(gain), mixture[:, ::4, :1] * np.array(gain))


def scaled(gain: float) -> tuple[np.ndarray, np.ndarray]:
    magnitudes, mixture = music()
    return in_float32(magnitudes[:, :, ::4] * gain, mixture[:, ::4] * gain)


def with_a_silent_source() -> tuple[np.ndarray, np.ndarray]:
    magnitudes, mixture = scaled(1.0)
    magnitudes[1] = 0
    return magnitudes, mixture


DEGENERATE = {
    "dual mono": lambda: panned((1.0, 1.0)),
    "mono panned halfway": lambda: panned((1.0, 0.3)),
    "inverted": lambda: panned((1.0, -1.0)),
    "left only": lambda: panned((1.0, 0.0)),
    "right only": lambda: panned((0.0, 1.0)),
    "a silent source": with_a_silent_source,
    "100 dB louder": lambda: scaled(1e5),
    "80 dB softer": lambda: scaled(1e-4),
}


@pytest.mark.parametrize(
    "config", [NORBERT, OPEN_UNMIX.model_copy(update={"block_frames": None})], ids=["norbert", "umx"]
)
@pytest.mark.parametrize("case", DEGENERATE)
def test_filter_of_degenerate_mixtures_matches_norbert_in_complex128(case: str, config: WienerConfig) -> None:
    magnitudes, mixture = DEGENERATE[case]()
    expected = norbert_wiener(magnitudes, mixture, config)
    assert difference_db(jaxsep_wiener(magnitudes, mixture, config), expected, mixture) < FLOAT32_DB


@pytest.mark.parametrize("config", [NORBERT, OPEN_UNMIX], ids=["norbert", "umx"])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_filter_of_silence_is_silence(channels: int, config: WienerConfig) -> None:
    magnitudes, mixture = sources_and_mixture(sources=2, channels=channels)
    estimates = jaxsep_wiener(magnitudes, np.zeros_like(mixture), config)
    np.testing.assert_array_equal(estimates, np.zeros_like(magnitudes))
    estimates = jaxsep_wiener(np.zeros_like(magnitudes), np.zeros_like(mixture), config)
    np.testing.assert_array_equal(estimates, np.zeros_like(magnitudes))


@pytest.mark.parametrize("config", [NORBERT, OPEN_UNMIX], ids=["norbert", "umx"])
def test_gradient_matches_finite_differences_and_is_finite_everywhere(config: WienerConfig) -> None:
    magnitudes, mixture = sources_and_mixture(sources=2, channels=2, frames=6, bins=2)
    config = config.model_copy(update={"residual": True})
    rng = np.random.default_rng(1)
    weights = rng.standard_normal((2, 3, *mixture.shape))

    def projected(magnitudes: jax.Array, real: jax.Array, imag: jax.Array) -> jax.Array:
        estimates = wiener_filter(magnitudes, jax.lax.complex(real, imag), config=config)
        return jnp.sum(estimates.real * weights[0] + estimates.imag * weights[1])

    gradient = jax.jit(jax.value_and_grad(projected, argnums=(0, 1, 2)))
    arguments = [magnitudes, mixture.real.copy(), mixture.imag.copy()]
    with jax.enable_x64(True):
        _, gradients = gradient(*arguments)
        for _ in range(3):
            direction = [rng.standard_normal(values.shape) * np.abs(values) for values in arguments]
            step = 1e-5
            ahead, behind = (
                gradient(*[a + sign * step * d for a, d in zip(arguments, direction, strict=True)])[0]
                for sign in (1, -1)
            )
            expected = (ahead - behind) / (2 * step)
            slope = sum(np.sum(g * d) for g, d in zip(gradients, direction, strict=True))
            # Central differences are off by step^2 times a third derivative, and by 1e-16 / step = 1e-11 of the value.
            np.testing.assert_allclose(slope, expected, rtol=1e-5)

    dual_mono = [np.repeat(values[..., :1], 2, axis=-1) for values in arguments]
    silent_mixture = [magnitudes, *np.zeros((2, *mixture.shape))]
    silence = [np.zeros_like(magnitudes), *np.zeros((2, *mixture.shape))]
    for case in (arguments, dual_mono, silent_mixture, silence):
        for values in jax.tree.leaves(gradient(*[jnp.asarray(values, jnp.float32) for values in case])):
            assert np.isfinite(values).all()


@pytest.mark.parametrize(
    "config", [NORBERT, OPEN_UNMIX.model_copy(update={"block_frames": 20})], ids=["norbert", "umx"]
)
def test_batch_and_vmap_equal_each_alone(config: WienerConfig) -> None:
    tracks = [sources_and_mixture(sources=2, channels=2, frames=30, seed=seed) for seed in range(3)]
    magnitudes, mixtures = (jnp.asarray(np.stack(values)) for values in zip(*tracks, strict=True))
    # Each track has a peak, and so a scale, of its own.
    mixtures = mixtures * jnp.asarray([1.0, 0.1, 3.0])[:, None, None, None]
    together = compiled(magnitudes, mixtures, config=config)
    mapped = jax.jit(jax.vmap(functools.partial(wiener_filter, config=config)))(magnitudes, mixtures)
    alone = np.stack([jaxsep_wiener(*track, config) for track in zip(magnitudes, mixtures, strict=True)])
    # XLA may order sums otherwise for another shape: float32's rounding, as above.
    assert difference_db(np.asarray(together), alone, np.asarray(mixtures)) < FLOAT32_DB
    assert difference_db(np.asarray(mapped), alone, np.asarray(mixtures)) < FLOAT32_DB


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_pieces_streamed_over_chunks_match_norbert_on_the_whole(channels: int) -> None:
    magnitudes, mixture = sources_and_mixture(sources=3, channels=channels, frames=100)
    config = WienerConfig(iterations=2)
    # The last chunk is filled up with silence; the others have another peak and another principal axis each.
    filled = [
        np.pad(values, [(0, 0)] * (values.ndim - 3) + [(0, 8), (0, 0), (0, 0)]) for values in (magnitudes, mixture)
    ]
    chunks = [
        (jnp.asarray(filled[0][:, start : start + 36]), jnp.asarray(filled[1][start : start + 36]))
        for start in (0, 36, 72)
    ]
    models: list[SpatialModel] = []

    @jax.jit
    def estimates(models: list[SpatialModel], magnitudes: jax.Array, mixture: jax.Array) -> jax.Array:
        current = initial_estimates(magnitudes, mixture, config=config)
        for model in models:
            current = filter_step(current, mixture, model, config=config)
        return current

    statistics = jax.jit(chunk_statistics)
    for _ in range(config.iterations):
        total = accumulate_statistics(statistics(estimates(models, *chunk), chunk[1]) for chunk in chunks)
        models.append(spatial_model(total, config=config))
    streamed = np.concatenate([estimates(models, *chunk) for chunk in chunks], axis=1)
    if channels == 3:
        # norbert inverts three channels by a truncated pseudo-inverse, so the whole stands in: it was compared above.
        expected = jaxsep_wiener(magnitudes, mixture, config)
        assert difference_db(streamed[:, :100], expected, mixture) < -70
    else:
        expected = norbert_wiener(magnitudes, mixture, config)
        assert difference_db(streamed[:, :100], expected, mixture) < FLOAT32_DB
    assert not streamed[:, 100:].any()


@pytest.mark.parametrize("channels", [1, 2])
def test_sums_over_40000_frames_match_float64(channels: int) -> None:
    rng = np.random.default_rng(0)
    # Of one sign: rounding that has a direction would add up.
    estimates = (1 + 0.1 * rng.standard_normal((1, 40_001, 2, channels))).astype(np.complex64)
    statistics = jax.jit(chunk_statistics)(jnp.asarray(estimates), jnp.asarray(estimates[0]))
    total = accumulate_statistics([statistics])
    expected = np.einsum("jtfa,jtfb->jfab", *[estimates.astype(np.complex128)] * 2)
    # A running sum in float32 is off by 8e-6 here, partial sums by some multiples of the unit roundoff of 6e-8.
    np.testing.assert_allclose(total.covariances, expected, rtol=5e-7)
    np.testing.assert_allclose(total.peak_power, np.abs(estimates).max() ** 2, rtol=2e-7)


def test_scale_enters_as_the_square_of_eps_only() -> None:
    magnitudes, mixture = sources_and_mixture(sources=2, channels=2)
    y = mixture * magnitudes / magnitudes.sum(0)
    statistics = jax.device_get(chunk_statistics(jnp.asarray(y), jnp.asarray(mixture)))
    model = spatial_model(accumulate_statistics([statistics]), config=WienerConfig(eps=1e-2))
    scale = np.abs(mixture).max() / 10
    assert scale > 1
    v = np.mean(np.abs(y / scale) ** 2, axis=-1).sum(1)
    expected = np.einsum("jtfa,jtfb->jfab", y / scale, y.conj() / scale) / (1e-2 + v)[..., None, None]
    # Float32's roundoff, and the same again from the sums.
    np.testing.assert_allclose(model.covariances, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(model.scale, scale, rtol=1e-6)


def test_no_chunks_are_refused() -> None:
    chunks: list[WienerStatistics] = []
    with pytest.raises(SeparationError, match="at least one chunk"):
        accumulate_statistics(chunks)
