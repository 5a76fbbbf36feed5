"""Overlap-add: a model that changes nothing returns its input, however the track is cut."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsep.dsp.cuts import Chunking, SampleCuts
from jaxsep.dsp.overlap_add import overlap_add, split_into_chunks
from jaxsep.errors import ConfigError


@st.composite
def chunkings(draw):
    last = draw(st.sampled_from(["padded", "centred", "own_length", "reflected"]))
    windows = ["fades"] if last == "reflected" else ["none", "crossfade", "triangular"]
    chunk_length = draw(st.integers(10 if last == "reflected" else 1, 60))
    return Chunking(
        chunk_length=chunk_length,
        chunk_hop=draw(st.integers(1, chunk_length // 2 if last == "reflected" else chunk_length)),
        window=draw(st.sampled_from(windows)),
        window_batch=draw(st.integers(1, 3)),
        last=last,
    )


@partial(jax.jit, static_argnums=1)  # one program for each cutting, and not one for each operation in it
def identity(audio, chunking):
    cuts = SampleCuts(chunking)
    groups = [(chunks, chunks.samples * chunks.weights[..., None]) for chunks in split_into_chunks(audio, cuts)]
    return overlap_add(groups, cuts, length=audio.shape[-2])


@settings(deadline=None, max_examples=60)
@given(length=st.integers(1, 300), chunking=chunkings())
def test_an_identity_model_returns_its_input_for_every_length_hop_window_and_end(length, chunking):
    audio = np.random.default_rng(length).uniform(-1, 1, (length, 2)).astype(np.float32)
    restored = np.array(identity(jnp.asarray(audio), chunking))
    if chunking.window == "fades" and length <= 2 * chunking.overlap:
        # Without reflected ends, msst's windows are zero at the very ends unless those chunks are unfaded.
        ends = [0, -1]
        assert all((restored[end] == 0).all() or np.allclose(restored[end], audio[end]) for end in ends)
        restored[ends] = audio[ends]
    np.testing.assert_allclose(restored, audio, atol=1e-6)  # one float32 sum of at most 60 shares of one value below 1


def test_overlap_add_is_vmappable_jittable_and_its_gradient_is_the_transpose():
    chunking = Chunking(chunk_length=8, chunk_hop=5, window="crossfade")
    rng = np.random.default_rng(0)
    audio = jnp.asarray(rng.standard_normal((3, 31, 2)).astype(np.float32))
    cuts = SampleCuts(chunking)
    (chunks,) = split_into_chunks(audio[0], cuts)
    estimates = jnp.asarray(rng.standard_normal((3, len(chunks.cuts), 8, 2)).astype(np.float32))
    add = jax.jit(lambda estimates: overlap_add([(chunks, estimates)], cuts, length=31))
    np.testing.assert_allclose(add(estimates), jax.vmap(add)(estimates), atol=1e-6)
    # A linear map's gradient of <y, Ax> with respect to x is its transpose: <y, Ax> = <A'y, x>.
    transposed = jax.grad(lambda estimates: (audio * add(estimates)).sum())(estimates)
    np.testing.assert_allclose((transposed * estimates).sum(), (audio * add(estimates)).sum(), rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunk_hop": 5}, "must not exceed estimate_length"),
        ({"estimate_length": 5}, "must not exceed chunk_length"),
        ({"last": "shifted", "chunk_hop": 2}, "side by side"),
        ({"last": "centred", "estimate_length": 2, "chunk_hop": 2}, "estimate all of what they see"),
        ({"window": "fades"}, "two halves of one procedure"),
    ],
)
def test_cuttings_that_contradict_themselves_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Chunking.parse({"chunk_length": 4, "chunk_hop": 4, **changes}, where="the test")
