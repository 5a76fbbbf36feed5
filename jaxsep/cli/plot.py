"""`jaxsep plot`: pictures of a mixture, its estimates and their truth."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from jaxsep.errors import AudioError, ConfigError
from jaxsep.naming import new_files

KINDS = "waveforms,spectrograms,masks,sdr"


class Picture(StrEnum):
    """Of the files written."""

    png = "png"
    svg = "svg"


def plot(
    mixture: Annotated[
        Path, typer.Argument(metavar="MIXTURE", help="An audio file; of a .stem.mp4, its mixture.", show_default=False)
    ],
    estimates: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder of its stems, as `jaxsep separate` writes it.")
    ],
    truth: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|FILE.stem.mp4",
            help="The true sources: a folder with a file for each, or MUSDB18's file.",
            show_default="not known",
        ),
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the pictures go.")] = Path("plots"),
    kinds: Annotated[
        str,
        typer.Option("--kinds", metavar="NAME,...", help=f"Some of {KINDS}.", show_default="all that can be drawn"),
    ] = "",
    format: Annotated[Picture, typer.Option(help="Of the pictures.")] = Picture.png,
    offset: Annotated[float, typer.Option(metavar="SECONDS", min=0.0, help="Where in the track to start.")] = 0.0,
    duration: Annotated[float, typer.Option(metavar="SECONDS", help="How much of it to show.")] = 60.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace pictures that exist.")] = False,
) -> None:
    """Draw waveforms, spectrograms, masks and the SDR of each second."""
    if not 0 < duration < float("inf"):
        raise ConfigError(f"--duration is '{duration}'; give the seconds to show, more than 0.")
    from jaxsep.evaluation.plots import PLOTS, make_plot, require_matplotlib

    chosen = tuple(name.strip() for name in kinds.split(",")) if kinds else tuple(PLOTS)
    if not kinds and truth is None:
        chosen = tuple(name for name in chosen if name != "sdr")
    for kind in chosen:
        if kind not in PLOTS:
            raise ConfigError(f"There is no plot '{kind}'; give some of {KINDS}.")
    if "sdr" in chosen and truth is None:
        raise ConfigError("The SDR along the track needs the true sources; give them with --truth.")
    paths = {kind: output / f"{kind}.{format.value}" for kind in chosen}
    for path in paths.values():
        if os.path.lexists(path) and not (overwrite and path.is_file()):
            raise ConfigError(f"'{path}' exists; use --overwrite to replace it.")
    require_matplotlib()
    waveforms = _read(mixture, estimates, truth, offset, duration)
    pictures = list(paths.values())
    with new_files(pictures, replaced=pictures if overwrite else []) as temporary:
        for kind, path in zip(paths, temporary, strict=True):
            make_plot(kind, *waveforms).savefig(path, format=format.value, dpi=120)
    print(f"{', '.join(path.name for path in paths.values())} are in {output}")


def _read(mixture: Path, estimates: Path, truth: Path | None, offset: float, duration: float):  # type: ignore[no-untyped-def]
    """Returns what the plots take: mixture, estimates and truth of one shape, sample rate, and where they begin."""
    import numpy as np

    from jaxsep.audio import AudioReader
    from jaxsep.evaluation.tracks import MIXTURE, AudioStream, audio_files, stem_file, summed_sources

    def read(stream: AudioStream) -> tuple[np.ndarray, int]:
        rate, _ = stream.format()
        with AudioReader(stream.path, offset_seconds=offset, duration_seconds=duration, stream=stream.stream) as reader:
            return np.concatenate(list(reader.blocks(1 << 16))), rate

    mixed, rate = read(AudioStream(mixture))

    def fitting(stream: AudioStream) -> np.ndarray:
        found, own = read(stream)
        if own != rate or found.shape[1] != mixed.shape[1]:
            raise AudioError(
                f"'{stream.path}' has {own} Hz and {found.shape[1]} channels, and the mixture {rate} Hz and "
                f"{mixed.shape[1]}; give files of one rate and as many channels."
            )
        length = min(len(found), len(mixed))
        return np.pad(found[:length], [(0, len(mixed) - length), (0, 0)])

    if not estimates.is_dir():
        raise ConfigError(f"There is no folder '{estimates}' with estimates.")
    files = {name: AudioStream(path) for name, path in audio_files(estimates).items() if name != MIXTURE}
    if not files:
        raise ConfigError(f"There are no audio files in '{estimates}'.")
    true = {}
    if truth is not None:
        parts = (
            {name: AudioStream(path) for name, path in audio_files(truth).items()}
            if truth.is_dir()
            else stem_file(truth)
        )
        parts.pop(MIXTURE, None)
        for stem, streams in summed_sources(truth.name, parts, tuple(files)).items():
            true[stem] = np.sum([fitting(stream) for stream in streams], axis=0)
    return mixed, {name: fitting(stream) for name, stream in files.items()}, true, rate, offset
