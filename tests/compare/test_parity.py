"""The comparison of parity: every twin, other weights, files of stems; and that it fails where it has to."""

import dataclasses
import os
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile
import torch
from compare.compared_files import variables_of, write
from weights.small_models import small_spec

from jaxsep.compare.excerpts import Excerpt
from jaxsep.compare.networks import JaxNetwork, TensorFlowTwin, TorchTwin
from jaxsep.compare.other_stems import StemsFolder
from jaxsep.compare.parity import Errors, compare_stems, compare_weights
from jaxsep.compare.reference import jansson
from jaxsep.compare.reference import unet as reference
from jaxsep.compare.reports import write_report
from jaxsep.compare.sides import default_threshold_db
from jaxsep.dsp.stft import STFTConfig
from jaxsep.errors import JaxsepError
from jaxsep.models.cutting import whole_frames, whole_outputs
from jaxsep.models.spec import ModelSpec
from jaxsep.separation.separator import Separator
from jaxsep.weights.checkpoint import load_checkpoint, save_checkpoint
from jaxsep.weights.rules import SPECS as FORMS
from jaxsep.weights.tree import expected_shapes, flatten, unflatten

ROOT = Path(__file__).parents[2]


def changed(spec, chunking, **config):
    """A published form with other sizes."""
    config = type(spec.config).parse({**spec.config.model_dump(), **config}, where="the test")
    changes = {"name": "small", "config": config, "stems": spec.stems[: config.n_sources], "channels": config.channels}
    return ModelSpec.parse(
        {**spec.model_dump(), **changes, "procedure": {"cutting": chunking(config)}}, where="the test"
    )


def resized(form, **config):
    spec = FORMS[form]
    return changed(spec, lambda sizes: whole_outputs(*sizes.lengths(3000), last=spec.procedure.cutting.last), **config)


def unets(form, **config):
    spec = FORMS[form]
    return changed(spec, lambda sizes: whole_frames(spec.domain.stft, 64), **config)


def unet(**config):
    transform = STFTConfig(n_fft=256, hop_length=64)
    return small_spec(
        config={"n_sources": 2, "channels": 2, "bins": 64, **config},
        domain={"kind": "magnitude", "stft": transform},
        procedure={"cutting": whole_frames(transform, 64)},
    )


SPECS = {
    "unet": unet(filters=(2, 3)),
    "jansson": unets("jansson", filters=(4, 6)),
    "classic_unet": unets("classic-unet", filters=(4, 6)),
    "wave_unet": resized("wave-unet-m5", levels=3, filters=4),
    "wave_unet_resampled": resized("wave-unet-torch", n_sources=2, filters=(8, 16, 24)),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The path of a checkpoint of each spec."""
    folder = tmp_path_factory.mktemp("models")
    paths = {name: folder / f"{name}.safetensors" for name in SPECS}
    for name, path in paths.items():
        save_checkpoint(path, SPECS[name], variables_of(SPECS[name]))
    return paths


def noise(seconds, rate, channels=2, seed=0, level=0.1):
    return (level * np.random.default_rng(seed).standard_normal((round(seconds * rate), channels))).astype(np.float32)


def decibels(signal, other):
    """The energy of one over that of the other."""
    return 10 * np.log10(np.square(signal, dtype=np.float64).sum() / np.square(other, dtype=np.float64).sum())


def write_stems(folder):
    for stem in SPECS["unet"].stems:
        write(folder / "stems" / f"{stem}.wav", noise(0.5, 8000), 8000)
    return folder / "stems"


@pytest.mark.parametrize(
    ("name", "framework"),
    [
        *((name, "torch") for name in SPECS),
        *((name, "tensorflow") for name in ("unet", "wave_unet")),
    ],
)
def test_every_twin_is_within_the_thresholds(models, parity, name, framework):
    spec = SPECS[name]
    # Whole chunks: in one that is mostly silent, norms over time are of values that are nearly the same, and rounding
    # is larger.
    seconds = 3 * spec.procedure.cutting.chunk_hop / spec.sample_rate
    done, report = parity(models[name], "--with", framework, "--seconds", seconds)
    assert done.exit_code == 0 and report["exceeded"] == [], done.output
    leaves = len(expected_shapes(spec))
    for way, found in report["weights"].items():
        if (name, framework, way) == ("unet", "tensorflow", "converted"):
            assert found == {"not_compared": "Spleeter's names are those of U-Nets with 6 blocks"}
            continue
        assert (found["leaves"], found["identical"], found["largest_difference"]) == (leaves, leaves, 0), way
        assert found["missing"] == found["unknown"] == found["different"] == []
    assert report["weights"].keys() == {"there_and_back", "converted"}
    rows = report["layers"]["rows"]
    # Every layer that has weights is there; a layer's first map stands for it where it gives several.
    weighted = {path.split("/", 1)[1].rpartition("/")[0] for path in expected_shapes(spec)}
    assert weighted <= {row["layer"].removesuffix("[0]") for row in rows}
    # Float32 rounding through a dozen layers.
    assert 0 < max(row["l2"] for row in rows) < 1e-5
    (track,) = report["tracks"]
    assert track["seconds"] == pytest.approx(seconds, abs=1 / spec.sample_rate)
    chunks = track["network"]["chunks"]
    assert len(chunks) >= 3 and max(chunk["relative"] for chunk in chunks) < 1e-5
    assert track["network"]["max"] == max(chunk["max"] for chunk in chunks) > 0
    assert [row["stem"] for row in track["stems"]] == list(spec.stems)
    assert max(row["difference_db"] or -999 for row in track["stems"]) < -100, track
    assert report["sha256"] == load_checkpoint(models[name]).sha256
    packages = {"torch": {"torch"}, "tensorflow": {"tensorflow", "tensorflow-cpu"}}[framework]
    assert packages & report["versions"].keys() and report["date"] and report["processor"]
    text = Path("compared/parity.md").read_text()
    assert text in done.output and all(rule in text for rule in report["rules"])


def test_weights_of_six_blocks_go_through_the_rules_for_spleeters_checkpoints():
    spec = unet(filters=(2, 3, 2, 3, 2, 3))
    found = compare_weights(variables_of(spec), TensorFlowTwin(spec, variables_of(spec)).converted())
    assert found["leaves"] == found["identical"] == len(expected_shapes(spec))
    assert found["missing"] == found["unknown"] == []


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"context": False},
        {"upsampling": "learned"},
        {"upsampling": "learned", "context": False},
        {"output": "direct", "output_activation": "linear", "kernel_size": 5, "merge_kernel_size": 1},
    ],
    ids=str,
)
def test_the_keras_wave_unet_estimates_what_the_pytorch_one_does(config):
    spec = resized("wave-unet-m4", levels=3, filters=4, **config)
    variables = variables_of(spec)
    mixture = noise(spec.procedure.cutting.chunk_length / 8000, 8000, level=0.5)[None]
    ours, theirs = (twin(spec, variables).estimates(mixture) for twin in (TensorFlowTwin, TorchTwin))
    assert ours.shape == (1, 2, spec.procedure.cutting.estimate_length, 2)
    # Float32 rounding through eight layers.
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max(), rtol=0)
    assert 0.05 < theirs.std() and np.percentile(np.abs(theirs), 50) < 0.95


def test_a_twin_with_another_weight_fails(models, parity, monkeypatch):
    def load_another(network, variables):
        reference.load_variables(network, variables)
        with torch.no_grad():
            network.source_1.encoder_1.conv.weight[0, 0, 2, 2] += 1.0

    monkeypatch.setattr(reference, "TWIN", dataclasses.replace(reference.TWIN, load_variables=load_another))
    done, report = parity(models["unet"], "--with", "torch", "--seconds", 1)
    assert done.exit_code == 1
    for way in ("there_and_back", "converted"):
        (different,) = report["weights"][way]["different"]
        assert different["leaf"] == "params/source_1/encoder_1/conv/kernel"
        assert different["max"] == pytest.approx(1.0, rel=1e-5)
    rows = {row["layer"]: row["relative"] for row in report["layers"]["rows"]}
    assert rows["source_1/encoder_0/norm"] < 1e-5 < rows["source_1/encoder_1/conv"]
    assert rows["source_0/mask"] < 1e-5
    told = "\n".join(report["exceeded"])
    assert "Weights are not the same bit for bit (there and back)." in told
    assert "the network's output differs by" in told and "the stem 'vocals' differs by" in told
    assert told.splitlines() == [line.removeprefix("jaxsep: ") for line in done.stderr.splitlines()]


def test_thresholds_decide(models, parity):
    arguments = (models["unet"], "--with", "torch", "--seconds", 1, "--overwrite")
    assert parity(*arguments, "--threshold-db", -300)[0].exit_code == 1
    done, report = parity(*arguments, "--threshold", 1e-12)
    assert done.exit_code == 1 and report["thresholds"] == {"output": 1e-12, "difference_db": -80.0}
    assert ["threshold is 1.0e-12" in sentence for sentence in report["exceeded"]] == [True]


def test_a_checkpoint_is_compared_leaf_by_leaf(models, parity, tmp_path):
    done, report = parity(models["unet"], "--with", models["unet"], "--seconds", 1)
    assert done.exit_code == 0
    assert [row["difference_db"] for row in report["tracks"][0]["stems"]] == [None, None]
    assert {row["max"] for row in report["layers"]["rows"]} == {0}
    leaves = {path: np.array(leaf) for path, leaf in flatten(variables_of(SPECS["unet"])).items()}
    leaves["params/source_0/mask/bias"] += np.float32(0.25)
    save_checkpoint(tmp_path / "other.safetensors", SPECS["unet"], unflatten(leaves))
    done, report = parity(models["unet"], "--with", tmp_path / "other.safetensors", "--seconds", 1, "--overwrite")
    assert done.exit_code == 1
    found = report["weights"]["leaf_by_leaf"]
    assert (found["leaves"], found["identical"]) == (len(leaves), len(leaves) - 1)
    (different,) = found["different"]
    assert different["leaf"] == "params/source_0/mask/bias" and different["max"] == pytest.approx(0.25, abs=1e-6)
    # A mask that is open further by a quarter in its logit: the sources are apart by some hundredths of the mixture.
    assert -60 < report["tracks"][0]["stems"][0]["difference_db"] < -10


def test_foreign_weights_are_read_as_convert_reads_them(models, parity, tmp_path):
    spec = SPECS["jansson"]
    twin = jansson.JanssonUNet(spec.config)
    reference.load_variables(twin, variables_of(spec))
    torch.save(twin.state_dict(), tmp_path / "twin.pt")
    done, report = parity(models["jansson"], "--with", tmp_path / "twin.pt", "--seconds", 8)
    assert done.exit_code == 0, done.output
    found = report["weights"]["leaf_by_leaf"]
    assert found["leaves"] == found["identical"] == len(expected_shapes(spec))


def test_models_that_see_something_else_are_compared_as_audio(models, parity, tmp_path):
    spec = SPECS["unet"]
    sides = spec.model_copy(update={"domain": spec.domain.model_copy(update={"stereo": "mid_side"})})
    save_checkpoint(tmp_path / "sides.safetensors", sides, variables_of(spec))
    done, report = parity(models["unet"], "--with", tmp_path / "sides.safetensors", "--seconds", 1)
    not_compared = {"not_compared": "the two models do not see chunks of the same kind"}
    assert report["layers"] == report["tracks"][0]["network"] == not_compared
    assert report["weights"]["leaf_by_leaf"]["identical"] == len(expected_shapes(spec))
    assert done.exit_code == 1 and all("the stem" in sentence for sentence in report["exceeded"])


def test_a_track_with_true_sources_has_scores(models, parity, tmp_path):
    """The other tool's estimates are the true sources and a tenth of their energy in noise: 20 dB."""
    rate, track = 8000, tmp_path / "tracks" / "song"
    true = {stem: noise(1.5, rate, seed=i) for i, stem in enumerate(SPECS["unet"].stems)}
    for i, (stem, waveform) in enumerate(true.items()):
        write(track / f"{stem}.wav", waveform, rate)
        write(tmp_path / "theirs" / "song" / f"{stem}.wav", waveform + 0.1 * noise(1.5, rate, seed=9 + i), rate)
    done, report = parity(models["unet"], "--with", tmp_path / "theirs", track, "--offset", 0.25, "--seconds", 1)
    assert done.exit_code == 1  # random weights separate nothing
    (found,) = report["tracks"]
    assert (found["track"], found["offset_seconds"], found["seconds"]) == ("song", 0.25, 1.0)
    part = slice(2000, 10000)
    mixture = sum(true.values())[part]
    stems = Separator.from_pretrained(models["unet"]).separate(mixture, rate).stems
    for i, row in enumerate(found["stems"]):
        source, ours = true[row["stem"]][part], stems[row["stem"]]
        theirs = (true[row["stem"]] + 0.1 * noise(1.5, rate, seed=9 + i))[part]
        scores = [decibels(source, source - estimate) for estimate in (ours, theirs)]
        assert scores[1] == pytest.approx(20, abs=0.3)
        assert [row["sdr_ours"], row["sdr_theirs"]] == pytest.approx(scores, abs=1e-3)
        assert row["sdr_difference"] == pytest.approx(scores[0] - scores[1], abs=1e-3)
        assert row["difference_db"] == pytest.approx(decibels(ours - theirs, mixture), abs=1e-3)
    assert report["layers"] == {"not_compared": "there are files of stems alone"}
    assert "| song | vocals |" in done.output and "SDR difference" in done.output


def test_files_of_any_rate_and_channels_are_separated_as_separate_does(models, parity, tmp_path):
    """What the Separator gives, compiled as a whole, is the other tool's."""
    song = write(tmp_path / "song.wav", noise(1.2, 11025, channels=1), 11025)
    heard = soundfile.read(song, dtype="float32", always_2d=True)[0]
    for stem, waveform in Separator.from_pretrained(models["unet"]).separate(heard, 11025).stems.items():
        write(tmp_path / "theirs" / f"{stem}.wav", waveform, 11025)
    done, report = parity(models["unet"], "--with", tmp_path / "theirs", song, "--seconds", 0)
    assert done.exit_code == 0, done.output
    (track,) = report["tracks"]
    assert (track["sample_rate"], track["channels"], track["seconds"]) == (11025, 1, 1.2)
    # The same operations, put together otherwise by the compiler.
    assert max(row["difference_db"] or -999 for row in track["stems"]) < -110
    assert track["sdr_not_compared"] == "its true sources are not known"


def test_errors_are_those_of_the_rules():
    ours, theirs = np.array([[1.0, -2.5], [0.0, 3.0]]), np.array([[1.0, -2.0], [0.0, 4.0]])
    expected = {"max": 1.0, "mean": 1.5 / 4, "relative": 0.25, "l2": (1.25 / 21) ** 0.5}
    assert Errors().add(ours, theirs).numbers() == pytest.approx(expected)
    assert Errors().add(ours[:1], theirs[:1]).add(ours[1:], theirs[1:]).numbers() == pytest.approx(expected)
    zeros = np.zeros(3)
    assert Errors().add(zeros, zeros).numbers() == {"max": 0, "mean": 0, "relative": 0, "l2": 0}
    # No number says how far something is from nothing.
    assert Errors().add(zeros + 1, zeros).numbers() == {"max": 1, "mean": 1, "relative": None, "l2": None}


def test_differences_are_relative_to_the_mixture():
    mixture = noise(1, 8000)
    quiet = 1e-6 * noise(1, 8000, seed=1)
    excerpt = Excerpt("song", mixture, 8000, 0.0, {}, "not known")
    (row,) = compare_stems(excerpt, {"vocals": quiet + np.float32(1e-3) * mixture}, {"vocals": quiet})
    assert row["difference_db"] == pytest.approx(-60, abs=1e-3)
    assert row.keys() == {"stem", "max", "mean", "difference_db"}


def test_weights_are_the_same_in_every_bit_or_not():
    ours = {"params": {"a": np.array([1.0, 0.0], np.float32), "b": np.zeros(2, np.float32)}}
    theirs = {"params": {"a": np.array([1.0, -0.0], np.float32), "c": np.zeros(2, np.float32)}}
    found = compare_weights(ours, theirs)
    assert (found["leaves"], found["identical"], found["largest_difference"]) == (1, 0, 0)
    assert (found["missing"], found["unknown"]) == (["params/b"], ["params/c"])


def test_weights_in_float16_may_be_further_from_spleeters(tmp_path):
    half = jax.tree.map(lambda leaf: np.float32(np.float16(leaf)), variables_of(SPECS["unet"]))
    side = StemsFolder(SPECS["unet"], write_stems(tmp_path), ["song"])
    for variables, expected in ((half, -50), (variables_of(SPECS["unet"]), -70)):
        assert default_threshold_db(JaxNetwork(SPECS["unet"], variables, jax.devices()[0]), side) == expected


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["unet", "--with", "tensorflo"],
            "--with 'tensorflo' is neither torch, tensorflow, spleeter, demucs nor a path to weig",
        ),
        (["unet", "--with", "tensorflo"], "Did you mean 'tensorflow'?"),
        (["unet", "--with", "torch", "absent.wav"], "There is no file or folder 'absent.wav'"),
        (["unet", "--with", "spleeter"], "'small' is not of the form of a published model of Spleeter's"),
        (
            ["jansson", "--with", "tensorflow"],
            "The family 'jansson' has no twin in TensorFlow; those that have one: unet",
        ),
        (["unet", "--with", "stems"], "'stems' holds stems; name what they were made of, as INPUT."),
        (["unet", "--with", "stems", "song.wav"], "There is no 'accompaniment' of the track 'song' in 'stems'"),
        (["unet", "--with", "torch", "song.wav", "song.wav"], "Two of the tracks are called 'song'"),
        (["unet", "--with", "torch", "-o", "song.wav"], "'song.wav' is not a directory"),
    ],
)
def test_what_cannot_be_compared_is_refused(models, parity, arguments, sentence):
    write(Path("song.wav"), noise(0.5, 8000), 8000)
    write(Path("stems/vocals.wav"), noise(0.5, 8000), 8000)
    name, *rest = arguments
    done, report = parity(models[name], *rest)
    assert done.exit_code == 2 and report is None
    (told,) = done.stderr.splitlines()
    assert sentence in told


def test_silence_is_refused(models, parity):
    write(Path("song.wav"), np.zeros((4000, 2), np.float32), 8000)
    done, report = parity(models["unet"], "--with", models["unet"], "song.wav")
    assert done.exit_code == 1 and report is None
    assert "The excerpt of 'song' is silent; choose another by --offset and --seconds." in done.stderr


def test_a_report_is_not_replaced_and_that_is_known_before_any_work(models, parity):
    Path("compared").mkdir()
    Path("compared/parity.json").write_text("{}")
    done, _ = parity("a-model-that-is-not-here", "--with", "torch")
    assert done.exit_code == 2 and "'compared/parity.json' exists; use --overwrite" in done.stderr
    assert os.listdir("compared") == ["parity.json"]


@pytest.mark.parametrize("procedure", [{"wiener": {"iterations": 1}}, {"shifts": 1}])
def test_a_procedure_with_more_than_chunks_is_compared_as_it_separates(models, parity, tmp_path, procedure):
    spec = SPECS["unet"]
    spec = spec.with_procedure(**procedure)
    save_checkpoint(tmp_path / "more.safetensors", spec, variables_of(spec))
    mixture = noise(0.5, 8000)
    for stem, waveform in (
        Separator.from_pretrained(tmp_path / "more.safetensors").separate(mixture, 8000).stems.items()
    ):
        write(tmp_path / "theirs" / f"{stem}.wav", waveform, 8000)
    write(tmp_path / "song.wav", mixture, 8000)
    done, report = parity(tmp_path / "more.safetensors", "--with", tmp_path / "theirs", tmp_path / "song.wav")
    # The files hold what a Separator gave: the same float32 operations, in one piece.
    assert done.exit_code == 0 and max(row["difference_db"] or -999 for row in report["tracks"][0]["stems"]) < -100


def test_a_report_does_not_replace_one_that_came_to_exist(tmp_path):
    write_report(tmp_path, "parity", {"of": "another run"}, "theirs", overwrite=False)
    with pytest.raises(
        JaxsepError, match=r"parity\.json' came to exist.*kept as '.*parity\.2\.json', '.*parity\.2\.md'"
    ):
        write_report(tmp_path, "parity", {}, "ours", overwrite=False)
    assert (tmp_path / "parity.md").read_text() == "theirs" and (tmp_path / "parity.2.md").read_text() == "ours"
    write_report(tmp_path, "parity", {}, "ours", overwrite=True)
    assert (tmp_path / "parity.md").read_text() == "ours"
