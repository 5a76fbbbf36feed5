"""`jaxsep` where nobody takes its messages, or without a home, a temporary folder or a working directory."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli.conftest import SCRIPT, files, write_song
from users import UNKNOWN, unknown_user

from jaxsep.cli import runtime

STEMS = ["a/accompaniment.wav", "a/vocals.wav", "b/accompaniment.wav", "b/vocals.wav"]

# A user who is in no list, without HOME, where no folder takes temporary files. The latter is patched in this process,
# and so is the user where this one cannot become another.
NOWHERE_AT_HOME = f"""
import os, pwd, sys, tempfile

def unknown(*_):
    raise KeyError("no such user")

if os.getuid() != {UNKNOWN}:
    pwd.getpwuid = pwd.getpwnam = unknown
tempfile._candidate_tempdir_list = lambda: ["/dev/null/nonexistent"]
for name in ("HOME", "JAXSEP_CACHE", "XDG_CACHE_HOME"):
    os.environ.pop(name, None)
os.environ["GLIBC_TUNABLES"] = ""
from jaxsep.__main__ import main
main()
"""


@pytest.fixture
def shell(small_model):
    """Runs a command line of the shell in which $J is `jaxsep`, $S `jaxsep separate` with a small model."""

    def run(line, **environment):
        variables = {**os.environ, "J": str(SCRIPT), "S": f"{SCRIPT} separate -m {small_model}", **environment}
        return subprocess.run(["bash", "-c", line], capture_output=True, timeout=120, text=True, env=variables)

    return run


@pytest.mark.parametrize(
    ("redirection", "status"),
    [
        ("2>&1 | head -0; exit ${PIPESTATUS[0]}", 1),
        ("2>&1 | head -1; exit ${PIPESTATUS[0]}", 1),
        (">/dev/full 2>/dev/full", 1),
        ("<&- >&- 2>&-", 1),
    ],
)
def test_messages_that_cannot_be_written_cost_no_stem(shell, redirection, status):
    """One input is missing and one has samples beyond full scale: an error, a warning and a last line are lost."""
    write_song("a.wav", 0.1, subtype="FLOAT", level=4.0)
    write_song("b.wav", 0.1)
    result = shell(f"$S nope.wav a.wav b.wav -o out --subtype PCM_16 {redirection}")
    assert files("out") == STEMS
    assert result.returncode == status
    assert "Traceback" not in result.stderr + result.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /dev/full")
def test_a_full_disk_for_the_text_is_a_failure_where_text_is_all_that_there_is(shell):
    write_song("a.wav", 0.1)
    assert shell("$S a.wav -o out >/dev/full").returncode == 0
    for command in ("--version", "models", "--help"):
        result = shell(f"$J {command} >/dev/full")
        assert result.returncode == 1, command
        assert result.stderr == "jaxsep: Standard output cannot be written: No space left on device.\n"
        assert shell(f"$J {command} | head -0; exit ${{PIPESTATUS[0]}}").returncode == 0


def test_forced_colours_do_not_move_the_bar_in_a_file(shell):
    write_song("a.wav", 0.1)
    result = shell("$S a.wav -o out 2>log; cat log", FORCE_COLOR="1", TTY_COMPATIBLE="1", TERM="xterm-256color")
    assert result.returncode == 0
    assert "\x1b" not in result.stdout


def in_no_home(*arguments, user=(), **streams):
    command = [*user, sys.executable, "-c", NOWHERE_AT_HOME, *arguments]
    return subprocess.run(command, capture_output=True, timeout=120, text=True, **streams)


def test_without_a_home_or_a_temporary_folder_songs_are_separated_without_a_cache(place, small_model):
    write_song("a.wav", 0.1)
    result = in_no_home("separate", "a.wav", "-m", str(small_model), "-o", "out", "--quiet", user=unknown_user())
    assert (result.returncode, result.stderr) == (0, "")
    assert files("out") == STEMS[:2]
    for stem in ("vocals", "accompaniment"):
        write_song(f"songs/a/{stem}.wav", 0.1)
    result = in_no_home("evaluate", "-m", str(small_model), "--tracks", "songs", "--metrics", "sdr", "--quiet")
    assert (result.returncode, result.stderr) == (0, "")
    assert "spleeter-2stems/test/a.json" in files("evaluation") and not list(Path("evaluation").glob(".*"))
    result = in_no_home("separate", "-", "-o", "out", stdin=subprocess.DEVNULL)
    assert result.returncode == 2
    assert result.stderr.startswith("jaxsep: Standard input ('-') cannot be kept: No usable temporary directory")
    result = in_no_home("compare", "speed", str(small_model), "--frameworks", "jax", "--rounds", "1")
    assert result.returncode == 2
    assert result.stderr.startswith("jaxsep: jax cannot be run in a process of its own: No usable temporary directory")
    result = in_no_home("models", "pull", "spleeter-4stems", user=unknown_user())
    assert result.returncode == 1
    assert result.stderr.startswith("jaxsep: There is no home directory") and "JAXSEP_CACHE" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-m", "~nosuchuser/x"], "There is no checkpoint at ~nosuchuser/x"),
        (["-m", "x" * 300], "There is no model or file called 'xxx"),
        (["-o", "x" * 300], "File name too long"),
        (["--report", "x" * 300], "File name too long"),
    ],
)
def test_names_of_no_user_and_names_that_are_too_long_are_one_sentence(quick_jaxsep, jaxsep, arguments, told):
    write_song("a.wav", 0.1)
    result = (jaxsep if "-m" in arguments else quick_jaxsep)("separate", "a.wav", *arguments)
    assert result.exit_code in (1, 2)
    assert result.stderr.startswith("jaxsep: ") and result.stderr.count("\n") == 1 and told in result.stderr
    assert files() == ["a.wav"]


def test_a_working_directory_that_is_gone_is_one_sentence(shell):
    write_song("a.wav", 0.1)
    result = shell('mkdir gone; cd gone; rmdir ../gone; $S "$OLDPWD/a.wav" -o out; echo $?; $J --version')
    assert result.stdout.startswith("2\njaxsep ")
    assert result.stderr.startswith("jaxsep: The working directory is gone") and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "setting",
    [
        *("JAX_PLATFORMS=cuda", "JAX_PLATFORMS=cpu,", "JAX_DISABLE_JIT=1", "JAX_ENABLE_X64=maybe"),
        *("JAX_NUM_CPU_DEVICES=x", "XLA_FLAGS=--xla_nonsense=1", "XLA_FLAGS=nonsense"),
    ],
)
def test_settings_of_jax_that_do_not_work_are_one_sentence(process, setting):
    write_song("a.wav", 0.1)
    name, value = setting.split("=", 1)
    result = process(*(["env"] if name == "JAX_ENABLE_X64" else ["separate", "a.wav"]), **{name: value})
    assert result.returncode == 2
    assert result.stderr.startswith("jaxsep: JAX") and result.stderr.count("\n") == 1 and name in result.stderr
    assert files() == ["a.wav"]


def test_flags_that_xla_takes_are_tried_once(place, monkeypatch):
    tried, run = [], subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *command, **options: tried.append(0) or run(*command, **options))
    monkeypatch.setenv("JAXSEP_CACHE", str(place))
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    for _ in range(2):
        runtime._check_flags_of_xla()
    assert len(tried) == 1 and len(files("flags")) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="macOS knows no such limit")
@pytest.mark.parametrize("mebibytes", [250, 450])
def test_too_little_memory_to_load_jax_is_one_sentence(shell, mebibytes):
    write_song("a.wav", 0.1)
    result = shell(f"ulimit -v $(({mebibytes} * 1024)); $S a.wav -o out", OPENBLAS_NUM_THREADS="1")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("jaxsep: There is not enough memory") and result.stderr.count("\n") == 1
    assert files() == ["a.wav"]


def close_terminal(process):
    process.send_signal(signal.SIGHUP)


def limit_processor_time(process):
    """Gives a process less time than it has used, where the system lets another one do so; else sends what it would."""
    if hasattr(resource, "prlimit"):
        resource.prlimit(process.pid, resource.RLIMIT_CPU, (1, resource.RLIM_INFINITY))
    else:
        process.send_signal(signal.SIGXCPU)


@pytest.mark.parametrize("end", [close_terminal, limit_processor_time])
def test_a_run_that_the_system_ends_leaves_no_stem_and_no_copy_of_standard_input(place, monkeypatch, end):
    scratch = place / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    write_song("long.wav", 600, sample_rate=8000, channels=1)
    with (
        open("long.wav", "rb") as song,
        subprocess.Popen([SCRIPT, "separate", "-"], stdin=song, stderr=subprocess.PIPE, text=True) as running,
    ):
        while not any(name.endswith(".part") for name in files("separated")):
            assert running.poll() is None
        end(running)
        _, errors = running.communicate(timeout=60)
    assert (running.returncode, errors) == (130, "jaxsep: interrupted\n")
    assert files() == ["long.wav"]
    assert Path("scratch").is_dir()
