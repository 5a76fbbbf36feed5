"""The U-Net against its PyTorch twin with the same random weights: layers, gradients, a training step's statistics.

PyTorch's own layers are the oracle of each operation. That both build the network that Spleeter published is for the
tests with its own weights and code.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from parity.twins import (
    GRADIENTS,
    GRADIENTS_IN_FLOAT64,
    OUTPUTS,
    assert_training_step_matches,
    from_torch,
    largest_error,
    random_magnitude,
    random_variables,
    to_torch,
)
from torch.utils.flop_counter import FlopCounterMode

from jaxsep.compare import network_speed
from jaxsep.compare.network_speed import measure_forward, multiplications
from jaxsep.compare.reference import unet as reference
from jaxsep.models.convolutions import down, mask_convolution, up
from jaxsep.models.unet import PRESETS, SPLEETER_2STEMS, UNet, UNetConfig


def reduced(name, **changes):
    """A published form on 128 bins: the same layers and weights, a sixty-fourth of the work on 64 frames."""
    return PRESETS[name].model_copy(update={"bins": 128, **changes})


def twin_of(config, variables):
    network = reference.UNet(config)
    reference.load_variables(network, variables)
    return network


@pytest.mark.parametrize("form", ["native", "auto"])
def test_each_convolution_matches_torchs_layer(form):
    rng = np.random.default_rng(2)
    draw = lambda *shape: rng.standard_normal(shape, np.float32)  # noqa: E731
    kernel, large, small, mono, taps = (
        draw(5, 5, 32, 64), draw(2, 24, 16, 32), draw(2, 12, 8, 64), draw(2, 24, 16, 1), draw(4, 4, 1, 2)
    )  # fmt: skip
    weight = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    padded = torch.nn.functional.pad(to_torch(large), (1, 2, 1, 2))
    strided = torch.nn.functional.conv2d(padded, weight, stride=2)
    assert largest_error(down(jnp.asarray(large), jnp.asarray(kernel), form), from_torch(strided)) < OUTPUTS
    # torch stores a transposed convolution's weight like that of the convolution it transposes: the same permutation.
    transposed = torch.nn.functional.conv_transpose2d(to_torch(small), weight, stride=2)[..., 1:-2, 1:-2]
    assert largest_error(up(jnp.asarray(small), jnp.asarray(kernel), form), from_torch(transposed)) < OUTPUTS
    dilated = torch.nn.functional.conv2d(
        to_torch(mono), torch.from_numpy(taps.transpose(3, 2, 0, 1).copy()), padding=3, dilation=2
    )
    assert largest_error(mask_convolution(jnp.asarray(mono), jnp.asarray(taps), form), from_torch(dilated)) < OUTPUTS


@functools.partial(jax.jit, static_argnums=0)
def layers_of(network, variables, magnitude):
    return network.apply(variables, magnitude, train=False, capture_intermediates=True)


@pytest.mark.parametrize("name", ["2stems", "4stems", "5stems"])
def test_every_layer_of_every_published_form_matches_torch(name):
    config = reduced(name, n_sources=2)
    variables, magnitude = random_variables(UNet(config)), random_magnitude(config, 2, 128)
    estimates, captured = layers_of(UNet(config), variables, jnp.asarray(magnitude))
    network = twin_of(config, variables).eval()
    theirs = reference.layer_outputs(network, to_torch(magnitude))
    compared = 0
    for source in ("source_0", "source_1"):
        ours = captured["intermediates"][source]
        for i in range(6):
            pairs = {
                f"encoder_{i}/conv": ours[f"encoder_{i}"]["conv"]["__call__"][0],
                f"decoder_{i}/conv": ours[f"decoder_{i}"]["conv"]["__call__"][0],
                f"decoder_{i}/norm": ours[f"decoder_{i}"]["norm"]["__call__"][0],
                f"decoder_{i}/dropout": ours[f"decoder_{i}"]["__call__"][0],
            }
            if i < 5:
                pairs[f"encoder_{i}/norm"] = ours[f"encoder_{i}"]["norm"]["__call__"][0]
                pairs[f"encoder_{i}/activation"] = ours[f"encoder_{i}"]["__call__"][0][1]
            for layer, output in pairs.items():
                oracle = theirs[f"{source}/{layer}"]
                oracle = oracle[..., : output.shape[1], : output.shape[2]]
                assert largest_error(output, from_torch(oracle)) < OUTPUTS, f"{source}/{layer}"
                compared += 1
        assert largest_error(ours["mask"]["__call__"][0], from_torch(theirs[f"{source}/mask"])) < OUTPUTS
    assert compared == 2 * (6 * 4 + 5 * 2)
    with torch.inference_mode():
        expected = from_torch(network(to_torch(magnitude)))
    assert largest_error(estimates, expected) < OUTPUTS
    # Masks that were all nothing or all one would hide what is before them.
    masks = expected / np.maximum(magnitude[:, None], 1e-12)
    assert 0.05 < masks.std()


# The others are these with another number of bins.
@pytest.mark.parametrize("name", ["2stems-16kHz", "4stems", "5stems-16kHz"])
def test_every_published_form_with_all_its_sources_matches_torch(name):
    config = PRESETS[name].model_copy(update={"bins": 192 if "16kHz" in name else 128})
    variables, magnitude = random_variables(UNet(config), seed=3), random_magnitude(config, 1, 64)
    estimates = jax.jit(lambda v, x: UNet(config).apply(v, x, train=False))(variables, jnp.asarray(magnitude))
    with torch.inference_mode():
        expected = from_torch(twin_of(config, variables).eval()(to_torch(magnitude)))
    assert largest_error(estimates, expected) < OUTPUTS


def test_the_published_size_matches_torch():
    """512 frames of 1024 bins, where the largest forms of the convolutions are chosen."""
    config = SPLEETER_2STEMS
    variables, magnitude = random_variables(UNet(config), seed=4), random_magnitude(config, 1, 512)
    estimates = jax.jit(lambda v, x: UNet(config).apply(v, x, train=False))(variables, jnp.asarray(magnitude))
    with torch.inference_mode():
        expected = from_torch(twin_of(config, variables).eval()(to_torch(magnitude)))
    assert largest_error(estimates, expected) < OUTPUTS


@pytest.mark.parametrize(
    ("name", "sources", "batch_statistics", "float64"),
    [("2stems", 1, False, True), ("2stems", 1, True, True), ("4stems", 1, True, False), ("5stems", 2, False, False)],
)
def test_gradients_and_statistics_of_a_training_step_match_torch(name, sources, batch_statistics, float64):
    """Forms with kinks in float64, so through native convolutions; smooth ones in float32, through the platform's.

    Native convolutions are the same at every width, so those are narrow.
    """
    widths = {"filters": (2, 4, 6, 8, 10, 12)} if float64 else {}
    config = reduced(name, n_sources=sources, dropout=0.0, **widths)
    network = UNet(config.model_copy(update={"batch_statistics": batch_statistics}))
    assert_training_step_matches(
        network,
        reference.UNet(network.config),
        random_variables(network, seed=5),
        random_magnitude(config, 2, 64),
        float64=float64,
        tolerance=GRADIENTS_IN_FLOAT64 if float64 else GRADIENTS,
    )


def test_counted_multiplications_are_torchs():
    config = reduced("2stems")
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        reference.UNet(config).eval()(torch.zeros(1, 2, 64, config.bins))
    # torch counts a multiplication and an addition for each.
    assert 2 * multiplications(config, 64) == counter.get_total_flops()


def test_measured_speeds_are_consistent_and_fit_into_json(monkeypatch):
    # Of smaller matrices than are worth reporting, which take a hundredth of a second and not three.
    monkeypatch.setattr(network_speed, "matrix_peak", functools.partial(network_speed.matrix_peak, size=256))
    config = UNetConfig(n_sources=2, bins=32, filters=(4, 8, 8))
    results = json.loads(json.dumps(measure_forward(batch_sizes=(1, 2), frames=16, repeats=3, config=config)))
    assert [row["batch"] for row in results["forward"]] == [1, 2]
    for row in results["forward"]:
        assert row["largest_difference"] < OUTPUTS
        medians, minima = row["median_seconds"], row["minimum_seconds"]
        assert 0 < minima["jaxsep"] <= medians["jaxsep"]
        assert row["times_as_fast_as_pytorch"] == medians["pytorch"] / medians["jaxsep"]
        operations = row["fraction_of_matrix_peak"] * results["matrix_peak_gflops_per_second"] * medians["jaxsep"]
        assert operations == pytest.approx(2e-9 * row["batch"] * multiplications(config, 16))
