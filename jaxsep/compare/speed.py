"""How fast the same network is in each framework: every leg in a process of its own, by turns, on equal terms.

One leg is in speed_leg.py, the frameworks are in frameworks.py. `RULES` says how it is measured; every report has it.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from jaxsep.compare import load, speed_leg
from jaxsep.compare.legs import PACKAGES, run_leg
from jaxsep.compare.reports import circumstances
from jaxsep.compare.speed_leg import Leg
from jaxsep.environment import processors

TASKS = ("inference", "training")

RULES = (
    "Each framework runs in a process of its own, never while another one is measured; rounds take them by turns.",
    "All run the same network with the same weights, float32, on the CPU, with the same threads, batch and segment.",
    "Inputs lie in host memory. A call ends when the estimates are in host memory, a step when loss and parameters are "
    "computed: nothing is left running.",
    "'first call' is the first one after compilation; what torch.compile and tf.function compile, they compile in it. "
    "It and the warm-up calls after it are not in the steady numbers.",
    "A training step is mean absolute error on the network's output, its gradient and Adam; dropout acts.",
    "A call or step is the network's: transforms between waveforms and the magnitudes that a network sees are not in "
    "it, and none of the tables' calls and steps a second includes them.",
    "'between rounds' is how far the medians of the rounds lie apart, as a part of the one in the middle. The load "
    "average of the machine is taken before the first leg and after each. Above 0.5 beside the threads of the "
    "comparison, or where p95 is over twice p50, times are not to be quoted.",
    "Times are medians over rounds, p50 and p95 those of all counted calls of all rounds, memory is the largest peak.",
    "Peak memory is the whole process's. Every process holds JAX too, which reads the weights: 'after import' is what "
    "the framework alone had taken.",
)


def measure_speed(
    model: str,
    *,
    member: int | None = None,
    frameworks: Sequence[str] = tuple(PACKAGES),
    tasks: Sequence[str] = TASKS,
    batch_size: int = 1,
    threads: int | None = None,
    rounds: int = 3,
    warm_up: int = 2,
    repeats: int = 10,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measures every framework in every task.

    Args:
        model: A model's name or path; its weights are those of all.
        member: Number of the model in an ensemble; None for what is none.
        frameworks: Names of `PACKAGES`.
        tasks: 'inference', 'training' or both.
        batch_size: Segments in a call.
        threads: Of each framework; None for all processors.
        rounds: Processes of each leg, by turns.
        warm_up: Calls after the first that are not counted.
        repeats: Calls that are, in each process.
        tell: Called with a line before every leg.

    Returns:
        What was measured, ready for JSON. A leg that was not run says why under 'not_run'.
    """
    threads = processors() if threads is None else threads
    before, during = load.load_average(), []
    results: dict[tuple[str, str], list[dict[str, Any]]] = {}
    reasons: dict[tuple[str, str], str] = {}
    for turn in range(rounds):
        for task in tasks:
            for framework in frameworks:
                key = (task, framework)
                if key in reasons:
                    continue
                tell(f"round {turn + 1} of {rounds}: {framework}, {task}")
                leg = Leg(
                    framework=framework,
                    task=task,
                    model=model,
                    member=member,
                    batch_size=batch_size,
                    threads=threads,
                    warm_up=warm_up,
                    repeats=repeats,
                )
                measured = run_leg(speed_leg.__name__, leg, framework=framework, threads=threads)
                during.append(load.load_average())
                if "refused" in measured:
                    reasons[key] = measured["refused"]
                else:
                    results.setdefault(key, []).append(measured)
    rows = []
    for task in tasks:
        for framework in frameworks:
            key = (task, framework)
            row: dict[str, Any] = {"framework": framework, "task": task}
            rows.append(row | ({"not_run": reasons[key]} if key in reasons else _summary(results[key], batch_size)))
    steady = [load.row_of(f"{row['framework']}, {row['task']}", row) for row in rows if "not_run" not in row]
    return {
        **circumstances(),
        "load_average": load.verdict(before, during, threads, steady),
        "model": model if member is None else f"{model}, member {member}",
        "batch_size": batch_size,
        "dtype": "float32",
        "threads": threads,
        "rounds": rounds,
        "warm_up": warm_up,
        "repeats": repeats,
        "rules": list(RULES),
        "rows": rows,
    }


def _summary(rounds: list[dict[str, Any]], batch_size: int) -> dict[str, Any]:
    steady = load.steadiness([each["call_seconds"] for each in rounds])
    p50 = steady["p50_seconds"]
    single = ("import_seconds", "build_seconds", "compile_seconds", "first_call_seconds")
    devices = [each["peak_device_memory_bytes"] for each in rounds if each["peak_device_memory_bytes"] is not None]
    return {
        "version": rounds[0]["version"],
        **{name: statistics.median(each[name] for each in rounds) for name in single},
        **steady,
        "calls_per_second": 1 / p50,
        "audio_seconds_per_second": batch_size * rounds[0]["segment_seconds"] / p50,
        "first_value": rounds[0]["first_value"],
        "memory_after_import_bytes": max(each["memory_after_import_bytes"] for each in rounds),
        "peak_memory_bytes": max(each["peak_memory_bytes"] for each in rounds),
        "peak_device_memory_bytes": max(devices) if devices else None,
    }


def to_markdown(report: dict[str, Any]) -> str:
    """Returns a report as text: what was measured, a table for each task, and the rules."""
    lines = [
        f"# The speed of {report['model']}",
        "",
        f"{report['date']}, {report['processor']}, {report['threads']} threads, batch {report['batch_size']}, "
        f"{report['dtype']}; {report['rounds']} rounds of {report['repeats']} calls.",
        "",
        load.in_words(report["load_average"]),
    ]
    for task in dict.fromkeys(row["task"] for row in report["rows"]):
        what = "calls" if task == "inference" else "steps"
        lines += [
            "",
            f"## {task.capitalize()}",
            "",
            "| framework | import s | build s | compile s | first call s | p50 s | p95 s | between rounds | "
            f"{what} / s, without transforms | audio s / s | after import MB | peak MB |",
            "|---" * 12 + "|",
        ]
        for row in (row for row in report["rows"] if row["task"] == task):
            if "not_run" in row:
                lines.append(f"| {row['framework']} | not run: {row['not_run']} |" + " |" * 10)
                continue
            cells = [f"{row[f'{name}_seconds']:.2f}" for name in ("import", "build", "compile", "first_call")]
            cells += [f"{row['p50_seconds']:.3f}", f"{row['p95_seconds']:.3f}", f"{100 * row['between_rounds']:.0f} %"]
            cells += [f"{row['calls_per_second']:.2f}", f"{row['audio_seconds_per_second']:.0f}"]
            cells += [f"{row[name] / 1e6:.0f}" for name in ("memory_after_import_bytes", "peak_memory_bytes")]
            lines.append(f"| {row['framework']} {row['version']} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "## Rules", "", *(f"- {rule}" for rule in report["rules"]), ""])
