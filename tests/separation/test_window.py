"""The moving window: what it cuts and adds is what the definition says, whatever blocks arrive."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsep.dsp.overlap_add import Chunking, overlap_add, split_into_chunks
from jaxsep.separation.window import ChunkCutter, OverlapAdder, SideBySide


@st.composite
def chunkings(draw):
    chunk_length = draw(st.integers(1, 40))
    return Chunking(
        chunk_length=chunk_length,
        chunk_hop=draw(st.integers(1, chunk_length)),
        lead=draw(st.integers(0, 60)),
        window=draw(st.sampled_from(["none", "triangular"])),
    )


@st.composite
def with_context(draw):
    """Estimates side by side, in the middle of what is seen."""
    context, hop = draw(st.integers(0, 30)), draw(st.integers(1, 20))
    last = draw(st.sampled_from(["padded", "shifted"]))
    return Chunking(chunk_length=hop + 2 * context, chunk_hop=hop, lead=context, context=context, last=last)


def cut(blocks, chunking):
    cutter = ChunkCutter(chunking, channels=blocks[0].shape[1])
    chunks = [chunk for block in blocks for chunk in cutter.push(block)]
    return [*chunks, *cutter.finish()]


@settings(deadline=None, max_examples=200)
@given(lengths=st.lists(st.integers(0, 90), min_size=1, max_size=8), chunking=chunkings())
def test_chunks_do_not_depend_on_the_blocks_they_came_in(lengths, chunking):
    audio = np.arange(2 * (sum(lengths) + 1), dtype=np.float32).reshape(-1, 2) + 1
    blocks = np.split(audio, np.cumsum(lengths))
    chunks = cut(blocks, chunking)
    assert len(chunks) == chunking.count(len(audio))
    for index, chunk in enumerate(chunks):
        start = index * chunking.chunk_hop - chunking.lead
        positions = np.arange(start, start + chunking.chunk_length)
        inside = (positions >= 0) & (positions < len(audio))
        np.testing.assert_array_equal(chunk[inside], audio[positions[inside]])
        assert (chunk[~inside] == 0).all()


@settings(deadline=None, max_examples=200)
@given(length=st.integers(1, 200), chunking=chunkings())
def test_adding_in_a_moving_window_equals_float64_sums_over_the_whole_track(length, chunking):
    chunks = np.random.default_rng(length).uniform(-1, 1, (chunking.count(length), chunking.chunk_length, 1))
    total, weights = np.zeros((2, chunking.lead + length + 2 * chunking.chunk_length, 1))
    # The triangle by its definition: distance to the nearer end, flat where one chunk is alone.
    distance = 1 + np.minimum(np.arange(chunking.chunk_length), np.arange(chunking.chunk_length)[::-1])
    triangle = np.minimum(distance, max(chunking.chunk_length - chunking.chunk_hop, 1))[:, None]
    for index, chunk in enumerate(chunks):
        place = slice(index * chunking.chunk_hop, index * chunking.chunk_hop + chunking.chunk_length)
        total[place] += chunk if chunking.window == "none" else chunk * triangle
        weights[place] += triangle
    expected = total if chunking.window == "none" else total / np.maximum(weights, 1)
    adder = OverlapAdder(chunking, sources=1, channels=1)
    finished = [block for chunk in chunks for block in adder.add(chunk[None].astype(np.float32))]
    streamed = np.concatenate([*finished, adder.finish(length)], axis=1)[0, :length]
    # Float32 sums of up to forty values below one.
    np.testing.assert_allclose(streamed, expected[chunking.lead : chunking.lead + length], atol=1e-5)


def estimate(chunk, chunking):
    """As of a network whose estimate of a sample tells of the ends of its context, and of its place in the chunk."""
    middle = chunk[chunking.context : chunking.context + chunking.chunk_hop]
    places = np.arange(chunking.chunk_hop, dtype=np.float32)[:, None]
    return (middle + 10 * places + 1000 * chunk[:1] + chunk[-1:])[None]


def published_loop(audio, chunking):
    """Evaluate.py of f90/Wave-U-Net where the last chunk is shifted, test.py of its redesign where it is padded."""
    context, hop, length = chunking.context, chunking.chunk_hop, len(audio)
    missing = max(chunking.chunk_length - length, 0) if chunking.last == "shifted" else -length % hop
    track = np.pad(audio, [(0, missing), (0, 0)])
    padded = np.pad(track, [(context, context), (0, 0)])
    expected = np.zeros((1, *track.shape), np.float32)
    for position in range(0, len(track), hop):
        position = min(position, len(track) - hop)
        expected[:, position : position + hop] = estimate(padded[position : position + chunking.chunk_length], chunking)
    return expected[:, :length]


def uniform(length):
    return np.random.default_rng(length).uniform(-1, 1, (length, 1)).astype(np.float32)


@settings(deadline=None, max_examples=200)
@given(lengths=st.lists(st.integers(0, 60), min_size=1, max_size=5), chunking=with_context())
def test_estimates_with_context_are_those_of_the_published_loops(lengths, chunking):
    audio = uniform(sum(lengths) + 1)
    chunks = cut(np.split(audio, np.cumsum(lengths)), chunking)
    adder = SideBySide(chunking) if chunking.last == "shifted" else OverlapAdder(chunking, sources=1, channels=1)
    finished = [block for chunk in chunks for block in adder.add(estimate(chunk, chunking))]
    streamed = np.concatenate([*finished, adder.finish(len(audio))], axis=1)[:, : len(audio)]
    np.testing.assert_array_equal(streamed, published_loop(audio, chunking))  # nothing is added but zeros


@pytest.mark.parametrize("last", ["padded", "shifted"])
@pytest.mark.parametrize("length", [3, 13, 25, 40, 65])
def test_so_are_those_of_whole_tracks(last, length):
    chunking = Chunking(chunk_length=33, chunk_hop=13, lead=10, context=10, last=last)
    audio = uniform(length)
    chunks = split_into_chunks(jnp.asarray(audio), chunking)
    np.testing.assert_array_equal(chunks, np.stack(cut([audio], chunking)))
    estimates = jnp.stack([jnp.asarray(estimate(np.asarray(chunk), chunking)[0]) for chunk in chunks])
    found = overlap_add(estimates, chunking, length=length)
    np.testing.assert_array_equal(found, published_loop(audio, chunking)[0])


def test_memory_of_the_window_does_not_grow_with_the_track():
    chunking = Chunking(chunk_length=1000, chunk_hop=900)
    cutter, adder = ChunkCutter(chunking, channels=2), OverlapAdder(chunking, sources=3, channels=2)
    held = []
    for _ in range(50):
        for chunk in cutter.push(np.ones((700, 2), np.float32)):
            list(adder.add(np.stack([chunk] * 3)))
        held.append(cutter._window.nbytes + adder._tail.nbytes)
    assert set(held) == {1000 * 2 * 4 + 100 * 3 * 2 * 4}
