"""Downloads from a real HTTP server that cuts off, lies, redirects, hangs and fails."""

import hashlib
import json
import random
import resource
import signal
import socket
import subprocess
import sys
import time

import pytest
import requests
from weights.file_server import FileServer, answers, hangs, sends

from jaxsep.errors import CheckpointError
from jaxsep.weights import download as download_module
from jaxsep.weights.download import download

CONTENT = random.Random(0).randbytes(600_000)
OTHER = random.Random(1).randbytes(600_000)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    assert sum(download_module._PAUSES_SECONDS) > 10
    monkeypatch.setattr(download_module, "_PAUSES_SECONDS", (0.0,) * len(download_module._PAUSES_SECONDS))


class Fetch:
    """Calls `download` for the file of a server, and keeps what it told."""

    def __init__(self, folder):
        self.target = folder / "downloads" / "file.tar.gz"
        self.announced, self.progress = [], []

    def __call__(self, url, content=CONTENT, size_limit_bytes=1_000_000):
        download(
            url,
            self.target,
            sha256=sha256(content),
            size_limit_bytes=size_limit_bytes,
            announce=self.announced.append,
            progress=lambda here, all_of_it: self.progress.append((here, all_of_it)),
        )
        # The file has its name, its content, and nothing is left of the way there.
        assert self.target.read_bytes() == content
        assert [path.name for path in self.target.parent.iterdir()] == ["file.tar.gz"]

    def refused(self, url, *words, **options):
        """Asserts one sentence, and no file under the name that only verified files have; returns what is kept."""
        with pytest.raises(CheckpointError) as error:
            self(url, **options)
        message = str(error.value)
        assert message.endswith(".") and "\n" not in message and "0x" not in message, message
        for word in words:
            assert word in message
        assert not self.target.exists()
        return sum(path.stat().st_size for path in self.target.parent.glob("*.part"))

    def leave_behind(self, content, url):
        """Puts there what an earlier call, cut off, left of the version '"one"'."""
        self.target.parent.mkdir(parents=True)
        self.target.with_name("file.tar.gz.part").write_bytes(content)
        self.target.with_name("file.tar.gz.part.json").write_text(json.dumps({"url": url, "version": '"one"'}))


@pytest.fixture
def fetch(tmp_path):
    return Fetch(tmp_path)


def test_a_file_comes_whole_and_as_it_is(fetch):
    with FileServer(sends(CONTENT)) as server:
        fetch(server.url)
    assert server.asked[0][1]["Accept-Encoding"] == "identity"
    assert server.sent == len(CONTENT) and len(server.asked) == 1
    heres = [here for here, _ in fetch.progress]
    assert heres == sorted(heres) and len(heres) > 3
    assert fetch.progress[-1] == (len(CONTENT), len(CONTENT))
    assert fetch.announced == []


def test_a_file_that_the_server_calls_compressed_is_not_unfolded(fetch):
    # Servers say so of every '.gz'; what has a sha256 is the file as it lies there.
    def answer(handler):
        handler.start(200, {"Content-Encoding": "gzip", "Content-Length": len(CONTENT)})
        handler.wfile.write(CONTENT)

    with FileServer(answer) as server:
        fetch(server.url)


def test_what_is_cut_off_goes_on_where_it_ended_each_time(fetch):
    with FileServer(sends(CONTENT, cut_after=200_000), sends(CONTENT, cut_after=150_000), sends(CONTENT)) as server:
        fetch(server.url)
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in server.ranges()[1:]]
    # Pieces are of 65,536 bytes, and one that has begun when the connection breaks is lost.
    assert 130_000 < starts[0] <= 200_000 and starts[0] + 65_536 < starts[1] <= starts[0] + 150_000
    assert [headers.get("If-Range") for _, headers in server.asked] == [None, '"one"', '"one"']
    assert server.sent < len(CONTENT) + 3 * 65_536
    assert len(fetch.announced) == 2 and all("trying again" in text for text in fetch.announced)


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(fetch):
    with FileServer(sends(CONTENT, cut_after=300_000), answers(503)) as server:
        kept = fetch.refused(server.url, "503", "in 6 tries", "MB are kept")
        assert 200_000 < kept <= 300_000
        server.answers[:] = [sends(CONTENT)]
        fetch(server.url)
    assert server.ranges()[-1] == f"bytes={kept}-"
    assert server.sent < len(CONTENT) + 2 * 65_536


@pytest.mark.parametrize(
    "again",
    [sends(CONTENT, ranges=False), sends(CONTENT, start=7), answers(206), answers(416)],
    ids=["no ranges", "another range", "no range said", "unsatisfiable"],
)
def test_where_the_server_cannot_go_on_all_of_it_comes_anew(fetch, again):
    with FileServer(sends(CONTENT, cut_after=200_000), again, sends(CONTENT)) as server:
        fetch(server.url)
    assert server.ranges()[1] is not None


def test_without_a_validator_no_range_is_asked_for(fetch):
    for etag in (None, 'W/"weak"'):
        with FileServer(sends(CONTENT, etag=etag, cut_after=200_000), sends(CONTENT, etag=etag)) as server:
            fetch(server.url)
        assert server.ranges() == [None, None]
        fetch.target.unlink()


def test_a_date_is_a_validator_where_there_is_no_tag(fetch):
    file = {"etag": None, "modified": 1.5e9}
    with FileServer(sends(CONTENT, **file, cut_after=200_000), sends(CONTENT, **file)) as server:
        fetch(server.url)
    assert server.asked[1][1]["If-Range"] == "Fri, 14 Jul 2017 02:40:00 GMT"
    assert server.ranges()[1] is not None and server.sent < len(CONTENT) + 2 * 65_536


def test_a_file_that_changed_on_the_server_is_not_pieced_together(fetch):
    with FileServer(sends(OTHER, cut_after=200_000), sends(CONTENT, etag='"two"')) as server:
        fetch(server.url)
    # It was one answer of the new version, not a failed hash, that repaired it.
    assert len(server.asked) == 2 and server.asked[1][1]["If-Range"] == '"one"'


def test_a_beginning_that_was_damaged_where_it_lay_is_fetched_anew(fetch):
    with FileServer(sends(CONTENT)) as server:
        fetch.leave_behind(OTHER[:300_000], server.url)
        fetch(server.url)
    assert server.ranges() == ["bytes=300000-", None]
    assert any("fetching all of it anew" in text for text in fetch.announced)


def test_what_another_address_began_is_not_continued_under_this_ones_tag(fetch):
    with FileServer(sends(CONTENT)) as server:
        fetch.leave_behind(CONTENT[:300_000], "https://elsewhere.example/file")
        fetch(server.url)
    assert server.ranges() == [None]


@pytest.mark.parametrize("extra", [b"", b"and more"], ids=["all of it", "more than all"])
def test_what_ended_between_the_last_byte_and_its_name_is_not_fetched_again(fetch, extra):
    with FileServer(sends(CONTENT)) as server:
        fetch.leave_behind(CONTENT + extra, server.url)
        fetch(server.url)
    # More than all of it is no beginning of it.
    assert server.ranges() == ([f"bytes={len(CONTENT)}-"] if not extra else [f"bytes={len(CONTENT + extra)}-", None])


def test_a_killed_process_leaves_what_the_next_one_goes_on_from(fetch):
    program = (
        "import sys; from pathlib import Path; from jaxsep.weights.download import download\n"
        "download(sys.argv[1], Path(sys.argv[2]), sha256=sys.argv[3], size_limit_bytes=10**6)"
    )
    with FileServer(sends(CONTENT, piece_seconds=0.2)) as server:
        process = subprocess.Popen([sys.executable, "-c", program, server.url, fetch.target, sha256(CONTENT)])
        partial = fetch.target.with_name("file.tar.gz.part")
        deadline = time.monotonic() + 30
        while (not partial.exists() or partial.stat().st_size < 200_000) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        kept = partial.stat().st_size
        assert 200_000 <= kept < len(CONTENT) and not fetch.target.exists()
        server.answers[:] = [sends(CONTENT)]
        fetch(server.url)
    assert server.ranges()[-1] == f"bytes={kept}-"


def test_a_damaged_file_is_refused_and_not_kept(fetch):
    damaged = bytearray(CONTENT)
    damaged[300_000] ^= 1
    with FileServer(sends(bytes(damaged))) as server:
        kept = fetch.refused(server.url, f"sha256 {sha256(damaged)} and not {sha256(CONTENT)}")
    # Neither is it fetched again and again: it was whole.
    assert kept == 0 and len(server.asked) == 1


def test_a_file_that_is_there_is_fetched_only_if_it_is_not_the_right_one(fetch):
    fetch.target.parent.mkdir()
    fetch.target.write_bytes(OTHER)
    with FileServer(sends(CONTENT)) as server:
        fetch(server.url)
        fetch(server.url)
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(fetch, status):
    with FileServer(answers(status), answers(status), sends(CONTENT)) as server:
        fetch(server.url)
    assert len(server.asked) == 3
    assert str(status) in fetch.announced[0]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_what_is_final_is_not_tried_again(fetch, status):
    with FileServer(answers(status)) as server:
        assert fetch.refused(server.url, server.url, f"answered {status}") == 0
    assert len(server.asked) == 1


def test_a_server_that_hangs_is_given_up_after_all_tries(fetch, monkeypatch):
    monkeypatch.setattr(download_module, "_TIMEOUT_SECONDS", (5.0, 0.1))
    with FileServer(hangs) as server:
        fetch.refused(server.url, "timed out", "in 6 tries")
    assert len(server.asked) == 6


def test_a_server_that_stops_in_the_middle_is_asked_for_the_rest(fetch, monkeypatch):
    monkeypatch.setattr(download_module, "_TIMEOUT_SECONDS", (5.0, 0.3))

    def stops(handler):
        handler.start(200, {"Content-Length": len(CONTENT), "ETag": '"one"'})
        handler.wfile.write(CONTENT[:200_000])
        hangs(handler)

    with FileServer(stops, sends(CONTENT)) as server:
        fetch(server.url)
    assert server.ranges()[1] is not None


def test_pauses_between_tries_grow(fetch, monkeypatch):
    slept = []
    monkeypatch.setattr(download_module, "_PAUSES_SECONDS", (0.5, 1.0, 2.0))
    monkeypatch.setattr(download_module.time, "sleep", slept.append)
    with FileServer(answers(500)) as server:
        fetch.refused(server.url, "in 4 tries")
    assert [pause for pause in slept if pause >= 0.5] == [0.5, 1.0, 2.0]


@pytest.mark.parametrize("length", [700_000, None], ids=["too long", "none"])
def test_a_length_that_is_not_reached_is_not_taken_for_the_end(fetch, length):
    with FileServer(sends(CONTENT[:500_000], etag=None, length=length)) as server:
        if length is None:
            fetch.refused(server.url, "gave a file of sha256")
        else:
            fetch.refused(server.url, "in 6 tries")
    assert len(server.asked) == (1 if length is None else 6)


def test_a_length_that_is_too_short_is_found_by_the_hash(fetch):
    with FileServer(sends(CONTENT, length=500_000)) as server:
        assert fetch.refused(server.url, f"sha256 {sha256(CONTENT[:500_000])}") == 0


def test_a_file_without_a_length_comes_whole(fetch):
    with FileServer(sends(CONTENT, length=None)) as server:
        fetch(server.url)
    assert fetch.progress[-1] == (len(CONTENT), None)


def test_what_is_announced_as_too_large_is_refused_before_it_comes(fetch):
    with FileServer(sends(CONTENT, piece_seconds=0.2)) as server:
        assert fetch.refused(server.url, "0.6 MB", "0.5 MB", size_limit_bytes=500_000) == 0
        assert server.sent < len(CONTENT)


def test_what_becomes_too_large_is_refused_as_it_comes(fetch):
    with FileServer(sends(CONTENT, length=None)) as server:
        assert fetch.refused(server.url, "0.3 MB", size_limit_bytes=300_000) == 0
    assert max((here for here, _ in fetch.progress), default=0) <= 300_000


def test_redirections_are_followed_and_keep_the_range(fetch):
    with FileServer(answers(302, Location="/there"), sends(CONTENT, cut_after=200_000)) as server:
        server.answers += [answers(302, Location="/there"), sends(CONTENT)]
        fetch(server.url)
    assert [path for path, _ in server.asked] == ["/file", "/there"] * 2
    assert server.ranges()[2] == server.ranges()[3] is not None


def test_a_circle_of_redirections_ends(fetch):
    with FileServer(answers(301, Location="/file")) as server:
        fetch.refused(server.url, "redirects more than 10 times")
    assert len(server.asked) == 10


@pytest.mark.parametrize("place", ["ftp://127.0.0.1/file", "file:///etc/passwd"])
def test_redirections_to_other_protocols_are_not_followed(fetch, place):
    with FileServer(answers(302, Location=place)) as server:
        fetch.refused(server.url, place, "not followed")


def test_from_https_no_redirection_leads_to_http(fetch, monkeypatch):
    with FileServer(sends(CONTENT)) as open_server, FileServer(answers(302, Location=open_server.url)) as server:
        send = requests.adapters.HTTPAdapter.send

        def as_if_tls(adapter, request, **options):
            request.url = request.url.replace("https://published.example", f"http://127.0.0.1:{server.server_port}")
            return send(adapter, request, **options)

        monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", as_if_tls)
        fetch.refused("https://published.example/file", open_server.url, "not followed")
        assert len(server.asked) == 1 and open_server.asked == []
        server.answers[:] = [answers(302, Location="https://published.example/there"), sends(CONTENT)]
        fetch("https://published.example/file")


def test_a_server_without_tls_is_not_trusted_as_one_with(fetch):
    with FileServer(sends(CONTENT)) as server:
        fetch.refused(server.url.replace("http:", "https:"), "cannot be trusted")


def test_who_is_not_reached_at_all_is_told_at_once(fetch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        fetch.refused(f"http://127.0.0.1:{taken.getsockname()[1]}/file", "cannot be reached: Connection refused.")
    assert fetch.announced == []


def test_a_name_that_nobody_knows_is_told_at_once(fetch, monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    fetch.refused("http://published.example/file", "published.example cannot be reached", "Name or service not known")
    assert fetch.announced == []


@pytest.mark.parametrize("url", ["http://", "http://a:b/", "ftp://127.0.0.1/file", "file.tar.gz"])
def test_what_is_no_address_is_said_to_be_none(fetch, url):
    fetch.refused(url, "no URL of http or https")


def test_a_full_disk_is_one_sentence(fetch):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with FileServer(sends(CONTENT)) as server:
        # The nearest thing to a full disk that a process can do to itself: its files may not become longer.
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        try:
            kept = fetch.refused(server.url, "cannot be written: File too large", "JAXSEP_CACHE")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        fetch(server.url)
    assert server.ranges()[-1] == f"bytes={kept}-"


def test_a_place_that_cannot_be_written_is_one_sentence(fetch, tmp_path):
    (tmp_path / "downloads").write_text("a file, not a folder")
    with FileServer(sends(CONTENT)) as server, pytest.raises(CheckpointError, match=r"downloads cannot be written: "):
        fetch(server.url)
    assert server.asked == []
