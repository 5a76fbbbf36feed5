"""The moving window: what it cuts and adds is what the definition says, whatever blocks arrive."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsep.dsp.cuts import Chunking, FrameCuts, SampleCuts
from jaxsep.dsp.overlap_add import overlap_add, split_into_chunks
from jaxsep.dsp.stft import STFTConfig
from jaxsep.separation.window import ChunkCutter, OverlapAdder


@st.composite
def chunkings(draw):
    chunk_length = draw(st.integers(1, 40))
    return Chunking(
        chunk_length=chunk_length,
        chunk_hop=draw(st.integers(1, chunk_length)),
        window=draw(st.sampled_from(["none", "crossfade", "triangular"])),
        window_power=draw(st.sampled_from([1, 2])),
        last=draw(st.sampled_from(["padded", "centred", "own_length"])),
    )


@st.composite
def side_by_side(draw):
    """Estimates side by side, in the middle of what is seen, and the network that has such a context."""
    context, hop = draw(st.integers(0, 30)), draw(st.integers(1, 20))
    last = draw(st.sampled_from(["padded", "shifted"]))
    chunking = Chunking(chunk_length=hop + 2 * context, estimate_length=hop, chunk_hop=hop, last=last)
    return with_context(chunking)


def with_context(chunking):
    context = chunking.context
    return chunking, SampleCuts(
        chunking,
        input_length=lambda length: length + 2 * context,
        output_length=lambda length: length - 2 * context,
    )


def cut(blocks, cuts):
    cutter = ChunkCutter(cuts, channels=blocks[0].shape[1])
    chunks = [chunk for block in blocks for chunk in cutter.push(block)]
    return [*chunks, *cutter.finish()]


def added(found, cuts):
    adder = OverlapAdder(cuts)
    blocks = [block for cut, estimates in found for block in adder.add(cut, estimates)]
    return np.concatenate([*blocks, *adder.finish()], axis=1)


@settings(deadline=None, max_examples=150)
@given(lengths=st.lists(st.integers(0, 90), min_size=1, max_size=8), chunking=chunkings())
def test_chunks_do_not_depend_on_the_blocks_they_came_in(lengths, chunking):
    cuts = SampleCuts(chunking)
    audio = np.arange(2 * (sum(lengths) + 1), dtype=np.float32).reshape(-1, 2) + 1
    chunks = cut(np.split(audio, np.cumsum(lengths)), cuts)
    assert len(chunks) == cuts.count(len(audio))
    for index, chunk in enumerate(chunks):
        expected = cuts.cut(index, len(audio))
        positions = np.arange(expected.seen_start, expected.seen_start + expected.seen_length)
        inside = (positions >= 0) & (positions < len(audio))
        np.testing.assert_array_equal(chunk.samples[inside], audio[positions[inside]])
        assert (chunk.samples[~inside] == 0).all()
        assert chunk.cut._replace(weights=None) == expected._replace(weights=None)
        np.testing.assert_array_equal(chunk.cut.weights, expected.weights)


@settings(deadline=None, max_examples=150)
@given(length=st.integers(1, 200), chunking=chunkings())
def test_adding_in_a_moving_window_equals_float64_sums_over_the_whole_track(length, chunking):
    cuts = SampleCuts(chunking)
    estimates = np.random.default_rng(length).uniform(-1, 1, (cuts.count(length), chunking.chunk_length, 1))
    total, weights = np.zeros((2, length + 2 * chunking.chunk_length, 1))
    # Windows by their definitions: a triangle over the whole chunk, a ramp over what neighbours share, or none.
    places = np.arange(chunking.chunk_length)
    distance = 1.0 + np.minimum(places, places[::-1])
    window = {
        "none": np.ones(chunking.chunk_length),
        "crossfade": np.minimum(distance, max(chunking.chunk_length - chunking.chunk_hop, 1)),
        "triangular": distance**chunking.window_power,
    }[chunking.window][:, None]
    found = []
    for index, estimate in enumerate(estimates):
        place = cuts.cut(index, length)
        used = min(chunking.chunk_length, length - place.start)
        start = index * chunking.chunk_hop
        total[start : start + used] += estimate[:used] * window[:used]
        weights[start : start + used] += window[:used]
        # What the network gives lies at the cut's offset, and comes with weights.
        given_by_network = np.zeros((1, len(place.weights), 1), np.float32)
        given_by_network[:, place.offset : place.offset + used] = estimate[:used]
        found.append((place, given_by_network * place.weights[:, None]))
    streamed = added(found, cuts)[0, :length]
    # Float32 sums of up to forty values below one, divided by a sum of weights that is no smaller than one of them.
    np.testing.assert_allclose(streamed, (total / np.maximum(weights, 1e-9))[:length], atol=2e-5)


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


@settings(deadline=None, max_examples=150)
@given(lengths=st.lists(st.integers(0, 60), min_size=1, max_size=5), cutting=side_by_side())
def test_estimates_with_context_are_those_of_the_published_loops(lengths, cutting):
    chunking, cuts = cutting
    audio = uniform(sum(lengths) + 1)
    found = [
        (place, estimate(chunk, chunking) * place.weights[:, None])
        for place, chunk in cut(np.split(audio, np.cumsum(lengths)), cuts)
    ]
    streamed = added(found, cuts)[:, : len(audio)]
    np.testing.assert_array_equal(streamed, published_loop(audio, chunking))  # nothing is added but zeros


@pytest.mark.parametrize("last", ["padded", "shifted"])
@pytest.mark.parametrize("length", [3, 13, 25, 40, 65])
def test_so_are_those_of_whole_tracks(last, length):
    chunking, cuts = with_context(Chunking(chunk_length=33, estimate_length=13, chunk_hop=13, last=last))
    audio = uniform(length)
    (chunks,) = split_into_chunks(jnp.asarray(audio), cuts)
    np.testing.assert_array_equal(chunks.samples, np.stack([samples for _, samples in cut([audio], cuts)]))
    estimates = jnp.stack([jnp.asarray(estimate(np.asarray(chunk), chunking)[0]) for chunk in chunks.samples])
    found = overlap_add([(chunks, estimates * chunks.weights[..., None])], cuts, length=length)
    np.testing.assert_array_equal(found, published_loop(audio, chunking)[0])


TRANSFORM = STFTConfig(n_fft=16, hop_length=4, convention="torch")


@pytest.mark.parametrize("length", [1, 8, 9, 17, 40, 41, 100])
def test_frames_at_the_ends_of_a_track_see_its_reflection(length):
    """As torch.stft(center=True) sees them; a track that is too short for it has zeros behind it."""
    cuts = FrameCuts(Chunking(chunk_length=16 + 4 * 4, chunk_hop=4 * 5), TRANSFORM)
    audio = uniform(length)
    extended = np.pad(np.pad(audio, [(0, max(9 - length, 0)), (0, 0)]), [(8, 8), (0, 0)], mode="reflect")
    for place, samples in cut(np.split(audio, [2, 5]), cuts):
        there = extended[place.seen_start + 8 : place.seen_start + 8 + 32]
        np.testing.assert_array_equal(samples[: len(there)], there)
        assert (samples[len(there) :] == 0).all()
        frames = (len(extended) - 16) // 4 + 1
        first = (place.seen_start + 8) // 4
        np.testing.assert_array_equal(place.weights, (np.arange(first, first + 5) < frames).astype(np.float32))


def test_memory_of_the_window_does_not_grow_with_the_track():
    cuts = SampleCuts(Chunking(chunk_length=1000, chunk_hop=900))
    cutter, adder = ChunkCutter(cuts, channels=2), OverlapAdder(cuts)
    held = []
    for _ in range(200):
        for place, samples in cutter.push(np.ones((700, 2), np.float32)):
            list(adder.add(place, np.stack([samples] * 3)))
        held.append(cutter._samples.nbytes + (0 if adder._tail is None else adder._tail.nbytes))
    assert max(held[100:]) == max(held[:100]) <= 4 * 1000 * 2 * 4 + 100 * 3 * 2 * 4
