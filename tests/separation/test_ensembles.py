"""Ensembles: one checkpoint like any other, whose members run side by side; the mean against its formula."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from separation.conftest import noise
from weights.small_models import small_spec, small_variables

import jaxsep
from jaxsep import models
from jaxsep.errors import CheckpointError, ConfigError, SeparationError
from jaxsep.models import Family, NetworkConfig
from jaxsep.models.ensemble import EnsembleSpec
from jaxsep.separation.ensemble import Ensemble
from jaxsep.separation.models import make_separator
from jaxsep.separation.options import SeparationOptions
from jaxsep.separation.separator import Model, Separator
from jaxsep.weights.checkpoint import load_checkpoint, read_spec
from jaxsep.weights.convert import convert
from jaxsep.weights.ensembles import load_ensemble, save_ensemble
from jaxsep.weights.pretrained import load_one

WEIGHTS = ((1.0, 0.0), (0.0, 1.0), (1.0, 3.0))


def ensemble_spec(**changes):
    data = {
        "name": "bag",
        "members": [small_spec()] * 3,
        "weights": WEIGHTS,
        "licence": "MIT",
        "provenance": "made for a test",
    }
    return EnsembleSpec.parse({**data, **changes}, where="the test")


def variables(seed):
    drawn = small_variables(small_spec(), seed)
    drawn["batch_stats"] = jax.tree.map(np.abs, drawn["batch_stats"])
    return drawn


@pytest.fixture(scope="module", params=["bag.safetensors", "bag"])
def path(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("ensemble") / request.param
    save_ensemble(path, ensemble_spec(), [variables(seed) for seed in range(3)])
    return path


def test_the_estimate_of_a_source_is_the_weighted_mean(path):
    mixture = noise(3000)
    ensemble = jaxsep.load_model(path)
    alone = [Separator(ensemble.members[number]).separate(mixture, 8000).stems for number in range(3)]
    found = Separator.from_pretrained(path).separate(mixture, 8000).stems
    for source, stem in enumerate(("vocals", "accompaniment")):
        total = sum(weights[source] * stems[stem] for weights, stems in zip(WEIGHTS, alone, strict=True))
        expected = total / sum(weights[source] for weights in WEIGHTS)
        np.testing.assert_allclose(found[stem], expected, atol=1e-6)  # three float32 products and sums


def test_members_of_one_config_share_one_program(path):
    separator = Separator.from_pretrained(path)
    separator.separate(noise(2000), 8000)
    (program,) = separator._programs.values()
    assert len(program._compiled) == 1


def test_members_without_a_weight_are_neither_read_nor_hashed(path, tmp_path):
    separator = Separator.from_pretrained(path, stems=["vocals"])
    assert sorted(separator.model.members) == [0, 2]
    if path.is_dir():
        return
    # Damage in the arrays of the member that is not needed, and of one that is.
    content = bytearray(path.read_bytes())
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])

    def damaged(member):
        first = min(entry["data_offsets"][0] for name, entry in header.items() if name.startswith(f"members/{member}/"))
        changed = bytearray(content)
        changed[8 + size + first] ^= 1
        (tmp_path / "damaged.safetensors").write_bytes(changed)
        return tmp_path / "damaged.safetensors"

    Separator.from_pretrained(damaged(1), stems=["vocals"])
    with pytest.raises(CheckpointError, match="member 1 do not match"):
        Separator.from_pretrained(damaged(1))
    with pytest.raises(CheckpointError, match="member 2 do not match"):
        Separator.from_pretrained(damaged(2), stems=["vocals"])


def test_shifts_and_the_filter_act_on_every_member(path):
    mixture = noise(3000)
    ensemble = jaxsep.load_model(path)
    options = {"shifts": 2, "filter": "wiener", "seed": 3}
    found = Separator.from_pretrained(path, **options).separate(mixture, 8000).stems["vocals"]
    alone = [
        Separator(ensemble.members[n], **options, member=n).separate(mixture, 8000).stems["vocals"] for n in (0, 2)
    ]
    np.testing.assert_allclose(found, (alone[0] + alone[1]) / 2, atol=1e-5)
    # Each member has shifts of its own.
    same = Separator(ensemble.members[0], **options, member=2).separate(mixture, 8000).stems["vocals"]
    assert np.abs(same - alone[0]).max() > 1e-6


def test_one_of_its_models_is_had_by_its_number(path):
    np.testing.assert_array_equal(
        load_one(path, member=1).variables["params"]["source_0"]["mask"]["bias"],
        variables(1)["params"]["source_0"]["mask"]["bias"],
    )
    with pytest.raises(CheckpointError, match="name one of its members"):
        load_one(path)
    with pytest.raises(CheckpointError, match="the members 0 to 2"):
        load_one(path, member=3)
    with pytest.raises(CheckpointError, match="is an ensemble of 3 models"):
        load_checkpoint(path)
    assert read_spec(path) == ensemble_spec()


def test_progress_is_told_as_one_and_errors_end_the_mixture(path):
    told = []
    Separator.from_pretrained(path).separate(noise(4000), 8000, progress=lambda progress: told.append(progress))
    assert told[-1].done_seconds == told[-1].total_seconds == 0.5
    done = [progress.done_seconds for progress in told]
    assert done == sorted(done)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": ((1, 1), (1, 1))}, "a row for each of the 3 members"),
        ({"weights": ((1, 0), (1, 0), (1, 0))}, "no member has a weight for 'accompaniment'"),
        ({"weights": ((1, -1), (1, 1), (1, 1))}, "greater than or equal to 0"),
        ({"members": [small_spec(), small_spec(), small_spec(sample_rate=16000)]}, "the same sample_rate"),
    ],
)
def test_what_is_no_ensemble_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        ensemble_spec(**changes)


def test_a_damaged_list_of_hashes_is_noticed(tmp_path):
    path = tmp_path / "bag"
    save_ensemble(path, ensemble_spec(), [variables(seed) for seed in range(3)])
    record = json.loads((path / "jaxsep.json").read_text())
    record["members_sha256"][0] = record["members_sha256"][1]
    (path / "jaxsep.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="hashes of its members"):
        load_ensemble(path)


class Gain(nn.Module):
    config: NetworkConfig
    gain = 2.0

    @nn.compact
    def __call__(self, mixture, *, train):
        return jnp.stack([self.gain * mixture] * self.config.n_sources, axis=1)


def gains(monkeypatch, gain):
    """A registered family whose module has the name and the fields that those of another have."""
    module = type("Gain", (Gain,), {"gain": gain, "__module__": __name__})
    family = f"gain_{gain:g}"
    monkeypatch.setitem(models._registered, family, Family(NetworkConfig, module, "waveform"))
    changes = {"family": family, "config": {"n_sources": 2}, "domain": {"kind": "waveform"}}
    return small_spec(**changes, procedure={"cutting": {"chunk_length": 100, "chunk_hop": 100}})


def ensemble_of(*members, weights):
    spec = ensemble_spec(members=members, weights=weights)
    loaded = [Model(member.network(), {}, member, "0" * 64) for member in members]
    return Ensemble(dict(enumerate(loaded)), spec, "0" * 64)


def test_members_of_families_that_look_alike_have_programs_of_their_own(monkeypatch):
    bag = ensemble_of(gains(monkeypatch, 2.0), gains(monkeypatch, 20.0), weights=((1.0, 0.0), (0.0, 1.0)))
    mixture = noise(300)
    found = make_separator(bag).separate(mixture, 8000).stems
    np.testing.assert_allclose(found["vocals"], 2 * mixture, rtol=1e-6)  # one product in float32
    np.testing.assert_allclose(found["accompaniment"], 20 * mixture, rtol=1e-6)


def test_options_are_for_the_members_that_are_run(monkeypatch):
    """A network on waveforms cannot be filtered, and need not be where it has no weight for what is asked for."""
    members = (gains(monkeypatch, 2.0), small_spec())
    weights = ((1.0, 0.0), (0.0, 1.0))
    spec = SeparationOptions(filter="wiener").applied_to(
        ensemble_spec(members=members, weights=weights), ["accompaniment"]
    )
    assert [member.procedure.wiener is None for member in spec.members] == [True, False]
    with pytest.raises(SeparationError, match="works on waveforms"):
        SeparationOptions(filter="wiener").applied_to(ensemble_spec(members=members, weights=weights))


@pytest.mark.parametrize("version", [1, 99])
def test_an_ensemble_of_an_unknown_version_is_refused(version):
    with pytest.raises(ConfigError, match=f"format_version {version} cannot be read"):
        ensemble_spec(format_version=version)


@pytest.mark.parametrize("form", ["copy", "copy.safetensors"])
def test_convert_copies_an_ensemble_to_its_other_form(path, tmp_path, form):
    written = convert(path, output=tmp_path / form, name="renamed")
    before = load_ensemble(path)
    assert (written.spec.name, written.sha256) == ("renamed", before.sha256)
    assert load_ensemble(tmp_path / form).spec.weights == before.spec.weights
    with pytest.raises(CheckpointError, match="leave the family out"):
        convert(path, output=tmp_path / "refused", family="spleeter")
