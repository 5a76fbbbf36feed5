"""The file that an encoder writes through, which keeps the first error of the disk."""

import io
import os
from pathlib import Path


class OutputFile:
    """The file that libsndfile writes through.

    It keeps the first error and swallows what comes after it: libsndfile itself reports a full disk for some formats
    only, late, and without the reason. Nothing is flushed to the disk itself: that would cost more than the encoding.

    Attributes:
        error: The first failure to write, or None.
        size: Bytes of the file, if all that was written arrived.
    """

    def __init__(self, path: Path) -> None:
        """Makes the file, which must not be there."""
        # O_EXCL: the name is nobody else's. Not tempfile: its files are readable by their owner only.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        self._raw = io.FileIO(descriptor, "r+")
        self._ignoring = False
        self.error: OSError | None = None
        self.size = 0

    def write(self, data: bytes) -> int:
        """Writes all of it, unless the disk has failed before."""
        if self._ignoring or self.error is not None:
            return len(data)
        view = memoryview(data)
        try:
            self.size = max(self.size, self._raw.tell() + len(data))
            while len(view):
                view = view[self._raw.write(view) :]
        except OSError as error:  # nothing may be raised through libsndfile
            self.error = error
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Goes to a byte."""
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        """Returns where it is."""
        return self._raw.tell()

    def clear_time_stamp(self) -> None:
        """Zeroes the time of writing, which libsndfile puts into the PEAK chunk of float wav files."""
        self._raw.seek(12)
        while len(header := self._raw.read(8)) == 8:
            size = int.from_bytes(header[4:], "little")
            if header[:4] == b"data":
                return
            if header[:4] == b"PEAK":
                self._raw.seek(4, io.SEEK_CUR)  # the chunk's version
                self._raw.write(bytes(4))
                return
            self._raw.seek(size + size % 2, io.SEEK_CUR)

    def ignore_writes(self) -> None:
        """Lets everything that is still written be lost."""
        self._ignoring = True

    def close(self) -> None:
        """Gives the file back."""
        self._raw.close()
