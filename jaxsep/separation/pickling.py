"""Pickling of Separators: as a model and options, of which another process makes its own when it first uses them."""

import logging
from dataclasses import replace
from threading import RLock
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import jax

from jaxsep.separation.options import SeparatorOptions

if TYPE_CHECKING:
    from jaxsep.models.ensemble import AnySpec

logger = logging.getLogger(__name__)

# What is of one process alone: devices, and what is compiled for them or waits for them.
_OF_ONE_PROCESS = {"device", "programs", "slot", "shared_programs"}

# One for all: threads that use an unpickled Separator for the first time wait for the one that makes it.
_MAKING = RLock()

_Made = TypeVar("_Made", bound="MadeOfAModel")


class Given(NamedTuple):
    """What a Separator was made of beside the weights.

    Attributes:
        spec: Spec of the model before the options were applied to it.
        options: Options that mean the same in every process.
    """

    spec: "AnySpec"
    options: dict[str, Any]

    @classmethod
    def of(cls, spec: "AnySpec", options: SeparatorOptions) -> "Given":
        """Keeps what can be pickled of a Separator's arguments."""
        return cls(spec, {key: value for key, value in options.items() if key not in _OF_ONE_PROCESS})


class MadeOfAModel:
    """A base of what is made as `type(self)(model, **options)`, so that it can be pickled as these.

    An unpickled one touches no device until it is used, so that its process can still set JAX up. It runs on the first
    device of the platform that the original ran on, or on JAX's default where there is no such platform, and compiles
    anew. Its `__init__` sets `_given`, `model` and `device`.
    """

    _given: Given
    model: Any
    device: jax.Device

    def __getstate__(self) -> dict[str, Any]:
        """Returns the model with its weights on the host, the options and the platform."""
        if (state := self.__dict__.get("_unpickled")) is not None:
            return state
        model = replace(self.model, spec=self._given.spec)
        return {"model": model, "options": self._given.options, "platform": self.device.platform}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__["_unpickled"] = state

    def __copy__(self: _Made) -> _Made:
        """Returns another one that shares what this one has compiled."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    if not TYPE_CHECKING:  # for a type checker, all attributes are there from the beginning

        def __getattr__(self, name: str) -> Any:
            """Makes an unpickled one when it is first asked for anything."""
            if not name.startswith("__"):
                with _MAKING:
                    if (state := self.__dict__.get("_unpickled")) is not None:
                        # Complete before any other thread sees a part of it.
                        made = type(self)(state["model"], device=_first_device(state["platform"]), **state["options"])
                        self.__dict__.update(made.__dict__)
                        del self.__dict__["_unpickled"]
            return object.__getattribute__(self, name)


def _first_device(platform: str) -> jax.Device:
    try:
        return jax.local_devices(backend=platform)[0]
    except RuntimeError:
        default = jax.local_devices()[0]
        logger.warning("there is no device of the platform '%s' here: separating on %s", platform, default)
        return default
