"""The signals that published code has scored: sources, a mixture and estimates of several kinds, always the same."""

import numpy as np

LENGTH = 30_000


def signals(rate: int = 44100) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, dict[str, np.ndarray]]]:
    """Returns sources, their mixture, and estimates by kind and stem, each (time, channel)."""
    rng = np.random.default_rng(7)
    time = np.arange(LENGTH) / rate
    tone = np.stack([np.sin(2 * np.pi * 440 * time), 0.5 * np.sin(2 * np.pi * 660 * time + 1)], axis=1)
    white = rng.standard_normal((LENGTH, 2))
    hiss = white - 0.95 * np.roll(white, 1, axis=0)
    # Never quite silent: where an estimate is its source but for rounding, rounding decides what msst counts.
    bursts = rng.standard_normal((LENGTH, 2)) * np.where(np.sin(2 * np.pi * 4 * time) > 0.5, 1.0, 0.02)[:, None]
    sources = {
        "vocals": 0.3 * tone * (time < 0.8 * time[-1])[:, None],
        "drums": 0.2 * bursts,
        "other": 0.05 * hiss + 0.02,
    }
    mixture = sum(sources.values())
    rest = {stem: mixture - source for stem, source in sources.items()}
    kinds = {
        "leaking": {stem: 0.9 * source + 0.1 * rest[stem] for stem, source in sources.items()},
        "lacking": {stem: source - 0.5 * np.roll(source, 3, axis=0) for stem, source in sources.items()},
        "noisy": {stem: source + 0.01 * rng.standard_normal(source.shape) for stem, source in sources.items()},
        "mixture": dict.fromkeys(sources, mixture),
    }
    # Their files and published code are in float32.
    as_float32 = {stem: source.astype(np.float32) for stem, source in sources.items()}
    return (
        as_float32,
        mixture.astype(np.float32),
        {
            kind: {stem: estimate.astype(np.float32) for stem, estimate in by_stem.items()}
            for kind, by_stem in kinds.items()
        },
    )
