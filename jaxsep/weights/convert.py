"""Conversion: weights of another program, or a jaxsep checkpoint in its other form, to a jaxsep checkpoint.

The formats are read in `readers.py`; what names mean is in the rules of each family, `rules.py`.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jaxsep.errors import CheckpointError, ConfigError
from jaxsep.models.ensemble import EnsembleSpec
from jaxsep.models.spec import ModelSpec
from jaxsep.weights.checkpoint import (
    Checkpoint,
    StorageType,
    hash_arrays,
    is_checkpoint,
    load_checkpoint,
    read_spec,
    save_checkpoint,
)
from jaxsep.weights.ensembles import EnsembleCheckpoint, load_ensemble, save_ensemble
from jaxsep.weights.family_rules import ForeignWeights
from jaxsep.weights.readers import weight_files
from jaxsep.weights.rules import RULES, SPECS, rules_of
from jaxsep.weights.tensorflow_bundle import is_tensorflow_bundle
from jaxsep.weights.tree import flatten


def convert(
    source: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    family: str | None = None,
    dtype: StorageType | None = "float32",
    name: str | None = None,
    stems: Sequence[str] | None = None,
    licence: str | None = None,
    provenance: str | None = None,
    overwrite: bool = False,
) -> Checkpoint | EnsembleCheckpoint:
    """Writes a jaxsep checkpoint from other weights.

    Args:
        source: A TensorFlow checkpoint, PyTorch file, pickled numpy arrays or a folder of them, or a jaxsep checkpoint.
        output: A file that ends in '.safetensors', or else a folder for Orbax.
        family: Name of the format or family that the weights are of, as for `jaxsep.weights.rules.rules_of`; not needed
            for jaxsep's own.
        dtype: What to store the arrays in; None for float16 where all of a foreign source's are, and otherwise float32.
        name: What to call the model; None for the name of the published form, or for the one that it has. The name of a
            published form gives it that form, such as 'spleeter-2stems-16khz'.
        stems: Names of the stems, in the order of the output, in place of those that are known; None for those.
        licence: Of the weights; None for the one that is known for published weights, or for the one that they have.
        provenance: Where the weights come from; None for what is known of published weights and the hashes of the
            source's files, or for what they have.
        overwrite: Whether to replace a checkpoint at `output`.

    Returns:
        What was written, read back.

    Raises:
        CheckpointError: The source cannot be read or does not fit, or the output cannot be written.
    """
    source = Path(source)
    if is_checkpoint(source) and isinstance(read_spec(source), EnsembleSpec):
        if family is not None:
            raise CheckpointError(
                f"{source} is an ensemble of jaxsep's, whose members state their families; leave the family out."
            )
        return _copy_ensemble(
            source,
            {"name": name, "licence": licence, "provenance": provenance},
            stems,
            output=output,
            dtype=dtype,
            overwrite=overwrite,
        )
    if is_checkpoint(source):
        checkpoint = load_checkpoint(source)
        spec, variables = checkpoint.spec, checkpoint.variables
        if family is not None and family != spec.family:
            raise CheckpointError(
                f"{source} is a jaxsep checkpoint of family '{spec.family}', not '{family}'; leave the family out."
            )
        if name in SPECS:
            spec = SPECS[name].model_copy(update={"licence": spec.licence, "provenance": spec.provenance})
        changes = {"name": name, "licence": licence, "provenance": provenance}
    else:
        if not source.exists() and not is_tensorflow_bundle(source):
            raise CheckpointError(f"There are no weights at {source}; give a file, a folder, or a TensorFlow prefix.")
        if family is None:
            names = ", ".join(RULES)
            raise CheckpointError(f"{source} is no jaxsep checkpoint; say which family it is of ({names}).")
        try:
            foreign = rules_of(family)
        except ConfigError as error:
            raise CheckpointError(str(error)) from None
        weights = foreign.read(source, name)
        if dtype is None:
            stored = {array.dtype.name for model in weights.models for array in model.arrays.values()}
            dtype = "float16" if stored == {"float16"} else "float32"
        origin = f"converted from {describe_files(weights.files)}"
        if weights.weights is not None:
            return _save_ensemble(
                weights, stems, licence, provenance or origin, output=output, dtype=dtype, overwrite=overwrite
            )
        (found,) = weights.models
        spec, variables = found.spec, found.variables()
        known = foreign.published.get(hash_arrays(flatten(variables)))
        changes = {
            "licence": licence or (known.licence if known else None),
            "provenance": provenance or (f"{known.description}; {origin}" if known else origin),
        }
    spec = _renamed(spec.model_copy(update={key: value for key, value in changes.items() if value is not None}), stems)
    save_checkpoint(output, spec, variables, dtype=dtype, overwrite=overwrite)
    return load_checkpoint(output)


def _save_ensemble(
    weights: ForeignWeights,
    stems: Sequence[str] | None,
    licence: str | None,
    provenance: str,
    *,
    output: str | os.PathLike[str],
    dtype: StorageType | None,
    overwrite: bool,
) -> EnsembleCheckpoint:
    said = {"licence": licence or "not stated", "provenance": provenance}
    content = {
        "name": weights.name,
        "members": tuple(_renamed(model.spec.model_copy(update=said), stems) for model in weights.models),
        "weights": weights.weights,
        **said,
    }
    try:
        spec = EnsembleSpec.parse(content, where=f"The ensemble of {weights.files[0]}")
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    save_ensemble(output, spec, [model.variables() for model in weights.models], dtype=dtype, overwrite=overwrite)
    return load_ensemble(output)


def _copy_ensemble(
    source: Path,
    changes: dict[str, str | None],
    stems: Sequence[str] | None,
    *,
    output: str | os.PathLike[str],
    dtype: StorageType | None,
    overwrite: bool,
) -> EnsembleCheckpoint:
    ensemble = load_ensemble(source)
    said: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
    if stems is not None:
        said["members"] = tuple(_renamed(member, stems) for member in ensemble.spec.members)
    spec = ensemble.spec.model_copy(update=said)
    members = [ensemble.members[number].variables for number in range(len(spec.members))]
    save_ensemble(output, spec, members, dtype=dtype, overwrite=overwrite)
    return load_ensemble(output)


def _renamed(spec: ModelSpec, stems: Sequence[str] | None) -> ModelSpec:
    """Returns the spec with other names of its stems."""
    if stems is None:
        return spec
    try:
        return ModelSpec.parse({**dict(spec), "stems": tuple(stems)}, where=f"'{spec.name}' with other stems")
    except ConfigError as error:
        raise CheckpointError(str(error)) from None


def describe_source(source: str | os.PathLike[str]) -> str:
    """Returns the names of the files that hold a source's arrays, each with its sha256."""
    return describe_files(weight_files(source))


def describe_files(paths: Iterable[Path]) -> str:
    """Returns the names of files, each with its sha256."""
    descriptions = []
    for path in paths:
        with path.open("rb") as file:
            descriptions.append(f"{path.name} (sha256 {hashlib.file_digest(file, 'sha256').hexdigest()})")
    return ", ".join(descriptions)
