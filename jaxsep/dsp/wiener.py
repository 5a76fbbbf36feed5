"""The multichannel Wiener filter by expectation maximisation: in one call, and in pieces that stream a long track.

No transforms, no files. The algorithm is that of norbert and of Open-Unmix, rearranged so that float32 holds it.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from jax import lax
from jaxtyping import Array, Complex, Float

from jaxsep.config import Config
from jaxsep.errors import SeparationError
from jaxsep.typing import SourceMagnitude, Spectrogram

# Spectrograms of the sources and, where the config asks for it, of the residual: 'estimate' counts both.
Estimates: TypeAlias = Complex[Array, "*batch estimate frame freq channel"]

# Summing 64 frames, then the sums, takes 0.7 of the time on a CPU and rounds little in whatever order a backend adds.
_FRAMES_PER_PARTIAL_SUM = 64
# A bin with a smaller squared magnitude is silent and its phase zero: the next smaller squares are denormal.
_SILENT_POWER = 1e-37


class WienerConfig(Config):
    """How sources are filtered out of the mixture.

    Attributes:
        iterations: Of expectation maximisation; 0 gives the initial estimates.
        softmask: The initial estimates: True for the mixture times each source's share of the summed magnitudes,
            False for the magnitudes with the phase of the mixture.
        residual: Whether the mixture minus all initial estimates joins them as one more source, the last.
        eps: Added to the summed magnitudes and to the summed powers; its square root is the power of the white noise
            that the filter allows for.
        scale_reference: A mixture with magnitudes above it is filtered as if scaled down to it.
        block_frames: Filter blocks of that many frames, each by statistics and a scale of its own; None: all as one.
    """

    iterations: int = pydantic.Field(default=1, ge=0)
    softmask: bool = True
    residual: bool = False
    eps: float = pydantic.Field(default=float(np.finfo(np.float32).eps), gt=0)
    scale_reference: float = pydantic.Field(default=10.0, gt=0)
    block_frames: int | None = pydantic.Field(default=None, gt=0)


NORBERT = WienerConfig()
OPEN_UNMIX = WienerConfig(softmask=False, eps=1e-10, block_frames=300)


class WienerStatistics(NamedTuple):
    """What an iteration has to know of all frames; the statistics of parts of a track add up to those of the track.

    Sums are of estimates as they are, not scaled: how the scale enters is the business of `spatial_model`.

    Attributes:
        covariances: The sums over frames of y y^H, in the coordinates of the basis: U^H (sum y y^H) U.
        basis: U, unitary, per bin: the coordinates in which the channels are multiplied. For two channels its first
            vector points along most of the mixture, so that the little that is off it is not the difference of large
            numbers: without that, centred and panned sources lose up to 90 dB of agreement with float64.
        peak_power: The largest |x|^2 of the mixture.
    """

    covariances: Complex[Array | np.ndarray, "*batch estimate freq channel channel"]
    basis: Complex[Array | np.ndarray, "*batch freq channel channel"]
    peak_power: Float[Array | np.ndarray, "*batch"]


class SpatialModel(NamedTuple):
    """Where each source is, bin by bin, for a mixture divided by its scale.

    Attributes:
        covariances: R_j, the spatial covariances.
        products: R_j adj(R_k) for each pair of sources; None unless there are two channels.
        determinants: The traces of those products, not negative: 2 det(R_j) for j = k. None like them.
        scale: What mixture and estimates are divided by.
    """

    covariances: Complex[Array, "*batch estimate freq channel channel"]
    products: Complex[Array, "*batch estimate estimate freq channel channel"] | None
    determinants: Float[Array, "*batch estimate estimate freq"] | None
    scale: Float[Array, "*batch"]


def wiener_filter(magnitudes: SourceMagnitude, mixture: Spectrogram, *, config: WienerConfig) -> Estimates:
    """Filters the sources out of the mixture, by what their magnitudes say of their power and place.

    Pure and differentiable; `config` is static under `jax.jit`. Each entry of the batch axes is a track of its own.
    Follows norbert.wiener (the simplified EM of Nugraha et al., 2016) and openunmix.filtering.wiener; for one or two
    channels the result in float32 lies closer to theirs in float64 than theirs in float32 does. More channels are
    solved without such care.

    Args:
        magnitudes: The estimated magnitudes of the sources, not their powers.
        mixture: The spectrogram of the mixture.
        config: Which variant.

    Returns:
        The spectrograms of the sources, and last that of the residual where the config asks for it.
    """
    if config.block_frames is not None and config.iterations > 0:
        whole = config.model_copy(update={"block_frames": None})
        block_frames = min(config.block_frames, mixture.shape[-3])
        blocks = wiener_filter(
            jnp.moveaxis(_split_frames(magnitudes, block_frames), -4, -5),
            _split_frames(mixture, block_frames),
            config=whole,
        )
        estimates = jnp.moveaxis(blocks, -5, -4)
        estimates = estimates.reshape(*estimates.shape[:-4], -1, *estimates.shape[-2:])
        return estimates[..., : mixture.shape[-3], :, :]
    estimates = initial_estimates(magnitudes, mixture, config=config)
    for _ in range(config.iterations):
        # Without the barrier XLA computes the estimates anew for each of their uses: 1.7 times the time on a CPU.
        estimates = lax.optimization_barrier(estimates)
        model = spatial_model(chunk_statistics(estimates, mixture), config=config)
        estimates = filter_step(estimates, mixture, model, config=config)
    return estimates


def initial_estimates(magnitudes: SourceMagnitude, mixture: Spectrogram, *, config: WienerConfig) -> Estimates:
    """Gives each source a phase: what `wiener_filter` starts from. Frames are independent.

    Args:
        magnitudes: The estimated magnitudes of the sources.
        mixture: The spectrogram of the mixture.
        config: Says which initialisation, and whether the residual is a source.
    """
    sources = _along(magnitudes, -4)
    real, imag = mixture.real, mixture.imag
    if config.softmask:
        factor = 1 / (config.eps + sum(sources))
        real, imag = real * factor, imag * factor
    else:
        power = real**2 + imag**2
        silent = power < _SILENT_POWER
        factor = lax.rsqrt(jnp.where(silent, 1.0, power))
        real, imag = jnp.where(silent, 1.0, real * factor), jnp.where(silent, 0.0, imag * factor)
    estimates = [lax.complex(source * real, source * imag) for source in sources]
    if config.residual:
        estimates.append(mixture - sum(estimates))
    return jnp.stack(estimates, -4)


def chunk_statistics(estimates: Estimates, mixture: Spectrogram) -> WienerStatistics:
    """Sums over the frames of a chunk, or of a whole track, what the next iteration has to know of them.

    Frames that only fill up a chunk have to be zero in both arrays. With `block_frames` each block is a track.

    Args:
        estimates: The estimates before that iteration.
        mixture: The mixture in the same frames.
    """
    basis = _principal_basis(mixture)
    return WienerStatistics(
        covariances=_summed_covariances(estimates, basis[..., None, :, :, :]),
        basis=basis,
        peak_power=jnp.max(mixture.real**2 + mixture.imag**2, axis=(-3, -2, -1)),
    )


def accumulate_statistics(chunks: Iterable[WienerStatistics]) -> WienerStatistics:
    """Adds up the statistics of the chunks of a track, on the host and in float64.

    Float64 needs no favourable basis, and chunks come with different ones: the sums are of the channels as they are.

    Args:
        chunks: Of one track, in any order, without overlap; an iterator will do.

    Raises:
        SeparationError: There is no chunk.
    """
    covariances, peak_power = None, None
    for chunk in chunks:
        basis = np.asarray(chunk.basis, np.complex128)[..., None, :, :, :]
        turned_back = basis @ np.asarray(chunk.covariances, np.complex128) @ np.conj(np.swapaxes(basis, -1, -2))
        peak = np.asarray(chunk.peak_power, np.float64)
        covariances = turned_back if covariances is None else covariances + turned_back
        peak_power = peak if peak_power is None else np.maximum(peak_power, peak)
    if covariances is None or peak_power is None:
        raise SeparationError("there are no statistics to add up: a track has at least one chunk; give its chunks.")
    shape = (*covariances.shape[:-4], *covariances.shape[-3:])
    return WienerStatistics(covariances, np.broadcast_to(np.eye(shape[-1], dtype=np.complex128), shape), peak_power)


def spatial_model(statistics: WienerStatistics, *, config: WienerConfig) -> SpatialModel:
    """Estimates where the sources are: R = sum y y^H / (eps + sum v) per bin, v being the mean power of the channels.

    With mixture and estimates divided by the scale m both sums are divided by m^2, which leaves R as it is but for
    eps m^2 in the place of eps.

    Args:
        statistics: Of all frames: arrays of the device, or of the host in float64, which is kept up to the result.
        config: Gives `eps` and `scale_reference`.
    """
    xp: Any = np if isinstance(statistics.covariances, np.ndarray) else jnp
    reference = config.scale_reference
    # The root of at least reference^2 is differentiable where the mixture is silent.
    scale = xp.maximum(xp.sqrt(xp.maximum(statistics.peak_power, reference**2)) / reference, 1.0)
    channels = statistics.covariances.shape[-1]
    power = xp.trace(statistics.covariances, axis1=-2, axis2=-1).real / channels
    weight = power + config.eps * (scale**2)[..., None, None]
    covariances = statistics.covariances / weight[..., None, None]
    basis = statistics.basis[..., None, :, :, :]
    model = SpatialModel(_turn_back(covariances, basis), None, None, scale)
    if channels == 2:
        products = _multiply(covariances[..., :, None, :, :, :], _adjugate(covariances)[..., None, :, :, :, :])
        determinants = xp.maximum(xp.trace(products, axis1=-2, axis2=-1).real, 0.0)
        model = model._replace(products=_turn_back(products, basis[..., None, :, :, :]), determinants=determinants)
    # jnp.asarray would compile a program for the shape of each.
    return jax.device_put(model)


def filter_step(estimates: Estimates, mixture: Spectrogram, model: SpatialModel, *, config: WienerConfig) -> Estimates:
    """Filters each frame of the mixture once: y_j = v_j R_j C^-1 x with C = s I + sum_k v_k R_k and s = sqrt(eps).

    Two channels are solved in closed form. C is all but singular wherever the sources stand at one place, as in a
    mono recording, so that s would drown in a determinant or an adjugate formed from its entries. Instead, adj being
    linear and adj(I) = I,

        C^-1 = (s I + sum_k v_k adj(R_k)) / det(C)
        det(C) = s^2 + s sum_k v_k tr(R_k) + 1/2 sum_jk v_j v_k tr(R_j adj(R_k))

    where no term is negative, and R_j adj(R_k), which vanishes for sources at the same place, is made once per bin.

    Args:
        estimates: The estimates before the iteration.
        mixture: The mixture in the same frames.
        model: Of the whole track.
        config: Gives `eps`.
    """
    channels = mixture.shape[-1]
    share = 1 / (channels * model.scale**2)[..., None, None]
    powers = [sum(_power(channel) for channel in _along(source, -1)) * share for source in _along(estimates, -4)]
    noise = float(np.sqrt(config.eps))
    if channels == 1:
        # The second eps is norbert's, for one channel only.
        filtered = _filter_one_channel(powers, mixture, model, noise + config.eps)
    elif channels == 2:
        filtered = _filter_two_channels(powers, mixture, model, noise)
    else:
        filtered = _filter_any_channels(powers, mixture, model, noise)
    return jnp.stack(filtered, -4)


def _filter_one_channel(
    powers: list[Array], mixture: Spectrogram, model: SpatialModel, noise: float
) -> list[Spectrogram]:
    covariances = _along(model.covariances[..., 0, 0].real[..., None, :], -3)
    parts = [power * covariance for power, covariance in zip(powers, covariances, strict=True)]
    denoised = mixture / sum(parts, start=jnp.asarray(noise))[..., None]
    return [part[..., None] * denoised for part in parts]


def _filter_two_channels(
    powers: list[Array], mixture: Spectrogram, model: SpatialModel, noise: float
) -> list[Spectrogram]:
    assert model.products is not None and model.determinants is not None
    sources = range(len(powers))
    # Per bin, broadcast over frames.
    determinants = [[model.determinants[..., j, k, None, :] for k in sources] for j in sources]
    traces = _along(jnp.trace(model.covariances, axis1=-2, axis2=-1).real[..., None, :], -3)
    determinant: Any = noise**2
    for j in sources:
        determinant = determinant + powers[j] * (noise * traces[j] + 0.5 * powers[j] * determinants[j][j])
        for k in range(j):
            determinant = determinant + powers[j] * powers[k] * determinants[j][k]
    left, right = _along(mixture, -1)
    filtered = []
    for j in sources:
        gain = powers[j] / determinant
        channels = []
        for row in range(2):
            entries = []
            for column in range(2):
                covariance = model.covariances[..., j, None, :, row, column]
                real, imag = noise * covariance.real, noise * covariance.imag
                for k in sources:
                    if k != j:
                        product = model.products[..., j, k, None, :, row, column]
                        real, imag = real + powers[k] * product.real, imag + powers[k] * product.imag
                    elif row == column:
                        # R adj(R) = det(R) I.
                        real = real + 0.5 * powers[j] * determinants[j][j]
                entries.append((real, imag))
            (a, b), (c, d) = entries
            real = a * left.real - b * left.imag + c * right.real - d * right.imag
            imag = a * left.imag + b * left.real + c * right.imag + d * right.real
            channels.append(lax.complex(gain * real, gain * imag))
        filtered.append(jnp.stack(channels, -1))
    return filtered


def _filter_any_channels(
    powers: list[Array], mixture: Spectrogram, model: SpatialModel, noise: float
) -> list[Spectrogram]:
    covariances = _along(model.covariances[..., None, :, :, :], -5)
    parts = [power[..., None, None] * covariance for power, covariance in zip(powers, covariances, strict=True)]
    identity = jnp.eye(mixture.shape[-1], dtype=mixture.dtype)
    total = noise * lax.broadcast(identity, parts[0].shape[:-2]) + sum(parts)
    whitened = jnp.linalg.solve(total, mixture[..., None])
    return [_multiply(part, whitened)[..., 0] for part in parts]


def _principal_basis(mixture: Spectrogram) -> Complex[Array, "*batch freq channel channel"]:
    """Returns the eigenvectors of sum x x^H for two channels, else the identity."""
    if mixture.shape[-1] != 2:
        identity = jnp.eye(mixture.shape[-1], dtype=mixture.dtype)
        return lax.broadcast(identity, (*mixture.shape[:-3], mixture.shape[-2]))
    # Any unitary basis gives the same filter, so there is nothing to differentiate.
    first, second, real, imag = _sum_pairs(*_along(lax.stop_gradient(mixture), -1))
    total = jnp.where(first + second > 0, first + second, 1.0)
    difference, real, imag = (first - second) / (2 * total), real / total, imag / total
    cross = jnp.sqrt(real**2 + imag**2)
    radius = jnp.sqrt(difference**2 + cross**2)
    radius = jnp.where(radius > 0, radius, 1.0)
    # Cosine and sine of half the angle of (difference, cross): the smaller is found from the product of both, since
    # the difference of near equals has no digits.
    larger = jnp.sqrt(0.5 + 0.5 * jnp.abs(difference) / radius)
    smaller = cross / (2 * radius * larger)
    # With equal, uncorrelated channels both are the root of a half: a rotation like any other.
    smaller = jnp.where(difference == 0, larger, smaller)
    cosine, sine = jnp.where(difference >= 0, larger, smaller), jnp.where(difference >= 0, smaller, larger)
    norm = jnp.where(cross > 0, cross, 1.0)
    sine = sine * lax.complex(jnp.where(cross > 0, real / norm, 1.0), -imag / norm)
    cosine = cosine.astype(sine.dtype)
    rows = [[cosine, -jnp.conj(sine)], [sine, cosine]]
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


def _summed_covariances(
    estimates: Estimates, basis: Complex[Array, "*batch 1 freq channel channel"]
) -> Complex[Array, "*batch estimate freq channel channel"]:
    """Returns U^H (sum y y^H) U, turning y first."""
    channels = _along(estimates, -1)
    if len(channels) != 2:
        pairs = [[_partial_sum(a * jnp.conj(b)) for b in channels] for a in channels]
        return jnp.stack([jnp.stack(row, -1) for row in pairs], -2)
    turn = jnp.conj(basis)[..., None, :, :, :]
    turned = [turn[..., 0, k] * channels[0] + turn[..., 1, k] * channels[1] for k in range(2)]
    first, second, real, imag = _sum_pairs(*turned)
    cross = lax.complex(real, imag)
    rows = [[first.astype(cross.dtype), cross], [jnp.conj(cross), second.astype(cross.dtype)]]
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


def _sum_pairs(first: Array, second: Array) -> list[Array]:
    """Returns the sums over frames of |a|^2, |b|^2, Re(a b*) and Im(a b*)."""
    products = [
        _power(first),
        _power(second),
        first.real * second.real + first.imag * second.imag,
        first.imag * second.real - first.real * second.imag,
    ]
    # Stacked in front of the bins the four are one loop over the data.
    return _along(_partial_sum(jnp.stack(products, -2), axis=-3), -2)


def _partial_sum(values: Array, axis: int = -2) -> Array:
    """Sums over frames in two levels."""
    whole = values.shape[axis] // _FRAMES_PER_PARTIAL_SUM * _FRAMES_PER_PARTIAL_SUM
    main, rest = jnp.split(values, [whole], axis)
    position = values.ndim + axis
    main = main.reshape(*values.shape[:position], -1, _FRAMES_PER_PARTIAL_SUM, *values.shape[position + 1 :])
    return main.sum(position + 1).sum(position) + rest.sum(position)


def _split_frames(values: Array, block_frames: int) -> Array:
    """Cuts the frames into blocks, a new axis in front; the last is filled up with silence, which adds to no sum."""
    fill = (0, -values.shape[-3] % block_frames)
    padded = jnp.pad(values, [(0, 0)] * (values.ndim - 3) + [fill, (0, 0), (0, 0)])
    return padded.reshape(*values.shape[:-3], -1, block_frames, *values.shape[-2:])


def _along(values: Array, axis: int) -> list[Array]:
    return [lax.index_in_dim(values, index, axis, keepdims=False) for index in range(values.shape[axis])]


def _power(values: Array) -> Array:
    return values.real**2 + values.imag**2


def _adjugate(matrices: Any) -> Any:
    """Returns the adjugates of 2 x 2 matrices."""
    a, b, c, d = (matrices[..., row, column] for row in range(2) for column in range(2))
    xp: Any = np if isinstance(matrices, np.ndarray) else jnp
    return xp.stack([xp.stack([d, -b], -1), xp.stack([-c, a], -1)], -2)


def _multiply(first: Any, second: Any) -> Any:
    """Multiplies small matrices element by element: a matrix unit would round to fewer bits."""
    return (first[..., :, :, None] * second[..., None, :, :]).sum(-2)


def _turn_back(matrices: Any, basis: Any) -> Any:
    """Returns U M U^H."""
    return _multiply(_multiply(basis, matrices), basis.conj().swapaxes(-1, -2))
