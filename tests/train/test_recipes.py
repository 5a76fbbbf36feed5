"""The recipes in configs/: they load, describe the published models, and say what is wrong with changes to them."""

import difflib
from pathlib import Path

import numpy as np
import pytest
import yaml

from jaxsep.config import Config
from jaxsep.errors import ConfigError
from jaxsep.models.spec import ModelSpec
from jaxsep.training.optimizer import learning_rate_schedule
from jaxsep.weights.demucs import demucs_spec
from jaxsep.weights.rules import SPECS
from train.config import load_config

CONFIGS = Path(__file__).parents[2] / "configs"
ROOT = "data.root=/data/tracks"
# What each recipe trains, whatever it is called.
PUBLISHED = {
    "unet_2stems": SPECS["spleeter-2stems"],
    "unet_4stems": SPECS["spleeter-4stems"],
    "unet_5stems": SPECS["spleeter-5stems"],
    "unet_finetune": SPECS["spleeter-2stems"],
    "unet_jansson": SPECS["jansson"],
    "unet_jansson_log": SPECS["jansson-log"],
    "unet_classic": SPECS["classic-unet"],
    "wave_unet_m4": SPECS["wave-unet-m4"],
    "wave_unet_m5_highsr": SPECS["wave-unet-m5-highsr"],
    "wave_unet_m6_multi": SPECS["wave-unet-m6"],
    "wave_unet_torch": SPECS["wave-unet-torch"],
    "htdemucs": SPECS["htdemucs"],
    "hdemucs": SPECS["hdemucs_mmi"],
    # Of the bag repro_mdx_a: the networks on waveforms, with Demucs's defaults.
    "demucs_v3": demucs_spec(
        "demucs.demucs.Demucs",
        (("drums", "bass", "other", "vocals"),),
        {"normalize": True},
        name="demucs-v3",
        segment=44,
        where="the test",
    ),
}


def load(name, *overrides):
    return load_config(CONFIGS / f"{name}.yaml", overrides if name == "smoke" else [ROOT, *overrides])


def test_these_are_the_recipes():
    assert {path.stem for path in CONFIGS.glob("*.yaml") if not path.stem.startswith("study_")} == {
        *PUBLISHED,
        "bench_guitar",
        "bench_guitar_finetune",
        "bench_guitar_wave",
        "bench_guitar_htdemucs",
        "htdemucs_finetune",
        "smoke",
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_model_of_a_recipe_is_the_published_one(name):
    model = load(name).model
    named = {"name": model.name, "licence": model.licence, "provenance": model.provenance}
    assert model == ModelSpec.parse({**PUBLISHED[name].model_dump(), **named}, where="the test")
    assert model.name == name.replace("_", "-")


@pytest.mark.parametrize(("stems", "steps"), [(2, 1_000_000), (4, 1_500_000), (5, 2_500_000)])
def test_spleeters_recipes_are_those_of_its_configs(stems, steps):
    """spleeter/configs/*/base_config.json: L1, learning_rate 1e-4, batch_size 4, train_max_steps, T = 512."""
    config = load(f"unet_{stems}stems")
    assert [(term.kind, term.weight) for term in config.loss.terms] == [("magnitude_l1", 1.0)]
    assert (config.optimizer.kind, config.optimizer.learning_rate) == ("adam", 1e-4)
    assert (config.optimizer.b1, config.optimizer.b2, config.optimizer.eps) == (0.9, 0.999, 1e-8)
    assert config.optimizer.schedule.kind == "constant" and config.optimizer.schedule.warmup_steps == 0
    assert (config.training.steps, config.training.batch_size) == (steps, 4)
    assert config.segment_length == 512 * 1024 + 3 * 1024
    assert not config.augment.any and config.data.silent == "keep"


@pytest.mark.parametrize("name", ["wave_unet_m4", "wave_unet_m5_highsr", "wave_unet_m6_multi"])
def test_the_wave_unets_recipes_are_those_of_its_config(name):
    """Config.py and Training.py of f90/Wave-U-Net: the mean over sources of squared errors, and a second stage."""
    config = load(name)
    assert [(term.kind, term.weight) for term in config.loss.terms] == [("waveform_l2", 1 / len(config.model.stems))]
    assert (config.optimizer.kind, config.optimizer.learning_rate) == ("adam", 1e-4)
    assert config.optimizer.schedule.kind == "constant" and config.optimizer.schedule.warmup_steps == 0
    assert (config.training.batch_size, config.segment_length) == (16, 147443)
    assert (config.augment.gain_low, config.augment.gain_high) == (0.7, 1.0)
    assert (config.validation.every_steps, config.validation.patience) == (2000, 20)
    fine = load(name, "training.batch_size=32", "optimizer.learning_rate=1.0e-5")
    assert fine.model == config.model and fine.optimizer.learning_rate == 1e-5


def test_the_redesigns_recipe_is_its_programs_default():
    """train.py of f90/Wave-U-Net-Pytorch; two cosines from 1e-3 to 5e-5 in an epoch, as its set_cyclic_lr has them."""
    config = load("wave_unet_torch")
    assert [(term.kind, term.weight) for term in config.loss.terms] == [("waveform_l1", 1.0)]
    assert (config.training.batch_size, config.validation.patience) == (4, 20)
    assert (config.augment.gain_low, config.augment.gain_high) == (0.7, 1.0)
    cycle = config.optimizer.schedule.steps
    assert config.validation.every_steps == 2 * cycle
    rate = learning_rate_schedule(config.optimizer)
    for step in (0, 1, cycle // 3, cycle - 1, cycle, 2 * cycle + 7):
        expected = 5e-5 + 0.5 * (1e-3 - 5e-5) * (1 + np.cos(step % cycle / cycle * np.pi))
        assert float(rate(step)) == pytest.approx(expected, rel=1e-5)


def test_fine_tuning_starts_from_the_published_weights_and_keeps_their_statistics():
    config = load("unet_finetune")
    assert config.init.checkpoint == "spleeter-2stems"
    assert config.model.config.batch_statistics is False
    assert config.model.licence == "MIT" and config.model.provenance.startswith("fine-tuned from spleeter-2stems with")
    assert config.optimizer.learning_rate < 1e-4  # what the weights were trained with


def test_fine_tuning_may_rename_stems():
    assert load("unet_finetune", "model.stems=[guitar,accompaniment]").model.stems == ("guitar", "accompaniment")


def test_a_checkpoint_to_start_from_that_is_not_there_is_an_error():
    with pytest.raises(ConfigError, match=r"init\.checkpoint of .*unet_finetune\.yaml.*spleeter-2stem"):
        load("unet_finetune", "init.checkpoint=spleeter-2stem")


def test_the_smoke_test_needs_no_data_and_validates_and_saves_twice():
    config = load("smoke")
    assert config.data.layout == "synthetic"
    assert config.training.steps // config.validation.every_steps >= 2
    assert config.training.steps // config.checkpoints.every_steps >= 2


def test_the_others_ask_for_tracks():
    with pytest.raises(ConfigError, match="data: give 'root', the folder of the tracks"):
        load_config(CONFIGS / "unet_2stems.yaml")


def test_overrides_go_before_what_the_file_says():
    config = load(
        "unet_2stems",
        "training.steps=7",
        "optimizer.schedule={kind: cosine, steps: 5}",
        "init=null",
        "data.stems.accompaniment=[drums, bass]",
        "model.domain.masks.exponent=1",
        "validation.patience=3",
    )
    assert config.training.steps == 7 and config.training.batch_size == 4
    assert config.optimizer.schedule.steps == 5
    assert config.data.stems == {"accompaniment": ("drums", "bass")}
    assert config.model.domain.masks.exponent == 1.0
    assert config.validation.patience == 3 and config.init is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.steps", "'training.steps' is no override; give key.path=value"),
        ("=3", "is no override"),
        ("training..steps=3", "is no override"),
        ("training.steps.number=3", "names a key below one that holds a value"),
        ("training.steps=[1", "is not YAML; quote it"),
        ("optimizer={b1: 0.5, b2: 0.9, b1: 0.6}", "the key 'b1' is there twice, in line 1"),
        ("training.steps=many", r"training\.steps: Input should be a valid integer.*\(got 'many'\)"),
        ("training.steps=0", r"training\.steps: Input should be greater than or equal to 1 \(got 0\)"),
        ("model.domain={kind: waveform}", "model: family 'unet' works on magnitudes, and the domain is 'waveform'"),
        ("model.config.bins=1000", r"model.config: .*bins \(= 1000\) must be a multiple of 64"),
        ("data.stems={drums: [kick]}", "data.stems names 'drums', and the model's stems are vocals, accompaniment"),
        ("loss.stem_weights=[1]", "There are 1 stem_weights for the stems vocals, accompaniment"),
        ("optimizer.schedule.kind=plateau", "optimizer.schedule: a schedule of kind 'plateau' needs 'patience'"),
        ("augment={gain_low: 2}", r"augment: gain_low \(= 2.0\) is above gain_high \(= 1.0\)"),
    ],
)
def test_overrides_that_cannot_be_are_refused_in_one_sentence(override, message):
    with pytest.raises(ConfigError, match=message) as raised:
        load("unet_2stems", override)
    sentence = str(raised.value)
    assert sentence.endswith((".", "?")) and not sentence.endswith(("..", "?.")) and "\n" not in sentence


@pytest.mark.parametrize("written", ["1e6", "1E6", "1.0e6", "1.0e+6", "1000000"])
def test_whole_numbers_may_have_an_exponent(written):
    """As in YAML 1.2; PyYAML by itself takes the first three for text."""
    steps = load("unet_2stems", f"training.steps={written}").training.steps
    assert steps == 10**6 and isinstance(steps, int)
    assert load("unet_2stems", f"optimizer.learning_rate={written}").optimizer.learning_rate == 1e6


@pytest.mark.parametrize(
    "override",
    [
        "training.batch_size=true",
        "optimizer.learning_rate=yes",
        "validation.seconds=false",
        "validation.every_steps=true",
        "loss.stem_weights=[1, true]",
        "loss.terms=[{kind: magnitude_l1, weight: on}]",
        "model.config.filters=[true, 8]",
        "model.sample_rate=true",
        "model.procedure.normalise={ddof: true}",
    ],
)
def test_truth_values_are_no_numbers(override):
    with pytest.raises(ConfigError, match="Input should be a number, not true or false"):
        load("unet_2stems", override)


def test_truth_values_are_taken_where_they_are_asked_for():
    assert load("unet_2stems", "logging.tensorboard=false").logging.tensorboard is False


def test_what_is_wrong_in_the_parts_and_between_them_is_told_at_once():
    changes = ("training.steps=0", "optimizer.b1=true", "loss.stem_weights=[1]", "data.stems={drums: [kick]}")
    changes += ("validation={patience: 3}", "data.segment_length=1000", "trainin=1")
    with pytest.raises(ConfigError) as raised:
        load("unet_2stems", *changes)
    told = str(raised.value)
    for part in (
        "training.steps: Input should be greater than or equal to 1",
        "optimizer.b1: Input should be a number",
        "1 stem_weights for the stems",
        "data.stems names 'drums'",
        "needs validation.every_steps",
        "data.segment_length: a chunk must hold whole frames",
        "unknown key 'trainin'. Did you mean 'training'",
    ):
        assert told.count(part) == 1, told
    with pytest.raises(
        ConfigError, match=r"1 stems are named.*; channels \(= 1\) are not the config's.*; the ratio mask"
    ):
        load("unet_2stems", "model.stems=[vocals]", "model.channels=1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.config.bins=-3", "model.config: the 'unet' config is not a valid UNetConfig: bins: Input should be"),
        ("model.family=unett", "model.family: there is no model family 'unett'. Did you mean 'unet'"),
    ],
)
def test_a_network_that_is_wrong_hides_nothing_else(change, message):
    """Of the model's other keys; and what would follow from the network is not said to be missing."""
    other = ("model.stems=[vocals, vocals]", "model.sample_rate=0", "model.domain.stft.n_fft=0", "model.wrong=1")
    with pytest.raises(ConfigError) as raised:
        load("unet_2stems", change, *other, "model.config.dropout=7", "training.steps=0")
    told = str(raised.value)
    for part in (
        message,
        "model.stems: stems ('vocals', 'vocals') are not distinct",
        "model.sample_rate: Input should be greater than 0",
        "model.domain.stft.n_fft: Input should be greater than 0",
        "unknown key 'model.wrong'",
        "training.steps: Input should be greater than or equal to 1",
    ):
        assert told.count(part) == 1, told
    assert "is missing" not in told and told.count("unknown key") == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["training.steps=9223372036854775808"], "training.steps: Input should be less than or equal to 2147483647"),
        (["training.steps=1e300"], "training.steps: "),
        (["training.steps=1e9", "training.batch_size=1000"], "1000000000000 examples, and 2147483647 can be counted"),
    ],
)
def test_more_steps_than_can_be_counted_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        load("unet_2stems", *changes)


def cutting_of(name, text):
    return load(name, f"model.procedure.cutting={text}").model.procedure.cutting


def test_the_lengths_of_chunks_follow_from_one_number():
    """Of the Wave-U-Net's, as its authors published them (https://arxiv.org/abs/1806.03185, section 5)."""
    for given in ("estimate_length: 16389", "chunk_length: 147443"):
        found = cutting_of("wave_unet_m4", f"{{{given}, last: shifted}}")
        assert (found.chunk_length, found.estimate_length, found.chunk_hop) == (147443, 16389, 16389)
    # As many as are asked for are estimated, though the network could give a few more.
    found = cutting_of("wave_unet_m4", "{estimate_length: 16384}")
    assert (found.chunk_length, found.estimate_length, found.chunk_hop) == (147443, 16384, 16384)
    found = cutting_of("unet_2stems", "{chunk_length: 134144}")
    assert (found.chunk_length, found.estimate_length, found.chunk_hop) == (134144, 134144, 131072)
    # What is said stays, and other lengths of a checkpoint to start from do not stand in the way.
    assert cutting_of("unet_2stems", "{chunk_length: 134144, chunk_hop: 65536}").chunk_hop == 65536
    assert cutting_of("unet_finetune", "{chunk_length: 134144}").chunk_hop == 131072
    with pytest.raises(ConfigError, match=r"do not come out even.*give 151539, of which 20485 are estimated"):
        cutting_of("wave_unet_m4", "{chunk_length: 147444}")


@pytest.mark.parametrize(
    ("override", "key", "hint"),
    [
        ("trainin={steps: 1}", "trainin", "training"),
        ("optimizer.schedule.kidn=plateau", "optimizer.schedule.kidn", "kind"),
        ("model.domain.stft.nfft=2048", "model.domain.stft.nfft", "n_fft"),
        ("model.procedure.cutting.widnow=none", "model.procedure.cutting.widnow", "window"),
        ("model.config.filtres=[8, 16]", "filtres", "filters"),
        ("init={checkpoint: spleeter-2stems, frehs: []}", "init.frehs", "fresh"),
        ("loss.terms=[{kind: magnitude_l1, wieght: 2}]", "loss.terms.0.wieght", "weight"),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest_at_any_depth(override, key, hint):
    with pytest.raises(ConfigError) as raised:
        load("unet_2stems", override)
    assert str(raised.value).endswith(f"unknown key '{key}'. Did you mean '{hint}'?")


class Inner(Config):
    length: int = 1


class Outer(Config):
    one: Inner = Inner()
    several: tuple[Inner, ...] = ()
    perhaps: Inner | None = None


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ({"one": {"zzz": 1}}, "one.zzz"),
        ({"several": [{}, {"zzz": 1}]}, "several.1.zzz"),
        ({"perhaps": {"zzz": 1}}, "perhaps.zzz"),
    ],
)
def test_keys_that_resemble_none_are_met_with_all_that_there_are_at_their_place(data, key):
    assert not difflib.get_close_matches("zzz", ["length"])
    with pytest.raises(ConfigError, match=rf"unknown key '{key}'\. Known: length\.$"):
        Outer.parse(data, where="the test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"model: [", "is not YAML"),
        (
            b"training:\n  steps: 1\n  batch_size: 2\n  steps: 3\n",
            r"the key 'steps' is there twice, in lines 2 and 4\.$",
        ),
        (b"- &a {b: 1}\n- {a: 1, 'a': 2}", "the key 'a' is there twice, in line 2"),
        (b"started: 2026-13-45", "is not YAML: month must be in 1..12"),
        (b"[" * 5000, "is not YAML: it is nested too deeply"),
        (b"- 1\n- 2", "holds no mapping"),
        (b"\xff\xfe\x00", "cannot be read"),
        (None, "cannot be read: No such file"),
    ],
)
def test_files_that_are_no_recipes_are_refused(tmp_path, content, message):
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


@pytest.mark.parametrize("name", [*PUBLISHED, "smoke"])
def test_a_recipe_is_the_same_after_a_round_trip_through_json(name):
    config = load(name)
    assert type(config).model_validate_json(config.model_dump_json()) == config
    assert yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json"))) == config.model_dump(mode="json")


@pytest.mark.parametrize(
    "changes",
    [
        "model={chunking: {chunk_length: 265216, chunk_hop: 262144}}",
        "model={procedure: {cutting: {chunk_length: 265216, chunk_hop: 262144}}}",
    ],
)
def test_a_recipe_that_starts_from_a_checkpoint_may_change_its_chunks_in_either_version(changes):
    config = load("unet_finetune", "data.segment_length=null", changes)
    cutting = config.model.procedure.cutting
    assert (cutting.chunk_length, cutting.chunk_hop, cutting.estimate_length) == (265216, 262144, 265216)
    assert config.model.domain == load("unet_finetune").model.domain
