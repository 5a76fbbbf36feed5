"""Programs kept on disk: found again for what they were made from and nothing else, and not run where damaged."""

import hashlib
import os
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from separation.conftest import noise
from weights.small_models import small_spec

from jaxsep.dsp.wiener import NORBERT
from jaxsep.models import FAMILIES, classic_unet, jansson, unet, wave_unet, wave_unet_resampled
from jaxsep.models.unet import UNet
from jaxsep.separation import programs
from jaxsep.separation.batches import BatchRunner, Program
from jaxsep.separation.programs import ProgramStore
from jaxsep.separation.separator import Model, Separator

DEVICE = jax.devices("cpu")[0]


pytestmark = pytest.mark.usefixtures("settings_taken_back")


@pytest.fixture
def counted(monkeypatch):
    """Which programs were read and which compiled, in order, as JAX's monitoring is told."""
    events = []
    monkeypatch.setattr(jax.monitoring, "record_event", lambda event, **_: events.append(event.rpartition("/")[2]))
    return events


def double(factor, batch):
    return {"doubled": factor * batch, "sum": batch.sum(axis=1)}


def run(store, name="double", *, size=1, length=3):
    program = Program(double, device=DEVICE, programs=store, name=name)
    runner = BatchRunner(program, device=DEVICE, batch_size=size)
    ((_, outputs),) = runner.run(jnp.float32(2), [np.arange(length, dtype=np.float32)])
    np.testing.assert_array_equal(outputs["doubled"], 2 * np.arange(length))
    assert outputs["sum"] == np.arange(length).sum()


def kept(directory):
    return sorted(directory.glob("*.program"))


def test_a_program_is_found_by_another_store(tmp_path, counted):
    run(ProgramStore(tmp_path))
    run(ProgramStore(tmp_path))
    assert counted == ["misses", "hits"] and len(kept(tmp_path)) == 1


IN_A_PROCESS = """
import pathlib, sys
import jax
from separation.test_programs import ProgramStore, run
jax.monitoring.register_event_listener(lambda event, **_: print(event) if "programs" in event else None)
run(ProgramStore(pathlib.Path(sys.argv[1])))
"""


def test_a_program_is_found_by_another_process(tmp_path):
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-c", IN_A_PROCESS, str(tmp_path)]
    told = [subprocess.run(command, cwd=tests, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert [line.split() for line in told] == [[programs.MISS_EVENT], [programs.HIT_EVENT]]


def test_each_name_shape_and_batch_size_has_its_own(tmp_path, counted):
    store = ProgramStore(tmp_path)
    for options in [{}, {"name": "other"}, {"size": 2}, {"length": 4}]:
        run(store, **options)
    assert counted == ["misses"] * 4 and len(kept(tmp_path)) == 4


@pytest.mark.parametrize("changed", ["source", "flags", "settings", "version"])
def test_what_it_was_made_with_is_part_of_it(tmp_path, counted, monkeypatch, changed):
    with jax.default_matmul_precision("default"):
        run(ProgramStore(tmp_path))
    precision = "default"
    if changed == "source":
        monkeypatch.setattr(programs, "_source_digest", lambda: "of another version")
    elif changed == "flags":
        monkeypatch.setenv("XLA_FLAGS_OF_A_TEST", "1")
    elif changed == "settings":
        precision = "highest"
    else:
        monkeypatch.setattr(programs.metadata, "version", lambda package: "0.0.0")
    with jax.default_matmul_precision(precision):
        run(ProgramStore(tmp_path))
    assert counted == ["misses", "misses"]


def test_the_source_is_all_of_jaxsep(tmp_path, monkeypatch):
    for name in ("separation/programs.py", "models/unet.py", "version.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("a = 1\n")
    monkeypatch.setattr(programs, "__file__", str(tmp_path / "separation/programs.py"))
    digests = [programs._source_digest.__wrapped__()]
    for name in ("models/unet.py", "version.py"):
        (tmp_path / name).write_text("a = 2\n")
        digests.append(programs._source_digest.__wrapped__())
    (tmp_path / "version.py").rename(tmp_path / "models/version.py")
    digests.append(programs._source_digest.__wrapped__())
    assert len(set(digests)) == 4


@pytest.mark.parametrize("damage", ["a bit", "the end", "everything", "another pickle"])
def test_a_damaged_program_is_compiled_anew_and_kept_whole(tmp_path, counted, caplog, damage):
    run(ProgramStore(tmp_path))
    (path,) = kept(tmp_path)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    if damage == "a bit":
        damaged[len(whole) // 2] ^= 1
    elif damage == "the end":
        del damaged[-100:]
    elif damage == "everything":
        damaged.clear()
    else:  # whole by its digest, and no program: that of another version of JAX, say
        content = pickle.dumps((b"", None, None))
        damaged = bytearray(hashlib.sha256(content).digest() + content)
    path.write_bytes(damaged)
    run(ProgramStore(tmp_path))
    run(ProgramStore(tmp_path))
    assert counted == ["misses", "misses", "hits"]
    assert ("is compiled anew" in caplog.text) == (damage == "another pickle")


def test_a_program_that_jax_cannot_keep_is_told_of(tmp_path, counted, caplog, monkeypatch):
    def refuse(_):
        raise ValueError("Compilation does not support serialization")

    monkeypatch.setattr(programs.serialize_executable, "serialize", refuse)
    run(ProgramStore(tmp_path))
    assert counted == ["misses"] and list(tmp_path.iterdir()) == []
    assert "does not support serialization" in caplog.text


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="there are no such modes")
@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_directory_that_others_can_write_to_is_not_used(tmp_path, counted, mode):
    run(ProgramStore(tmp_path))
    tmp_path.chmod(mode)
    before = [(path, path.stat().st_mtime_ns) for path in kept(tmp_path)]
    run(ProgramStore(tmp_path))
    run(ProgramStore(tmp_path), name="other")
    assert [(path, path.stat().st_mtime_ns) for path in kept(tmp_path)] == before
    assert counted == ["misses"]


def test_a_directory_of_its_own_is_for_this_user_alone(tmp_path):
    directory = tmp_path / "cache" / "programs"
    run(ProgramStore(directory))
    (path,) = kept(directory)
    if hasattr(os, "getuid"):
        assert directory.stat().st_mode & 0o777 == 0o700
        assert path.stat().st_mode & 0o777 == 0o600
    assert list(directory.iterdir()) == [path]


def test_without_a_directory_programs_are_compiled(tmp_path, counted):
    (tmp_path / "file").touch()
    run(ProgramStore(tmp_path / "file" / "programs"))
    assert counted == []


def test_what_cannot_be_written_is_done_without(tmp_path, counted, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(programs.os, "replace", full)
    store = ProgramStore(tmp_path)
    run(store)
    run(store)
    assert counted == ["misses", "misses"]
    assert list(tmp_path.iterdir()) == []


def test_where_jax_keeps_programs_they_are_its_own_matter(tmp_path, counted):
    """What JAX reads from its cache would be kept without its functions, and fail when it runs."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "jax"))
    run(ProgramStore(tmp_path / "ours"))
    assert kept(tmp_path / "ours") == []


def test_those_used_last_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "_KEPT", 2)
    store = ProgramStore(tmp_path)
    made = {}
    for place, name in enumerate(("first", "second")):
        run(store, name)
        (made[name],) = set(kept(tmp_path)) - set(made.values())
        os.utime(made[name], (place, place))
    run(ProgramStore(tmp_path), "first")  # used, so that the second is the one that was not for longest
    run(store, "third")
    assert made["first"].exists() and not made["second"].exists()
    assert len(kept(tmp_path)) == 2


@pytest.mark.parametrize("wiener", [None, NORBERT], ids=["masks", "wiener"])
def test_a_separator_gives_the_same_samples_with_programs_from_disk(tmp_path, counted, wiener):
    """Bit for bit, as the program is the same; one for each pass."""
    spec = small_spec()
    module = UNet(spec.config, form="native")
    variables = jax.jit(partial(module.init, train=False))(jax.random.key(0), jnp.zeros((1, 8, 16, 2)))
    model = Model(module, variables, spec, "0" * 64)
    mixture = noise(4000)
    expected = Separator(model, filter=wiener or "auto").separate(mixture, spec.sample_rate)
    for _ in range(2):
        separator = Separator(model, filter=wiener or "auto", programs=ProgramStore(tmp_path))
        separation = separator.separate(mixture, spec.sample_rate)
        for stem, waveform in expected.stems.items():
            np.testing.assert_array_equal(separation.stems[stem], waveform)
    count = separator.passes
    assert counted == ["misses"] * count + ["hits"] * count


def test_models_do_not_share_programs(tmp_path, counted, gains_model):
    mixture = noise(2000)
    for gains in [(1.0, -0.5), (0.25, 2.0)]:
        separator = Separator(gains_model(gains), programs=ProgramStore(tmp_path))
        separation = separator.separate(mixture, 44100)
        # The triangular windows of overlapping chunks add up to one within rounding.
        np.testing.assert_allclose(separation.stems["stem1"], gains[1] * mixture, atol=1e-5)
    only = Separator(gains_model((1.0, -0.5)), stems=["stem1"], programs=ProgramStore(tmp_path))
    np.testing.assert_allclose(only.separate(mixture, 44100).stems["stem1"], -0.5 * mixture, atol=1e-5)
    assert counted == ["misses"] * 3


@pytest.mark.parametrize("file", [unet, jansson, classic_unet, wave_unet, wave_unet_resampled])
def test_what_names_a_program_says_all_of_a_network_and_nothing_of_the_process(file):
    """An address in memory would make another name in each run, and an attribute left out one name for two networks."""
    family = next(family for family in FAMILIES.values() if family.module.__module__ == file.__name__)
    described = [repr(family.module(config)) for config in file.PRESETS.values()]
    assert not any(" at 0x" in text for text in described)
    assert len(set(described)) == len(set(file.PRESETS.values()))
    assert repr(family.module(config := next(iter(file.PRESETS.values())), form="native")) not in described
    assert repr(family.module(config, dtype=jnp.bfloat16)) not in described
