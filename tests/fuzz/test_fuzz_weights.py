"""Damaged weights of every kind: the very same arrays or one sentence; no crash, hang, or memory out of proportion."""

import json
import pickle
import shutil

import numpy as np
import pytest
import safetensors.numpy
import torch
from fuzz import test_fuzz_audio
from fuzz.mutations import case_count, mutate, run_cases
from weights.bundle_writer import write_bundle
from weights.small_models import small_spec, small_variables

from jaxsep.weights.checkpoint import save_checkpoint

CASES = 60


def arrays():
    rng = np.random.default_rng(0)
    return {f"layer_{index}/kernel": rng.standard_normal((3, 2, index + 1)).astype(np.float32) for index in range(5)}


def make_bundle(folder):
    folder.mkdir()
    write_bundle(folder / "model", arrays(), shards=2)


def make_torch(path, zipped):
    tensors = {name: torch.from_numpy(array) for name, array in arrays().items()}
    torch.save({"state_dict": tensors, "epoch": 3}, path, _use_new_zipfile_serialization=zipped)


def make_checkpoint(path):
    spec = small_spec()
    save_checkpoint(path, spec, small_variables(spec))


# By name: how it is made, how it is read, whether a checksum covers all of it.
KINDS = {
    "tensorflow bundle": (make_bundle, "foreign", True),
    "torch.pth": (lambda path: make_torch(path, True), "foreign", False),
    "legacy.pth": (lambda path: make_torch(path, False), "foreign", False),
    "foreign.safetensors": (lambda path: safetensors.numpy.save_file(arrays(), path), "foreign", False),
    "numpy.pkl": (lambda path: path.write_bytes(pickle.dumps(arrays())), "foreign", False),
    "checkpoint.safetensors": (make_checkpoint, "checkpoint", True),
    "orbax checkpoint": (make_checkpoint, "orbax", True),
    "spec.json": (lambda path: path.write_text(small_spec().model_dump_json()), "spec", False),
}


@pytest.mark.parametrize("name", KINDS)
def test_damaged_weights_are_read_as_they_were_or_refused(tmp_path, name, record_property):
    make, reader, covered = KINDS[name]
    whole = tmp_path / name
    make(whole)
    cases = []
    for seed in range(case_count(CASES)):
        rng = np.random.default_rng([seed, len(name)])
        damaged = tmp_path / str(seed) / name
        damaged.parent.mkdir()
        if whole.is_dir():
            shutil.copytree(whole, damaged)
            what = damage_folder(damaged, rng)
        else:
            content, what = mutate(whole.read_bytes(), rng)
            damaged.write_bytes(content)
        cases.append((f"{name}, seed {seed}, {what}", damaged))
    outcomes = run_cases(reader, cases, whole=whole if covered else None)
    record_property("fuzz", outcomes)
    assert sum(outcomes.values()) == len(cases) + covered
    assert outcomes["refused"] > len(cases) // 4


def test_there_are_a_thousand_cases_at_least():
    assert len(test_fuzz_audio.NAMES) * test_fuzz_audio.CASES + len(KINDS) * CASES >= 1000


def damage_folder(folder, rng):
    """Damages one file, takes one away, swaps two, or makes one a link to nowhere."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = files[rng.integers(len(files))]
    name = path.relative_to(folder)
    if (kind := rng.random()) < 0.7:
        content, what = mutate(path.read_bytes(), rng)
        path.write_bytes(content)
        return f"{what} {name}"
    path.unlink()
    if kind < 0.8:
        return f"without {name}"
    if kind < 0.9:
        path.symlink_to("nowhere")
        return f"{name} a link to nowhere"
    other = files[rng.integers(len(files))]
    if other != path:
        shutil.copyfile(other, path)
    return f"{name} replaced by {other.relative_to(folder)}"


HOSTILE_SPECS = {
    "deep": "[" * 100_000 + "]" * 100_000,
    "deep config": '{"config": ' * 50_000 + "1" + "}" * 50_000,
    "long number": '{"sample_rate": ' + "9" * 100_000 + "}",
    "infinity": '{"bandwidth_hz": Infinity}',
    "nan": '{"bandwidth_hz": NaN}',
    "keys twice": '{"name": "a", "name": "b"}',
    "long names": json.dumps({"name": "x" * 10**6, "stems": ["y" * 10**6]}),
    "many stems": json.dumps({"stems": [str(index) for index in range(10**5)]}),
    "list": "[1, 2]",
    "null": "null",
}


def test_hostile_specs_are_one_sentence(tmp_path):
    cases = []
    for name, text in HOSTILE_SPECS.items():
        cases.append((name, tmp_path / f"{name}.json"))
        cases[-1][1].write_text(text)
    assert run_cases("spec", cases) == {"refused": len(cases)}
