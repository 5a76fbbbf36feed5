"""U-Nets that come from their PyTorch twins: what surrounds them, and how state dicts become their variables. No files.

The twins are in `jaxsep/compare/reference`; their layers have the names of ours.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxsep.dsp.masks import MaskConfig
from jaxsep.dsp.stft import STFTConfig
from jaxsep.errors import CheckpointError
from jaxsep.models import classic_unet, jansson
from jaxsep.models.domain import Magnitude, whole_frames
from jaxsep.models.procedure import Procedure
from jaxsep.models.spec import ModelSpec
from jaxsep.weights.mapping import Drop, Rename, Rule
from jaxsep.weights.torch_layers import in_order_of_stems, prefixes_of, spatial_axes_first
from jaxsep.weights.tree import expected_shapes

_STEMS = {1: ("vocals",), 2: ("vocals", "accompaniment"), 4: ("vocals", "drums", "bass", "other")}
# The first layer of each network, by family.
_FIRST = {"jansson": "encoder_0.conv.weight", "classic_unet": "encoder_0.first.conv.weight"}
_TORCH_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def _jansson(name: str) -> ModelSpec:
    """Audio, transform and patches of the paper; of its 513 bins, the one at half the sample rate is left out."""
    transform = STFTConfig(n_fft=1024, hop_length=768)
    return ModelSpec(
        name=name,
        family="jansson",
        config=jansson.PRESETS[name],
        stems=_STEMS[2],
        sample_rate=8192,
        channels=1,
        domain=Magnitude(stft=transform, masks=MaskConfig(kind="direct"), bins=jansson.PRESETS[name].bins),
        procedure=Procedure(cutting=whole_frames(transform, 128)),
        licence="not stated",
        provenance="not stated",
    )


def _classic_unet(name: str) -> ModelSpec:
    """CDs' audio up to half its sample rate, in segments of six seconds."""
    transform = STFTConfig(n_fft=2048, hop_length=512)
    return ModelSpec(
        name=name,
        family="classic_unet",
        config=classic_unet.PRESETS[name],
        stems=_STEMS[2],
        sample_rate=44100,
        channels=2,
        domain=Magnitude(stft=transform, masks=MaskConfig(kind="direct"), bins=classic_unet.PRESETS[name].bins),
        procedure=Procedure(cutting=whole_frames(transform, 512)),
        licence="not stated",
        provenance="not stated",
    )


SPECS: dict[str, ModelSpec] = {
    spec.name: spec for spec in (*map(_jansson, jansson.PRESETS), *map(_classic_unet, classic_unet.PRESETS))
}


def from_foreign(
    source: Mapping[str, np.ndarray], *, family: str, name: str | None, where: str
) -> tuple[ModelSpec, list[Rule]]:
    """Finds out which model of a family a twin's state dict is.

    Sizes are those of the arrays. What arrays do not tell (sample rate, transform, what the input is scaled by) is
    taken from a spec.

    Args:
        source: Arrays of one state dict ('source_0.encoder_0.conv.weight'), or of one file for each network, since each
            can be trained by itself ('vocals/source_0.encoder_0.conv.weight').
        family: A key of `jaxsep.models.FAMILIES`.
        name: What the model is to be called. One of `SPECS` also chooses that form; otherwise it is the family's first.
        where: Where the arrays come from, for messages.

    Returns:
        The spec, licence and provenance not stated, and the rules that take the arrays to its variables.

    Raises:
        CheckpointError: These are no networks of the family's, or of no known set of stems.
    """
    first = _FIRST[family]
    prefixes = prefixes_of(first, source)
    if not prefixes or source[prefixes[0] + first].ndim != 4:
        raise CheckpointError(
            f"{where} holds no networks of '{family}'; expected names like 'source_0.{first}', "
            f"got {', '.join(repr(key) for key in list(source)[:3])}."
        )
    if len(prefixes) not in _STEMS:
        raise CheckpointError(
            f"{where} holds networks for {len(prefixes)} stems; expected {', '.join(map(str, _STEMS))}."
        )
    stems = _STEMS[len(prefixes)]
    # Where each network has its own file, the file's name says which stem it is.
    places = {
        prefix if prefix.startswith("source_") else prefix.removesuffix("source_0."): prefix for prefix in prefixes
    }
    ordered = [places[place] for place in in_order_of_stems(list(places), stems, where)]
    form = SPECS.get(name or "")
    if form is None or form.family != family:
        form = next(spec for spec in SPECS.values() if spec.family == family)
    spec = _with_sizes(form, stems, source, ordered[0], where=where)
    spec = spec if name is None else spec.model_copy(update={"name": name})
    return spec, rules(spec, source, ordered)


def rules(spec: ModelSpec, source: Mapping[str, np.ndarray], prefixes: list[str]) -> list[Rule]:
    """Returns the rules for a twin's state dict.

    In `jansson` and `classic_unet` a convolution before a norm has no bias with us. A twin's may: the norm of
    (x + bias) with mean m is that of x with mean (m - bias), to which it is converted.

    Args:
        spec: What the arrays are.
        source: The arrays.
        prefixes: What stands before the names of each network, in the order of the stems.
    """
    expected = expected_shapes(spec)
    found: list[Rule] = [
        Drop(r".*num_batches_tracked", "it counts the steps of a training that is over", optional=True)
    ]
    for path in expected:
        _, network, *layer, leaf = path.split("/")
        block = prefixes[int(network.removeprefix("source_"))] + ".".join(layer)
        foreign = f"{block}.{_TORCH_NAMES[leaf]}"
        transform: Callable[[np.ndarray], np.ndarray] | None = spatial_axes_first if leaf == "kernel" else None
        bias = f"{block.removesuffix('.norm')}.conv.bias"
        ours = f"params/{network}/{'/'.join(layer[:-1])}/conv/bias"
        if leaf == "mean" and bias in source and ours not in expected:
            found.append(Drop(re.escape(bias), "it is taken from the mean of the norm after it"))
            transform = _less(source[bias])
        found.append(Rename(re.escape(foreign), path, transform))
    return found


def _less(bias: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    def subtract(mean: np.ndarray) -> np.ndarray:
        if mean.shape != bias.shape:
            raise ValueError(f"a mean of shape {mean.shape} and a bias of shape {bias.shape}")
        return mean.astype(np.float64) - bias

    return subtract


def _with_sizes(
    form: ModelSpec, stems: tuple[str, ...], source: Mapping[str, np.ndarray], prefix: str, *, where: str
) -> ModelSpec:
    """Returns a spec of this form for networks of the sizes of the one after the prefix."""
    first = _FIRST[form.family]
    _, channels, size, _ = source[prefix + first].shape
    filters: list[int] = []
    while (layer := f"{prefix}{first.replace('_0', f'_{len(filters)}', 1)}") in source:
        filters.append(len(source[layer]))
    sizes: dict[str, Any] = {"n_sources": len(stems), "channels": channels, "filters": filters}
    if form.family == "jansson":
        sizes["kernel_size"] = size
    data = form.model_dump()
    return ModelSpec.parse(
        {**data, "config": {**data["config"], **sizes}, "stems": stems, "channels": channels},
        where=f"The form of {where}",
    )
