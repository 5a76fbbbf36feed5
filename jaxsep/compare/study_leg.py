"""One run of a study: one framework learns from one seed's batches, and what it learned is scored. study.py starts it.

`python -m jaxsep.compare.study_leg LEG.json RESULT.json`, in a process of its own.
"""

import hashlib
import importlib
import time
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep.compare.frameworks import FRAMEWORKS, Jax
from jaxsep.compare.legs import PACKAGES, as_leg, limit_processors
from jaxsep.compare.study_config import StudyConfig
from jaxsep.compare.study_data import Songs, magnitude_maker
from jaxsep.config import Config
from jaxsep.environment import peak_memory_bytes


class StudyLeg(Config):
    """What one process does.

    Attributes:
        framework: A name of `PACKAGES`.
        seed: Of first weights and batches.
        study: The study.
        songs: The folder of the prepared songs.
        initial: The checkpoint of the first weights.
        trained: Where the checkpoint of the last weights goes.
        threads: Of the framework.
    """

    framework: str
    seed: int
    study: StudyConfig
    songs: str
    initial: str
    trained: str
    threads: int


def run(leg: StudyLeg) -> dict[str, Any]:
    """Trains and scores.

    Returns:
        The loss of every step; what each of them took, in seconds, the first one apart; the peak of memory while it
        trained; the hash of all that was learned from; how far the trained network's own estimates are from ours with
        its weights; scores of every test song, stem and metric, and of every frame.
    """
    limit_processors(leg.threads)
    from jaxsep.weights.checkpoint import load_checkpoint, save_checkpoint

    study, songs = leg.study, Songs(Path(leg.songs), leg.study)
    checkpoint = load_checkpoint(leg.initial)
    started = time.perf_counter()
    framework = FRAMEWORKS[leg.framework](checkpoint.spec, checkpoint.variables, leg.threads)
    build_seconds = time.perf_counter() - started
    magnitudes = magnitude_maker(study)
    learned_from = hashlib.sha256()
    losses: list[float] = []
    seconds: list[float] = []
    compile_seconds = 0.0
    step: Any = None
    for index in range(study.training.steps):
        mixture, sources = magnitudes(songs.batch(study, leg.seed, index))
        learned_from.update(mixture.tobytes())
        learned_from.update(sources.tobytes())
        if step is None:
            started = time.perf_counter()
            compile_call, step = framework.training(mixture, sources, study.training.learning_rate)
            compile_call()
            compile_seconds = time.perf_counter() - started
        started = time.perf_counter()
        losses.append(step(mixture, sources))
        seconds.append(time.perf_counter() - started)
    peak = peak_memory_bytes()
    variables = framework.variables()
    save_checkpoint(Path(leg.trained), checkpoint.spec, variables, overwrite=True)
    return {
        "framework": leg.framework,
        "seed": leg.seed,
        "version": str(importlib.import_module(PACKAGES[leg.framework]).__version__),
        "losses": losses,
        "build_seconds": build_seconds,
        "compile_seconds": compile_seconds,
        "first_step_seconds": seconds[0],
        "step_seconds": seconds[1:],
        "peak_memory_bytes": peak,
        "learned_from_sha256": learned_from.hexdigest(),
        "network_difference": _difference(framework, variables, leg, songs, magnitudes),
        "scores": _scores(study, songs, leg.trained),
    }


def _difference(framework: Any, variables: Any, leg: StudyLeg, songs: Songs, magnitudes: Any) -> float:
    """max|a - b| / max|b| of the framework's own estimates and ours with its weights, on one chunk of a test song."""
    spec = leg.study.model
    start = int(leg.study.data.start_seconds * spec.sample_rate)
    mixture, _ = magnitudes(songs.sources(songs.test[0], start, spec.chunk_length)[None])
    estimates = []
    for each in (Jax(spec, variables, leg.threads), framework):
        compile_call, call = each.inference(mixture)
        compile_call()
        estimates.append(call())
    ours, theirs = estimates
    return float(np.abs(theirs - ours).max() / np.abs(ours).max())


def _scores(study: StudyConfig, songs: Songs, trained: str) -> dict[str, Any]:
    """By song: by stem: by metric: its score in every frame. Separated by ours, whoever trained the weights."""
    from jaxsep.metrics.bss_eval import bss_eval
    from jaxsep.metrics.frame_scores import METRICS
    from jaxsep.separation.models import load_separator

    spec = study.model
    separator = load_separator(trained)
    found: dict[str, Any] = {}
    for name in songs.test:
        true, mixture = excerpt(study, songs, name)
        estimates = separator.separate(mixture, spec.sample_rate).stems
        scores = bss_eval(true, estimates, sample_rate=spec.sample_rate)
        found[name] = {
            stem: {metric: [float(value) for value in scores.frames(stem, metric)] for metric in METRICS}
            for stem in spec.stems
        }
    return found


def excerpt(study: StudyConfig, songs: Songs, name: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Returns what is scored of a test song: its true stems and their mixture, (time, channel) each."""
    rate, data = study.model.sample_rate, study.data
    start = int(data.start_seconds * rate)
    room = max(songs.length(name) - start, 0)
    length = room if data.seconds is None else min(room, int(data.seconds * rate))
    sources = songs.sources(name, start, length)
    return dict(zip(study.model.stems, sources, strict=True)), sources.sum(axis=0)


def main() -> None:
    """Runs the leg of the file that is named first, and writes the result to the second."""
    as_leg(StudyLeg, run)


if __name__ == "__main__":
    main()
