"""The bundle reader against bundles written by `bundle_writer`, intact, damaged and hostile."""

import random

import numpy as np
import pytest
from weights import bundle_writer as writer

from jaxsep.errors import CheckpointError
from jaxsep.weights.readers import read_tensorflow_bundle


@pytest.fixture
def tensors():
    rng = np.random.default_rng(0)
    arrays = {
        f"layer_{i}/{part}": rng.standard_normal(shape).astype(np.float32)
        for i in range(7)
        for part, shape in (("kernel", (3, 2, i + 1)), ("bias", (i + 1,)))
    }
    return arrays | {
        "scalar": np.array(-5, np.int64),
        "empty": np.zeros((0, 4), np.float32),
        "half": rng.standard_normal(5).astype(np.float16),
        "double": rng.standard_normal(5),
        "bytes": np.arange(7, dtype=np.uint8),
        "truth": np.array([True, False]),
        "naïve/名": np.ones(2, np.float32),
    }


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].dtype == expected[name].dtype
        assert found[name].shape == expected[name].shape
        np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize(("shards", "big_endian"), [(1, False), (3, False), (2, True)])
def test_reader_returns_what_an_independent_writer_wrote(tmp_path, tensors, shards, big_endian):
    writer.write_bundle(tmp_path / "model.ckpt-7", tensors, shards=shards, big_endian=big_endian)
    assert_same(read_tensorflow_bundle(tmp_path / "model.ckpt-7"), tensors)


def test_bfloat16_becomes_the_float32_of_the_same_value(tmp_path):
    # The upper halves of 1.0, -2.5 and 3.140625 in IEEE 754 single precision.
    stored = np.array([0x3F80, 0xC020, 0x4049], "<u2").tobytes()
    writer.write_bundle(tmp_path / "m", {}, extra={"b": writer.entry(14, (3,), 0, 0, 6, writer.masked(stored))})
    (tmp_path / "m.data-00000-of-00001").write_bytes(stored)
    found = read_tensorflow_bundle(tmp_path / "m")["b"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [1.0, -2.5, 3.140625])


def test_string_tensors_are_left_out(tmp_path):
    arrays = {"a": np.ones(2, np.float32)}
    graph = writer.entry(7, (), 0, 0, 4, b"\0\0\0\0")
    writer.write_bundle(tmp_path / "m", arrays, extra={"_CHECKPOINTABLE_OBJECT_GRAPH": graph})
    assert_same(read_tensorflow_bundle(tmp_path / "m"), arrays)


@pytest.mark.parametrize("given", ["m", "m.index", "m.data-00000-of-00001", ""])
def test_prefix_index_data_file_and_folder_name_the_same_bundle(tmp_path, tensors, given):
    writer.write_bundle(tmp_path / "m", tensors)
    assert_same(read_tensorflow_bundle(tmp_path / given), tensors)


def test_checkpoint_file_of_a_folder_names_the_latest_wherever_it_was_trained(tmp_path):
    for step in (1, 2):
        writer.write_bundle(tmp_path / f"model-{step}", {"step": np.array(step, np.int64)})
    state = tmp_path / "checkpoint"
    state.write_text('model_checkpoint_path: "/home/somebody/run/model-2"\nall_model_checkpoint_paths: "model-1"\n')
    assert read_tensorflow_bundle(tmp_path)["step"] == 2
    state.write_text('model_checkpoint_path: "model-1"\n')
    assert read_tensorflow_bundle(tmp_path)["step"] == 1
    state.write_text("nothing of the kind")
    with pytest.raises(CheckpointError, match="does not say which"):
        read_tensorflow_bundle(tmp_path)
    state.unlink()
    with pytest.raises(CheckpointError, match="model-1, model-2"):
        read_tensorflow_bundle(tmp_path)


def test_missing_files_are_named(tmp_path, tensors):
    with pytest.raises(CheckpointError, match=r"m\.index cannot be read"):
        read_tensorflow_bundle(tmp_path / "m")
    writer.write_bundle(tmp_path / "m", tensors, shards=2)
    (tmp_path / "m.data-00001-of-00002").unlink()
    with pytest.raises(CheckpointError, match="data-00001-of-00002 cannot be read"):
        read_tensorflow_bundle(tmp_path / "m")


def test_every_flipped_bit_of_the_index_is_detected(tmp_path):
    writer.write_bundle(tmp_path / "m", {f"layer/{i}": np.full(i, 0.5, np.float32) for i in range(4)})
    index = tmp_path / "m.index"
    intact = index.read_bytes()
    for bit in range(8 * len(intact)):
        damaged = bytearray(intact)
        damaged[bit // 8] ^= 1 << bit % 8
        index.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            read_tensorflow_bundle(tmp_path / "m")


def test_every_flipped_byte_and_every_truncation_of_the_data_is_detected(tmp_path):
    writer.write_bundle(tmp_path / "m", {"a": np.arange(20, dtype=np.float32), "b": np.ones((2, 3), np.float16)})
    data = tmp_path / "m.data-00000-of-00001"
    intact = data.read_bytes()
    rng = random.Random(0)
    for position in range(len(intact)):
        damaged = bytearray(intact)
        damaged[position] ^= rng.randrange(1, 256)
        for content in (damaged, intact[:position]):
            data.write_bytes(content)
            with pytest.raises(CheckpointError, match="is not intact"):
                read_tensorflow_bundle(tmp_path / "m")


def test_every_truncation_of_the_index_is_detected(tmp_path, tensors):
    writer.write_bundle(tmp_path / "m", tensors)
    index = tmp_path / "m.index"
    intact = index.read_bytes()
    for length in range(len(intact)):
        index.write_bytes(intact[:length])
        with pytest.raises(CheckpointError):
            read_tensorflow_bundle(tmp_path / "m")


_HUGE = 1 << 62


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (writer.entry(1, (_HUGE,), 0, 0, 4 * _HUGE % 2**64, b"1234"), "has 0 bytes"),
        (writer.entry(1, (1 << 40,), 0, 0, 4 << 40, b"1234"), "ends at byte"),
        (writer.entry(1, (2**63 + 1,), 0, 0, 4, b"1234"), "shape is negative"),
        (writer.entry(1, (1,), 0, _HUGE, 4, b"1234"), "ends at byte"),
        (writer.entry(1, (1,), 5, 0, 4, b"1234"), "data file 5 of 1"),
        (writer.entry(20, (1,), 0, 0, 4, b"1234"), "data type 20"),
        (writer.entry(1, (2,), 0, 0, 4, b"1234"), "4 bytes and shape"),
        (writer.entry(1, (1,), 0, 0, 4, b"1234") + writer.text(7, b""), "slices"),
        (b"\x0b", "cut or of unknown type"),
        (b"\x12\xff\xff\xff\xff\x7f", "cut or of unknown type"),
        (b"\x08" + b"\xff" * 11, "too long"),
        (b"\x08\x80", "cut or too long"),
    ],
)
def test_impossible_entries_with_intact_checksums_are_refused_before_anything_is_allocated(tmp_path, entry, message):
    writer.write_bundle(tmp_path / "m", {"good": np.ones(1, np.float32)}, extra={"bad": entry})
    with pytest.raises(CheckpointError, match=message):
        read_tensorflow_bundle(tmp_path / "m")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (b"", "too few"),
        (b"\0" * 100, "does not end as one"),
        (writer.table([(b"", writer.header(1))], compression=1), "compressed"),
        (writer.table([(b"", writer.header(1)), (b"b", b""), (b"a", b"")]), "not in order"),
        (writer.table([(b"a", b"")]), "header is missing"),
        (writer.table([(b"", writer.header(1)), (b"\xff", writer.entry(1, (), 0, 0, 4, b"1234"))]), "utf-8"),
    ],
)
def test_malformed_indexes_are_refused_in_one_sentence(tmp_path, index, message):
    (tmp_path / "m.index").write_bytes(index)
    with pytest.raises(CheckpointError, match=message) as error:
        read_tensorflow_bundle(tmp_path / "m")
    assert "\n" not in str(error.value)
