"""A model as a system that is evaluated: its estimates are made track by track, in files that are gone afterwards."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax

from jaxsep.audio import AudioWriter
from jaxsep.evaluation.evaluate import System
from jaxsep.evaluation.tracks import MIXTURE, AudioStream, TrueTrack, summed
from jaxsep.models.ensemble import chosen_stems
from jaxsep.separation.models import load_model, make_separator
from jaxsep.separation.options import SeparationOptions
from jaxsep.separation.outputs import OutputConfig
from jaxsep.separation.stream import separate_file


def model_system(
    name_or_path: str | Path,
    *,
    options: SeparationOptions,
    stems: Sequence[str] | None,
    device: jax.Device,
    name: str | None = None,
) -> tuple[System, tuple[str, ...]]:
    """Returns a model as a system, with its source set.

    A track's mixture is its file, or the sum of its sources; what `jaxsep separate --subtype FLOAT` gives is scored.

    Args:
        name_or_path: As for `load_model`.
        options: How tracks are separated.
        stems: Which of the model's are evaluated; None for all.
        device: Device that it runs on. Of several models one at a time is there.
        name: Name of the system; None for the model's.

    Raises:
        ConfigError: The model has no such stem.
        CheckpointError: It cannot be loaded.
    """
    model = load_model(name_or_path, stems=stems)
    spec = model.spec
    source_set = chosen_stems(spec, stems)

    recipe = _Recipe(model, options, source_set, device)

    def separate(track: TrueTrack, folder: Path) -> dict[str, AudioStream]:
        mixture = folder / f"{MIXTURE}.wav"
        with AudioWriter(
            mixture, sample_rate=track.sample_rate, channels=track.channels, format="wav", subtype="FLOAT"
        ) as writer:
            for block in summed(track.mixture_streams()):
                writer.write(block)
        separate_file(mixture, folder, separator=_separator(recipe), config=OutputConfig(subtype="FLOAT"))
        return {stem: AudioStream(folder / MIXTURE / f"{stem}.wav") for stem in source_set}

    provenance = {"model": spec.name, "sha256": model.sha256, "options": options.changed}
    if name is None:
        # A name from outside must not become folders.
        name = spec.name.replace("/", "_").replace("\\", "_").strip(". ") or "model"
        name = f"{name}-wiener" if options.filter == "wiener" else name
    return System(name, None, separate, provenance), source_set


@dataclass(frozen=True, eq=False)
class _Recipe:
    """What a Separator is made of."""

    model: Any
    options: SeparationOptions
    stems: tuple[str, ...]
    device: jax.Device


@lru_cache(maxsize=1)
def _separator(recipe: _Recipe) -> Any:
    """Made for the first track that is not scored yet, since compiling takes seconds; kept until the next model's."""
    return make_separator(recipe.model, **dict(recipe.options), stems=recipe.stems, device=recipe.device)
