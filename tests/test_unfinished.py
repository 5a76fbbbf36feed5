"""What is taken away when a process is told to end, while its other threads go on."""

import os
import threading
from contextlib import suppress

import pytest

from jaxsep import unfinished


@pytest.fixture(autouse=True)
def nothing_else(monkeypatch):
    monkeypatch.setattr(unfinished, "changing_names", threading.RLock())
    monkeypatch.setattr(unfinished, "_paths", {})


def test_a_folder_that_another_thread_fills_goes_with_all_that_is_in_it(tmp_path) -> None:
    over = threading.Event()

    def fill(folder) -> None:
        for number in range(10_000):
            if over.is_set():
                return
            with suppress(OSError):
                (folder / f"{number}").touch()

    folders = [tmp_path / f"{number}" for number in range(20)]
    for folder in folders:
        folder.mkdir()
        filling = threading.Thread(target=fill, args=(folder,))
        filling.start()
        while not os.listdir(folder):
            continue
        unfinished.begin(folder)
        unfinished.discard_all()
        over.set()
        filling.join()
        over.clear()
    assert os.listdir(tmp_path) == []


def test_a_thread_whose_files_are_taken_away_tells_of_no_error(tmp_path) -> None:
    begun, errors = threading.Event(), []

    def write() -> None:
        try:
            with unfinished.watched(tmp_path / "folder") as folder:
                folder.mkdir()
                begun.set()
                while True:
                    (folder / "file").touch()
        except OSError as error:
            errors.append(error)

    writing = threading.Thread(target=write)
    with unfinished.changing_names:
        writing.start()
        assert begun.wait(10)
        unfinished.discard_all()
        writing.join(0.2)
        assert writing.is_alive() and not errors
        assert os.listdir(tmp_path) == []
    writing.join(10)
    assert len(errors) == 1


def test_files_and_the_folders_made_for_them_go_but_no_other_file(tmp_path) -> None:
    folder = tmp_path / "outer/inner"
    folder.mkdir(parents=True)
    (tmp_path / "outer/kept").touch()
    (folder / "part").touch()
    unfinished.begin(folder / "part", [folder, folder.parent])
    (tmp_path / "whole").touch()
    unfinished.begin(tmp_path / "whole")
    unfinished.end(tmp_path / "whole")
    unfinished.discard_all()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["kept", "outer", "whole"]
