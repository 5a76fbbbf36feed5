"""The moving window: what it cuts and adds is what the definition says, whatever blocks arrive."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsep.dsp.overlap_add import Chunking
from jaxsep.separation.window import ChunkCutter, OverlapAdder


@st.composite
def chunkings(draw):
    chunk_length = draw(st.integers(1, 40))
    return Chunking(
        chunk_length=chunk_length,
        chunk_hop=draw(st.integers(1, chunk_length)),
        lead=draw(st.integers(0, 60)),
        window=draw(st.sampled_from(["none", "triangular"])),
    )


def cut(blocks, chunking):
    cutter = ChunkCutter(chunking, channels=2)
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
    streamed = np.concatenate([*finished, adder.finish()], axis=1)[0, :length]
    # Float32 sums of up to forty values below one.
    np.testing.assert_allclose(streamed, expected[chunking.lead : chunking.lead + length], atol=1e-5)


def test_memory_of_the_window_does_not_grow_with_the_track():
    chunking = Chunking(chunk_length=1000, chunk_hop=900)
    cutter, adder = ChunkCutter(chunking, channels=2), OverlapAdder(chunking, sources=3, channels=2)
    held = []
    for _ in range(50):
        for chunk in cutter.push(np.ones((700, 2), np.float32)):
            list(adder.add(np.stack([chunk] * 3)))
        held.append(cutter._window.nbytes + adder._tail.nbytes)
    assert set(held) == {1000 * 2 * 4 + 100 * 3 * 2 * 4}
