"""Where models are found by name and path, and what the bundled file is."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from weights.small_models import assert_same_variables, small_spec, small_variables

from jaxsep.environment import cache_directory, is_offline
from jaxsep.errors import CheckpointError
from jaxsep.weights import checkpoint as checkpoint_module
from jaxsep.weights import pretrained
from jaxsep.weights.checkpoint import load_checkpoint, save_checkpoint
from jaxsep.weights.pretrained import is_present, list_models, load_pretrained, resolve


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def entry(name):
    return next(entry for entry in list_models() if entry.name == name)


def test_the_bundled_file_is_what_the_catalogue_says():
    said = entry("spleeter-2stems")
    checkpoint = load_pretrained("spleeter-2stems")
    spec = checkpoint.spec
    assert said.bundled and is_present(said.name)
    assert checkpoint.sha256 == said.sha256
    assert (spec.name, spec.family, spec.stems) == (said.name, said.family, said.stems)
    assert (spec.sample_rate, spec.bandwidth_hz, spec.licence) == (said.sample_rate, said.bandwidth_hz, said.licence)
    assert "Deezer" in spec.provenance


def test_bundled_files_are_known_to_fit_so_that_no_model_is_traced_to_find_out(monkeypatch):
    path = resolve("spleeter-2stems")
    load_checkpoint(path)  # compared leaf for leaf, here
    assert entry("spleeter-2stems").spec_sha256 is not None

    def traced(spec):
        raise CheckpointError("the model was traced")

    monkeypatch.setattr(checkpoint_module, "expected_shapes", traced)
    load_pretrained("spleeter-2stems")
    with pytest.raises(CheckpointError, match="traced"):
        load_checkpoint(path)


def test_every_bundled_model_has_its_file_and_every_file_its_entry():
    folder = Path(pretrained.__file__).parent / "data"
    assert {file.stem for file in folder.glob("*.safetensors")} == {said.name for said in list_models() if said.bundled}


def test_the_notice_carries_the_hashes_of_the_bundled_file():
    notice = (Path(__file__).parents[2] / "NOTICE").read_text()
    said = entry("spleeter-2stems")
    assert said.sha256 in notice
    assert hashlib.sha256(resolve(said.name).read_bytes()).hexdigest() in notice
    assert "Copyright (c) 2019-present, Deezer SA." in notice


def test_the_catalogue_imports_neither_jax_nor_flax():
    program = (
        "import sys; from jaxsep.weights.pretrained import list_models, resolve; "
        "list_models(); resolve('spleeter-2stems'); "
        "print([name for name in ('jax', 'flax', 'orbax', 'numpy') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_unknown_names_get_the_nearest_ones(cache):
    with pytest.raises(CheckpointError, match="Did you mean 'spleeter-2stems'"):
        resolve("spleter-2stems")
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*nothing\.safetensors"):
        resolve("nothing.safetensors")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        resolve(cache / "nothing")


@pytest.mark.parametrize("name", ["model.safetensors", "run"])
def test_paths_of_files_and_folders_load(tmp_path, name, monkeypatch):
    spec = small_spec()
    variables = small_variables(spec)
    save_checkpoint(tmp_path / name, spec, variables)
    assert resolve(tmp_path / name) == tmp_path / name
    assert_same_variables(load_pretrained(str(tmp_path / name)).variables, variables)
    monkeypatch.chdir(tmp_path)
    assert_same_variables(load_pretrained(name).variables, variables)


def test_a_file_in_the_cache_has_a_name(cache):
    spec = small_spec()
    save_checkpoint(cache / "models" / "mine.safetensors", spec, small_variables(spec))
    assert resolve("mine") == cache / "models" / "mine.safetensors"
    assert load_pretrained("mine").spec == spec
    assert is_present("mine")
    with pytest.raises(CheckpointError, match="Did you mean 'mine'"):
        resolve("mien")


def test_a_name_of_the_catalogue_is_not_taken_by_a_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "spleeter-2stems").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("spleeter-2stems").suffix == ".safetensors"


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    assert cache_directory() == tmp_path / "cache"
    monkeypatch.delenv("JAXSEP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "jaxsep"
    # Of the XDG specification: unset, empty and relative all mean the default.
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for without in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", without)
        assert cache_directory() == tmp_path / "home" / ".cache" / "jaxsep"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == tmp_path / "home" / ".cache" / "jaxsep"


@pytest.mark.parametrize(
    ("value", "expected"), [("1", True), ("yes", True), ("0", False), ("False", False), ("", False)]
)
def test_offline_is_said_by_the_environment(monkeypatch, value, expected):
    monkeypatch.setenv("JAXSEP_OFFLINE", value)
    assert is_offline() is expected
    monkeypatch.delenv("JAXSEP_OFFLINE")
    assert not is_offline()
