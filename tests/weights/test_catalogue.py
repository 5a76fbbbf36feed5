"""The catalogue against what Spleeter's release, configs and paper say, and against the models themselves."""

import math
import re

import pytest

from jaxsep.weights.catalogue import ByHand, find_entry, list_models
from jaxsep.weights.family_rules import form_spec
from jaxsep.weights.forms import BAGS, FORMS, Form
from jaxsep.weights.rules import RULES, SPECS
from jaxsep.weights.tree import expected_shapes

SPLEETERS = [entry for entry in list_models() if entry.family == "unet"]


def form(entry):
    return entry.name.removesuffix("-fp32")


def test_spleeters_forms_are_all_there():
    # spleeter/resources/*.json, but for musdb.json, of which no weights were published.
    forms = {f"spleeter-{stems}stems{wide}" for stems in (2, 4, 5) for wide in ("", "-16khz")}
    assert {form(entry) for entry in SPLEETERS} == forms
    assert len({entry.name for entry in list_models()}) == len(list_models())


@pytest.mark.parametrize("name", FORMS)
def test_a_spec_says_what_its_form_says(name):
    facts, spec = FORMS[name], SPECS[name]
    assert (facts.name, facts.family, facts.stems) == (spec.name, spec.family, spec.stems)
    assert (facts.sample_rate, facts.bandwidth_hz) == (spec.sample_rate, spec.bandwidth_hz)


def test_a_spec_is_built_from_its_form():
    spec = SPECS["jansson"]
    other = Form("other", "jansson", ("guitar", "rest"), 16384, 8192.0)
    built = form_spec(other, spec.config, spec.domain, spec.procedure)
    changed = {"name": "other", "stems": ("guitar", "rest"), "sample_rate": 16384}
    assert built == spec.model_copy(update=changed)
    # 513 bins from 0 Hz to half the sample rate, that one left out.
    assert other.bins(1024) == built.domain.bins == 512


def test_every_form_has_a_spec_and_every_spec_a_form():
    assert FORMS.keys() == SPECS.keys()
    assert all((FORMS | BAGS)[entry.form.name] is entry.form for entry in list_models())


@pytest.mark.parametrize("entry", [each for each in list_models() if each.form.name not in BAGS], ids=lambda e: e.name)
def test_an_entry_says_what_the_model_is(entry):
    spec = RULES[entry.archive.format].forms[form(entry)]
    assert (entry.family, entry.stems, entry.sample_rate) == (spec.family, spec.stems, spec.sample_rate)
    assert entry.bandwidth_hz == spec.bandwidth_hz
    numbers = sum(math.prod(shape) for shape in expected_shapes(spec).values())
    assert entry.size_bytes == numbers * {"float16": 2, "float32": 4}[entry.dtype]


@pytest.mark.parametrize("entry", SPLEETERS, ids=lambda entry: entry.name)
def test_an_archive_is_that_of_spleeters_release(entry):
    # deezer/spleeter, tests/test_github_model_provider.py: what the release's checksum.json must hold. 'model_dir' in
    # its configs is the same for both bandwidths.
    published = {
        "2stems": "f3a90b39dd2874269e8b05a48a86745df897b848c61f3958efc80a39152bd692",
        "4stems": "3adb4a50ad4eb18c7c4d65fcf4cf2367a07d48408a5eb7d03cd20067429dfaa8",
        "5stems": "25a1e87eb5f75cc72a4d2d5467a0a50ac75f05611f877c278793742513cc7218",
    }
    directory = re.fullmatch(r"spleeter-(\dstems).*", entry.name)[1]
    assert entry.archive.sha256 == published[directory]
    assert entry.archive.url == f"https://github.com/deezer/spleeter/releases/download/v1.4.0/{directory}.tar.gz"
    assert f"spleeter:{directory}" in entry.archive.description
    assert entry.licence == "MIT"
    # Noise of 32 bits with a narrow range of exponents: an archive is a little smaller than the numbers in it.
    float32_bytes = entry.size_bytes * (2 if entry.dtype == "float16" else 1)
    assert 0.9 < entry.archive.size_bytes / float32_bytes < 1


def test_scores_are_those_of_the_paper_and_of_the_model_that_it_scored():
    # Hennequin et al. 2020, table 1: vocals, drums, bass and other were scored together, so by the 4-stem model; it
    # says nothing of the others.
    scored = {(score.stem, score.method): score.sdr_db for score in find_entry("spleeter-4stems").scores}
    assert scored == {
        ("vocals", "ratio masks"): 6.55,
        ("bass", "ratio masks"): 5.10,
        ("drums", "ratio masks"): 5.93,
        ("other", "ratio masks"): 4.24,
        ("vocals", "Wiener filter"): 6.86,
        ("bass", "Wiener filter"): 5.51,
        ("drums", "Wiener filter"): 6.71,
        ("other", "Wiener filter"): 4.55,
    }
    assert all(entry.scores == () for entry in SPLEETERS if entry.name != "spleeter-4stems")


def test_the_published_wave_unets_are_there_with_the_scores_of_their_readme():
    entries = {entry.name: entry for entry in list_models() if isinstance(entry.archive, ByHand)}
    assert set(entries) == {"wave-unet-m4", "wave-unet-m5-highsr", "wave-unet-m6", "wave-unet-torch"}
    assert {score.stem: score.sdr_db for score in entries.pop("wave-unet-m5-highsr").scores} == {
        "vocals": 4.95,
        "accompaniment": 11.16,
    }
    assert not any(entry.scores for entry in entries.values())


def test_a_name_finds_its_entry():
    assert find_entry("spleeter-5stems").stems == ("vocals", "piano", "drums", "bass", "other")
    assert find_entry("spleeter-6stems") is None
