"""The official Demucs, run as a command with a model's weights: what it gives of an excerpt is compared with ours.

The weights are handed over as a model of the Hugging Face hub that is in Demucs's cache already, so that no PyTorch is
needed on our side.
"""

import importlib.util
import json
import sys
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from jaxsep.compare.other_stems import CommandStems, find_command
from jaxsep.errors import ConfigError
from jaxsep.models.ensemble import EnsembleSpec
from jaxsep.separation.ensemble import Ensemble
from jaxsep.separation.separator import Model
from jaxsep.typing import HostWaveform
from jaxsep.weights.demucs import constructor_of, demucs_config
from jaxsep.weights.demucs_names import state_dict

DEMUCS = "demucs"
_REVISION = "0" * 40
_NAME = "htdemucs_compared"


class DemucsCommand(CommandStems):
    """Demucs's official command with our weights, without time shifts; see `CommandStems`."""

    program = "Demucs"
    hint = "is it Demucs 4.1 or newer"
    description = "Demucs's own command"
    only_stems = "Demucs is run as a command, which shows stems alone"
    rules = (
        "Demucs gets each excerpt as a wav file of floats at the model's rate that jaxsep wrote, so that decoders and "
        "resamplers do not differ, and writes floats. A mono excerpt is given in both channels, and the mean of what "
        "comes is compared. Its command cuts off at full scale even then, so ours are cut off as well.",
    )

    def __init__(self, model: Model | Ensemble, command: str | None) -> None:
        """Finds the command.

        Args:
            model: Our model.
            command: Its name or path; None for the package that is installed here, or else for 'demucs' on the PATH.

        Raises:
            ConfigError: There is no such command, or Demucs 4 does not have the model's family.
        """
        self._model = model
        members = model.spec.members if isinstance(model.spec, EnsembleSpec) else (model.spec,)
        for member in members:
            klass, _ = constructor_of(member)
            if klass == "demucs.model.Demucs":
                raise ConfigError(
                    f"'{member.name}' is a network of Demucs v2, which version 4 does not run; use torch."
                )
        if command is None and importlib.util.find_spec(DEMUCS) is not None:
            super().__init__(model.spec, [sys.executable, "-m", DEMUCS])
            return
        install = "install Demucs 4.1 or newer (its environment may be another one) and give it by --command PATH"
        super().__init__(model.spec, [find_command(command or DEMUCS, install=install)])

    def arguments(self, folder: Path, heard: Path, seconds: float) -> list[str]:
        """See `CommandStems`; lays the weights where the command finds them."""
        write_hub_cache(self._model, folder / "hub")
        as_they_are = ["--shifts", "0", "--float32", "--clip-mode", "none"]
        return ["-n", f"hf://jaxsep/{_NAME}", *as_they_are, "-d", "cpu", "-o", str(folder / "stems"), str(heard)]

    def environment(self, folder: Path) -> dict[str, str]:
        """See `CommandStems`."""
        return {"HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1"}

    def written(self, folder: Path, stem: str) -> Path | None:
        """See `CommandStems`."""
        return next((folder / "stems").glob(f"**/{stem}.wav"), None)

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
        state = state_dict(demucs_config(member.spec), member.variables)
        safetensors.numpy.save_file(state, snapshot / f"member{number}.safetensors", metadata)


def _encoded(value: Any) -> Mapping[str, Any]:
    assert isinstance(value, Fraction)
    return {"_type": "fraction", "numerator": value.numerator, "denominator": value.denominator}
