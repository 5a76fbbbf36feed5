"""What the rules of both Wave-U-Nets share: specs of published forms, and of forms with other sizes. No files."""

from typing import Literal

from jaxsep.dsp.cuts import Chunking
from jaxsep.models.cutting import whole_outputs
from jaxsep.models.domain import Waveform
from jaxsep.models.procedure import Procedure
from jaxsep.models.spec import ModelSpec
from jaxsep.models.wave_layers import WaveConfig
from jaxsep.weights.family_rules import form_spec
from jaxsep.weights.forms import FORMS


def wave_form(preset: str, config: WaveConfig, asked: int, *, last: Literal["padded", "shifted"]) -> ModelSpec:
    """Returns the spec of a published form.

    Args:
        preset: Name of the form, without 'wave-unet-'.
        config: Config of its network.
        asked: Output samples that are asked for; where there is context, a few more come.
        last: What the last chunk sees; see `Chunking`.
    """
    cutting = whole_outputs(*config.lengths(asked), last=last)
    return form_spec(FORMS[f"wave-unet-{preset}"], config, Waveform(), Procedure(cutting=cutting))


def resized(form: ModelSpec, config: WaveConfig, stems: tuple[str, ...], where: str) -> ModelSpec:
    """Returns a spec of a form for networks of other sizes, which are asked for outputs as long as the form's."""
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
