"""Conversion between the two forms of jaxsep's own checkpoints, and what foreign sources are told."""

import pickle

import numpy as np
import pytest
from weights.small_models import assert_same_variables, small_spec, small_variables

from jaxsep.errors import CheckpointError
from jaxsep.weights.checkpoint import load_checkpoint, save_checkpoint
from jaxsep.weights.convert import convert, describe_source


@pytest.fixture(scope="module")
def spec():
    return small_spec()


@pytest.fixture(scope="module")
def variables(spec):
    return small_variables(spec)


@pytest.mark.parametrize(("source", "output"), [("a", "b.safetensors"), ("a.safetensors", "b")])
def test_both_forms_convert_into_each_other_bit_for_bit(tmp_path, spec, variables, source, output):
    sha256 = save_checkpoint(tmp_path / source, spec, variables)
    written = convert(tmp_path / source, output=tmp_path / output)
    assert written.sha256 == sha256 == load_checkpoint(tmp_path / output).sha256
    assert written.spec == spec
    assert_same_variables(written.variables, variables)


def test_name_licence_and_type_change_as_asked_and_nothing_else(tmp_path, spec, variables):
    save_checkpoint(tmp_path / "a.safetensors", spec, variables)
    written = convert(
        tmp_path / "a.safetensors", output=tmp_path / "b.safetensors", name="mine", licence="CC0-1.0", dtype="float16"
    )
    assert written.spec == spec.model_copy(update={"name": "mine", "licence": "CC0-1.0"})
    kernel = written.variables["params"]["source_0"]["mask"]["kernel"]
    np.testing.assert_array_equal(kernel, variables["params"]["source_0"]["mask"]["kernel"].astype(np.float16))


def test_an_existing_output_is_kept_unless_told(tmp_path, spec, variables):
    for name in ("a.safetensors", "b.safetensors"):
        save_checkpoint(tmp_path / name, spec, variables)
    with pytest.raises(CheckpointError, match="exists"):
        convert(tmp_path / "a.safetensors", output=tmp_path / "b.safetensors")
    convert(tmp_path / "a.safetensors", output=tmp_path / "b.safetensors", name="new", overwrite=True)
    assert load_checkpoint(tmp_path / "b.safetensors").spec.name == "new"


def test_sources_that_do_not_say_enough_are_told_what_is_missing(tmp_path, spec, variables):
    save_checkpoint(tmp_path / "own", spec, variables)
    (tmp_path / "foreign.pkl").write_bytes(pickle.dumps({"a": np.ones(1, np.float32)}))
    output = tmp_path / "out.safetensors"
    for source, family, message in [
        ("foreign.pkl", None, r"say which family it is of \(spleeter, jansson, classic_unet, wave_unet, "),
        ("foreign.pkl", "spleter", "Did you mean 'spleeter'"),
        ("foreign.pkl", "spleeter", "holds no Spleeter networks"),
        ("own", "spleeter", "of family 'unet', not 'spleeter'"),
        ("nothing", "spleeter", "no weights at"),
        ("nothing", None, "no weights at"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            convert(tmp_path / source, output=output, family=family)
    assert not output.exists()


def test_a_source_is_described_by_the_hashes_of_its_files(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"abc")
    # The first test vector of FIPS 180-2 for SHA-256.
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert describe_source(tmp_path / "a.pkl") == f"a.pkl (sha256 {sha256})"
