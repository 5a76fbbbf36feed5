"""jaxsep's own checkpoints, both formats: what comes back, what is refused, and that no damage passes."""

import hashlib
import json
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from weights.small_models import CONFIG, assert_same_variables, small_spec, small_variables

from jaxsep.errors import CheckpointError
from jaxsep.weights.checkpoint import (
    Checkpoint,
    is_checkpoint,
    load_checkpoint,
    read_spec,
    replacing,
    save_checkpoint,
)

FORMATS = ["model.safetensors", "model"]


@pytest.fixture(scope="module")
def spec():
    return small_spec()


@pytest.fixture(scope="module")
def variables(spec):
    return small_variables(spec)


def rewrite(path: Path, **changes) -> None:
    """Changes the record of a checkpoint and makes its hash of the spec right again, as a deliberate edit would."""

    def edited(record):
        described = {**record["spec"], **changes}
        text = json.dumps(described, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return {**record, "spec": described, "spec_sha256": hashlib.sha256(text.encode()).hexdigest()}

    if path.is_dir():
        record = json.loads((path / "jaxsep.json").read_text())
        (path / "jaxsep.json").write_text(json.dumps(edited(record)))
        return
    with safetensors.safe_open(path, "numpy") as file:
        metadata = dict(file.metadata())
    record = edited({**metadata, "spec": json.loads(metadata["spec"])})
    arrays = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file(arrays, path, {**record, "spec": json.dumps(record["spec"])})


@pytest.mark.parametrize("name", FORMATS)
def test_variables_and_spec_come_back_bit_for_bit(tmp_path, spec, variables, name):
    sha256 = save_checkpoint(tmp_path / name, spec, variables)
    checkpoint = load_checkpoint(tmp_path / name)
    assert isinstance(checkpoint, Checkpoint)
    assert checkpoint.spec == spec == read_spec(tmp_path / name)
    assert checkpoint.sha256 == sha256
    assert_same_variables(checkpoint.variables, variables)
    assert is_checkpoint(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", FORMATS)
def test_float16_storage_gives_numpys_rounding_back_as_float32(tmp_path, spec, variables, name):
    save_checkpoint(tmp_path / name, spec, variables, dtype="float16")
    rounded = _map(variables, lambda leaf: leaf.astype(np.float16).astype(np.float32))
    assert_same_variables(load_checkpoint(tmp_path / name).variables, rounded)


def _map(tree, function):
    return {key: _map(node, function) if isinstance(node, dict) else function(node) for key, node in tree.items()}


def test_both_formats_carry_the_same_hash_and_it_depends_on_what_is_stored(tmp_path, spec, variables):
    hashes = {save_checkpoint(tmp_path / name, spec, variables) for name in FORMATS}
    assert len(hashes) == 1
    half = save_checkpoint(tmp_path / "half.safetensors", spec, variables, dtype="float16")
    other = save_checkpoint(tmp_path / "other.safetensors", spec, small_variables(spec, seed=1))
    assert len(hashes | {half, other}) == 3


def test_the_hash_is_that_of_names_types_shapes_and_bytes_in_order_of_names(tmp_path, spec, variables):
    digest = hashlib.sha256()
    sha256 = save_checkpoint(tmp_path / "m.safetensors", spec, variables)
    arrays = safetensors.numpy.load_file(tmp_path / "m.safetensors")
    for name in sorted(arrays):
        shape = ",".join(str(length) for length in arrays[name].shape)
        digest.update(f"{name}\0float32\0{shape}\0".encode() + arrays[name].tobytes())
    assert sha256 == digest.hexdigest()


def test_the_same_weights_make_the_same_file_which_the_library_reads(tmp_path, spec, variables):
    for name in ("a.safetensors", "b.safetensors"):
        save_checkpoint(tmp_path / name, spec, variables)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    arrays = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    kernel = variables["params"]["source_1"]["mask"]["kernel"]
    np.testing.assert_array_equal(arrays["params/source_1/mask/kernel"], kernel)


def test_files_have_the_permissions_that_others_have(tmp_path, spec, variables):
    (tmp_path / "plain").write_text("")
    save_checkpoint(tmp_path / "m.safetensors", spec, variables)
    assert (tmp_path / "m.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_overwritten_unless_told(tmp_path, spec, variables, name):
    save_checkpoint(tmp_path / name, spec, variables)
    changed = small_variables(spec, seed=1)
    with pytest.raises(CheckpointError, match="exists"):
        save_checkpoint(tmp_path / name, spec, changed)
    assert_same_variables(load_checkpoint(tmp_path / name).variables, variables)
    save_checkpoint(tmp_path / name, spec, changed, overwrite=True)
    assert_same_variables(load_checkpoint(tmp_path / name).variables, changed)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_that_is_no_checkpoint_is_never_replaced(tmp_path, spec, variables):
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "song.wav").write_bytes(b"precious")
    with pytest.raises(CheckpointError, match="is not overwritten"):
        save_checkpoint(tmp_path / "music", spec, variables, overwrite=True)
    assert (tmp_path / "music" / "song.wav").read_bytes() == b"precious"


@pytest.mark.parametrize("name", FORMATS)
def test_a_write_that_fails_leaves_the_old_checkpoint_and_nothing_else(tmp_path, spec, variables, name, monkeypatch):
    save_checkpoint(tmp_path / name, spec, variables)

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(CheckpointError, match="No space left"):
        save_checkpoint(tmp_path / name, spec, small_variables(spec, seed=1), overwrite=True)
    monkeypatch.undo()
    assert_same_variables(load_checkpoint(tmp_path / name).variables, variables)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_values_that_cannot_be_stored_are_refused_and_nothing_is_written(tmp_path, spec, variables):
    for value, dtype, message in [(1e6, "float16", "beyond the range of float16"), (np.nan, None, "is not finite")]:
        broken = _map(variables, np.copy)
        broken["params"]["source_0"]["mask"]["bias"][1] = value
        with pytest.raises(CheckpointError, match=f"source_0/mask/bias' .*{message}"):
            save_checkpoint(tmp_path / "m.safetensors", spec, broken, dtype=dtype)
    with pytest.raises(CheckpointError, match="is float64"):
        save_checkpoint(tmp_path / "m.safetensors", spec, _map(variables, lambda leaf: leaf.astype(np.float64)))
    assert not list(tmp_path.iterdir())


def test_variables_that_do_not_fit_are_refused_with_every_leaf_named(tmp_path, spec, variables):
    broken = _map(variables, np.copy)
    del broken["params"]["source_0"]["mask"]["bias"]
    broken["params"]["source_1"]["mask"]["kernel"] = np.zeros((4, 4, 1, 3), np.float32)
    broken["params"]["source_1"]["extra"] = np.zeros(1, np.float32)
    with pytest.raises(CheckpointError) as error:
        save_checkpoint(tmp_path / "m.safetensors", spec, broken)
    for part in (
        "1 missing: params/source_0/mask/bias",
        "1 not of the model: params/source_1/extra",
        "params/source_1/mask/kernel (got (4, 4, 1, 3), expected (4, 4, 1, 2))",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("name", FORMATS)
def test_stored_leaves_that_do_not_fit_their_spec_are_named(tmp_path, spec, variables, name):
    save_checkpoint(tmp_path / name, spec, variables)
    config = spec.config.model_dump(mode="json")
    rewrite(tmp_path / name, config={**config, "filters": [2, 4]})
    with pytest.raises(
        CheckpointError, match=r"of another shape: .*encoder_1/conv/bias \(got \(3,\), expected \(4,\)\)"
    ):
        load_checkpoint(tmp_path / name)
    rewrite(tmp_path / name, config={**config, "n_sources": 3}, stems=["a", "b", "c"])
    with pytest.raises(CheckpointError, match=r"missing: .*params/source_2/mask/kernel"):
        load_checkpoint(tmp_path / name)
    direct = {**spec.domain.model_dump(mode="json"), "masks": {"kind": "direct"}}
    rewrite(tmp_path / name, config={**config, "n_sources": 1}, stems=["a"], domain=direct)
    with pytest.raises(CheckpointError, match=r"not of the model: .*params/source_1/mask/kernel"):
        load_checkpoint(tmp_path / name)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"format_version": 99}, "newer jaxsep"),
        ({"format_version": "1"}, "format_version"),
        ({"family": "unnet"}, "no model family 'unnet'"),
        ({"stems": ["vocals", "vocals"]}, "not distinct"),
        ({"sample_rate": -1}, "sample_rate"),
        (
            {"procedure": {"cutting": {"chunk_length": 160, "chunk_hop": 112}}},
            "multiples of 4, and the length is 7",
        ),
    ],
)
def test_specs_that_this_jaxsep_cannot_run_are_refused(tmp_path, spec, variables, name, changes, message):
    save_checkpoint(tmp_path / name, spec, variables)
    rewrite(tmp_path / name, **changes)
    with pytest.raises(CheckpointError, match=message) as error:
        load_checkpoint(tmp_path / name)
    assert "\n" not in str(error.value)


def test_any_flipped_bit_of_a_safetensors_file_is_refused(tmp_path, spec, variables):
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, spec, variables, dtype="float16")
    intact = path.read_bytes()
    rng = random.Random(0)
    header = 8 + struct.unpack("<Q", intact[:8])[0]
    positions = [*range(8), *rng.sample(range(8, header), 150), *rng.sample(range(header, len(intact)), 150)]
    for position in positions:
        damaged = bytearray(intact)
        damaged[position] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load_checkpoint(path)


def test_a_flipped_bit_in_an_array_passes_safetensors_itself_but_not_the_hash(tmp_path, spec, variables):
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, spec, variables)
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x40
    path.write_bytes(content)
    safetensors.numpy.load_file(path)
    with pytest.raises(CheckpointError, match="arrays do not match its sha256"):
        load_checkpoint(path)


def test_damage_to_any_file_of_an_orbax_folder_is_refused_or_changes_nothing(tmp_path):
    # Large enough for the arrays to be a file of their own, apart from Orbax's bookkeeping.
    spec = small_spec(config={**CONFIG, "filters": (16, 32)})
    save_checkpoint(tmp_path / "m", spec, small_variables(spec))
    files = [path for path in (tmp_path / "m").rglob("*") if path.is_file() and path.stat().st_size]
    largest = str(max(files, key=lambda path: path.stat().st_size).relative_to(tmp_path / "m"))
    program = [sys.executable, Path(__file__).with_name("damage_folder.py"), tmp_path / "m", "5"]
    result = subprocess.run(program, capture_output=True, text=True, check=True)
    outcomes = json.loads(result.stdout)
    assert len(outcomes) == len(files)
    # Some files say again what others say, or are not read; no damage may give other weights or another kind of error.
    assert {kind for counts in outcomes.values() for kind in counts} == {"refused", "unchanged"}
    # Five flipped bits and three truncations each. Of the arrays' file one bit in two hundred or so means nothing, in
    # the tree of keys at its end. Which are drawn depends on the names that Orbax draws: three of five is one in 10^6.
    assert outcomes[largest].get("refused", 0) >= 6
    assert outcomes["jaxsep.json"] == {"refused": 8}


@pytest.mark.parametrize("name", FORMATS)
def test_other_arrays_than_those_recorded_are_refused(tmp_path, spec, variables, name):
    save_checkpoint(tmp_path / name, spec, variables)
    save_checkpoint(tmp_path / f"other_{name}", spec, small_variables(spec, seed=1))
    if name == "model":
        (tmp_path / "model" / "arrays").rename(tmp_path / "old")
        (tmp_path / "other_model" / "arrays").rename(tmp_path / "model" / "arrays")
    else:
        with safetensors.safe_open(tmp_path / name, "numpy") as file:
            metadata = file.metadata()
        arrays = safetensors.numpy.load_file(tmp_path / f"other_{name}")
        safetensors.numpy.save_file(arrays, tmp_path / name, metadata)
    with pytest.raises(CheckpointError, match="arrays do not match its sha256"):
        load_checkpoint(tmp_path / name)


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.3, 0.999])
def test_truncated_files_are_refused(tmp_path, spec, variables, fraction):
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, spec, variables)
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**64 - 1) + b"{}",
        struct.pack("<Q", 90_000_000) + b"{}" * 50,
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 40) + b"[" * 40,
        struct.pack("<Q", 100_000) + b'{"a":' * 20_000,
        struct.pack("<Q", 60) + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,99999]}}  ',
        struct.pack("<Q", 76) + b'{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}  ',
    ],
)
def test_garbage_and_hostile_headers_are_refused_in_one_sentence(tmp_path, content):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    for read in (load_checkpoint, read_spec):
        with pytest.raises(CheckpointError) as error:
            read(path)
        assert "\n" not in str(error.value)
    assert not is_checkpoint(path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"spec": 3}', '{"spec": {}}', "[" * 100_000, '{"a": "\\ud800"}']
)
def test_folders_with_a_broken_record_are_refused_in_one_sentence(tmp_path, spec, variables, text):
    save_checkpoint(tmp_path / "m", spec, variables)
    (tmp_path / "m" / "jaxsep.json").write_text(text)
    with pytest.raises(CheckpointError) as error:
        read_spec(tmp_path / "m")
    assert "\n" not in str(error.value)


def test_foreign_files_and_folders_point_to_convert(tmp_path):
    safetensors.numpy.save_file({"a": np.ones(1)}, tmp_path / "foreign.safetensors")
    (tmp_path / "folder").mkdir()
    for name in ("foreign.safetensors", "folder"):
        with pytest.raises(CheckpointError, match="jaxsep convert"):
            load_checkpoint(tmp_path / name)
        assert not is_checkpoint(tmp_path / name)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path / "nothing.safetensors")


def test_reading_a_safetensors_checkpoint_imports_no_orbax_and_no_torch(tmp_path, spec, variables):
    save_checkpoint(tmp_path / "m.safetensors", spec, variables)
    program = (
        "import sys; from jaxsep.weights.checkpoint import load_checkpoint; "
        f"load_checkpoint({str(tmp_path / 'm.safetensors')!r}); "
        "print([name for name in ('orbax', 'torch', 'tensorflow') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_loaded_leaves_are_used_by_a_cpu_without_a_copy(dtype, tmp_path):
    spec = small_spec()
    save_checkpoint(tmp_path / "small.safetensors", spec, small_variables(spec), dtype=dtype)
    for leaf in jax.tree.leaves(load_checkpoint(tmp_path / "small.safetensors").variables):
        assert not leaf.flags.writeable  # or JAX's array could change under its feet
        on_device = jax.device_put(leaf, jax.devices("cpu")[0])
        assert on_device.unsafe_buffer_pointer() == leaf.ctypes.data


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_came_to_exist_during_a_save_is_not_replaced(tmp_path, name, kind):
    made = tmp_path / "place" / name
    with pytest.raises(CheckpointError, match=r"came to exist.*kept as '.*\.2"):
        with replacing(made, False) as temporary:
            temporary.mkdir() if kind == "folder" else temporary.write_text("ours")
            made.write_text("somebody's")
    assert made.read_text() == "somebody's"
    (kept,) = set(made.parent.iterdir()) - {made}
    assert kept.is_dir() == (kind == "folder")
