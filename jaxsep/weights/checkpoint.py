"""jaxsep's own checkpoints: a spec and its variables, as one safetensors file or as an Orbax folder.

Both carry a sha256 of the arrays and one of the spec, verified at load: both formats would load a flipped bit without a
word. Training runs are read as checkpoints too (runs.py).
The catalogue of published checkpoints is in `pretrained.py`.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxsep import unfinished
from jaxsep.errors import CheckpointError, ConfigError, is_lack_of_memory
from jaxsep.models.ensemble import EnsembleSpec
from jaxsep.models.spec import ModelSpec
from jaxsep.naming import finish
from jaxsep.typing import Variables
from jaxsep.weights import runs
from jaxsep.weights.tree import expected_shapes, flatten, mismatches, unflatten

StorageType = Literal["float32", "float16"]

RECORD = "jaxsep.json"
_ARRAYS = "arrays"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights, ready to run.

    Attributes:
        spec: What they belong to and how to run it.
        variables: Nested dicts of float32 arrays, whatever type they are stored in.
        sha256: Of the arrays as they are stored; see `hash_arrays`.
    """

    spec: ModelSpec
    variables: Variables
    sha256: str


def save_checkpoint(
    path: str | os.PathLike[str],
    spec: ModelSpec,
    variables: Variables,
    *,
    dtype: StorageType | None = None,
    overwrite: bool = False,
) -> str:
    """Writes a checkpoint under a temporary name beside `path` and renames it when it is complete.

    Args:
        path: A file that ends in '.safetensors', or else a folder, which Orbax writes.
        spec: What the variables belong to.
        variables: Nested mappings of arrays, just those that the model needs.
        dtype: What to store the arrays in; None for what they are in.
        overwrite: Whether to replace a checkpoint that is already there.

    Returns:
        The sha256 of the arrays.

    Raises:
        CheckpointError: There is something at `path`, the variables do not fit the spec, or a value cannot be stored.
    """
    path = Path(path)
    arrays = {name: as_stored(name, leaf, dtype) for name, leaf in flatten(variables).items()}
    check_shapes(spec, {name: array.shape for name, array in arrays.items()}, where=f"the variables for {path}")
    sha256 = hash_arrays(arrays)
    described = spec.model_dump(mode="json")
    record = {"format": "jaxsep", "sha256": sha256, "spec_sha256": hash_spec(described)}
    if path.suffix == ".safetensors":
        with replacing(path, overwrite) as temporary, temporary.open("xb") as file:
            file.write(header(arrays, {**record, "spec": canonical(described)}))
            for array in arrays.values():
                file.write(little_endian(array))
            file.flush()
            os.fsync(file.fileno())
    else:
        from orbax.checkpoint import v1 as ocp

        with replacing(path, overwrite) as temporary:
            temporary.mkdir()
            ocp.save(temporary.absolute() / _ARRAYS, unflatten(arrays))
            text = json.dumps({**record, "spec": described}, indent=2, ensure_ascii=False)
            (temporary / RECORD).write_text(text + "\n", encoding="utf-8")
    return sha256


def load_checkpoint(path: str | os.PathLike[str], *, known: Collection[tuple[str, str]] = ()) -> Checkpoint:
    """Reads a checkpoint and verifies it.

    Args:
        path: What `save_checkpoint` wrote, or a training run (its best checkpoint) or one of its checkpoints.
        known: Pairs of the sha256 of a spec and of arrays that are known to fit. Where the file holds one, its leaves
            are not compared with the model's, for which the model has to be traced.

    Raises:
        CheckpointError: It is missing, of another format, newer than this jaxsep, damaged, an ensemble, or does not
            match its own spec leaf for leaf.
    """
    path = Path(path)
    if _is_of_a_run(path):
        return _load_from_run(path)
    with reported(path):
        spec, hashes = read_record(path)
        if isinstance(spec, EnsembleSpec):
            raise CheckpointError(
                f"{path} is an ensemble of {len(spec.members)} models, and one model is asked for; separate with it, "
                "or say which of its members you mean."
            )
        read = _read_folder if path.is_dir() else _read_file
        arrays = read(path, None if hashes in known else spec)
    # Hashing and converting let go of the interpreter's lock, and take as long as each other.
    with ThreadPoolExecutor() as pool:
        found = pool.submit(hash_arrays, arrays)
        leaves = as_float32(arrays)
    if found.result() != hashes[1]:
        raise CheckpointError(f"{path} is damaged: its arrays do not match its sha256; get it anew.")
    return Checkpoint(spec, unflatten(leaves), hashes[1])


def read_spec(path: str | os.PathLike[str]) -> ModelSpec | EnsembleSpec:
    """Reads what a checkpoint is, without its arrays.

    Args:
        path: As for `load_checkpoint`.

    Raises:
        CheckpointError: It is missing, of another format, newer than this jaxsep, or its spec is damaged.
    """
    path = Path(path)
    if _is_of_a_run(path):
        return _spec_from_run(path)[1]
    with reported(path):
        return read_record(path)[0]


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether there is a checkpoint of jaxsep's own at `path`, intact or not."""
    path = Path(path)
    if path.is_dir():
        return (path / RECORD).is_file() or _is_of_a_run(path)
    try:
        with reported(path):
            return "spec" in _metadata(path)
    except CheckpointError:
        return False


def hash_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the sha256 of names, types, shapes and little-endian bytes, in order of the names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}\0{array.dtype.name}\0{','.join(map(str, array.shape))}\0".encode())
        digest.update(little_endian(array))
    return digest.hexdigest()


def _is_of_a_run(path: Path) -> bool:
    return runs.is_run(path) or runs.is_saved_state(path)


def _spec_from_run(path: Path) -> tuple[Path, ModelSpec]:
    """Returns the folder of the checkpoint that a path of a run means, and its spec."""
    folder = runs.choose_checkpoint(path) if runs.is_run(path) else path
    try:
        with runs.naming_intact(folder):
            return folder, ModelSpec.parse(runs.read_record(folder)["spec"], where=f"The spec of {folder}")
    except ConfigError as error:
        raise CheckpointError(str(error)) from None


def _load_from_run(path: Path) -> Checkpoint:
    folder, spec = _spec_from_run(path)
    with runs.naming_intact(folder):
        arrays = flatten(runs.read_variables(folder))
    check_shapes(spec, {name: array.shape for name, array in arrays.items()}, where=str(folder))
    return Checkpoint(spec, unflatten(arrays), hash_arrays(arrays))


def as_float32(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns read-only copies: one type for all that runs them, and the exact values, since float16 fits into float32.

    They lie in one buffer, each on a boundary of 64 bytes: such arrays JAX uses on a CPU as they are, others it copies.
    """
    boundary = 64 // np.dtype(np.float32).itemsize
    sizes = [-(-array.size // boundary) * boundary for array in arrays.values()]
    buffer = np.empty(sum(sizes) + boundary, np.float32)
    start = -(buffer.ctypes.data // buffer.itemsize) % boundary
    leaves = {}
    for (name, array), size in zip(arrays.items(), sizes, strict=True):
        leaf = buffer[start : start + array.size].reshape(array.shape)
        np.copyto(leaf, array)
        leaf.setflags(write=False)
        leaves[name] = leaf
        start += size
    return leaves


def header(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """Returns what a safetensors file starts with.

    The library orders its metadata at random; this way the same weights make the same file.
    """
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    offset = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": {"float32": "F32", "float16": "F16"}[array.dtype.name],
            "shape": array.shape,
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def little_endian(array: np.ndarray) -> memoryview:
    """Returns an array's bytes, the lowest of each number first."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data


def as_stored(name: str, leaf: Any, dtype: StorageType | None) -> np.ndarray:
    """Returns an array in the type that it is stored in.

    Raises:
        CheckpointError: It cannot be stored so.
    """
    array = np.asarray(leaf)
    stored = dtype or array.dtype.name
    if stored not in ("float32", "float16") or array.dtype.kind != "f":
        raise CheckpointError(
            f"'{name}' is {array.dtype.name}, to be stored as {stored}; checkpoints hold float32 or float16."
        )
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(array, stored).reshape(array.shape)
    if not np.isfinite(converted).all():
        known = "is not finite" if not np.isfinite(array).all() else f"holds values beyond the range of {stored}"
        raise CheckpointError(f"'{name}' {known}; the checkpoint is not written.")
    return converted


def check_shapes(spec: ModelSpec, found: Mapping[str, tuple[int, ...]], *, where: str) -> None:
    """Refuses arrays that are not those of the model.

    Raises:
        CheckpointError: It names the leaves that differ.
    """
    try:
        expected = expected_shapes(spec)
    except ConfigError as error:
        raise CheckpointError(f"The spec of '{spec.name}' contradicts itself: {error}") from None
    if difference := mismatches(found, expected):
        raise CheckpointError(f"The arrays of {where} do not match the model: {difference}.")


@contextmanager
def replacing(path: Path, overwrite: bool) -> Iterator[Path]:
    """Gives a path beside `path` to write to, and moves what is there to `path` once it is complete."""
    if path.exists():
        if not overwrite:
            raise CheckpointError(f"{path} exists; choose another name, or say that it may be overwritten.")
        if path.is_dir() and not (path / RECORD).is_file():
            raise CheckpointError(
                f"{path} is a folder but no checkpoint, so it is not overwritten; choose another name."
            )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        workplace = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror}.") from None
    try:
        temporary = workplace / path.name
        with unfinished.watched(workplace):
            yield temporary
            finish([temporary], [path], [overwrite], CheckpointError)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror}.") from None
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turns whatever goes wrong while a file is read into one sentence."""
    try:
        yield
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from None
    except Exception as error:
        if is_lack_of_memory(error):
            raise
        # Safetensors, TensorStore and Orbax have no common class for damage, and its kind is not known beforehand.
        reason = (str(error).splitlines() or [""])[0].removesuffix(".")[:200] or type(error).__name__
        raise CheckpointError(f"{path} is damaged or no checkpoint: {reason}.") from None


def read_record(path: Path) -> tuple[ModelSpec | EnsembleSpec, tuple[str, str]]:
    """Returns the verified spec, its sha256, and the sha256 that the arrays must have."""
    if path.is_dir():
        if not (path / RECORD).is_file():
            raise CheckpointError(
                f"{path} is no checkpoint of jaxsep: it holds no {RECORD}; `jaxsep convert` makes one."
            )
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
    else:
        record = dict(_metadata(path))
        if "spec" not in record:
            raise CheckpointError(f"{path} is no checkpoint of jaxsep: it holds no spec; `jaxsep convert` makes one.")
        record["spec"] = json.loads(record["spec"])
    if not isinstance(record, dict) or not isinstance(record.get("spec"), dict):
        raise CheckpointError(f"{path} is no checkpoint of jaxsep: its record is not a JSON object with a spec.")
    try:
        kind = EnsembleSpec if "members" in record["spec"] else ModelSpec
        spec = kind.parse(record["spec"], where=f"The spec of {path}")
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    if record.get("format") != "jaxsep" or record.get("spec_sha256") != hash_spec(record["spec"]):
        raise CheckpointError(f"{path} is damaged: its spec does not match its sha256; get it anew.")
    if not isinstance(record.get("sha256"), str):
        raise CheckpointError(f"{path} is damaged: it says no sha256 of its arrays; get it anew.")
    return spec, (record["spec_sha256"], record["sha256"])


def _metadata(path: Path) -> Mapping[str, str]:
    import safetensors

    with safetensors.safe_open(path, framework="numpy") as file:
        return file.metadata() or {}


def _read_file(path: Path, spec: ModelSpec | None) -> dict[str, np.ndarray]:
    import safetensors

    with safetensors.safe_open(path, framework="numpy") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        if spec is not None:
            check_shapes(spec, shapes, where=str(path))
        return {name: file.get_tensor(name) for name in shapes}


def _read_folder(path: Path, spec: ModelSpec | None) -> dict[str, np.ndarray]:
    arrays = read_orbax(path.absolute() / _ARRAYS)
    if spec is not None:
        check_shapes(spec, {name: array.shape for name, array in arrays.items()}, where=str(path))
    return arrays


def read_orbax(folder: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a folder that Orbax wrote, by their paths; host arrays wherever they were saved from."""
    from orbax.checkpoint import v1 as ocp

    stored = flatten(ocp.metadata(folder).metadata)
    # A view of one zero says what is wanted and takes no memory.
    wanted = {name: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape) for name, leaf in stored.items()}
    return {name: np.asarray(leaf) for name, leaf in flatten(ocp.load(folder, unflatten(wanted))).items()}


def hash_spec(described: Mapping[str, Any]) -> str:
    """Returns the sha256 of a spec's canonical text."""
    return hashlib.sha256(canonical(described).encode()).hexdigest()


def canonical(described: Mapping[str, Any]) -> str:
    """Returns a spec as text, always the same for the same values."""
    return json.dumps(described, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
