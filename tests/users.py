"""Beginnings of command lines that run a command as another user: root may read everything, and is in every list."""

import os

# In no list of users.
UNKNOWN = 54321


def bound_by_modes() -> list[str]:
    """What begins a command that may not read what the modes of files and folders forbid."""
    return [] if os.geteuid() else ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]


def unknown_user() -> list[str]:
    """What begins a command of a user without an entry, who may read the interpreter all the same.

    Only root can become another user; others stay who they are.
    """
    if os.geteuid():
        return []
    return [
        *("setpriv", f"--reuid={UNKNOWN}", f"--regid={UNKNOWN}", "--clear-groups"),
        *("--inh-caps", "+dac_override", "--ambient-caps", "+dac_override"),
    ]
