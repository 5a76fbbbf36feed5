"""Tracks as they are found: every layout of real files, what is read of them, and what is refused."""

import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from jaxsep.errors import AudioError, ConfigError
from train.tracks import Track, find_tracks

MUSDB_STEMS = '["vocals", "drums", "bass", "other"]'


def tracks_of(config):
    return find_tracks(config.data, config.model)


def names(tracks: tuple[Track, ...]) -> list[str]:
    return [track.name for track in tracks]


def four_stems(config_for, root, *overrides):
    return config_for(root, f"model.stems={MUSDB_STEMS}", "model.config.n_sources=4", *overrides)


def test_musdb18_is_read_sample_for_sample_as_pyav_decodes_its_streams(config_for, musdb18, song) -> None:
    tracks = tracks_of(four_stems(config_for, musdb18))
    assert names(tracks.train) == ["The Easton Ellises - Falcon 69"]
    assert names(tracks.validation) == ["Leaf - Summerghost"]
    for start, length in ((0, 1000), (12345, 54321), (268000, 288)):
        read = tracks.train[0].read(start, length)
        for source, stem in zip(read, ("vocals", "drums", "bass", "other"), strict=True):
            np.testing.assert_array_equal(source, song[stem][start : start + length])


def test_the_accompaniment_of_musdb18_is_all_but_the_vocals(config_for, musdb18, song) -> None:
    track = tracks_of(config_for(musdb18)).train[0]
    read = track.read(5000, 4096)
    np.testing.assert_array_equal(read[0], song["vocals"][5000:9096])
    expected = (song["drums"].astype(np.float64) + song["bass"] + song["other"])[5000:9096]
    # Two additions in float32 of values up to 1.
    np.testing.assert_allclose(read[1], expected, rtol=0, atol=3e-7)
    np.testing.assert_allclose(track.read_mixture(5000, 4096), expected + song["vocals"][5000:9096], rtol=0, atol=5e-7)


def test_musdb18hq_is_found_with_musdbs_own_validation_split(config_for, musdb18hq, song_int16) -> None:
    tracks = tracks_of(four_stems(config_for, musdb18hq, "data.mixture=file"))
    assert (names(tracks.train), names(tracks.validation)) == (["Falcon 69"], ["ANiMAL - Rockshow"])
    np.testing.assert_array_equal(tracks.train[0].read(7, 99)[3], song_int16["other"][7:106] / np.float32(2**15))
    np.testing.assert_array_equal(tracks.train[0].read_mixture(7, 99), song_int16["mixture"][7:106] / np.float32(2**15))


def test_named_validation_tracks_replace_musdbs_list(config_for, musdb18hq) -> None:
    tracks = tracks_of(config_for(musdb18hq, "data.validation_tracks=['Falcon 69']"))
    assert (names(tracks.train), names(tracks.validation)) == (["ANiMAL - Rockshow"], ["Falcon 69"])


def test_musdb_is_parsed_without_ffmpeg_and_leaves_no_stand_in_behind(musdb18) -> None:
    code = (
        "import sys; from pathlib import Path; from train.musdb_layout import find_musdb;"
        "from train.problems import Problems;"
        f"found = find_musdb(Path({str(musdb18)!r}), Problems(), is_wav=False, split=None);"
        "print(len(found), found[0].length, 'musdb' in sys.modules, 'stempeg' in sys.modules)"
    )
    # No program can be found on this PATH.
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": "/nowhere", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["2", "268288", "False", "False"]


def test_folders_take_every_format_that_the_readers_read(config_for, tmp_path, song_int16, write) -> None:
    track = tmp_path / "songs/train/mixed"
    write(track, {"Vocals": song_int16["vocals"]}, ending="flac")
    write(track, {"drums": song_int16["drums"]}, ending="wav")
    write(track, {"bass": song_int16["bass"]}, ending="ogg")
    write(track, {"keys": song_int16["other"]}, ending="mp3")
    (track / "notes.txt").write_text("not audio")
    (track / "._drums.wav").write_bytes(b"not audio either")
    (tmp_path / "songs/train/empty").mkdir()
    found = tracks_of(config_for(tmp_path / "songs", "model.stems=[vocals, drums]"))
    assert found.names == ("vocals", "drums", "rest")
    read = found.train[0].read(20000, 30000)
    for number, part in ((0, "vocals"), (1, "drums")):
        np.testing.assert_array_equal(read[number], song_int16[part][20000:50000] / np.float32(2**15))
    rest = (song_int16["bass"][20000:50000].astype(np.float64) + song_int16["other"][20000:50000]) / 2**15
    # What vorbis and mp3 at their default quality lose; one sample early or late would be a larger difference.
    errors = [np.mean((read[2][shift:][:29000] - rest[50:29050]) ** 2) / np.mean(rest**2) for shift in (49, 50, 51)]
    assert errors[1] < 0.03 and errors[1] == min(errors)


def test_a_folder_without_splits_is_divided_by_name_and_test_is_never_read(config_for, tmp_path, song_int16, write):
    short = {name: song_int16[name][:9000] for name in ("vocals", "drums")}
    for name in ("a", "b", "test"):
        write(tmp_path / name, short)
    tracks = tracks_of(config_for(tmp_path, "data.validation_tracks=[b]"))
    assert (names(tracks.train), names(tracks.validation)) == (["a"], ["b"])


def test_files_are_summed_into_stems_as_the_config_says(config_for, tmp_path, song_int16, write) -> None:
    names_of_files = {"lead": "vocals", "choir": "drums", "piano": "bass", "mix": "mixture"}
    write(tmp_path / "t", {name: song_int16[part] for name, part in names_of_files.items()})
    found = tracks_of(config_for(tmp_path, "data.stems={vocals: [lead, choir]}"))
    assert found.train[0].sources == (("choir", "lead"), ("piano",)) and found.train[0].recording.has_mixture
    expected = (song_int16["vocals"][:500].astype(np.int64) + song_int16["drums"][:500]) / 2**15
    np.testing.assert_allclose(found.train[0].read(0, 500)[0], expected, rtol=0, atol=1e-7)  # one float32 addition


def test_rest_is_silent_in_tracks_that_have_none(config_for, tmp_path, song_int16, write) -> None:
    short = {name: song_int16[name][:9000] for name in ("vocals", "drums", "bass")}
    write(tmp_path / "has rest", short)
    write(tmp_path / "no rest", {name: short[name] for name in ("vocals", "drums")})
    found = tracks_of(config_for(tmp_path, "model.stems=[vocals, drums]"))
    assert [track.read(0, 9000)[2].any() for track in found.train] == [True, False]


def test_parts_of_unequal_length_are_followed_by_silence(config_for, tmp_path, song_int16, write) -> None:
    write(tmp_path / "t", {"vocals": song_int16["vocals"][:5000], "drums": song_int16["drums"][:8000]})
    track = tracks_of(config_for(tmp_path)).train[0]
    assert track.length == 8000
    vocals, drums = track.read(4000, 6000)
    np.testing.assert_array_equal(vocals[:1000], song_int16["vocals"][4000:5000] / np.float32(2**15))
    np.testing.assert_array_equal(drums[:4000], song_int16["drums"][4000:8000] / np.float32(2**15))
    assert not vocals[1000:].any() and not drums[4000:].any()


def test_names_in_both_forms_of_unicode_find_each_other(config_for, tmp_path, song_int16, write) -> None:
    """Files as macOS names them, and a recipe as others write it."""
    short = {name: song_int16[name][:9000] for name in ("vocals", "drums")}
    nfd = {unicodedata.normalize("NFD", name): audio for name, audio in (("Stimmé", short["vocals"]), *short.items())}
    for track in ("Café", "Zoë", "plain"):
        write(tmp_path / "songs" / unicodedata.normalize("NFD", track), {**nfd})
    stems = "data.stems={vocals: [stimmé], drums: [drums]}"
    found = tracks_of(
        config_for(tmp_path / "songs", "model.stems=[vocals, drums]", stems, "data.validation_tracks=['Café']")
    )
    assert names(found.validation) == ["Café"] and names(found.train) == ["Zoë", "plain"]
    assert [track.sources[:2] for track in found.train] == [(("stimmé",), ("drums",))] * 2


def test_of_several_audio_tracks_of_a_file_the_one_that_is_learned_from_is_told(
    config_for, tmp_path, stem_mp4, song_int16, write, caplog
) -> None:
    write(tmp_path / "t", {"drums": song_int16["drums"]})
    shutil.copy(stem_mp4, tmp_path / "t/vocals.m4a")
    tracks_of(config_for(tmp_path, "model.stems=[vocals, drums]"))
    assert len(caplog.messages) == 1
    assert "vocals.m4a holds 5 audio tracks, and number 1 is read" in caplog.messages[0]


def test_a_length_that_no_header_counts_is_counted_by_decoding(config_for, tmp_path, song_int16) -> None:
    folder = tmp_path / "t"
    folder.mkdir()
    decoded = {}
    for name in ("vocals", "drums"):
        # ADTS: AAC packets without a container, whose duration FFmpeg estimates from the first few.
        with av.open(str(folder / f"{name}.aac"), "w", format="adts") as container:
            stream = container.add_stream("aac", rate=44100, layout="stereo")
            audio = np.ascontiguousarray((song_int16[name] / np.float32(2**15)).T)
            frame = av.AudioFrame.from_ndarray(audio, format="fltp", layout="stereo")
            frame.sample_rate = 44100
            resampler = av.AudioResampler(format="fltp", layout="stereo", rate=44100, frame_size=1024)
            for piece in (*resampler.resample(frame), *resampler.resample(None)):
                container.mux(stream.encode(piece))
            container.mux(stream.encode(None))
        with av.open(str(folder / f"{name}.aac")) as container:
            decoded[name] = np.concatenate([frame.to_ndarray().T for frame in container.decode(audio=0)])
    track = tracks_of(config_for(tmp_path)).train[0]
    assert track.length == len(decoded["drums"])
    np.testing.assert_array_equal(track.read(track.length - 500, 500)[1], decoded["drums"][-500:])


def test_synthetic_tracks_are_the_same_wherever_they_are_cut(config_for) -> None:
    track = tracks_of(config_for(None)).train[2]
    whole = track.read(0, 20000)
    np.testing.assert_array_equal(track.read(4095, 3000), whole[:, 4095:7095])
    assert np.all(np.abs(whole) < 1) and np.all(whole.std(axis=(1, 2)) > 0.01)


def test_bad_folders_are_refused_with_a_sentence(config_for, tmp_path, song_int16, write) -> None:
    short = {name: song_int16[name][:9000] for name in ("vocals", "drums")}
    with pytest.raises(ConfigError, match=r"there is no folder .*nowhere"):
        tracks_of(config_for(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="there are no tracks in"):
        tracks_of(config_for(tmp_path))
    write(tmp_path / "twice/train/t", short)
    write(tmp_path / "twice/train/t", {"Vocals": short["vocals"]}, ending="flac")
    with pytest.raises(ConfigError, match=r"(?s)Vocals.flac and .*vocals.wav are both 'vocals' of one track"):
        tracks_of(config_for(tmp_path / "twice"))
    write(tmp_path / "missing/t", {"drums": short["drums"], "bass": short["drums"]})
    with pytest.raises(ConfigError, match="'t' has no file for the stem 'vocals', only bass, drums"):
        tracks_of(config_for(tmp_path / "missing"))
    write(tmp_path / "both/t", short)
    with pytest.raises(ConfigError, match="gives the file 'vocals' to two stems"):
        tracks_of(config_for(tmp_path / "both", "data.stems={accompaniment: [vocals, drums]}"))
    with pytest.raises(ConfigError, match=r"there is no track 'u'\. Known: t\."):
        tracks_of(config_for(tmp_path / "both", "data.validation_tracks=[u]"))
    write(tmp_path / "leak/train/t", short)
    write(tmp_path / "leak/valid/t", short)
    with pytest.raises(ConfigError, match="'t' is among the tracks of training and among those of validation"):
        tracks_of(config_for(tmp_path / "leak"))
    write(tmp_path / "text/t", short)
    (tmp_path / "text/t/bass.mp3").write_text("no audio at all")
    with pytest.raises(AudioError, match=r"bass.mp3 is not audio"):
        tracks_of(config_for(tmp_path / "text"))


@pytest.fixture
def one_lacks_a_file(tmp_path, song_int16, write):
    """Three tracks of vocals, drums and bass, but 'second' has no bass."""
    short = {name: song_int16[name][:9000] for name in ("vocals", "drums", "bass")}
    for track in ("first", "second", "third"):
        write(
            tmp_path / "songs" / track,
            {part: audio for part, audio in short.items() if (track, part) != ("second", "bass")},
        )
    return tmp_path / "songs"


def test_a_track_that_lacks_what_all_others_sum_into_a_stem_is_refused_by_name(config_for, one_lacks_a_file) -> None:
    """Its accompaniment would be the drums alone, and nothing would say so."""
    with pytest.raises(
        ConfigError, match=r"'second' has no file 'bass', .*'accompaniment' .*would be drums alone; .*data\.incomplete"
    ):
        tracks_of(config_for(one_lacks_a_file))
    # What a stem is explicitly summed of counts alike.
    with pytest.raises(
        ConfigError, match=r"'second' has no file 'bass', which is part of the stem 'vocals'.*would be vocals alone"
    ):
        tracks_of(config_for(one_lacks_a_file, "data.stems={vocals: [vocals, bass]}"))


def test_a_track_that_lacks_a_file_is_summed_without_it_where_that_is_asked_for(
    config_for, one_lacks_a_file, song_int16
):
    found = tracks_of(config_for(one_lacks_a_file, "data.incomplete=sum"))
    assert found.notes == ("'accompaniment' is summed without 'bass', which the other tracks have, in second (drums).",)
    np.testing.assert_array_equal(found.train[1].read(0, 9000)[1], song_int16["drums"][:9000] / np.float32(2**15))


def test_files_that_only_some_tracks_have_are_no_rule(config_for, tmp_path, song_int16, write) -> None:
    """Instruments differ from song to song; and what is in no stem is in no target."""
    whole = {name: song_int16[name][:900] for name in ("vocals", "drums", "bass")}
    without = {name: whole[name] for name in ("vocals", "drums")}
    for number in range(4):
        write(tmp_path / "some" / str(number), whole if number < 2 else without)
        write(tmp_path / "rest" / str(number), whole if number < 3 else without)
    found = tracks_of(config_for(tmp_path / "some")).train
    assert [track.sources[1] for track in found] == [("bass", "drums")] * 2 + [("drums",)] * 2
    assert len(tracks_of(config_for(tmp_path / "rest", "model.stems=[vocals, drums]")).train) == 4


def test_all_files_that_are_wrong_are_told_at_once(config_for, tmp_path, song_int16, write) -> None:
    short = {name: song_int16[name][:9000] for name in ("vocals", "drums")}
    for name in ("good", "text", "twice", "missing", "leak"):
        write(tmp_path / "train" / name, short)
    write(tmp_path / "valid" / "leak", short)
    for part in ("vocals", "drums"):
        (tmp_path / "train" / "text" / f"{part}.wav").write_text("no audio at all")
    write(tmp_path / "train" / "twice", {"drums": short["drums"]}, ending="flac")
    (tmp_path / "train" / "missing" / "vocals.wav").unlink()
    with pytest.raises(ConfigError) as told:
        tracks_of(config_for(tmp_path))
    lines = str(told.value).splitlines()
    assert lines[0] == "5 problems:" and len(lines) == 6
    files = ("text/drums.wav", "text/vocals.wav", "twice/drums.wav are both 'drums'")
    for part in (*files, "'missing' has no file for", "'leak' is among"):
        assert sum(part in line for line in lines) == 1, (part, lines)


def test_missing_musdb_is_told_in_one_sentence(monkeypatch, musdb18, config_for) -> None:
    from train import musdb_layout

    def no_import(name: str) -> None:
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(musdb_layout, "_load_musdb", musdb_layout._load_musdb.__wrapped__)
    monkeypatch.setattr(musdb_layout.importlib, "import_module", no_import)
    with pytest.raises(ConfigError, match=r"No module named 'musdb'\): pip install"):
        tracks_of(config_for(musdb18))


def test_a_file_that_ends_before_its_header_says_raises_for_what_is_not_there(config_for, tmp_path, song_int16, write):
    write(tmp_path / "t", {"vocals": song_int16["vocals"], "drums": song_int16["drums"]}, ending="flac")
    track = tracks_of(config_for(tmp_path)).train[0]
    path = tmp_path / "t/vocals.flac"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert soundfile.info(path).frames == track.length
    assert track.read(90000, 1000).any()
    with pytest.raises(AudioError, match=r"vocals.flac"):
        track.read(track.length - 2000, 1000)
