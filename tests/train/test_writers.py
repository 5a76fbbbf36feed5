"""What a run writes: rows that come back bit for bit, after kill -9 too, and files that TensorBoard reads."""

import io
import json
import signal
import struct
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c
from weights.small_models import small_spec

from jaxsep.errors import JaxsepError
from train.config import RunConfig
from train.validate import Excerpt, Scores
from train.writers import METRICS, TENSORBOARD, MetricsLog, TensorBoardLog, Writers, excerpt_is_due

ROOT = Path(__file__).parents[2]
SCORES = Scores(
    {"a song": {"vocals": 3.0, "other": 1.0}, "another": {"vocals": 5.0, "other": -2.0}},
    {"a song": 0.5, "another": 0.75},
    seconds=7.5,
)


def rows_in(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def config_of(tensorboard, steps=6, **logging):
    data = {"model": small_spec().model_dump(), "data": {"layout": "synthetic"}, "training": {"steps": steps}}
    data |= {"validation": {"every_steps": 3}, "logging": {"tensorboard": tensorboard, **logging}}
    return RunConfig.parse(data, where="the test")


def excerpt(seconds=2.0, channels=2):
    rng = np.random.default_rng(0)
    waveforms = rng.uniform(-0.5, 0.5, (5, round(8000 * seconds), channels)).astype(np.float32)
    return Excerpt("a song", ("vocals", "other"), waveforms[0], waveforms[1:3], waveforms[3:], 8000)


def events_in(folder):
    """Reads TensorBoard's files as TFRecords: length, its checksum, the event, its checksum; these by tensorboardX."""
    events = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = io.BytesIO(path.read_bytes())
        while header := data.read(8):
            (length,) = struct.unpack("<Q", header)
            assert struct.unpack("<I", data.read(4))[0] == masked_crc32c(header)
            event = data.read(length)
            assert struct.unpack("<I", data.read(4))[0] == masked_crc32c(event)
            events.append(Event.FromString(event))
    return events


def values_in(folder):
    return {(value.tag, event.step): value for event in events_in(folder) for value in event.summary.value}


@pytest.mark.parametrize("kind", [np.float32, jnp.float32, lambda bits: float(np.float32(bits))])
def test_float32_numbers_come_back_bit_for_bit(tmp_path, kind):
    numbers = np.random.default_rng(0).integers(0, 2**32, 500, dtype=np.uint32).view(np.float32)
    numbers = numbers[np.isfinite(numbers)]
    log = MetricsLog(tmp_path / METRICS)
    for step, number in enumerate(numbers):
        log.write({"step": step, "loss": kind(number)})
    found = np.array([row["loss"] for row in rows_in(tmp_path / METRICS)], np.float32)
    # XLA on a CPU takes subnormal numbers for zero; nothing else may differ.
    normal = np.abs(numbers) >= np.finfo(np.float32).tiny
    np.testing.assert_array_equal(found[normal].view(np.uint32), numbers[normal].view(np.uint32))


def test_rows_are_json_as_every_reader_knows_it(tmp_path):
    log = MetricsLog(tmp_path / METRICS)
    written = log.write(
        {"step": np.int32(3), "loss": np.float32("nan"), "norm": float("inf"), "stems": {"señor": jnp.float32(0.5)},
         "timing": {"memory": None, "bytes": np.int64(2**40)}, "ok": True}
    )  # fmt: skip
    line = (tmp_path / METRICS).read_bytes()
    assert line.isascii() and line.endswith(b"\n")
    expected = {"step": 3, "loss": None, "norm": None, "stems": {"señor": 0.5}, "timing": {"memory": None, "bytes": 2**40}, "ok": True}  # fmt: skip  # noqa: E501
    assert json.loads(line, parse_constant=pytest.fail) == written == expected


def test_rows_after_the_restored_step_and_an_unfinished_line_are_taken_away_wherever_it_was_cut(tmp_path):
    path = tmp_path / METRICS
    steps = (10, 20, 20, 30)
    for step in steps:
        MetricsLog(path).write({"step": step, "loss": step})
    whole = path.read_bytes()
    ends = np.cumsum([len(line) for line in whole.splitlines(keepends=True)])
    for end in range(len(whole) + 1):
        for after in (15, 30):
            path.write_bytes(whole[:end])
            MetricsLog(path).cut_after(after)
            last = max(
                (stop for stop, step in zip(ends, steps, strict=True) if stop <= end and step <= after), default=0
            )
            assert path.read_bytes() == whole[:last]
    assert [each.name for each in tmp_path.iterdir()] == [METRICS]


def test_a_run_without_rows_yet_has_nothing_to_take_away(tmp_path):
    MetricsLog(tmp_path / METRICS).cut_after(5)
    assert not list(tmp_path.iterdir())


def test_a_process_that_is_killed_loses_no_row_that_it_told(tmp_path):
    """It prints each step once the row is written, and is killed by SIGKILL in the middle of its work."""
    code = (
        "import sys; from pathlib import Path; from train.writers import MetricsLog\n"
        "log = MetricsLog(Path(sys.argv[1]))\n"
        "for step in range(10**9):\n"
        "    log.write({'step': step, 'loss': step / 3, 'filler': 'x' * 5000})\n"
        "    print(step, flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / METRICS], stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        told = -1
        while told < 200:
            told = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        told = max([told, *map(int, process.stdout.read().split())])
    MetricsLog(tmp_path / METRICS).cut_after(told)
    rows = rows_in(tmp_path / METRICS)
    assert [row["step"] for row in rows] == list(range(told + 1))
    assert all(row["loss"] == row["step"] / 3 for row in rows)


def test_a_full_disk_is_one_sentence():
    with pytest.raises(JaxsepError, match=r"^/dev/full cannot be written: No space left on device; .*goes on"):
        MetricsLog(Path("/dev/full")).write({"step": 1})


def test_a_folder_that_is_gone_is_one_sentence(tmp_path):
    with pytest.raises(JaxsepError, match=r"metrics\.jsonl cannot be written: No such file or directory"):
        MetricsLog(tmp_path / "gone" / METRICS).write({"step": 1})


def test_rows_of_steps_and_validations_are_written_and_told(tmp_path):
    told = []
    writers = Writers(tmp_path, config_of(tensorboard=False), after=0, tell=told.append)
    row = {"step": 5, "loss": 0.25, "stems": {"vocals": 0.5}, "timing": {"seconds_per_step": 0.1}}
    writers.write_row(row)
    writers.write_validation(5, 2.5, SCORES, excerpt())
    validation = {
        "step": 5,
        "epoch": 2.5,
        "validation": {"sdr": 1.75, "loss": 0.625, "stems": {"vocals": 4.0, "other": -0.5}, "tracks": SCORES.tracks},
        "timing": {"validation_seconds": 7.5},
    }
    assert rows_in(tmp_path / METRICS) == told == [row, validation]
    assert [each.name for each in tmp_path.iterdir()] == [METRICS]


def test_what_two_runs_compute_alike_they_write_alike_but_for_the_timing(tmp_path):
    for name, seconds in (("one", 1.0), ("two", 2.0)):
        (tmp_path / name).mkdir()
        writers = Writers(tmp_path / name, config_of(tensorboard=False), after=0)
        writers.write_row({"step": 1, "loss": 0.1, "timing": {"seconds_per_step": seconds}})
        writers.write_validation(1, 0.5, Scores(SCORES.tracks, SCORES.losses, seconds), excerpt())
    one, two = (rows_in(tmp_path / name / METRICS) for name in ("one", "two"))
    assert one != two
    for row in (*one, *two):
        del row["timing"]
    assert one == two


def test_tensorboard_has_every_number_of_a_row_but_those_of_single_tracks(tmp_path):
    writers = Writers(tmp_path, config_of(tensorboard=True), after=0)
    timing = {"examples_per_second": 8.0, "loader_wait_seconds": 0.01, "device_memory_bytes": None}
    row = {"step": 5, "loss": 0.25, "stems": {"vocals": 0.5}, "gradient_norm": 3.0, "learning_rate": 1e-4}
    writers.write_row({**row, "timing": timing})
    writers.write_validation(6, 3.0, SCORES, excerpt())
    values = values_in(tmp_path / TENSORBOARD)
    scalars = {place: value.simple_value for place, value in values.items() if value.HasField("simple_value")}
    assert scalars == {
        ("loss", 5): 0.25,
        ("stems/vocals", 5): 0.5,
        ("gradient_norm", 5): 3.0,
        ("learning_rate", 5): float(np.float32(1e-4)),
        ("timing/examples_per_second", 5): 8.0,
        ("timing/loader_wait_seconds", 5): float(np.float32(0.01)),
        ("epoch", 6): 3.0,
        ("validation/sdr", 6): 1.75,
        ("validation/loss", 6): 0.625,
        ("validation/stems/vocals", 6): 4.0,
        ("validation/stems/other", 6): -0.5,
        ("timing/validation_seconds", 6): 7.5,
    }


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_tensorboard_has_the_excerpt_to_hear_and_to_see(tmp_path, channels):
    log = TensorBoardLog(tmp_path, after=0)
    told = excerpt(channels=channels)
    log.write_excerpt(7, told)
    values = values_in(tmp_path)
    names = ["mixture", "vocals/true", "vocals/estimate", "other/true", "other/estimate"]
    sounds = [told.mixture, told.sources[0], told.estimates[0], told.sources[1], told.estimates[1]]
    assert {place for place, value in values.items() if value.HasField("image")} == {
        (f"excerpt/picture/{name}", 7) for name in names
    }
    for name, sound in zip(names, sounds, strict=True):
        audio = values[f"excerpt/sound/{name}", 7].audio
        found, rate = soundfile.read(io.BytesIO(audio.encoded_audio_string), always_2d=True)
        # 16 bits; TensorBoard plays one channel or two.
        np.testing.assert_allclose(found, sound if channels < 3 else sound.mean(axis=1, keepdims=True), atol=2**-15)
        assert rate == 8000
        image = values[f"excerpt/picture/{name}", 7].image
        assert (image.height, image.width) == (513, 1 + (16000 - 1024) // 256)
        assert image.encoded_image_string.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("logging", "steps", "due"),
    [
        ({}, 9, [3, 6, 9]),
        ({"excerpts": 0}, 9, []),
        ({"excerpts": 1}, 9, [9]),
        ({"excerpts": 2}, 10, [6, 10]),  # of those after 3, 6, 9 and 10 steps
        ({"excerpts": 4}, 30, [3, 12, 21, 30]),  # of ten
        ({"excerpt_every": 2}, 18, [6, 12, 18]),
        ({"excerpt_every": 2, "excerpts": 2}, 18, [9, 18]),
    ],
)
def test_excerpts_are_spread_over_the_run_and_no_more_than_asked_for(tmp_path, logging, steps, due):
    writers = Writers(tmp_path, config_of(tensorboard=True, steps=steps, **logging), after=0)
    for step in [*range(3, steps, 3), steps]:
        writers.write_validation(step, 1.0, SCORES, excerpt(seconds=0.1))
    values = values_in(tmp_path / TENSORBOARD)
    assert sorted(step for tag, step in values if tag == "excerpt/sound/mixture") == due
    assert sorted(step for tag, step in values if tag == "validation/sdr") == [*range(3, steps, 3), steps]


def test_a_hundred_thousand_steps_leave_as_much_in_tensorboard_as_a_thousand():
    """Of M4's recipe, 500 validations at 5 sounds of 6 s each were 2.6 GB."""
    counts = []
    for steps in (999, 99_999):
        config = config_of(tensorboard=True, steps=steps)
        counts.append(sum(excerpt_is_due(step, config) for step in range(3, steps + 3, 3)))
    assert max(counts) <= 20 and min(counts) > 15


def test_sounds_beyond_full_scale_are_clipped_without_a_word(tmp_path, capsys):
    log = TensorBoardLog(tmp_path, after=0)
    loud = excerpt()
    log.write_excerpt(1, Excerpt("a song", (), 4 * loud.mixture, loud.sources[:0], loud.estimates[:0], 8000))
    audio = values_in(tmp_path)["excerpt/sound/mixture", 1].audio
    found, _ = soundfile.read(io.BytesIO(audio.encoded_audio_string))
    np.testing.assert_allclose(found, np.clip(4 * loud.mixture, -1, 1), atol=2**-15)
    assert capsys.readouterr() == ("", "")


def test_a_run_that_goes_on_has_tensorboard_hide_later_steps(tmp_path):
    """TensorBoard drops what earlier files hold from the step on at which a session starts."""
    for after, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        log = TensorBoardLog(tmp_path, after=after)
        for step in steps:
            log.write({"step": step, "loss": float(step)})
    assert len(list(tmp_path.iterdir())) == 2
    events = events_in(tmp_path)
    assert [event.step for event in events if event.session_log.status == SessionLog.START] == [1, 3]
    assert [event.file_version for event in events if event.file_version] == ["brain.Event:2"] * 2


def test_a_disk_that_fills_up_under_tensorboard_ends_the_run_too(tmp_path):
    log = TensorBoardLog(tmp_path, after=0)
    (file,) = tmp_path.iterdir()
    file.unlink()
    file.symlink_to("/dev/full")
    with pytest.raises(JaxsepError, match=r"tfevents.* cannot be written: No space left on device"):
        log.write({"step": 1, "loss": 0.5})


def test_without_tensorboardx_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX.proto.event_pb2", None)
    with pytest.raises(JaxsepError, match=r"needs tensorboardX, which is not installed: pip install 'jaxsep\[train\]'"):
        Writers(tmp_path, config_of(tensorboard=True), after=0)
    Writers(tmp_path, config_of(tensorboard=False), after=0)


def test_other_processes_than_the_first_write_and_tell_nothing(tmp_path, monkeypatch):
    (tmp_path / METRICS).write_text('{"step": 9}\n')
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    writers = Writers(tmp_path, config_of(tensorboard=True), after=0, tell=pytest.fail)
    writers.write_row({"step": 5, "loss": 0.25})
    writers.write_validation(5, 2.5, SCORES, excerpt())
    assert [each.name for each in tmp_path.iterdir()] == [METRICS]
    assert (tmp_path / METRICS).read_text() == '{"step": 9}\n'


def test_going_on_takes_away_what_was_written_after_the_last_checkpoint(tmp_path):
    writers = Writers(tmp_path, config_of(tensorboard=False), after=0)
    for step in (1, 2, 3):
        writers.write_row({"step": step})
    writers = Writers(tmp_path, config_of(tensorboard=False), after=2)
    writers.write_row({"step": 3, "again": True})
    assert rows_in(tmp_path / METRICS) == [{"step": 1}, {"step": 2}, {"step": 3, "again": True}]
