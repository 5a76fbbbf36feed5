"""The recipes of Demucs in configs/ against the official configs, and what fine-tuning starts from."""

from pathlib import Path

import numpy as np
import pytest

from jaxsep.models.ensemble import EnsembleSpec
from jaxsep.training.optimizer import build_optimizer
from jaxsep.weights.demucs import demucs_spec
from jaxsep.weights.ensembles import save_ensemble
from jaxsep.weights.tree import expected_shapes, flatten, unflatten
from train.config import load_config
from train.program import initial_variables

CONFIGS = Path(__file__).parents[2] / "configs"


def load(name, *overrides):
    return load_config(CONFIGS / f"{name}.yaml", ["data.root=/data/tracks", *overrides])


@pytest.mark.parametrize(
    ("name", "batch_size", "read_seconds"), [("htdemucs", 32, 10), ("hdemucs", 64, 11), ("demucs_v3", 64, 11)]
)
def test_the_recipes_of_demucs_are_those_of_its_config(name, batch_size, read_seconds):
    """conf/config.yaml, grids/mmi.py and grids/repro.py of facebookresearch/demucs; solver.py averages over sources.

    Of what is read repitch.py leaves 88 % and augment.py a second less.
    """
    config = load(name)
    assert [(term.kind, term.weight) for term in config.loss.terms] == [("waveform_l1", 1 / 4)]
    assert (config.optimizer.kind, config.optimizer.learning_rate) == ("adam", 3e-4)
    assert (config.optimizer.b1, config.optimizer.b2, config.optimizer.eps) == (0.9, 0.999, 1e-8)
    assert (config.optimizer.schedule.kind, config.optimizer.clip_norm) == ("constant", None)
    assert (config.training.batch_size, config.training.ema_decay, config.training.ema_unbiased) == (
        batch_size,
        0.9995,
        True,
    )
    assert config.segment_length == int(0.88 * read_seconds * 44100) - 44100
    augment = config.augment
    assert (augment.gain_low, augment.gain_high, augment.remix, augment.remix_group) == (0.25, 1.25, 0, 4)
    assert (augment.swap_channels, augment.flip_polarity, augment.shift, augment.shift_together) == (
        0.5,
        0.5,
        44100,
        False,
    )
    assert (augment.stretch, augment.pitch_semitones, augment.tempo) == (0.2, 2, 0.12)


def bag_of_small_networks(path):
    """Writes four HT Demucs, one for each source, whose variables are their number."""
    stems = ("drums", "bass", "other", "vocals")
    shape = {"channels": 8, "nfft": 64, "depth": 1, "t_layers": 1, "t_heads": 1, "segment": 1, "samplerate": 8000}
    members = [
        demucs_spec("demucs.htdemucs.HTDemucs", (stems,), shape, name=stem, segment=None, where="the test")
        for stem in stems
    ]
    variables = [
        unflatten({key: np.full(shape, number, np.float32) for key, shape in expected_shapes(member).items()})
        for number, member in enumerate(members)
    ]
    spec = EnsembleSpec(
        name="bag", members=members, weights=np.eye(4).tolist(), licence="none", provenance="made up"
    )  # fmt: skip
    save_ensemble(path, spec, variables)
    return path


def test_fine_tuning_of_demucs_starts_from_a_member_of_a_bag_for_its_source(tmp_path):
    """grids/mmi_ft.py, but that its four networks are the start; here a bag of four small ones."""
    path = bag_of_small_networks(tmp_path / "bag.safetensors")
    config = load("htdemucs_finetune", f"init.checkpoint={path}")
    assert (config.model.name, config.model.provenance.partition(" with ")[0]) == (
        "htdemucs-finetune",
        "fine-tuned from vocals",
    )
    assert config.loss.stem_weights == (0, 0, 0, 1)
    optimizer = config.optimizer
    assert (optimizer.kind, optimizer.learning_rate, optimizer.clip_norm) == ("adamw", 1e-4, 5)
    assert (optimizer.weight_decay, optimizer.decayed) == (0.05, ("crosstransformer/*",))
    augment = config.augment
    assert (augment.gain_low, augment.gain_high, augment.remix, augment.remix_group) == (1, 1, 0, None)
    assert (augment.shift_together, augment.stretch, config.training.batch_size) == (True, 0.2, 8)
    start = flatten(initial_variables(config))
    np.testing.assert_array_equal(start["params/tencoder_0/conv/bias"], np.full(8, 3, np.float32))
    build_optimizer(optimizer, unflatten(start)["params"])
    other = load("htdemucs_finetune", f"init.checkpoint={path}", "init.member=0", "loss.stem_weights=[1,0,0,0]")
    assert other.model.provenance.startswith("fine-tuned from drums with")
