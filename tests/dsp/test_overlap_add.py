"""Overlap-add: a model that changes nothing returns its input, however the track is cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsep.dsp.overlap_add import Chunking, overlap_add, split_into_chunks
from jaxsep.errors import ConfigError


@st.composite
def cross_faded(draw):
    chunk_length = draw(st.integers(1, 60))
    return Chunking(
        chunk_length=chunk_length,
        chunk_hop=draw(st.integers(1, chunk_length)),
        lead=draw(st.integers(0, 40)),
        window="triangular",
    )


@settings(deadline=None, max_examples=40)
@given(length=st.integers(1, 300), chunking=cross_faded())
def test_an_identity_model_returns_its_input_for_every_length_and_hop(length, chunking):
    audio = np.random.default_rng(length).uniform(-1, 1, (length, 2)).astype(np.float32)
    chunks = split_into_chunks(jnp.asarray(audio), chunking)
    assert chunks.shape == (chunking.count(length), chunking.chunk_length, 2)
    restored = overlap_add(chunks, chunking, length=length)
    np.testing.assert_allclose(restored, audio, atol=1e-6)  # one float32 sum of at most 60 shares of one value below 1


@settings(deadline=None, max_examples=15)
@given(length=st.integers(1, 300), hop=st.integers(1, 40), overlaps=st.integers(1, 4), data=st.data())
def test_chunks_that_fade_by_themselves_are_added_as_they_are(length, hop, overlaps, data):
    lead = data.draw(st.integers((overlaps - 1) * hop, overlaps * hop))
    chunking = Chunking(chunk_length=overlaps * hop, chunk_hop=hop, lead=lead)
    audio = np.random.default_rng(length).uniform(-1, 1, (length, 1)).astype(np.float32)
    restored = overlap_add(split_into_chunks(jnp.asarray(audio), chunking), chunking, length=length)
    np.testing.assert_allclose(restored, overlaps * audio, atol=1e-6)


def test_overlap_add_is_vmappable_jittable_and_its_gradient_is_the_transpose():
    chunking = Chunking(chunk_length=8, chunk_hop=5, window="triangular")
    rng = np.random.default_rng(0)
    count = chunking.count(31)
    chunks = jnp.asarray(rng.standard_normal((3, count, 8, 2)).astype(np.float32))
    add = jax.jit(lambda chunks: overlap_add(chunks, chunking, length=31))
    np.testing.assert_allclose(add(chunks), jax.vmap(add)(chunks), atol=1e-6)
    # A linear map's gradient of <y, Ax> with respect to x is its transpose: <y, Ax> = <A'y, x>.
    y = jnp.asarray(rng.standard_normal((3, 31, 2)).astype(np.float32))
    transposed = jax.grad(lambda chunks: (y * add(chunks)).sum())(chunks)
    np.testing.assert_allclose((transposed * chunks).sum(), (y * add(chunks)).sum(), rtol=1e-4)


def test_a_hop_longer_than_the_chunk_is_refused():
    with pytest.raises(ConfigError, match="must not exceed chunk_length"):
        Chunking.parse({"chunk_length": 4, "chunk_hop": 5}, where="the test")
