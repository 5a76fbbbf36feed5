"""Ensembles as checkpoints: several models in one file or folder, of which those that are not needed are never read.

The arrays of member N lie under `members/N/`, each with a sha256 of its own. What checkpoints are is in checkpoint.py.
"""

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep.errors import CheckpointError
from jaxsep.models.ensemble import EnsembleSpec
from jaxsep.typing import Variables
from jaxsep.weights.checkpoint import (
    RECORD,
    Checkpoint,
    StorageType,
    as_float32,
    as_stored,
    canonical,
    check_shapes,
    hash_arrays,
    hash_spec,
    header,
    little_endian,
    read_orbax,
    read_record,
    replacing,
    reported,
)
from jaxsep.weights.tree import flatten, unflatten


@dataclass(frozen=True, eq=False)
class EnsembleCheckpoint:
    """An ensemble's weights.

    Attributes:
        spec: What they belong to and how to run it.
        members: The members that were read, by number.
        sha256: Hash of all members' hashes.
    """

    spec: EnsembleSpec
    members: Mapping[int, Checkpoint]
    sha256: str


def save_ensemble(
    path: str | os.PathLike[str],
    spec: EnsembleSpec,
    members: Sequence[Variables],
    *,
    dtype: StorageType | None = None,
    overwrite: bool = False,
) -> str:
    """Writes an ensemble under a temporary name beside `path` and renames it when it is complete.

    Args:
        path: A file that ends in '.safetensors', or else a folder, which Orbax writes.
        spec: What the members belong to.
        members: Variables of each member, just those that it needs.
        dtype: Type to store the arrays in; None for the one that they have.
        overwrite: Whether to replace a checkpoint that is already there.

    Returns:
        The sha256 of all members' hashes.

    Raises:
        CheckpointError: There is something at `path`, variables do not fit the spec, or a value cannot be stored.
    """
    path = Path(path)
    if len(members) != len(spec.members):
        raise CheckpointError(f"There are {len(members)} sets of variables for {len(spec.members)} members.")
    stored = []
    for number, (member, variables) in enumerate(zip(spec.members, members, strict=True)):
        arrays = {name: as_stored(name, leaf, dtype) for name, leaf in flatten(variables).items()}
        check_shapes(member, {name: array.shape for name, array in arrays.items()}, where=f"member {number} of {path}")
        stored.append(arrays)
    hashes = [hash_arrays(arrays) for arrays in stored]
    sha256 = _hash_of(hashes)
    described = spec.model_dump(mode="json")
    record = {"format": "jaxsep", "sha256": sha256, "spec_sha256": hash_spec(described)}
    if path.suffix == ".safetensors":
        named = {f"{_prefix(number)}{name}": array for number, own in enumerate(stored) for name, array in own.items()}
        text = {**record, "spec": canonical(described), "members_sha256": json.dumps(hashes)}
        with replacing(path, overwrite) as temporary, temporary.open("xb") as file:
            file.write(header(named, text))
            for array in named.values():
                file.write(little_endian(array))
            file.flush()
            os.fsync(file.fileno())
        return sha256
    from orbax.checkpoint import v1 as ocp

    with replacing(path, overwrite) as temporary:
        temporary.mkdir()
        for number, arrays in enumerate(stored):
            ocp.save(temporary.absolute() / _prefix(number), unflatten(arrays))
        whole = {**record, "members_sha256": hashes, "spec": described}
        text_of_record = json.dumps(whole, indent=2, ensure_ascii=False) + "\n"
        (temporary / RECORD).write_text(text_of_record, encoding="utf-8")
    return sha256


def load_ensemble(path: str | os.PathLike[str], members: Collection[int] | None = None) -> EnsembleCheckpoint:
    """Reads an ensemble and verifies it.

    Args:
        path: What `save_ensemble` wrote.
        members: Numbers of the members to read; None for all. Of others nothing is read or hashed.

    Raises:
        CheckpointError: It is missing, no ensemble, newer than this jaxsep, damaged, or does not match its own spec.
    """
    path = Path(path)
    with reported(path):
        spec, (_, sha256) = read_record(path)
        if not isinstance(spec, EnsembleSpec):
            raise CheckpointError(f"{path} is one model and no ensemble.")
        hashes = _member_hashes(path)
        if len(hashes) != len(spec.members) or _hash_of(hashes) != sha256:
            raise CheckpointError(f"{path} is damaged: the hashes of its members do not match its sha256; get it anew.")
        wanted = range(len(spec.members)) if members is None else sorted(members)
        read = _read_folder if path.is_dir() else _read_file
        arrays = {number: read(path, number) for number in wanted}
    found = {}
    for number, own in arrays.items():
        shapes = {name: tuple(array.shape) for name, array in own.items()}
        check_shapes(spec.members[number], shapes, where=f"member {number} of {path}")
        if hash_arrays(own) != hashes[number]:
            raise CheckpointError(f"{path} is damaged: the arrays of member {number} do not match their sha256.")
        found[number] = Checkpoint(spec.members[number], unflatten(as_float32(own)), hashes[number])
    return EnsembleCheckpoint(spec, found, sha256)


def _prefix(number: int) -> str:
    return f"members/{number}/"


def _hash_of(hashes: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _member_hashes(path: Path) -> list[str]:
    if path.is_dir():
        found: Any = json.loads((path / RECORD).read_text(encoding="utf-8")).get("members_sha256")
    else:
        import safetensors

        with safetensors.safe_open(path, framework="numpy") as file:
            found = json.loads(file.metadata().get("members_sha256", "null"))
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise CheckpointError(f"{path} is damaged: it says no sha256 of its members; get it anew.")
    return found


def _read_file(path: Path, number: int) -> dict[str, np.ndarray]:
    import safetensors

    prefix = _prefix(number)
    with safetensors.safe_open(path, framework="numpy") as file:
        return {name.removeprefix(prefix): file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}


def _read_folder(path: Path, number: int) -> dict[str, np.ndarray]:
    return read_orbax(path.absolute() / _prefix(number))
