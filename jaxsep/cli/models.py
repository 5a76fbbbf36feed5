"""`jaxsep models`: the catalogue as a table."""

import sys


def models() -> None:
    """List the published models: stems, rate, bandwidth, size, licence, published scores, and whether they are here."""
    from rich.console import Console
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
            f"{entry.bandwidth_hz / 1000:g} kHz",
            f"{entry.size_bytes / 1e6:.0f} MB {entry.dtype}",
            entry.licence,
            ", ".join(f"{score.stem} {score.sdr_db:.2f} dB ({score.method})" for score in entry.scores) or "none",
            "bundled" if entry.bundled else "yes" if is_present(entry.name) else "no",
        )
    # Piped output is for programs: one line for each model, however long.
    Console(highlight=False, width=None if sys.stdout.isatty() else 10_000).print(table)
