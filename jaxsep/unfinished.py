"""What a process is writing under temporary names, so that it can be taken away when the process is told to end.

Nothing is written here. Only the command line ends processes; in a library, exceptions clean up.
"""

import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

# Held where temporary names are made and where they become final ones: of several files that get their names together,
# all do or none. Whoever takes it to end the process never gives it back.
changing_names = threading.RLock()

_paths: dict[Path, Sequence[Path]] = {}


def begin(path: Path, made_folders: Sequence[Path] = ()) -> None:
    """Notes a file or folder that has a temporary name.

    Args:
        path: Which.
        made_folders: Folders that were made for it, the innermost first; they go with it if they hold nothing else.
    """
    _paths[path] = made_folders


def end(path: Path) -> None:
    """Notes that it is finished or gone; does not return once the process is being ended."""
    with changing_names:
        _paths.pop(path, None)


@contextmanager
def watched(path: Path) -> Iterator[Path]:
    """Notes a file or folder while the block runs."""
    begin(path)
    try:
        yield path
    finally:
        end(path)


def discard_all() -> None:
    """Takes away all that is not finished; the caller holds `changing_names`."""
    while _paths:
        path, made_folders = _paths.popitem()
        with suppress(OSError):
            if path.is_dir():
                # Under another name, other threads no longer find it to put files there.
                shutil.rmtree(path.rename(path.with_name(f"{path.name}~")))
            else:
                path.unlink()
        with suppress(OSError):
            for folder in made_folders:
                folder.rmdir()
