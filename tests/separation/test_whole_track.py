"""Networks that hear the whole track: in passes over pieces, any length in bounded memory, and nothing changes."""

import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from separation.conftest import noise

from jaxsep.dsp.wiener import OPEN_UNMIX, WienerConfig
from jaxsep.errors import ConfigError, SeparationAborted, SeparationError
from jaxsep.models import FAMILIES, Family, NetworkConfig
from jaxsep.models.spec import ModelSpec
from jaxsep.models.whole_track import INPUT, OUTPUT, NetworkPass
from jaxsep.separation.estimate import estimate_sources
from jaxsep.separation.separator import Model, Separator

HIDDEN = 6


class RecurrentConfig(NetworkConfig):
    bins: int = 33


class Recurrent(nn.Module):
    """A bidirectional LSTM from frames of magnitudes to masks, and the passes by which it runs in pieces."""

    config: RecurrentConfig
    dtype: Any = None

    def setup(self):
        self.forward, self.backward = nn.OptimizedLSTMCell(HIDDEN), nn.OptimizedLSTMCell(HIDDEN)
        self.masks = nn.Dense(self.config.n_sources * self.config.bins * self.config.channels)

    def __call__(self, magnitudes, *, train):
        there = jnp.ones(magnitudes.shape[:-2], bool)
        batch = magnitudes.reshape(-1, *magnitudes.shape[-3:])
        there = there.reshape(batch.shape[:2])
        start = self.initial_carry("any", len(batch))
        _, before = self._run(self.forward, start, batch, there, reverse=False)
        _, after = self._run(self.backward, start, batch, there, reverse=True)
        found = self._masked(batch, before, after)
        return found.reshape(*magnitudes.shape[:-3], *found.shape[1:])

    def passes(self):
        return (
            NetworkPass("forwards", (INPUT,), ("frames", "before")),
            NetworkPass("backwards", ("frames",), ("after",), is_backward=True),
            NetworkPass("masks", (INPUT, "before", "after"), (OUTPUT,)),
        )

    def initial_carry(self, name, batch):
        return (jnp.zeros((batch, HIDDEN)), jnp.zeros((batch, HIDDEN)))

    def run_pass(self, name, carry, inputs, there):
        if name == "forwards":
            carry, before = self._run(self.forward, carry, inputs[INPUT], there, reverse=False)
            return carry, {"frames": inputs[INPUT], "before": before}
        if name == "backwards":
            carry, after = self._run(self.backward, carry, inputs["frames"], there, reverse=True)
            return carry, {"after": after}
        return carry, {OUTPUT: self._masked(inputs[INPUT], inputs["before"], inputs["after"])}

    def _run(self, cell, carry, magnitudes, there, *, reverse):
        def step(cell, carry, frame_and_there):
            frame, there = frame_and_there
            after, output = cell(carry, frame)
            # Frames that are not there change no state.
            carry = jax.tree.map(lambda new, old: jnp.where(there[:, None], new, old), after, carry)
            return carry, output

        along = {"in_axes": 1, "out_axes": 1, "reverse": reverse}
        scan = nn.scan(step, variable_broadcast="params", split_rngs={"params": False}, **along)
        return scan(cell, carry, (magnitudes.reshape(*magnitudes.shape[:2], -1), there))

    def _masked(self, magnitudes, before, after):
        config = self.config
        masks = nn.sigmoid(3 * self.masks(jnp.concatenate([before, after], axis=-1)))
        masks = masks.reshape(*masks.shape[:2], config.n_sources, config.bins, config.channels)
        return jnp.moveaxis(masks, 2, 1) * magnitudes[:, None]


@pytest.fixture(autouse=True)
def _family(monkeypatch):
    monkeypatch.setitem(FAMILIES, "recurrent", Family(RecurrentConfig, Recurrent, "magnitude"))


def model(frames=8, convention="torch", **procedure):
    spec = ModelSpec.parse(
        {
            "name": "recurrent",
            "family": "recurrent",
            "config": {"n_sources": 2, "bins": 33},
            "domain": {
                "kind": "magnitude",
                "stft": {"n_fft": 64, "hop_length": 16, "convention": convention},
                "masks": {"kind": "direct"},
            },
            "procedure": {
                "cutting": {"kind": "whole_track", "chunk_length": (frames - 1) * 16 + 64},
                **procedure,
            },
            "stems": ("a", "b"),
            "sample_rate": 8000,
            "channels": 2,
            "licence": "MIT",
            "provenance": "random",
        },
        where="the test",
    )
    module = Recurrent(spec.config)
    variables = jax.jit(partial(module.init, train=False))(jax.random.key(0), jnp.zeros((1, 2, 33, 2)))
    return Model(module, jax.tree.map(lambda leaf: 1.5 * leaf, variables), spec, "0" * 64)


def both(ours, mixture, **options):
    separator = Separator(ours, **options)
    blocks = np.split(mixture, np.arange(211, len(mixture), 211))
    streamed = np.concatenate(list(separator.stream(lambda: iter(blocks), length=len(mixture))), axis=1)
    spec = separator.model.spec
    whole = jax.jit(partial(estimate_sources, model=ours.module, spec=spec))(ours.variables, jnp.asarray(mixture))
    return streamed, np.asarray(whole)


@pytest.mark.parametrize("convention", ["torch", "spleeter"])
@pytest.mark.parametrize("length", [1, 20, 100, 333, 700])
def test_passes_over_pieces_give_what_the_network_gives_of_the_whole_track(convention, length):
    streamed, whole = both(model(convention=convention), noise(length, seed=length))
    np.testing.assert_allclose(streamed, whole, atol=1e-5)  # float32 in other orders, divided by windows' squares


@pytest.mark.parametrize(
    "wiener",
    [
        OPEN_UNMIX.model_copy(update={"block_frames": 3, "eps": 1e-4}),
        OPEN_UNMIX.model_copy(update={"block_frames": 30, "eps": 1e-4}),
        WienerConfig(iterations=2, eps=1e-4),
        WienerConfig(iterations=0, softmask=False),
    ],
)
def test_a_filter_behind_it_sees_the_same_magnitudes(wiener):
    for length in (50, 700):
        streamed, whole = both(model(wiener=wiener), noise(length, seed=length))
        # Statistics of few frames, summed in float64 here and in float32 there: each iteration passes rounding on.
        np.testing.assert_allclose(streamed, whole, atol=2e-4)


def test_channels_and_shifts_are_tracks_of_their_own():
    ours = model()
    mixture = noise(500, channels=4)
    together = np.concatenate(list(Separator(ours).stream(lambda: iter([mixture]))), axis=1)
    for pair in ([0, 1], [2, 3]):
        alone, _ = both(ours, np.ascontiguousarray(mixture[:, pair]))
        np.testing.assert_allclose(together[:, :, pair], alone, atol=1e-5)
    streamed, whole = both(ours, noise(500), shifts=2)
    np.testing.assert_allclose(streamed, whole, atol=1e-5)


def test_one_shape_is_compiled_for_each_pass():
    separator = Separator(model())
    for length in (10, 300, 900):
        separator.separate(noise(length), 8000)
    programs = separator._shared.values()
    assert {len(program._compiled) for program in programs if "whole track" in program.name} == {1}


def test_it_cannot_be_cut_otherwise():
    with pytest.raises(ConfigError, match="hears the whole track at once"):
        Separator(model(), overlap=0.5)


MEMORY = """
import resource, sys
sys.path[:0] = [{tests!r}, {root!r}]
import numpy as np
from jaxsep.models import FAMILIES, Family
from separation.test_whole_track import Recurrent, RecurrentConfig, model
from jaxsep.separation.separator import Separator

FAMILIES["recurrent"] = Family(RecurrentConfig, Recurrent, "magnitude")
separator = Separator(model(frames=128))
block = np.random.default_rng(0).uniform(-0.5, 0.5, (8000, 2)).astype(np.float32)

def seconds(count):
    done = sum(part.shape[1] for part in separator.stream(lambda: (block for _ in range(count))))
    assert done == count * 8000
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

seconds(10)
short = seconds(20)
print(seconds(200) - short)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no module resource")
def test_ten_times_the_track_takes_no_more_memory_beyond_the_spool():
    """200 s of 8000 Hz have 100,000 frames, and each has 78 numbers that wait on disk: 31 MB."""
    tests = Path(__file__).parents[1]
    program = MEMORY.format(tests=str(tests), root=str(tests.parent))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 8 * 1024  # kilobytes; the allocator's own unrest


@pytest.mark.parametrize("options", [{}, {"filter": OPEN_UNMIX}])
def test_progress_comes_to_the_end_and_stops_any_pass(options):
    separator = Separator(model(), **options)
    told = []
    separator.separate(noise(3000), 8000, progress=lambda progress: told.append(progress.done_seconds))
    assert told == sorted(told) and told[-1] == 3000 / 8000
    for call in (1, len(told)):
        told.clear()
        with pytest.raises(SeparationAborted):
            separator.separate(
                noise(3000), 8000, progress=lambda progress, call=call: told.append(0) or len(told) < call
            )
        assert len(told) == call


def test_networks_that_take_some_lengths_alone_cannot_hear_whole_tracks(monkeypatch):
    class SteppedConfig(RecurrentConfig):
        @property
        def length_step(self):
            return 4

    monkeypatch.setitem(FAMILIES, "recurrent", Family(SteppedConfig, Recurrent, "magnitude"))
    with pytest.raises(ConfigError, match="takes multiples of 4"):
        model()


@pytest.mark.parametrize(("precision", "advice"), [("float32", "trusted.$"), ("float16", "with precision 'float32'.$")])
def test_what_is_not_finite_is_not_computed_again_in_float32_and_the_message_says_so(precision, advice):
    ours = model()
    ours = replace(ours, variables=jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), ours.variables))
    with pytest.raises(SeparationError, match=advice):
        Separator(ours, precision=precision).separate(noise(300), 8000)
