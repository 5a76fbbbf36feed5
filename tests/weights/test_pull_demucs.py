"""Demucs's models pulled from servers on this machine: from the place of the official files, and from the hub."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
import safetensors.torch
import yaml
from parity.demucs_oracle import SMALL, build, official, save
from weights.hub_server import REVISION, HubServer

from jaxsep.errors import CheckpointError
from jaxsep.weights import catalogue, hub
from jaxsep.weights.catalogue import Files, find_entry, list_models
from jaxsep.weights.checkpoint import load_checkpoint
from jaxsep.weights.ensembles import EnsembleCheckpoint
from jaxsep.weights.pretrained import load_pretrained, resolve
from jaxsep.weights.pull import pull

DEMUCS = [entry for entry in list_models() if isinstance(entry.archive, Files)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JAXSEP_OFFLINE", raising=False)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder with two packages, named by their hashes, and a repository of the hub with the same networks."""
    folder = tmp_path_factory.mktemp("published")
    repository = folder / "someone" / "HTDemucs-tiny"
    repository.mkdir(parents=True)
    with official():
        for seed, name in enumerate(("first", "second")):
            klass, arguments = SMALL["htdemucs"]
            network = build(klass, seed=seed, **arguments)
            save(network, folder / f"{name}.th", half=True)
            segment = {"_type": "fraction", "numerator": 6, "denominator": 5}
            kwargs = network._init_args_kwargs[1] | {"segment": segment}
            metadata = {"klass": klass, "args": "[]", "kwargs": json.dumps(kwargs)}
            safetensors.torch.save_file(
                {key: value.half() for key, value in network.state_dict().items()},
                repository / f"{name}.safetensors",
                metadata,
            )
    (repository / "htdemucs_tiny.yaml").write_text(yaml.safe_dump({"models": ["first", "second"]}))
    return folder


def publish(monkeypatch, folder, url, name="htdemucs_ft", **changes):
    """Has the catalogue say that the files of a model are those in the folder."""
    names = tuple(sorted(path.name for path in folder.glob("*.th")))
    entry = find_entry(name)
    archive = dataclasses.replace(entry.archive, url=url, names=names, weights=None, **changes)
    others = tuple(each for each in list_models() if each.name != name)
    monkeypatch.setattr(catalogue, "CATALOGUE", (*others, dataclasses.replace(entry, archive=archive)))
    return names


def test_a_bag_is_fetched_file_by_file_verified_and_becomes_one_model(published, cache, monkeypatch):
    with HubServer(published) as server:
        names = publish(monkeypatch, published, f"{server.url}/")
        announced, progress = [], []
        path = pull("htdemucs_ft", announce=announced.append, progress=lambda *each: progress.append(each))
        assert [asked for _, asked in server.asked] == [f"/{name}" for name in names]
        loaded = load_pretrained("htdemucs_ft")
        assert len(server.asked) == 2
    assert isinstance(loaded, EnsembleCheckpoint) and len(loaded.spec.members) == 2
    assert (loaded.spec.licence, resolve("htdemucs_ft")) == ("MIT", path)
    assert "published by Meta" in loaded.spec.provenance and all(name in loaded.spec.provenance for name in names)
    assert "licence MIT" in announced[0] and progress[-1][0] == sum((published / name).stat().st_size for name in names)
    left = [str(found.relative_to(cache)) for found in cache.rglob("*") if found.is_file()]
    assert sorted(left) == ["downloads/htdemucs_ft.lock", "models/htdemucs_ft.safetensors"]


def test_what_has_another_hash_than_its_name_says_is_not_kept(published, cache, monkeypatch, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for path in published.glob("*.th"):
        (other / path.name).write_bytes(path.read_bytes()[:-1] + b"x")
    with HubServer(other) as server:
        publish(monkeypatch, published, f"{server.url}/")
        with pytest.raises(CheckpointError, match="with which it should begin"):
            pull("htdemucs_ft")
        with pytest.raises(CheckpointError, match="begins with"):
            pull("htdemucs_ft", source=other)
    assert not list(cache.glob("models/*"))


def test_files_from_a_folder_or_a_mirror_are_the_same_model(published, cache, monkeypatch, tmp_path):
    publish(monkeypatch, published, "http://127.0.0.1:9/")
    by_folder = load_pretrained(pull("htdemucs_ft", source=published)).sha256
    with HubServer(published) as server:
        by_mirror = load_pretrained(pull("htdemucs_ft", source=server.url, force=True)).sha256
    assert by_folder == by_mirror
    with pytest.raises(CheckpointError, match="does not hold"):
        pull("htdemucs_ft", source=tmp_path, force=True)
    monkeypatch.setenv("JAXSEP_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="JAXSEP_OFFLINE forbids"):
        pull("htdemucs_ft", force=True)


def test_one_package_becomes_a_plain_model(published, monkeypatch, tmp_path):
    (first,) = published.glob("first-*.th")
    (tmp_path / first.name).write_bytes(first.read_bytes())
    publish(monkeypatch, tmp_path, "http://127.0.0.1:9/", "htdemucs")
    model = load_checkpoint(pull("htdemucs", source=tmp_path / first.name))
    assert (model.spec.family, model.spec.name) == ("htdemucs", "htdemucs")
    # With a segment of the bag's, which the package does not know.
    publish(monkeypatch, tmp_path, "http://127.0.0.1:9/", "htdemucs", segment_seconds=1.0)
    shorter = load_checkpoint(pull("htdemucs", source=tmp_path, force=True))
    assert shorter.spec.procedure.cutting.estimate_length == 8000


PULL = "import sys; from jaxsep.cli.main import main; sys.argv = ['jaxsep', 'models', 'pull', {name!r}]; main()"
NO_LIBRARY = "import sys; sys.modules['huggingface_hub'] = None; "


@pytest.mark.parametrize("library", [True, False])
def test_a_model_of_the_hub_is_pulled_with_and_without_its_library(library, published, cache):
    with HubServer(published) as server:
        environment = {
            **os.environ,
            "HF_ENDPOINT": server.url,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
        }
        program = ("" if library else NO_LIBRARY) + PULL.format(name="hf://someone/htdemucs_tiny")
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "whose page states its licence" in done.stderr
        loaded = load_pretrained("hf://someone/htdemucs_tiny")
        missing = PULL.format(name="hf://someone/htdemucs_none")
        refused = subprocess.run(
            [sys.executable, "-c", ("" if library else NO_LIBRARY) + missing],
            env=environment,
            capture_output=True,
            text=True,
        )
    assert isinstance(loaded, EnsembleCheckpoint) and loaded.spec.name == "htdemucs_tiny"
    assert REVISION in loaded.spec.provenance
    assert refused.returncode != 0 and "Traceback" not in refused.stderr and "HTDemucs-none" in refused.stderr
    assert [path.name for path in (cache / "models").iterdir()] == ["hf=someone=htdemucs_tiny.safetensors"]


def test_names_of_the_hub_are_those_of_demucs():
    with official():
        from demucs.hf import hf_repo_name

        for name in ("htdemucs", "htdemucs_ft", "mdx_extra", "tiny"):
            assert hub.parse_hub_name(f"hf://{name}").repository == f"adefossez/{hf_repo_name(name)}"
    for bad in ("hf://", "hf://a/b/c", "hf:///b", "hf://a b/c"):
        with pytest.raises(CheckpointError, match="no model of the hub"):
            hub.parse_hub_name(bad)


def test_the_catalogue_has_the_official_files_weights_and_segments():
    """Against the lists that come with demucs 4.1.0, and the hashes of version 2 in its source."""
    with official():
        from demucs import pretrained

        remote = pretrained.REMOTE_ROOT
        urls = pretrained._parse_remote_files(remote / "files.txt")
    with official(2):
        from demucs.pretrained import PRETRAINED_MODELS
    checked = 0
    for entry in DEMUCS:
        files = [f"{entry.archive.url}{name}" for name in entry.archive.names]
        if entry.archive.format == "demucs_v2":
            assert files == [
                f"https://dl.fbaipublicfiles.com/demucs/v3.0/{entry.name}-{PRETRAINED_MODELS[entry.name][:8]}.th"
            ]
            checked += 1
            continue
        bag = yaml.safe_load((remote / f"{entry.name}.yaml").read_text())
        assert files == [urls[signature] for signature in bag["models"]]
        assert [list(row) for row in entry.archive.weights or ()] == bag.get("weights", [])
        assert entry.archive.segment_seconds == bag.get("segment")
        checked += 1
    assert checked == 10
