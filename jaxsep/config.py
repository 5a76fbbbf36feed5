"""The base of every config: frozen, hashable, validated, unknown keys refused. No arrays, no files."""

from collections.abc import Mapping
from typing import Any, TypeVar

import pydantic

from jaxsep.errors import ConfigError, nearest

ConfigType = TypeVar("ConfigType", bound="Config")


class Config(pydantic.BaseModel):
    """A frozen, hashable set of validated values, fit to be a static argument of `jax.jit`.

    Sequences are tuples, so that a config hashes. Build one from outside data with `parse`, which turns pydantic's
    report into one sentence.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    @classmethod
    def parse(cls: type[ConfigType], data: Mapping[str, Any], *, where: str) -> ConfigType:
        """Validates data from a file or a user.

        Args:
            data: The values, key by key.
            where: What the data is, for the message ('the config of model.safetensors').

        Raises:
            ConfigError: One sentence that names every offending key.
        """
        try:
            return cls.model_validate(data)
        except pydantic.ValidationError as error:
            raise ConfigError(f"{where} is not a valid {cls.__name__}: {describe(error, cls)}.") from None


def describe(error: pydantic.ValidationError, config: type[Config]) -> str:
    """Returns pydantic's findings as clauses joined by semicolons."""
    clauses = []
    for finding in error.errors():
        key = ".".join(str(part) for part in finding["loc"]) or "the whole"
        if finding["type"] == "extra_forbidden":
            hint = nearest(key, config.model_fields) if len(finding["loc"]) == 1 else ""
            clauses.append(f"unknown key '{key}'.{hint}".rstrip("."))
        elif finding["type"] == "missing":
            clauses.append(f"key '{key}' is missing")
        else:
            clauses.append(f"{key}: {finding['msg'].removeprefix('Value error, ')} (got {finding['input']!r:.80})")
    return "; ".join(clauses)
