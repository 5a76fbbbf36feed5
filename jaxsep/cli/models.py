"""`jaxsep models list`: the catalogue as a table; and `jaxsep models pull`, which brings one of its models here."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jaxsep.cli.streams import console
from jaxsep.errors import ConfigError, nearest

if TYPE_CHECKING:
    from jaxsep.weights.catalogue import CatalogueEntry


def list_catalogue() -> None:
    """List the published models: stems, rate, bandwidth, size, licence, published scores, and whether they are here."""
    from rich.table import Table

    from jaxsep.weights.pretrained import is_present, list_models

    table = Table(box=None, pad_edge=False)
    for heading in ("name", "stems", "rate", "bandwidth", "size", "licence", "published SDR", "here"):
        table.add_column(heading, overflow="fold")
    for entry in list_models():
        table.add_row(
            entry.name,
            ", ".join(entry.stems),
            f"{entry.sample_rate / 1000:g} kHz",
            f"{entry.bandwidth_hz / 1000:.5g} kHz",
            f"{entry.size_bytes / 1e6:.0f} MB {entry.dtype}",
            entry.licence,
            "; ".join(_scores(entry, method) for method in dict.fromkeys(score.method for score in entry.scores))
            or "none",
            "bundled" if entry.bundled else "yes" if is_present(entry.name) else "no",
        )
    # Piped output is for programs: one line for each model, however long.
    console(width=None if sys.stdout.isatty() else 10_000).print(table)


def _scores(entry: "CatalogueEntry", method: str) -> str:
    stems = ", ".join(f"{score.stem} {score.sdr_db:.2f}" for score in entry.scores if score.method == method)
    return f"{stems} dB ({method})"


def pull(
    name: Annotated[
        str, typer.Argument(help="A name from `jaxsep models`, or hf://OWNER/NAME of the Hugging Face hub.")
    ],
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="URL|FILE|FOLDER",
            help="The published archive from another place, or the folder that it unpacks to.",
            show_default="where it was published",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Make the model's file anew if it is there.")] = False,
) -> None:
    """Fetch a published model, verify and convert it, and keep it in the cache.

    `jaxsep separate -m NAME` does the same on first use.
    """
    from jaxsep.weights.catalogue import find_entry, list_models
    from jaxsep.weights.hub import SCHEME

    entry = find_entry(name)
    if name.startswith(SCHEME) and source is None:
        print(f"{name} is in {pull_visibly(name, force=force)}")
        return
    if entry is None:
        known = [known.name for known in list_models()]
        raise ConfigError(f"There is no model called '{name}' in the catalogue.{nearest(name, known)}")
    path = pull_visibly(name, source=source, force=force)
    print(f"{name} ({', '.join(entry.stems)}) is in {path}, licence {entry.licence}, from {entry.archive.url}")


def pull_visibly(name: str, *, source: str | None = None, force: bool = False, quiet: bool = False) -> Path:
    """Pulls a model and shows on stderr what is done: lines, and a bar where stderr is a terminal."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    from jaxsep.weights.pull import pull

    shown = console(stderr=True, quiet=quiet)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=shown, transient=True, disable=quiet or not shown.is_terminal) as bar:
        task = bar.add_task(name, visible=False, total=None)
        return pull(
            name,
            source=source,
            force=force,
            announce=lambda text: shown.print(f"jaxsep: {text}"),
            progress=lambda here, all_of_it: bar.update(task, completed=here, total=all_of_it, visible=True),
        )
