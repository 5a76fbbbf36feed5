"""A family that jaxsep does not hold, as in docs/families.md: separated, trained, converted, evaluated, discovered."""

import re
import sys
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
import yaml
from typer.testing import CliRunner

import jaxsep
from jaxsep import models
from jaxsep.cli.main import app
from jaxsep.errors import ConfigError
from jaxsep.separation.programs import ProgramStore
from jaxsep.weights.convert import convert
from jaxsep.weights.mapping import Rename
from jaxsep.weights.tree import flatten
from train.config import load_config
from train.loop import run
from train.tracks import find_tracks
from train.workdir import open_workdir

DOCUMENT = Path(__file__).parents[2] / "docs" / "families.md"
RECIPE = {
    "model": {
        "name": "trained",
        "family": "mixer",
        "config": {"n_sources": 2, "features": 4},
        "stems": ["vocals", "accompaniment"],
        "sample_rate": 8000,
        "channels": 2,
        "domain": {"kind": "waveform"},
        "procedure": {"cutting": {"chunk_length": 2048, "chunk_hop": 2048}},
    },
    "data": {"layout": "synthetic"},
    "loss": {"terms": [{"kind": "waveform_l1"}]},
    "optimizer": {"learning_rate": 0.01},
    "training": {"steps": 4, "batch_size": 4},
    "checkpoints": {"every_steps": 4},
    "validation": {"every_steps": None},
    "logging": {"every_steps": 1, "tensorboard": False},
}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """What the document's program defines, run as it stands there, and forgotten after the test."""
    monkeypatch.setattr(models, "_registered", {})
    monkeypatch.chdir(tmp_path)
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, (44100, 2)).astype(np.float32)
    # As of a module, in which annotations of fields are looked up.
    names = {"__name__": __name__, "audio": audio}
    for program in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(compile(program, str(DOCUMENT), "exec"), names)
    return names


def trained(tmp_path, **model):
    recipe = {**RECIPE, "model": {**RECIPE["model"], **model}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    config = load_config(tmp_path / "recipe.yaml", [])
    with open_workdir(tmp_path / "run", config):
        rows = []
        outcome = run(config, tmp_path / "run", find_tracks(config.data, config.model), tell=rows.append)
    assert outcome.step == 4
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 4 and np.isfinite(losses).all()
    return tmp_path / "run"


def test_the_documents_program_separates(own):
    stems = own["separation"].stems
    assert list(stems) == ["vocals", "accompaniment"]
    assert all(waveform.shape == (44100, 2) and np.isfinite(waveform).all() for waveform in stems.values())
    assert np.abs(stems["vocals"]).max() > 0
    loaded = jaxsep.load_model("my-mixer.safetensors")
    assert loaded.spec == own["spec"] and type(loaded.spec.config) is own["MixerConfig"]
    np.testing.assert_array_equal(
        loaded.variables["params"]["last"]["bias"], own["variables"]["params"]["last"]["bias"]
    )


def test_lower_precision_is_taken_by_its_field_dtype(own):
    assert own["spec"].network(dtype=jnp.bfloat16).dtype == jnp.bfloat16
    model = jaxsep.load_model("my-mixer.safetensors")
    stems = jaxsep.Separator(model, precision="bfloat16").separate(own["audio"], 44100).stems
    for stem, waveform in own["separation"].stems.items():
        difference = np.abs(stems[stem] - waveform).max()
        # bfloat16 has 8 bits of mantissa.
        assert 0 < difference < 0.05 * np.abs(waveform).max()


def test_its_programs_are_not_kept_on_disk(own, tmp_path):
    """What keeps programs knows jaxsep's source, and not that of the family."""
    store = ProgramStore(tmp_path / "programs")
    model = jaxsep.load_model("my-mixer.safetensors")
    jaxsep.Separator(model, programs=store).separate(own["audio"], 44100)
    assert list((tmp_path / "programs").iterdir()) == []


def test_it_trains_and_what_was_trained_separates(own, tmp_path):
    model = jaxsep.load_model(trained(tmp_path))
    assert (model.spec.family, model.spec.config.features) == ("mixer", 4)
    assert jaxsep.Separator(model).separate(own["audio"], 8000).stems["vocals"].shape == (44100, 2)


def test_a_line_in_the_dict_of_families_is_enough_for_a_module_without_dtype(own, tmp_path, monkeypatch):
    class Gains(nn.Module):
        config: jaxsep.NetworkConfig

        @nn.compact
        def __call__(self, mixture, *, train):
            gains = self.param("gains", nn.initializers.constant(0.5), (self.config.n_sources,))
            return gains[None, :, None, None] * mixture[:, None]

    monkeypatch.setitem(models.FAMILIES, "gains", jaxsep.Family(jaxsep.NetworkConfig, Gains, "waveform"))
    model = jaxsep.load_model(trained(tmp_path, family="gains", config={"n_sources": 2}))
    assert (model.variables["params"]["gains"] != 0.5).all()
    with pytest.raises(ConfigError, match=r"The network Gains computes in float32 alone; .*field 'dtype'"):
        model.spec.network(dtype=jnp.bfloat16)


def test_weights_of_another_program_convert_by_its_own_rules(own, tmp_path):
    """A pickle of kernels as (out, in, time), recognised by the family and renamed."""

    def recognise(arrays, *, name, where):
        features, _, size = arrays["conv1.weight"].shape
        config = own["MixerConfig"](n_sources=2, features=features, kernel_size=size)
        rules = [
            Rename(rf"conv{number}\.{theirs}", f"params/{layer}/{ours}", transform)
            for number, layer in ((1, "first"), (2, "last"))
            for theirs, ours, transform in (("weight", "kernel", lambda kernel: kernel.T), ("bias", "bias", None))
        ]
        return own["spec"].model_copy(update={"config": config, "name": name or "foreign"}), rules

    models.register_family("foreign_mixer", config=own["MixerConfig"], module=own["Mixer"], recognise=recognise)
    ours = {path.removeprefix("params/"): leaf for path, leaf in flatten(own["variables"]).items()}
    foreign = {}
    for number, layer in ((1, "first"), (2, "last")):
        foreign[f"conv{number}.weight"] = np.asarray(ours[f"{layer}/kernel"]).T.copy()
        foreign[f"conv{number}.bias"] = np.asarray(ours[f"{layer}/bias"])
    import torch

    torch.save({name: torch.from_numpy(np.array(leaf)) for name, leaf in foreign.items()}, tmp_path / "foreign.pt")
    written = convert(tmp_path / "foreign.pt", output=tmp_path / "ours.safetensors", family="foreign_mixer")
    assert (written.spec.name, written.spec.config) == ("foreign", own["spec"].config)
    for path, leaf in flatten(own["variables"]).items():
        np.testing.assert_array_equal(flatten(written.variables)[path], leaf)
    with pytest.raises(jaxsep.CheckpointError, match="The family 'mixer' states no rules"):
        convert(tmp_path / "foreign.pt", output=tmp_path / "other.safetensors", family="mixer")


def test_the_command_line_evaluates_it(own, tmp_path):
    rng = np.random.default_rng(1)
    for stem in ("vocals", "accompaniment"):
        (tmp_path / "true" / "song").mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "true" / "song" / f"{stem}.wav", rng.uniform(-0.3, 0.3, (24000, 2)), 8000)
    command = ["evaluate", "--tracks", "true", "--model", "my-mixer.safetensors", "-o", "scores"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert list((tmp_path / "scores").rglob("song.json"))


def test_an_entry_point_makes_it_known_to_every_process(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "_registered", {})
    (tmp_path / "brought.py").write_text(
        "import jaxsep\nimport flax.linen as nn\n\n\nclass Half(nn.Module):\n    config: jaxsep.NetworkConfig\n\n"
        "    def __call__(self, mixture, *, train):\n        return 0.5 * mixture[:, None].repeat(2, axis=1)\n\n\n"
        "FAMILY = jaxsep.Family(jaxsep.NetworkConfig, Half, 'waveform', is_builtin=True)\nWRONG = 3\n"
    )
    (tmp_path / "brought-1.0.dist-info").mkdir()
    (tmp_path / "brought-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: brought\nVersion: 1.0\n")
    (tmp_path / "brought-1.0.dist-info" / "entry_points.txt").write_text(
        "[jaxsep.families]\nhalf = brought:FAMILY\nwrong = brought:WRONG\nabsent = brought_not:FAMILY\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    family = models.find_family("half")
    assert family.config is jaxsep.NetworkConfig and family.domain == "waveform"
    # Nothing but jaxsep's own source is known where programs are kept.
    assert not family.is_builtin
    with pytest.raises(ConfigError, match=r"the entry point of the model family 'wrong' is no `jaxsep.models.Family`"):
        models.find_family("wrong")
    with pytest.raises(ConfigError, match="the model family 'absent' cannot be loaded: ModuleNotFoundError"):
        models.find_family("absent")
    with pytest.raises(ConfigError, match=r"there is no model family 'hal'\. Did you mean 'half'"):
        models.find_family("hal")
    sys.modules.pop("brought", None)


def test_a_name_is_taken_once(own):
    with pytest.raises(ConfigError, match="There is a model family 'unet' already"):
        jaxsep.register_family("unet", config=own["MixerConfig"], module=own["Mixer"])
    again = jaxsep.register_family("mixer", config=own["MixerConfig"], module=own["Mixer"], domain="waveform")
    assert models.find_family("mixer") == again


def test_a_config_that_states_too_little_is_refused(own):
    from jaxsep.config import Config

    class Bare(Config):
        n_sources: int

    jaxsep.register_family("bare", config=Bare, module=own["Mixer"])
    with pytest.raises(ConfigError, match=r"derive it from `jaxsep.models.NetworkConfig`"):
        jaxsep.ModelSpec.parse({**dict(own["spec"]), "family": "bare", "config": {"n_sources": 2}}, where="the test")
