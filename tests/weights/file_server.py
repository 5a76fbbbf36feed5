"""A real HTTP server on this machine that misbehaves as it is told, and remembers what it was asked."""

import email.utils
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Gives the server's next answer."""

    protocol_version = "HTTP/1.1"
    server: "FileServer"

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.asked.append((self.path, dict(self.headers)))
            answers = self.server.answers
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
        answer(self)

    def start(self, status: int, headers: dict[str, object]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class FileServer(ThreadingHTTPServer):
    """Serves at `url` from its start to its end.

    Attributes:
        answers: One for each request; the last one answers all further ones.
        asked: Path and headers of each request.
        sent: Bytes of content that were sent.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, *answers: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.asked, self.sent = list(answers), [], 0
        self.lock, self.over = threading.Lock(), threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/file"

    def __enter__(self) -> "FileServer":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Who refuses an answer hangs up, and that is no error of the server's to print among a command's words.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def ranges(self) -> list[str | None]:
        """Returns the range that each request asked for."""
        return [headers.get("Range") for _, headers in self.asked]


def sends(
    content: bytes,
    *,
    etag: str | None = '"one"',
    modified: float | None = None,
    ranges: bool = True,
    cut_after: int | None = None,
    length: int | None = -1,
    start: int | None = None,
    piece_seconds: float = 0,
) -> Answer:
    """Sends a file as RFC 9110 says, or as told.

    Args:
        content: The file.
        etag: Its entity tag.
        modified: When it was last modified.
        ranges: Whether requests for a range get one.
        cut_after: After how many bytes of the answer the connection is reset.
        length: The Content-Length; -1 for the right one, None for none.
        start: Where a range starts; None for where it was asked for.
        piece_seconds: How long each 64 kB take.
    """

    def answer(handler: Handler) -> None:
        date = None if modified is None else email.utils.formatdate(modified, usegmt=True)
        headers: dict[str, object] = {"ETag": etag, "Last-Modified": date}
        body, status = content, 200
        asked = handler.headers.get("Range")
        if asked is not None and ranges and handler.headers.get("If-Range", etag) in (etag, date):
            first = int(asked.removeprefix("bytes=").rstrip("-")) if start is None else start
            if first >= len(content):
                handler.start(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": 0})
                return
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            body, status = content[first:], 206
        headers["Content-Length"] = len(body) if length == -1 else length
        if length != -1:
            headers["Connection"] = "close"
            handler.close_connection = True
        handler.start(status, headers)
        shown = body if cut_after is None else body[:cut_after]
        for position in range(0, len(shown), 1 << 16):
            piece = shown[position : position + (1 << 16)]
            handler.wfile.write(piece)
            handler.server.sent += len(piece)
            time.sleep(piece_seconds)
        if cut_after is not None:
            # Time for what was sent to be read before the reset throws it away.
            time.sleep(0.1)
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.close_connection = True

    return answer


def answers(status: int, **headers: object) -> Answer:
    """Answers with a status and a short text."""

    def answer(handler: Handler) -> None:
        text = b"this is not the file"
        handler.start(status, {**headers, "Content-Length": len(text)})
        handler.wfile.write(text)

    return answer


def hangs(handler: Handler) -> None:
    """Never answers."""
    handler.server.over.wait(60)
    handler.close_connection = True
