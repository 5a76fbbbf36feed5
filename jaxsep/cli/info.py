"""`jaxsep info`: what a checkpoint is, verified."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxsep.cli.runtime import find_model, start_jax

if TYPE_CHECKING:
    from jaxsep.weights.checkpoint import Checkpoint


def info(
    checkpoint: Annotated[str, typer.Argument(help="A name from `jaxsep models`, a .safetensors file or a directory.")],
) -> None:
    """Describe a checkpoint: family, stems, sample rate, licence, provenance, size; its hash is verified."""
    path = find_model(checkpoint)
    start_jax()
    from jaxsep.weights.ensembles import EnsembleCheckpoint
    from jaxsep.weights.pretrained import load_pretrained

    loaded = load_pretrained(checkpoint)
    spec = loaded.spec
    rows: dict[str, Any] = {
        "file": path,
        "name": spec.name,
        "stems": ", ".join(spec.stems),
        "sample rate": f"{spec.sample_rate} Hz",
        "channels": spec.channels,
        "bandwidth": f"{spec.bandwidth_hz:g} Hz",
    }
    if isinstance(loaded, EnsembleCheckpoint):
        rows["members"] = len(loaded.spec.members)
    else:
        rows |= _of_a_model(loaded)
    rows |= {"licence": spec.licence, "provenance": spec.provenance, "sha256": f"{loaded.sha256} (verified)"}
    _print(rows)
    if isinstance(loaded, EnsembleCheckpoint):
        for number, member in loaded.members.items():
            print(f"\nmember {number}")
            weights = zip(spec.stems, loaded.spec.weights[number], strict=True)
            row = {"weights": ", ".join(f"{stem} {weight:g}" for stem, weight in weights)}
            _print({"name": member.spec.name, **row, **_of_a_model(member), "sha256": f"{member.sha256} (verified)"})


def _of_a_model(checkpoint: "Checkpoint") -> dict[str, Any]:
    from jaxsep.weights.tree import flatten

    spec, leaves = checkpoint.spec, flatten(checkpoint.variables)
    return {
        "family": spec.family,
        "parameters": f"{sum(leaf.size for name, leaf in leaves.items() if name.startswith('params')):,}",
        "config": spec.config.model_dump_json(),
        "domain": spec.domain.model_dump_json(),
        "procedure": spec.procedure.model_dump_json(),
    }


def _print(rows: dict[str, Any]) -> None:
    for name, value in rows.items():
        print(f"{name:12} {value}")
