"""What a run reads: files, directories, lists of files and standard input, as one list of inputs. Decodes nothing."""

import codecs
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from jaxsep.environment import expand_home
from jaxsep.errors import ConfigError

STDIN = "-"
STDIN_NAME = "stdin"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# In bytes; no system takes longer ones. Of control characters, names with tabs and ends of lines have been seen.
_LONGEST_PATH = 4096
_NO_PATH = frozenset(range(32)) - frozenset(b"\t\n\r")
# What is taken for audio in a directory: what libsndfile and FFmpeg commonly read. Of a file that is named, no matter.
AUDIO_SUFFIXES = frozenset(
    ".3gp .aac .ac3 .aif .aifc .aiff .ape .au .avi .caf .dsf .flac .flv .m4a .m4b .m4v .mka .mkv .mov .mp2 .mp3 .mp4 "
    ".mpc .mpeg .mpg .oga .ogg .ogv .opus .rf64 .snd .spx .tta .w64 .wav .wave .webm .wma .wmv .wv".split()
)


@dataclass(frozen=True)
class Input:
    """One file to be separated.

    Attributes:
        path: The file that is read.
        name: What messages and reports call it.
        track: What its stems are called after.
        folder: Where it lies below the directory that was given; its stems lie there below the output directory.
        problem: Why it cannot be separated, where that is known already: a folder that cannot be read is such an input.
        note: What was left out on the way to it, for the user to know.
    """

    path: Path
    name: str
    track: str
    folder: str = ""
    problem: str | None = None
    note: str | None = None

    @classmethod
    def of_file(cls, path: Path, folder: str = "") -> "Input":
        """Returns a file as an input."""
        # Made absolute first: '.' and '..' are no names.
        return cls(path, str(path), Path(os.path.abspath(path)).stem, folder)

    @property
    def is_stdin(self) -> bool:
        """Whether it stands for standard input, which is not kept in a file yet."""
        return self.name == STDIN_NAME and self.path == Path(STDIN)

    @property
    def suffix(self) -> str:
        """The ending of its name without the dot; 'none' where it has none."""
        return Path(self.name).suffix.removeprefix(".") or "none"

    @property
    def parent(self) -> str:
        """The name of the directory that holds it."""
        return STDIN_NAME if self.name == STDIN_NAME else Path(os.path.abspath(self.path)).parent.name


def find_inputs(arguments: Sequence[str], *, output: Path) -> list[Input]:
    """Returns the inputs that arguments stand for, in their order, each once.

    A file is itself, whatever its name; a directory, the audio files in it and below it, sorted by name; `@list.txt`,
    what its lines name, one on each, but for blank ones and those that start with '#', or paths separated by NUL; `-`,
    standard input. In directories, hidden names, links to directories and the output directory are left out.

    Args:
        arguments: As given.
        output: The output directory.

    Raises:
        ConfigError: A list or directory gives nothing, a list cannot be read, or standard input is named twice. What
            cannot be read below a directory is no error here, but an input with a problem.
    """
    inputs: dict[tuple[str, str], Input] = {}
    for argument in _without_lists(arguments):
        if argument == STDIN:
            found = [Input(Path(STDIN), STDIN_NAME, STDIN_NAME)]  # until it is kept in a file; see `spool_stdin`
            if any(known.is_stdin for known in inputs.values()):
                raise ConfigError("Standard input ('-') can be read once only.")
        elif os.path.isdir(argument):
            found = _in_directory(Path(argument), output)
        else:
            found = [Input.of_file(Path(argument))]
        for each in found:
            inputs.setdefault((os.path.realpath(each.path), each.folder), each)
    return list(inputs.values())


def spool_stdin(stdin: BinaryIO, path: Path) -> None:
    """Copies standard input to a file: decoders go back and forth in it. Memory stays bounded.

    Raises:
        ConfigError: It is a terminal, empty, or the disk does not hold it.
    """
    if stdin.isatty():
        raise ConfigError("Standard input ('-') is a terminal; pipe audio into it.")
    try:
        with path.open("wb") as file:
            shutil.copyfileobj(stdin, file, 1 << 20)
            size = file.tell()
    except OSError as error:
        raise ConfigError(f"Standard input cannot be kept in '{path.parent}': {error.strerror}.") from None
    if not size:
        raise ConfigError("Standard input ('-') is empty; pipe audio into it.")


def _without_lists(arguments: Sequence[str]) -> Iterator[str]:
    for argument in arguments:
        if not argument:
            raise ConfigError("An input has an empty name.")
        if argument.startswith("@"):
            yield from _read_list(expand_home(argument[1:]))
        else:
            yield argument


def _read_list(path: Path) -> list[str]:
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it has no such name"
        raise ConfigError(
            f"The list '{path}' cannot be read: {reason}; a file whose own name starts with '@' is written './@...'."
        ) from None
    if data.startswith(_UTF_16) or (len(data) > 3 and not any(data[1::2]) and all(data[::2])):
        raise ConfigError(f"The list '{path}' is text in UTF-16, and is read as UTF-8 only; save it as UTF-8.")
    data = data.removeprefix(codecs.BOM_UTF8)
    # What `find -print0` writes: names may then hold ends of lines, and nothing is a comment.
    names = data.split(b"\0") if b"\0" in data else [line.rstrip(b"\r") for line in data.split(b"\n")]
    # Only the line's end is cut off: names may end in spaces.
    names = [name for name in names if name.strip() and (b"\0" in data or not name.startswith(b"#"))]
    if not names:
        raise ConfigError(f"The list '{path}' names no files; write one path on each line.")
    if any(len(name) > _LONGEST_PATH or not _NO_PATH.isdisjoint(name) for name in names):
        raise ConfigError(
            f"'{path}' is no list: it holds what is in no path; write one path on each line, or separate them by NUL."
        )
    # File names are bytes, and not all of them are text.
    return [os.fsdecode(name) for name in names]


def _in_directory(directory: Path, output: Path) -> list[Input]:
    own_output = os.path.realpath(output)
    if os.path.realpath(directory) == own_output:
        raise ConfigError(
            f"'{directory}' is the output directory, whose stems would become inputs; choose another by --output."
        )
    found: list[Input] = []
    links: list[str] = []

    def left_out(error: OSError) -> None:
        folder = Path(os.fsdecode(error.filename))
        problem = f"The folder '{folder}' cannot be read: {error.strerror}; what is in it was left out."
        found.append(replace(Input.of_file(folder), problem=problem))

    for root, directories, files in os.walk(directory, onerror=left_out):
        paths = {name: os.path.join(root, name) for name in directories if not name.startswith(".")}
        links += sorted(path for path in paths.values() if os.path.islink(path))
        directories[:] = sorted(name for name, path in paths.items() if os.path.realpath(path) != own_output)
        folder = "" if root == str(directory) else os.path.relpath(root, directory)
        for name in sorted(files):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES:
                found.append(Input.of_file(Path(root) / name, folder))
    note = None
    if links:
        count = f"{len(links)} links to folders" if len(links) > 1 else "a link to a folder"
        note = (
            f"'{directory}' holds {count}, such as '{links[0]}', which is not followed; name it to separate its files."
        )
    if not found:
        raise ConfigError(
            note or f"There is no audio in the directory '{directory}'; what counts is the ending of file names."
        )
    return [replace(found[0], note=note), *found[1:]]
