"""The objective: from a batch of mixtures and sources to one number, for networks on magnitudes and on waveforms.

Pure functions. The transform and masks around a network are those of its domain, as in separation; what each loss
computes is in losses.py.
"""

from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import pydantic
from jaxtyping import Array, Float, PRNGKeyArray

from jaxsep.config import Config
from jaxsep.errors import ConfigError, SeparationError
from jaxsep.models.spec import ModelSpec
from jaxsep.training import losses
from jaxsep.typing import Variables

LossKind = Literal[
    "magnitude_l1",
    "magnitude_l2",
    "waveform_l1",
    "waveform_l2",
    "multi_resolution_stft",
    "negative_sdr",
    "negative_si_sdr",
    "log_wmse",
]
_ON_MAGNITUDES = {"magnitude_l1": losses.l1, "magnitude_l2": losses.l2}
_ON_WAVEFORMS = {
    "waveform_l1": losses.l1,
    "waveform_l2": losses.l2,
    "multi_resolution_stft": losses.multi_resolution_stft,
    "negative_sdr": losses.negative_sdr,
    "negative_si_sdr": losses.negative_si_sdr,
}


class LossTerm(Config):
    """One summand of the objective.

    Attributes:
        kind: Which loss. Those on magnitudes compare what the network gives with the sources' own magnitudes in its
            bins; those on waveforms compare what comes out of masks and inverse transform.
        weight: Factor.
    """

    kind: LossKind
    weight: float = pydantic.Field(default=1.0, gt=0, allow_inf_nan=False)


class LossConfig(Config):
    """The objective: the sum over terms and sources of weight times loss, averaged over examples.

    Attributes:
        terms: The summands.
        stem_weights: Factor of each source, in the order of the model's stems; none means 1 for all.
    """

    terms: tuple[LossTerm, ...] = pydantic.Field(default=(LossTerm(kind="magnitude_l1"),), min_length=1)
    stem_weights: tuple[pydantic.NonNegativeFloat, ...] | None = None

    @pydantic.model_validator(mode="after")
    def _something_is_learned(self) -> "LossConfig":
        if self.stem_weights is not None and not any(self.stem_weights):
            raise ValueError("all stem_weights are zero: nothing would be learned")
        return self

    def check(self, spec: ModelSpec, length: int) -> None:
        """Refuses what does not fit a model.

        Args:
            spec: The model.
            length: Samples of what the network sees of an example.

        Raises:
            ConfigError: There are other numbers of weights than stems, or a loss on magnitudes for a network on
                waveforms, or too few samples of an example are complete to compare waveforms.
        """
        if self.stem_weights is not None and len(self.stem_weights) != len(spec.stems):
            raise ConfigError(f"There are {len(self.stem_weights)} stem_weights for the stems {', '.join(spec.stems)}.")
        for term in self.terms:
            if term.kind in _ON_MAGNITUDES:
                try:
                    spec.domain.magnitudes(f"the loss '{term.kind}'")
                except SeparationError:
                    raise ConfigError(
                        f"The loss '{term.kind}' compares magnitudes, and the family '{spec.family}' gives waveforms; "
                        "use one on waveforms, such as waveform_l1."
                    ) from None
            elif not range(length)[spec.domain.interior(length)]:
                raise ConfigError(
                    f"The loss '{term.kind}' compares samples that all their frames cover, and an example of {length} "
                    "samples has none; give longer ones."
                )


class Batch(NamedTuple):
    """Training examples.

    Attributes:
        mixture: What the model hears, (batch, time, channel): at the level of `procedure.normalise`, where it has one.
        sources: The true sources at the same level, (batch, source, time, channel), in the order of the model's stems.
    """

    mixture: Float[Array, "batch time channel"]
    sources: Float[Array, "batch source time channel"]


class Evaluated(NamedTuple):
    """What the objective knows beside its value.

    Attributes:
        batch_stats: The running statistics after this batch; empty for models that have none.
        stems: The loss of each source before stem weights, summed over terms.
        examples: The loss of each example.
    """

    batch_stats: Variables
    stems: Float[Array, " source"]
    examples: Float[Array, " batch"]


def objective(
    params: Variables,
    batch_stats: Variables,
    batch: Batch,
    key: PRNGKeyArray,
    *,
    model: nn.Module,
    spec: ModelSpec,
    loss: LossConfig,
    train: bool,
    rematerialise: bool = False,
) -> tuple[Float[Array, ""], Evaluated]:
    """Computes the objective of a batch.

    Args:
        params: The model's parameters.
        batch_stats: Its running statistics.
        batch: Examples of any length that the model takes: for networks on magnitudes, whole frames as many as its
            stride divides, such as `spec.chunk_length` samples.
        key: For dropout.
        model: The network.
        spec: What its weights belong to.
        loss: The terms.
        train: Whether dropout acts and statistics are taken from the batch.
        rematerialise: Whether a gradient of this computes the network's layers again, for less memory.

    Returns:
        The objective and what else is known.
    """
    domain = spec.domain.for_training()
    inputs, context = domain.encode(batch.mixture)
    with spec.layers_rematerialised() if rematerialise else nullcontext():
        outputs, updated = _apply(model, params, batch_stats, inputs, key, train=train)
    waveforms = None
    if any(term.kind not in _ON_MAGNITUDES for term in loss.terms):
        waveforms = domain.decode(outputs, context)
        waveforms = waveforms[..., domain.interior(waveforms.shape[-2]), :]
    return _sum(loss, spec, updated, batch, outputs, waveforms)


def _apply(
    model: nn.Module, params: Variables, batch_stats: Variables, inputs: Any, key: PRNGKeyArray, *, train: bool
) -> tuple[Any, Variables]:
    variables = {"params": params, **({"batch_stats": batch_stats} if batch_stats else {})}
    if not train:
        return model.apply(variables, inputs, train=False), batch_stats
    estimates, updated = model.apply(variables, inputs, train=True, rngs={"dropout": key}, mutable=["batch_stats"])
    return estimates, updated.get("batch_stats", batch_stats)


def _sum(
    loss: LossConfig,
    spec: ModelSpec,
    batch_stats: Variables,
    batch: Batch,
    outputs: Float[Array, "batch source unit *freq channel"],
    waveforms: Float[Array, "batch source part channel"] | None,
) -> tuple[Float[Array, ""], Evaluated]:
    total = jnp.zeros(batch.sources.shape[:2], jnp.float32)
    for term in loss.terms:
        if term.kind in _ON_MAGNITUDES:
            value = _ON_MAGNITUDES[term.kind](outputs.astype(jnp.float32), spec.domain.targets(batch.sources))
        else:
            assert waveforms is not None
            estimates = waveforms.astype(jnp.float32)
            targets = _centre(batch.sources, estimates.shape[-2])
            if term.kind == "log_wmse":
                mixture = _centre(batch.mixture, estimates.shape[-2])
                value = losses.log_wmse(estimates, targets, mixture, sample_rate=spec.sample_rate)
            else:
                value = _ON_WAVEFORMS[term.kind](estimates, targets)
        total += term.weight * value
    weights = jnp.ones(len(spec.stems)) if loss.stem_weights is None else jnp.asarray(loss.stem_weights, jnp.float32)
    examples = total @ weights
    return examples.mean(), Evaluated(batch_stats, total.mean(axis=0), examples)


def _centre(waveforms: Float[Array, "*batch time channel"], length: int) -> Float[Array, "*batch part channel"]:
    """The middle, for models whose output is shorter than their input; an odd sample is cut from the end."""
    start = (waveforms.shape[-2] - length) // 2
    return waveforms[..., start : start + length, :]
