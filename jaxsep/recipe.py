"""Recipes: YAML files of keys and values, and what a command line changes of them. What keys mean is not known here."""

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxsep.errors import ConfigError, JaxsepError

# Numbers with an exponent as YAML 1.2 and every programming language write them. PyYAML follows YAML 1.1, for which
# 1e6 and 1.0e6 are text.
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Reads a recipe.

    Args:
        path: The YAML file.
        overrides: 'key.path=value' each, the value in YAML.

    Raises:
        ConfigError: The file or an override cannot be read, or names a key twice.
        JaxsepError: PyYAML is not installed.
    """
    import_yaml()
    try:
        data = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not YAML: {error}.") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds no mapping of keys to values; see configs/README.md.")
    for override in overrides:
        _override(data, override)
    return data


def load_yaml(text: str) -> Any:
    """Returns what YAML says, read as plain values alone.

    Raises:
        ValueError: It is not YAML, or a mapping names a key twice; one clause, with line and column.
        JaxsepError: PyYAML is not installed.
    """
    yaml = import_yaml()
    try:
        return yaml.load(text, Loader=_loader())
    except yaml.YAMLError as error:
        problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
        if problem and mark:
            raise ValueError(f"{problem}, in line {mark.line + 1}, column {mark.column + 1}") from None
        raise ValueError(" ".join(str(error).split()).removesuffix(".")) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def import_yaml() -> Any:
    """Returns PyYAML.

    Raises:
        JaxsepError: It is not installed.
    """
    try:
        import yaml
    except ImportError:
        raise JaxsepError("Recipes need PyYAML, which is not installed: pip install pyyaml.") from None
    return yaml


@functools.cache
def _loader() -> Any:
    """Returns PyYAML's safe loader, but for numbers with an exponent and keys that are named twice."""
    yaml = import_yaml()

    class Loader(yaml.SafeLoader):  # type: ignore[name-defined]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            lines: dict[tuple[str, str], int] = {}
            # As written, before '<<' adds what it merges.
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    line, before = key.start_mark.line + 1, lines.get((key.tag, key.value))
                    if before is not None:
                        where = f"line {line}" if line == before else f"lines {before} and {line}"
                        raise yaml.YAMLError(f"the key '{key.value}' is there twice, in {where}")
                    lines[key.tag, key.value] = line
            return super().construct_mapping(node, deep=deep)

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
    return Loader


def _override(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    *parents, last = key.split(".")
    if not separator or not all((*parents, last)):
        raise ConfigError(f"'{override}' is no override; give key.path=value, such as training.steps=1000.")
    try:
        value = load_yaml(text)
    except ValueError as error:
        raise ConfigError(f"The value of '{override}' is not YAML; quote it, or mend it: {error}.") from None
    place: Any = data
    for parent in parents:
        place = place.setdefault(parent, {}) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise ConfigError(f"'{override}' names a key below one that holds a value.")
    place[last] = value
