"""Models of the Hugging Face hub in Demucs's format: `hf://owner/name`, as Demucs 4.1 finds them (demucs/hf.py).

A repository holds a bag's YAML file and a safetensors package for each member. It is read through `huggingface_hub`
where that is installed (which knows tokens and its own cache), and otherwise over plain HTTPS.
"""

import importlib.util
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jaxsep.environment import is_offline
from jaxsep.errors import CheckpointError
from jaxsep.weights.download import Announce, DownloadProgress, download

if TYPE_CHECKING:
    import requests

SCHEME = "hf://"
_OFFICIAL = "adefossez"
_TIMEOUT_SECONDS = (10.0, 30.0)
_YAML_BYTES = 1 << 16
_MEMBER_BYTES = 1 << 32


class HubModel(NamedTuple):
    """A model on the hub.

    Attributes:
        owner: User or organisation.
        name: Name of the model, which the YAML file has.
    """

    owner: str
    name: str

    @property
    def repository(self) -> str:
        """The repository, named as Demucs names it: 'htdemucs_ft' is in 'HTDemucs-ft', and 'tiny' in 'Demucs-tiny'."""
        if self.name == "htdemucs":
            return f"{self.owner}/HTDemucs"
        if self.name.startswith("htdemucs_"):
            return f"{self.owner}/HTDemucs-{self.name.removeprefix('htdemucs_')}"
        return f"{self.owner}/Demucs-{self.name}"

    @property
    def key(self) -> str:
        """A name for files of this machine."""
        return f"hf={self.owner}={self.name}"  # names hold no such sign


def parse_hub_name(name: str) -> HubModel:
    """Returns the model that a name such as 'hf://owner/name' or 'hf://name' stands for.

    Raises:
        CheckpointError: It has another form.
    """
    match = re.fullmatch(r"hf://(?:([\w.-]+)/)?([\w.-]+)", name)
    if match is None:
        raise CheckpointError(
            f"'{name}' is no model of the hub; give hf://OWNER/NAME, such as hf://adefossez/htdemucs."
        )
    return HubModel(match[1] or _OFFICIAL, match[2])


def fetch_from_hub(
    model: HubModel, folder: Path, *, announce: Announce, progress: DownloadProgress | None
) -> tuple[Path, str]:
    """Brings a model's files into a folder.

    Args:
        model: Where it is.
        folder: Folder for the files.
        announce: Called with a sentence for each thing that is done.
        progress: Called while bytes come.

    Returns:
        The bag's YAML file beside its members, and where they come from in words.

    Raises:
        CheckpointError: There is no such model, it cannot be had, or JAXSEP_OFFLINE is set.
    """
    from jaxsep.weights.demucs_packages import read_bag

    if is_offline():
        raise CheckpointError(
            f"'{SCHEME}{model.owner}/{model.name}' is not on this machine, and JAXSEP_OFFLINE forbids to fetch it; "
            "unset it, or convert its files with `jaxsep convert --family demucs`."
        )
    folder.mkdir(parents=True, exist_ok=True)
    announce(f"Fetching '{model.name}' from https://huggingface.co/{model.repository}, whose page states its licence")
    with_library = importlib.util.find_spec("huggingface_hub") is not None
    get = _get_with_library if with_library else _get_plainly
    bag, revision = get(model, f"{model.name}.yaml", None, folder, announce, None)
    for signature in read_bag(bag).models:
        if not re.fullmatch(r"[\w-]+", signature):
            raise CheckpointError(f"{bag} names a member {signature!r:.40}, which is no signature.")
        get(model, f"{signature}.safetensors", revision, folder, announce, progress)
    return bag, f"https://huggingface.co/{model.repository} at revision {revision}"


def _get_with_library(
    model: HubModel,
    file: str,
    revision: str | None,
    folder: Path,
    announce: Announce,
    progress: DownloadProgress | None,
) -> tuple[Path, str]:
    """Downloads a file of a revision, or of the newest one, into a folder; returns it and its revision."""
    import huggingface_hub

    try:
        if revision is None:
            revision = huggingface_hub.HfApi().model_info(model.repository).sha or "main"
        path = huggingface_hub.hf_hub_download(model.repository, file, revision=revision, local_dir=folder)
    except Exception as error:  # the library's own errors, those of two HTTP libraries, and those of files
        reason = " ".join(str(error).split()).removesuffix(".")
        raise CheckpointError(f"{file} of {model.repository} cannot be had: {reason:.300}.") from None
    return Path(path), revision


def _get_plainly(
    model: HubModel,
    file: str,
    revision: str | None,
    folder: Path,
    announce: Announce,
    progress: DownloadProgress | None,
) -> tuple[Path, str]:
    """As `_get_with_library`; large files are verified by the sha256 that the hub states."""
    import requests
    import urllib3

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    url = f"{endpoint}/{model.repository}/resolve/{revision or 'main'}/{file}"
    try:
        if progress is None and file.endswith(".yaml"):
            with requests.get(url, timeout=_TIMEOUT_SECONDS, stream=True) as response:
                _check(response, url)
                content = response.raw.read(_YAML_BYTES + 1, decode_content=True)
                if len(content) > _YAML_BYTES:
                    raise CheckpointError(f"{url} is too large to be the description of a bag.")
                (folder / file).write_bytes(content)
                commit = response.headers.get("X-Repo-Commit", "")
                return folder / file, commit if re.fullmatch(r"[0-9a-f]{40}", commit) else "main"
        with requests.head(url, timeout=_TIMEOUT_SECONDS, allow_redirects=False) as response:
            _check(response, url)
            sha256 = response.headers.get("X-Linked-ETag", "").strip('W/"')
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise CheckpointError(f"{url} cannot be had: {' '.join(str(error).split()):.300}.") from None
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise CheckpointError(
            f"{url} states no sha256, by which it could be verified; fetch it by hand and convert it."
        )
    download(url, folder / file, sha256=sha256, size_limit_bytes=_MEMBER_BYTES, announce=announce, progress=progress)
    return folder / file, revision or "main"


def _check(response: "requests.Response", url: str) -> None:
    if response.status_code in (401, 403, 404):
        raise CheckpointError(f"{url} is not there, or not for everyone (answer {response.status_code}).")
    if response.status_code >= 400:
        raise CheckpointError(f"{url} cannot be had: answer {response.status_code} {response.reason}.")
