"""The Wave-U-Nets: what surrounds the published ones, and how their authors' checkpoints name our variables. No files.

Two programs wrote them: f90/Wave-U-Net on TensorFlow, and its redesign f90/Wave-U-Net-Pytorch.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxsep.config import Config
from jaxsep.dsp.cuts import Chunking
from jaxsep.errors import CheckpointError
from jaxsep.models import wave_unet, wave_unet_resampled
from jaxsep.models.domain import Waveform, whole_outputs
from jaxsep.models.procedure import Procedure
from jaxsep.models.spec import ModelSpec
from jaxsep.models.wave_layers import WaveConfig
from jaxsep.models.wave_unet import WaveUNetConfig
from jaxsep.models.wave_unet_resampled import ResampledWaveUNetConfig
from jaxsep.weights.mapping import Drop, Rename, Rule

# 'source_names' of Config.py, whose order is that of the outputs; the difference is the last one.
_STEMS = {2: ("accompaniment", "vocals"), 4: ("bass", "drums", "other", "vocals")}
# Output samples that are asked for, 'num_frames' of Config.py; where there is context, a few more come.
_ASKED = {"m7": 768 * 127 + 1024}
_SAMPLE_RATES = {"m7": 8192, "m5-highsr": 44100}
_UNRESAMPLED_RATE, _RESAMPLED_RATE = 22050, 44100

_FIRST_TENSORFLOW = "separator/conv1d/kernel"
_FIRST_TORCH = r"(module\.)?waveunets\.([^.]+)\.downsampling_blocks\.0\.pre_shortcut_convs\.0\.filter\.weight"
# The name under which one network gives all sources.
_ALL = "ALL"


def _spec(
    name: str, family: str, config: WaveConfig, stems: tuple[str, ...], sample_rate: int, asked: int, *, last: Any
) -> ModelSpec:
    return ModelSpec(
        name=name,
        family=family,
        config=config,
        stems=stems,
        sample_rate=sample_rate,
        channels=config.channels,
        domain=Waveform(),
        procedure=Procedure(cutting=whole_outputs(*config.lengths(asked), last=last)),
        licence="not stated",
        provenance="not stated",
    )


def _original(preset: str, config: WaveUNetConfig) -> ModelSpec:
    """Cut as in Evaluate.py: hop = output, and the last window shifted back to the end."""
    rate, asked = _SAMPLE_RATES.get(preset, _UNRESAMPLED_RATE), _ASKED.get(preset, 16384)
    return _spec(f"wave-unet-{preset}", "wave_unet", config, _STEMS[config.n_sources], rate, asked, last="shifted")


def _resampled(preset: str, config: ResampledWaveUNetConfig) -> ModelSpec:
    """Cut as in test.py: outputs of two seconds or a little more, and zeros behind the track."""
    asked = 2 * _RESAMPLED_RATE
    stems = _STEMS[config.n_sources]
    return _spec(f"wave-unet-{preset}", "wave_unet_resampled", config, stems, _RESAMPLED_RATE, asked, last="padded")


SPECS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        *(_original(preset, config) for preset, config in wave_unet.PRESETS.items()),
        *(_resampled(preset, config) for preset, config in wave_unet_resampled.PRESETS.items()),
    )
}


def tensorflow_names(config: WaveUNetConfig) -> dict[str, str]:
    """Returns the original's name of each of our variables, by its path.

    TensorFlow numbers the convolutions in the order in which Models/UnetAudioSeparator.py makes them. Layouts are ours.
    """
    outputs = config.n_sources - (config.output == "difference")
    layers = [
        *(f"down_{i}/conv" for i in range(config.levels)),
        "bottom",
        *(f"up_{i}" for i in range(config.levels)),
        *(f"output_{m}" for m in range(outputs)),
    ]
    names = {}
    for number, layer in enumerate(layers):
        for leaf in ("kernel", "bias"):
            names[f"params/{layer}/{leaf}"] = f"separator/conv1d{f'_{number}' if number else ''}/{leaf}"
    if config.upsampling == "learned":
        names |= {f"params/upsampling_{i}/weight": f"separator/interp_{i}" for i in range(config.levels)}
    return names


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


def from_foreign(source: Mapping[str, np.ndarray], *, name: str | None, where: str) -> tuple[ModelSpec, list[Rule]]:
    """Finds out which Wave-U-Net an array collection is.

    Args:
        source: Arrays by the names of the original's TensorFlow checkpoints or of the redesign's state dicts.
        name: What the model is to be called. One of `SPECS` also chooses that form; it must be given where the arrays
            fit several forms, which then differ in sample rate or context.
        where: Where the arrays come from, for messages.

    Returns:
        The spec, licence and provenance not stated, and the rules that take the arrays to its variables.

    Raises:
        CheckpointError: These are no Wave-U-Nets, or of no published kind, or of several.
    """
    if _FIRST_TENSORFLOW in source:
        spec, original = _original_like(source, name, where)
        rules = tensorflow_rules(original)
    elif any(re.fullmatch(_FIRST_TORCH, key) for key in source):
        spec, resampled, prefix = _resampled_like(source, name, where)
        rules = torch_rules(resampled, spec.stems, prefix)
    else:
        raise CheckpointError(
            f"{where} holds no Wave-U-Net; expected names like '{_FIRST_TENSORFLOW}' or 'waveunets.bass."
            f"downsampling_blocks.0...', got {', '.join(repr(key) for key in list(source)[:3])}."
        )
    return (spec if name is None else spec.model_copy(update={"name": name})), rules


def tensorflow_rules(config: WaveUNetConfig) -> list[Rule]:
    """Returns the rules for the original's checkpoints."""
    rules: list[Rule] = [
        Drop("global_step", "it counts the steps of a training that is over", optional=True),
        Drop("separator_solver/.+", "it is the state of an optimizer", optional=True),
    ]
    return rules + [Rename(re.escape(foreign), path) for path, foreign in tensorflow_names(config).items()]


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


def _original_like(source: Mapping[str, np.ndarray], name: str | None, where: str) -> tuple[ModelSpec, WaveUNetConfig]:
    kernels: list[tuple[int, ...]] = []
    while (key := f"separator/conv1d{f'_{len(kernels)}' if kernels else ''}/kernel") in source:
        kernels.append(source[key].shape)
    size, channels, filters = kernels[0] if len(kernels[0]) == 3 else (0, 0, 0)
    # On the way down each block has as many channels more as the first one has; the bottom is the last to do so.
    levels = 0
    while levels + 1 < len(kernels) and kernels[levels + 1] == (size, (levels + 1) * filters, (levels + 2) * filters):
        levels += 1
    outputs = len(kernels) - 2 * levels - 1
    if levels < 1 or not 1 <= outputs <= 4:
        raise CheckpointError(f"{where} holds convolutions that are not in the order of a Wave-U-Net's: {kernels}.")
    # With one output or three, the last of two or four sources is the difference of the others from the mixture.
    n_sources = outputs + outputs % 2
    found = {
        "n_sources": n_sources,
        "channels": channels,
        "output": "difference" if outputs % 2 else "direct",
        "upsampling": "learned" if "separator/interp_0" in source else "linear",
    }
    sizes = {"levels": levels, "filters": filters, "kernel_size": size, "merge_kernel_size": kernels[levels + 1][0]}
    originals = [spec for spec in SPECS.values() if spec.family == "wave_unet"]
    if name in SPECS and SPECS[name].family == "wave_unet":
        forms = [SPECS[name]]
    else:
        alike = [spec for spec in originals if _has(spec.config, found)]
        forms = [spec for spec in alike if _has(spec.config, sizes)] or alike
    if len(forms) != 1:
        known = ", ".join(spec.name for spec in forms or originals)
        told = "fits several published forms" if forms else "fits no published form"
        raise CheckpointError(f"{where} {told}; say by the name which it is of {known}.")
    config = WaveUNetConfig.parse({**forms[0].config.model_dump(), **found, **sizes}, where=f"The form of {where}")
    return _with(forms[0], config, forms[0].stems, where), config


def _resampled_like(
    source: Mapping[str, np.ndarray], name: str | None, where: str
) -> tuple[ModelSpec, ResampledWaveUNetConfig, str]:
    matches = [match for key in source if (match := re.fullmatch(_FIRST_TORCH, key))]
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
    form = SPECS[name] if name in SPECS and SPECS[name].family == "wave_unet_resampled" else SPECS["wave-unet-torch"]
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
    return _with(form, config, stems, where), config, prefix


def _has(config: Config, values: Mapping[str, Any]) -> bool:
    return all(getattr(config, key) == value for key, value in values.items())


def _with(form: ModelSpec, config: WaveConfig, stems: tuple[str, ...], where: str) -> ModelSpec:
    """Returns a spec of this form for networks of other sizes, which are asked for outputs as long as the form's."""
    cutting = form.procedure.cutting
    assert isinstance(cutting, Chunking)
    lengths = config.lengths(cutting.chunk_hop)
    changes = {
        "config": config,
        "stems": stems,
        "channels": config.channels,
        "procedure": Procedure(cutting=whole_outputs(*lengths, last=cutting.last)),
    }
    return ModelSpec.parse({**form.model_dump(), **changes}, where=f"The form of {where}")
