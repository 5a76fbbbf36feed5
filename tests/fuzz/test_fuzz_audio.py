"""Damaged audio files of every kind: audio or one sentence, never a crash, a hang, or memory out of proportion."""

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fuzz.mutations import case_count, mutate, run_cases

sys.path.append(str(Path(__file__).parents[1] / "audio"))
from audio_files import encode, tones

CASES = 100
NAMES = ("pcm.wav", "float.wav", "deep.flac", "vorbis.ogg", "lame.mp3", "aac.mp4", "alac.m4a")
# What the layouts of channels, sizes in headers, and tags around the audio are read from.
NAMES += ("surround.ogg", "deep.aiff", "behind-a-tag.wav", "between-tags.mp3")
NAMES += ("sized.w64", "sized.caf", "sized.au", "g721.wav")
ID3 = b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128)
APE = b"APETAGEX" + (2000).to_bytes(4, "little") + (32).to_bytes(4, "little") + bytes(16)


def whole(directory):
    """One small file of each kind."""
    audio = tones(6000)
    made = {}
    for name, subtype in (
        ("pcm.wav", "PCM_16"), ("float.wav", "FLOAT"), ("deep.flac", "PCM_24"), ("vorbis.ogg", "VORBIS"),
        ("lame.mp3", "MPEG_LAYER_III"),
    ):  # fmt: skip
        made[name] = directory / name
        soundfile.write(made[name], audio, 44100, subtype=subtype)
    made["surround.ogg"], made["deep.aiff"] = directory / "surround.ogg", directory / "deep.aiff"
    soundfile.write(made["surround.ogg"], tones(6000, channels=6), 44100)
    soundfile.write(made["deep.aiff"], audio, 44100, subtype="PCM_24")
    for name, subtype in (
        ("sized.w64", "PCM_16"),
        ("sized.caf", "PCM_16"),
        ("sized.au", "ULAW"),
        ("g721.wav", "G721_32"),
    ):
        made[name] = directory / name
        soundfile.write(made[name], audio[:, :1] if name == "g721.wav" else audio, 8000, subtype=subtype)
    for name, content in (
        ("behind-a-tag.wav", ID3 + made["pcm.wav"].read_bytes()),
        ("between-tags.mp3", ID3 + made["lame.mp3"].read_bytes() + APE + b"TAG" + bytes(125)),
    ):
        made[name] = directory / name
        made[name].write_bytes(content)
    made["aac.mp4"] = encode(directory / "aac.mp4", "aac", audio)
    made["alac.m4a"] = encode(directory / "alac.m4a", "alac", (audio * 2**15).astype(np.int16))
    return made


@pytest.mark.parametrize("name", NAMES)
def test_damaged_audio_is_read_or_refused(tmp_path, name, record_property):
    path = whole(tmp_path)[name]
    data = path.read_bytes()
    cases = []
    for seed in range(case_count(CASES)):
        damaged, what = mutate(data, np.random.default_rng([seed, len(name)]))
        cases.append((f"{name}, seed {seed}, {what}", tmp_path / f"{seed}{path.suffix}"))
        cases[-1][1].write_bytes(damaged)
    outcomes = run_cases("audio", cases)
    record_property("fuzz", outcomes)
    assert sum(outcomes.values()) == len(cases)
    # Damage that never or always shows would not be worth much.
    assert outcomes.get("result", 0) > 0 and outcomes.get("refused", 0) > 0
