"""`jaxsep separate` where only the packages are installed that wav and flac files need."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile
from cli.conftest import write_song

# What other inputs, downloads, training and evaluation need. None of it can be imported in the process.
ABSENT = ("av", "requests", "filelock", "optax", "orbax", "grain", "scipy", "matplotlib", "musdb", "museval")
# What the import system asks before all others.
HOOK = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""
# `python -m jaxsep` starts itself anew, and the hook would be lost.
PROGRAM = f"{HOOK}\nfrom jaxsep.cli.main import main\nsys.argv = ['jaxsep', *sys.argv[1:]]\nmain()"


def lean(*arguments):
    """Runs the command line without those packages."""
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_wav_and_flac_need_no_ffmpeg(jaxsep, tmp_path, ending):
    """The stems are those that the same command writes where everything is installed, bit for bit."""
    song = tmp_path / f"song.{ending}"
    write_song(song, 1.5)
    done = lean("separate", song, "--quiet", "-o", "lean")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert jaxsep("separate", song, "--quiet", "-o", "full").exit_code == 0
    for stem in ("vocals", "accompaniment"):
        found, expected = (soundfile.read(tmp_path / folder / f"song/{stem}.wav")[0] for folder in ("lean", "full"))
        np.testing.assert_array_equal(found, expected)


def test_what_needs_ffmpeg_is_refused_in_a_sentence(tmp_path):
    song = tmp_path / "song.mp3"
    soundfile.write(song, np.random.default_rng(0).standard_normal((44100, 2)) / 10, 44100, format="MP3")
    done = lean("separate", song)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "jaxsep: song.mp3 is not a file that libsndfile reads, and FFmpeg is not here: install it with "
        "`pip install av`, or convert the file to wav or flac.\n"
    ).replace("song.mp3", str(song))
