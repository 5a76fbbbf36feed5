"""What is written where: the options of a run's output, and the plan of files that is checked before any work.

No audio is touched here.
"""

import os
import string
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pydantic

from jaxsep.audio import AudioReader
from jaxsep.config import Config
from jaxsep.errors import ConfigError, nearest
from jaxsep.separation.existing import stems_are_complete
from jaxsep.separation.inputs import Input

if TYPE_CHECKING:
    from jaxsep.models.ensemble import AnySpec

RESIDUAL = "residual"
FIELDS = ("track", "stem", "ext", "suffix", "parent", "model")


class OutputConfig(Config):
    """How stems are written.

    Attributes:
        format: Of the files.
        subtype: Sample format in libsndfile's words; None follows the input.
        bitrate_kbps: Of mp3 and ogg; None for the format's default.
        sample_rate: 'input', 'model', or a rate in Hz.
        offset_seconds: Where in the input to start.
        duration_seconds: How much of the input to separate; None for all.
        audio_track: Which audio track of the input to separate, counted from 1; None for its default one.
        filename: Template of the path below the output directory, with {track}, {stem}, {ext}, {suffix} (the ending of
            the input's name), {parent} (the directory that holds the input) and {model}. Inputs from a directory keep
            their place in it, unless the template says {parent}.
        stems: Which of the separator's stems are written; None for all.
        residual: Also write the mixture minus the stems written.
        two_stems: Write this stem, and all else as 'no_' and its name, and nothing more.
        other_method: How the second file of `two_stems` is made: 'minus' for the mixture minus the stem, 'add' for the
            sum of the model's other stems, which all have to be estimated.
        consistency: 'project' changes all the model's stems by the same amount so that they sum to the mixture.
        clip: What happens to samples beyond full scale: 'none' writes as they are (PCM saturates, which is reported),
            'rescale' multiplies all stems by one gain, 'clamp' limits them.
        existing: What happens to files that are there already: 'refuse' to start, 'overwrite' them, or 'skip' inputs
            whose files are all there, complete and of the right length, and overwrite the others.
    """

    format: Literal["wav", "flac", "ogg", "mp3"] = "wav"
    subtype: str | None = None
    bitrate_kbps: int | None = None
    sample_rate: Literal["input", "model"] | pydantic.PositiveInt = "input"
    offset_seconds: float = pydantic.Field(default=0.0, ge=0, allow_inf_nan=False)
    duration_seconds: float | None = pydantic.Field(default=None, gt=0)
    audio_track: pydantic.PositiveInt | None = None
    filename: str = "{track}/{stem}.{ext}"
    stems: tuple[str, ...] | None = None
    residual: bool = False
    two_stems: str | None = None
    other_method: Literal["minus", "add"] = "minus"
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

    @pydantic.model_validator(mode="after")
    def _two_stems_are_two(self) -> "OutputConfig":
        if self.two_stems is not None and (self.stems is not None or self.residual):
            raise ValueError("two_stems says which stems are written, and goes neither with stems nor with residual")
        if self.other_method == "add" and self.two_stems is None:
            raise ValueError("other_method says what is beside the one of two_stems; name that one")
        return self

    def open(self, mixture: Path) -> AudioReader:
        """Opens the stretch and the audio track of an input that are to be separated.

        Raises:
            AudioError: It cannot be read.
        """
        return AudioReader(
            mixture,
            offset_seconds=self.offset_seconds,
            duration_seconds=self.duration_seconds,
            stream=None if self.audio_track is None else self.audio_track - 1,
        )

    @property
    def chosen_stems(self) -> tuple[str, ...] | None:
        """Which of the separator's stems are written; None for all."""
        return self.stems if self.two_stems is None else (self.two_stems,)

    @property
    def needed_stems(self) -> tuple[str, ...] | None:
        """Which stems have to be estimated for those that are written; None for all."""
        # Consistency spreads what is missing over all stems of the model, also where few are written.
        return None if self.consistency == "project" or self.other_method == "add" else self.chosen_stems

    @property
    def residual_name(self) -> str | None:
        """The name under which all but the stems written is written; None if it is not."""
        if self.two_stems is not None:
            return f"no_{self.two_stems}"
        return RESIDUAL if self.residual else None


@dataclass(frozen=True)
class Job:
    """One input and the files that it becomes.

    Attributes:
        mixture: The input's file.
        name: What messages and reports call it.
        stems: Path by stem, the residual last if it is asked for.
        skipped: Whether all files are there already, complete, and are to be left as they are.
        replaced: Those of the files that were there when the run was planned and are to be replaced. What comes to
            exist later is not, unless all are to be overwritten.
        problem: Why it cannot be separated, where that is known already.
        note: What the user is to know of it.
    """

    mixture: Path
    name: str
    stems: dict[str, Path]
    skipped: bool = False
    replaced: frozenset[Path] = frozenset()
    problem: str | None = None
    note: str | None = None


def plan(
    inputs: Sequence[Input],
    directory: Path,
    spec: "AnySpec",
    config: OutputConfig,
    *,
    stems: Sequence[str] | None = None,
) -> list[Job]:
    """Says which files a run will write, and refuses what cannot work before any work is done.

    Args:
        inputs: From `find_inputs`.
        directory: The output directory.
        spec: Of the model.
        config: How stems are written.
        stems: Those of the separator; None for the model's.

    Raises:
        ConfigError: If two files would have one path, a path lies outside of the directory or is taken, or a stem is
            unknown.
    """
    stems = spec.stems if stems is None else stems
    for stem in config.chosen_stems or ():
        if stem not in stems:
            raise ConfigError(f"There is no stem '{stem}'.{nearest(stem, stems)}")
    names = [*(config.chosen_stems or stems), *([config.residual_name] if config.residual_name else [])]
    jobs: list[Job] = []
    taken: dict[str, Input] = {}
    read = {os.path.realpath(each.path) for each in inputs}
    inside = os.path.realpath(directory)
    for each in inputs:
        paths, present, problem = {}, [], each.problem
        if problem is None:
            try:
                paths = {name: directory / _relative_path(each, name, config, spec.name) for name in names}
                present = [path for path in paths.values() if _exists(path)]
            except _UnusableNameError as error:  # of this input alone
                paths, problem = {}, f"{each.name} cannot be separated: {error}"
        for path in paths.values():
            _check_one_for_each(path, each, taken)
        for path in present:
            _check_replaceable(path, read, config)
        _check_below(inside, paths)
        skipped = (
            config.existing == "skip"
            and 0 < len(present) == len(paths)
            and stems_are_complete(each.path, paths, config, spec.sample_rate)
        )
        jobs.append(Job(each.path, each.name, paths, skipped, frozenset(present), problem, each.note))
    problems = [job.problem for job in jobs if job.problem is not None]
    if problems and len(problems) == len(jobs):
        others = f" {len(jobs) - 1} more inputs cannot be separated either." if len(jobs) > 1 else ""
        raise ConfigError(f"{problems[0]}{others}")
    return jobs


class _UnusableNameError(ConfigError):
    """The names that an input gives its stems cannot be those of files."""


def _check_one_for_each(path: Path, each: Input, taken: dict[str, Input]) -> None:
    """Refuses two stems of one path; two spellings of one file are one, on case-insensitive file systems too."""
    spelling = os.path.abspath(path).casefold()
    if spelling in taken:
        other = taken[spelling]
        template = (
            "'{track}-{suffix}/{stem}.{ext}'" if other.suffix != each.suffix else "'{parent}-{track}/{stem}.{ext}'"
        )
        raise ConfigError(
            f"'{other.name}' and '{each.name}' would both be written to '{path}'; give one of them another output "
            f"directory, or tell them apart by --filename, such as {template}."
        )
    taken[spelling] = each


def _check_replaceable(path: Path, read: Set[str], config: OutputConfig) -> None:
    if os.path.realpath(path) in read:
        raise ConfigError(
            f"'{path}' is an input of this run and would be overwritten; choose another output directory."
        )
    if config.existing == "refuse":
        raise ConfigError(f"'{path}' exists; use --overwrite to replace it or --skip-existing to keep it.")
    if not path.is_file():
        raise ConfigError(f"'{path}' is not a regular file and will not be replaced.")


def _check_below(directory: str, paths: Mapping[str, Path]) -> None:
    """Refuses links that lead out of the output directory, and folders that cannot be made."""
    for folder in {path.parent for path in paths.values()}:
        if os.path.commonpath([directory, os.path.realpath(folder)]) != directory:
            raise ConfigError(f"'{folder}' leads out of the output directory by a link; remove it or use --filename.")
        existing = folder
        while not os.path.lexists(existing) and existing != existing.parent:
            existing = existing.parent
        if not existing.is_dir():
            raise ConfigError(f"'{folder}' cannot be made: '{existing}' is not a directory; use another --output.")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise _UnusableNameError(
            f"'{path}' cannot be written: {error.strerror}; use --filename or another directory."
        ) from None


def _relative_path(each: Input, stem: str, config: OutputConfig, model: str) -> Path:
    values = {
        "track": each.track,
        "stem": stem,
        "ext": config.format,
        "suffix": each.suffix,
        "parent": each.parent or "root",
        # A name from outside must not become folders.
        "model": model.replace("/", "_").replace("\\", "_").strip(". ") or "model",
    }
    relative = Path(config.filename.format(**values))
    if relative.is_absolute() or ".." in relative.parts or relative == Path("."):
        raise ConfigError(
            f"The template '{config.filename}' gives '{relative}', which is not below the output directory."
        )
    # 255 is the limit of most file systems, and none of the usual ones has a higher one.
    if any(len(os.fsencode(part)) > 255 for part in relative.parts):
        raise _UnusableNameError(
            f"the template '{config.filename:.80}' gives a name longer than 255 bytes; use a shorter one."
        )
    return relative if "{parent}" in config.filename else Path(each.folder) / relative
