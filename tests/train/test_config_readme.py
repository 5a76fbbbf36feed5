"""configs/README.md: every key that there is, no other, and the defaults that the classes have."""

import re
from pathlib import Path
from typing import Any, get_args

import pydantic
import pytest
import yaml

from jaxsep.compare.study_config import StudyConfig
from jaxsep.config import Config
from jaxsep.models import FAMILIES, Procedure
from train.config import CHANGEABLE, RunConfig

README = Path(__file__).parents[2] / "configs" / "README.md"
STUDIES = "# Studies\n"
HEADING_OF_A_FAMILY = "### model.config of the family "


def rows_of(text: str) -> dict[str, str]:
    """Returns the defaults by key, of all tables with such columns."""
    rows: dict[str, str] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 4:
            key = cells[0].strip("`")
            assert key not in rows, f"{key} is there twice"
            assert cells[3].endswith((".", ")")), f"{key} has no meaning"
            rows[key] = cells[2]
    return rows


def sections() -> tuple[str, dict[str, str]]:
    """Returns the README on recipes without the tables of single families, and these by family."""
    text = README.read_text().partition(STUDIES)[0]
    families = {}
    for part in re.split(f"(?=^{re.escape(HEADING_OF_A_FAMILY)})", text, flags=re.MULTILINE)[1:]:
        own = re.split(r"(?m)^##? ", part.removeprefix("###"))[0]
        families[part.splitlines()[0].removeprefix(HEADING_OF_A_FAMILY)] = own
        text = text.replace(own, "")
    return text, families


def configs_in(annotation: Any) -> tuple[list[type[Config]], str]:
    """Returns the configs that a field can hold, and what stands behind its key where it holds a sequence of them."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation], ""
    found = [config for inner in get_args(annotation) for config in configs_in(inner)[0]]
    return found, "[]" if getattr(annotation, "__origin__", None) is tuple else ""


def keys_of(config: type[Config], prefix: str = "") -> dict[str, pydantic.fields.FieldInfo]:
    keys = {}
    for name, field in config.model_fields.items():
        keys[prefix + name] = field
        inner, items = configs_in(field.annotation)
        for alternative in reversed(inner):
            keys |= keys_of(alternative, f"{prefix}{name}{items}.")
        if len(inner) > 1:
            # By which alternatives are told apart: to be given, unless the config around them fills it in.
            default = "chunks" if config is Procedure else pydantic.fields.PydanticUndefined
            keys[f"{prefix}{name}.kind"] = pydantic.fields.FieldInfo(annotation=str, default=default)
    return keys


def assert_described(found: dict[str, str], expected: dict[str, pydantic.fields.FieldInfo]) -> None:
    assert found.keys() == expected.keys()
    for key, field in expected.items():
        if field.is_required():
            assert found[key] == "required", key
        else:
            value = pydantic.TypeAdapter(field.annotation).validate_python(yaml.safe_load(found[key].strip("`")))
            assert value == field.default, f"{key}: {found[key]}"


def test_every_key_of_a_run_is_described_with_its_default():
    described, keys = rows_of(sections()[0]), keys_of(RunConfig)
    assert len(keys) > 80
    assert_described(described, keys)


def test_every_key_of_a_study_is_described_with_its_default():
    """But for those of the model, which are those of a run's."""
    described = rows_of(README.read_text().partition(STUDIES)[2])
    assert_described(described, {key: field for key, field in keys_of(StudyConfig).items() if "model." not in key})


def test_every_family_is_described():
    assert sections()[1].keys() == FAMILIES.keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_key_of_a_family_is_described_with_its_default(family):
    assert_described(rows_of(sections()[1][family]), keys_of(FAMILIES[family].config, "model.config."))


def test_what_a_run_may_change_is_described():
    sentence = re.search(r"may then change only (.+?)\.\n", README.read_text(), re.DOTALL)
    assert re.findall(r"`(.+?)`", sentence.group(1)) == list(CHANGEABLE)


def test_the_table_names_all_recipes():
    named = re.findall(r"`(\w+\.yaml)`", README.read_text())
    assert set(named) == {path.name for path in README.parent.glob("*.yaml")}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("| `loss.stem_weights` | factors | `null` |", "| `loss.stem_wieghts` | factors | `null` |"), "keys"),
        (("| `optimizer.b1` | | `0.9` |", "| `optimizer.b1` | | `0.99` |"), "optimizer.b1"),
        (("| `training.steps` | steps | required |", "| `training.steps` | steps | `1` |"), "training.steps"),
    ],
)
def test_a_readme_that_is_wrong_is_noticed(change, problem):
    text = sections()[0]
    assert change[0] in text
    with pytest.raises(AssertionError, match=problem):
        assert_described(rows_of(text.replace(*change)), keys_of(RunConfig))
