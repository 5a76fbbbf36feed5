"""A server on this machine that answers for files of a folder as a host of weights does, and as the hub does."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

REVISION = "0123456789abcdef0123456789abcdef01234567"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "HubServer"

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def _answer(self, *, with_content: bool) -> None:
        self.server.asked.append((self.command, self.path))
        content = self.server.content(self.path)
        self.send_response(404 if content is None else 200)
        headers = {"Content-Length": str(len(content or b"")), "X-Repo-Commit": REVISION}
        if content is not None:
            sha256 = hashlib.sha256(content).hexdigest()
            headers |= {"ETag": f'"{sha256}"', "X-Linked-ETag": f'"{sha256}"', "X-Linked-Size": str(len(content))}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if with_content:
            self.wfile.write(content or b"")

    def log_message(self, *_: object) -> None:
        pass


class HubServer(ThreadingHTTPServer):
    """Serves at `url` from its start to its end.

    Attributes:
        folder: Folder whose files are served: at their paths below it, and below OWNER/NAME/resolve/REVISION/.
        asked: Method and path of each request.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.asked = folder, list[tuple[str, str]]()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def content(self, path: str) -> bytes | None:
        """Returns what is at a path; None for nothing."""
        if path.startswith("/api/models/"):
            repository = path.removeprefix("/api/models/").split("?")[0].split("/revision/")[0]
            known = (self.folder / repository).is_dir()
            return f'{{"id": "{repository}", "sha": "{REVISION}", "siblings": []}}'.encode() if known else None
        owner_and_name, _, file = path.lstrip("/").partition("/resolve/")
        place = self.folder / owner_and_name / file.partition("/")[2] if file else self.folder / path.lstrip("/")
        return place.read_bytes() if place.is_file() else None

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of clients that leave."""
