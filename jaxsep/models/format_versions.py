"""Descriptions of models in older formats, brought to the one of today. Data in, data out."""

from collections.abc import Mapping
from typing import Any

from jaxsep.config import Config

# Keys that descriptions of format_version 1 have, and later ones do not.
_KEYS_OF_1 = frozenset({"bandwidth_hz", "stft", "masks", "chunking", "stereo"})


def is_version_1(data: Mapping[str, Any]) -> bool:
    """Whether a description is of format_version 1; a recipe that states no version is told by its keys."""
    version = data.get("format_version")
    return version == 1 if version is not None else bool(_KEYS_OF_1 & data.keys())


def from_version_1(data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a description of format_version 1 as one of format_version 2.

    Version 1 had the transform, masks and chunks beside each other, none of the first two for networks on waveforms.

    Args:
        data: The description. Of values that are no mappings where there should be one, validation tells.

    Raises:
        ValueError: Values contradict each other.
    """
    if later := sorted({"domain", "procedure"} & data.keys()):
        raise ValueError(f"there are keys of format_version 1 and of a later one: {', '.join(later)}")
    rest = {key: value for key, value in data.items() if key not in _KEYS_OF_1}
    stft, chunking = data.get("stft"), data.get("chunking")
    transform, described = _plain(stft), _plain(chunking) or {}
    if transform is None:
        if data.get("stereo", "left_right") != "left_right":
            raise ValueError("stereo 'mid_side' is for networks on the magnitudes of two channels")
        if data.get("masks") is not None:
            raise ValueError("'masks' are for networks on magnitudes, which need 'stft' too")
        domain: dict[str, Any] = {"kind": "waveform"}
    else:
        domain = {"kind": "magnitude", "stft": stft, "stereo": data.get("stereo", "left_right")}
        if data.get("masks") is not None:
            domain["masks"] = data["masks"]
        bandwidth_hz, n_fft, sample_rate = (
            data.get("bandwidth_hz"),
            transform.get("n_fft", 4096),
            data.get("sample_rate"),
        )
        if bandwidth_hz is not None and sample_rate:
            domain["bins"] = round(float(bandwidth_hz) * int(n_fft) / int(sample_rate))
    return {
        **rest,
        "domain": domain,
        "procedure": {"cutting": _cutting(described, transform)},
        "format_version": 2,
    }


def _plain(value: Any) -> Mapping[str, Any] | None:
    """Returns a config as a mapping; None for what is neither."""
    return value.model_dump() if isinstance(value, Config) else value if isinstance(value, Mapping) else None


def _cutting(chunking: Mapping[str, Any], transform: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns a cutting: the zeros in front of a track follow from the domain now, and context from two lengths."""
    cutting = {"kind": "chunks", **chunking}
    lead, context = int(cutting.pop("lead", 0)), int(cutting.pop("context", 0))
    if "chunk_length" in cutting and "estimate_length" not in cutting:
        cutting["estimate_length"] = int(cutting["chunk_length"]) - 2 * context
    expected = context if transform is None else int(transform.get("n_fft", 4096))
    if lead != expected:
        raise ValueError(
            f"chunking.lead (= {lead}) must be {expected}: "
            + ("the context" if transform is None else "n_fft, at which frames start before the track")
        )
    if cutting.get("window") == "triangular":
        cutting["window"] = "crossfade"
    return cutting
