"""Unpacking of .tar.gz archives that are not trusted: plain files below one folder, within limits, and nothing else."""

import gzip
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from jaxsep.errors import CheckpointError

_MEMBERS = 100


class _Unfolded(gzip.GzipFile):
    """What a .gz file holds, unless that is more than it should be: what is packed can unfold to any size."""

    def __init__(self, path: Path, size_limit_bytes: int) -> None:
        self._path, self._left = path, size_limit_bytes
        super().__init__(path)

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size)
        self._left -= len(content)
        if self._left < 0:
            raise CheckpointError(f"{self._path} unfolds to more than weights of its kind have; it was not kept.")
        return content


def unpack(archive: Path, folder: Path, *, size_limit_bytes: int) -> None:
    """Unpacks a .tar.gz into a new folder.

    Contents are written as new files under names that are checked here, so that no mode, owner, time or link of a
    member comes into play, as `tarfile`'s data filter has it and stricter. What macOS adds beside each file ('._name')
    is left out.

    Args:
        archive: The file.
        folder: Where its files go; replaced if it exists.
        size_limit_bytes: Of all that it unfolds to, headers included.

    Raises:
        CheckpointError: It is damaged, too large, or holds anything but files and folders with names that lie below
            `folder`. Nothing is left of `folder` then.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        with _Unfolded(archive, size_limit_bytes) as unfolded:
            with tarfile.open(fileobj=unfolded, mode="r|") as members:
                for count, member in enumerate(members):
                    if count >= _MEMBERS:
                        raise CheckpointError(f"{archive} holds more than {_MEMBERS} files; weights have a few.")
                    _write(members, member, folder, archive)
            while unfolded.read(1 << 20):  # to its end, where its checksum is
                pass
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, tarfile.TarError | zlib.error | EOFError | gzip.BadGzipFile | ValueError):
            raise CheckpointError(f"{archive} is damaged or no .tar.gz file: {error}.") from None
        if isinstance(error, OSError):
            raise CheckpointError(f"{archive} cannot be unpacked into {folder}: {error.strerror or error}.") from None
        raise


def _write(members: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, archive: Path) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or ":" in member.name or "\0" in member.name:
        raise CheckpointError(f"{archive} holds {member.name!r}, which would lie elsewhere; it is not to be trusted.")
    if member.isdir():
        return
    if not member.isreg() or member.issparse():
        raise CheckpointError(f"{archive} holds {member.name!r}, which is no plain file; it is not to be trusted.")
    if path.name.startswith("._"):
        return
    content = members.extractfile(member)
    if content is None or not path.name:
        raise CheckpointError(f"{archive} holds a file without a name; it is not to be trusted.")
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    # Never onto what an earlier member wrote.
    with target.open("xb") as file:
        shutil.copyfileobj(content, file, 1 << 20)
