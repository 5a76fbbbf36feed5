"""Demucs v2: what surrounds the networks whose weights were published as bare state dicts. No files.

The state dicts are those of `Demucs` on branch v2 of facebookresearch/demucs. Packages with a class are in `demucs.py`.
"""

import re
from collections.abc import Mapping

import numpy as np

from jaxsep.errors import CheckpointError
from jaxsep.models.spec import ModelSpec
from jaxsep.weights.demucs import SPECS_V2, built, demucs_config, demucs_spec
from jaxsep.weights.demucs_names import demucs_rules
from jaxsep.weights.family_rules import FamilyRules
from jaxsep.weights.mapping import Rule
from jaxsep.weights.tree import expected_shapes

_STEMS = SPECS_V2["demucs"].stems


def from_foreign(source: Mapping[str, np.ndarray], *, name: str | None, where: str) -> tuple[ModelSpec, list[Rule]]:
    """Finds out which network a state dict of Demucs v2 is of.

    Shapes and names decide its size; what they do not show (stride, resampling, sources, sample rate, segment) is what
    the constructor takes where nothing is said.

    Args:
        source: Arrays by the names of the state dict.
        name: Name that the model is given; None for that of the published form.
        where: Where the arrays come from, for messages.

    Raises:
        CheckpointError: It is no such state dict.
    """
    first, last = (
        source.get("encoder.0.0.weight"),
        [key for key in source if re.fullmatch(r"decoder\.\d+\.\d\.bias", key)],
    )
    if first is None or first.ndim != 3 or not last:
        raise CheckpointError(
            f"{where} holds no state dict of Demucs v2; expected names like 'encoder.0.0.weight', got "
            f"{', '.join(repr(key) for key in list(source)[:3])}."
        )
    with built(where):
        return _recognised(source, first, last, name, where)


def _recognised(
    source: Mapping[str, np.ndarray], first: np.ndarray, last: list[str], name: str | None, where: str
) -> tuple[ModelSpec, list[Rule]]:
    features, channels, kernel_size = first.shape
    depth = 1 + max(int(key.split(".")[1]) for key in source if re.fullmatch(r"encoder\.\d+\.0\.weight", key))
    rewrite = "encoder.0.2.weight" in source
    outputs = len(source[max(last, key=lambda key: [int(part) for part in key.split(".")[1:3]])])
    arguments = {
        "audio_channels": channels,
        "channels": features,
        "depth": depth,
        "growth": len(source["encoder.1.0.weight"]) / features if depth > 1 else 2.0,
        "rewrite": rewrite,
        "kernel_size": kernel_size,
        "lstm_layers": sum(bool(re.fullmatch(r"lstm\.lstm\.weight_ih_l\d+", key)) for key in source),
    }
    if rewrite and "decoder.0.0.weight" in source and source["decoder.0.0.weight"].ndim == 3:
        arguments["context"] = source["decoder.0.0.weight"].shape[2]
    stems = _STEMS if outputs == len(_STEMS) * channels else [f"source_{m}" for m in range(outputs // channels)]
    spec = demucs_spec("demucs.model.Demucs", (stems,), arguments, name=name or "demucs", segment=None, where=where)
    return spec, demucs_rules(demucs_config(spec), expected_shapes(spec))


RULES = FamilyRules(("demucs_v2",), from_foreign, SPECS_V2)
