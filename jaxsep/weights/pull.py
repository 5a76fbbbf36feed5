"""Pulling: a model of the catalogue, fetched from where its authors published it and converted, into the cache.

How bytes come is in `download.py` and `archive.py`; where models are looked for is in `pretrained.py`.
"""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from jaxsep import unfinished
from jaxsep.environment import cache_directory, expand_home, is_offline
from jaxsep.errors import CheckpointError, nearest
from jaxsep.weights.archive import unpack
from jaxsep.weights.catalogue import Archive, ByHand, CatalogueEntry, Files, find_entry, list_models
from jaxsep.weights.download import Announce, DownloadProgress, download, file_sha256
from jaxsep.weights.hub import SCHEME, HubModel, fetch_from_hub, parse_hub_name

if TYPE_CHECKING:
    from jaxsep.weights.checkpoint import StorageType

logger = logging.getLogger(__name__)

_BUNDLED = Path(__file__).parent / "data"
# Beside the numbers themselves, archives hold an index and a graph of about a megabyte.
_UNPACKED_PER_PACKED_BYTE = 2


class _Weights(NamedTuple):
    """Weights before their conversion.

    Attributes:
        path: What is read.
        format: Name of the rules for it; None for a checkpoint of jaxsep's.
        provenance: Where they come from; None for what the conversion finds out.
    """

    path: Path
    format: str | None
    provenance: str | None


def places(name: str) -> list[Path]:
    """Returns where the file of a model may lie, by its name: bundled, or in the cache."""
    file = f"{parse_hub_name(name).key if name.startswith(SCHEME) else name}.safetensors"
    cache = cache_directory()
    return [_BUNDLED / file, *([] if cache is None else [cache / "models" / file])]


def find_file(name: str) -> Path | None:
    """Returns the file of a model by its name; None where it is not on this machine."""
    return next((place for place in places(name) if os.path.isfile(place)), None)  # False for what is no name, too


def pull(
    name: str,
    *,
    source: str | os.PathLike[str] | None = None,
    force: bool = False,
    announce: Announce = logger.warning,
    progress: DownloadProgress | None = None,
) -> Path:
    """Brings a model of the catalogue onto this machine, unless it is there.

    Its archive is fetched, verified by its sha256, unpacked and converted; the model's file appears in the cache's
    `models` folder when it is complete and verified. Forms of the same weights are made of one another where one is
    here. Processes that pull the same weights at the same time fetch them once. Where the host gives the archive to
    people alone, the message says what to do, and `source` is where they have put it.

    Args:
        name: Name in the catalogue, or 'hf://owner/name' for a model of the Hugging Face hub in Demucs's format.
        source: Where to take the published weights from instead: another URL or a copy of the archive, which must be
            the same file, or the folder that it unpacks to.
        force: Whether to make the file anew where it is there.
        announce: Called with a sentence or clause for each thing that is done: for people, licence included.
        progress: Called while bytes come, with how many there are and how many there will be.

    Returns:
        The model's file.

    Raises:
        CheckpointError: There is no such model, or it cannot be had; the message says what to do.
    """
    hub = parse_hub_name(name) if name.startswith(SCHEME) else None
    entry = find_entry(name)
    if entry is None and hub is None:
        known = [known.name for known in list_models()]
        raise CheckpointError(f"There is no model called '{name}' in the catalogue.{nearest(name, known)}")
    if entry is not None and entry.bundled:
        return places(name)[0]
    cache = cache_directory()
    if cache is None:
        raise CheckpointError(
            f"There is no home directory to keep '{name}' in; name a place for downloads by JAXSEP_CACHE."
        )
    target, downloads = places(name)[1], cache / "downloads"
    key = target.stem if entry is None or not isinstance(entry.archive, Archive) else entry.archive.sha256
    with _locked(downloads / f"{key}.lock", announce):
        if target.is_file() and not force:
            return target
        workplace = downloads / f"{key}.unpacked"
        packed = downloads / f"{key}.tar.gz"
        try:
            with unfinished.watched(workplace):
                if entry is None:
                    assert hub is not None
                    _place_from_hub(hub, packed.with_suffix(".files"), workplace, target, announce, progress)
                else:
                    weights = _find_weights(entry, source, packed, workplace, announce, progress)
                    _place(entry, weights, workplace, target)
        finally:
            shutil.rmtree(workplace, ignore_errors=True)
        packed.unlink(missing_ok=True)
        shutil.rmtree(packed.with_suffix(".files"), ignore_errors=True)
    return target


def _find_weights(
    entry: CatalogueEntry,
    source: str | os.PathLike[str] | None,
    packed: Path,
    workplace: Path,
    announce: Announce,
    progress: DownloadProgress | None,
) -> _Weights:
    archive = entry.archive
    if isinstance(archive, ByHand):
        return _by_hand(entry, archive, source, announce)
    if isinstance(archive, Files):
        return _fetch_files(entry, archive, source, packed.with_suffix(".files"), announce, progress)
    limit = 2 * archive.size_bytes
    licence = f"licence {entry.licence}"
    if source is None and (relative := _same_weights(entry)) is not None:
        announce(f"Making '{entry.name}' of '{relative.stem}', which has the same weights ({licence}).")
        return _Weights(relative, None, None)
    url = archive.url if source is None else os.fspath(source)
    if urlsplit(url).scheme in ("http", "https"):
        advice = (
            f"fetch {archive.url} on another machine and run `jaxsep models pull {entry.name} --from "
            f"{Path(urlsplit(archive.url).path).name}`"
        )
        _refuse_offline(entry, advice)
        announce(f"Fetching '{entry.name}' ({licence}, about {archive.size_bytes / 1e6:.0f} MB) from {url}")
        with _told_of_missing(entry, advice):
            download(
                url,
                packed,
                sha256=archive.sha256,
                size_limit_bytes=limit,
                announce=announce,
                progress=progress,
            )
    else:
        given = expand_home(url)
        if given.is_dir():
            return _from_folder(entry, given, announce)
        packed = given
        _check_archive(entry, packed)
        announce(f"Unpacking '{entry.name}' ({licence}) from {packed}")
    unpack(packed, workplace, size_limit_bytes=_UNPACKED_PER_PACKED_BYTE * limit)
    origin = f"{Path(urlsplit(archive.url).path).name} (sha256 {archive.sha256})"
    return _Weights(workplace, archive.format, f"{archive.description}; converted from {origin}")


def _by_hand(
    entry: CatalogueEntry, archive: ByHand, source: str | os.PathLike[str] | None, announce: Announce
) -> _Weights:
    advice = (
        f"open {archive.url} in a browser, unpack what comes, and run `jaxsep models pull {entry.name} --from "
        f"PATH/{archive.member}`"
    )
    if source is None or urlsplit(os.fspath(source)).scheme in ("http", "https"):
        raise CheckpointError(
            f"The weights of '{entry.name}' are not on this machine, and their host gives them to people and not to "
            f"programs: {advice}."
        )
    given = expand_home(source)
    if given.suffix in (".zip", ".7z"):
        raise CheckpointError(f"{given} is packed: {advice}.")
    return _from_folder(entry, given, announce)


def _fetch_files(
    entry: CatalogueEntry,
    files: Files,
    source: str | os.PathLike[str] | None,
    folder: Path,
    announce: Announce,
    progress: DownloadProgress | None,
) -> _Weights:
    """Brings files that lie side by side into a folder, where they are kept until all are there and converted."""
    from jaxsep.weights.convert import describe_files
    from jaxsep.weights.demucs_packages import verify_name, write_bag

    place = os.fspath(source or files.url)
    advice = (
        f"fetch {' and '.join(files.names)} from {files.url} and run `jaxsep models pull {entry.name} --from FOLDER`"
    )
    folder.mkdir(parents=True, exist_ok=True)
    if urlsplit(place).scheme in ("http", "https"):
        _refuse_offline(entry, advice)
        announce(
            f"Fetching '{entry.name}' (licence {entry.licence}, about {files.size_bytes / 1e6:.0f} MB) from {place}"
        )
        before = 0
        for name in files.names:
            with _told_of_missing(entry, advice):
                download(
                    f"{place.rstrip('/')}/{name}",
                    folder / name,
                    sha256=Path(name).stem.rpartition("-")[2],
                    size_limit_bytes=2 * files.size_bytes,
                    announce=announce,
                    progress=_behind(progress, before, files.size_bytes if len(files.names) > 1 else None),
                )
            before += (folder / name).stat().st_size
        where = folder
    else:
        where = expand_home(place)
        if where.is_file() and (where.name,) == files.names:
            where = where.parent
        announce(f"Converting '{entry.name}' (licence {entry.licence}) from {where}")
    paths = [where / name for name in files.names]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise CheckpointError(f"{where} does not hold {', '.join(missing)}: {advice}.")
    for path in paths:
        verify_name(path)
    provenance = f"{files.description}; converted from {describe_files(paths)}"
    if len(paths) == 1 and files.segment_seconds is None:
        return _Weights(paths[0], files.format, provenance)
    bag = write_bag(folder / f"{entry.name}.yaml", paths, files.weights, files.segment_seconds)
    return _Weights(bag, files.format, provenance)


def _refuse_offline(entry: CatalogueEntry, advice: str) -> None:
    if is_offline():
        raise CheckpointError(
            f"The weights of '{entry.name}' are not on this machine, and JAXSEP_OFFLINE forbids to fetch them; unset "
            f"it, or {advice}."
        )


@contextmanager
def _told_of_missing(entry: CatalogueEntry, advice: str) -> Iterator[None]:
    """Says of a download that fails what is missing now, and what to do."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(
            f"The weights of '{entry.name}' are not on this machine: {str(error).removesuffix('.')}; try again, or "
            f"{advice}."
        ) from None


def _behind(progress: DownloadProgress | None, before: int, total: int | None) -> DownloadProgress | None:
    """Returns a progress of one of several files, behind what is here of the others."""
    if progress is None:
        return None
    return lambda here, whole: progress(before + here, total or whole)


def _same_weights(entry: CatalogueEntry) -> Path | None:
    """Returns the file of a model that holds the same arrays in another form, where one is here."""
    for other in list_models():
        if other.name != entry.name and (other.archive, other.dtype) == (entry.archive, entry.dtype):
            if (path := find_file(other.name)) is not None:
                return path
    return None


def _from_folder(entry: CatalogueEntry, folder: Path, announce: Announce) -> _Weights:
    announce(f"Converting '{entry.name}' (licence {entry.licence}) from {folder}")
    if entry.sha256 is not None:
        return _Weights(folder, entry.archive.format, None)
    from jaxsep.weights.convert import describe_source

    published = "only the archive's sha256" if isinstance(entry.archive, Archive) else "no sha256"
    announce(f"Of these weights {published} is published, so nothing but you vouches for the folder.")
    return _Weights(
        folder,
        entry.archive.format,
        f"said to be {entry.archive.description}, not verified; converted from {describe_source(folder)}",
    )


def _check_archive(entry: CatalogueEntry, path: Path) -> None:
    try:
        found = file_sha256(path)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror}; give an archive, its folder or a URL."
        ) from None
    assert isinstance(entry.archive, Archive)
    if found != entry.archive.sha256:
        raise CheckpointError(
            f"{path} is not the archive published as '{entry.name}' (sha256 {found}, expected {entry.archive.sha256}); "
            f"get {entry.archive.url}, or give weights of your own a name of their own with `jaxsep convert`."
        )


def _place_from_hub(
    hub: HubModel,
    folder: Path,
    workplace: Path,
    target: Path,
    announce: Announce,
    progress: DownloadProgress | None,
) -> None:
    """Fetches a model of the hub, converts it and gives it its name."""
    from jaxsep.weights.convert import convert

    bag, origin = fetch_from_hub(hub, folder, announce=announce, progress=progress)
    made = workplace / "made" / target.name
    convert(bag, output=made, family="demucs", dtype=None, name=hub.name, provenance=origin)
    _rename(made, target)


def _place(entry: CatalogueEntry, weights: _Weights, workplace: Path, target: Path) -> None:
    """Converts weights and gives the model its name once they are known to be the right ones."""
    from jaxsep.weights.convert import convert

    made = workplace / "made" / target.name
    dtype: StorageType | None = "float16" if entry.dtype == "float16" else "float32"
    if isinstance(entry.archive, Files):
        dtype = None  # as the files have it
    written = convert(
        weights.path,
        output=made,
        family=weights.format,
        dtype=dtype,
        name=entry.name,
        licence=entry.licence,
        provenance=weights.provenance,
    )
    if entry.sha256 is not None and written.sha256 != entry.sha256:
        raise CheckpointError(
            f"{weights.path} holds other weights than those published as '{entry.name}' (sha256 {written.sha256}, "
            f"expected {entry.sha256}); give weights of your own a name of their own with `jaxsep convert`."
        )
    _rename(made, target)


def _rename(made: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        made.replace(target)
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written: {error.strerror}.") from None


@contextmanager
def _locked(path: Path, announce: Announce) -> Iterator[None]:
    """Holds a lock between processes; the system lets go of it however a process ends."""
    import filelock

    lock = filelock.FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            announce("Another process is pulling these weights; waiting for it")
            lock.acquire()
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written: {error.strerror or error}; choose another place by JAXSEP_CACHE."
        ) from None
    try:
        yield
    finally:
        lock.release()
