"""The command that compares, run in this process, with a cache of its own."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jaxsep.cli.main import app


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """What one test compiles, others need not: it is most of the time that they take."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def parity(tmp_path, monkeypatch, cache, settings_taken_back):
    """Runs the command and returns its result and its report."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXSEP_CACHE", str(cache))

    def run(*arguments):
        done = CliRunner().invoke(app, ["compare", "parity", *map(str, arguments)])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        path = Path("compared/parity.json")
        return done, json.loads(path.read_text()) if path.exists() else None

    return run
