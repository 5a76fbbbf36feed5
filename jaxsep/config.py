"""The base of every config: frozen, hashable, validated, unknown keys refused. No arrays, no files."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import pydantic
from pydantic_core import InitErrorDetails, PydanticCustomError

from jaxsep.errors import ConfigError, nearest

ConfigType = TypeVar("ConfigType", bound="Config")

_TRUTH_VALUE = PydanticCustomError("truth_value", "Input should be a number, not true or false")


class Config(pydantic.BaseModel):
    """A frozen, hashable set of validated values, fit to be a static argument of `jax.jit`.

    Sequences are tuples, so that a config hashes. Build one from outside data with `parse`, which turns pydantic's
    report into one sentence.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    @pydantic.model_validator(mode="wrap")
    @classmethod
    def _truth_values_are_no_numbers(cls, data: Any, handler: Callable[[Any], Any]) -> Any:
        """Refuses `true` where a number is asked for, which pydantic takes for 1, beside all else that is wrong."""
        found = list(_truth_values(cls, data)) if isinstance(data, Mapping) else []
        try:
            config = handler(data)
        except pydantic.ValidationError as error:
            told = {each["loc"][:1] for each in found}
            found += [each for each in findings(error) if each["loc"][:1] not in told]
        if found:
            raise pydantic.ValidationError.from_exception_data(cls.__name__, found)
        return config

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


def findings(error: pydantic.ValidationError) -> list[InitErrorDetails]:
    """Returns pydantic's findings, to be raised together with others."""
    found = []
    for each in error.errors():
        kind = _TRUTH_VALUE if each["type"] == _TRUTH_VALUE.type else each["type"]
        found.append(InitErrorDetails(type=kind, loc=each["loc"], input=each["input"], ctx=each.get("ctx", {})))
    return found


def misfit(sentence: str, data: Any) -> InitErrorDetails:
    """Returns a finding of our own on the whole of a config, to be raised together with pydantic's.

    Args:
        sentence: What is wrong.
        data: What was to be a config.
    """
    return InitErrorDetails(type="value_error", input=data, ctx={"error": ValueError(sentence)})


def _truth_values(config: type[Config], data: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
    for name, field in config.model_fields.items():
        value = data.get(name)
        values = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(each, bool) for each in values) and not _takes_truth_values(field.annotation):
            yield InitErrorDetails(type=_TRUTH_VALUE, loc=(name,), input=value)


def _takes_truth_values(annotation: Any) -> bool:
    """Whether a field is not for numbers alone: one, none, or a sequence of them."""
    inner = [each for each in get_args(annotation) if each not in (type(None), ...)]
    if get_origin(annotation) is Annotated:
        return _takes_truth_values(inner[0])
    if get_origin(annotation) is Literal:
        return any(isinstance(each, bool) or not isinstance(each, int) for each in inner)
    return any(map(_takes_truth_values, inner)) if inner else annotation not in (int, float)


def describe(error: pydantic.ValidationError, config: type[Config]) -> str:
    """Returns pydantic's findings as clauses joined by semicolons."""
    clauses = []
    found = error.errors()
    for finding in found:
        place = finding["loc"]
        is_own = finding["type"] == "value_error"
        if not is_own and any(other["loc"] != place and other["loc"][: len(place)] == place for other in found):
            continue  # a sequence, say, that is too short without the item that is wrong
        path, known = _walk(config, place)
        key = ".".join(path) or "the whole"
        if finding["type"] == "extra_forbidden":
            hint = nearest(path[-1], known) if known else ""
            clauses.append(f"unknown key '{key}'.{hint}".rstrip("."))
        elif finding["type"] == "missing":
            clauses.append(f"key '{key}' is missing")
        elif finding["type"] == "value_error":
            sentence = str(finding["ctx"]["error"]).rstrip(".")
            clauses.append(f"{key}: {sentence}" if path else sentence)
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
