"""What the twins of `jaxsep.models.wave_unet` share, whatever their framework. Needs none."""

from jaxsep.compare.twins import Layers
from jaxsep.models.spec import ModelSpec
from jaxsep.models.wave_unet import WaveUNetConfig
from jaxsep.typing import Variables
from jaxsep.weights.mapping import apply, named_by
from jaxsep.weights.tree import expected_shapes
from jaxsep.weights.wave_unet import tensorflow_rules

NAMES = "of f90/Wave-U-Net's TensorFlow checkpoints"


def config_of(spec: ModelSpec) -> WaveUNetConfig:
    """Returns the config of a Wave-U-Net."""
    assert isinstance(spec.config, WaveUNetConfig)
    return spec.config


def converted(variables: Variables, spec: ModelSpec, *, where: str) -> Variables:
    """Returns variables under the original's names, the only ones that were published, as its rules read them.

    Args:
        variables: What a twin's weights are with us.
        spec: Spec of the model.
        where: What the twin is called in messages.
    """
    rules = tensorflow_rules(config_of(spec))
    return apply(rules, named_by(rules, variables), expected_shapes(spec), where=where)


def layers_like_ours(found: Layers, spec: ModelSpec, variables: Variables) -> Layers:
    """Returns the twins' layers as ours give them.

    With context, our convolutions on the way down compute the middle for the way up and every second sample for the way
    down, where the twins compute all.
    """
    if not config_of(spec).context:
        return found
    layers: Layers = {}
    for name, maps in found.items():
        if name.startswith("down_") and name.endswith("/conv"):
            layers |= {f"{name}[0]": maps, f"{name}[1]": maps[:, ::2]}
        else:
            layers[name] = maps
    return layers
