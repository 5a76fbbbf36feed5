"""Downloads: from a URL to a file of known sha256, resumed where it was cut off. What the file is, is not known here.

Nothing appears under the file's name before all of it has been verified.
"""

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urljoin, urlsplit

from jaxsep.errors import CheckpointError

if TYPE_CHECKING:
    import requests

logger = logging.getLogger(__name__)

Announce = Callable[[str], None]
# Called with the bytes that are here and, where the server says, all there are.
DownloadProgress = Callable[[int, int | None], None]

_TIMEOUT_SECONDS = (10.0, 30.0)  # to connect, and between two pieces of the answer
_PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)  # before each further try
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_REDIRECTIONS = 10
_PIECE = 1 << 16


class _Interrupted(Exception):
    """What went wrong on the way and may not the next time."""


class _Partial(NamedTuple):
    """A file on its way, and what its server called the version of which it is the beginning."""

    content: Path
    record: Path

    @property
    def size(self) -> int:
        return self.content.stat().st_size if self.content.exists() else 0

    def version(self, url: str) -> str | None:
        """Returns the validator under which the bytes that are here came from this URL; None where there is none."""
        try:
            record = json.loads(self.record.read_text(encoding="utf-8"))
            return str(record["version"]) if record["url"] == url else None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def start(self, url: str, headers: Mapping[str, str]) -> None:
        """Begins anew with the version that an answer with these headers has."""
        self.discard()
        etag = headers.get("ETag", "")
        # A weak tag says of bytes nothing; the date is good enough, since the sha256 of the whole has the last word.
        version = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")
        if version:
            self.record.write_text(json.dumps({"url": url, "version": version}), encoding="utf-8")

    def discard(self) -> None:
        self.content.unlink(missing_ok=True)
        self.record.unlink(missing_ok=True)


def download(
    url: str,
    target: Path,
    *,
    sha256: str,
    size_limit_bytes: int,
    announce: Announce = logger.warning,
    progress: DownloadProgress | None = None,
) -> None:
    """Fetches a file, verifies it and only then gives it its name.

    What is cut off stays beside the target as '<name>.part', and the next call goes on from there where the server can
    (RFC 9110, ranges under If-Range) and begins anew where it cannot. One caller at a time: see `pull`, which locks.

    Args:
        url: Of http or https. From https, no redirection leads back to http.
        target: Where the file goes. If it is there and has the hash, nothing is fetched.
        sha256: Hash of the whole file in hexadecimal, or the beginning of it.
        size_limit_bytes: More than this is refused as soon as it is announced or has come.
        announce: Called with a clause for each further try.
        progress: Called after every piece.

    Raises:
        CheckpointError: The file cannot be had, is not the right one, or cannot be written.
    """
    with _written(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_file() and file_sha256(target).startswith(sha256):
            return
        partial = _Partial(target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.part.json"))
        resumed = partial.size > 0
        _fetch(url, partial, size_limit_bytes, announce, progress)
        found = file_sha256(partial.content)
        if not found.startswith(sha256) and resumed:
            # The beginning may have been that of another version, or damaged where it lay.
            announce("what was resumed does not have the right sha256; fetching all of it anew")
            partial.discard()
            _fetch(url, partial, size_limit_bytes, announce, progress)
            found = file_sha256(partial.content)
        if not found.startswith(sha256):
            partial.discard()
            begins = "" if len(sha256) == len(found) else ", with which it should begin"
            raise CheckpointError(
                f"{url} gave a file of sha256 {found} and not {sha256}{begins}; it was damaged on the way or is "
                "another one, and was deleted."
            )
        partial.content.replace(target)
        partial.record.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Returns the sha256 of a file's bytes in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(
    url: str, partial: _Partial, size_limit_bytes: int, announce: Announce, progress: DownloadProgress | None
) -> None:
    """Completes a partial file, in several tries if need be."""
    import requests
    import urllib3

    host = urlsplit(url).netloc
    no_address = requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL
    reached = False
    with requests.Session() as session:
        for pause in (*_PAUSES_SECONDS, None):
            try:
                with _answer(session, url, partial) as response:
                    reached = True
                    if response is not None:
                        _append(response, url, partial, size_limit_bytes, progress)
                return
            except no_address:
                raise CheckpointError(f"'{url}' is no URL of http or https; give one, or a path.") from None
            except requests.exceptions.SSLError as error:
                raise CheckpointError(f"{host} cannot be trusted: {_reason(error)}.") from None
            except (_Interrupted, requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
                reason = _reason(error)
                # Who is not online need not wait to be told so.
                if not reached and isinstance(_innermost(error), urllib3.exceptions.NewConnectionError):
                    raise CheckpointError(f"{host} cannot be reached: {reason}.") from None
                if pause is None:
                    kept = f"; {partial.size / 1e6:.1f} MB are kept, and the next try goes on from there"
                    raise CheckpointError(
                        f"{url} cannot be fetched, in {len(_PAUSES_SECONDS) + 1} tries: {reason}"
                        f"{kept if partial.size else ''}."
                    ) from None
                announce(f"{reason}; trying again in {pause:g} s")
                time.sleep(pause)


@contextmanager
def _answer(session: "requests.Session", url: str, partial: _Partial) -> "Iterator[requests.Response | None]":
    """Asks for what is missing and follows redirections; None if nothing is missing after all."""
    # The bytes are wanted as they are, and their count as they come.
    headers = {"Accept-Encoding": "identity"}
    if partial.size and (version := partial.version(url)) is not None:
        headers |= {"Range": f"bytes={partial.size}-", "If-Range": version}
    place = url
    for _ in range(_REDIRECTIONS):
        with session.get(
            place, headers=headers, stream=True, allow_redirects=False, timeout=_TIMEOUT_SECONDS
        ) as response:
            if not response.is_redirect:
                yield _accepted(response, place, partial)
                return
            following = urljoin(place, response.headers["Location"])
        schemes = urlsplit(place).scheme, urlsplit(following).scheme
        if schemes[1] not in ("http", "https") or schemes == ("https", "http"):
            raise CheckpointError(f"{place} redirects to {following}, which is not followed: it leads out of https.")
        place = following
    raise CheckpointError(f"{url} redirects more than {_REDIRECTIONS} times; give another URL.")


def _accepted(response: "requests.Response", place: str, partial: _Partial) -> "requests.Response | None":
    """Returns an answer that has the file or its rest, None if the file is complete already."""
    status = response.status_code
    if status == 416:
        if response.headers.get("Content-Range") == f"bytes */{partial.size}":
            return None
        partial.discard()
        raise _Interrupted(f"{urlsplit(place).netloc} has less of the file than there is here already")
    if status in _PASSING:
        raise _Interrupted(f"{urlsplit(place).netloc} answered {status} {response.reason}")
    if status not in (200, 206):
        raise CheckpointError(f"{place} answered {status} {response.reason}; the file is not there to be had.")
    return response


def _append(
    response: "requests.Response",
    url: str,
    partial: _Partial,
    size_limit_bytes: int,
    progress: DownloadProgress | None,
) -> None:
    """Writes what an answer holds, behind what is there or in its place."""
    if response.status_code == 206:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if span is None or int(span[1]) != partial.size:
            partial.discard()
            raise _Interrupted("the server sent another part of the file than was asked for")
        total = None if span[2] == "*" else int(span[2])
    else:
        partial.start(url, response.headers)
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
    size = partial.size
    _check_size(total or size, size_limit_bytes, url, partial)
    with partial.content.open("ab") as file:
        for piece in response.raw.stream(_PIECE, decode_content=False):
            size += len(piece)
            _check_size(size, size_limit_bytes, url, partial)
            file.write(piece)
            if progress is not None:
                progress(size, total)
    if total is not None and size < total:
        raise _Interrupted(f"the connection ended after {size} of {total} bytes")


def _check_size(size: int, limit: int, url: str, partial: _Partial) -> None:
    if size > limit:
        partial.discard()
        raise CheckpointError(
            f"{url} has {size / 1e6:.1f} MB or more, and what was published fits into {limit / 1e6:.1f} MB; it is "
            "another file and was not kept."
        )


def _innermost(error: BaseException) -> BaseException:
    """Returns the error that others of requests and urllib3 carry about as their reason or argument."""
    carried = [getattr(error, "reason", None), *error.args]
    return next((_innermost(part) for part in carried if isinstance(part, BaseException)), error)


def _reason(error: BaseException) -> str:
    """Returns what happened in the words of the error that it began with."""
    innermost = _innermost(error)
    if isinstance(innermost, OSError) and innermost.strerror:
        return innermost.strerror
    # urllib3's errors begin with the representation of a connection.
    text = re.sub(
        r"^(<[^>]*>|\w+\(.*\)): (Failed to establish a new connection: \[Errno \d+\] )?",
        "",
        str(innermost).split("\n")[0],
    )
    return text.removesuffix(".") or type(innermost).__name__


@contextmanager
def _written(target: Path) -> Iterator[None]:
    """Turns what the file system refuses into one sentence; the network's errors are told before they come here."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or target} cannot be written: {error.strerror or error}; make room there, or choose "
            "another place by JAXSEP_CACHE."
        ) from None
