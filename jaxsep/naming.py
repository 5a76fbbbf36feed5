"""How finished files and folders get their names: all or none, and never in the place of what they may not replace.

What is written is somebody else's affair; what is taken away when a process ends is that of unfinished.py.
"""

import os
import secrets
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path

from jaxsep import unfinished
from jaxsep.errors import JaxsepError


def temporary_path(path: Path) -> Path:
    """Returns a hidden path beside another, for what is to be that one when it is complete.

    Args:
        path: The final path.
    """
    # File names end at 255 bytes on most file systems, and a character has up to four.
    return path.with_name(f".{path.name[:48]}.{secrets.token_hex(4)}.part")


@contextmanager
def new_files(
    paths: Sequence[Path], *, replaced: Collection[Path] = (), error: type[JaxsepError] = JaxsepError
) -> Iterator[list[Path]]:
    """Gives temporary paths to write files or folders to, which get their names together when the block ends.

    Args:
        paths: The final paths; the folders that they are in are made.
        replaced: Paths whose file or folder is replaced, if there is one by then.
        error: What is raised.

    Raises:
        JaxsepError: The disk does not take them, or a path that is not to be replaced came to exist meanwhile; what was
            written then has other names, which the error tells.
    """
    temporary = [temporary_path(path) for path in paths]
    try:
        with ExitStack() as stack:
            for path in temporary:
                stack.enter_context(unfinished.watched(path))
                stack.callback(_remove, path)
                path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            finish(temporary, paths, [path in replaced for path in paths], error)
    except OSError as failure:
        finals = dict(zip(map(str, temporary), paths, strict=True))
        which = failure.filename2 or finals.get(str(failure.filename)) or paths[0]
        raise error(f"'{which}' cannot be written: {failure.strerror or failure}.") from None


def finish(
    temporary: Sequence[Path], final: Sequence[Path], replaced: Sequence[bool], error: type[JaxsepError]
) -> None:
    """Gives names as `give_names` does, and tells where they are others.

    Args:
        temporary: Files or folders, complete, each on the file system of its name.
        final: Their names.
        replaced: For each, whether a file or folder that has its name goes.
        error: What is raised.

    Raises:
        JaxsepError: A name that is not to be replaced came to exist.
        OSError: The system does not let it.
    """
    with unfinished.changing_names:
        names = give_names(temporary, final, replaced)
    if sentence := told_of_other_names(final, names, replaced):
        raise error(sentence)


def give_names(temporary: Sequence[Path], final: Sequence[Path], replaced: Sequence[bool]) -> list[Path]:
    """Gives files and folders their names; the caller holds `unfinished.changing_names`.

    A name that exists and is not to be replaced is another's: somebody made it since it was last looked for. All then
    get other names, 'vocals.2.wav' and so on, with one number for all, so that they stay together.

    Args:
        temporary: Files or folders, complete, each on the file system of its name.
        final: Their names.
        replaced: For each, whether a file or folder that has its name goes.

    Returns:
        The names that they have now: `final`, or the others.

    Raises:
        OSError: The system does not let it; what has no name yet has its temporary one.
    """
    for number in count(1):
        names = [path if number == 1 else _numbered(path, number) for path in final]
        made: list[Path] = []
        try:
            for source, name, may_replace in zip(temporary, names, replaced, strict=True):
                if not (may_replace and number == 1):
                    _take(source, name)
                    made.append(name)
            for source, name in zip(temporary, names, strict=True):
                _put(source, name)
            return names
        except OSError as error:
            for name in made:
                _remove(name)
            if not isinstance(error, FileExistsError):
                raise
    raise AssertionError("there is always another number")


def told_of_other_names(final: Sequence[Path], names: Sequence[Path], replaced: Sequence[bool]) -> str | None:
    """Returns a sentence on the names that were given, or None where they are those that were wanted.

    Args:
        final: The names that were wanted.
        names: What `give_names` returned.
        replaced: For each, whether a file or folder that had its name was to go.
    """
    if list(final) == list(names):
        return None
    fixed = [path for path, may_replace in zip(final, replaced, strict=True) if not may_replace]
    taken = next((path for path in fixed if os.path.lexists(path)), fixed[0])
    kept = ", ".join(f"'{name}'" for name in names)
    return f"'{taken}' came to exist while it was being written, and was not replaced; what was made is kept as {kept}."


def _take(source: Path, name: Path) -> None:
    """Takes a name for a file or folder; raises FileExistsError where it is taken, between any two processes."""
    if source.is_dir():
        name.mkdir()  # an empty folder, which a folder replaces
        return
    try:
        os.link(source, name)
    except FileExistsError:
        raise
    except OSError:  # a file system without links, as those of cards and of some networks: the name is taken, empty
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL))


def _put(source: Path, name: Path) -> None:
    """Gives a file or folder the name of another, or a free one."""
    if not source.is_dir() or name.is_symlink() or not name.is_dir():
        os.replace(source, name)
        with suppress(OSError):  # of two names of one file, replacing one by the other does nothing
            source.unlink()
        return
    # A folder cannot be renamed onto another that is not empty: the old one steps aside, and back if that fails.
    aside = temporary_path(name)
    os.rename(name, aside)
    try:
        os.rename(source, name)
    except OSError:
        os.rename(aside, name)
        raise
    with unfinished.watched(aside):
        shutil.rmtree(aside, ignore_errors=True)


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _numbered(path: Path, number: int) -> Path:
    stem = os.fsdecode(os.fsencode(path.stem)[:200])  # names end at 255 bytes
    return path.with_name(f"{stem}.{number}{path.suffix}")
