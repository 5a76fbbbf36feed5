"""How far a model and another one with the same weights are apart: weights, layers, network, audio, scores.

The sides are in networks.py and other_stems.py, what they separate in excerpts.py, the readable report in
parity_report.py. `RULES` says what each number is; every report has it.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxsep.audio import resample
from jaxsep.compare.excerpts import Excerpt
from jaxsep.compare.networks import Inputs, JaxNetwork, Layers, Network
from jaxsep.compare.other_stems import EnsembleStems, OtherStems
from jaxsep.errors import ConfigError, SeparationError
from jaxsep.metrics.sdr import global_sdr
from jaxsep.models.spec import ModelSpec
from jaxsep.separation.estimate import describe_not_finite, estimate_chunks, estimate_sources
from jaxsep.separation.mixtures import Mixture, MixtureWindow
from jaxsep.separation.window import ChannelGroups
from jaxsep.typing import HostSourceWaveform, HostWaveform, Variables
from jaxsep.weights.tree import flatten

RULES = (
    "Both sides compute in float32; JAX's products are of precision 'highest'.",
    "a is ours and b the other side. max|a-b| and mean|a-b| are over all values, 'relative' is max|a-b| / max|b|, 'L2' "
    "is the norm of a-b over the norm of b.",
    "Layers are compared on the loudest chunk of the first track, by the names of ours; each side's layers get what "
    "its own layers before them gave.",
    "The network's output is compared on every chunk, and the threshold is for the numbers over all chunks of a track: "
    "a ratio to a chunk that is nearly silent would mean nothing. Both networks get the same input.",
    "Audio: the same code of jaxsep cuts the excerpt into chunks, transforms, masks, transforms back and joins, around "
    "either network; at the excerpt's own rate.",
    "A difference in dB is the energy of a-b over that of the *mixture*: a ratio to a stem that is nearly silent would "
    "mean nothing. 'none' is no difference in any bit.",
    "SDR is 10 log10 of the energy of the true source over that of its difference from the estimate, whole excerpt.",
    "Weights 'there and back' are read from the twin after ours were copied into it; 'converted' are the twin's, under "
    "the names that foreign files have, through the rules of `jaxsep convert`. Both must be equal bit for bit.",
)
FLOAT16 = "Our weights are numbers of 16 bits: a side that has them in 32 differs by this rounding."

NOT_ALIKE = "the two models do not see chunks of the same kind"


@dataclass(frozen=True)
class Thresholds:
    """What must not be exceeded.

    Attributes:
        output: max|a-b| / max|b| of the network's output over all chunks of a track.
        difference_db: Of any stem, relative to the mixture.
    """

    output: float
    difference_db: float


def measure_parity(
    ours: JaxNetwork | EnsembleStems,
    theirs: Network | OtherStems,
    excerpts: Iterable[Excerpt],
    thresholds: Thresholds,
    *,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Compares two sides.

    Args:
        ours: The model.
        theirs: Another network, or what has stems of files only.
        excerpts: What both separate.
        thresholds: What must not be exceeded.
        tell: Called with a line before every part.

    Returns:
        What was measured, ready for JSON; 'exceeded' is a list of sentences, empty where nothing was.

    Raises:
        ConfigError: The stems of both are not the same.
        JaxsepError: A side cannot separate an excerpt.
    """
    exceeded: list[str] = []
    report: dict[str, Any] = {
        "ours": ours.description,
        "theirs": theirs.description,
        "thresholds": {"output": thresholds.output, "difference_db": thresholds.difference_db},
        "rules": [*RULES, *theirs.rules, *([FLOAT16] if isinstance(ours, JaxNetwork) and ours.is_float16() else [])],
        "weights": {},
        "layers": {},
        "tracks": [],
    }
    stems_alone = next((side.only_stems for side in (ours, theirs) if isinstance(side, OtherStems)), None)
    if stems_alone is not None:
        report["weights"] = report["layers"] = {"not_compared": stems_alone}
    else:
        assert isinstance(ours, JaxNetwork) and isinstance(theirs, Network)
        tell("weights")
        report["weights"] = _weights(ours, theirs, exceeded)
    for excerpt in excerpts:
        tell(f"{excerpt.name}: {len(excerpt.mixture) / excerpt.sample_rate:.1f} s at {excerpt.sample_rate} Hz")
        track: dict[str, Any] = {
            "track": excerpt.name,
            "sample_rate": excerpt.sample_rate,
            "channels": excerpt.mixture.shape[1],
            "offset_seconds": excerpt.offset_seconds,
            "seconds": len(excerpt.mixture) / excerpt.sample_rate,
        }
        if stems_alone is not None:
            track["network"] = {"not_compared": stems_alone}
            estimates = _stems(ours, excerpt), _stems(theirs, excerpt)
            if isinstance(theirs, OtherStems):
                estimates = theirs.as_written(estimates[0]), estimates[1]
                track["notes"] = theirs.notes(excerpt)
        else:
            assert isinstance(ours, JaxNetwork) and isinstance(theirs, Network)
            mine, other = Separating(ours, excerpt), Separating(theirs, excerpt)
            track["network"], loudest = _networks(mine, other)
            if loudest is not None and not report["layers"]:
                tell("layers")
                rows = compare_layers(ours.layers(loudest), theirs.layers(loudest))
                report["layers"] = {"track": excerpt.name, "rows": rows}
            estimates = mine.stems(), other.stems()
        track["stems"] = compare_stems(excerpt, *estimates)
        if excerpt.no_sources:
            track["sdr_not_compared"] = excerpt.no_sources
        report["tracks"].append(track)
        exceeded += _beyond(track, thresholds)
    if not report["layers"]:
        report["layers"] = {"not_compared": NOT_ALIKE}
    return {**report, "exceeded": exceeded}


def _stems(side: Network | OtherStems, excerpt: Excerpt) -> dict[str, HostWaveform]:
    if isinstance(side, OtherStems):
        return side.stems(excerpt)
    separating = Separating(side, excerpt)
    for _ in separating:
        pass
    return separating.stems()


class Separating:
    """A network separating an excerpt with jaxsep's code around it, as `jaxsep separate` has it.

    Iterating gives the input and the output of the network for every call, chunk by chunk where the procedure has
    nothing but chunks; then the stems are there.
    """

    def __init__(self, network: Network, excerpt: Excerpt) -> None:
        """Prepares it.

        Args:
            network: Ours or another.
            excerpt: Of any sample rate and any number of channels.
        """
        self.network, self._excerpt = network, excerpt
        self._spec = network.spec
        self._blocks: list[HostSourceWaveform] = []

    def __iter__(self) -> Iterator[tuple[Inputs, np.ndarray]]:
        spec = self._spec
        mixture = resample(self._excerpt.mixture, self._excerpt.sample_rate, spec.sample_rate)
        seen: list[tuple[Inputs, np.ndarray]] = []
        module = _Standing(lambda inputs: self._run(inputs, seen))
        if not spec.procedure.has_only_chunks:
            with jax.default_matmul_precision("highest"):
                self._blocks.append(self._whole(mixture, module))
            yield from seen
            return
        window = MixtureWindow(Mixture(lambda: iter([mixture])), spec)
        sources = tuple(range(len(spec.stems)))
        with jax.default_matmul_precision("highest"):
            for _, (cut, samples) in window.chunks():
                for group in window.groups.split(samples):
                    # Not compiled as a whole: the network in the middle may be of another framework.
                    chunk = jnp.asarray(group[None]), jnp.asarray(cut.weights[None])
                    found = estimate_chunks({}, chunk, model=module, domain=spec.domain, sources=sources)
                    if not found.finite.all():
                        raise SeparationError(f"{self.network.description}: {describe_not_finite(cut, spec)}")
                    self._blocks += window.add(cut, np.asarray(found.waveforms[0]))
                    yield seen.pop()
        self._blocks += [streamed.estimates for streamed in window.end() if streamed.estimates is not None]

    def _whole(self, mixture: HostWaveform, module: nn.Module) -> HostSourceWaveform:
        """Separates the excerpt in one piece, where the procedure has more than chunks by themselves."""
        groups = ChannelGroups(mixture.shape[1], self._spec.channels)
        estimates = [
            np.asarray(estimate_sources({}, jnp.asarray(group), model=module, spec=self._spec))
            for group in groups.split(mixture)
        ]
        if not all(np.isfinite(each).all() for each in estimates):
            raise SeparationError(f"{self.network.description} gave samples that are not finite.")
        return groups.join(estimates)

    def stems(self) -> dict[str, HostWaveform]:
        """Returns the estimates by stem, at the excerpt's rate and of its length."""
        rate, length = self._excerpt.sample_rate, len(self._excerpt.mixture)
        stems = {}
        for stem, estimate in zip(self._spec.stems, np.concatenate(self._blocks, axis=1), strict=True):
            back = resample(estimate, self._spec.sample_rate, rate)[:length]
            stems[stem] = np.pad(back, [(0, length - len(back)), (0, 0)])
        return stems

    def _run(self, inputs: Inputs, seen: list[tuple[Inputs, np.ndarray]]) -> np.ndarray:
        outputs = self.network.estimates(inputs)
        seen.append((inputs, outputs))
        return outputs


class _Standing(nn.Module):
    """Stands where our network does; called with arrays, not with tracers.

    Attributes:
        run: The network, on host arrays.
    """

    run: Callable[[np.ndarray], np.ndarray]

    def __call__(self, mixture: jax.Array, *, train: bool) -> jax.Array:
        return jnp.asarray(self.run(np.asarray(mixture)))


class Errors:
    """How far arrays are apart, summed up over several pairs of them."""

    def __init__(self) -> None:
        self._largest = self._peak = self._sum = self._energy = self._reference = 0.0
        self._count = 0

    def add(self, ours: np.ndarray, theirs: np.ndarray) -> "Errors":
        """Takes a pair of one shape."""
        b = theirs.astype(np.float64)
        apart = np.abs(ours - b)
        self._largest = max(self._largest, float(apart.max()))
        self._peak = max(self._peak, float(np.abs(b).max()))
        self._sum += float(apart.sum())
        self._energy += float(np.square(apart).sum())
        self._reference += float(np.square(b).sum())
        self._count += apart.size
        return self

    def numbers(self) -> dict[str, float | None]:
        """Returns the numbers of `RULES`; None for what has no finite value."""
        return {
            "max": self._largest,
            "mean": self._sum / self._count,
            "relative": _ratio(self._largest, self._peak),
            "l2": _ratio(math.sqrt(self._energy), math.sqrt(self._reference)),
        }


def compare_layers(ours: Layers, theirs: Layers) -> list[dict[str, Any]]:
    """Returns the numbers of every layer that both sides have.

    Where one side computes more at both ends than the other, their middles are compared. A block that gives just what
    a layer in it gives is left out.
    """
    rows = []
    told: set[int] = set()
    for name in (name for name in theirs if name in ours):
        a, b = ours[name], theirs[name]
        if a.ndim == b.ndim == 3:
            length = min(a.shape[1], b.shape[1])
            a, b = (maps[:, (maps.shape[1] - length) // 2 :][:, :length] for maps in (a, b))
        if a.shape != b.shape:
            raise ConfigError(f"The layer '{name}' gives {a.shape} with us and {b.shape} there; the twin is not ours.")
        content = hash(b.tobytes())
        if content in told:
            continue
        told.add(content)
        rows.append({"layer": name, "shape": list(a.shape), **Errors().add(a, b).numbers()})
    return rows


def compare_weights(ours: Variables, theirs: Variables) -> dict[str, Any]:
    """Compares two sets of variables leaf by leaf.

    Returns:
        'leaves' that both have, how many are 'identical' bit for bit, the 'largest_difference', what is 'missing'
        there or 'unknown' here, and the numbers of those that are 'different'.
    """
    a, b = ({path: np.asarray(leaf) for path, leaf in flatten(each).items()} for each in (ours, theirs))
    different: list[dict[str, Any]] = []
    largest = 0.0
    common = [path for path in a if path in b]
    for path in common:
        if a[path].shape != b[path].shape:
            different.append({"leaf": path, "shapes": [list(a[path].shape), list(b[path].shape)]})
        elif a[path].dtype != b[path].dtype or a[path].tobytes() != b[path].tobytes():
            numbers = Errors().add(a[path], b[path]).numbers()
            largest = max(largest, numbers["max"] or 0.0)
            different.append({"leaf": path, **numbers})
    return {
        "leaves": len(common),
        "identical": len(common) - len(different),
        "largest_difference": largest,
        "missing": [path for path in a if path not in b],
        "unknown": [path for path in b if path not in a],
        "different": different,
    }


def compare_stems(
    excerpt: Excerpt, ours: dict[str, HostWaveform], theirs: dict[str, HostWaveform]
) -> list[dict[str, Any]]:
    """Returns for every stem how far estimates are apart, and the scores of both where the true source is known."""
    if ours.keys() != theirs.keys():
        raise ConfigError(f"The stems are {', '.join(ours)} with us and {', '.join(theirs)} there; give the same ones.")
    mixture = float(np.square(excerpt.mixture, dtype=np.float64).sum())
    rows = []
    for stem, a in ours.items():
        apart = np.abs(a - theirs[stem].astype(np.float64))
        row: dict[str, Any] = {"stem": stem, "max": float(apart.max()), "mean": float(apart.mean())}
        energy = float(np.square(apart).sum())
        row["difference_db"] = 10 * math.log10(energy / mixture) if energy else None
        if excerpt.sources:
            scores = [float(global_sdr(excerpt.sources[stem], each)) for each in (a, theirs[stem])]
            row |= {"sdr_ours": scores[0], "sdr_theirs": scores[1], "sdr_difference": scores[0] - scores[1]}
        rows.append(row)
    return rows


def _networks(ours: Separating, theirs: Separating) -> tuple[dict[str, Any], Inputs | None]:
    """Separates with both, and compares what they give for each chunk; returns the loudest input beside it."""
    a, b = ours.network.spec, theirs.network.spec
    if sorted(a.stems) != sorted(b.stems):
        raise ConfigError(f"'{a.name}' has the stems {', '.join(a.stems)} and '{b.name}' {', '.join(b.stems)}.")
    if not _alike(a, b):
        for side in (ours, theirs):
            for _ in side:
                pass
        return {"not_compared": NOT_ALIKE}, None
    order = [b.stems.index(stem) for stem in a.stems]
    overall, chunks = Errors(), []
    loudest, level = None, -1.0
    for (inputs, mine), (_, other) in zip(ours, theirs, strict=True):
        other = other[:, order]
        overall.add(mine, other)
        chunks.append(Errors().add(mine, other).numbers())
        if (energy := float(np.square(inputs).sum())) > level:
            loudest, level = inputs, energy
    return {"shape": list(mine.shape), **overall.numbers(), "chunks": chunks}, loudest


def _alike(a: ModelSpec, b: ModelSpec) -> bool:
    """Whether both networks see the same of a mixture; masks come after them."""
    seen = [
        (spec.sample_rate, spec.channels, spec.procedure.cutting, spec.domain.input_domain(), spec.input_shape())
        for spec in (a, b)
    ]
    return seen[0] == seen[1]


def _weights(ours: JaxNetwork, theirs: Network, exceeded: list[str]) -> dict[str, Any]:
    if isinstance(theirs, JaxNetwork):
        # Of other weights, differences are what is to be seen; whether they matter, the network's output says.
        return {"leaf_by_leaf": compare_weights(ours.variables, theirs.variables)}
    found: dict[str, Any] = {"there_and_back": compare_weights(ours.variables, theirs.variables)}
    converted = theirs.converted()
    if isinstance(converted, str):
        found["converted"] = {"not_compared": converted}
    else:
        found["converted"] = {"names": theirs.names, **compare_weights(ours.variables, converted)}
    for what, leaves in found.items():
        if leaves.get("different") or leaves.get("missing") or leaves.get("unknown"):
            exceeded.append(f"Weights are not the same bit for bit ({what.replace('_', ' ')}).")
    return found


def _beyond(track: dict[str, Any], thresholds: Thresholds) -> Iterator[str]:
    """Yields a sentence for everything that exceeds its threshold; what has no finite value does."""
    relative = track["network"].get("relative", 0.0)
    largest = math.inf if relative is None else relative
    if not largest <= thresholds.output:
        yield (
            f"'{track['track']}': the network's output differs by {largest:.1e} of its peak, and the threshold is "
            f"{thresholds.output:.1e}."
        )
    for row in track["stems"]:
        if row["difference_db"] is not None and not row["difference_db"] <= thresholds.difference_db:
            yield (
                f"'{track['track']}': the stem '{row['stem']}' differs by {row['difference_db']:.1f} dB of the "
                f"mixture, and the threshold is {thresholds.difference_db:.1f} dB."
            )


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None if part else 0.0
