"""Comparisons with the official Demucs: its networks as twins, and its command, with small models of its own."""

import json
import os
import stat
import sys

import pytest
from parity.demucs_oracle import ORACLES, SMALL, build, official, save
from typer.testing import CliRunner

from jaxsep.cli.main import app
from jaxsep.weights.convert import convert


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Checkpoints of small networks, and one of a bag."""
    folder = tmp_path_factory.mktemp("models")
    with official():
        for name in ("htdemucs", "hdemucs"):
            save(build(SMALL[name][0], **SMALL[name][1]), folder / f"{name}.th")
    (folder / "bag.yaml").write_text("models: [htdemucs, hdemucs]\nweights: [[1, 0, 1, 0], [0.5, 1, 0, 1]]\n")
    for name in ("htdemucs", "hdemucs"):
        (package,) = folder.glob(f"{name}-*.th")
        convert(package, output=folder / f"{name}.safetensors", family="demucs")
    convert(folder / "bag.yaml", output=folder / "bag.safetensors", family="demucs")
    return folder


def parity(model, *arguments):
    outcome = CliRunner().invoke(app, ["compare", "parity", str(model), *map(str, arguments)])
    return outcome.exit_code, outcome.output


@pytest.fixture
def command(tmp_path):
    """A program that is Demucs in an environment of its own."""
    path = tmp_path / "demucs"
    path.write_text(f'#!/bin/sh\nPYTHONPATH="{ORACLES}" exec "{sys.executable}" -m demucs "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_a_bag_is_within_the_thresholds_of_the_official_command(models, command, tmp_path):
    code, told = parity(models / "bag.safetensors", "--with", "demucs", "--command", command, "-o", tmp_path / "out")
    assert code == 0, told
    report = json.loads((tmp_path / "out" / "parity.json").read_text())
    # Over 12 s of noise and tones; the command clips, and so do ours.
    assert all(row["difference_db"] < -90 for row in report["tracks"][0]["stems"])
    assert "Demucs" in report["theirs"]


@pytest.mark.parametrize("name", ["htdemucs", "hdemucs"])
def test_official_networks_are_twins(name, models, tmp_path):
    """Layers by their names, the network's output, and weights both ways, bit for bit."""
    with official():
        _, told = parity(models / f"{name}.safetensors", "--with", "torch", "-o", tmp_path / "out", "--seconds", "2")
    report = json.loads((tmp_path / "out" / "parity.json").read_text())
    # A transformer's norms over all tokens add to what sums in other orders leave.
    assert report["tracks"][0]["network"]["relative"] < 2e-5, told
    assert len(report["layers"]["rows"]) > 20
    assert all(row["relative"] < 2e-5 for row in report["layers"]["rows"])


def test_what_is_not_installed_or_of_another_kind_is_refused(models, tmp_path):
    code, told = parity(models / "bag.safetensors", "--with", "demucs", "--command", tmp_path / "none", "-o", tmp_path)
    assert code == 2 and "There is no command" in told.replace("\n", " ") and "Traceback" not in told
    code, told = parity("spleeter-2stems", "--with", "demucs", "-o", tmp_path / "out")
    assert code == 2 and "which Demucs does not have" in told.replace("\n", " ")
    assert "demucs" not in sys.modules and os.path.exists(models)
