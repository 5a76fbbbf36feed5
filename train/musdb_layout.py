"""MUSDB18 and MUSDB18-HQ by musdb's own parser: which tracks there are, where their sources lie, what is validated on.

The audio is read by jaxsep, which needs no ffmpeg beside it.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxsep.errors import ConfigError
from train.tracks import MIXTURE, FileRecording, PartFile, Recording


def find_musdb(root: Path, *, is_wav: bool) -> tuple[list[Recording], list[Recording]]:
    """Returns MUSDB's training tracks and those that its authors set apart for validation.

    Args:
        root: The folder that holds 'train'.
        is_wav: Whether it is MUSDB18-HQ.

    Raises:
        ConfigError: musdb is not installed.
    """
    parser = _load_parser()
    found: list[list[Recording]] = []
    for split in ("train", "valid"):
        database = parser.DB(root=str(root), is_wav=is_wav, subsets=["train"], split=split)
        ids = database.setup["stem_ids"]
        found.append([_recording(track, ids, is_wav=is_wav) for track in database.tracks])
    return found[0], found[1]


def _recording(track: Any, stem_ids: dict[str, int], *, is_wav: bool) -> FileRecording:
    files = {
        name: PartFile(Path(source.path), 0 if is_wav else stem_ids[name]) for name, source in track.sources.items()
    }
    files[MIXTURE] = PartFile(Path(track.path), 0 if is_wav else stem_ids[MIXTURE])
    return FileRecording(track.name, files)


def _load_parser() -> ModuleType:
    """Imports musdb without stempeg, which it reads audio with and which raises where ffmpeg is not installed."""
    if "musdb" in sys.modules:
        return sys.modules["musdb"]
    before = sys.modules.get("stempeg")
    stand_in = ModuleType("stempeg")
    stand_in.Info = _Unread  # type: ignore[attr-defined]
    sys.modules["stempeg"] = stand_in
    try:
        import musdb

        return musdb
    except ImportError as error:
        raise ConfigError(
            f"MUSDB's layouts need musdb, which cannot be imported ({error}): pip install 'jaxsep[train]'."
        ) from None
    finally:
        del sys.modules["stempeg"]
        if before is not None:
            sys.modules["stempeg"] = before


class _Unread:
    """What the parser asks of a file and nobody here needs."""

    def __init__(self, path: str) -> None:
        del path

    def samples(self, stem: int) -> int:
        return 0

    def duration(self, stem: int) -> float:
        return 0.0

    def rate(self, stem: int) -> float:
        return 44100.0
