"""Pickles of numpy arrays, read by an unpickler that knows a handful of names and runs none of them.

Every name that a pickle may refer to stands for something here that only records what it is given; the arrays are made
from the records afterwards, so that not even numpy's own unpickling sees what the file says. No files are opened here.
"""

import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from jaxsep.errors import CheckpointError


class _Stand:
    """What a name in a pickle stands for. Never a plain function: BUILD can set the attributes of one."""

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it sets the state of something that has none")


class _ArrayClass(_Stand):
    """`numpy.ndarray`, which pickles name as an argument only."""


class _Text(_Stand, bytes):
    """`_codecs.encode`, by which protocol 2 writes bytes as text."""

    def __new__(cls, text: object, encoding: object = None) -> Any:
        if not isinstance(text, str) or encoding != "latin1":
            raise pickle.UnpicklingError("it encodes text otherwise than numpy does")
        return text.encode("latin1")


class _NoBytes(_Stand):
    """`bytes`, by which protocol 2 writes the content of an array without elements."""

    def __new__(cls) -> Any:
        return b""


class _DType(_Stand):
    """`numpy.dtype`: records the name of a plain type and its byte order."""

    def __init__(self, name: object, *_: object) -> None:
        if not isinstance(name, str) or not name or name[0] not in "biuf" or not name[1:].isdecimal():
            raise pickle.UnpicklingError(f"it holds arrays of type {name!r:.40}, which are no plain numbers")
        self.name, self.order = name, "="

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"it holds an unknown byte order {order!r:.40}")
        self.order = order

    def dtype(self) -> np.dtype:
        return np.dtype(("<" if self.order in "|=" else self.order) + self.name)


class _Array(_Stand):
    """An array by its state: what `numpy._core.multiarray._reconstruct` makes and BUILD then fills."""

    def __init__(self, *_: object) -> None:
        self.state: tuple[Any, Any, bool, Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        self.state = (shape, dtype, bool(fortran), content)

    def array(self) -> np.ndarray:
        if self.state is None:
            raise ValueError("it was never filled")
        shape, kind, fortran, content = self.state
        if not isinstance(kind, _DType) or not isinstance(content, bytes | bytearray) or not isinstance(shape, tuple):
            raise ValueError("it is not made as numpy makes it")
        dtype = kind.dtype()
        if any(type(length) is not int or length < 0 for length in shape):
            raise ValueError(f"its shape {shape} is impossible")
        if prod(shape) * dtype.itemsize != len(content):
            raise ValueError(f"it has {len(content)} bytes and shape {shape} of {dtype}")
        array = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
        return np.ascontiguousarray(array, dtype.newbyteorder("=")).reshape(shape)


class _BufferArray(_Array):
    """`numpy._core.numeric._frombuffer`, by which protocol 5 writes arrays."""

    def __init__(self, content: object, dtype: object, shape: object, order: object) -> None:
        self.state = (shape, dtype, order == "F", content)


# Names as numpy 1 and numpy 2 write them.
_ALLOWED: dict[tuple[str, str], type] = {
    ("numpy", "ndarray"): _ArrayClass,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _Text,
    ("__builtin__", "bytes"): _NoBytes,
    ("builtins", "bytes"): _NoBytes,
    ("collections", "OrderedDict"): OrderedDict,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _BufferArray for core in ("core", "_core")},
}


# The unpickler written in Python: the one in C takes a memo of any size that the file asks for.
class _Unpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        allowed = _ALLOWED.get((module, name))
        if allowed is None:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not part of a numpy array")
        return allowed


def load_arrays(content: bytes, *, where: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a pickled dict.

    Args:
        content: The pickle.
        where: Where it comes from, for messages.

    Returns:
        Name of each array and its value, in native byte order.

    Raises:
        CheckpointError: It refers to anything but numpy arrays, their types and plain containers, or is damaged.
    """
    try:
        arrays = _Unpickler(io.BytesIO(content)).load()
    except Exception as error:
        # A damaged or hostile pickle fails in whatever way its bytes happen to ask for.
        reason = str(error).removesuffix(".") or type(error).__name__
        raise CheckpointError(
            f"{where} is not a pickle of numpy arrays, and nothing else is unpickled: {reason}."
        ) from None
    if not isinstance(arrays, Mapping) or not all(
        isinstance(name, str) and isinstance(array, _Array) for name, array in arrays.items()
    ):
        raise CheckpointError(f"{where} is not a dict of numpy arrays by name.")
    result = {}
    for name, array in arrays.items():
        try:
            result[name] = array.array()
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"Array '{name}' of {where} is not intact: {error}.") from None
    return result
