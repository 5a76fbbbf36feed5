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
        path, known = _walk(config, place)
        key = ".".join(path) or "the whole"
        if finding["type"] == "extra_forbidden":
            hint = nearest(path[-1], known) if known else ""
            clauses.append(f"unknown key '{key}'.{hint}".rstrip("."))
        elif finding["type"] == "missing":
            clauses.append(f"key '{key}' is missing")
        elif finding["type"] == "value_error":
            clauses.append(f"{key}: {finding['ctx']['error']}".rstrip("."))
        else:
            clauses.append(f"{key}: {finding['msg']} (got {finding['input']!r:.80})")
    return "; ".join(clauses)


def _walk(config: type[Config], place: Sequence[str | int]) -> tuple[list[str], list[str]]:
    """Returns the keys that lead to a place, and those that there are beside its last one.

    Pydantic's places name the kind of a config where there are several; that is no key. Where another config is only
    known by its data, no keys are known.
    """
    path: list[str] = []
    found, below, beside = [config], list(config.model_fields), list[str]()
    for part in place:
        kinds = [each for each in found if len(found) > 1 and part in _names_of_kind(each)]
        if kinds:
            found, below = kinds, list(kinds[0].model_fields)
            continue
        path.append(str(part))
        if isinstance(part, str):
            beside = below
            fields = [each.model_fields[part] for each in found if part in each.model_fields]
            found = _configs_in(fields[0].annotation) if fields else []
            below = [key for each in found[:1] for key in each.model_fields]
    return path, beside if path and isinstance(place[-1], str) else below


def _names_of_kind(config: type[Config]) -> set[str]:
    """Returns what pydantic calls one of several configs in a place: its kind, or its class where it has none."""
    kind = config.model_fields.get("kind")
    return {config.__name__} if kind is None else {config.__name__, str(kind.default)}


def _configs_in(annotation: Any) -> list[type[Config]]:
    """Returns the configs that a field can hold, itself, or in a sequence, or perhaps."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    return [found for inner in get_args(annotation) for found in _configs_in(inner)]
