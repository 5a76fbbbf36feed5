"""PyTorch files (`torch.save`), read without PyTorch by an unpickler that runs nothing of what a file names.

Both of PyTorch's formats are read: the zip of today, and the stream of pickles that it wrote before version 1.6. A name
in a file stands for itself; where the file asks to call one, the file is refused, but for those that make up tensors.
"""

import io
import pickle
import re
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from fractions import Fraction
from math import prod
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxsep.errors import CheckpointError

# What torch.save wrote before its zip format begins so: a pickled number.
LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
# The pickles of the older format before the content: this number, a version, and facts of the machine.
_LEGACY_HEADERS = 3
# Values that a file may hold, counted where they are used: far more than any network has.
_MOST_VALUES = 1_000_000
_BFLOAT16 = np.dtype("V2")
_STORAGES: dict[str, np.dtype] = {
    "DoubleStorage": np.dtype("f8"),
    "FloatStorage": np.dtype("f4"),
    "HalfStorage": np.dtype("f2"),
    "BFloat16Storage": _BFLOAT16,
    "LongStorage": np.dtype("i8"),
    "IntStorage": np.dtype("i4"),
    "ShortStorage": np.dtype("i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
    "ComplexFloatStorage": np.dtype("c8"),
    "ComplexDoubleStorage": np.dtype("c16"),
}


class GlobalName:
    """A class or function that a file names: its module and its name, and nothing that could be run."""

    module: str
    name: str

    def __new__(cls, module: str = "", name: str = "") -> "GlobalName":
        """Makes the stand-in."""
        if not isinstance(cls, type):  # NEWOBJ hands over the stand-in itself
            raise pickle.UnpicklingError(f"it makes a {cls}")
        made = super().__new__(cls)
        made.module, made.name = module, name
        return made

    def __str__(self) -> str:
        """Returns the dotted name."""
        return f"{self.module}.{self.name}"

    def __call__(self, *_: object) -> Any:
        """Refuses to be called."""
        raise pickle.UnpicklingError(f"it calls {self}, which makes no tensor")

    def __setstate__(self, _: object) -> None:
        """Refuses to be changed."""
        raise pickle.UnpicklingError(f"it changes {self}")


class _Storage:
    """The numbers that tensors are parts of; read from the zip at once, in the older format behind all pickles."""

    def __init__(self, dtype: np.dtype, count: int) -> None:
        if type(count) is not int or count < 0:
            raise pickle.UnpicklingError(f"it has a storage of {count!r:.40} numbers")
        self.dtype, self.count = dtype, count
        self._values: np.ndarray | None = None

    def fill(self, content: bytes, byteorder: Literal["<", ">"]) -> None:
        if len(content) != self.count * self.dtype.itemsize:
            raise ValueError(f"a storage of {self.count} numbers has {len(content)} bytes")
        if self.dtype == _BFLOAT16:
            upper = np.frombuffer(content, byteorder + "u2").astype(np.uint32)
            self._values = (upper << 16).view(np.float32)
        else:
            stored = np.frombuffer(content, self.dtype.newbyteorder(byteorder))
            self._values = stored.astype(self.dtype, copy=False)

    def values(self) -> np.ndarray:
        if self._values is None:
            raise ValueError("a storage is missing")
        return self._values


class _Tensor(NamedTuple):
    """A tensor by its place in a storage."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self) -> np.ndarray:
        """Returns the tensor as a view of its storage."""
        values, numbers = self.storage.values(), (self.offset, *self.size, *self.stride)
        if len(self.size) != len(self.stride) or any(type(each) is not int or each < 0 for each in numbers):
            raise ValueError(f"a tensor of size {self.size} and stride {self.stride} is impossible")
        last = self.offset + sum((length - 1) * step for length, step in zip(self.size, self.stride, strict=True))
        if prod(self.size) == 0:
            return np.zeros(self.size, values.dtype)
        if prod(self.size) > len(values) or last >= len(values):
            raise ValueError(f"a tensor of size {self.size} is larger than its storage")
        strides = [step * values.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.size, strides, writeable=False)


def _rebuild_tensor(*arguments: Any) -> _Tensor:
    storage, offset, size, stride = arguments[:4]
    if not (isinstance(storage, _Storage) and isinstance(size, tuple) and isinstance(stride, tuple)):
        raise pickle.UnpicklingError("it makes a tensor otherwise than PyTorch does")
    return _Tensor(storage, offset, size, stride)


def _rebuild_parameter(*arguments: Any) -> _Tensor:
    if not arguments or not isinstance(arguments[0], _Tensor):
        raise pickle.UnpicklingError("it makes a parameter of something that is no tensor")
    return arguments[0]


def _rebuild_fraction(*arguments: Any) -> Fraction:
    if not all(isinstance(each, int | str) for each in arguments):
        raise pickle.UnpicklingError("it makes a fraction of something that is no number")
    text = "/".join(f"{each:.40}" if isinstance(each, str) else f"{each:d}" for each in arguments[:2])
    if not re.fullmatch(r"-?\d{1,18}(/\d{1,18})?", text):
        raise pickle.UnpicklingError(f"it makes a fraction of {text!r:.40}")
    return Fraction(text)


class _Maker(GlobalName):
    """A name that may be called: what the call stands for is made here."""

    make: Callable[..., Any]

    def __call__(self, *arguments: object) -> Any:
        return self.make(*arguments)


# By their names in a file. What is made of a device or a size is not needed.
_MAKERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): lambda *arguments: tuple(*arguments[:1]),
    ("torch", "device"): lambda *arguments: ":".join(map(str, arguments)),
    ("fractions", "Fraction"): _rebuild_fraction,
}


# The unpickler written in Python: the one in C takes a memo of any size that the file asks for.
class _Unpickler(pickle._Unpickler):
    def __init__(self, file: Any, storage: Callable[[str, np.dtype, int], _Storage]) -> None:
        super().__init__(file, encoding="utf-8")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (make := _MAKERS.get((module, name))) is not None:
            found = _Maker(module, name)
            found.make = make
            return found
        return GlobalName(module, name)

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _, count, *view = pid
        dtype = _STORAGES.get(storage_type.name) if isinstance(storage_type, GlobalName) else None
        if kind != "storage" or dtype is None or not isinstance(key, str) or any(each is not None for each in view):
            raise pickle.UnpicklingError(f"it holds a storage of type {storage_type}, which jaxsep cannot read")
        return self._storage(key, dtype, count)


def load_torch_file(path: Path) -> Any:
    """Returns what is in a file that `torch.save` wrote.

    Args:
        path: The file, in either of PyTorch's formats.

    Returns:
        Dicts, lists, tuples and plain values as they were saved; arrays in place of tensors, bfloat16 as float32; and a
        `GlobalName` in place of each class or function that is named.

    Raises:
        CheckpointError: The file asks to call anything but what makes up tensors, or it is damaged.
    """
    try:
        with path.open("rb") as file:
            content = _load_zip(path) if file.read(2) == b"PK" else _load_stream(file)
        return _Arrays().of(content)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from None
    except Exception as error:
        # A damaged or hostile pickle fails in whatever way its bytes happen to ask for.
        reason = str(error).splitlines()[0].removesuffix(".") if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} is not an intact PyTorch file of tensors and plain values, and nothing else is loaded: {reason}."
        ) from None


def _load_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if re.fullmatch(r"([^/]+/)?data\.pkl", name)]
        if len(pickles) != 1:
            raise ValueError(f"it holds {len(pickles)} pickles named data.pkl")
        root = pickles[0].removesuffix("data.pkl")
        # A compressed entry could unfold to any size; PyTorch compresses none.
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("its parts are compressed")
        # Entries that lie in each other would be read again and again.
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise ValueError("its parts overlap")
        stated = archive.read(f"{root}byteorder") if f"{root}byteorder" in archive.namelist() else b"little"
        byteorder: Literal["<", ">"] = ">" if stated.strip() == b"big" else "<"
        storages: dict[str, _Storage] = {}

        def storage(key: str, dtype: np.dtype, count: int) -> _Storage:
            if key not in storages:
                storages[key] = _Storage(dtype, count)
                storages[key].fill(archive.read(f"{root}data/{key}"), byteorder)
            if storages[key].dtype != dtype:
                raise pickle.UnpicklingError("it reads one storage as two types")
            return storages[key]

        return _Unpickler(io.BytesIO(archive.read(pickles[0])), storage).load()


def _load_stream(file: Any) -> Any:
    file.seek(0)
    storages: dict[str, _Storage] = {}

    def storage(key: str, dtype: np.dtype, count: int) -> _Storage:
        return storages.setdefault(key, _Storage(dtype, count))

    for _ in range(_LEGACY_HEADERS):
        _Unpickler(file, storage).load()
    content = _Unpickler(file, storage).load()
    for key in _Unpickler(file, storage).load():
        (count,) = struct.unpack("<q", file.read(8))
        found = storages[key]
        if count != found.count:
            raise ValueError("a storage has another length than the tensors in it say")
        found.fill(file.read(count * found.dtype.itemsize), "<" if sys.byteorder == "little" else ">")
    return content


class _Arrays:
    """Puts arrays in place of tensors. Content that is there several times is made once: it may unfold without end."""

    def __init__(self) -> None:
        self._made: dict[int, Any] = {}
        self._unfolded: dict[int, int] = {}

    def of(self, content: Any) -> Any:
        if not isinstance(content, _Tensor | Mapping | list | tuple):
            return content
        if id(content) not in self._made:
            self._made[id(content)] = self._make(content)
            parts = (
                content.values()
                if isinstance(content, Mapping)
                else content
                if not isinstance(content, _Tensor)
                else ()
            )
            count = 1 + sum(self._unfolded.get(id(part), 1) for part in parts)
            if count > _MOST_VALUES:
                raise ValueError("it holds lists that unfold without end")
            self._unfolded[id(content)] = count
        return self._made[id(content)]

    def _make(self, content: Any) -> Any:
        if isinstance(content, _Tensor):
            return content.array()
        if isinstance(content, Mapping):
            return {key: self.of(value) for key, value in content.items()}
        return type(content)(self.of(value) for value in content)
