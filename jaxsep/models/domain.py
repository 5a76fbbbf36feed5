"""Domain: what a network maps. Waveforms, or magnitudes of a transform, which masks take back to waveforms.

Everything that depends on it is in the two classes, so that the rest of jaxsep runs encode, apply and decode and never
asks.
"""

from typing import Annotated

import pydantic

from jaxsep.models.magnitude import Magnitude
from jaxsep.models.waveform import Waveform

__all__ = ["Domain", "Magnitude", "Waveform"]

Domain = Annotated[Waveform | Magnitude, pydantic.Field(discriminator="kind")]
