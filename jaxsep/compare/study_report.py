"""What a study shows: one summary of all runs, and it as JSON, CSV, Markdown, pictures and one page of HTML.

Nothing is trained or scored here.
"""

import html
import io
import json
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep.compare import load
from jaxsep.compare.equivalence import LEVEL_P, equivalence
from jaxsep.compare.study import RULES
from jaxsep.compare.study_config import StudyConfig
from jaxsep.compare.study_plots import plot_differences, plot_losses
from jaxsep.evaluation.page import html_page
from jaxsep.evaluation.report import to_csv
from jaxsep.evaluation.tables import Table, as_html, as_markdown
from jaxsep.metrics.frame_scores import METRICS
from jaxsep.naming import new_files

REPORTS = ("study.json", "study.md", "runs.csv", "losses.csv", "losses.png", "differences.png", "report.html")


def summarize(config: StudyConfig, runs: Sequence[dict[str, Any]], known: dict[str, Any]) -> dict[str, Any]:
    """Returns what all runs say together, ready for JSON.

    Args:
        config: The study.
        runs: Of `run_study`.
        known: Beside them.
    """
    made = [run for run in runs if "refused" not in run]
    rows = []
    for framework in config.frameworks:
        own = [run for run in made if run["framework"] == framework]
        reasons = [run["refused"] for run in runs if run["framework"] == framework and "refused" in run]
        row: dict[str, Any] = {"framework": framework, "runs": len(own)}
        if len(own) < config.seeds:
            reason = reasons[0] if reasons else "there is no record of them"
            row["not_run"] = f"{config.seeds - len(own)} of {config.seeds}: {reason}"
        rows.append(row | (_row(config, own) if own else {}))
    first = config.frameworks[0]
    summary = {
        **known,
        "config": config.model_dump(mode="json"),
        "rules": list(RULES),
        "unit": _unit(config, known),
        "load_average": _load(made, rows, known["threads"]),
        "rows": rows,
        "comparisons": [_comparison(config, made, known, first, other) for other in config.frameworks[1:]],
        "same_batches": all(
            len({run["learned_from_sha256"] for run in made if run["seed"] == seed}) <= 1
            for seed in range(config.seeds)
        ),
    }
    return _without_nan(summary)


def _without_nan(value: Any) -> Any:
    """JSON has neither NaN nor infinity: of what is not finite, such as scores of silence, it says null."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _row(config: StudyConfig, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    steps = [seconds for run in runs for seconds in run["step_seconds"]] or [run["first_step_seconds"] for run in runs]
    scores = {
        stem: {metric: _mean_and_deviation([_score(run, stem, metric) for run in runs]) for metric in METRICS}
        for stem in config.model.stems
    }
    last = max(1, config.training.steps // 10)
    return {
        "version": runs[0]["version"],
        "scores": scores,
        "last_loss": float(np.mean([np.mean(run["losses"][-last:]) for run in runs])),
        "step_seconds_p50": float(np.percentile(steps, 50)),
        "step_seconds_p95": float(np.percentile(steps, 95)),
        "steps_per_second": float(1 / np.percentile(steps, 50)),
        "between_runs": load.spread([_step_seconds(run) for run in runs]),
        "build_seconds": float(np.median([run["build_seconds"] for run in runs])),
        "compile_seconds": float(np.median([run["compile_seconds"] for run in runs])),
        "first_step_seconds": float(np.median([run["first_step_seconds"] for run in runs])),
        "peak_memory_bytes": max((run["peak_memory_bytes"] or 0) for run in runs) or None,
        "network_difference": max(run["network_difference"] for run in runs),
    }


def _step_seconds(run: dict[str, Any]) -> float:
    return float(np.median(run["step_seconds"] or [run["first_step_seconds"]]))


def _load(runs: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]], threads: int) -> dict[str, Any]:
    """The largest load of all goes in which the study was made; runs of earlier versions do not tell."""
    before, during = ([run.get(f"load_{when}") for run in runs] for when in ("before", "during"))
    steady = [
        {"framework": row["framework"], "p50": row["step_seconds_p50"], "p95": row["step_seconds_p95"]}
        for row in rows
        if "step_seconds_p50" in row
    ]
    return load.verdict(load.largest(before), during, threads, steady)


def _comparison(
    config: StudyConfig, runs: Sequence[dict[str, Any]], known: dict[str, Any], first: str, other: str
) -> dict[str, Any]:
    """The paired differences of two frameworks, the other minus the first."""
    by_seed = [
        {run["framework"]: run for run in runs if run["seed"] == seed and run["framework"] in (first, other)}
        for seed in range(config.seeds)
    ]
    pairs = [(both[first], both[other]) for both in by_seed if len(both) == 2]
    result: dict[str, Any] = {
        "framework": other,
        "against": first,
        "stem": config.primary_stem,
        "metric": config.metric,
    }
    if not pairs:
        return result | {"not_compared": "there are no two runs of one seed"}
    # By seed and song.
    table = np.array(
        [[_of_song(b, song, config) - _of_song(a, song, config) for song in known["songs"]["scored"]] for a, b in pairs]
    )
    differences = table.mean(axis=0 if _unit(config, known) == "song" else 1)
    if not np.isfinite(differences).all():
        return result | {"not_compared": "a score is not finite; the stem is silent, or so is an estimate"}
    # Of one pair there is no interval: its ends are infinite.
    return result | {"differences": differences.tolist(), **asdict(equivalence(differences.tolist(), config.margin_db))}


def _unit(config: StudyConfig, known: dict[str, Any]) -> str:
    """What is one observation: a song where there are more of them than seeds; with few songs, a seed."""
    return "song" if len(known["songs"]["scored"]) > config.seeds else "seed"


def _of_song(run: dict[str, Any], song: str, config: StudyConfig) -> float:
    return _median(run["scores"][song][config.primary_stem][config.metric])


def _score(run: dict[str, Any], stem: str, metric: str) -> float:
    return float(np.mean([_median(song[stem][metric]) for song in run["scores"].values()]))


def _median(frames: Sequence[float]) -> float:
    """Over the frames that are finite, as `BssEvalScores.median`."""
    finite = [frame for frame in frames if math.isfinite(frame)]
    return float(np.median(finite)) if finite else math.nan


def _mean_and_deviation(values: Sequence[float]) -> dict[str, float | None]:
    return {
        "mean": float(np.mean(values)),
        "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None,
    }


def verdict(comparison: dict[str, Any]) -> str:
    """Returns in a sentence what a comparison shows."""
    name = f"{comparison['framework']} against {comparison['against']}"
    if "not_compared" in comparison:
        return f"{name}: not compared, {comparison['not_compared']}."
    what = f"{comparison['stem']} {comparison['metric'].upper()}"
    if comparison["low"] is None:
        return f"{name}: {what} differs by {comparison['mean']:+.3f} dB in one pair, which has no interval."
    margin = f"±{comparison['margin']:g} dB"
    shown = f"equivalent within {margin}" if comparison["inside"] else f"equivalence within {margin} is not shown"
    return (
        f"{name}: {what} differs by {comparison['mean']:+.3f} dB, 95 % interval [{comparison['low']:+.3f}, "
        f"{comparison['high']:+.3f}] over {comparison['pairs']} pairs: {shown} (two one-sided tests: "
        f"p = {comparison['tost_p']:.2g}, {'below' if comparison['inside'] else 'not below'} {LEVEL_P}). "
        f"Sign-flip test of no difference at all: p = {comparison['sign_flip_p']:.3g}; the least it can give with so "
        f"many pairs is {comparison['sign_flip_smallest_p']:.2g}."
    )


# What a run that went wrong may not have.
_FORMS = (("last_loss", ".5f"), ("network_difference", ".1e"))


def score_table(summary: dict[str, Any]) -> Table:
    """Returns the table of scores, the mixture's first."""
    stems = summary["config"]["model"]["stems"]
    rows = [
        ["mixture", stem, "", *(_decibels(summary["mixture"][stem][metric]) for metric in METRICS)] for stem in stems
    ]
    for row in summary["rows"]:
        if "scores" not in row:
            rows.append([row["framework"], f"not run: {row['not_run']}", "0", *[""] * len(METRICS)])
            continue
        for stem in stems:
            cells = [_plus_minus(row["scores"][stem][metric]) for metric in METRICS]
            rows.append([f"{row['framework']} {row['version']}", stem, str(row["runs"]), *cells])
    headings = ["framework", "stem", "runs", *(metric.upper() for metric in METRICS)]
    return Table("Scores in dB, mean ± standard deviation over seeds", headings, rows, 2)


def training_table(summary: dict[str, Any]) -> Table:
    """Returns the table of times and memory."""
    headings = [
        "framework",
        "steps / s, without transforms",
        "p50 ms",
        "p95 ms",
        "between runs",
        "build s",
        "compile s",
        "first step s",
        "peak MB",
    ]
    headings += ["last loss", "network difference"]
    rows = []
    for row in summary["rows"]:
        if "scores" not in row:
            rows.append([row["framework"], f"not run: {row['not_run']}", *[""] * 9])
            continue
        peak = "-" if row["peak_memory_bytes"] is None else f"{row['peak_memory_bytes'] / 1e6:.0f}"
        rows.append(
            [
                f"{row['framework']} {row['version']}",
                f"{row['steps_per_second']:.2f}",
                f"{1e3 * row['step_seconds_p50']:.0f}",
                f"{1e3 * row['step_seconds_p95']:.0f}",
                f"{100 * row['between_runs']:.0f} %",
                *(f"{row[f'{name}_seconds']:.2f}" for name in ("build", "compile", "first_step")),
                peak,
                *("-" if row[name] is None else f"{row[name]:{form}}" for name, form in _FORMS),
            ]
        )
    return Table("Training, side by side", headings, rows, 1)


def _plus_minus(value: dict[str, float | None]) -> str:
    return _decibels(value["mean"]) + ("" if value["deviation"] is None else f" ± {value['deviation']:.2f}")


def _decibels(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _introduction(summary: dict[str, Any]) -> str:
    config, songs = summary["config"], summary["songs"]
    training = config["training"]
    return (
        f"{config['seeds']} seeds, {training['steps']} steps of {training['batch_size']} examples, learning rate "
        f"{training['learning_rate']:g}; learned from {', '.join(songs['learned_from'])}; scored on "
        f"{', '.join(songs['scored'])}. {summary['date']}, {summary['processor']}, {summary['threads']} threads."
    )


def _findings(summary: dict[str, Any]) -> list[str]:
    few = "; there are few songs, and what is said holds for these" if summary["unit"] == "seed" else ""
    return [
        f"One observation is a {summary['unit']}{few}.",
        *(verdict(comparison) for comparison in summary["comparisons"]),
        f"All frameworks learned from the same batches: {'yes' if summary['same_batches'] else 'NO'}.",
    ]


def _how(summary: dict[str, Any]) -> list[str]:
    return [
        *summary["rules"],
        f"Versions: {', '.join(f'{name} {version}' for name, version in summary['versions'].items())}.",
        f"Flags: {', '.join(f'{name}={value}' for name, value in summary['flags'].items()) or 'none'}.",
        f"Command: {summary['command']}",
    ]


def to_markdown(summary: dict[str, Any]) -> str:
    """Returns the study as text: what it shows, tables, and how it was done."""
    parts = [
        f"# {_title(summary)}",
        _introduction(summary),
        load.in_words(summary["load_average"]),
        "## Is the quality the same?",
        "\n".join(f"- {finding}" for finding in _findings(summary)),
        *(part for table in _tables(summary) for part in (f"## {table.caption}", as_markdown(table))),
        "![Loss](losses.png) ![Differences](differences.png)",
        "## How it was done",
        "\n".join(f"- {rule}" for rule in _how(summary)),
    ]
    return "\n\n".join(parts) + "\n"


def _tables(summary: dict[str, Any]) -> tuple[Table, Table]:
    return score_table(summary), training_table(summary)


def _title(summary: dict[str, Any]) -> str:
    return f"{summary['config']['model']['name']} in {len(summary['config']['frameworks'])} frameworks"


def _page(summary: dict[str, Any], pictures: dict[str, str]) -> str:
    def bullets(sentences: Sequence[str]) -> str:
        return "<ul>" + "".join(f"<li>{html.escape(each)}</li>" for each in sentences) + "</ul>"

    return html_page(
        _title(summary),
        [
            f"<h1>{html.escape(_title(summary))}</h1><p>{html.escape(_introduction(summary))}</p>",
            f"<p>{html.escape(load.in_words(summary['load_average']).replace('**', ''))}</p>",
            f"<h2>Is the quality the same?</h2>{bullets(_findings(summary))}{_inline(pictures['differences'])}",
            *(f"<h2>{html.escape(table.caption)}</h2>{as_html(table)}" for table in _tables(summary)),
            f"<h2>Loss</h2>{_inline(pictures['losses'])}",
            f"<h2>How it was done</h2>{bullets(_how(summary))}",
        ],
    )


def _inline(svg: str) -> str:
    """The picture without the lines that only files of their own have."""
    return f'<div class="scroll">{svg[svg.index("<svg") :]}</div>'


def write_study(
    config: StudyConfig,
    runs: Sequence[dict[str, Any]],
    known: dict[str, Any],
    workdir: Path,
    *,
    replaced: Collection[Path] = (),
) -> tuple[dict[str, Any], list[Path]]:
    """Writes all reports, which get their names when they are complete.

    Args:
        config: What was studied.
        runs: What came of each run.
        known: What is known of the network and the machine.
        workdir: The study's folder.
        replaced: Reports that are replaced if they are there by then: those of earlier runs.

    Returns:
        The summary, and the files.

    Raises:
        JaxsepError: The disk does not take them, or one that is not to be replaced came to exist.
    """
    summary = summarize(config, runs, known)
    made = [run for run in runs if "refused" not in run]
    pictures = {"losses": plot_losses(made, config.frameworks), "differences": plot_differences(summary)}
    markdown = to_markdown(summary)
    contents: dict[str, str | bytes] = {
        "study.json": json.dumps(summary, indent=1, allow_nan=False) + "\n",
        "study.md": markdown,
        "runs.csv": to_csv(_run_rows(config, made)),
        "losses.csv": to_csv(
            [
                {"framework": run["framework"], "seed": run["seed"], "step": index + 1, "loss": loss}
                for run in made
                for index, loss in enumerate(run["losses"])
            ]
        ),
        **{f"{name}.png": _saved(figure, "png") for name, figure in pictures.items()},
        "report.html": _page(summary, {name: _saved(figure, "svg").decode() for name, figure in pictures.items()}),
    }
    paths = {workdir / name: content for name, content in contents.items()}
    with new_files(list(paths), replaced=replaced) as temporary:
        for path, content in zip(temporary, paths.values(), strict=True):
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    return summary, [workdir / name for name in REPORTS]


def _run_rows(config: StudyConfig, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "framework": run["framework"],
            "seed": run["seed"],
            "song": song,
            "stem": stem,
            **{metric: _median(run["scores"][song][stem][metric]) for metric in METRICS},
            "step_seconds_p50": _step_seconds(run),
            "peak_memory_bytes": run["peak_memory_bytes"],
        }
        for run in runs
        for song in run["scores"]
        for stem in config.model.stems
    ]


def _saved(figure: Any, kind: str) -> bytes:
    file = io.BytesIO()
    # Without a date the same study gives the same file.
    figure.savefig(file, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return file.getvalue()
