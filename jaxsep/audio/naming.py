"""How finished files get their names: all or none of them, and never in the place of one that they may not replace."""

import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path


def give_names(temporary: Sequence[Path], final: Sequence[Path], replaced: Sequence[bool]) -> list[Path]:
    """Gives files their names; the caller holds `unfinished.changing_names`.

    A name that exists and is not to be replaced is another's: somebody made it since it was last looked for. All files
    then get other names, 'vocals.2.wav' and so on, with one number for all, so that they stay together.

    Args:
        temporary: The files, complete, each in the folder of its name.
        final: Their names.
        replaced: For each, whether a file that has its name goes.

    Returns:
        The names that they have now: `final`, or the others.

    Raises:
        OSError: The system does not let it; the files that have no name yet have their temporary one.
    """
    for number in count(1):
        names = [path if number == 1 else _numbered(path, number) for path in final]
        made: list[Path] = []
        try:
            for source, name, may_replace in zip(temporary, names, replaced, strict=True):
                if not (may_replace and number == 1):
                    _link(source, name)
                    made.append(name)
            for source, name in zip(temporary, names, strict=True):
                os.replace(source, name)
                with suppress(OSError):  # of two names of one file, replacing one by the other does nothing
                    source.unlink()
            return names
        except OSError as error:
            for name in made:
                name.unlink(missing_ok=True)
            if not isinstance(error, FileExistsError):
                raise
    raise AssertionError("there is always another number")


def _link(source: Path, name: Path) -> None:
    """Gives a file a further name; raises FileExistsError where that is taken, between any two processes."""
    try:
        os.link(source, name)
    except FileExistsError:
        raise
    except OSError:  # a file system without links, as those of cards and of some networks: the name is taken, empty
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL))


def _numbered(path: Path, number: int) -> Path:
    stem = os.fsdecode(os.fsencode(path.stem)[:200])  # names end at 255 bytes
    return path.with_name(f"{stem}.{number}{path.suffix}")
