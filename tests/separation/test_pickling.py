"""Models and Separators that travel to another process, and what does not travel with them."""

import copy
import logging
import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import jax
import numpy as np
import pytest
from separation.conftest import noise
from weights.small_models import assert_same_variables, small_spec, small_variables

from jaxsep.dsp.wiener import WienerConfig
from jaxsep.errors import ConfigError
from jaxsep.models.ensemble import EnsembleSpec
from jaxsep.separation.ensemble import Ensemble, EnsembleSeparator
from jaxsep.separation.programs import ProgramStore
from jaxsep.separation.separator import Model, Separator

MIXTURE = noise(3000)
# The same program, compiled where XLA may share its sums among another number of threads: float32, samples below 1.
TOLERANCE = 2e-6


def small_model(seed=0):
    spec = small_spec()
    variables = small_variables(spec, seed)
    # Of random numbers, what stands for a variance must not be negative.
    variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
    return Model(spec.network(), variables, spec, f"{seed}" * 64)


def small_ensemble():
    members = {number: small_model(number) for number in range(2)}
    spec = EnsembleSpec(
        name="pair",
        members=tuple(member.spec for member in members.values()),
        weights=((1.0, 0.25), (0.0, 0.75)),
        licence="MIT",
        provenance="made for a test",
    )
    return Ensemble(members, spec, "2" * 64)


def assert_same_stems(found, expected, tolerance=0.0):
    assert list(found.stems) == list(expected.stems)
    for stem in expected.stems:
        assert np.abs(expected.stems[stem]).max() > 0.01  # a comparison with silence would hold for anything
        np.testing.assert_allclose(found.stems[stem], expected.stems[stem], rtol=0, atol=tolerance)


def sent(value):
    return pickle.loads(pickle.dumps(value))


def test_a_model_comes_back_with_equal_parts_and_its_weights_on_the_host():
    model = small_model()
    on_device = Model(model.module, jax.device_put(model.variables), model.spec, model.sha256)
    found = sent(on_device)
    assert (found.module, found.spec, found.sha256) == (model.module, model.spec, model.sha256)
    assert_same_variables(found.variables, model.variables)
    assert {type(leaf) for leaf in jax.tree.leaves(found.variables)} == {np.ndarray}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stems": ["accompaniment"]},
        {"chunk_seconds": 0.1, "overlap": 0.5, "batch_size": 3},
        {"shifts": 2, "seed": 5},
        {"filter": "wiener", "wiener_iterations": 2},
        {"filter": WienerConfig(iterations=1, block_frames=20)},
        {"precision": "bfloat16"},
    ],
    ids=lambda options: "-".join(options) or "published",
)
def test_a_separator_comes_back_with_its_options_and_gives_equal_stems(options):
    separator = Separator(small_model(), **options)
    expected = separator.separate(MIXTURE, 8000)
    found = sent(separator)
    assert_same_stems(found.separate(MIXTURE, 8000), expected)
    assert (found.options, found.stems, found.model.spec) == (separator.options, separator.stems, separator.model.spec)


def test_a_separator_with_other_variables_takes_those_along():
    other = Separator(small_model(0)).with_variables(small_model(1).variables)
    expected = Separator(small_model(1)).separate(MIXTURE, 8000)
    assert_same_stems(sent(other).separate(MIXTURE, 8000), expected)
    assert_same_stems(sent(sent(other)).separate(MIXTURE, 8000), expected)
    # The same of one that was unpickled and is not used yet.
    arrived = sent(Separator(small_model(0))).with_variables(small_model(1).variables)
    assert_same_stems(arrived.separate(MIXTURE, 8000), expected)


def test_an_ensemble_comes_back_and_gives_equal_stems():
    separator = EnsembleSeparator(small_ensemble())
    expected = separator.separate(MIXTURE, 8000)
    assert_same_stems(sent(separator).separate(MIXTURE, 8000), expected)
    (member,) = sent(EnsembleSeparator(small_ensemble(), stems=["vocals"]))._separators
    assert member.stems == ("vocals",)


@pytest.mark.parametrize(
    "make", [lambda: Separator(small_model()), lambda: EnsembleSeparator(small_ensemble())], ids=["model", "ensemble"]
)
def test_another_process_separates_with_what_it_is_sent(make):
    """The bound method carries the Separator; a spawned process has nothing else of this one."""
    separator = make()
    expected = separator.separate(MIXTURE, 8000)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(separator.separate, MIXTURE, 8000).result(timeout=300)
    assert_same_stems(found, expected, TOLERANCE)


def test_unpickling_starts_no_backend_so_that_the_process_can_still_choose_one(tmp_path):
    separator = Separator(small_model())
    (tmp_path / "separator.pickle").write_bytes(pickle.dumps(separator))
    code = (
        "import pickle, sys, jax\n"
        "from jax._src import xla_bridge\n"
        "separator = pickle.load(open(sys.argv[1], 'rb'))\n"
        "assert not xla_bridge._backends, 'a backend was started'\n"
        "jax.config.update('jax_num_cpu_devices', 2)\n"
        "assert separator.device == jax.devices()[0] and len(jax.devices()) == 2\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "separator.pickle"], check=True)


def test_the_first_device_of_the_platform_is_used_whichever_it_was():
    assert len(jax.devices("cpu")) > 1  # as tests/conftest.py asks for
    separator = Separator(small_model(), device=jax.devices("cpu")[1])
    assert sent(separator).device == jax.devices("cpu")[0]


def test_where_there_is_no_such_platform_the_default_device_is_used_and_said(caplog):
    found = Separator.__new__(Separator)
    found.__setstate__({**Separator(small_model()).__getstate__(), "platform": "tpu"})
    with caplog.at_level(logging.WARNING):
        assert found.device == jax.devices()[0]
    assert "no device of the platform 'tpu'" in caplog.text


def test_neither_compiled_programs_nor_the_place_where_they_are_kept_travel(tmp_path):
    model = small_model()
    separator = Separator(model, programs=ProgramStore(tmp_path))
    before = len(pickle.dumps(separator))
    separator.separate(MIXTURE, 8000)
    assert len(pickle.dumps(separator)) == before
    found = sent(separator)
    assert found.compile_seconds == 0
    assert found._store is None


def test_threads_that_use_an_unpickled_separator_at_once_share_one(monkeypatch):
    """By the count of times that one is made."""
    made = []
    original = Separator.__init__

    def counted(self, *arguments, **options):
        made.append(self)
        original(self, *arguments, **options)

    separator = Separator(small_model())
    expected = separator.separate(MIXTURE, 8000)
    found = sent(separator)
    monkeypatch.setattr(Separator, "__init__", counted)
    with ThreadPoolExecutor(4) as pool:
        separations = list(pool.map(lambda _: found.separate(MIXTURE, 8000), range(4)))
    assert len(made) == 1
    for separation in separations:
        assert_same_stems(separation, expected)


def test_a_copy_shares_what_is_compiled_and_a_deep_copy_shares_nothing():
    separator = Separator(small_model())
    expected = separator.separate(MIXTURE, 8000)
    assert copy.copy(separator).compile_seconds == separator.compile_seconds > 0
    deep = copy.deepcopy(separator)
    assert deep.compile_seconds == 0
    assert_same_stems(deep.separate(MIXTURE, 8000), expected)


def test_a_name_that_is_none_is_an_attribute_error_and_a_failure_can_be_met_again():
    found = sent(Separator(small_model()))
    with pytest.raises(AttributeError, match="seperate"):
        _ = found.seperate
    with pytest.raises(AttributeError, match="seperate"):
        _ = Separator(small_model()).seperate
    state = Separator(small_model()).__getstate__()
    broken = Separator.__new__(Separator)
    broken.__setstate__({**state, "options": {"stems": ["stem9"]}})
    for _ in range(2):
        with pytest.raises(ConfigError, match="no stem 'stem9'"):
            broken.separate(MIXTURE, 8000)
