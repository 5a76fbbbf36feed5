"""Descriptions of models in older formats, brought to the one of today. Data in, data out."""

import math
from collections.abc import Mapping
from typing import Any

from jaxsep.config import Config

# Keys that descriptions of format_version 1 have, and later ones do not.
_KEYS_OF_1 = frozenset({"bandwidth_hz", "stft", "masks", "chunking", "stereo"})


def is_version_1(data: Mapping[str, Any]) -> bool:
    """Whether a description is of format_version 1; a recipe that states no version is told by its keys."""
    version = data.get("format_version")
    return version == 1 if version is not None else bool(_KEYS_OF_1 & data.keys())


def check_version(version: Any, *, newest: int, oldest: int = 1) -> None:
    """Refuses a format_version that is not known.

    Raises:
        ValueError: It is not from `oldest` to `newest`.
    """
    if not isinstance(version, int) or not oldest <= version <= newest:
        raise ValueError(
            f"format_version {version!r} cannot be read: this jaxsep knows up to {newest}; install a newer jaxsep"
        )


def from_version_1(data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a description of format_version 1 as one of format_version 2.

    Version 1 had the transform, masks and chunks beside each other, none of the first two for networks on waveforms.

    Args:
        data: The description. Of values that are no mappings where there should be one, validation tells.

    Raises:
        ValueError: Values contradict each other, or one is no number.
    """
    _check_keys(data)
    rest = {key: value for key, value in data.items() if key not in _KEYS_OF_1}
    transform = _plain(data.get("stft"))
    if transform is None:
        if data.get("stereo", "left_right") != "left_right":
            raise ValueError("stereo 'mid_side' is for networks on the magnitudes of two channels")
        if data.get("masks") is not None:
            raise ValueError("'masks' are for networks on magnitudes, which need 'stft' too")
        domain: dict[str, Any] = {"kind": "waveform"}
    else:
        domain = {"kind": "magnitude", "stereo": "left_right", **_domain(data, transform, data.get("sample_rate"))}
    cutting = _cutting(_plain(data.get("chunking")) or {}, transform)
    return {**rest, "domain": domain, "procedure": {"cutting": cutting}, "format_version": 2}


def changes_from_version_1(changes: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Returns changes to a description, under keys of format_version 1, as changes to one of format_version 2.

    Args:
        changes: Some of the description's keys.
        base: The whole description, of format_version 2, that they change.

    Raises:
        ValueError: As for `from_version_1`.
    """
    _check_keys(changes)
    before, cutting = base["domain"], base["procedure"]["cutting"]
    changed = {key: value for key, value in changes.items() if key not in _KEYS_OF_1 | {"format_version"}}
    transform = {**before["stft"], **(_plain(changes.get("stft")) or {})} if "stft" in before else None
    if domain := _domain(changes, transform or {}, changes.get("sample_rate", base["sample_rate"])):
        changed["domain"] = domain
    if (chunking := _plain(changes.get("chunking"))) is not None:
        context = (cutting["chunk_length"] - cutting.get("estimate_length", cutting["chunk_length"])) // 2
        expected = context if transform is None else _whole(transform["n_fft"], "stft.n_fft")
        before_and_after = {"context": context, "lead": expected}
        lengths = {key: cutting[key] for key in ("chunk_length", "chunk_hop")}
        described = {**lengths, **before_and_after, **chunking}
        changed["procedure"] = {"cutting": _cutting(described, transform)}
    return changed


def _check_keys(data: Mapping[str, Any]) -> None:
    if later := sorted({"domain", "procedure"} & data.keys()):
        raise ValueError(f"there are keys of format_version 1 and of a later one: {', '.join(later)}")


def _domain(data: Mapping[str, Any], transform: Mapping[str, Any], sample_rate: Any) -> dict[str, Any]:
    """Returns what keys of format_version 1 say about the domain of a network on magnitudes."""
    domain = {key: data[key] for key in ("stft", "masks", "stereo") if data.get(key) is not None}
    bandwidth_hz, n_fft = data.get("bandwidth_hz"), transform.get("n_fft", 4096)
    if bandwidth_hz is not None and sample_rate:
        bins = _number(bandwidth_hz, "bandwidth_hz") * _whole(n_fft, "stft.n_fft") / _whole(sample_rate, "sample_rate")
        domain["bins"] = round(bins)
    return domain


def _plain(value: Any) -> Mapping[str, Any] | None:
    """Returns a config as a mapping; None for what is neither."""
    return value.model_dump() if isinstance(value, Config) else value if isinstance(value, Mapping) else None


def _cutting(chunking: Mapping[str, Any], transform: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns a cutting: the zeros in front of a track follow from the domain now, and context from two lengths."""
    cutting = {"kind": "chunks", **chunking}
    lead = _whole(cutting.pop("lead", 0), "chunking.lead")
    context = _whole(cutting.pop("context", 0), "chunking.context")
    if "chunk_length" in cutting and "estimate_length" not in cutting:
        cutting["estimate_length"] = _whole(cutting["chunk_length"], "chunking.chunk_length") - 2 * context
    expected = context if transform is None else _whole(transform.get("n_fft", 4096), "stft.n_fft")
    if lead != expected:
        raise ValueError(
            f"chunking.lead (= {lead}) must be {expected}: "
            + ("the context" if transform is None else "n_fft, at which frames start before the track")
        )
    if cutting.get("window") == "triangular":
        cutting["window"] = "crossfade"
    return cutting


def _number(value: Any, key: str) -> float:
    """Returns a finite number.

    Raises:
        ValueError: It is none.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{key} must be a number, and it is {value!r:.80}")
    return number


def _whole(value: Any, key: str) -> int:
    """Returns a whole number; raises as `_number`."""
    number = _number(value, key)
    if number % 1:
        raise ValueError(f"{key} must be a whole number, and it is {value!r:.80}")
    return int(number)
