"""What a process is writing under temporary names, so that it can be taken away when the process is told to end.

Only the command line ends processes; in a library, exceptions clean up. How what is finished gets its name is in
naming.py.
"""

import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from jaxsep.errors import ConfigError

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


@contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """Gives a folder of the system's for what has no other place, and takes it away with all that is in it.

    Args:
        purpose: What cannot be done without it, as the beginning of a sentence.

    Raises:
        ConfigError: There is no folder for temporary files that can be written to.
    """
    try:
        made = tempfile.TemporaryDirectory(prefix="jaxsep.")
    except OSError as error:
        reason = f"'{error.filename}': {error.strerror}" if error.filename else error.strerror
        raise ConfigError(f"{purpose}: {reason}; name a folder for temporary files by TMPDIR.") from None
    with made as name, watched(Path(name)) as folder:
        yield folder


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
