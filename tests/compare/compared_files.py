"""What the tests compare: weights and audio files."""

import numpy as np
import soundfile

from jaxsep.models.wave_unet_resampled import low_pass
from jaxsep.weights.tree import expected_shapes, unflatten


def variables_of(spec, seed=0):
    """Weights as training might leave them, no variance negative and no estimate clipped throughout."""
    rng = np.random.default_rng(seed)

    def draw(path, shape):
        name = path.split("/")[-1]
        if name == "kernel":
            gain = 0.25 if path.split("/")[-2].startswith("output") else 1.0
            return gain * rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
        if name == "filter":
            return low_pass(spec.config.stride) * rng.uniform(0.9, 1.1, shape)
        return rng.uniform(*{"var": (0.5, 2.0), "scale": (0.7, 1.3)}.get(name, (-0.1, 0.1)), shape)

    return unflatten({path: draw(path, shape).astype(np.float32) for path, shape in expected_shapes(spec).items()})


def write(path, waveform, rate, subtype="FLOAT"):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, rate, subtype=subtype)
    return path
