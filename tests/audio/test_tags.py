"""Tags read from and written to every container, with FFmpeg and libsndfile as oracles; bad ones never in the way."""

import av
import numpy as np
import pytest
import soundfile
from audio_files import tones

from jaxsep.audio import SUBTYPES, AudioReader, AudioWriter
from jaxsep.audio.tags import clean_tags

SONG = {
    "title": "Señorita ♪",
    "artist": "Ünïcode & Sons",
    "album": "A; B, C",
    "date": "2001",
    "genre": "Rock",
    "tracknumber": "3",
    "comment": "no comment",
}


def written(path, tags, format="wav"):
    with AudioWriter(
        path, sample_rate=44100, channels=2, format=format, subtype=SUBTYPES[format][0], tags=tags
    ) as writer:
        writer.write(tones(4410))
    return path


@pytest.mark.parametrize("format", SUBTYPES)
def test_ffmpeg_finds_the_tags_that_were_written(tmp_path, format):
    path = written(tmp_path / f"song.{format}", SONG, format)
    with av.open(str(path)) as container:
        found = {name.lower(): value for name, value in container.metadata.items()}
        found |= {name.lower(): value for name, value in container.streams[0].metadata.items()}
    found["tracknumber"] = found.pop("track")
    assert {name: found[name] for name in SONG} == SONG
    assert soundfile.info(path).frames == 4410


@pytest.mark.parametrize(
    ("name", "codec"), [("song.m4a", "aac"), ("song.mp3", "mp3"), ("song.flac", "flac"), ("song.opus", "libopus")]
)
def test_tags_that_ffmpeg_wrote_are_found(tmp_path, name, codec):
    with av.open(str(tmp_path / name), "w") as container:
        container.metadata.update({"track" if key == "tracknumber" else key: text for key, text in SONG.items()})
        stream = container.add_stream(codec, rate=48000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 48000), np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 48000
        converter = av.AudioResampler(
            format=stream.format.name, layout="stereo", rate=48000, frame_size=stream.codec_context.frame_size or None
        )
        for converted in (*converter.resample(frame), *converter.resample(None)):
            container.mux(stream.encode(converted))
        container.mux(stream.encode(None))
    # FFmpeg writes the comment of flac as DESCRIPTION, which libsndfile does not look at.
    expected = {key: text for key, text in SONG.items() if (codec, key) != ("flac", "comment")}
    with AudioReader(tmp_path / name) as reader:
        assert reader.tags == expected


def test_tags_that_libsndfile_wrote_are_found(tmp_path):
    with soundfile.SoundFile(tmp_path / "song.wav", "w", 44100, 1) as file:
        for name, text in SONG.items():
            setattr(file, name, text)
        file.write(np.zeros(10))
    with AudioReader(tmp_path / "song.wav") as reader:
        assert reader.tags == SONG


@pytest.mark.parametrize("format", SUBTYPES)
@pytest.mark.parametrize(
    "tags",
    [
        {"title": "x" * 100_000},
        {name: "ä" * 1000 for name in SONG},
        {"title": "a\0b", "artist": "\ud800", "album": "\x1b[31mred", "unknown": "x", "date": ""},
    ],
    ids=["huge", "all long", "no text"],
)
def test_bad_tags_do_not_stand_in_the_way(tmp_path, format, tags):
    path = written(tmp_path / f"song.{format}", tags, format)
    with AudioReader(path) as reader:
        assert sum(len(block) for block in reader.blocks(1000)) == 4410
        assert reader.tags.items() <= clean_tags(tags).items()


@pytest.mark.parametrize("format", ["wav", "flac"])
def test_the_same_tags_give_the_same_bytes(tmp_path, format):
    first = written(tmp_path / f"a.{format}", SONG, format).read_bytes()
    assert written(tmp_path / f"b.{format}", SONG, format).read_bytes() == first


def test_names_are_those_of_one_set_and_only_text_is_kept():
    found = clean_tags({"TITLE": " a\n", "Track": "7", "encoder": "Lavf", "artist": "b\ufffd", "genre": "\0"})
    assert found == {"title": "a", "tracknumber": "7"}
