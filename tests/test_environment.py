"""What a command does for its process before it starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxsep import environment

TUNABLES = "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=2"

# Prints, in the process that it ends up in, what can have changed and what must not.
PROGRAM = """
import json, os, sys
from jaxsep.environment import restart_with_tuned_malloc
restart_with_tuned_malloc()
print(json.dumps([os.environ["GLIBC_TUNABLES"], sys.argv, sys.flags.utf8_mode, sys.stdin.read()]))
"""


def run(**variables: str) -> list:
    inherited = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    arguments = [sys.executable, "-X", "utf8", "-c", PROGRAM, "a b", "--c='d"]
    result = subprocess.run(
        arguments, input="of a pipe", env=inherited | variables, capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stderr == ""
    return json.loads(result.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="there is no such C library")
def test_a_process_starts_anew_with_what_it_was_started_with() -> None:
    assert run() == [TUNABLES, ["-c", "a b", "--c='d"], 1, "of a pipe"]


def test_benchmarks_measure_what_the_commands_set() -> None:
    assert f"HUGE_PAGES = GLIBC_TUNABLES={TUNABLES}\n" in (Path(__file__).parents[1] / "Makefile").read_text()


def test_what_the_user_told_the_c_library_holds() -> None:
    assert run(GLIBC_TUNABLES="glibc.malloc.arena_max=1")[0] == "glibc.malloc.arena_max=1"


@pytest.mark.parametrize("program", [sys.executable, "", None])
def test_where_it_cannot_start_anew_it_goes_on_as_it_is(monkeypatch, program) -> None:
    """The system forbids it, or Python is a part of another program and does not know which."""
    asked = []

    def forbid(path: str, *_: object) -> None:
        asked.append(path)
        raise PermissionError

    monkeypatch.setattr(os, "execve", forbid)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys, "executable", program)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    environment.restart_with_tuned_malloc()
    assert asked == [program] * bool(program)
    assert "GLIBC_TUNABLES" not in os.environ
