"""The networks of all kinds of Demucs against the official code: every layer, gradients, and published sizes."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from parity.demucs_oracle import HT, HYBRID, SMALL, STEMS, TIME, V2, build, in_numpy, in_torch, official

from jaxsep.models import find_family
from jaxsep.weights.demucs import demucs_spec
from jaxsep.weights.demucs_names import demucs_rules, foreign_name
from jaxsep.weights.mapping import apply
from jaxsep.weights.tree import expected_shapes, flatten

# Float32 sums in other orders, over up to 9 layers; a transformer's attention and norms over all tokens add to them.
NETWORK, TRANSFORMER = 1e-5, 2e-5


def pair(name):
    """An official network, ours, its spec and the same weights for it; called within `official`."""
    klass, arguments = SMALL[name]
    theirs = build(klass, **arguments)
    spec = demucs_spec(klass, (STEMS,), arguments, name=name, segment=None, where=name)
    shapes = expected_shapes(spec)
    state = {key: values.numpy() for key, values in theirs.state_dict().items()}
    variables = apply(demucs_rules(spec.config, shapes), state, shapes, where=name)
    return theirs, find_family(spec.family).build(spec.config), spec, variables


def mixtures(spec, *, samples=None):
    """Two examples of different levels, off zero, in stereo."""
    length = samples or spec.chunk_length
    drawn = np.random.default_rng(length).standard_normal((2, length, 2)).astype(np.float32)
    return drawn * np.array([0.3, 0.1], np.float32)[:, None, None] + np.float32(0.05)


def relative(found, expected):
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def outputs_of_modules(network, mixture):
    """What every module of an official network gives, by its name."""
    found = {}

    def keep(name):
        def hook(module, inputs, output):
            # Bands are added to in place later.
            found[name] = module, (output[0] if isinstance(output, tuple) else output).clone()

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in network.named_modules()]
    with torch.no_grad():
        network(mixture)
    for hook in hooks:
        hook.remove()
    return found


def module_name(path, leaves, config, known):
    """What Demucs calls one of our modules: the common beginning of its variables' names, without lists of modules."""
    names = [foreign_name(f"params/{leaf}", config).split(".") for leaf in leaves if leaf.startswith(f"{path}/")]
    places = zip(*(name[:-1] for name in names), strict=False)
    common = [parts[0] for parts in itertools.takewhile(lambda parts: len(set(parts)) == 1, places)]
    children = {leaf.removeprefix(f"{path}/").split("/", 1)[0] for leaf in leaves if leaf.startswith(f"{path}/")}
    if len(children) == 1 and (path.endswith("freq_emb") or f"{path}/{next(iter(children))}" not in leaves):
        common.pop()
    while common and ".".join(common) not in known:
        common.pop()
    return ".".join(common)


def channels_last(module, output, name):
    if name.startswith("crosstransformer.") or name.startswith("freq_emb"):
        return output
    return (
        output.permute(1, 0, 2)
        if isinstance(module, torch.nn.LSTM) or name.endswith("linear")
        else output.movedim(1, -1)
    )


# Layers that give what no other module gives: the names by which each network is told to have been compared.
KINDS = {
    "htdemucs": {
        "encoder_2",
        "decoder_0/dconv",
        "tencoder_1",
        "tdecoder_2",
        "channel_upsampler",
        "layers_0",
        "layers_t_1",
    },
    "htdemucs_6s": {"layers_0/cross_attn", "layers_t_1/self_attn", "encoder_0/dconv/layers_0/scale"},
    "htdemucs_without": {"encoder_2", "decoder_0"},
    "hdemucs": {"encoder_2/dconv/layers_0/lstm", "encoder_3/dconv/layers_1/attention", "decoder_3", "tdecoder_0"},
    "hdemucs_magnitudes": {"encoder_2", "decoder_1"},
    "hdemucs_bands": {"encoder_0/band_2", "encoder_1", "decoder_3/band_0/conv_tr", "decoder_2"},
    "demucs_v3": {"encoder_2/dconv/layers_0/lstm", "decoder_0/rewrite"},
    "demucs_v3_bare": {"encoder_0/dconv"},
    "demucs_v3_more": {"lstm", "decoder_0/dconv"},
    "demucs_v2": {"lstm", "encoder_3/rewrite", "decoder_3/conv_tr"},
}


@pytest.mark.parametrize("name", SMALL)
def test_every_layer_and_the_network_give_what_the_official_ones_give(name):
    with official(2 if name == "demucs_v2" else 4):
        theirs, ours, spec, variables = pair(name)
        mixture = mixtures(spec, samples=None if name == "demucs_v2" else 9001)
        official_outputs = outputs_of_modules(theirs, in_torch(mixture))
        expected = in_numpy(official_outputs[""][1])
    estimates, state = jax.jit(
        lambda variables, mixture: ours.apply(
            variables, mixture, train=False, capture_intermediates=True, mutable=["intermediates"]
        )
    )(variables, mixture)
    tolerance = TRANSFORMER if spec.family == "htdemucs" else NETWORK
    assert relative(np.asarray(estimates), expected) < tolerance
    leaves = [path.removeprefix("params/") for path in flatten(variables)]
    compared = set()
    for path, output in flatten(state["intermediates"]).items():
        path = path.removesuffix("/__call__")
        their_name = module_name(path, leaves, spec.config, official_outputs)
        if path == "__call__" or not their_name:
            continue
        module, given = official_outputs[their_name]
        given = channels_last(module, given, their_name).numpy()
        while isinstance(output, tuple):
            output = output[0]
        output = np.asarray(output)
        if output.size != given.size:
            # Ours cuts what is beyond the ends in another place, or gives factors instead of what they scale.
            continue
        compared.add(path)
        assert relative(output.reshape(given.shape), given) < tolerance, (path, their_name)
    missing = {kind for kind in KINDS[name] if not any(path.endswith(kind) for path in compared)}
    assert not missing, sorted(compared)


@pytest.mark.parametrize("name", ["htdemucs", "hdemucs", "hdemucs_bands", "demucs_v3", "demucs_v2"])
def test_gradients_are_those_of_the_official_networks(name):
    with official(2 if name == "demucs_v2" else 4):
        theirs, ours, spec, variables = pair(name)
        mixture = mixtures(spec, samples=None if name == "demucs_v2" else 9001)[:1]
        estimates = theirs(in_torch(mixture))
        weights = np.random.default_rng(1).standard_normal(in_numpy(estimates).shape).astype(np.float32)
        torch.sum(estimates * torch.from_numpy(np.moveaxis(weights, -1, 2).copy())).backward()
        gradients = {key: values.grad.numpy() for key, values in theirs.named_parameters() if values.grad is not None}
    shapes = expected_shapes(spec)
    rules = [rule for rule in demucs_rules(spec.config, shapes)]
    found = flatten(
        jax.jit(jax.grad(lambda variables, mixture: jnp.sum(weights * ours.apply(variables, mixture, train=False))))(
            variables, mixture
        )
    )
    unused = {key for key in theirs.state_dict() if key not in gradients}
    expected = flatten(
        apply(rules, gradients | {key: np.zeros_like(theirs.state_dict()[key]) for key in unused}, shapes, where=name)
    )
    for path, values in expected.items():
        difference = np.linalg.norm(np.asarray(found[path]) - values)
        # The gradient of a bias is a sum of what its layer's kernel gets times the input. In front of a norm its terms
        # cancel out, and both give their rounding.
        kernel = path.replace("bias", "kernel" if path.endswith("bias") else "weight")
        scale = max(np.linalg.norm(values), np.linalg.norm(expected.get(kernel, 0.0)))
        assert difference < 1e-4 * scale, path


PUBLISHED = {
    "htdemucs": (HT, {"dconv_mode": 3, "bottom_channels": 512}, STEMS, 41_984_456, 533),
    "htdemucs_6s": (HT, {"dconv_mode": 3}, [*STEMS, "guitar", "piano"], 27_414_996, 525),
    "hdemucs_mmi": (HYBRID, {}, STEMS, 83_637_832, 395),
    "c511e2ab": (HYBRID, {"cac": False, "norm_starts": 999, "hybrid_old": True}, STEMS, 83_607_872, 377),
    "7d865c68": (HYBRID, {"norm_starts": 999, "multi_freqs": [0.1, 0.3]}, STEMS, 83_884_248, 481),
    "5d2d6c55": (HYBRID, {"cac": False}, STEMS, 83_633_984, 395),
    "9a6b4851": (TIME, {}, STEMS, 133_753_064, 284),
    "0d19c1c6": (TIME, {"rewrite": False}, STEMS, 88_984_040, 252),
    "demucs": (V2, {}, STEMS, 265_679_496, 66),
    "demucs48_hq": (V2, {"channels": 48}, STEMS, 149_462_504, 66),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_arguments_build_networks_with_the_official_names_shapes_and_sizes(name):
    """Sizes and numbers of keys are also those that were found independently of this code."""
    klass, arguments, stems, parameters, keys = PUBLISHED[name]
    with official(2 if klass == V2 else 4), torch.device("meta"):
        module, _, kind = klass.rpartition(".")
        # First values are not wanted: rescaling them reads them, which there are none of.
        theirs = getattr(__import__(module, fromlist=[kind]), kind)(sources=stems, **arguments, rescale=0)
        state = {key: tuple(values.shape) for key, values in theirs.state_dict().items()}
    spec = demucs_spec(klass, (stems,), arguments, name=name, segment=None, where=name)
    shapes = expected_shapes(spec)
    assert (sum(int(np.prod(shape)) for shape in shapes.values()), len(shapes)) == (parameters, keys)
    assert {foreign_name(path, spec.config) for path in shapes} == state.keys()
    for path, shape in shapes.items():
        assert sorted(shape) == sorted(state[foreign_name(path, spec.config)]), path
    assert not any(re.search(r"\.\.|\.$", key) for key in state)
