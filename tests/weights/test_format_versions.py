"""Descriptions of format_version 1: files that its code wrote are read, and separate as they did."""

import json
from pathlib import Path

import numpy as np
import pytest

import jaxsep
from jaxsep.errors import ConfigError
from jaxsep.models.format_versions import changes_from_version_1
from jaxsep.models.spec import ModelSpec
from jaxsep.weights.checkpoint import load_checkpoint, save_checkpoint

# Written, with the stems that they gave, by the last code of format_version 1: a U-Net with ratio masks, one on middle
# and sides with sharpened direct masks that are extended, a Wave-U-Net with its shifted end, its redesign, and one
# whose chunks are cross-faded.
FOLDER = Path(__file__).parent / "format_version_1"
NAMES = sorted(path.stem for path in FOLDER.glob("*.safetensors"))
EXPECTED = np.load(FOLDER / "expected.npz")
FILTERS = {"masks": "none", "wiener": "wiener"}


def raw_spec(path):
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return json.loads(header["__metadata__"]["spec"])


@pytest.mark.parametrize("name", NAMES)
def test_they_separate_as_they_did(name):
    path = FOLDER / f"{name}.safetensors"
    assert raw_spec(path)["format_version"] == 1
    for kind, filter in FILTERS.items():
        expected = {key.split("/")[2]: EXPECTED[key] for key in EXPECTED.files if key.startswith(f"{name}/{kind}/")}
        if not expected:
            continue
        separator = jaxsep.Separator.from_pretrained(path, filter=filter)
        found = separator.separate(EXPECTED["mixture"], 8000).stems
        assert found.keys() == expected.keys()
        for stem in expected:
            # The same float32 operations, compiled another way; the filter's matrices amplify their rounding.
            tolerance = 2e-6 if kind == "masks" else 1e-4
            np.testing.assert_allclose(found[stem], expected[stem], atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_they_become_files_of_today_with_the_same_arrays(name, tmp_path):
    before = load_checkpoint(FOLDER / f"{name}.safetensors")
    assert before.spec.format_version == 2
    save_checkpoint(tmp_path / "now.safetensors", before.spec, before.variables)
    now = load_checkpoint(tmp_path / "now.safetensors")
    assert (now.spec, now.sha256) == (before.spec, before.sha256)
    assert raw_spec(tmp_path / "now.safetensors")["format_version"] == 2


def test_bandwidths_become_bins():
    assert load_checkpoint(FOLDER / "unet.safetensors").spec.domain.bins == 32
    assert load_checkpoint(FOLDER / "unet.safetensors").spec.bandwidth_hz == 2000.0
    assert load_checkpoint(FOLDER / "wave-unet.safetensors").spec.bandwidth_hz == 4000.0


def test_recipes_with_the_keys_of_version_1_are_read_without_its_number():
    data = raw_spec(FOLDER / "unet-mid-side.safetensors")
    del data["format_version"]
    spec = ModelSpec.parse(data, where="a recipe")
    assert spec.domain.stereo == "mid_side" and spec.procedure.cutting.chunk_hop == 256


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("unet", {"chunking": {"chunk_length": 352, "chunk_hop": 256, "lead": 64}}, r"lead \(= 64\) must be 128"),
        ("wave-unet", {"masks": {}}, "are for networks on magnitudes"),
        ("wave-unet", {"stereo": "mid_side"}, "of two channels"),
        ("unet", {"format_version": 3}, "install a newer jaxsep"),
        ("unet", {"domain": {"kind": "waveform"}}, "keys of format_version 1 and of a later one: domain"),
        ("unet", {"stft": 3}, "need 'stft' too"),
        ("unet", {"stft": {"n_fft": None}}, "stft.n_fft must be a number, and it is None"),
        ("unet", {"stft": {"n_fft": 10.5}}, "stft.n_fft must be a whole number, and it is 10.5"),
        ("unet", {"bandwidth_hz": [1]}, r"bandwidth_hz must be a number, and it is \[1\]"),
        ("unet", {"bandwidth_hz": float("inf")}, "bandwidth_hz must be a number, and it is inf"),
        ("wave-unet", {"chunking": {"chunk_length": None}}, "chunking.chunk_length must be a number"),
        ("wave-unet", {"chunking": {"chunk_length": 9, "lead": None}}, "chunking.lead must be a number"),
    ],
)
def test_what_contradicts_itself_is_refused(name, change, message):
    with pytest.raises(ConfigError, match=message):
        ModelSpec.parse({**raw_spec(FOLDER / f"{name}.safetensors"), **change}, where="a file")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("unet", {"chunking": {"chunk_length": 128 + 15 * 32, "chunk_hop": 16 * 32}}),
        ("unet", {"masks": {"exponent": 1.0}, "bandwidth_hz": 2000.0}),
        ("unet-mid-side", {"stereo": "left_right"}),
        ("wave-unet", {"chunking": {"last": "padded"}}),
    ],
)
def test_changes_under_the_keys_of_version_1_are_those_of_the_whole_description(name, change):
    """As a recipe gives them that starts from a checkpoint: what it does not say stays."""
    raw = raw_spec(FOLDER / f"{name}.safetensors")
    whole = {
        **raw,
        **{key: {**raw[key], **value} if isinstance(value, dict) else value for key, value in change.items()},
    }
    expected = ModelSpec.parse(whole, where="the whole")
    base = ModelSpec.parse(raw, where="the base").model_dump()
    changes = changes_from_version_1(change, base)

    def merged(before, after):
        nested = {key: merged(before[key], after[key]) for key in before.keys() & after if isinstance(after[key], dict)}
        return {**before, **after, **nested}

    assert (
        ModelSpec.parse(merged(base, changes), where="the merged") == expected != ModelSpec.parse(raw, where="the base")
    )
