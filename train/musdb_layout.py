"""MUSDB18 and MUSDB18-HQ as musdb's own parser finds them, its validation split included. The audio is not its concern.

See https://sigsep.github.io/datasets/musdb.html.
"""

import functools
import importlib
import sys
import types
from pathlib import Path
from typing import Any

from jaxsep.errors import ConfigError
from train.problems import Problems
from train.recordings import MIXTURE, AudioFile, FileRecording, open_recording


def find_musdb(root: Path, problems: Problems, *, is_wav: bool, split: str | None) -> list[FileRecording]:
    """Returns the recordings of the folder 'train', sorted by name.

    Args:
        root: The folder of the data set.
        problems: Files that are not audio are put aside there, and their tracks left out.
        is_wav: Whether it is MUSDB18-HQ.
        split: 'train' or 'valid', by musdb's list; None for both.

    Raises:
        ConfigError: musdb is not installed.
    """
    found = _load_musdb().DB(str(root), is_wav=is_wav, subsets=["train"], split=split).tracks
    recordings = [_recording(track, problems) for track in found]
    return [recording for recording in recordings if recording is not None]


def _recording(track: Any, problems: Problems) -> FileRecording | None:
    def file(path: str, stem_id: int) -> AudioFile:
        return AudioFile(Path(path), 0 if track.is_wav else stem_id)

    files = {name: file(source.path, source.stem_id) for name, source in track.sources.items()}
    if Path(track.path).exists():
        files[MIXTURE] = file(track.path, track.stem_id)
    return open_recording(track.name, files, problems)


@functools.cache
def _load_musdb() -> types.ModuleType:
    """Loads musdb without stempeg, which raises where the programs ffmpeg and ffprobe are missing.

    The parser needs none of stempeg but the lengths of files, which are asked of our own decoders. It is loaded for
    here alone: whoever imports musdb gets musdb with its stempeg.
    """
    stand_in: Any = types.ModuleType("stempeg")
    stand_in.Info = _NoInfo
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in ("musdb", "stempeg")}
    sys.modules["stempeg"] = stand_in
    try:
        return importlib.import_module("musdb")
    except ImportError as error:
        raise ConfigError(f"MUSDB18 is read by musdb, which cannot be loaded ({error}): pip install musdb.") from None
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] in ("musdb", "stempeg")]:
            del sys.modules[name]
        sys.modules.update(before)


class _NoInfo:
    """Stands for `stempeg.Info`, which runs ffprobe."""

    def __init__(self, path: str) -> None:
        del path

    def samples(self, stem_id: int) -> int:
        return 0

    def duration(self, stem_id: int) -> float:
        return 0.0

    def rate(self, stem_id: int) -> int:
        return 0
