"""What the rules of Jansson's U-Nets and of the classic ones share: state dicts of their PyTorch twins. No files.

The twins are in `jaxsep/compare/reference`; their layers have the names of ours.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxsep.dsp.masks import MaskConfig
from jaxsep.dsp.stft import STFTConfig
from jaxsep.errors import CheckpointError
from jaxsep.models.cutting import whole_frames
from jaxsep.models.domain import Magnitude
from jaxsep.models.layers import ScaledConfig
from jaxsep.models.procedure import Procedure
from jaxsep.models.spec import ModelSpec
from jaxsep.weights.family_rules import form_spec
from jaxsep.weights.forms import Form
from jaxsep.weights.mapping import Rule
from jaxsep.weights.torch_layers import in_order_of_stems, layers_of_our_names, prefixes_of

# What weights are trained for, by how many networks there are.
_STEMS = {1: ("vocals",), 2: ("vocals", "accompaniment"), 4: ("vocals", "drums", "bass", "other")}


def direct_masks_form(form: Form, config: ScaledConfig, transform: STFTConfig, frames: int) -> ModelSpec:
    """Returns the spec of a published form whose network gives the masked magnitudes themselves."""
    domain = Magnitude(stft=transform, masks=MaskConfig(kind="direct"), bins=form.bins(transform.n_fft))
    return form_spec(form, config, domain, Procedure(cutting=whole_frames(transform, frames)))


def recognise(
    source: Mapping[str, np.ndarray],
    *,
    first: str,
    forms: Mapping[str, ModelSpec],
    sizes: Callable[[Mapping[str, np.ndarray], str], dict[str, Any]],
    name: str | None,
    where: str,
) -> tuple[ModelSpec, list[Rule]]:
    """Finds out which model of a family a twin's state dict is.

    Sizes are those of the arrays. What arrays do not tell (sample rate, transform, what the input is scaled by) is
    taken from a form.

    Args:
        source: Arrays of one state dict ('source_0.encoder_0.conv.weight'), or of one file for each network, since each
            can be trained by itself ('vocals/source_0.encoder_0.conv.weight').
        first: Name of the first layer's weight in each network.
        forms: The published forms of the family.
        sizes: Called with the arrays and what stands before the names of a network; returns its config, as far as
            arrays tell it.
        name: Name that the model is given. That of a form also chooses the form; otherwise it is the first one.
        where: Where the arrays come from, for messages.

    Returns:
        The spec, licence and provenance not stated, and the rules that take the arrays to its variables.

    Raises:
        CheckpointError: These are no networks of the family's, or of no known set of stems.
    """
    prefixes = prefixes_of(first, source)
    family = next(iter(forms.values())).family
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
    form = forms.get(name or "") or next(iter(forms.values()))
    data = form.model_dump()
    config = {**data["config"], "n_sources": len(stems), **sizes(source, ordered[0])}
    changes = {"config": config, "stems": stems, "channels": config["channels"], "name": name or form.name}
    spec = ModelSpec.parse({**data, **changes}, where=f"The form of {where}")
    return spec, layers_of_our_names(spec, source, ordered)


def widths(source: Mapping[str, np.ndarray], prefix: str, first: str) -> list[int]:
    """Returns the number of channels of each encoder block, by its weights."""
    filters: list[int] = []
    while (layer := f"{prefix}{first.replace('_0', f'_{len(filters)}', 1)}") in source:
        filters.append(len(source[layer]))
    return filters
