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


def write_report(folder: Path, name: str, report: dict[str, Any], text: str) -> None:
    """Writes NAME.json and NAME.md under other names, and renames them when they are complete.

    Args:
        folder: Where; made if need be.
        name: Of both files.
        report: For JSON, without numbers that are not finite.
        text: Markdown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    encoded = json.dumps(report, indent=2, allow_nan=False) + "\n"
    for file, content in ((f"{name}.json", encoded), (f"{name}.md", text)):
        unfinished = folder / f"{file}.tmp"
        unfinished.write_text(content, encoding="utf-8")
        unfinished.rename(folder / file)
