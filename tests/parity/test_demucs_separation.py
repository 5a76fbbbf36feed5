"""Whole tracks through Demucs's packages and bags: `jaxsep convert` and `separate` against the official command.

What is compared are samples of stems, in dB below the mixture. Networks are small and tell; see demucs_oracle.py.
"""

import importlib
import json

import numpy as np
import pytest
import safetensors.torch
import soundfile
import torch
from parity.demucs_oracle import RATE, SMALL, STEMS, build, official, save
from typer.testing import CliRunner

from jaxsep.cli.main import app
from jaxsep.separation.separator import Separator
from jaxsep.weights.checkpoint import load_checkpoint

# What float32 leaves of two programs that add up in other orders, in dB below the mixture; measured -104 and lower. A
# network on magnitudes takes the mixture's phase, which rounding decides where the mixture has next to nothing.
STEMS_DB = -90.0


def run(*arguments):
    outcome = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return outcome.exit_code, outcome.output


def converted(source, output, family="demucs", **options):
    flags = [part for key, value in options.items() for part in (f"--{key}", value)]
    assert run("convert", source, "--family", family, "-o", output, *flags)[0] == 0
    return output


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Packages of small networks, and two bags: four fine-tuned transformers, and one of every other kind."""
    folder = tmp_path_factory.mktemp("repository")
    with official():
        for number, name in enumerate(["drums", "bass", "other", "vocals"]):
            klass, arguments = SMALL["htdemucs"]
            save(build(klass, seed=number, **arguments), folder / f"{name}.th", half=True)
        for number, name in enumerate(["hdemucs", "hdemucs_magnitudes", "hdemucs_bands", "demucs_v3"]):
            klass, arguments = SMALL[name]
            save(build(klass, seed=number, **arguments), folder / f"{name}.th")
    rows = np.eye(4).tolist()
    (folder / "small_ft.yaml").write_text(f"models: {STEMS}\nweights: {rows}\n")
    (folder / "mixed.yaml").write_text(
        "models: [demucs_v3, hdemucs_magnitudes, hdemucs, hdemucs_bands]\n"
        "weights: [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 1, 1], [1, 0, 1, 1]]\nsegment: 0.8\n"
    )
    (folder / "alone.yaml").write_text("models: [hdemucs]\nsegment: 0.7\n")
    return folder


def write_song(path, sample_rate=RATE):
    """Writes noise off zero whose level grows, 2.2 s: several segments, the last one shorter than half of one."""
    samples = int(2.2 * sample_rate) + 1
    noise = np.random.default_rng(5).standard_normal((samples, 2)) * np.linspace(0.02, 0.2, samples)[:, None] + 0.01
    soundfile.write(path, noise.astype(np.float32), sample_rate, subtype="FLOAT")
    return path


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    return write_song(tmp_path_factory.mktemp("song") / "song.wav")


def by_demucs(name, repository, song, output, *options):
    """Stems of the official command, by name."""
    with official():
        as_float = ["--float32", "--clip-mode", "none"]
        model = ["-n", name, "--repo", str(repository), "--shifts", "0", "-d", "cpu"]
        importlib.import_module("demucs.separate").main([*model, *as_float, "-o", str(output), *options, str(song)])
    return {path.stem: soundfile.read(path, dtype="float32")[0] for path in (output / name / song.stem).iterdir()}


def by_jaxsep(model, song, output, *options):
    code, told = run("separate", song, "-m", model, "-o", output, "--subtype", "FLOAT", "--quiet", *options)
    assert code == 0, told
    return {path.stem: soundfile.read(path, dtype="float32")[0] for path in output.glob("**/*.wav")}


def decibels(found, expected, song):
    mixture = soundfile.read(song, dtype="float64")[0]
    return 10 * np.log10(np.sum((found.astype(np.float64) - expected) ** 2) / np.sum(mixture**2))


@pytest.mark.parametrize("bag", ["small_ft", "mixed", "alone"])
def test_a_bag_becomes_one_file_that_separates_as_demucs_does(bag, repository, song, tmp_path):
    model = converted(repository / f"{bag}.yaml", tmp_path / f"{bag}.safetensors")
    expected = by_demucs(bag, repository, song, tmp_path / "theirs")
    found = by_jaxsep(model, song, tmp_path / "ours")
    assert found.keys() == expected.keys() == set(STEMS)
    for stem in STEMS:
        assert np.abs(expected[stem]).max() < 1, "the official command clips at full scale"
        assert found[stem].shape == expected[stem].shape
        assert decibels(found[stem], expected[stem], song) < STEMS_DB, stem


def test_a_longer_overlap_and_shorter_segments_are_those_of_demucs(repository, song, tmp_path):
    model = converted(next(repository.glob("vocals-*.th")), tmp_path / "vocals.safetensors")
    options = ["--overlap", "0.4", "--segment", "0.9"]
    with official():
        pretrained = importlib.import_module("demucs.pretrained").get_model("vocals", repo=repository)
        api = importlib.import_module("demucs.api")
        separator = api.Separator("vocals", repo=repository, shifts=0, overlap=0.4, segment=0.9, device="cpu")
        mixture = torch.from_numpy(soundfile.read(song, dtype="float32")[0].T.copy())
        _, stems = separator.separate_tensor(mixture, RATE)
        assert pretrained.sources == STEMS
    found = by_jaxsep(model, song, tmp_path / "ours", *options)
    for stem in STEMS:
        assert decibels(found[stem], stems[stem].numpy().T, song) < STEMS_DB, stem


def test_one_stem_of_a_fine_tuned_bag_needs_its_own_network_alone(repository, song, tmp_path):
    model = converted(repository / "small_ft.yaml", tmp_path / "model.safetensors")
    everything = by_jaxsep(model, song, tmp_path / "all")
    content = bytearray(model.read_bytes())
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    first = next(value for name, value in header.items() if name.startswith("members/0/"))
    content[8 + int.from_bytes(content[:8], "little") + first["data_offsets"][0]] ^= 1
    model.write_bytes(content)
    assert run("separate", song, "-m", model, "-o", tmp_path / "damaged")[0] != 0
    found = by_jaxsep(model, song, tmp_path / "vocals", "--stems", "vocals")
    assert found.keys() == {"vocals"}
    np.testing.assert_array_equal(found["vocals"], everything["vocals"])


def test_packages_of_the_hub_give_the_same_model_as_pickled_ones(repository, tmp_path):
    pickled = converted(next(repository.glob("vocals-*.th")), tmp_path / "pickled.safetensors")
    with official():
        package = importlib.import_module("demucs.states")
        network = package.load_model(next(repository.glob("vocals-*.th")))
        kwargs = network._init_args_kwargs[1] | {"segment": {"_type": "fraction", "numerator": 6, "denominator": 5}}
        metadata = {"klass": "demucs.htdemucs.HTDemucs", "args": "[]", "kwargs": json.dumps(kwargs)}
        state = package.get_state(network, None, half=True)
        safetensors.torch.save_file(state, tmp_path / "vocals.safetensors", metadata)
    hub = converted(tmp_path / "vocals.safetensors", tmp_path / "hub.safetensors", dtype="float16")
    ours, theirs = load_checkpoint(hub), load_checkpoint(pickled)
    assert ours.spec.model_copy(update={"provenance": theirs.spec.provenance}) == theirs.spec
    from jaxsep.weights.checkpoint import hash_arrays
    from jaxsep.weights.tree import flatten

    # They were saved in half precision, so that storing them so again loses nothing.
    assert hash_arrays(flatten(ours.variables)) == hash_arrays(flatten(theirs.variables))


def test_a_state_dict_of_version_2_separates_as_version_2_does(tmp_path):
    # Of a state dict nothing but shapes is known: the rate is the constructor's.
    rate = 44100
    song = write_song(tmp_path / "song.wav", rate)
    klass, arguments = SMALL["demucs_v2"]
    with official(2):
        network = build(klass, **arguments)
        torch.save(network.state_dict(), tmp_path / "demucs.th")
        mixture = torch.from_numpy(soundfile.read(song, dtype="float32")[0].T.copy())
        ref = mixture.mean(0)
        apply_model = importlib.import_module("demucs.utils").apply_model
        estimates = {}
        for seconds in (40, 1):
            network.segment_length = seconds * rate
            found = apply_model(network, (mixture - ref.mean()) / ref.std(), shifts=0, split=True, overlap=0.25)
            estimates[seconds] = (found * ref.std() + ref.mean()).numpy().transpose(0, 2, 1)
    model = converted(tmp_path / "demucs.th", tmp_path / "demucs.safetensors", family="demucs_v2")
    for seconds, expected in estimates.items():
        found = by_jaxsep(model, song, tmp_path / str(seconds), "--chunk", str(seconds))
        for stem, values in zip(STEMS, expected, strict=True):
            assert decibels(found[stem], values, song) < STEMS_DB, (seconds, stem)


@pytest.mark.parametrize("version", [2, 4])
def test_silence_gives_silence(version, repository, tmp_path):
    """Networks with biases give something of it, which is scaled back to the level of the track: none.

    Version 2 itself divides by a deviation of zero, and gives what is no number.
    """
    source, family = next(repository.glob("vocals-*.th")), "demucs"
    if version == 2:
        klass, arguments = SMALL["demucs_v2"]
        source, family = tmp_path / "demucs.th", "demucs_v2"
        with official(2):
            torch.save(build(klass, **arguments).state_dict(), source)
    model = converted(source, tmp_path / "m.safetensors", family=family)
    separator = Separator.from_pretrained(model, chunk_seconds=1.0)
    for level in (0.0, 0.25):
        rate = separator.model.spec.sample_rate
        for stem in separator.separate(np.full((rate, 2), level, np.float32), rate).stems.values():
            # A constant is all mean, which comes back.
            np.testing.assert_allclose(stem, level, atol=1e-6)
