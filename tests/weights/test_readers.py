"""The readers of PyTorch, safetensors and pickle files against those libraries' own writers, and hostile files."""

import builtins
import io
import os
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.numpy
import torch
from weights import bundle_writer

from jaxsep.errors import CheckpointError
from jaxsep.weights.readers import natural_key, read_numpy_pickle, read_torch_file, read_weights, weight_files

ARRAYS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "conv.bias": np.array([0.5, -1.0], np.float32),
    "steps": np.array(7, np.int64),
}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].dtype == expected[name].dtype
        assert found[name].shape == expected[name].shape
        np.testing.assert_array_equal(found[name], expected[name])


def tensors():
    return {name: torch.from_numpy(array) for name, array in ARRAYS.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}},
        lambda state: {"model_state_dict": OrderedDict(state)},
        lambda state: {"state": {"model": state}},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_state_dicts_come_back_as_torch_saved_them_whatever_is_wrapped_around(tmp_path, wrap, zipped):
    torch.save(wrap(tensors()), tmp_path / "model.pth", _use_new_zipfile_serialization=zipped)
    assert_same(read_torch_file(tmp_path / "model.pth"), ARRAYS)
    assert_same(read_weights(tmp_path / "model.pth"), ARRAYS)


def test_nested_dicts_become_dotted_names_and_numbers_arrays(tmp_path):
    content = {"net": {"a": torch.ones(2), "layers": [torch.zeros(1)]}, "epoch": 4, "note": "text"}
    torch.save(content, tmp_path / "model.pt")
    found = read_torch_file(tmp_path / "model.pt")
    assert_same(
        found, {"net.a": np.ones(2, np.float32), "net.layers.0": np.zeros(1, np.float32), "epoch": np.asarray(4)}
    )


def test_bfloat16_of_torch_and_of_safetensors_becomes_float32(tmp_path):
    values = torch.tensor([1.0, -2.5, 3.140625], dtype=torch.bfloat16)
    torch.save({"b": values}, tmp_path / "model.pt")
    header = b'{"b":{"dtype":"BF16","shape":[3],"data_offsets":[0,6]}}'
    content = struct.pack("<Q", len(header)) + header + np.array([0x3F80, 0xC020, 0x4049], "<u2").tobytes()
    (tmp_path / "model.safetensors").write_bytes(content)
    expected = {"b": np.array([1.0, -2.5, 3.140625], np.float32)}
    assert_same(read_weights(tmp_path / "model.pt"), expected)
    assert_same(read_weights(tmp_path / "model.safetensors"), expected)


def test_safetensors_files_come_back_as_the_library_saved_them(tmp_path):
    safetensors.numpy.save_file(ARRAYS, tmp_path / "model.safetensors")
    assert_same(read_weights(tmp_path / "model.safetensors"), ARRAYS)


@pytest.mark.parametrize("header_size", [0, 3, 1 << 20, 1 << 40, (1 << 64) - 1])
def test_safetensors_headers_of_hostile_size_are_refused(tmp_path, header_size):
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", header_size) + b"{}" + bytes(100))
    with pytest.raises(CheckpointError, match="not an intact safetensors file"):
        read_weights(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "content", [{"a": "text"}, [], 3, {"q": torch.sparse_coo_tensor([[0]], [1.0], (2,), check_invariants=True)}]
)
def test_torch_files_without_plain_tensors_are_refused(tmp_path, content):
    torch.save({"x": content} if isinstance(content, dict) else content, tmp_path / "model.pt")
    with pytest.raises(CheckpointError):
        read_torch_file(tmp_path / "model.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_are_read_without_torch(tmp_path, monkeypatch, zipped):
    torch.save(tensors(), tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert_same(read_torch_file(tmp_path / "model.pt"), ARRAYS)


# Protocols from 4 on count the bytes of names, so that the older name cannot just be put in; numpy 1 wrote up to 3.
@pytest.mark.parametrize(
    ("protocol", "module"),
    [(i, b"numpy._core") for i in range(pickle.HIGHEST_PROTOCOL + 1)] + [(i, b"numpy.core") for i in range(4)],
)
def test_pickled_arrays_of_every_protocol_and_numpy_come_back_as_numpy_wrote_them(tmp_path, protocol, module):
    arrays = {
        **ARRAYS,
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big_endian": np.arange(3, dtype=">f4"),
        "empty": np.zeros((0, 2), np.float16),
        "scalar": np.array(2.5),
        "truth": np.array([True, False]),
    }
    content = pickle.dumps(OrderedDict(arrays), protocol)
    content = content.replace(b"numpy._core", module)
    (tmp_path / "bare.pkl").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "zipped.ckpt", "w") as archive:
        archive.writestr("zipped/data.pkl", content)
        archive.writestr("zipped/version", "3\n")
    expected = {name: array.astype(array.dtype.newbyteorder("=")) for name, array in arrays.items()}
    assert_same(read_numpy_pickle(tmp_path / "bare.pkl"), expected)
    assert_same(read_weights(tmp_path / "zipped.ckpt"), expected)


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


def hostile_pickles(sentinel):
    command = f"touch {sentinel}"
    code = f"open({str(sentinel)!r}, 'w')"
    getattr_chain = b"cbuiltins\ngetattr\n(cnumpy\ndtype\nX\x08\x00\x00\x00__init__tR."
    yield "os.system", pickle.dumps({"a": Calls(os.system, command)})
    yield "eval", pickle.dumps({"a": Calls(eval, code)})
    yield "exec", pickle.dumps(Calls(exec, code))
    yield "open", pickle.dumps({"a": Calls(open, str(sentinel), "w")})
    yield "as a name", pickle.dumps({Calls(os.system, command): np.ones(1)})
    yield "in an array of objects", pickle.dumps({"a": np.array([Calls(os.system, command)], object)})
    yield "protocol 0", f"cos\nsystem\n(S'{command}'\ntR.".encode()
    yield "INST", f"(S'{command}'\nios\nsystem\n.".encode()
    yield "getattr", getattr_chain
    yield "dotted name", b"\x80\x04\x8c\x05numpy\x8c\x19ndarray.__class__.__base__\x93."
    yield "nested module", b"\x80\x04\x8c\x0bnumpy.ctypeslib\x8c\nas_array.os\x93."
    yield "numpy's own eval", b"\x80\x04\x8c\x13numpy.testing._priv\x8c\x06runstr\x93."
    yield "codec", b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR."
    # BUILD with a pair sets attributes of whatever it is given, here of what the allowed names stand for.
    yield (
        "attributes of an allowed name",
        b"cnumpy.core.multiarray\n_reconstruct\n(N}X\x0c\x00\x00\x00__init____xN\x75tb.",
    )
    yield "attributes of a class", b"\x80\x02ccollections\nOrderedDict\nN}X\x01\x00\x00\x00xK\x01s\x86b."
    yield "persistent", b"Psystem\n."
    yield "extension", b"\x80\x02\x82\x01."
    yield "huge memo", b"\x80\x02Nr\xff\xff\xff\x7f."
    yield "huge frame", b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fN."
    yield "huge string", b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fN."
    yield "deep", b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."


HOSTILE = [name for name, _ in hostile_pickles("x")]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_run_nothing_and_are_refused(tmp_path, name, monkeypatch):
    sentinel = tmp_path / "executed"
    content = dict(hostile_pickles(sentinel))[name]
    monkeypatch.setattr(builtins, "eval", lambda *_: sentinel.touch())
    (tmp_path / "model.pkl").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "model.ckpt", "w") as archive:
        archive.writestr("model/data.pkl", content)
    for file in ("model.pkl", "model.ckpt"):
        with pytest.raises(CheckpointError) as error:
            read_numpy_pickle(tmp_path / file)
        assert "\n" not in str(error.value)
    assert not sentinel.exists()


@pytest.mark.parametrize("name", ["os.system", "eval", "open", "in an array of objects"])
def test_hostile_torch_files_run_nothing_and_are_refused(tmp_path, name):
    sentinel = tmp_path / "executed"
    content = dict(hostile_pickles(sentinel))[name]
    torch.save({"a": torch.ones(1)}, tmp_path / "good.pt")
    with zipfile.ZipFile(tmp_path / "good.pt") as good, zipfile.ZipFile(tmp_path / "bad.pt", "w") as bad:
        for member in good.namelist():
            bad.writestr(member, content if member.endswith("data.pkl") else good.read(member))
    with pytest.raises(CheckpointError, match="nothing else is loaded"):
        read_weights(tmp_path / "bad.pt")
    assert not sentinel.exists()


def test_a_hostile_pickle_leaves_nothing_behind_for_the_next(tmp_path):
    for _, content in hostile_pickles(tmp_path / "executed"):
        (tmp_path / "bad.pkl").write_bytes(content)
        with pytest.raises(CheckpointError):
            read_numpy_pickle(tmp_path / "bad.pkl")
    (tmp_path / "good.pkl").write_bytes(pickle.dumps(ARRAYS, 2))
    assert_same(read_numpy_pickle(tmp_path / "good.pkl"), ARRAYS)


def test_random_damage_to_a_pickle_raises_no_other_error(tmp_path):
    intact = pickle.dumps(ARRAYS, 2)
    rng = np.random.default_rng(0)
    file = tmp_path / "model.pkl"
    refused = 0
    for _ in range(600):
        damaged = bytearray(intact)
        for position in rng.integers(0, len(damaged), 3):
            damaged[position] = rng.integers(256)
        file.write_bytes(damaged)
        try:
            read_numpy_pickle(file)
        except CheckpointError:
            refused += 1
    # A pickle has no checksum, so that damage to the numbers themselves passes; most of it is in the structure.
    assert refused > 150


@pytest.mark.parametrize("content", [3, [np.ones(1)], {1: np.ones(1)}, {"a": 3}, {"a": {"b": np.ones(1)}}])
def test_pickles_of_anything_but_arrays_by_name_are_refused(tmp_path, content):
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError):
        read_numpy_pickle(tmp_path / "model.pkl")


def test_compressed_and_ambiguous_zips_are_refused(tmp_path):
    content = pickle.dumps(ARRAYS)
    with zipfile.ZipFile(tmp_path / "small.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("small/data.pkl", content)
    with zipfile.ZipFile(tmp_path / "two.ckpt", "w") as archive:
        archive.writestr("a/data.pkl", content)
        archive.writestr("b/data.pkl", content)
    for name in ("small.ckpt", "two.ckpt"):
        with pytest.raises(CheckpointError, match=r"no uncompressed data\.pkl"):
            read_numpy_pickle(tmp_path / name)


def test_damaged_zips_are_refused(tmp_path):
    buffer = io.BytesIO()
    torch.save(tensors(), buffer)
    intact = buffer.getvalue()
    rng = np.random.default_rng(1)
    for name, content in [
        ("cut", intact[: len(intact) // 2]),
        ("magic alone", b"PK\x03\x04"),
        ("directory", intact[:-60] + rng.bytes(60)),
    ]:
        (tmp_path / "model.pt").write_bytes(content)
        with pytest.raises(CheckpointError):
            read_weights(tmp_path / "model.pt")
        assert name


def test_a_folder_of_files_is_one_set_of_arrays_in_order_of_their_numbers(tmp_path):
    for i in (10, 2, 0):
        (tmp_path / f"stem{i}.ckpt").write_bytes(pickle.dumps({"a": np.full(1, i, np.float32)}))
    (tmp_path / "readme.txt").write_text("not weights")
    expected = {f"stem{i}/a": np.full(1, i, np.float32) for i in (0, 2, 10)}
    found = read_weights(tmp_path)
    assert list(found) == list(expected)
    assert_same(found, expected)
    assert [file.name for file in weight_files(tmp_path)] == ["stem0.ckpt", "stem2.ckpt", "stem10.ckpt"]


def test_a_tensorflow_folder_is_recognised(tmp_path):
    bundle_writer.write_bundle(tmp_path / "model", {"a": ARRAYS["conv.bias"]}, shards=2)
    assert_same(read_weights(tmp_path), {"a": ARRAYS["conv.bias"]})
    assert [file.name for file in weight_files(tmp_path)] == ["model.data-00000-of-00002", "model.data-00001-of-00002"]


@pytest.mark.parametrize("content", [b"", b"RIFF....WAVE", b"{}", b"\x1f\x8b\x08", bytes(64)])
def test_unknown_formats_are_refused_with_what_is_known(tmp_path, content):
    (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match="it reads TensorFlow"):
        read_weights(tmp_path / "model.bin")


def test_missing_files_and_empty_folders_are_said(tmp_path):
    with pytest.raises(CheckpointError, match="no weights at"):
        read_weights(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="holds no weights"):
        read_weights(tmp_path)


def test_numbers_in_names_sort_as_numbers():
    assert sorted(["b2", "b10", "a", "b1", "10", "9"], key=natural_key) == ["9", "10", "a", "b1", "b2", "b10"]
