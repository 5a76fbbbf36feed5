"""Sides that have only files of stems to be compared with: Spleeter's own command, and folders that another tool wrote.

What is done with the stems is in parity.py.
"""

import math
import os
import re
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from jaxsep import unfinished
from jaxsep.audio import AudioReader, AudioWriter, resample
from jaxsep.compare.excerpts import Excerpt
from jaxsep.errors import AudioError, ConfigError, SeparationError
from jaxsep.evaluation.tracks import MIXTURE, AudioStream, audio_files, describe, find_estimates
from jaxsep.models.ensemble import AnySpec
from jaxsep.models.spec import ModelSpec
from jaxsep.separation.ensemble import Ensemble, EnsembleSeparator
from jaxsep.typing import HostWaveform
from jaxsep.weights.rules import RULES

# Rounding to 16 bits, uniform over a step: its root mean square.
_ROUNDING = 2.0**-15 / math.sqrt(12)
_BLOCK = 1 << 16


class OtherStems(ABC):
    """A side that has stems of an excerpt and shows nothing of its network.

    Attributes:
        description: What it is.
        only_stems: Why nothing but stems is compared.
        rules: What reports say of it, beside what they say of all.
    """

    description: str
    only_stems: str
    rules: tuple[str, ...] = ()

    @abstractmethod
    def stems(self, excerpt: Excerpt) -> dict[str, HostWaveform]:
        """Returns its estimates of an excerpt by stem, as long as the excerpt and at its rate.

        Raises:
            JaxsepError: It has none.
        """

    def as_written(self, stems: dict[str, HostWaveform]) -> dict[str, HostWaveform]:
        """Returns our stems as its format would hold them, but for rounding."""
        return stems

    def notes(self, excerpt: Excerpt) -> list[str]:
        """Returns what the report says of an excerpt."""
        return []


class EnsembleStems(OtherStems):
    """An ensemble, which is several networks."""

    only_stems = "an ensemble is several networks, each of which can be compared by itself"

    def __init__(self, ensemble: Ensemble, device: jax.Device) -> None:
        """Places the weights.

        Args:
            ensemble: The ensemble.
            device: Device that it runs on.
        """
        self._separator = EnsembleSeparator(ensemble, device=device)
        self.description = (
            f"an ensemble of {len(ensemble.spec.members)} in JAX {jax.__version__} on {device.device_kind}"
        )

    def stems(self, excerpt: Excerpt) -> dict[str, HostWaveform]:
        """See `OtherStems`."""
        with jax.default_matmul_precision("highest"):
            return self._separator.separate(excerpt.mixture, excerpt.sample_rate).stems


class CommandStems(OtherStems):
    """Another program's own command, which gets a wav file of floats at the model's rate and writes files of stems.

    Attributes:
        program: What the program is called.
        hint: Question to ask where it writes no stem.
    """

    program: str
    hint: str

    def __init__(self, spec: AnySpec, command: Sequence[str]) -> None:
        """Keeps what is run.

        Args:
            spec: Spec of our model.
            command: The command, as far as it is the same for all excerpts.
        """
        self._spec, self._command = spec, list(command)

    @abstractmethod
    def arguments(self, folder: Path, heard: Path, seconds: float) -> list[str]:
        """Returns the rest of the command.

        Args:
            folder: A folder for its files.
            heard: The file to separate.
            seconds: How long that is.
        """

    @abstractmethod
    def written(self, folder: Path, stem: str) -> Path | None:
        """Returns the file of a stem; None where it wrote none."""

    def environment(self, folder: Path) -> dict[str, str]:
        """Returns what is set in its environment, beside what is set in ours."""
        return {}

    def stems(self, excerpt: Excerpt) -> dict[str, HostWaveform]:
        """See `OtherStems`; runs the command."""
        channels, rate = excerpt.mixture.shape[1], self._spec.sample_rate
        if channels > 2:
            raise AudioError(f"'{excerpt.name}' has {channels} channels, and {self.program} takes one or two.")
        mixture = resample(excerpt.mixture, excerpt.sample_rate, rate)
        stereo = np.repeat(mixture, 2, axis=1) if channels == 1 else mixture
        with unfinished.temporary_folder(f"{self.program}'s command cannot be given a file") as folder:
            heard = folder / f"{MIXTURE}.wav"
            with AudioWriter(heard, sample_rate=rate, channels=2, format="wav", subtype="FLOAT") as writer:
                writer.write(stereo)
            done = subprocess.run(
                [*self._command, *self.arguments(folder, heard, len(stereo) / rate)],
                env={**os.environ, **self.environment(folder)},
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
            stems = {}
            for stem in self._spec.stems:
                path = self.written(folder, stem)
                if done.returncode or path is None:
                    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-1:]
                    raise SeparationError(
                        f"'{' '.join(self._command)}' ended with status {done.returncode} and wrote no '{stem}.wav' "
                        f"for '{excerpt.name}'; {self.hint}? It said last: "
                        f"{said[0].strip()[:300] if said else 'nothing'}"
                    )
                estimate = resample(_read(path), rate, excerpt.sample_rate)
                if channels == 1:
                    estimate = estimate.mean(axis=1, keepdims=True)
                stems[stem] = _fitted(estimate, len(excerpt.mixture))
        return stems


def find_command(name: str, *, install: str) -> str:
    """Returns the path of a command.

    Args:
        name: Its name on the PATH, or its path.
        install: What to do where there is none, as the rest of a sentence.

    Raises:
        ConfigError: There is none.
    """
    found = shutil.which(os.path.expanduser(name))
    if found is None:
        raise ConfigError(f"There is no command '{name}' to run; {install}.")
    return found


class SpleeterCommand(CommandStems):
    """Spleeter's official command, `spleeter separate`, with the weights that it finds by $MODEL_PATH or downloads."""

    program = "Spleeter"
    # It ends with 0 where ffmpeg is missing, and tells of it on standard output.
    hint = "does it find ffmpeg, ffprobe and its model ($MODEL_PATH)"
    only_stems = "spleeter is run as a command, which shows stems alone"
    rules = (
        "Spleeter gets each excerpt as a wav file of floats at 44.1 kHz that jaxsep wrote, so that decoders and "
        "resamplers do not differ. A mono excerpt is given in both channels, and the mean of what comes is compared.",
        "Spleeter writes 16 bits, so ours are cut off at full scale as well. What rounding alone makes of the "
        "difference is stated with each track: nothing below it can be seen.",
    )

    def __init__(self, spec: ModelSpec, command: str) -> None:
        """Finds the command.

        Args:
            spec: Spec of our model.
            command: A name on the PATH, or a path.

        Raises:
            ConfigError: There is no such command, or the model is not one of Spleeter's.
        """
        self._configuration = spleeter_configuration(spec)
        install = "install Spleeter (its environment may be another one) and give its command by --spleeter PATH"
        found = find_command(command, install=install)
        super().__init__(spec, [found])
        told = subprocess.run([found, "--version"], capture_output=True, text=True, errors="replace", check=False)
        version = re.search(r"\d+(\.\d+)+", told.stdout)
        self.description = f"Spleeter {version[0] if version else 'of unknown version'}, {self._configuration}"

    def arguments(self, folder: Path, heard: Path, seconds: float) -> list[str]:
        """See `CommandStems`."""
        # Its default is to stop after ten minutes.
        duration = ["-d", str(math.ceil(seconds) + 1)]
        files = ["-o", str(folder), "-c", "wav", "-f", "stems/{instrument}.{codec}"]
        return ["separate", "-p", self._configuration, *files, *duration, str(heard)]

    def written(self, folder: Path, stem: str) -> Path | None:
        """See `CommandStems`."""
        path = folder / "stems" / f"{stem}.wav"
        return path if path.is_file() else None

    def as_written(self, stems: dict[str, HostWaveform]) -> dict[str, HostWaveform]:
        """See `OtherStems`."""
        return {stem: np.clip(waveform, -1, 1 - 2**-15) for stem, waveform in stems.items()}

    def notes(self, excerpt: Excerpt) -> list[str]:
        """See `OtherStems`."""
        level = math.sqrt(np.square(excerpt.mixture, dtype=np.float64).mean())
        floor = 20 * math.log10(_ROUNDING / level)
        return [f"rounding to 16 bits alone is {floor:.1f} dB of this mixture"]


class StemsFolder(OtherStems):
    """A folder of stems that another tool wrote: STEM.wav of the one track, or TRACK/STEM.wav."""

    only_stems = "there are files of stems alone"
    rules = ("The other side's stems are read from files, as they are; what their format rounds is in the difference.",)

    def __init__(self, spec: AnySpec, folder: Path, tracks: list[str]) -> None:
        """Finds the stems of all tracks.

        Args:
            spec: Of our model.
            folder: The folder.
            tracks: Names of the tracks; made-up ones are of no use here.

        Raises:
            ConfigError: A stem is missing, or it is not known whose stems these are.
        """
        if not tracks:
            raise ConfigError(f"'{folder}' holds stems; name what they were made of, as INPUT.")
        self.description = f"stems in {folder}"
        direct = audio_files(folder)
        if any(stem in direct for stem in spec.stems) and len(tracks) > 1:
            raise ConfigError(f"'{folder}' holds the stems of one track, and {len(tracks)} are given; name one INPUT.")
        self._files: dict[str, dict[str, AudioStream]] = {}
        for track in tracks:
            if any(stem in direct for stem in spec.stems):
                found = {stem: AudioStream(path) for stem, path in direct.items()}
            else:
                found = find_estimates(folder, track, None)
            for stem in spec.stems:
                if stem not in found:
                    raise ConfigError(
                        f"There is no '{stem}' of the track '{track}' in '{folder}'; '{spec.name}' has the stems "
                        f"{', '.join(spec.stems)}."
                    )
            self._files[track] = {stem: found[stem] for stem in spec.stems}

    def stems(self, excerpt: Excerpt) -> dict[str, HostWaveform]:
        """See `OtherStems`; reads the files."""
        stems = {}
        for stem, stream in self._files[excerpt.name].items():
            expected = (excerpt.sample_rate, excerpt.mixture.shape[1])
            if (found := stream.format()) != expected:
                raise AudioError(
                    f"'{stream.path}' has {describe(found)}, and the track {describe(expected)}; give stems like it."
                )
            seconds = len(excerpt.mixture) / excerpt.sample_rate
            estimate = _read(stream.path, excerpt.offset_seconds, seconds)
            stems[stem] = _fitted(estimate, len(excerpt.mixture))
        return stems


def spleeter_configuration(spec: ModelSpec) -> str:
    """Returns what Spleeter calls a model, such as 'spleeter:2stems-16kHz'.

    Raises:
        ConfigError: It is none of Spleeter's.
    """
    published = RULES["spleeter"].forms
    described = {"family", "config", "stems", "domain"}
    for known in published.values():
        if known.model_dump(include=described) == spec.model_dump(include=described):
            return known.name.replace("spleeter-", "spleeter:").replace("khz", "kHz")
    raise ConfigError(
        f"'{spec.name}' is not of the form of a published model of Spleeter's ({', '.join(published)}); "
        "compare it with torch or tensorflow."
    )


def _read(path: Path, offset_seconds: float = 0.0, seconds: float | None = None) -> HostWaveform:
    with AudioReader(path, offset_seconds=offset_seconds, duration_seconds=seconds) as reader:
        return np.concatenate(list(reader.blocks(_BLOCK)))


def _fitted(estimate: HostWaveform, length: int) -> HostWaveform:
    """Returns as many samples as the excerpt has: other tools write a few more or less."""
    return np.pad(estimate[:length], [(0, max(length - len(estimate), 0)), (0, 0)])
