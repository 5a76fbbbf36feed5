"""Whether a machine was quiet enough for what was measured on it to be quoted. Numbers in, sentences out.

`python -m jaxsep.compare.load` waits until the machine is quiet: between two measurements, the load average still tells
of the first.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

# The load of a machine on which nothing else runs, and how far single calls may lie apart on it.
QUIET_LOAD, STEADY = 0.5, 2.0
BUSY = "busy machine: do not quote"
# How long a measurement waits at most for what ran before it to leave the load average.
PATIENCE_SECONDS = 300.0


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


def verdict(
    before: float | None, during: Iterable[float | None], threads: int, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Returns what a report says of the load, for JSON and for `in_words`. As for `why_busy`.

    Args:
        before: Load average before the first measurement.
        during: Load averages while it was measured.
        threads: Threads of what was measured.
        rows: Rows of reports.
    """
    most = largest(during)
    return {"before": before, "during": most, "busy": why_busy(before, most, threads, rows)}


def steadiness(rounds: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Returns how far times lie apart, for JSON: over all calls, and from round to round.

    Args:
        rounds: Seconds of each call, round by round.
    """
    calls = [seconds for each in rounds for seconds in each]
    medians = [statistics.median(each) for each in rounds]
    return {
        "p50_seconds": statistics.median(calls),
        # Between two calls, as numpy's percentiles are.
        "p95_seconds": statistics.quantiles(calls, n=20, method="inclusive")[-1] if len(calls) > 1 else calls[0],
        "round_medians_seconds": medians,
        "between_rounds": spread(medians),
    }


def row_of(name: str, steady: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the row of `why_busy` for what was measured under a name.

    Args:
        name: What was measured.
        steady: What `steadiness` returned, perhaps among other things.
    """
    return {"framework": name, "p50": steady["p50_seconds"], "p95": steady["p95_seconds"]}


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


def wait_until_quiet(seconds: float = PATIENCE_SECONDS, *, pause: Callable[[float], None] = time.sleep) -> None:
    """Waits until the load average is that of a quiet machine, or the time is over.

    Args:
        seconds: Time for which it waits at most.
        pause: Waits so many seconds.
    """
    for _ in range(round(seconds)):
        if (load_average() or 0.0) <= QUIET_LOAD:
            return
        pause(1.0)


if __name__ == "__main__":
    wait_until_quiet()
