"""The classic U-Nets: what surrounds the published form, and how twins' state dicts become our variables. No files."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxsep.dsp.stft import STFTConfig
from jaxsep.models.classic_unet import PRESETS
from jaxsep.models.spec import ModelSpec
from jaxsep.weights.family_rules import FamilyRules
from jaxsep.weights.forms import FORMS
from jaxsep.weights.mapping import Rule
from jaxsep.weights.scaled_unets import direct_masks_form, recognise, widths

# Segments of six seconds.
SPECS: dict[str, ModelSpec] = {
    name: direct_masks_form(FORMS[name], config, STFTConfig(n_fft=2048, hop_length=512), 512)
    for name, config in PRESETS.items()
}
_FIRST = "encoder_0.first.conv.weight"


def from_foreign(source: Mapping[str, np.ndarray], *, name: str | None, where: str) -> tuple[ModelSpec, list[Rule]]:
    """Finds out which classic U-Net a twin's state dict is; see `scaled_unets.recognise`."""
    return recognise(source, first=_FIRST, forms=SPECS, sizes=_sizes, name=name, where=where)


def _sizes(source: Mapping[str, np.ndarray], prefix: str) -> dict[str, Any]:
    return {"channels": source[prefix + _FIRST].shape[1], "filters": widths(source, prefix, _FIRST)}


RULES = FamilyRules(("classic_unet",), from_foreign, SPECS)
