"""A study: the same network is trained in each framework from the same weights on the same batches, and then scored.

Runs come in pairs. For each seed all frameworks start from the same first weights and see the same batches in the same
order, so that the difference of their scores is due to their arithmetic alone; over seeds it is a sample. One run is in
study_leg.py, the statistics are in equivalence.py, what is written about it is in study_report.py.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep.compare import load, study_leg
from jaxsep.compare.legs import run_leg
from jaxsep.compare.reports import circumstances
from jaxsep.compare.study_config import StudyConfig
from jaxsep.compare.study_data import Songs, check_songs, prepare_songs
from jaxsep.compare.study_leg import StudyLeg
from jaxsep.environment import processors
from jaxsep.errors import ConfigError
from jaxsep.naming import new_files

RULES = (
    "For each seed, all frameworks start from the same weights, drawn by our module, and learn from the same batches "
    "in the same order; hashes of all that was learned from are compared.",
    "The loss is the mean absolute error of the network's magnitudes, the optimizer Adam (betas 0.9 and 0.999, epsilon "
    "1e-8 after the bias correction, which Keras does before it unless told); float32, the same threads, no dropout "
    "unless the config says so: each framework draws its own.",
    "One run at a time, each in a process of its own, the frameworks by turns; a step ends when loss and parameters "
    "are computed. Times are medians over all steps but the first of all runs, memory is the largest peak in training.",
    "A step is the network's: magnitudes are computed before it, so that steps a second do not include transforms. The "
    "load average of the machine is taken before the first run and after each. Above 0.5 beside the threads of the "
    "study, or where p95 is over twice p50, times are not to be quoted.",
    "Equivalence is shown where the 95 % interval of the mean difference lies within the margin, which is the same as "
    "p < 0.025 of the two one-sided tests.",
    "Trained weights are converted to ours and scored by one and the same program; how far the framework's own network "
    "is from the converted one is told as 'network difference', max|a - b| / max|b| on one chunk of a test song.",
    "Scores are medians over frames of one second (BSS Eval v4), averaged over test songs.",
)

_CONFIG, _LOCK = "config.json", ".lock"


def run_study(
    config: StudyConfig, workdir: Path, *, tell: Callable[[str], None] = lambda line: None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Makes all runs that are not there yet.

    Every run that ends is kept, so that a study which was killed goes on with the run that was on its way.

    Args:
        config: The study.
        workdir: Where runs, weights and prepared songs are kept.
        tell: Called with a line before every run.

    Returns:
        The runs, one for each framework and seed, and what is known beside them: machine, versions, scores of the
        mixture. A run that could not be made says why under 'refused'.

    Raises:
        ConfigError: The folder holds another study, or one that is running, or the songs do not fit.
        AudioError: A song cannot be read.
    """
    threads = processors() if config.threads is None else config.threads
    if threads > processors():
        raise ConfigError(f"'threads' is {threads}, and there are {processors()} processors.")
    check_songs(config)
    with _alone(workdir):
        _check_same(config, workdir)
        tell("reading the songs")
        songs = prepare_songs(config, workdir / "songs")
        _check_lengths(config, songs)
        before = load.load_average()
        runs = []
        for seed in range(config.seeds):
            initial = _initial(config, seed, workdir)
            # By turns, so that what changes in the course of a seed changes for none of them alone.
            turn = seed % len(config.frameworks)
            for framework in (*config.frameworks[turn:], *config.frameworks[:turn]):
                runs.append(_run(config, framework, seed, initial, workdir, threads, before, tell))
        return runs, {
            **circumstances(("torch", "tensorflow", "tensorflow-cpu", "keras")),
            "threads": threads,
            "songs": {"learned_from": songs.train, "scored": songs.test, "sha256": songs.sha256},
            "mixture": _scores_of_the_mixture(config, songs),
        }


def _run(
    config: StudyConfig,
    framework: str,
    seed: int,
    initial: Path,
    workdir: Path,
    threads: int,
    load_before: float | None,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    name = f"{framework}-{seed}"
    result = workdir / "runs" / f"{name}.json"
    if result.exists():
        return json.loads(result.read_text(encoding="utf-8"))
    tell(f"seed {seed + 1} of {config.seeds}: {framework}")
    leg = StudyLeg(
        framework=framework,
        seed=seed,
        study=config,
        songs=str(workdir / "songs"),
        initial=str(initial),
        trained=str(workdir / "weights" / f"{name}.safetensors"),
        threads=threads,
    )
    (workdir / "weights").mkdir(exist_ok=True)
    found = run_leg(study_leg.__name__, leg, framework=framework, threads=threads)
    if "refused" in found:
        return {"framework": framework, "seed": seed, **found}
    # Kept with the run, since a study may be made in several goes.
    found |= {"load_before": load_before, "load_during": load.load_average()}
    _write(result, found)
    return found


def _initial(config: StudyConfig, seed: int, workdir: Path) -> Path:
    """The first weights of a seed, drawn once and kept as a checkpoint."""
    import jax
    import jax.numpy as jnp

    from jaxsep.weights.checkpoint import save_checkpoint

    path = workdir / "weights" / f"initial-{seed}.safetensors"
    if not path.exists():
        spec = config.model
        module = spec.network()
        shape = (1, *spec.input_shape())
        variables = jax.jit(lambda key: module.init(key, jnp.zeros(shape), train=False))(jax.random.key(seed))
        path.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(path, spec, jax.device_get(variables))
    return path


def _scores_of_the_mixture(config: StudyConfig, songs: Songs) -> dict[str, dict[str, float]]:
    from jaxsep.metrics.bss_eval import bss_eval
    from jaxsep.metrics.frame_scores import METRICS

    found = []
    for name in songs.test:
        true, mixture = study_leg.excerpt(config, songs, name)
        found.append(bss_eval(true, dict.fromkeys(true, mixture), sample_rate=config.model.sample_rate))
    return {
        stem: {metric: float(np.mean([scores.median(stem, metric) for scores in found])) for metric in METRICS}
        for stem in config.model.stems
    }


def _check_lengths(config: StudyConfig, songs: Songs) -> None:
    for name in songs.test:
        _, mixture = study_leg.excerpt(config, songs, name)
        if len(mixture) < config.model.sample_rate:
            raise ConfigError(
                f"Of the song '{name}' less than a second is left to score from {config.data.start_seconds:g} s on; "
                "lower 'data.start_seconds'."
            )


def _check_same(config: StudyConfig, workdir: Path) -> None:
    """Refuses to go on with another study, or among other files; more seeds are the same study."""
    path = workdir / _CONFIG
    described = config.model_dump(mode="json")
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key in described if key != "seeds" and described[key] != before.get(key)]
        if changed:
            raise ConfigError(
                f"'{workdir}' holds a study with another '{changed[0]}'; give another folder with -o, "
                "or take that one away."
            )
    elif others := sorted(each.name for each in workdir.iterdir() if each.name != _LOCK):
        raise ConfigError(f"'{workdir}' holds '{others[0]}' and no study; give another folder with -o.")
    _write(path, described)


@contextmanager
def _alone(workdir: Path) -> Iterator[None]:
    """Holds the folder for this process: nothing is measured while another run is active in it."""
    from filelock import FileLock, Timeout

    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(workdir / _LOCK)
        with lock.acquire(timeout=0):
            yield
    except Timeout:
        raise ConfigError(f"Another study is running in '{workdir}'; wait for it, or give another folder.") from None
    except OSError as error:
        raise ConfigError(f"'{workdir}' cannot be written: {error.strerror}.") from None


def _write(path: Path, data: Any) -> None:
    # The lock on the folder keeps others out.
    with new_files([path], replaced=[path]) as (part,):
        part.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
