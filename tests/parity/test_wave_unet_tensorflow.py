"""The original Wave-U-Net on TensorFlow: its operations, and checkpoints of its Saver with the names of its variables.

The published checkpoints are out of a test's reach, so TensorFlow writes ones of random weights, optimizer and all, and
says what their networks make of a mixture: M4 at its full size, and small ones with every option.
"""

import json
import os
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity.twins import OUTPUTS, largest_error

from jaxsep.errors import CheckpointError
from jaxsep.models.wave_unet import PRESETS
from jaxsep.separation.models import load_model
from jaxsep.weights.convert import convert
from jaxsep.weights.pull import pull
from jaxsep.weights.readers import read_weights
from jaxsep.weights.rules import SPECS
from jaxsep.weights.wave_unet import tensorflow_names

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-spleeter" / "bin" / "python"
TWIN = ROOT / "jaxsep" / "compare" / "reference" / "wave_unet_tensorflow.py"
FORMS = {"m4": PRESETS["m4"]} | {
    f"small-{name}": PRESETS[name].model_copy(update={"levels": 3, "filters": 5 if name == "m7" else 4})
    for name in ("m1", "m2", "m3", "m5", "m6", "m7")
}


@pytest.fixture(scope="module")
def mixtures():
    rng = np.random.default_rng(4)
    asked = {"m4": 16384}
    return {
        name: rng.uniform(-0.6, 0.6, (1, form.lengths(asked.get(name, 90)).input, form.channels)).astype(np.float32)
        for name, form in FORMS.items()
    }


@pytest.fixture(scope="module")
def twin(tmp_path_factory, mixtures):
    """The folder with TensorFlow's checkpoints, and its networks' estimates."""
    assert PYTHON.exists(), f"{PYTHON} is not there; `make test` makes Spleeter's environment, with TensorFlow in it"
    folder = tmp_path_factory.mktemp("twin")
    (folder / "forms.json").write_text(json.dumps({name: form.model_dump() for name, form in FORMS.items()}))
    np.savez(folder / "mixtures.npz", **mixtures)
    # What the machine's environment says to our Python or to JAX is not meant for this one.
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run([PYTHON, TWIN, folder], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(folder / "estimates.npz") as estimates:
        return folder, dict(estimates)


@pytest.mark.parametrize("name", FORMS)
def test_converted_checkpoints_of_tensorflow_compute_what_it_does(name, twin, mixtures, tmp_path):
    folder, estimates = twin
    # A name of its own says which form the arrays are of, where several have the same.
    form = f"wave-unet-{name.removeprefix('small-')}"
    convert(folder / name, output=tmp_path / "ours.safetensors", family="wave_unet", name=form)
    model = load_model(tmp_path / "ours.safetensors")
    assert model.spec.config == FORMS[name]
    assert (model.spec.sample_rate, model.spec.stems) == (SPECS[form].sample_rate, SPECS[form].stems)
    found = jax.jit(lambda v, x: model.module.apply(v, x, train=False))(model.variables, jnp.asarray(mixtures[name]))
    # Twelve levels of sums of up to 4680 products in float32 in another order.
    assert largest_error(found, estimates[name]) < OUTPUTS
    assert 0.1 < estimates[name].std() and np.percentile(np.abs(estimates[name]), 50) < 0.95


def test_tensorflow_names_its_variables_as_the_rules_say(twin):
    for name, form in FORMS.items():
        held = set(read_weights(twin[0] / name))
        named = set(tensorflow_names(form).values())
        assert named < held
        assert all(each == "global_step" or each.startswith("separator_solver/") for each in held - named)
        # Adam's two averages of every variable, and its two powers.
        assert len(held) == 3 * len(named) + 3


def test_forms_that_arrays_tell_apart_need_no_name(twin, tmp_path):
    for name in ("small-m1", "small-m6"):
        checkpoint = convert(twin[0] / name, output=tmp_path / f"{name}.safetensors", family="wave_unet")
        assert checkpoint.spec.name == f"wave-unet-{name.removeprefix('small-')}"
    for name, known in (
        ("small-m2", "wave-unet-m2, wave-unet-m3, wave-unet-m7"),
        ("small-m5", "m5, wave-unet-m5-highsr"),
    ):
        with pytest.raises(CheckpointError, match=f"fits several published forms; say by the name .*{known}"):
            convert(twin[0] / name, output=tmp_path / "other.safetensors", family="wave_unet")


def test_what_is_pulled_by_hand_is_converted_from_its_folder(twin, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEP_CACHE", str(tmp_path))
    with pytest.raises(
        CheckpointError, match=r"gives them to people and not to programs: open https://www\.dropbox\.com"
    ):
        load_model("wave-unet-m4")
    with pytest.raises(CheckpointError, match=r"models\.zip is packed: open"):
        pull("wave-unet-m4", source=tmp_path / "models.zip")
    told = []
    path = pull("wave-unet-m4", source=twin[0] / "m4", announce=told.append)
    assert "no sha256 is published, so nothing but you vouches" in told[-1]
    spec = load_model("wave-unet-m4").spec
    assert path.is_file() and (spec.name, spec.licence) == ("wave-unet-m4", "MIT")
    assert spec.provenance.startswith("said to be baseline_stereo, published by Daniel Stoller")
