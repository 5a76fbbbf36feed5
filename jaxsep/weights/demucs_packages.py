"""Packages of Demucs 3 and 4: a network's class, the arguments of its constructor, and its state. And bags of them.

A package is a pickle (`.th`) or a safetensors file (`.safetensors`, as on the Hugging Face hub). Nothing in it is run:
the class is a name. What class and arguments mean is in `demucs.py`.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import yaml

from jaxsep.config import Config
from jaxsep.errors import CheckpointError, ConfigError
from jaxsep.weights.readers import read_torch_file, tensors_of
from jaxsep.weights.torch_file import GlobalName, load_torch_file

_PARTS = ("klass", "args", "kwargs", "state")
# Under one of these names a state says that DiffQ has quantised it.
_QUANTISED = ("__quantized", "quantized", "compressed")


@dataclass(frozen=True)
class Package:
    """One network of Demucs.

    Attributes:
        path: File that it was read from.
        klass: Dotted name of its class, such as 'demucs.htdemucs.HTDemucs'.
        args: Positional arguments of the constructor.
        kwargs: Other arguments of the constructor.
        state: The state dict, in the type that it is stored in.
    """

    path: Path
    klass: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    state: Mapping[str, np.ndarray]

    @property
    def signature(self) -> str:
        """The experiment's signature, by which bags name their members."""
        return signature_of(self.path)


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases, by which a few lines can stand for any number of values."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read")
        return super().compose_node(parent, index)


class Bag(Config):
    """What a bag's YAML file says.

    Attributes:
        models: Signatures of the members.
        weights: Weight of each member for each source; null for 1.
        segment: Seconds of audio that members hear at a time, in place of what they say themselves.
    """

    models: tuple[str, ...] = pydantic.Field(min_length=1)
    weights: tuple[tuple[pydantic.NonNegativeFloat, ...], ...] | None = None
    segment: float | None = pydantic.Field(default=None, gt=0, allow_inf_nan=False)


def read_package(path: Path) -> Package:
    """Reads a package of Demucs.

    Args:
        path: A `.th` or `.safetensors` file. Where its name ends in eight hexadecimal digits behind a hyphen, its
            sha256 begins with them.

    Raises:
        CheckpointError: It is no package, damaged, or quantised by DiffQ.
    """
    verify_name(path)
    klass, args, kwargs, state = _of_safetensors(path) if path.suffix == ".safetensors" else _of_pickle(path)
    if not (isinstance(args, list | tuple) and isinstance(kwargs, Mapping) and all(isinstance(k, str) for k in kwargs)):
        raise CheckpointError(f"{path} does not say with which arguments its network is built; get it anew.")
    return Package(path, klass, tuple(args), kwargs, state)


def read_bag(path: Path) -> Bag:
    """Reads a bag's YAML file.

    Raises:
        CheckpointError: It cannot be read, or is no bag.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _PlainLoader)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{path} cannot be read as YAML: {reason}.") from None
    if not isinstance(content, Mapping) or "models" not in content:
        raise CheckpointError(f"{path} is no bag of Demucs, which names its members under 'models'.")
    try:
        return Bag.parse(content, where=str(path))
    except ConfigError as error:
        raise CheckpointError(str(error)) from None


def members_of(path: Path, bag: Bag) -> list[Path]:
    """Returns the file of each member of a bag, which lie beside the bag's own.

    Args:
        path: The bag's YAML file.
        bag: What it says.

    Raises:
        CheckpointError: A file is missing, or there are several for one signature.
    """
    found = []
    for signature in bag.models:
        present = [each for each in _packages_in(path.parent) if signature_of(each) == signature]
        # Beside a pickled package, a safetensors file may be a checkpoint of jaxsep's that was made of it.
        candidates = [each for each in present if each.suffix == ".th"] or present
        if not candidates:
            raise CheckpointError(
                f"{path} has a member '{signature}', and there is no {signature}.th, {signature}-SHA256.th or "
                f"{signature}.safetensors beside it."
            )
        if len(candidates) > 1:
            names = " and ".join(each.name for each in candidates)
            raise CheckpointError(f"{path} has a member '{signature}', for which there are {names}; leave one.")
        found.append(candidates[0])
    return found


def write_bag(
    path: Path, files: Sequence[Path], weights: Sequence[Sequence[float]] | None, segment_seconds: float | None
) -> Path:
    """Writes a bag's YAML file, with its members beside it.

    Args:
        path: The file to write.
        files: Packages of the members; those that lie elsewhere are linked or copied.
        weights: Weight of each member for each source; None for 1.
        segment_seconds: See `Bag.segment`.
    """
    for file in files:
        beside = path.parent / file.name
        if file.parent != path.parent:
            beside.unlink(missing_ok=True)
            try:
                os.link(file, beside)
            except OSError:  # another file system, or one without links
                shutil.copyfile(file, beside)
    content: dict[str, Any] = {"models": [signature_of(file) for file in files]}
    content |= {} if weights is None else {"weights": [list(row) for row in weights]}
    content |= {} if segment_seconds is None else {"segment": segment_seconds}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def signature_of(path: Path) -> str:
    """Returns the signature in a file's name, which its hash may follow."""
    return re.sub(r"-[0-9a-f]{8}$", "", path.stem)


def verify_name(path: Path) -> None:
    """Verifies the beginning of a file's sha256 that its name ends in, where it does.

    Raises:
        CheckpointError: The file has another one, or cannot be read.
    """
    match = re.search(r"-([0-9a-f]{8})$", path.stem)
    if match is None:
        return
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from None
    if not found.startswith(match[1]):
        raise CheckpointError(
            f"{path} is damaged or another file: its sha256 begins with {found[:8]} and not {match[1]}, as its name "
            "says; get it anew."
        )


def _packages_in(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.suffix in (".th", ".safetensors") and path.is_file():
            yield path


def _of_pickle(path: Path) -> tuple[str, Any, Any, Mapping[str, np.ndarray]]:
    content = load_torch_file(path)
    if not isinstance(content, Mapping) or any(part not in content for part in _PARTS):
        raise CheckpointError(
            f"{path} is no package of Demucs 3 or 4, which holds {', '.join(_PARTS)}; for a state dict of Demucs v2 "
            "use --family demucs_v2."
        )
    klass, args, kwargs, state = (content[part] for part in _PARTS)
    if not isinstance(klass, GlobalName):
        raise CheckpointError(f"{path} names no class of Demucs; get it anew.")
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path} holds no state dict; get it anew.")
    if any(key in state for key in _QUANTISED):
        raise CheckpointError(_quantised(path))
    return str(klass), args, kwargs, tensors_of(state, where=str(path))


def _of_safetensors(path: Path) -> tuple[str, Any, Any, Mapping[str, np.ndarray]]:
    import safetensors

    state = read_torch_file(path)
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
    if any(part not in metadata for part in _PARTS[:3]):
        raise CheckpointError(f"{path} is no package of Demucs: its metadata does not say klass, args and kwargs.")
    if "structure" in metadata:
        raise CheckpointError(_quantised(path))
    try:
        args, kwargs = (_with_fractions(json.loads(metadata[part])) for part in ("args", "kwargs"))
    except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
        raise CheckpointError(f"{path} says its arguments in JSON that is damaged: {error}.") from None
    return metadata["klass"], args, kwargs, state


def _with_fractions(value: Any) -> Any:
    if isinstance(value, Mapping):
        if value.get("_type") == "fraction":
            return Fraction(int(value["numerator"]), int(value["denominator"]))
        return {key: _with_fractions(each) for key, each in value.items()}
    return [_with_fractions(each) for each in value] if isinstance(value, list) else value


def _quantised(path: Path) -> str:
    return (
        f"{path} is quantised by DiffQ, which jaxsep does not do; take the same model without '_q' or '_quantized' in "
        "its name."
    )
