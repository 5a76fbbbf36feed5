"""Packages and bags of Demucs: what they become, what is refused in one sentence, and all of it without PyTorch."""

import copy
import json
import os
import subprocess
import sys
import zipfile
from collections import OrderedDict
from fractions import Fraction

import numpy as np
import pytest
import safetensors.numpy
import torch
import yaml
from parity.demucs_oracle import SMALL, STEMS, build, official, save

from jaxsep.errors import CheckpointError, ConfigError
from jaxsep.models.spec import ModelSpec
from jaxsep.weights.checkpoint import load_checkpoint
from jaxsep.weights.convert import convert
from jaxsep.weights.demucs import demucs_spec
from jaxsep.weights.ensembles import EnsembleCheckpoint
from jaxsep.weights.torch_file import GlobalName, load_torch_file


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A package of each kind that version 4 has, by its name."""
    folder = tmp_path_factory.mktemp("packages")
    with official():
        return {
            name: save(build(SMALL[name][0], **SMALL[name][1]), folder / f"{name}.th", half=True)
            for name in ("htdemucs", "hdemucs", "demucs_v3")
        }


def test_a_package_is_read_without_running_anything_as_torch_reads_it(packages):
    for path in packages.values():
        found = load_torch_file(path)
        with official():
            expected = torch.load(path, weights_only=False)
        klass = expected["klass"]
        assert isinstance(found["klass"], GlobalName) and str(found["klass"]) == f"{klass.__module__}.{klass.__name__}"
        assert {key: found[key] for key in ("args", "kwargs", "training_args")} == {
            key: expected[key] for key in ("args", "kwargs", "training_args")
        }
        assert found["state"].keys() == expected["state"].keys()
        for key, tensor in expected["state"].items():
            assert found["state"][key].dtype == np.float16
            np.testing.assert_array_equal(found["state"][key], tensor.numpy())


def test_tensors_that_are_parts_of_others_come_back_as_torch_reads_them(tmp_path):
    whole = torch.arange(24.0).reshape(4, 6)
    content = OrderedDict(
        turned=whole.T,
        part=whole[1:3, 2:5],
        steps=whole[:, ::2],
        empty=torch.zeros(0, 3),
        scalar=torch.tensor(2.5, dtype=torch.float64),
        half=whole.to(torch.bfloat16)[1],
        parameter=torch.nn.Parameter(whole[0]),
        flags=torch.tensor([True, False]),
        complex=torch.tensor([1 + 2j]),
        shape=whole.shape,
        share=Fraction(39, 5),
    )
    for zipped in (True, False):
        torch.save(content, tmp_path / "tensors.pt", _use_new_zipfile_serialization=zipped)
        found = load_torch_file(tmp_path / "tensors.pt")
        assert (found.pop("shape"), found.pop("share")) == ((4, 6), Fraction(39, 5))
        for name, array in found.items():
            expected = content[name].detach()
            expected = expected.float() if expected.dtype == torch.bfloat16 else expected
            assert (array.shape, array.dtype) == (tuple(expected.shape), expected.numpy().dtype)
            np.testing.assert_array_equal(array, expected.numpy())


def test_a_package_converts_where_there_is_no_pytorch(packages, tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('there is no PyTorch here')\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "jaxsep", "convert", packages["hdemucs"], "--family", "demucs"]
    done = subprocess.run([*command, "-o", tmp_path / "m.safetensors"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert load_checkpoint(tmp_path / "m.safetensors").spec.family == "hdemucs"


def test_float16_may_be_kept_and_is_float32_otherwise(packages, tmp_path):
    kept = convert(packages["hdemucs"], output=tmp_path / "kept.safetensors", family="demucs", dtype="float16")
    wide = convert(packages["hdemucs"], output=tmp_path / "wide.safetensors", family="demucs")
    as_it_is = convert(packages["hdemucs"], output=tmp_path / "same.safetensors", family="demucs", dtype=None)
    stored = {}
    for name in ("kept", "wide", "same"):
        with safetensors.safe_open(tmp_path / f"{name}.safetensors", framework="numpy") as file:
            stored[name] = {file.get_tensor(key).dtype.name for key in file.keys()}
    assert stored == {"kept": {"float16"}, "wide": {"float32"}, "same": {"float16"}}
    for checkpoint in (kept, wide, as_it_is):
        assert checkpoint.variables["params"]["freq_emb"]["embedding"].dtype == np.float32


def test_content_that_unfolds_without_end_is_refused_at_once(tmp_path):
    """Lists that hold one list twice, again and again: 2**40 values in 400 bytes; and YAML that does the same."""
    folded = [0]
    for _ in range(40):
        folded = [folded, folded]
    torch.save({"klass": folded, "args": (), "kwargs": {}, "state": {}}, tmp_path / "folded.th")
    with pytest.raises(CheckpointError, match="unfold without end"):
        load_torch_file(tmp_path / "folded.th")
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)), "models: *a39"]
    (tmp_path / "bag.yaml").write_text("\n".join(lines))
    refuses("aliases are not read", tmp_path / "bag.yaml", tmp_path)


def test_parts_of_a_file_that_lie_in_each_other_are_refused(tmp_path):
    """A central directory that lists one part under many names: each would be read, and fill memory, by itself."""
    torch.save({"a": torch.zeros(1000)}, tmp_path / "good.pt")
    with zipfile.ZipFile(tmp_path / "good.pt") as good:
        members = good.infolist()
        with zipfile.ZipFile(tmp_path / "bad.pt", "w") as bad:
            for member in members:
                bad.writestr(member.filename, good.read(member))
            data = bad.getinfo(next(member.filename for member in members if member.filename.endswith("data/0")))
            for number in range(1, 50):
                again = copy.copy(data)
                again.filename = data.filename[:-1] + str(number)
                bad.filelist.append(again)
                bad.NameToInfo[again.filename] = again
    with pytest.raises(CheckpointError, match="overlap"):
        load_torch_file(tmp_path / "bad.pt")


def test_stems_may_be_called_otherwise(packages, tmp_path):
    names = ("a", "b", "c", "d")
    plain = convert(packages["demucs_v3"], output=tmp_path / "m.safetensors", family="demucs", stems=names)
    again = convert(tmp_path / "m.safetensors", output=tmp_path / "again.safetensors", stems=STEMS)
    assert (plain.spec.stems, again.spec.stems) == (names, tuple(STEMS))
    bag = write_bag(tmp_path, packages, ["hdemucs", "demucs_v3"])
    both = convert(bag, output=tmp_path / "bag.safetensors", family="demucs", stems=names)
    copied = convert(tmp_path / "bag.safetensors", output=tmp_path / "copied.safetensors", stems=STEMS)
    assert (both.spec.stems, copied.spec.stems) == (names, tuple(STEMS))
    with pytest.raises(CheckpointError, match="3 stems are named"):
        convert(packages["demucs_v3"], output=tmp_path / "no.safetensors", family="demucs", stems=names[:3])


def test_a_transformer_is_given_no_more_than_it_was_trained_on(packages, tmp_path):
    spec = convert(packages["htdemucs"], output=tmp_path / "ht.safetensors", family="demucs").spec
    assert spec.with_procedure(chunk_seconds=1.0).chunk_length == 8000
    with pytest.raises(ConfigError, match="trained on 9600 samples at a time"):
        spec.with_procedure(chunk_seconds=1.3)


def write_bag(folder, packages, models, **content):
    for path in packages.values():
        (folder / path.name).write_bytes(path.read_bytes())
    path = folder / "bag.yaml"
    path.write_text(yaml.safe_dump({"models": models, **content}))
    return path


def test_a_bag_keeps_its_weights_and_shortens_segments_as_demucs_does(packages, tmp_path):
    weights = [[1, 0, 0.5, 1], [0, 1, 1, 0], [1, 1, 1, 1]]
    bag = write_bag(tmp_path, packages, ["htdemucs", "hdemucs", "demucs_v3"], weights=weights, segment=1.1)
    written = convert(bag, output=tmp_path / "bag.safetensors", family="demucs", name="mine")
    assert isinstance(written, EnsembleCheckpoint)
    spec = written.spec
    assert (spec.name, spec.stems) == ("mine", tuple(STEMS))
    assert [list(row) for row in spec.weights] == weights
    lengths = [member.procedure.cutting.estimate_length for member in spec.members]
    assert lengths == [int(1.1 * 8000)] * 3
    # A transformer is never given more than it was trained on; others are.
    bag.write_text(yaml.safe_dump({"models": ["htdemucs", "hdemucs"], "segment": 3}))
    longer = convert(bag, output=tmp_path / "longer.safetensors", family="demucs").spec
    assert [member.procedure.cutting.estimate_length for member in longer.members] == [9600, 24000]


def refuses(match, source, tmp_path, family="demucs"):
    with pytest.raises(CheckpointError, match=match) as caught:
        convert(source, output=tmp_path / "out.safetensors", family=family)
    assert "\n" not in str(caught.value) and str(caught.value).endswith((".", "?"))
    assert not (tmp_path / "out.safetensors").exists()


def test_files_that_do_not_fit_are_refused_in_a_sentence(packages, tmp_path):
    good = packages["hdemucs"]
    renamed = tmp_path / "hdemucs-00000000.th"
    renamed.write_bytes(good.read_bytes())
    refuses("begins with .* and not 00000000", renamed, tmp_path)
    torch.save({"a": torch.ones(2)}, tmp_path / "bare.th")
    refuses("--family demucs_v2", tmp_path / "bare.th", tmp_path)
    refuses("expected names like 'encoder.0.0.weight'", tmp_path / "bare.th", tmp_path, family="demucs_v2")
    package = {"klass": torch.nn.Linear, "args": (), "kwargs": {}, "state": {"a": torch.ones(1)}}
    torch.save(package, tmp_path / "linear.th")
    refuses("torch.nn.modules.linear.Linear, which is no network that jaxsep knows", tmp_path / "linear.th", tmp_path)
    torch.save({"klass": torch.nn.Linear(1, 1)}, tmp_path / "module.th")
    refuses("nothing else is loaded", tmp_path / "module.th", tmp_path)
    refuses("is a folder; give one of", tmp_path, tmp_path)
    safetensors.numpy.save_file({"a": np.ones(1)}, tmp_path / "plain.safetensors")
    refuses("does not say klass", tmp_path / "plain.safetensors", tmp_path)
    metadata = {"klass": "demucs.demucs.Demucs", "args": "[]", "kwargs": "{", "structure": "{}"}
    safetensors.numpy.save_file({"a": np.ones(1)}, tmp_path / "q.safetensors", metadata)
    refuses("quantised by DiffQ", tmp_path / "q.safetensors", tmp_path)
    del metadata["structure"]
    safetensors.numpy.save_file({"a": np.ones(1)}, tmp_path / "json.safetensors", metadata)
    refuses("JSON that is damaged", tmp_path / "json.safetensors", tmp_path)


def test_bags_that_do_not_fit_are_refused_in_a_sentence(packages, tmp_path):
    refuses("has a member 'nobody'", write_bag(tmp_path, packages, ["hdemucs", "nobody"]), tmp_path)
    refuses("not a row for each", write_bag(tmp_path, packages, ["hdemucs"], weights=[[1, 0]]), tmp_path)
    refuses("no member has a weight", write_bag(tmp_path, packages, ["hdemucs"], weights=[[1, 0, 1, 1]]), tmp_path)
    (tmp_path / "date.yaml").write_text("models: [hdemucs]\nsegment: 2001-99-99\n")
    refuses("cannot be read as YAML", tmp_path / "date.yaml", tmp_path)
    refuses("segments of 1e-07 s", write_bag(tmp_path, packages, ["hdemucs"], segment=1e-7), tmp_path)
    refuses("not a row for each", write_bag(tmp_path, packages, ["hdemucs", "demucs_v3"], weights=[[1] * 4]), tmp_path)
    refuses("segment", write_bag(tmp_path, packages, ["hdemucs"], segment=-1), tmp_path)
    (tmp_path / "other.yaml").write_text("[1, 2]")
    refuses("no bag of Demucs", tmp_path / "other.yaml", tmp_path)
    (tmp_path / "damaged.yaml").write_text("models: [")
    refuses("cannot be read as YAML", tmp_path / "damaged.yaml", tmp_path)
    with official():
        save(build(SMALL["hdemucs"][0], stems=["a", "b"], **SMALL["hdemucs"][1]), tmp_path / "two.th")
    refuses("have the same stems", write_bag(tmp_path, packages, ["hdemucs", "two"]), tmp_path)
    (tmp_path / "hdemucs.th").write_bytes(packages["hdemucs"].read_bytes())
    refuses("for which there are", write_bag(tmp_path, packages, ["hdemucs"]), tmp_path)


@pytest.mark.parametrize(
    ("klass", "arguments", "match"),
    [
        ("htdemucs.HTDemucs", {"t_sparse_self_attn": True}, "t_sparse_self_attn=True, and jaxsep does False alone"),
        ("htdemucs.HTDemucs", {"t_emb": "cape"}, "t_emb='cape'"),
        ("hdemucs.HDemucs", {"wiener_iters": 2}, "wiener_iters=2"),
        ("hdemucs.HDemucs", {"hybrid": False}, "hybrid=False"),
        ("hdemucs.HDemucs", {"multi_freqs": [0.01]}, "leave too few"),
        ("demucs.Demucs", {"gelu": False}, "gelu=False"),
        ("demucs.Demucs", {"channels": "many"}, "text as features"),
        ("demucs.Demucs", {"rewrite": "no"}, "text as rewrite"),
        ("demucs.Demucs", {"depth": 10**9}, "depth"),
        ("demucs.Demucs", {"samplerate": 10**400}, "sample rate that there is not"),
        ("demucs.Demucs", {"samplerate": 0}, "sample rate that there is not"),
        ("demucs.Demucs", {"segment": 1e-9}, "segments of 1e-09 s"),
        ("htdemucs.HTDemucs", {"t_heads": 0}, "heads"),
        ("htdemucs.HTDemucs", {"wiener_iters": np.ones(2)}, "a ndarray as wiener_iters"),
        ("hdemucs.HDemucs", {"wiener_iters": 10**5000}, "arguments that make no network"),
        ("htdemucs.HTDemucs", {"t_heads": 7}, "multiple of 4 and of its 7 heads"),
        ("demucs.Demucs", {"segment": -1}, "segments of -1 s"),
    ],
)
def test_arguments_that_jaxsep_does_not_do_are_refused_by_name(klass, arguments, match):
    with pytest.raises(CheckpointError, match=match):
        demucs_spec(f"demucs.{klass}", (STEMS,), arguments, name="test", segment=None, where="the test")


def test_arguments_that_no_class_has_are_left_out_and_told(caplog):
    spec = demucs_spec("demucs.demucs.Demucs", (STEMS,), {"old": 1}, name="test", segment=None, where="the test")
    assert isinstance(spec, ModelSpec) and "left out: old" in caplog.text
    assert json.loads(spec.model_dump_json())["family"] == "demucs_v3"
