"""`jaxsep convert`: foreign weights, or a run, into a checkpoint of jaxsep's."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from jaxsep.cli.runtime import start_jax
from jaxsep.errors import ConfigError
from jaxsep.weights.forms import FORMATS


class StoredType(StrEnum):
    """What arrays are stored in."""

    float32 = "float32"
    float16 = "float16"


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="TensorFlow checkpoint, torch file, bag of Demucs, pickled arrays, or a checkpoint of jaxsep's."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="A .safetensors file, or a directory for Orbax.")],
    family: Annotated[
        str | None,
        typer.Option(help=f"Format of foreign weights: {', '.join(FORMATS)}, or the name of a registered family."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What to call the model.", show_default="by its form")] = None,
    stems: Annotated[
        str | None,
        typer.Option(metavar="STEM,...", help="What to call the stems, in their order.", show_default="as known"),
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Of the weights.", show_default="as known")] = None,
    dtype: Annotated[StoredType, typer.Option(help="What to store numbers in.")] = StoredType.float32,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is at the output.")] = False,
) -> None:
    """Convert weights to a jaxsep checkpoint: from Spleeter's files, or from Orbax to safetensors and back."""
    if not overwrite and output.exists():
        raise ConfigError(f"'{output}' exists; use --overwrite to replace it.")
    start_jax()
    from jaxsep.weights.convert import convert as convert_weights
    from jaxsep.weights.rules import rules_of

    if family is not None:
        rules_of(family)
    written = convert_weights(
        source,
        output=output,
        family=family,
        name=name,
        stems=None if stems is None else [stem.strip() for stem in stems.split(",")],
        licence=licence,
        dtype=dtype.value,
        overwrite=overwrite,
    )
    print(f"{written.spec.name} ({', '.join(written.spec.stems)}) is in {output}, sha256 {written.sha256}")
