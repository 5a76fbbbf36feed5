"""Jansson's and the classic U-Net against their PyTorch twins: estimates, a training step, converted checkpoints.

The twins are written from the papers in PyTorch's own layers, which are the oracle of each operation.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from parity.twins import (
    GRADIENTS_IN_FLOAT64,
    OUTPUTS,
    assert_training_step_matches,
    from_torch,
    largest_error,
    random_magnitude,
    random_variables,
    to_torch,
)

from jaxsep.compare.reference import classic_unet as classic_reference
from jaxsep.compare.reference import jansson as jansson_reference
from jaxsep.compare.reference.unet import load_variables
from jaxsep.errors import CheckpointError, ConfigError
from jaxsep.models import FAMILIES
from jaxsep.models.classic_unet import ClassicUNetConfig
from jaxsep.models.jansson import JANSSON, JANSSON_LOG, JanssonConfig
from jaxsep.weights.convert import convert

TWINS = {"jansson": jansson_reference.JanssonUNet, "classic_unet": classic_reference.ClassicUNet}
# As deep as it takes for every kind of block, dropout's three included, and as narrow as compiles in a moment.
SMALL = {
    "jansson": JanssonConfig(n_sources=2, bins=32, filters=(4, 6, 8, 10, 12), dropout=0.0),
    "classic_unet": ClassicUNetConfig(n_sources=2, bins=32, filters=(4, 6, 8)),
}


def family_of(config):
    return next(name for name, family in FAMILIES.items() if family.config is type(config))


def network_of(config):
    return FAMILIES[family_of(config)].module(config)


def twin_of(config, variables):
    twin = TWINS[family_of(config)](config)
    load_variables(twin, variables)
    return twin.eval()


def estimates_of(config, variables, magnitude):
    network = network_of(config)
    with jax.default_matmul_precision("highest"):
        return jax.jit(lambda v, x: network.apply(v, x, train=False))(variables, jnp.asarray(magnitude))


@pytest.mark.parametrize(
    ("config", "batch", "frames"),
    [
        # At published widths, where forms of the convolutions are chosen by them; one source, since all are alike.
        (JANSSON.model_copy(update={"n_sources": 1}), 1, 128),
        (JANSSON_LOG.model_copy(update={"bins": 64}), 3, 64),
        (ClassicUNetConfig(n_sources=1, bins=128), 2, 48),
        (SMALL["classic_unet"].model_copy(update={"input_scale": "plain", "channels": 1}), 2, 20),
        (SMALL["jansson"].model_copy(update={"kernel_size": 4, "channels": 2}), 2, 96),
    ],
    ids=["jansson", "jansson-log", "classic", "small-classic-plain-mono", "small-jansson-of-4x4-stereo"],
)
def test_estimates_match_torch(config, batch, frames):
    network = network_of(config)
    variables, magnitude = random_variables(network), random_magnitude(config, batch, frames)
    with torch.inference_mode():
        expected = from_torch(twin_of(config, variables)(to_torch(magnitude)))
    assert expected.shape == (batch, config.n_sources, frames, config.bins, config.channels)
    ours = np.asarray(estimates_of(config, variables, magnitude))
    assert largest_error(ours, expected) < OUTPUTS
    # Where magnitudes are small, errors of the masks would pass; and masks that were all the same, errors before them.
    audible = np.broadcast_to(magnitude[:, None], ours.shape) > 1e-3
    magnitudes = np.broadcast_to(magnitude[:, None], ours.shape)[audible]
    assert largest_error(ours[audible] / magnitudes, expected[audible] / magnitudes) < OUTPUTS
    assert (expected[audible] / magnitudes).std() > 0.02


@pytest.mark.parametrize(
    ("family", "input_scale", "batch_statistics"),
    [("jansson", "plain", True), ("jansson", "log", False), ("classic_unet", "log", True)],
)
def test_gradients_and_statistics_of_a_training_step_match_torch(family, input_scale, batch_statistics):
    """In float64, for the kinks of their activations; one source, since compiling takes as long for each."""
    config = SMALL[family].model_copy(
        update={"n_sources": 1, "input_scale": input_scale, "batch_statistics": batch_statistics}
    )
    network = network_of(config)
    assert_training_step_matches(
        network,
        TWINS[family](config),
        random_variables(network, seed=5),
        random_magnitude(config, 2, 2 * config.stride),
        float64=True,
        tolerance=GRADIENTS_IN_FLOAT64,
    )


def trained_twin(config, *, bias, seed=0):
    """A twin after steps of training, with norms whose statistics are not where they started."""
    torch.manual_seed(seed)
    twin = TWINS[family_of(config)](config, bias=bias)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        magnitude = to_torch(random_magnitude(config, 2, 64, seed=step))
        (twin(magnitude) - 0.3 * magnitude[:, None]).abs().mean().backward()
        optimizer.step()
    if bias:
        # Training moves these biases by nothing, since the norms take them away.
        with torch.no_grad():
            for name, parameter in twin.named_parameters():
                if name.endswith("conv.bias"):
                    parameter.uniform_(-1, 1)
    return twin.eval()


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("bias", [False, True])
def test_a_converted_twin_estimates_what_torch_estimates(tmp_path, family, bias):
    # Of the published bins, which the form of a conversion has.
    config = SMALL[family].model_copy(update={"bins": FAMILIES[family].config(n_sources=1).bins})
    twin = trained_twin(config, bias=bias)
    torch.save({"state_dict": twin.state_dict()}, tmp_path / "twin.pt")
    checkpoint = convert(tmp_path / "twin.pt", output=tmp_path / "ours.safetensors", family=family)
    assert checkpoint.spec.stems == ("vocals", "accompaniment")
    assert checkpoint.spec.config.filters == config.filters
    magnitude = random_magnitude(config, 1, 32, seed=9)
    with torch.inference_mode():
        expected = from_torch(twin(to_torch(magnitude)))
    ours = estimates_of(checkpoint.spec.config, checkpoint.variables, magnitude)
    # The mean of a norm, less a bias, is rounded once more: as little as a sum's order changes.
    assert largest_error(ours, expected) < OUTPUTS


def test_networks_trained_one_by_one_become_the_stems_that_their_files_name(tmp_path):
    config = SMALL["jansson"].model_copy(update={"bins": 512, "n_sources": 1, "input_scale": "log"})
    twins = {stem: trained_twin(config, bias=True, seed=seed) for seed, stem in enumerate(("vocals", "accompaniment"))}
    (tmp_path / "networks").mkdir()
    # One of them without the twin around it.
    torch.save(twins["vocals"].state_dict(), tmp_path / "networks" / "vocals.pt")
    torch.save(twins["accompaniment"].source_0.state_dict(), tmp_path / "networks" / "accompaniment.pt")
    checkpoint = convert(
        tmp_path / "networks", output=tmp_path / "ours.safetensors", family="jansson", name="jansson-log"
    )
    magnitude = random_magnitude(config, 1, 32, seed=9)
    ours = estimates_of(checkpoint.spec.config, checkpoint.variables, magnitude)
    for source, stem in enumerate(checkpoint.spec.stems):
        with torch.inference_mode():
            expected = from_torch(twins[stem](to_torch(magnitude)))
        assert largest_error(ours[:, source], expected[:, 0]) < OUTPUTS
    (tmp_path / "networks" / "accompaniment.pt").rename(tmp_path / "networks" / "rest.pt")
    with pytest.raises(CheckpointError, match="does not say which network is which stem"):
        convert(tmp_path / "networks", output=tmp_path / "other.safetensors", family="jansson")


CONVOLUTION = torch.ones(4, 1, 5, 5)


def without(state, part):
    for name in [name for name in state if part in name]:
        del state[name]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda state: without(state, "source_1.encoder_2.norm.running_var"), CheckpointError, "left without a value"),
        (lambda state: state.update({"source_0.attention.weight": torch.ones(2)}), CheckpointError, "without a rule"),
        (
            lambda state: state.update({"source_0.encoder_2.conv.bias": torch.ones(1)}),
            CheckpointError,
            "'source_0.encoder_2.norm.running_mean'",
        ),
        (lambda state: without(state, "source_0"), CheckpointError, "which network is which stem"),
        (lambda state: without(state, "encoder_0"), CheckpointError, "holds no networks of 'jansson'"),
        (lambda state: state.update({"source_1.encoder_0.conv.weight": torch.ones(4)}), CheckpointError, "wrong shape"),
        (lambda state: state.update({"source_2.encoder_0.conv.weight": torch.ones(4)}), CheckpointError, "for 3 stems"),
        # Eleven halvings of 512 bins.
        (
            lambda state: state.update({f"source_0.encoder_{i}.conv.weight": CONVOLUTION for i in range(11)}),
            ConfigError,
            "bins .= 512. must be a multiple of 2048",
        ),
    ],
)
def test_state_dicts_that_are_not_a_twins_are_refused_by_name(tmp_path, change, error, message):
    state = dict(TWINS["jansson"](SMALL["jansson"].model_copy(update={"bins": 512}), bias=True).state_dict())
    change(state)
    torch.save(state, tmp_path / "twin.pt")
    with pytest.raises(error, match=message):
        convert(tmp_path / "twin.pt", output=tmp_path / "ours.safetensors", family="jansson")
    assert not (tmp_path / "ours.safetensors").exists()
