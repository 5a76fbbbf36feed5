"""The base of every config: frozen, hashable, validated, unknown keys refused. No arrays, no files."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args

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
            sentence = f"{where} is not a valid {cls.__name__}: {describe(error, cls)}"
            raise ConfigError(sentence if sentence.endswith("?") else f"{sentence}.") from None


def describe(error: pydantic.ValidationError, config: type[Config]) -> str:
    """Returns pydantic's findings as clauses joined by semicolons."""
    clauses = []
    findings = error.errors()
    for finding in findings:
        place = finding["loc"]
        if any(other["loc"] != place and other["loc"][: len(place)] == place for other in findings):
            continue  # a sequence, say, that is too short without the item that is wrong
        key = ".".join(str(part) for part in place) or "the whole"
        if finding["type"] == "extra_forbidden":
            *parents, last = place
            known = _keys_below(config, parents)
            hint = nearest(str(last), known) if known else ""
            clauses.append(f"unknown key '{key}'.{hint}".rstrip("."))
        elif finding["type"] == "missing":
            clauses.append(f"key '{key}' is missing")
        elif finding["type"] == "value_error":
            clauses.append(f"{key}: {finding['ctx']['error']}".rstrip("."))
        else:
            clauses.append(f"{key}: {finding['msg']} (got {finding['input']!r:.80})")
    return "; ".join(clauses)


def _keys_below(config: type[Config], parents: Sequence[str | int]) -> list[str]:
    """Returns the keys that there are at a place in a config; none where another config is only known by its data."""
    found: type[Config] | None = config
    for part in parents:
        if isinstance(part, str):
            field = found.model_fields.get(part) if found else None
            found = _config_in(field.annotation) if field else None
    return list(found.model_fields) if found else []


def _config_in(annotation: Any) -> type[Config] | None:
    """Returns the config that a field holds, itself, or in a sequence, or perhaps."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return annotation
    return next(filter(None, map(_config_in, get_args(annotation))), None)
