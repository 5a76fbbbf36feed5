"""The Wave-U-Net: what surrounds the published ones, and how their author's checkpoints name our variables. No files.

The program is f90/Wave-U-Net on TensorFlow; its redesign is in `wave_unet_resampled.py`.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxsep.config import Config
from jaxsep.errors import CheckpointError
from jaxsep.models.spec import ModelSpec
from jaxsep.models.wave_unet import PRESETS, WaveUNetConfig
from jaxsep.weights import wave_unet_resampled
from jaxsep.weights.family_rules import FamilyRules
from jaxsep.weights.mapping import Drop, Rename, Rule
from jaxsep.weights.wave_forms import resized, wave_form

# Output samples that are asked for, 'num_frames' of Config.py.
_ASKED = {"m7": 768 * 127 + 1024}
_ASKED_OF_OTHERS = 16384
# Cut as in Evaluate.py: hop = output, and the last window shifted back to the end.
SPECS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        wave_form(preset, config, _ASKED.get(preset, _ASKED_OF_OTHERS), last="shifted")
        for preset, config in PRESETS.items()
    )
}

_FIRST = "separator/conv1d/kernel"


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


def from_foreign(source: Mapping[str, np.ndarray], *, name: str | None, where: str) -> tuple[ModelSpec, list[Rule]]:
    """Finds out which Wave-U-Net an array collection is.

    Args:
        source: Arrays by the names of the original's TensorFlow checkpoints. State dicts of the redesign's are passed
            on to its own rules.
        name: Name that the model is given. One of `SPECS` also chooses that form; it must be given where the arrays
            fit several forms, which then differ in sample rate or context.
        where: Where the arrays come from, for messages.

    Returns:
        The spec, licence and provenance not stated, and the rules that take the arrays to its variables.

    Raises:
        CheckpointError: These are no Wave-U-Nets, or of no published kind, or of several.
    """
    if wave_unet_resampled.has_names_of(source):
        return wave_unet_resampled.from_foreign(source, name=name, where=where)
    if _FIRST not in source:
        raise CheckpointError(
            f"{where} holds no Wave-U-Net; expected names like '{_FIRST}' or 'waveunets.bass."
            f"downsampling_blocks.0...', got {', '.join(repr(key) for key in list(source)[:3])}."
        )
    spec, config = _recognised(source, name, where)
    return (spec if name is None else spec.model_copy(update={"name": name})), tensorflow_rules(config)


def tensorflow_rules(config: WaveUNetConfig) -> list[Rule]:
    """Returns the rules for the original's checkpoints."""
    rules: list[Rule] = [
        Drop("global_step", "it counts the steps of a training that is over", optional=True),
        Drop("separator_solver/.+", "it is the state of an optimizer", optional=True),
    ]
    return rules + [Rename(re.escape(foreign), path) for path, foreign in tensorflow_names(config).items()]


def _recognised(source: Mapping[str, np.ndarray], name: str | None, where: str) -> tuple[ModelSpec, WaveUNetConfig]:
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
    if name in SPECS:
        forms = [SPECS[name]]
    else:
        alike = [spec for spec in SPECS.values() if _has(spec.config, found)]
        forms = [spec for spec in alike if _has(spec.config, sizes)] or alike
    if len(forms) != 1:
        known = ", ".join(spec.name for spec in forms or SPECS.values())
        told = "fits several published forms" if forms else "fits no published form"
        raise CheckpointError(f"{where} {told}; say by the name which it is of {known}.")
    config = WaveUNetConfig.parse({**forms[0].config.model_dump(), **found, **sizes}, where=f"The form of {where}")
    return resized(forms[0], config, forms[0].stems, where), config


def _has(config: Config, values: Mapping[str, Any]) -> bool:
    return all(getattr(config, key) == value for key, value in values.items())


RULES = FamilyRules(("wave_unet",), from_foreign, SPECS)
