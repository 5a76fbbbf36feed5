"""Files and folders from public bug reports: what is read of them, what is done once, what one sentence tells."""

import json
import os
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from cli.conftest import SCRIPT, files, read, write_song
from users import bound_by_modes


@pytest.fixture
def jaxsep(quick_jaxsep):
    return quick_jaxsep


def test_surround_stems_in_ogg_have_the_channels_in_the_order_of_the_mixture(jaxsep):
    """The stem and the mixture minus it, decoded by FFmpeg, sum to the mixture, channel by channel."""
    rate, hertz = 44100, np.array([300, 400, 500, 100, 600, 700])  # the fourth is that of low frequencies
    song = 0.2 * np.sin(2 * np.pi * hertz * np.arange(rate)[:, None] / rate)
    soundfile.write("song.wav", song, rate)
    assert jaxsep("separate", "song.wav", "--two-stems", "vocals", "--format", "ogg", "--quiet").exit_code == 0
    total = 0
    for stem in ("vocals", "no_vocals"):
        with av.open(f"separated/song/{stem}.ogg") as container:
            frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
        total = total + np.concatenate(frames, axis=1).T[:40000]
    spectrum = np.abs(np.fft.rfft(total, axis=0))
    assert [round(peak * rate / 40000, -2) for peak in spectrum.argmax(axis=0)] == hertz.tolist()
    # Of what is no tone, Vorbis adds little.
    levels = 20 * np.log10(np.sqrt(np.mean(total**2, axis=0)) / (0.2 / np.sqrt(2)))
    np.testing.assert_allclose(levels, 0, atol=4)  # of the channel of low frequencies; 0.1 dB of the others


@pytest.mark.parametrize("kind", ["joined.mp3", "cut.mp3", "cut.flac", "stale.wav"])
def test_inputs_that_hold_another_length_than_they_say_are_separated_once(jaxsep, kind):
    whole = Path(f"whole{Path(kind).suffix}")
    soundfile.write(whole, np.random.default_rng(0).standard_normal((44100, 2)) * 0.1, 44100)
    content = whole.read_bytes()
    if kind == "stale.wav":
        data = content.index(b"data") + 4
        content = content[:data] + (40000).to_bytes(4, "little") + content[data + 4 :]
    Path(kind).write_bytes(content * 2 if kind.startswith("joined") else content[: round(len(content) * 0.7)])
    first = jaxsep("separate", kind)
    assert first.exit_code == 0 and "warning: " in first.stderr
    stem = Path(f"separated/{Path(kind).stem}/vocals.wav")
    written = stem.stat().st_mtime_ns
    second = jaxsep("separate", kind, "--skip-existing")
    assert second.exit_code == 0 and f"{kind}: skipped" in second.stderr
    assert stem.stat().st_mtime_ns == written
    # A stem of another length than was decoded is made again.
    frames = len(read(stem))
    soundfile.write(stem, read(stem)[:-100], 44100)
    assert "skipped" not in jaxsep("separate", kind, "--skip-existing").stderr
    assert len(read(stem)) == frames


def film(path, default):
    """Two tracks of silence and noise, one of them flagged as default."""
    with av.open(path, "w") as container:
        streams = [container.add_stream("pcm_s16le", rate=44100, layout="stereo") for _ in range(2)]
        for number, stream in enumerate(streams):
            stream.disposition = type(stream.disposition).default if number == default else type(stream.disposition)(0)
        for number, stream in enumerate(streams):
            samples = np.random.default_rng(0).integers(-3000, 3000, (1, 2 * 8820)).astype(np.int16) * number
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
            frame.sample_rate = 44100
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("default", "options", "heard", "told"),
    [
        (1, [], True, "number 2 is read"),
        (0, [], False, "number 1 is read"),
        (1, ["--audio-track", "1"], False, ""),
        (0, ["--audio-track", "2"], True, ""),
    ],
)
def test_the_default_audio_track_is_separated_or_the_one_that_is_asked_for(jaxsep, default, options, heard, told):
    film("film.mkv", default)
    result = jaxsep("separate", "film.mkv", *options)
    assert result.exit_code == 0, result.output
    assert ("2 audio tracks" in result.stderr) == bool(told) and told in result.stderr
    assert bool(read("separated/film/accompaniment.wav").any()) == heard


def test_other_commands_that_read_audio_tell_which_track_that_was_once_for_each_file(jaxsep, caplog, place):
    for folder in ("true/a", "est/a"):
        Path(folder).mkdir(parents=True)
        film(f"{folder}/vocals.mkv", 1)
        write_song(f"{folder}/drums.wav", 0.2)
    told = ["a/vocals.mkv holds 2 audio tracks, and number 2 is read, the one that FFmpeg takes by default."]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxsep.audio.reader._noted", set())
        evaluate = ("evaluate", "--tracks", "true", "--estimates", "est", "--metrics", "sdr")
        assert jaxsep(*evaluate, "--quiet", "-o", "quiet").exit_code == 0
        assert caplog.messages == []
        patch.setattr("jaxsep.audio.reader._noted", set())
        assert jaxsep(*evaluate).exit_code == 0
        assert caplog.messages == [f"{folder}/{each}" for folder in ("true", "est") for each in told]
        caplog.clear()
        patch.setattr("jaxsep.audio.reader._noted", set())
        plot = ("plot", "true/a/vocals.mkv", "--estimates", "est/a", "--kinds", "waveforms")
        assert jaxsep(*plot).exit_code == 0
        assert caplog.messages == [f"{folder}/{each}" for folder in ("true", "est") for each in told]


def test_an_audio_track_that_is_not_there_is_one_sentence(jaxsep):
    film("film.mkv", 0)
    result = jaxsep("separate", "film.mkv", "--audio-track", "3")
    assert result.exit_code == 1
    assert "film.mkv holds 2 audio streams; number 3 was asked for" in result.stderr
    assert files() == ["film.mkv"]


def test_lists_of_find_are_read_and_what_is_no_list_is_one_sentence(jaxsep):
    for name in ("a.wav", "#b\n.wav", " c .wav"):
        write_song("plain.wav", 0.1)
        Path("plain.wav").rename(name)
    Path("list").write_bytes(b"a.wav\0#b\n.wav\0 c .wav\0")
    assert jaxsep("separate", "@list", "--quiet").exit_code == 0
    assert files("separated") == sorted(
        f"{track}/{stem}.wav" for track in ("a", "#b\n", " c ") for stem in ("vocals", "accompaniment")
    )
    for content, told in [
        ("a.wav\n".encode("utf-16"), "UTF-16"),
        ("a.wav\n".encode("utf-16-le"), "UTF-16"),
        (Path("a.wav").read_bytes(), "is no list"),
        (b"x" * 5000, "is no list"),
        (b"\0\0\0", "names no files"),
    ]:
        Path("list").write_bytes(content)
        result = jaxsep("separate", "@list")
        assert result.exit_code == 2 and result.stderr.count("\n") == 1, result.stderr
        assert told in result.stderr


def test_songs_that_differ_by_their_ending_alone_are_told_apart_by_the_suffix(jaxsep):
    write_song("dup/song.wav", 0.1)
    write_song("dup/song.flac", 0.1)
    result = jaxsep("separate", "dup")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert "--filename" in result.stderr and "{track}-{suffix}/{stem}.{ext}" in result.stderr
    assert jaxsep("separate", "dup", "--filename", "{track}-{suffix}/{stem}.{ext}", "--quiet").exit_code == 0
    assert files("separated") == sorted(
        f"song-{suffix}/{stem}.wav" for suffix in ("wav", "flac") for stem in ("vocals", "accompaniment")
    )


@pytest.mark.parametrize(
    ("length", "template"), [(300, "{track}/{stem}.{ext}"), (240, "{track}" + "x" * 50 + "-{stem}.{ext}")]
)
def test_a_name_that_is_too_long_stops_no_other_input(jaxsep, length, template):
    """One that no file can have, and one of a file whose stems would have one."""
    write_song("a.wav", 0.1)
    long = "y" * length + ".wav"
    if length < 250:
        write_song(long, 0.1)
    result = jaxsep("separate", long, "a.wav", "--filename", template, "--report", "report.json")
    assert result.exit_code == 1
    (sentence,) = [line for line in result.stderr.splitlines() if line.startswith("jaxsep: ")]
    assert long in sentence and "longer than 255 bytes" in sentence
    assert len(files("separated")) == 2
    assert [each["status"] for each in json.loads(Path("report.json").read_text())["files"]] == ["failed", "done"]


@pytest.fixture
def bound(small_model):
    """Runs a command line as a user whom the modes of folders bind."""

    def run(*arguments):
        command = [*bound_by_modes(), SCRIPT, *arguments, *(["-m", small_model] if arguments[0] == "separate" else [])]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture
def locked():
    """Takes the modes of folders and files away, and gives them back when the test ends."""
    taken = []

    def lock(path):
        taken.append((path, os.stat(path).st_mode))
        os.chmod(path, 0)

    yield lock
    for path, mode in taken:
        os.chmod(path, mode)


def test_a_folder_that_cannot_be_read_is_told_and_the_rest_separated(bound, locked):
    write_song("music/a.wav", 0.1)
    write_song("music/locked/b.wav", 0.1)
    locked("music/locked")
    result = bound("separate", "music", "--report", "report.json")
    assert result.returncode == 1
    assert "jaxsep: The folder 'music/locked' cannot be read: Permission denied" in result.stderr
    assert files("separated") == ["a/accompaniment.wav", "a/vocals.wav"]
    found = {each["input"]: each["status"] for each in json.loads(Path("report.json").read_text())["files"]}
    assert found == {"music/a.wav": "done", "music/locked": "failed"}
    result = bound("separate", "music/locked")
    assert result.returncode == 2 and "'music/locked' cannot be read" in result.stderr


def test_links_to_folders_that_are_not_followed_are_told(jaxsep):
    write_song("elsewhere/a.wav", 0.1)
    Path("music").mkdir()
    os.symlink("../elsewhere", "music/album")
    result = jaxsep("separate", "music")
    assert result.exit_code == 2 and "'music/album', which is not followed; name it" in result.stderr
    write_song("music/b.wav", 0.1)
    result = jaxsep("separate", "music")
    assert result.exit_code == 0
    assert "note: " in result.stderr and "'music/album', which is not followed" in result.stderr


@pytest.mark.parametrize("format", ["wav", "mp3", "ogg"])
def test_samples_beyond_full_scale_are_counted_in_every_format(jaxsep, format):
    write_song("song.wav", 0.5, subtype="FLOAT", level=4.0)
    result = jaxsep(
        "separate", "song.wav", "--two-stems", "vocals", "--format", format, "--subtype", "PCM_16",
        "--report", "report.json",
    ) if format == "wav" else jaxsep(
        "separate", "song.wav", "--two-stems", "vocals", "--format", format, "--report", "report.json"
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    stems = json.loads(Path("report.json").read_text())["files"][0]["stems"]
    assert max(stem["peak"] for stem in stems.values()) > 1
    assert all((stem["clipped"] > 0) == (stem["peak"] > 1) for stem in stems.values())
    assert "lie beyond full scale" in result.stderr and "cut to it" in result.stderr


def test_rates_that_flac_does_not_hold_are_refused_before_work(jaxsep):
    write_song("song.wav", 0.1, sample_rate=96001)
    result = jaxsep("separate", "song.wav", "--format", "flac")
    assert result.exit_code == 1 and "steps of 10 Hz only, not 96001" in result.stderr
    result = jaxsep("separate", "song.wav", "--format", "flac", "--sample-rate", "70001")
    assert result.exit_code == 2 and "steps of 10 Hz only, not 70001" in result.stderr
    assert files() == ["song.wav"]


def test_a_tilde_in_an_option_is_the_home_directory(jaxsep, place, monkeypatch):
    monkeypatch.setenv("HOME", str(place / "home"))
    write_song("home/music/song.wav", 0.1)
    Path("home/list").write_text(str(place / "home/music/song.wav"))
    assert jaxsep("separate", "@~/list", "--output=~/stems", "--report=~/report.json", "--quiet").exit_code == 0
    assert files("home") == [
        "list", "music/song.wav", "report.json", "stems/song/accompaniment.wav", "stems/song/vocals.wav",
    ]  # fmt: skip
    assert os.listdir() == ["home"]


def test_a_stem_that_came_to_exist_during_the_run_is_not_replaced(jaxsep, monkeypatch):
    from jaxsep.separation import track

    write_song("song.wav", 0.1)
    before = track.close_together

    def somebody_was_faster(writers):
        Path("separated/song/vocals.wav").write_bytes(b"somebody's")
        before(writers)

    monkeypatch.setattr(track, "close_together", somebody_was_faster)
    result = jaxsep("separate", "song.wav")
    assert result.exit_code == 1 and "vocals.2.wav" in result.stderr
    assert files("separated/song") == ["accompaniment.2.wav", "vocals.2.wav", "vocals.wav"]
    assert Path("separated/song/vocals.wav").read_bytes() == b"somebody's"
    assert jaxsep("separate", "song.wav", "--overwrite", "--quiet").exit_code == 0
    assert len(read("separated/song/vocals.wav")) == 4410
