"""Recipes: YAML files of keys and values, and what a command line changes of them. What keys mean is not known here."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxsep.errors import ConfigError, JaxsepError


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Reads a recipe.

    Args:
        path: The YAML file.
        overrides: 'key.path=value' each, the value in YAML.

    Raises:
        ConfigError: The file or an override cannot be read.
        JaxsepError: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError:
        raise JaxsepError("Recipes need PyYAML, which is not installed: pip install pyyaml.") from None
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds no mapping of keys to values; see configs/README.md.")
    for override in overrides:
        _override(data, override)
    return data


def _override(data: dict[str, Any], override: str) -> None:
    import yaml

    key, separator, text = override.partition("=")
    *parents, last = key.split(".")
    if not separator or not all((*parents, last)):
        raise ConfigError(f"'{override}' is no override; give key.path=value, such as training.steps=1000.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"The value of '{override}' is not YAML; quote it.") from None
    place: Any = data
    for parent in parents:
        place = place.setdefault(parent, {}) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise ConfigError(f"'{override}' names a key below one that holds a value.")
    place[last] = value
