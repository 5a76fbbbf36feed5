"""Whether training learns something that holds: guitars in a song that was kept out, beside what needs no network.

`python -m train.bench_guitar SONGS --held-out NAME --run NAME=WORKDIR ... --output FILE.json`: scores of the held-out
song by museval, for the mixture, the best constant gain, the best static gain per bin (both fitted on the other songs),
each run, and the ideal ratio mask. `make bench-train` makes the runs.
"""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from jaxsep.environment import processor, versions
from jaxsep.errors import ConfigError, JaxsepError
from jaxsep.evaluation.baselines import (
    Song,
    apply_bin_gains,
    apply_gains,
    fit_bin_gains,
    fit_gains,
    ideal_ratio_mask,
)
from jaxsep.metrics.museval_wrapper import museval_scores
from jaxsep.separation.models import load_one_model
from jaxsep.separation.separator import Separator
from jaxsep.typing import HostSourceWaveform
from train.config import DataConfig
from train.tracks import Track, find_tracks

# What is scored of the held-out song, in seconds. Of all of it museval's numbers are no use: all SARs are 0 dB,
# the ideal mask's too, since the equations for so long a band-limited song are close to singular.
_START_SECONDS, _SCORED_SECONDS = 60, 30

# What is not the stem that is scored.
_REST = "accompaniment"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    songs: Annotated[Path, typer.Argument(help="The folder of the songs, as a run takes it.")],
    held_out: Annotated[str, typer.Option(help="The song that no run has seen.")],
    run: Annotated[list[str], typer.Option(metavar="NAME=WORKDIR", help="A run to be scored; can be given again.")],
    output: Annotated[Path, typer.Option(help="Where the scores go, as JSON.")],
) -> None:
    """Score runs on a song that they have not seen, beside what needs no network."""
    try:
        models = dict(each.split("=", 1) for each in run)
        result = score(songs, held_out, models)
    except ValueError:
        raise typer.BadParameter("give each run as NAME=WORKDIR", param_hint="--run") from None
    except JaxsepError as error:
        typer.echo(f"bench_guitar: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from None
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2) + "\n")
    typer.echo(f"{result['stem']} of {held_out}: medians of museval in dB; share of the way from gain per bin to mask")
    for name, row in result["rows"].items():
        share = "" if "share_of_the_gap" not in row else f"  {100 * row['share_of_the_gap']:.0f} %"
        typer.echo(f"{name:24}  SDR {row['sdr']:6.2f}  SIR {row['sir']:6.2f}  SAR {row['sar']:6.2f}{share}")


def score(songs: Path, held_out: str, runs: dict[str, str]) -> dict[str, Any]:
    """Returns the scores of the first stem by the name of what estimated it."""
    separators = {name: Separator(load_one_model(workdir)) for name, workdir in runs.items()}
    specs = [separator.model.spec for separator in separators.values()]
    if len({(spec.stems[0], spec.sample_rate) for spec in specs}) != 1:
        raise ConfigError("The runs are to be of the same first stem and sample rate, to be compared.")
    stem, sample_rate = specs[0].stems[0], specs[0].sample_rate
    tracks = find_tracks(DataConfig(root=str(songs), validation_tracks=(held_out,)), specs[0])
    (test,) = tracks.validation
    whole = _read(test)
    scored = slice(_START_SECONDS * sample_rate, (_START_SECONDS + _SCORED_SECONDS) * sample_rate)
    song = Song(whole.mixture[scored], whole.sources[:, scored])

    def others() -> Iterator[Song]:
        return map(_read, tracks.train)

    gains, bin_gains = fit_gains(others()), fit_bin_gains(others())
    estimators: dict[str, Callable[[], HostSourceWaveform]] = {
        "mixture": lambda: np.stack([song.mixture] * 2),
        "constant gain": lambda: apply_gains(gains, song.mixture),
        "static gain per bin": lambda: apply_bin_gains(bin_gains, song.mixture),
        **{name: lambda each=each: _separated(each, song) for name, each in separators.items()},  # type: ignore[misc]
        "ideal ratio mask": lambda: ideal_ratio_mask(song.mixture, song.sources),
    }
    rows: dict[str, dict[str, float]] = {}
    for name, estimate in estimators.items():
        scores = museval_scores(
            dict(zip((stem, _REST), song.sources, strict=True)),
            dict(zip((stem, _REST), estimate(), strict=True)),
            sample_rate=sample_rate,
        )
        rows[name] = {metric: scores.median(stem, metric) for metric in ("sdr", "sir", "sar", "isr")}
    low, high = rows["static gain per bin"]["sdr"], rows["ideal ratio mask"]["sdr"]
    for name in runs:
        rows[name]["share_of_the_gap"] = (rows[name]["sdr"] - low) / (high - low)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor(),
        "versions": versions(),
        "stem": stem,
        "held_out": held_out,
        "scored_seconds": [_START_SECONDS, _START_SECONDS + _SCORED_SECONDS],
        "trained_on": [track.name for track in tracks.train],
        "gains": [float(gain) for gain in gains],
        "rows": rows,
        "runs": {name: _curve(Path(workdir)) for name, workdir in runs.items()},
    }


def _read(track: Track) -> Song:
    """Returns a song in two sources, whatever the model: its first stem, and the rest."""
    sources = track.read(0, track.length)
    mixture = sources.sum(axis=0)
    return Song(mixture, np.stack([sources[0], mixture - sources[0]]))


def _separated(separator: Separator, song: Song) -> HostSourceWaveform:
    stems = separator.separate(song.mixture, separator.model.spec.sample_rate).stems
    first = stems[separator.stems[0]]
    return np.stack([first, song.mixture - first])


def _curve(workdir: Path) -> dict[str, Any]:
    """Returns what a run was and how its loss fell: means of some twenty stretches, and how long its steps took."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "loss" in row]
    stretches = [part for part in np.array_split(np.arange(len(rows)), 20) if len(part)]
    steps = np.diff([0, *(row["step"] for row in rows)])
    return {
        "config": json.loads((workdir / "config.json").read_text()),
        "loss": [
            {
                "step": rows[part[-1]]["step"],
                "loss": float(np.mean([rows[index]["loss"] for index in part])),
            }
            for part in stretches
        ],
        "minutes": float(np.dot(steps, [row["timing"]["seconds_per_step"] for row in rows]) / 60),
        "loader_wait_share": float(
            np.dot(steps, [row["timing"]["loader_wait_seconds"] for row in rows])
            / np.dot(steps, [row["timing"]["seconds_per_step"] for row in rows])
        ),
    }


if __name__ == "__main__":
    app(prog_name="python -m train.bench_guitar")
