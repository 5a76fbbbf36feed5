"""What the documents claim is there: every test that they name, and what the packaging promises."""

import itertools
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_test_that_the_table_of_pains_names_exists():
    table = (ROOT / "docs" / "user-pain.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", table))
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    defined = set(re.findall(r"^def (test_\w+)", "\n".join(sources), flags=re.MULTILINE))
    assert len(named) > 30
    assert named <= defined, named - defined
    rows = re.findall(r"^\| (\d+) \|.*\| (.+) \|$", table, flags=re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, len(rows) + 1)) and len(rows) >= 42
    assert [number for number, held in rows if "test_" not in held] == ["11"]


def test_dependencies_are_lower_bounds():
    """But for Orbax, whose interface still changes between minor versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    limited = [bound for bound in bounds if re.search(r"<|==|~=|!=", bound.partition(";")[0])]
    assert [re.split(r"[<>=\[]", bound)[0] for bound in limited] == ["orbax-checkpoint"]
