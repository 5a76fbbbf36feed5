"""Finished files get their names together, and never in the place of one that came to exist meanwhile."""

import os
from pathlib import Path

import numpy as np
import pytest
from audio_files import read, tones

from jaxsep.audio import AudioWriter, close_together
from jaxsep.errors import AudioError


def writers(folder: Path, *, replace: bool, level: float = 1.0) -> list[AudioWriter]:
    """Two stems of one song, written and not closed."""
    made = []
    for stem in ("vocals", "drums"):
        path = folder / f"{stem}.wav"
        writer = AudioWriter(path, sample_rate=8000, channels=2, format="wav", subtype="FLOAT", replace=replace)
        writer.write(level * tones(800))
        made.append(writer)
    return made


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.fixture(params=["links", "no links"])
def links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system that has hard links, and on one that has none."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if request.param == "no links":
        monkeypatch.setattr(os, "link", refuse)


def test_what_came_to_exist_is_kept_and_all_finished_stems_have_other_names(tmp_path: Path, links: None) -> None:
    made = writers(tmp_path, replace=False)
    (tmp_path / "drums.wav").write_bytes(b"somebody's")
    with pytest.raises(AudioError, match=r"drums\.wav' came to exist.*vocals\.2\.wav', '.*drums\.2\.wav'"):
        close_together(made)
    assert names(tmp_path) == ["drums.2.wav", "drums.wav", "vocals.2.wav"]
    assert (tmp_path / "drums.wav").read_bytes() == b"somebody's"
    for stem in ("vocals", "drums"):
        np.testing.assert_array_equal(read(tmp_path / f"{stem}.2.wav"), tones(800))


def test_runs_into_one_folder_leave_the_stems_of_each_together(tmp_path: Path, links: None) -> None:
    runs = [writers(tmp_path, replace=False, level=level) for level in (1.0, 0.5, 0.25)]
    close_together(runs[0])
    for run in runs[1:]:
        with pytest.raises(AudioError, match="came to exist"):
            close_together(run)
    assert len(names(tmp_path)) == 6
    for number, level in (("", 1.0), (".2", 0.5), (".3", 0.25)):
        for stem in ("vocals", "drums"):
            np.testing.assert_array_equal(read(tmp_path / f"{stem}{number}.wav"), np.float32(level) * tones(800))


def test_with_leave_to_replace_the_last_one_stays(tmp_path: Path, links: None) -> None:
    first, second = (writers(tmp_path, replace=True, level=level) for level in (1.0, 0.5))
    close_together(first)
    close_together(second)
    assert names(tmp_path) == ["drums.wav", "vocals.wav"]
    np.testing.assert_array_equal(read(tmp_path / "vocals.wav"), np.float32(0.5) * tones(800))


def test_the_longest_names_get_numbers_too(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 125 + ".wav")  # 254 bytes of the 255 that there are
    writer = AudioWriter(path, sample_rate=8000, channels=2, format="wav", subtype="FLOAT", replace=False)
    writer.write(tones(800))
    path.write_bytes(b"somebody's")
    with pytest.raises(AudioError, match="came to exist"):
        writer.close()
    assert len(names(tmp_path)) == 2 and path.read_bytes() == b"somebody's"


def test_no_stem_has_its_name_where_one_cannot_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = writers(tmp_path, replace=False)
    before = os.replace

    def fail(source: Path, target: Path) -> None:
        if target.name == "drums.wav":
            raise OSError(28, "No space left on device")
        before(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(AudioError, match="No space left"):
        close_together(made)
    for writer in made:
        writer.discard()
    assert names(tmp_path) == []
