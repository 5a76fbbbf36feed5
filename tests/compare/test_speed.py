"""The comparison of speed: the frameworks train the same network, and real processes of them are measured."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from jaxsep.cli.main import app
from jaxsep.compare.frameworks import FRAMEWORKS
from jaxsep.compare.legs import PACKAGES, run_leg
from jaxsep.compare.speed import RULES, measure_speed, to_markdown
from jaxsep.compare.speed_leg import Leg
from jaxsep.models.cutting import whole_outputs
from jaxsep.models.procedure import Procedure
from jaxsep.models.spec import ModelSpec
from jaxsep.weights import wave_unet
from jaxsep.weights.checkpoint import save_checkpoint
from jaxsep.weights.tree import expected_shapes, flatten, unflatten

# Smooth, and without dropout, so that frameworks are comparable step by step.
SPEC = ModelSpec.parse(
    {
        "name": "small",
        "family": "unet",
        "config": {
            "n_sources": 2,
            "bins": 32,
            "filters": (4, 8),
            "encoder_activation": "elu",
            "decoder_activation": "elu",
            "batch_statistics": False,
            "dropout": 0.0,
        },
        "stems": ("vocals", "accompaniment"),
        "sample_rate": 8000,
        "channels": 2,
        "domain": {"kind": "magnitude", "stft": {"n_fft": 128, "hop_length": 32}},
        "procedure": {"cutting": {"chunk_length": 16 * 32 + 96, "chunk_hop": 16 * 32}},
        "licence": "MIT",
        "provenance": "made up",
    },
    where="the test",
)


def variables():
    rng = np.random.default_rng(0)
    ranges = {"var": (0.5, 2.0), "scale": (0.7, 1.3)}
    return unflatten(
        {
            path: rng.uniform(*ranges.get(path.split("/")[-1], (-0.3, 0.3)), shape).astype(np.float32)
            for path, shape in expected_shapes(SPEC).items()
        }
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save_checkpoint(path, variables=variables(), spec=SPEC)
    return path


@pytest.fixture
def in_this_process(monkeypatch):
    """TensorFlow, with which other tests may have computed by now, refuses another number of threads then."""
    import tensorflow as tf

    monkeypatch.setattr(tf.config.threading, "set_intra_op_parallelism_threads", lambda threads: None)


def measured_leg(model, framework, task):
    leg = Leg(framework=framework, task=task, model=str(model), batch_size=2, threads=1, warm_up=1, repeats=3)
    return run_leg("jaxsep.compare.speed_leg", leg, framework=framework, threads=1)


def test_all_frameworks_estimate_and_learn_the_same(in_this_process):
    """Ten steps from the same weights on the same magnitudes; PyTorch's are the expected losses."""
    rng = np.random.default_rng(1)
    mixture = np.abs(rng.standard_normal((2, *SPEC.input_shape()), np.float32))
    sources = np.abs(rng.standard_normal((2, 2, *SPEC.input_shape()), np.float32))
    estimates, losses, trained = {}, {}, {}
    threads, start = torch.get_num_threads(), flatten(variables())
    try:
        # torch.compile takes a minute to compile a step; that it runs is seen by its own leg below.
        for name in ("torch", "jax", "tensorflow", "tensorflow-function"):
            framework = FRAMEWORKS[name](SPEC, variables(), threads)
            compile_call, estimate = framework.inference(mixture)
            compile_call()
            estimates[name] = estimate()
            compile_step, step = framework.training(mixture, sources)
            compile_step()
            losses[name] = [step(mixture, sources) for _ in range(10)]
            trained[name] = flatten(framework.variables())
    finally:
        torch.set_num_threads(threads)
    for name in ("jax", "tensorflow", "tensorflow-function"):
        # float32 rounding through five layers.
        assert np.abs(estimates[name] - estimates["torch"]).max() < 1e-5 * np.abs(estimates["torch"]).max(), name
        # Rounding grows with Adam's steps, of a ten-thousandth each; a wrong optimizer or loss differs from 1e-4 on.
        np.testing.assert_allclose(losses[name], losses["torch"], rtol=1e-5, err_msg=name)
        for path, expected in trained["torch"].items():
            # Ten steps of 1e-4 and less; Adam makes the most of the rounding of gradients near zero.
            assert np.abs(trained[name][path] - expected).max() < 1e-4, (name, path)
            assert np.abs(trained[name][path] - start[path]).max() > 0 or "batch_stats" in path
    assert losses["torch"][-1] < losses["torch"][0]


def test_frameworks_learn_the_same_on_waveforms(in_this_process):
    """A step of each on the Wave-U-Net, which estimates the middle of what it sees."""
    published = wave_unet.SPECS["wave-unet-m4"]
    config = published.config.model_copy(update={"levels": 1, "filters": 2})
    procedure = Procedure(cutting=whole_outputs(*config.lengths(500), last="shifted"))
    spec = published.model_copy(update={"config": config, "procedure": procedure})
    rng = np.random.default_rng(1)
    shapes = expected_shapes(spec)
    drawn = unflatten({path: rng.uniform(0.1, 0.3, shape).astype(np.float32) for path, shape in shapes.items()})
    mixture = rng.standard_normal((1, *spec.input_shape()), np.float32)
    sources = rng.standard_normal((1, 2, *spec.output_shape()), np.float32)
    threads, losses = torch.get_num_threads(), {}
    try:
        for name in ("torch", "jax", "tensorflow"):
            compile_step, step = FRAMEWORKS[name](spec, drawn, threads).training(mixture, sources)
            compile_step()
            losses[name] = [step(mixture, sources) for _ in range(2)]
    finally:
        torch.set_num_threads(threads)
    for name in ("jax", "tensorflow"):
        # The second step sees what Adam made of the first; float32 rounding.
        np.testing.assert_allclose(losses[name], losses["torch"], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(("framework", "task"), [("jax", "training"), ("torch-compile", "inference")])
def test_a_leg_measures_in_a_process_of_its_own(model, framework, task):
    measured = measured_leg(model, framework, task)
    assert len(measured["call_seconds"]) == 3 and min(measured["call_seconds"]) > 0
    assert np.isfinite(measured["first_value"]) and measured["import_seconds"] > 0.01
    # The network's weights are some kilobytes; what counts is the frameworks themselves.
    assert 5e7 < measured["memory_after_import_bytes"] <= measured["peak_memory_bytes"] < 4e9
    assert measured["segment_seconds"] == 512 / 8000


def test_legs_that_cannot_run_say_why(model, monkeypatch):
    monkeypatch.setattr("os.getloadavg", lambda: (3.25, 0.0, 0.0))
    monkeypatch.setitem(PACKAGES, "torch", "torch_that_is_not_here")
    report = measure_speed(str(model), frameworks=("jax", "torch"), tasks=("inference",), rounds=2, repeats=2)
    ours, theirs = report["rows"]
    assert theirs == {
        "framework": "torch",
        "task": "inference",
        "not_run": "the package 'torch_that_is_not_here' is not installed here",
    }
    assert ours["audio_seconds_per_second"] == pytest.approx(512 / 8000 / ours["p50_seconds"])
    assert ours["p50_seconds"] <= ours["p95_seconds"] and len(ours["round_medians_seconds"]) == 2
    text = to_markdown(report)
    medians = ours["round_medians_seconds"]
    assert ours["between_rounds"] == pytest.approx((max(medians) - min(medians)) / max(medians))
    assert report["load_average"]["before"] == 3.25 and report["load_average"]["during"] == 3.25
    assert "**busy machine: do not quote** (the load average was 3.2 before" in text
    assert "calls / s, without transforms" in text
    assert "| torch | not run: the package 'torch_that_is_not_here' is not installed here |" in text
    assert all(rule in text for rule in RULES)


def test_a_leg_that_fails_is_told_in_a_sentence(tmp_path):
    assert "refused" in measured_leg(tmp_path / "absent.safetensors", "jax", "inference")


def test_the_command_writes_both_reports_and_overwrites_none(model, tmp_path):
    arguments = ["compare", "speed", str(model), "-o", str(tmp_path / "out"), "--frameworks", "jax"]
    arguments += ["--task", "inference", "--rounds", "1", "--repeats", "2"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "out/speed.json").read_text())
    assert [row["framework"] for row in report["rows"]] == ["jax"]
    assert (tmp_path / "out/speed.md").read_text() in done.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["speed.json", "speed.md"]
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2 and "--overwrite" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--frameworks", "jaxx"], "There is no framework 'jaxx'. Did you mean 'jax'?"),
        (["--task", "learning"], "--task is 'learning'; give 'inference', 'training' or 'both'."),
        (["--threads", "4096"], "--threads is 4096, and there are"),
    ],
)
def test_what_cannot_be_compared_is_refused(model, tmp_path, arguments, sentence):
    done = CliRunner().invoke(app, ["compare", "speed", str(model), "-o", str(tmp_path), *arguments])
    assert done.exit_code == 2 and sentence in done.stderr
