"""What every report of a comparison says of its circumstances, and how reports get onto the disk: whole, or not at all.

What is compared is in speed.py and parity.py.
"""

import datetime
import json
import os
import platform
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxsep.environment import processor, processors, versions
from jaxsep.naming import new_files


def circumstances(packages: Iterable[str] = ()) -> dict[str, Any]:
    """Returns when, by which command, on what and with which versions something is compared.

    Args:
        packages: Whose versions count beside those of jaxsep's own dependencies.
    """
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(sys.orig_argv),
        "processor": processor(),
        "processors": processors(),
        "system": platform.platform(),
        "versions": versions(packages),
        "flags": {name: os.environ[name] for name in ("XLA_FLAGS", "GLIBC_TUNABLES") if name in os.environ},
    }


def write_report(folder: Path, name: str, report: dict[str, Any], text: str, *, overwrite: bool) -> None:
    """Writes NAME.json and NAME.md, which get their names when both are complete.

    Args:
        folder: Where; made if need be.
        name: Of both files.
        report: For JSON, without numbers that are not finite.
        text: Markdown.
        overwrite: Whether reports that have these names by then go.

    Raises:
        JaxsepError: The disk does not take them, or they have other names, since a file with their name came to exist.
    """
    encoded = json.dumps(report, indent=2, allow_nan=False) + "\n"
    paths = [folder / f"{name}.json", folder / f"{name}.md"]
    with new_files(paths, replaced=paths if overwrite else []) as temporary:
        for path, content in zip(temporary, (encoded, text), strict=True):
            path.write_text(content, encoding="utf-8")
