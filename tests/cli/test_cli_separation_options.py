"""How `jaxsep separate` and `evaluate` separate: options of the command line against those of the library."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from cli.conftest import read, write_song
from weights.small_models import small_spec, small_variables

import jaxsep as library
from jaxsep.models.ensemble import EnsembleSpec
from jaxsep.weights.checkpoint import save_checkpoint
from jaxsep.weights.ensembles import save_ensemble


@pytest.fixture(scope="module")
def telling_model(tmp_path_factory):
    """A small model whose masks depend on what each chunk holds."""
    path = tmp_path_factory.mktemp("telling") / "model.safetensors"
    # 64 frames in a chunk, so that a few of them are a song.
    spec = small_spec(sample_rate=44100, procedure={"cutting": {"chunk_length": 64 * 16 + 48, "chunk_hop": 64 * 16}})
    variables = small_variables(spec)
    # Variances are not to be negative.
    variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
    save_checkpoint(path, spec, variables)
    return path


@pytest.fixture(scope="module")
def plain(telling_model, tmp_path_factory):
    """Stems of the song of the tests below without any option."""
    mixture = write_song(tmp_path_factory.mktemp("plain") / "song.wav", 0.4, subtype="FLOAT")
    return library.Separator.from_pretrained(telling_model).separate(mixture, 44100).stems


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["--overlap", "0.5"], {"overlap": 0.5}),
        (["--overlap", "3"], {"overlap": 3}),
        (["--chunk", "0.05"], {"chunk_seconds": 0.05}),
        (["--segment", "0.05"], {"chunk_seconds": 0.05}),
        (["--shifts", "2", "--seed", "7"], {"shifts": 2, "seed": 7}),
        (["--wiener"], {"filter": "wiener"}),
        (["--filter", "wiener", "--wiener-iterations", "2"], {"filter": "wiener", "wiener_iterations": 2}),
        (["--filter", "none"], {"filter": "none"}),
        (["--precision", "bfloat16"], {"precision": "bfloat16"}),
    ],
)
def test_options_are_those_of_the_library_and_the_report_has_them(jaxsep, telling_model, plain, arguments, options):
    mixture = write_song("song.wav", 0.4, subtype="FLOAT")
    result = jaxsep("separate", "song.wav", "-m", telling_model, "--report", "report.json", *arguments)
    assert result.exit_code == 0, result.output
    expected = library.Separator.from_pretrained(telling_model, **options).separate(mixture, 44100).stems
    for stem, waveform in expected.items():
        # The same programs on the same samples; files hold float32.
        np.testing.assert_allclose(read(f"separated/song/{stem}.wav"), waveform, atol=1e-6)
    if options != {"filter": "none"}:
        assert any(np.abs(expected[stem] - plain[stem]).max() > 1e-6 for stem in expected)
    with open("report.json") as file:
        reported = json.load(file)["options"]
    assert {key: reported[key] for key in options} == options


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--overlap", "1"], "The overlap is 1; give the fraction"),
        (["--overlap", "2.5"], "The overlap is 2.5"),
        (["--overlap", "-0.1"], "--overlap is '-0.1'"),
        (["--chunk", "0"], "--chunk is '0.0'"),
        (["--chunk", "inf"], "--chunk is 'inf'"),
        (["--wiener", "--filter", "none"], "contradict each other"),
        (["--wiener-iterations", "2"], "ask for it by filter 'wiener'"),
        (["--shifts", "-1"], "--shifts"),
        (["--filter", "winer"], "--filter"),
        (["--precision", "float64"], "--precision"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence_before_any_work(quick_jaxsep, arguments, words):
    write_song("song.wav", 0.1)
    result = quick_jaxsep("separate", "song.wav", *arguments)
    assert result.exit_code == 2
    assert words in result.output
    assert not Path("separated").exists()


@pytest.fixture
def ensemble(small_model, tmp_path):
    model = library.load_model(small_model)
    spec = EnsembleSpec(
        name="bag", members=[model.spec] * 2, weights=[[1, 0], [1, 1]], licence="MIT", provenance="made for a test"
    )
    path = tmp_path / "bag.safetensors"
    save_ensemble(path, spec, [model.variables, model.variables])
    return path


def test_an_ensemble_is_a_model_like_any_other(jaxsep, ensemble, small_model):
    """Of two members that are the same the mean is what one gives."""
    mixture = write_song("song.wav", 0.3, subtype="FLOAT")
    result = jaxsep("separate", "song.wav", "-m", ensemble, "--two-stems", "vocals", "--report", "report.json")
    assert result.exit_code == 0, result.stderr
    expected = library.Separator.from_pretrained(small_model).separate(mixture, 44100).stems["vocals"]
    np.testing.assert_allclose(read("separated/song/vocals.wav"), expected, atol=1e-6)
    np.testing.assert_allclose(read("separated/song/no_vocals.wav"), mixture - expected, atol=1e-5)
    with open("report.json") as file:
        assert len(json.load(file)["model"]["spec"]["members"]) == 2
    told = jaxsep("info", ensemble)
    assert "members      2" in told.output and "weights      vocals 1, accompaniment 0" in told.output
    write_song("tracks/one/vocals.wav", 1.2)
    write_song("tracks/one/accompaniment.wav", 1.2)
    scored = jaxsep(
        "evaluate", "-m", ensemble, "--tracks", "tracks", "--metrics", "sdr", "-o", "scores", "--shifts", "1"
    )
    assert scored.exit_code == 0, scored.output
    record = json.loads(next(Path("scores").rglob("one.json")).read_text())
    assert "'shifts': 1" in str(record)
    compared = jaxsep("compare", "parity", ensemble, "--with", small_model, "song.wav", "-o", "compared")
    assert compared.exit_code == 0, compared.output
    refused = jaxsep("compare", "speed", ensemble, "--frameworks", "jax", "-o", "speed")
    assert refused.exit_code == 1 and "name one of its members, 0 to 1" in refused.output
    refused = jaxsep("compare", "speed", ensemble, "--member", "2", "--frameworks", "jax", "-o", "speed")
    assert refused.exit_code == 1 and "and none 2" in refused.output
    refused = jaxsep("compare", "parity", ensemble, "--with", "torch", "song.wav", "-o", "refused")
    assert refused.exit_code == 2 and "is an ensemble" in refused.output
