"""`jaxsep info`: what a checkpoint is, verified."""

from typing import Annotated

import typer

from jaxsep.cli.runtime import find_model


def info(
    checkpoint: Annotated[str, typer.Argument(help="A name from `jaxsep models`, a .safetensors file or a directory.")],
) -> None:
    """Describe a checkpoint: family, stems, sample rate, licence, provenance, size; its hash is verified."""
    from jaxsep.weights.pretrained import load_pretrained
    from jaxsep.weights.tree import flatten

    path = find_model(checkpoint)
    loaded = load_pretrained(checkpoint)
    spec = loaded.spec
    leaves = flatten(loaded.variables)
    rows = {
        "file": path,
        "name": spec.name,
        "family": spec.family,
        "stems": ", ".join(spec.stems),
        "sample rate": f"{spec.sample_rate} Hz",
        "channels": spec.channels,
        "bandwidth": f"{spec.bandwidth_hz:g} Hz",
        "parameters": f"{sum(leaf.size for name, leaf in leaves.items() if name.startswith('params')):,}",
        "config": spec.config.model_dump_json(),
        "domain": spec.domain.model_dump_json(),
        "procedure": spec.procedure.model_dump_json(),
        "licence": spec.licence,
        "provenance": spec.provenance,
        "sha256": f"{loaded.sha256} (verified)",
    }
    for name, value in rows.items():
        print(f"{name:12} {value}")
