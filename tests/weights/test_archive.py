"""Archives that want to do harm, and damaged ones."""

import gzip
import io
import os
import struct
import tarfile

import numpy as np
import pytest

from jaxsep.errors import CheckpointError
from jaxsep.weights.archive import unpack

LIMIT = 1_000_000


def member(name, content=b"content", **attributes):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content


def pack(path, *members, format=tarfile.PAX_FORMAT):
    with tarfile.open(path, "w:gz", format=format) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return path


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def unpacked(tmp_path):
    (tmp_path / "outside").write_text("as it was")
    return tmp_path / "work" / "unpacked"


def refused(archive, folder, match):
    """Asserts one sentence, nothing of the folder left, and nothing changed or made elsewhere."""
    outside = {name: content for name, content in files(archive.parent).items() if not name.startswith("work/")}
    with pytest.raises(CheckpointError, match=match) as error:
        unpack(archive, folder, size_limit_bytes=LIMIT)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
    assert not folder.exists()
    assert files(archive.parent) == outside


def test_files_and_folders_come_out_as_they_went_in_without_what_macos_adds(tmp_path, unpacked):
    # The archives of Spleeter's release hold '.', and '._checkpoint' of whoever packed them.
    archive = pack(
        tmp_path / "a.tar.gz",
        member(".", b"", type=tarfile.DIRTYPE),
        member("./model.index", b"index"),
        member("./._checkpoint", b"Mac OS X"),
        member("deeper/model.data", bytes(300_000), mode=0o6777, uid=12345),
    )
    unpacked.mkdir(parents=True)
    (unpacked / "of an earlier try").write_text("x")
    unpack(archive, unpacked, size_limit_bytes=LIMIT)
    assert files(unpacked) == {"model.index": b"index", "deeper/model.data": bytes(300_000)}
    # Modes and owners of an archive are not taken over.
    mode = (unpacked / "deeper/model.data").stat()
    assert mode.st_mode & 0o7111 == 0 and mode.st_uid == os.getuid()


@pytest.mark.parametrize(
    "name", ["../outside", "work/../../outside", "/tmp/outside", "..", "a/../../outside", "..\\outside", "C:outside"]
)
def test_names_that_lead_elsewhere_are_refused(tmp_path, unpacked, name):
    archive = pack(tmp_path / "a.tar.gz", member("model.index"), member(name, b"changed"))
    refused(archive, unpacked, "would lie elsewhere")


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE],
    ids=["symlink", "hardlink", "character device", "block device", "fifo"],
)
def test_what_is_no_plain_file_is_refused(tmp_path, unpacked, kind):
    archive = pack(tmp_path / "a.tar.gz", member("model.index", b"", type=kind, linkname="../../outside", devmajor=1))
    refused(archive, unpacked, "no plain file")


def test_a_file_through_a_link_of_the_same_archive_is_refused(tmp_path, unpacked):
    link = member("folder", b"", type=tarfile.SYMTYPE, linkname=str(tmp_path))
    refused(pack(tmp_path / "a.tar.gz", link, member("folder/outside", b"changed")), unpacked, "no plain file")


def test_a_file_that_comes_twice_is_refused(tmp_path, unpacked):
    archive = pack(tmp_path / "a.tar.gz", member("model.index"), member("./model.index", b"changed"))
    refused(archive, unpacked, "cannot be unpacked into .*File exists")


def test_a_bomb_is_refused_before_it_has_unfolded(tmp_path, unpacked):
    archive = pack(tmp_path / "a.tar.gz", member("model.data", bytes(200_000_000)))
    assert archive.stat().st_size < LIMIT
    refused(archive, unpacked, "unfolds to more")


def test_many_small_files_are_refused(tmp_path, unpacked):
    refused(pack(tmp_path / "a.tar.gz", *(member(f"{i}", b"") for i in range(101))), unpacked, "more than 100 files")


def test_a_bomb_in_a_header_is_refused(tmp_path, unpacked):
    # Tarfile reads extended headers whole into memory.
    archive = pack(tmp_path / "a.tar.gz", member("model.data", pax_headers={"comment": "x" * 50_000_000}))
    refused(archive, unpacked, "unfolds to more")


def test_a_sparse_file_is_refused(tmp_path, unpacked):
    """GNU's format says of a terabyte of zeros in a few bytes that it is one."""
    info, _ = member("model.data", b"", type=tarfile.GNUTYPE_SPARSE)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, 0)
    header[483:495] = b"\x80" + (2**40).to_bytes(11, "big")
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(gzip.compress(bytes(header) + bytes(1024)))
    refused(archive, unpacked, "no plain file")


def test_a_cut_or_damaged_archive_is_one_sentence(tmp_path, unpacked):
    content = np.random.default_rng(0).bytes(200_000)
    intact = pack(tmp_path / "a.tar.gz", member("model.data", content)).read_bytes()
    for damaged in (
        b"",
        b"not packed at all" * 100,
        intact[: len(intact) // 2],
        intact[:20],
        gzip.compress(b"x" * 999),
    ):
        (tmp_path / "a.tar.gz").write_bytes(damaged)
        refused(tmp_path / "a.tar.gz", unpacked, r"is damaged or no \.tar\.gz file")


def test_a_flipped_bit_of_an_archive_harms_nothing_outside(tmp_path, unpacked):
    intact = pack(tmp_path / "a.tar.gz", member("model.index", b"i" * 2000), member("model.data", b"d")).read_bytes()
    for position in range(0, len(intact), 3):
        damaged = bytearray(intact)
        damaged[position] ^= 1 << position % 8
        (tmp_path / "a.tar.gz").write_bytes(damaged)
        try:
            unpack(tmp_path / "a.tar.gz", unpacked, size_limit_bytes=LIMIT)
        except CheckpointError:
            assert not unpacked.exists()
        assert (tmp_path / "outside").read_text() == "as it was"
        assert {path.name for path in tmp_path.iterdir()} <= {"outside", "a.tar.gz", "work"}


def test_a_crc_that_does_not_fit_is_noticed(tmp_path, unpacked):
    intact = pack(tmp_path / "a.tar.gz", member("model.data", bytes(100_000))).read_bytes()
    # The last eight bytes of gzip: CRC-32 of what it unfolds to, and how long that is.
    crc, length = struct.unpack("<II", intact[-8:])
    (tmp_path / "a.tar.gz").write_bytes(intact[:-8] + struct.pack("<II", crc ^ 1, length))
    refused(tmp_path / "a.tar.gz", unpacked, r"is damaged or no \.tar\.gz file")


def test_an_archive_that_is_not_there_is_one_sentence(tmp_path, unpacked):
    refused(tmp_path / "nothing.tar.gz", unpacked, "cannot be unpacked into .*No such file")
