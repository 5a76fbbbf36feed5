"""The Wave-U-Nets' foreign weights: torch files as the redesign's training writes them, and what is refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxsep.compare.reference.wave_unet_resampled import ResampledWaveUNet, save_as_published
from jaxsep.errors import CheckpointError
from jaxsep.models.cutting import whole_outputs
from jaxsep.models.procedure import Procedure
from jaxsep.models.wave_unet_resampled import ResampledWaveUNetConfig
from jaxsep.separation.models import load_model
from jaxsep.weights.convert import convert
from jaxsep.weights.mapping import apply
from jaxsep.weights.rules import SPECS
from jaxsep.weights.tree import expected_shapes
from jaxsep.weights.wave_unet import from_foreign, tensorflow_names

STEMS = SPECS["wave-unet-torch"].stems


def twin_of(*, separate=True, stems=STEMS):
    torch.manual_seed(0)
    config = ResampledWaveUNetConfig(n_sources=len(stems), filters=(8, 16), separate=separate)
    twin = ResampledWaveUNet(config, stems)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if name.endswith("conv.filter"):
                parameter.mul_(1.25)  # as no formula has it
            elif "norm" in name:
                parameter.add_(torch.rand_like(parameter))
    return twin.eval()


@pytest.mark.parametrize("separate", [True, False])
@pytest.mark.parametrize("parallel", [True, False])
def test_a_file_of_the_redesigns_training_computes_what_torch_does(separate, parallel, tmp_path):
    twin = twin_of(separate=separate)
    # Their files have no ending.
    save_as_published(twin, tmp_path / "model", parallel=parallel)
    convert(tmp_path / "model", output=tmp_path / "ours.safetensors", family="wave_unet")
    model = load_model(tmp_path / "ours.safetensors")
    assert (model.spec.family, model.spec.stems, model.spec.config) == ("wave_unet_resampled", STEMS, twin.config)
    length = twin.config.lengths(50).input
    mixture = np.random.default_rng(0).uniform(-0.5, 0.5, (1, length, 2)).astype(np.float32)
    with torch.inference_mode():
        expected = twin(torch.from_numpy(mixture).movedim(-1, -2)).movedim(-1, -2).numpy()
    found = jax.jit(lambda v, x: model.module.apply(v, x, train=False))(model.variables, jnp.asarray(mixture))
    # Float32 sums in another order, through eight layers.
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_networks_of_other_instruments_keep_their_names(tmp_path):
    save_as_published(twin_of(stems=("guitar", "rest")), tmp_path / "model")
    checkpoint = convert(tmp_path / "model", output=tmp_path / "ours.safetensors", family="wave_unet", name="guitars")
    assert (checkpoint.spec.name, checkpoint.spec.stems) == ("guitars", ("guitar", "rest"))


def test_a_file_of_one_network_is_a_model_of_one_stem():
    state = {name: leaf.numpy() for name, leaf in twin_of().state_dict().items() if ".bass." in name}
    spec, rules = from_foreign(state, name=None, where="the test")
    assert spec.stems == ("bass",)
    assert set(apply(rules, state, expected_shapes(spec), where="the test")["params"]) == {"source_0"}


def state_of(changes):
    state = {name: tensor.numpy().copy() for name, tensor in twin_of().state_dict().items()}
    changes(state)
    return state


FILTER = "waveunets.drums.upsampling_blocks.0.upconv.filter"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (lambda state: state.pop("waveunets.bass.bottlenecks.0.norm.weight"), "left without a value"),
        (lambda state: state.update({"waveunets.bass.attention": np.ones(3, np.float32)}), "without a rule"),
        (lambda state: state[FILTER].__setitem__((1, 0, 3), 9.0), rf"'{FILTER}' \(got .*which cannot become \(15,\)"),
        (lambda state: state.update({FILTER: np.ones((16, 1, 9), np.float32)}), r"becomes \(9,\), expected \(15,\)"),
    ],
)
def test_state_dicts_that_are_not_the_redesigns_are_refused_by_name(changes, message):
    state = state_of(changes)
    with pytest.raises(CheckpointError, match=message):
        spec, rules = from_foreign(state, name=None, where="the test")
        apply(rules, state, expected_shapes(spec), where="the test")


def arrays_of(form, **changes):
    """Arrays by the original's names, of a small network of a form."""
    config = SPECS[form].config.model_copy(update={"levels": 2, "filters": 3, **changes})
    spec, cutting = SPECS[form], whole_outputs(*config.lengths(30), last="shifted")
    shapes = expected_shapes(spec.model_copy(update={"config": config, "procedure": Procedure(cutting=cutting)}))
    return {name: np.zeros(shapes[path], np.float32) for path, name in tensorflow_names(config).items()}


@pytest.mark.parametrize(
    ("form", "name", "expected"),
    [
        ("wave-unet-m1", None, "wave-unet-m1"),
        ("wave-unet-m4", None, "wave-unet-m4"),
        ("wave-unet-m6", "mine", "wave-unet-m6"),
        ("wave-unet-m7", "wave-unet-m7", "wave-unet-m7"),
        ("wave-unet-m5-highsr", "wave-unet-m5-highsr", "wave-unet-m5-highsr"),
    ],
)
def test_arrays_of_the_original_say_what_they_are_of(form, name, expected):
    spec, _ = from_foreign(arrays_of(form), name=name, where="the test")
    assert spec.name == (name or expected)
    assert (spec.sample_rate, spec.stems) == (SPECS[expected].sample_rate, SPECS[expected].stems)
    assert (spec.config.levels, spec.config.filters) == (2, 3)
    changed = {"levels", "filters"}
    assert spec.config.model_dump(exclude=changed) == SPECS[expected].config.model_dump(exclude=changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("separator/conv1d_3/kernel"), "not in the order of a Wave-U-Net's"),
        (lambda arrays: arrays.pop("separator/conv1d/kernel"), "holds no Wave-U-Net; expected names like"),
        (lambda arrays: arrays.update({"separator/interp_0": np.zeros(9, np.float32)}), "fits several published forms"),
    ],
)
def test_arrays_that_are_not_the_originals_are_refused(change, message):
    arrays = arrays_of("wave-unet-m4")
    change(arrays)
    with pytest.raises(CheckpointError, match=message):
        from_foreign(arrays, name=None, where="the test")
