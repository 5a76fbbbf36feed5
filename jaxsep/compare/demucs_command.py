"""The official Demucs, run as a command with a model's weights: what it gives of an excerpt is compared with ours.

The weights are handed over as a model of the Hugging Face hub that is in Demucs's cache already, so that no PyTorch is
needed on our side.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from jaxsep import unfinished
from jaxsep.audio import AudioWriter, resample
from jaxsep.audio.whole_file import read_audio
from jaxsep.compare.excerpts import Excerpt
from jaxsep.compare.other_stems import OtherStems
from jaxsep.errors import AudioError, ConfigError, SeparationError
from jaxsep.evaluation.tracks import MIXTURE
from jaxsep.models.ensemble import EnsembleSpec
from jaxsep.models.spec import ModelSpec
from jaxsep.separation.ensemble import Ensemble
from jaxsep.separation.separator import Model
from jaxsep.typing import HostWaveform
from jaxsep.weights.demucs import constructor_of
from jaxsep.weights.demucs_names import state_dict

DEMUCS = "demucs"
_REVISION = "0" * 40
_NAME = "htdemucs_compared"


class DemucsCommand(OtherStems):
    """Demucs's official command with our weights, without time shifts; see `OtherStems`."""

    only_stems = "Demucs is run as a command, which shows stems alone"
    rules = (
        "Demucs gets each excerpt as a wav file of floats at the model's rate that jaxsep wrote, so that decoders and "
        "resamplers do not differ, and writes floats. A mono excerpt is given in both channels, and the mean of what "
        "comes is compared. Its command cuts off at full scale even then, so ours are cut off as well.",
    )

    def __init__(self, model: Model | Ensemble, command: str | None) -> None:
        """Finds the command.

        Args:
            model: Ours.
            command: Its name or path; None for the package that is installed here, or else for 'demucs' on the PATH.

        Raises:
            ConfigError: There is no such command, or Demucs 4 does not have the model's family.
        """
        self._model, self._spec = model, model.spec
        members = model.spec.members if isinstance(model.spec, EnsembleSpec) else (model.spec,)
        for member in members:
            klass, _ = constructor_of(member)
            if klass == "demucs.model.Demucs":
                raise ConfigError(
                    f"'{member.name}' is a network of Demucs v2, which version 4 does not run; use torch."
                )
        if command is None and importlib.util.find_spec(DEMUCS) is not None:
            self._command = [sys.executable, "-m", DEMUCS]
        else:
            found = shutil.which(os.path.expanduser(command or DEMUCS))
            if found is None:
                raise ConfigError(
                    f"There is no command '{command or DEMUCS}' to run; install Demucs 4.1 or newer (its environment "
                    "may be another one) and give its command by --command PATH."
                )
            self._command = [found]
        self.description = "Demucs's own command"

    def stems(self, excerpt: Excerpt) -> dict[str, HostWaveform]:
        """See `OtherStems`; runs the command."""
        if excerpt.mixture.shape[1] > 2:
            raise AudioError(f"'{excerpt.name}' has {excerpt.mixture.shape[1]} channels, and Demucs takes one or two.")
        rate, channels = self._spec.sample_rate, self._spec.channels
        mixture = resample(excerpt.mixture, excerpt.sample_rate, rate)
        if mixture.shape[1] == 1:
            mixture = np.repeat(mixture, channels, axis=1)
        with unfinished.temporary_folder("Demucs's command cannot be given a file") as folder:
            write_hub_cache(self._model, folder / "hub")
            heard = folder / f"{MIXTURE}.wav"
            with AudioWriter(heard, sample_rate=rate, channels=channels, format="wav", subtype="FLOAT") as writer:
                writer.write(mixture)
            command = [
                *self._command,
                "-n",
                f"hf://jaxsep/{_NAME}",
                "--shifts",
                "0",
                "--float32",
                "--clip-mode",
                "none",
            ]
            environment = {**os.environ, "HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1"}
            done = subprocess.run(
                [*command, "-d", "cpu", "-o", str(folder / "stems"), str(heard)],
                env=environment,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
            stems = {}
            for stem in self._spec.stems:
                found = list((folder / "stems").glob(f"**/{stem}.wav"))
                if done.returncode or len(found) != 1:
                    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-1:]
                    raise SeparationError(
                        f"'{' '.join(self._command)}' ended with status {done.returncode} and wrote no '{stem}.wav' "
                        f"for '{excerpt.name}'; is it Demucs 4.1 or newer? It said last: "
                        f"{said[0].strip()[:300] if said else 'nothing'}"
                    )
                estimate, _ = read_audio(found[0])
                estimate = resample(estimate, rate, excerpt.sample_rate)
                if excerpt.mixture.shape[1] == 1:
                    estimate = estimate.mean(axis=1, keepdims=True)
                length = len(excerpt.mixture)
                stems[stem] = np.pad(estimate[:length], [(0, max(length - len(estimate), 0)), (0, 0)])
        return stems

    def as_written(self, stems: dict[str, HostWaveform]) -> dict[str, HostWaveform]:
        """See `OtherStems`."""
        return {stem: np.clip(waveform, -1, 1) for stem, waveform in stems.items()}


def write_hub_cache(model: Model | Ensemble, cache: Path) -> None:
    """Writes a model as the cache of the Hugging Face hub would hold it in Demucs's format.

    Args:
        model: The model.
        cache: Folder of the cache.
    """
    import safetensors.numpy

    repository = cache / f"models--jaxsep--HTDemucs-{_NAME.removeprefix('htdemucs_')}"
    snapshot = repository / "snapshots" / _REVISION
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(_REVISION)
    members = list(model.members.values()) if isinstance(model, Ensemble) else [model]
    bag: dict[str, Any] = {"models": [f"member{number}" for number in range(len(members))]}
    if isinstance(model.spec, EnsembleSpec):
        bag["weights"] = [list(row) for row in model.spec.weights]
    (snapshot / f"{_NAME}.yaml").write_text(yaml.safe_dump(bag))
    for number, member in enumerate(members):
        klass, arguments = constructor_of(member.spec)
        metadata = {"klass": klass, "args": "[]", "kwargs": json.dumps(arguments, default=_encoded)}
        state = state_dict(_config(member.spec), member.variables)
        safetensors.numpy.save_file(state, snapshot / f"member{number}.safetensors", metadata)


def _encoded(value: Any) -> Mapping[str, Any]:
    assert isinstance(value, Fraction)
    return {"_type": "fraction", "numerator": value.numerator, "denominator": value.denominator}


def _config(spec: ModelSpec) -> Any:
    return spec.config
