"""The axes of every array, defined once. Channels last, always; shapes are checked by beartype in the tests.

Device arrays (`jax.Array`) are what pure functions take and give; host arrays (`numpy.ndarray`) stand at the public
edges: files, `Separator`, metrics.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Complex, Float

# Device arrays.
Waveform = Float[Array, "*batch time channel"]
SourceWaveform = Float[Array, "*batch source time channel"]
Spectrogram = Complex[Array, "*batch frame freq channel"]
SourceSpectrogram = Complex[Array, "*batch source frame freq channel"]
Magnitude = Float[Array, "*batch frame freq channel"]
SourceMagnitude = Float[Array, "*batch source frame freq channel"]
Masks = Float[Array, "*batch source frame freq channel"]

# Host arrays.
HostWaveform = Float[np.ndarray, "time channel"]
HostSourceWaveform = Float[np.ndarray, "source time channel"]

# {"params": ..., "batch_stats": ...}: nested mappings whose leaves are arrays.
Variables = Mapping[str, Any]
