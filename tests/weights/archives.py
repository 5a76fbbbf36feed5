"""Archives as authors publish them, made here, and catalogues that name them instead of the published ones."""

import dataclasses
import gzip
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from jaxsep.weights import catalogue

# What has a process of its own pull what this one's catalogue names: patches the catalogue, then is the command line.
PROCESS = """
import dataclasses, sys
from jaxsep.weights import catalogue
sha256, url, name = sys.argv[1:4]
catalogue.CATALOGUE = tuple(
    dataclasses.replace(entry, archive=dataclasses.replace(entry.archive, sha256=sha256, url=url))
    if entry.name == name else entry for entry in catalogue.CATALOGUE
)
from jaxsep.cli.main import main
sys.argv = ["jaxsep", *sys.argv[4:]]
main()
"""


def pack(folder: Path, path: Path) -> str:
    """Packs a folder as Spleeter's release has it, what macOS adds included; returns the sha256 of the archive."""
    # Weights are noise: compression takes seconds and saves a tenth.
    with (
        gzip.GzipFile(path, "wb", compresslevel=0, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|") as archive,
    ):
        for file in sorted(folder.iterdir()):
            if not file.name.startswith("."):
                archive.add(file, f"./{file.name}")
        added = tarfile.TarInfo("./._model.index")
        added.size = 8
        archive.addfile(added, io.BytesIO(b"Mac OS X"))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def publish(monkeypatch: pytest.MonkeyPatch, sha256: str, url: str, *names: str) -> None:
    """Has the catalogue say that the archive of these models is this one."""
    archive = {"sha256": sha256, "url": url}
    changed = tuple(
        dataclasses.replace(entry, archive=dataclasses.replace(entry.archive, **archive))
        if entry.name in names
        else entry
        for entry in catalogue.CATALOGUE
    )
    monkeypatch.setattr(catalogue, "CATALOGUE", changed)
