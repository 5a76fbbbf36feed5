"""What is written where: the options of a run's output, and the plan of files that is checked before any work.

No audio is touched here.
"""

import os
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pydantic

from jaxsep.config import Config
from jaxsep.errors import ConfigError, nearest

RESIDUAL = "residual"
FIELDS = ("track", "stem", "ext")


class OutputConfig(Config):
    """How stems are written.

    Attributes:
        format: Of the files.
        subtype: Sample format in libsndfile's words; None follows the input.
        bitrate_kbps: Of mp3 and ogg; None for the format's default.
        sample_rate: 'input', 'model', or a rate in Hz.
        offset_seconds: Where in the input to start.
        duration_seconds: How much of the input to separate; None for all.
        filename: Template of the path below the output directory, with {track}, {stem} and {ext}.
        stems: Which of the separator's stems are written; None for all.
        residual: Also write the mixture minus the stems written.
        consistency: 'project' changes all the model's stems by the same amount so that they sum to the mixture.
        clip: What happens to samples beyond full scale: 'none' writes as they are (PCM saturates, which is reported),
            'rescale' multiplies all stems by one gain, 'clamp' limits them.
        existing: What happens to files that are there already: 'refuse' to start, 'overwrite' them, or 'skip' inputs
            whose files are all there.
    """

    format: Literal["wav", "flac", "ogg", "mp3"] = "wav"
    subtype: str | None = None
    bitrate_kbps: int | None = None
    sample_rate: Literal["input", "model"] | pydantic.PositiveInt = "input"
    offset_seconds: float = pydantic.Field(default=0.0, ge=0, allow_inf_nan=False)
    duration_seconds: float | None = pydantic.Field(default=None, gt=0)
    filename: str = "{track}/{stem}.{ext}"
    stems: tuple[str, ...] | None = None
    residual: bool = False
    consistency: Literal["none", "project"] = "none"
    clip: Literal["none", "rescale", "clamp"] = "none"
    existing: Literal["refuse", "overwrite", "skip"] = "refuse"

    @pydantic.field_validator("filename")
    @classmethod
    def _the_template_can_be_filled(cls, filename: str) -> str:
        try:
            parts = [part for part in string.Formatter().parse(filename) if part[1] is not None]
        except ValueError as error:
            raise ValueError(f"the template cannot be read: {error}") from None
        fields = [field for _, field, _, _ in parts]
        for _, field, format_spec, conversion in parts:
            if field not in FIELDS:
                raise ValueError(f"the template has no field '{{{field}}}'.{nearest(field or '', FIELDS)}".rstrip("."))
            if format_spec or conversion:
                raise ValueError(f"the field of the template is written '{{{field}}}', with nothing after the name")
        if "stem" not in fields:
            raise ValueError("the template needs {stem}, or all stems would have one name")
        return filename

    @property
    def residual_name(self) -> str | None:
        """The name under which the mixture minus the stems written is written; None if it is not."""
        return RESIDUAL if self.residual else None


@dataclass(frozen=True)
class Job:
    """One input and the files that it becomes.

    Attributes:
        mixture: The input.
        stems: Path by stem, 'residual' last if it is asked for.
        skipped: Whether all files are there already and are to be left as they are.
    """

    mixture: Path
    stems: dict[str, Path]
    skipped: bool = False


def plan(mixtures: Sequence[Path], directory: Path, stems: Sequence[str], config: OutputConfig) -> list[Job]:
    """Says which files a run will write, and refuses what cannot work before any work is done.

    Args:
        mixtures: The inputs.
        directory: The output directory.
        stems: Those of the separator.
        config: How stems are written.

    Raises:
        ConfigError: If two files would have one path, a path lies outside of the directory or is taken, or a stem is
            unknown.
    """
    for stem in config.stems or ():
        if stem not in stems:
            raise ConfigError(f"There is no stem '{stem}'.{nearest(stem, stems)}")
    names = [*(config.stems or stems), *([config.residual_name] if config.residual_name else [])]
    jobs: list[Job] = []
    taken: dict[str, Path] = {}
    for mixture in mixtures:
        paths = {name: directory / _relative_path(mixture, name, config) for name in names}
        for path in paths.values():
            # Two spellings of one file are one file, on case-insensitive file systems too.
            spelling = str(path.absolute()).casefold()
            if spelling in taken:
                first = taken[spelling]
                raise ConfigError(
                    f"'{first}' and '{mixture}' would both be written to '{path}'; "
                    "give one of them another output directory or use --filename."
                )
            taken[spelling] = mixture
        present = [path for path in paths.values() if _exists(path)]
        inputs = {other.resolve() for other in mixtures}
        for path in present:
            if path.resolve() in inputs:
                raise ConfigError(
                    f"'{path}' is an input of this run and would be overwritten; choose another output directory."
                )
            if config.existing == "refuse":
                raise ConfigError(f"'{path}' exists; use --overwrite to replace it or --skip-existing to keep it.")
            if config.existing == "overwrite" and not path.is_file():
                raise ConfigError(f"'{path}' is not a regular file and will not be replaced.")
        jobs.append(Job(mixture, paths, skipped=config.existing == "skip" and len(present) == len(paths)))
    return jobs


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise ConfigError(
            f"'{path}' cannot be written: {error.strerror}; use --filename or another directory."
        ) from None


def _relative_path(mixture: Path, stem: str, config: OutputConfig) -> Path:
    # Made absolute first: '.' and '..' are no names.
    track = Path(os.path.abspath(mixture)).stem
    relative = Path(config.filename.format(track=track, stem=stem, ext=config.format))
    if relative.is_absolute() or ".." in relative.parts or relative == Path("."):
        raise ConfigError(
            f"The template '{config.filename}' gives '{relative}', which is not below the output directory."
        )
    # 255 is the limit of most file systems, and none of the usual ones has a higher one.
    if any(len(os.fsencode(part)) > 255 for part in relative.parts):
        raise ConfigError(
            f"The template '{config.filename:.80}' gives a name longer than 255 bytes; use a shorter one."
        )
    return relative
