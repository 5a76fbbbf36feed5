"""Finished files and folders get their names together, and never in the place of what came to exist meanwhile."""

import os
from pathlib import Path

import pytest

from jaxsep.errors import AudioError, JaxsepError
from jaxsep.naming import new_files


@pytest.fixture(params=["links", "no links"])
def links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system that has hard links, and on one that has none."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if request.param == "no links":
        monkeypatch.setattr(os, "link", refuse)


def tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def write(path: Path, text: str, kind: str) -> None:
    if kind == "folder":
        path.mkdir()
        path = path / "inside"
    path.write_text(text)


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("other", ["file", "folder"])
def test_what_came_to_exist_stays_and_what_was_made_has_another_name(tmp_path, links, kind, other) -> None:
    path = tmp_path / "new/made.txt"
    with pytest.raises(AudioError, match=r"made\.txt' came to exist.*was not replaced.*kept as '.*made\.2\.txt'"):
        with new_files([path], error=AudioError) as (temporary,):
            write(temporary, "ours", kind)
            write(path, "somebody's", other)
    inside = {"file": "", "folder": "/inside"}
    assert tree(tmp_path / "new") == {f"made.txt{inside[other]}": "somebody's", f"made.2.txt{inside[kind]}": "ours"}


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_may_be_replaced_is(tmp_path, links, kind) -> None:
    path = tmp_path / "made"
    write(path, "before", kind)
    with new_files([path], replaced=[path]) as (temporary,):
        write(temporary, "after", kind)
        assert "before" in tree(tmp_path).values()
    assert list(tree(tmp_path).values()) == ["after"]
    assert os.listdir(tmp_path) == ["made"]


def test_of_several_files_one_that_is_taken_gives_all_other_names(tmp_path, links) -> None:
    paths = [tmp_path / name for name in ("a.csv", "b.csv")]
    (tmp_path / "a.csv").write_text("of the run before")
    with pytest.raises(JaxsepError, match=r"b\.csv' came to exist"):
        with new_files(paths, replaced=paths[:1]) as temporary:
            for path in temporary:
                path.write_text("ours")
            (tmp_path / "b.csv").write_text("somebody's")
    assert tree(tmp_path) == {
        "a.csv": "of the run before",
        "b.csv": "somebody's",
        "a.2.csv": "ours",
        "b.2.csv": "ours",
    }


def test_an_error_leaves_nothing_and_the_disks_are_one_sentence(tmp_path) -> None:
    with pytest.raises(JaxsepError, match=r"'.*made' cannot be written: Is a directory\.$"):
        with new_files([tmp_path / "made"]) as (temporary,):
            temporary.mkdir()
            temporary.write_text("no")
    with pytest.raises(ZeroDivisionError):
        with new_files([tmp_path / "made"]) as (temporary,):
            temporary.write_text("half")
            raise ZeroDivisionError
    (tmp_path / "file").touch()
    with pytest.raises(JaxsepError, match=r"cannot be written: (Not a directory|File exists)"):
        with new_files([tmp_path / "file/made"]):
            raise AssertionError("there is no folder to write to")
    assert os.listdir(tmp_path) == ["file"]
