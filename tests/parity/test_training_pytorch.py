"""Training against PyTorch: the same start, the same batches, the same optimizer."""

from functools import partial

import jax
import numpy as np
import pytest
import torch
from training.step_runs import SPEC, assert_close, batch_of, initial_variables, run, step_and_state

from jaxsep.compare.reference import unet as reference
from jaxsep.training.optimizer import OptimizerConfig


@pytest.mark.parametrize(
    "kind, rate, steps, losses, updates", [("adam", 1e-4, 50, 1e-4, 1e-2), ("sgd", 1e-2, 5, 1e-5, 1e-4)]
)
def test_training_matches_pytorch(kind, rate, steps, losses, updates):
    """The same start, batches and optimizer: each step's loss (relative), each leaf and its update (relative L2).

    At a rate of 1e-4 rounding stays small through 50 Adam steps (at 1e-3 it moves the loss by 6e-4); Adam divides small
    gradients by their own size, so single elements of an update may differ. Of SGD the parameters agree to 1e-5; their
    updates are a hundredth of them, and what float32 keeps of a parameter is 1e-7.
    """
    variables = initial_variables()
    step, state = step_and_state(OptimizerConfig(kind=kind, learning_rate=rate))
    network = reference.UNet(SPEC.config)
    reference.load_variables(network, variables)
    network.train()
    make = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[kind]
    optimizer = make([p for p in network.parameters() if p.requires_grad], lr=rate)
    found, told = run(jax.jit(partial(step, axis_name=None)), state, steps)
    for index in range(steps):
        batch = batch_of(index)
        heard, targets = magnitude(batch.mixture), magnitude(batch.sources)
        estimates = network(heard)
        loss = (estimates - targets).abs().mean(dim=(2, 3, 4)).sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert told[index].loss == pytest.approx(loss.item(), rel=losses), f"step {index}"
    before, after = (
        reference.to_state_dict({"params": tree["params"]}) for tree in (variables, {"params": found.params})
    )
    theirs = network.state_dict()
    assert_close(after, {name: theirs[name].numpy() for name in after}, 1e-5 if kind == "sgd" else 1e-2)
    assert_close(
        {name: (after[name] - before[name]).numpy() for name in after},
        {name: (theirs[name] - before[name]).numpy() for name in after},
        updates,
    )


def magnitude(waveforms):
    """(..., time, channel) to (..., channel, frame, freq) by torch.stft, uncentred."""
    n_fft, hop = SPEC.domain.stft.n_fft, SPEC.domain.stft.hop_length
    audio = torch.from_numpy(np.moveaxis(np.asarray(waveforms), -1, -2).copy())
    spectrum = torch.stft(
        audio.reshape(-1, audio.shape[-1]), n_fft, hop, window=torch.hann_window(n_fft), center=False,
        return_complex=True,
    ).abs()  # fmt: skip
    return spectrum.reshape(*audio.shape[:-1], *spectrum.shape[1:])[..., : SPEC.domain.bins, :].transpose(-1, -2)
