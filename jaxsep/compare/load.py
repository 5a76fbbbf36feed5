"""Whether a machine was quiet enough for what was measured on it to be quoted. Numbers in, sentences out."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# The load of a machine on which nothing else runs, and how far single calls may lie apart on it.
QUIET_LOAD, STEADY = 0.5, 2.0
BUSY = "busy machine: do not quote"


def load_average() -> float | None:
    """Returns the load average over the last minute; None where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def largest(loads: Iterable[float | None]) -> float | None:
    """Returns the largest load that is known; None where none is."""
    return max((load for load in loads if load is not None), default=None)


def why_busy(before: float | None, during: float | None, threads: int, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns why times should not be quoted; nothing where the machine was quiet.

    Args:
        before: Load average before the first measurement.
        during: The largest one while it was measured, of which `threads` are the measurement's own.
        threads: Threads of what was measured.
        rows: Rows of reports, with 'framework', and 'p50' and 'p95' in seconds where they were measured.
    """
    reasons = []
    if before is not None and before > QUIET_LOAD:
        reasons.append(f"the load average was {before:.1f} before, above {QUIET_LOAD}")
    if during is not None and during > threads + QUIET_LOAD:
        reasons.append(f"the load average was up to {during:.1f} during it, above {QUIET_LOAD} beside its {threads}")
    for row in rows:
        p50, p95 = row.get("p50"), row.get("p95")
        if p50 is not None and p95 is not None and p95 > STEADY * p50:
            reasons.append(f"{row['framework']}: p95 ({p95:.3g} s) is over twice p50 ({p50:.3g} s)")
    return reasons


def spread(medians: Sequence[float]) -> float:
    """Returns how far the medians of rounds lie apart, as a fraction of the one in the middle."""
    return (max(medians) - min(medians)) / sorted(medians)[len(medians) // 2]


def in_words(load: Mapping[str, Any]) -> str:
    """Returns a report's sentence about the load.

    Args:
        load: 'before' and 'during', each None where the system does not tell, and 'busy', the reasons.
    """
    numbers = ["not known" if load[when] is None else f"{load[when]:.2f}" for when in ("before", "during")]
    said = f"Load average {numbers[0]} before and up to {numbers[1]} during the measurement."
    return f"**{BUSY}** ({'; '.join(load['busy'])}). {said}" if load["busy"] else said
