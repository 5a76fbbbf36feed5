"""Files through the Separator: rates, channels, lengths, formats, consistency, clipping, and failures."""

import tracemalloc

import numpy as np
import pytest
import soundfile
from separation.conftest import noise

from jaxsep.audio import AudioWriter
from jaxsep.dsp.cuts import Chunking
from jaxsep.errors import AudioError, ConfigError, JaxsepError, SeparationAborted, SeparationError
from jaxsep.separation.inputs import Input
from jaxsep.separation.outputs import OutputConfig, plan
from jaxsep.separation.separator import Separator
from jaxsep.separation.stream import run_jobs, separate_file


@pytest.fixture
def song(tmp_path):
    """Writes a song and returns its path and what a reader gives."""

    def write(length=10_000, *, sample_rate=44100, channels=2, subtype="PCM_16", name="song.wav", level=1.0):
        path = tmp_path / name
        soundfile.write(path, level * noise(length, channels), sample_rate, subtype=subtype)
        return path, soundfile.read(path, dtype="float32", always_2d=True)[0]

    return write


@pytest.fixture
def run(tmp_path, gains_model):
    """Separates a file by gains and returns the report, and each stem as read back."""

    def separate(path, gains=(0.5, 0.25), *, stems=None, progress=None, **options):
        separator = Separator(gains_model(gains), stems=stems)
        report = separate_file(
            path, tmp_path / "out", separator=separator, config=OutputConfig(**options), progress=progress
        )
        read = {name: soundfile.read(stem.path, dtype="float32", always_2d=True) for name, stem in report.stems.items()}
        assert {rate for _, rate in read.values()} == {report.sample_rate}
        return report, {name: audio for name, (audio, _) in read.items()}

    return separate


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("length", [1, 999, 1000, 44_101])
def test_stems_follow_the_input_sample_for_sample(run, song, channels, subtype, length):
    path, audio = song(length, channels=channels, subtype=subtype)
    report, stems = run(path, (1.0, 0.5))
    step = {"PCM_16": 2.0**-15, "PCM_24": 2.0**-23, "FLOAT": 0.0}[subtype]
    assert report.subtype == soundfile.info(report.stems["stem0"].path).subtype == subtype
    for name, gain in (("stem0", 1.0), ("stem1", 0.5)):
        assert stems[name].shape == audio.shape
        # Cross-fades of an identity cost a few roundings of values below 1; then half a step of the output's format.
        assert np.abs(stems[name] - gain * audio).max() <= step / 2 + 3e-7


@pytest.mark.parametrize("sample_rate", [8000, 22050, 48000, 96000, 192000])
@pytest.mark.parametrize("length", [1, 12_345])
def test_stems_have_the_rate_and_exact_length_of_the_input(run, song, sample_rate, length):
    path, audio = song(length, sample_rate=sample_rate, subtype="FLOAT")
    report, stems = run(path, (1.0, 0.5))
    assert report.sample_rate == sample_rate
    assert {stem.shape for stem in stems.values()} == {audio.shape}


def test_a_tone_comes_back_at_48_khz(run, tmp_path):
    time = np.arange(96_000) / 48_000
    tone = np.repeat(0.5 * np.sin(2 * np.pi * 997 * time)[:, None], 2, axis=1)
    soundfile.write(tmp_path / "tone.wav", tone, 48_000, subtype="FLOAT")
    _, stems = run(tmp_path / "tone.wav", (1.0, 0.5))
    # soxr's HQ filters reject to -120 dB, twice; the ends border on silence.
    assert np.abs(stems["stem0"] - tone)[3000:-3000].max() < 1e-5


@pytest.mark.parametrize(("asked", "expected"), [("model", 44100), (22050, 22050), ("input", 48000)])
def test_the_output_rate_can_be_chosen(run, song, asked, expected):
    path, _ = song(4800, sample_rate=48000)
    report, stems = run(path, sample_rate=asked)
    assert report.sample_rate == expected
    assert len(stems["stem0"]) == -(-4800 * expected // 48000)


@pytest.mark.parametrize("sample_rate", [44100, 48000])
@pytest.mark.parametrize("asked", ["input", "model", 32000])
def test_residual_is_the_mixture_minus_the_stems_written(run, song, sample_rate, asked):
    path, audio = song(30_000, sample_rate=sample_rate, subtype="FLOAT")
    report, stems = run(path, residual=True, stems=["stem1"], sample_rate=asked)
    assert list(stems) == ["stem1", "residual"]
    total = stems["stem1"] + stems["residual"]
    if report.sample_rate == sample_rate:
        np.testing.assert_allclose(total, audio, atol=2e-7)
    else:
        # The same samples as the mixture resampled by itself.
        _, whole = run(path, (0.0, 1.0), residual=True, stems=["stem0"], sample_rate=asked, existing="overwrite")
        np.testing.assert_allclose(total, whole["residual"], atol=1e-6)


@pytest.mark.parametrize("sample_rate", [44100, 48000])
def test_projected_stems_sum_to_the_mixture(run, song, sample_rate):
    path, audio = song(20_000, sample_rate=sample_rate, subtype="FLOAT")
    _, stems = run(path, (0.5, 0.25, -0.1), consistency="project")
    np.testing.assert_allclose(sum(stems.values()), audio, atol=5e-7)
    # 0.65 of the mixture is there, so each stem gets a third of 0.35 more.
    if sample_rate == 44100:
        np.testing.assert_allclose(stems["stem0"], (0.5 + 0.35 / 3) * audio, atol=1e-6)


def test_projection_needs_all_stems_of_the_model_and_leaves_no_residual(run, song):
    path, _ = song(subtype="FLOAT")
    _, stems = run(path, (0.5, 0.25), consistency="project", residual=True)
    assert np.abs(stems["residual"]).max() < 1e-6
    with pytest.raises(ConfigError, match="needs all the model's stems"):
        run(path, (0.5, 0.25), stems=["stem0"], consistency="project", existing="overwrite")


def test_offset_and_duration_select_the_samples(run, song):
    path, audio = song(44_100, subtype="FLOAT")
    report, stems = run(path, (1.0, 0.5), offset_seconds=0.25, duration_seconds=0.5)
    np.testing.assert_allclose(stems["stem0"], audio[11025 : 11025 + 22050], atol=3e-7)
    assert report.duration_seconds == 0.5


def test_clipping_is_left_reported_or_avoided(run, song):
    path, audio = song(5000)
    loud = 3 * audio
    report, stems = run(path, (3.0, 1.0))
    assert report.stems["stem0"].peak == pytest.approx(np.abs(loud).max(), rel=1e-6)
    # All samples whose nearest 16-bit value lies outside of -32768 to 32767.
    steps = np.rint(loud.astype(np.float64) * 32768)
    assert abs(report.stems["stem0"].clipped - ((steps > 32767) | (steps < -32768)).sum()) <= 2
    np.testing.assert_allclose(stems["stem0"], np.clip(loud, -1, 1 - 2**-15), atol=2**-15)

    report, stems = run(path, (3.0, 1.0), clip="rescale", existing="overwrite")
    assert report.gain == pytest.approx((1 - 2**-15) / np.abs(loud).max(), rel=1e-6)
    assert report.stems["stem0"].clipped == 0
    # One gain for all stems: their balance stays.
    np.testing.assert_allclose(stems["stem0"], report.gain * loud, atol=2**-15)
    np.testing.assert_allclose(stems["stem1"], report.gain * audio, atol=2**-15)

    report, stems = run(path, (3.0, 1.0), clip="clamp", subtype="FLOAT", existing="overwrite")
    np.testing.assert_allclose(stems["stem0"], np.clip(loud, -1, 1), atol=1e-6)


def test_rescale_leaves_what_does_not_clip_as_it_is(run, song):
    path, audio = song(5000, subtype="FLOAT")
    report, stems = run(path, (1.0, 0.5), clip="rescale")
    assert report.gain == 1
    np.testing.assert_allclose(stems["stem0"], audio, atol=3e-7)


def test_report_holds_levels_and_timings(run, song):
    path, _ = song(20_000, subtype="FLOAT")
    report, stems = run(path)
    for name, stem in report.stems.items():
        assert stem.frames == 20_000
        assert stem.peak == pytest.approx(np.abs(stems[name]).max(), rel=1e-6)
        assert stem.rms == pytest.approx(np.sqrt(np.mean(stems[name].astype(np.float64) ** 2)), rel=1e-6)
    assert set(report.timings) == {"decode", "compile", "compute", "encode", "total"}
    assert 0 < sum(report.timings.values()) - report.timings["total"] <= report.timings["total"]


def planned(paths, directory, separator):
    return plan([Input.of_file(path) for path in paths], directory, separator.model.spec, OutputConfig())


def leftovers(directory):
    return sorted(path for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize("clip", ["none", "rescale"])
def test_nothing_is_left_behind_when_a_separation_is_stopped(run, song, tmp_path, clip):
    path, _ = song(44_100)
    with pytest.raises(SeparationAborted):
        run(path, clip=clip, progress=lambda progress: progress.done_seconds < 0.5)
    assert leftovers(tmp_path) == [path]


def test_nothing_is_left_behind_when_the_model_fails(run, song, tmp_path):
    path, _ = song(44_100, subtype="FLOAT")
    with pytest.raises(SeparationError, match="not finite"):
        run(path, (1.0, float("inf")))
    assert leftovers(tmp_path) == [path]


def test_no_stem_gets_its_name_when_one_cannot_be_completed(run, song, tmp_path, monkeypatch):
    path, _ = song(5000)
    finish = AudioWriter.finish

    def fail_on_the_second(writer):
        if writer.path.stem == "stem1":
            writer.discard()
            raise AudioError("No space left on device.")
        finish(writer)

    monkeypatch.setattr(AudioWriter, "finish", fail_on_the_second)
    with pytest.raises(AudioError, match="No space left"):
        run(path)
    assert leftovers(tmp_path) == [path]


def test_there_is_no_limit_of_ten_minutes(gains_model, tmp_path):
    """An hour and more, and more frames than ten minutes at 44.1 kHz have."""
    path, seconds = tmp_path / "long.wav", 3601
    soundfile.write(path, np.full((8000 * seconds, 1), 0.25, np.float32), 8000)
    chunking = Chunking(chunk_length=400_000, chunk_hop=390_000, window="crossfade")
    separator = Separator(gains_model((1.0, 0.5), chunking=chunking, sample_rate=8000, channels=1))
    report = separate_file(path, tmp_path / "out", separator=separator)
    assert report.duration_seconds == seconds
    stem, _ = soundfile.read(report.stems["stem0"].path, dtype="float32")
    assert len(stem) == 8000 * seconds
    assert np.abs(stem - 0.25).max() < 1e-4


@pytest.mark.parametrize("residual", [False, True])
def test_an_input_of_six_channels_gives_stems_of_six(run, song, residual):
    path, mixture = song(44_100, channels=6)
    report, stems = run(path, residual=residual)
    assert report.channels == 6
    np.testing.assert_allclose(stems["stem0"], 0.5 * mixture, atol=2**-16)
    if residual:
        np.testing.assert_allclose(stems["residual"], 0.25 * mixture, atol=2**-15)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_files_share_batches_and_fail_alone(gains_model, tmp_path, batch_size):
    """One file in the middle holds NaN, one is no audio, one makes the model fail: the others are all there."""
    lengths = [100, 2500, 700, 1, 5000, 900]
    paths = []
    for number, length in enumerate(lengths):
        paths.append(tmp_path / f"{number}.wav")
        mixture = noise(length, seed=number)
        if number == 1:
            mixture[2000] = np.nan
        soundfile.write(paths[-1], mixture, 44100, subtype="FLOAT")
    paths[2].write_text("no audio")
    separator = Separator(gains_model(), batch_size=batch_size)
    jobs = planned([*paths, tmp_path / "missing.wav"], tmp_path / "out", separator)
    outcomes = list(run_jobs(jobs, separator, OutputConfig()))
    assert [job for job, _ in outcomes] == jobs
    failed = {number for number, (_, outcome) in enumerate(outcomes) if isinstance(outcome, JaxsepError)}
    assert failed == {1, 2, 6}
    assert "0.045351 s" in str(outcomes[1][1])  # sample 2000
    for number in {0, 3, 4, 5}:
        mixture, _ = soundfile.read(paths[number], dtype="float32")
        stem, _ = soundfile.read(outcomes[number][1].stems["stem1"].path, dtype="float32")
        np.testing.assert_allclose(stem, -0.5 * mixture, atol=1e-6)
    written = {path.relative_to(tmp_path / "out").parts[0] for path in leftovers(tmp_path / "out")}
    assert written == {"0", "3", "4", "5"}
    assert not list((tmp_path / "out").rglob("*.part"))


def test_chunks_of_several_files_share_a_batch(gains_model, tmp_path):
    """Six files of one chunk each in batches of four: two calls of the compiled function."""
    paths = [tmp_path / f"{number}.wav" for number in range(6)]
    for path in paths:
        soundfile.write(path, noise(500), 44100)
    separator = Separator(gains_model(), batch_size=4)
    calls = []
    compiled = separator._runner._call
    separator._runner._call = lambda *arguments: calls.append(len(arguments[1])) or compiled(*arguments)
    jobs = planned(paths, tmp_path / "out", separator)
    assert len([outcome for _, outcome in run_jobs(jobs, separator, OutputConfig())]) == 6
    assert calls == [4, 2]


def test_stopping_in_the_middle_of_many_files_leaves_only_complete_ones(gains_model, tmp_path):
    paths = [tmp_path / f"{number}.wav" for number in range(5)]
    for path in paths:
        soundfile.write(path, noise(5000), 44100)
    separator = Separator(gains_model())
    jobs = planned(paths, tmp_path / "out", separator)
    done = []
    with pytest.raises(SeparationAborted):
        for job, _ in run_jobs(jobs, separator, OutputConfig(), progress=lambda job, _: job.mixture.name != "3.wav"):
            done.append(job.mixture.stem)
    assert done == ["0", "1", "2"]
    assert {path.parent.name for path in leftovers(tmp_path / "out")} == {"0", "1", "2"}
    assert len(leftovers(tmp_path / "out")) == 6


def test_memory_does_not_grow_with_the_track(gains_model, tmp_path):
    chunking = Chunking(chunk_length=44_100, chunk_hop=40_000, window="crossfade")
    separator = Separator(gains_model(chunking=chunking))
    held = {}
    for seconds in (20, 200):
        path = tmp_path / f"{seconds}.wav"
        soundfile.write(path, noise(44_100 * seconds), 44_100)
        separate_file(path, tmp_path / "warm", separator=separator, config=OutputConfig(existing="overwrite"))
        tracemalloc.start()
        separate_file(path, tmp_path / "out", separator=separator, config=OutputConfig(residual=True))
        held[seconds] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # A track of 200 s is 70 MB as float32; two megabytes are room for blocks that wait between threads, more or fewer.
    assert held[200] < held[20] + 2_000_000, held
