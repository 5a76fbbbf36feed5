"""The redesigned Wave-U-Net: what surrounds the published one, and how its program names our variables. No files.

The program is f90/Wave-U-Net-Pytorch; that of the original is in `wave_unet.py`.
"""

import re
from collections.abc import Mapping

import numpy as np

from jaxsep.errors import CheckpointError
from jaxsep.models.spec import ModelSpec
from jaxsep.models.wave_unet_resampled import PRESETS, ResampledWaveUNetConfig
from jaxsep.weights.family_rules import FamilyRules
from jaxsep.weights.mapping import Rename, Rule
from jaxsep.weights.wave_forms import resized, wave_form

# Cut as in test.py: outputs of two seconds of 44.1 kHz or a little more, and zeros behind the track.
SPECS: dict[str, ModelSpec] = {
    spec.name: spec for spec in (wave_form(preset, config, 88200, last="padded") for preset, config in PRESETS.items())
}
_PUBLISHED = SPECS["wave-unet-torch"]

_FIRST = r"(module\.)?waveunets\.([^.]+)\.downsampling_blocks\.0\.pre_shortcut_convs\.0\.filter\.weight"
# The name under which one network gives all sources.
_ALL = "ALL"


def has_names_of(source: Mapping[str, np.ndarray]) -> bool:
    """Whether arrays have the names of the redesign's state dicts."""
    return any(re.fullmatch(_FIRST, key) for key in source)


def from_foreign(source: Mapping[str, np.ndarray], *, name: str | None, where: str) -> tuple[ModelSpec, list[Rule]]:
    """Finds out which redesigned Wave-U-Net an array collection is.

    Args:
        source: Arrays by the names of the redesign's state dicts.
        name: Name that the model is given; None for that of the published form.
        where: Where the arrays come from, for messages.

    Returns:
        The spec, licence and provenance not stated, and the rules that take the arrays to its variables.

    Raises:
        CheckpointError: These are no such networks.
    """
    if not has_names_of(source):
        raise CheckpointError(
            f"{where} holds no redesigned Wave-U-Net; expected names like 'waveunets.bass.downsampling_blocks.0...', "
            f"got {', '.join(repr(key) for key in list(source)[:3])}."
        )
    spec, config, prefix = _recognised(source, name, where)
    return (spec if name is None else spec.model_copy(update={"name": name})), torch_rules(config, spec.stems, prefix)


def torch_names(config: ResampledWaveUNetConfig, stems: tuple[str, ...]) -> dict[str, str]:
    """Returns the redesign's name of each of our variables, by its path.

    Args:
        config: The shape of the networks.
        stems: The instruments by which networks are called where each source has its own.
    """
    networks = {f"source_{m}": stem for m, stem in enumerate(stems)} if config.separate else {"sources": _ALL}
    levels = len(config.filters) - 1
    blocks = {"bottom": "bottlenecks.0"}
    filters = {}
    for i in range(levels):
        for ours, theirs, resampling in (("down", "downsampling", "downconv"), ("up", "upsampling", "upconv")):
            for place, convolutions in (("before_skip", "pre_shortcut_convs"), ("after_skip", "post_shortcut_convs")):
                blocks[f"{ours}_{i}_{place}"] = f"{theirs}_blocks.{i}.{convolutions}.0"
            filters[f"{theirs}_{i}/filter"] = f"{theirs}_blocks.{i}.{resampling}.filter"
    names = {}
    for ours, theirs in networks.items():
        place, prefix = f"params/{ours}", f"waveunets.{theirs}"
        for block, layer in blocks.items():
            names[f"{place}/{block}/conv/kernel"] = f"{prefix}.{layer}.filter.weight"
            names[f"{place}/{block}/conv/bias"] = f"{prefix}.{layer}.filter.bias"
            names[f"{place}/{block}/norm/scale"] = f"{prefix}.{layer}.norm.weight"
            names[f"{place}/{block}/norm/bias"] = f"{prefix}.{layer}.norm.bias"
        names |= {f"{place}/{path}": f"{prefix}.{name}" for path, name in filters.items()}
        names[f"{place}/output/kernel"] = f"{prefix}.output_conv.weight"
        names[f"{place}/output/bias"] = f"{prefix}.output_conv.bias"
    return names


def torch_rules(config: ResampledWaveUNetConfig, stems: tuple[str, ...], prefix: str = "") -> list[Rule]:
    """Returns the rules for the redesign's state dicts.

    Args:
        config: The shape of the networks.
        stems: As for `torch_names`.
        prefix: What stands before all names.
    """
    transforms = {"kernel": time_axis_first, "filter": of_all_channels}
    return [
        Rename(re.escape(prefix + foreign), path, transforms.get(path.rpartition("/")[2]))
        for path, foreign in torch_names(config, stems).items()
    ]


def time_axis_first(kernel: np.ndarray) -> np.ndarray:
    """Returns a PyTorch kernel (out, in, time) in our layout."""
    return kernel.transpose(2, 1, 0)


def of_all_channels(filters: np.ndarray) -> np.ndarray:
    """Returns the taps that the filters of all channels, (channel, 1, tap), have in common.

    Raises:
        ValueError: They are not all the same, which no published filter is.
    """
    if filters.ndim != 3 or (filters != filters[:1]).any():
        raise ValueError("filters of different channels differ")
    return filters[0, 0]


def _recognised(
    source: Mapping[str, np.ndarray], name: str | None, where: str
) -> tuple[ModelSpec, ResampledWaveUNetConfig, str]:
    matches = [match for key in source if (match := re.fullmatch(_FIRST, key))]
    prefix, instruments = matches[0].group(1) or "", tuple(match.group(2) for match in matches)
    network = f"{prefix}waveunets.{instruments[0]}"
    first = source[matches[0].group(0)]
    if first.ndim != 3:
        raise CheckpointError(f"The first convolution of {where} has {first.ndim} axes instead of three.")
    filters: list[int] = []
    while (key := f"{network}.downsampling_blocks.{len(filters)}.pre_shortcut_convs.0.filter.weight") in source:
        filters.append(len(source[key]))
    if (key := f"{network}.bottlenecks.0.filter.weight") in source:
        filters.append(len(source[key]))
    separate = instruments != (_ALL,)
    form = SPECS[name] if name in SPECS else _PUBLISHED
    n_sources = len(instruments) if separate else len(form.stems)
    stems = instruments if separate and set(instruments) != set(form.stems) else form.stems
    sizes = {
        "n_sources": n_sources,
        "channels": first.shape[1],
        "filters": filters,
        "kernel_size": first.shape[2],
        "separate": separate,
    }
    config = ResampledWaveUNetConfig.parse({**form.config.model_dump(), **sizes}, where=f"The form of {where}")
    return resized(form, config, stems, where), config, prefix


RULES = FamilyRules(("wave_unet_resampled",), from_foreign, SPECS)
