"""The report of a comparison as text. What was measured is in parity.py."""

from collections.abc import Iterable
from typing import Any


def to_markdown(report: dict[str, Any]) -> str:
    """Returns a report as Markdown: the verdict, weights, layers, networks, audio, and the rules."""
    thresholds = report["thresholds"]
    verdict = report["exceeded"] or [
        f"Within the thresholds: {thresholds['output']:.1e} of the network's output, "
        f"{thresholds['difference_db']:.1f} dB of the mixture."
    ]
    lines = [
        f"# {report['model']} and {report['with']}",
        "",
        f"{report['date']}, {report['processor']}, float32. Ours: {report['ours']}. Theirs: {report['theirs']}.",
        "",
        *(f"- {sentence}" for sentence in verdict),
        "",
        "## Weights",
        "",
        *_weights(report["weights"]),
        "",
        "## Layers",
        "",
        *_layers(report["layers"]),
        "",
        "## Network",
        "",
        *_networks(report["tracks"]),
        "",
        "## Audio",
        "",
        *_audio(report["tracks"]),
        "",
        "## Rules",
        "",
        *(f"- {rule}" for rule in report["rules"]),
        "",
    ]
    return "\n".join(lines)


def _weights(weights: dict[str, Any]) -> Iterable[str]:
    if "not_compared" in weights:
        return [f"Not compared: {weights['not_compared']}."]
    rows, notes = [], []
    for what, found in weights.items():
        name = what.replace("_", " ")
        if "not_compared" in found:
            notes.append(f"Not {name}: {found['not_compared']}.")
            continue
        if "names" in found:
            name += f", names {found['names']}"
        counts = (found["leaves"], found["identical"], len(found["missing"]), len(found["unknown"]))
        rows.append([name, *map(str, counts), _number(found["largest_difference"])])
        for kind in ("missing", "unknown"):
            if found[kind]:
                notes.append(
                    f"{kind.capitalize()} {name}: {', '.join(found[kind][:8])}{', ...' * (len(found[kind]) > 8)}."
                )
    table = _table(["", "leaves", "identical", "missing there", "unknown here", "largest difference"], rows)
    return [*table, *([""] if notes else []), *notes]


def _layers(layers: dict[str, Any]) -> Iterable[str]:
    if "not_compared" in layers:
        return [f"Not compared: {layers['not_compared']}."]
    rows = [
        [row["layer"], " x ".join(map(str, row["shape"])), *(_number(row[name]) for name in _NUMBERS)]
        for row in layers["rows"]
    ]
    return _table(["layer", "shape", *_TITLES], rows)


def _networks(tracks: list[dict[str, Any]]) -> Iterable[str]:
    rows = []
    for track in tracks:
        network = track["network"]
        if "not_compared" in network:
            return [f"Not compared: {network['not_compared']}."]
        worst = max(
            network["chunks"], key=lambda chunk: float("inf") if chunk["relative"] is None else chunk["relative"]
        )
        numbers = [_number(network[name]) for name in _NUMBERS]
        rows.append([track["track"], str(len(network["chunks"])), *numbers, _number(worst["relative"])])
    return _table(["track", "chunks", *_TITLES, "relative, worst chunk"], rows)


def _audio(tracks: list[dict[str, Any]]) -> Iterable[str]:
    scored = any("sdr_ours" in row for track in tracks for row in track["stems"])
    titles = ["track", "stem", "difference dB", "max", "mean"]
    rows, notes = [], []
    for track in tracks:
        for row in track["stems"]:
            cells = [
                track["track"],
                row["stem"],
                "none" if row["difference_db"] is None else f"{row['difference_db']:.1f}",
            ]
            cells += [_number(row["max"]), _number(row["mean"])]
            if scored:
                names = ("sdr_ours", "sdr_theirs", "sdr_difference")
                formats = (".3f", ".3f", "+.5f")
                cells += [
                    format(row[name], each) if name in row else "" for name, each in zip(names, formats, strict=True)
                ]
            rows.append(cells)
        start, end = track["offset_seconds"], track["offset_seconds"] + track["seconds"]
        told = [f"{start:.2f} to {end:.2f} s at {track['sample_rate']} Hz", *track.get("notes", [])]
        if "sdr_not_compared" in track:
            told.append(f"no SDR: {track['sdr_not_compared']}")
        notes.append(f"- {track['track']}: {'; '.join(told)}.")
    return [*_table(titles + scored * ["SDR ours", "SDR theirs", "SDR difference"], rows), "", *notes]


_NUMBERS = ("max", "mean", "relative", "l2")
_TITLES = ["max", "mean", "relative", "L2"]


def _table(titles: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (titles, ["---"] * len(titles), *rows)]


def _number(value: float | None) -> str:
    return "not finite" if value is None else "0" if value == 0 else f"{value:.1e}"
