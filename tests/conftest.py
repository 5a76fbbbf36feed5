"""Switches for the whole suite."""

import gc
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

# Broadcasting between ranks is an error, so that shapes mean what they say.
jax.config.update("jax_numpy_rank_promotion", "raise")
# So that what is replicated over devices has several to be replicated over.
jax.config.update("jax_num_cpu_devices", 4)
# Lowering spends a twentieth of its time on the source lines of operations, which nothing here reads.
jax.config.update("jax_traceback_in_locations_limit", 0)

# Compiled so, a program of the tests is there five times as soon, and most of them run for a moment only. XLA splits
# programs to compile their parts side by side, which costs a tenth more where all cores have work.
UNOPTIMIZED = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)

# What has a worker of pytest-xdist beside it computes on one core: threads of OpenBLAS and of OpenMP wait in loops for
# each other, which took more than half of the time of BSS Eval's tests, and a quarter of that of PyTorch's networks.
ONE_CORE = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--unoptimized", action="store_true", help="Have XLA compile without optimisation.")


def pytest_configure(config: pytest.Config) -> None:
    """Sets flags of XLA, if this one knows them, and threads for all processes of the suite; lets Ctrl-C in."""
    # A shell's background jobs ignore Ctrl-C, and so would all processes that the tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Under nohup they would ignore a closing terminal.
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if config.getoption("numprocesses", None):  # in the process that starts the workers, which load these libraries
        os.environ.update({name: value for name, value in ONE_CORE.items() if name not in os.environ})
    if config.getoption("--unoptimized") and not hasattr(config, "workerinput"):
        flags = f"{os.environ.get('XLA_FLAGS', '')} {UNOPTIMIZED}".strip()
        known = subprocess.run(
            [sys.executable, "-c", "import jax; jax.devices()"],
            env={**os.environ, "XLA_FLAGS": flags},
            capture_output=True,
            check=False,
        )
        if known.returncode == 0:
            os.environ["XLA_FLAGS"] = flags


def pytest_collection_finish() -> None:
    """Leaves what all modules have imported out of garbage collections: millions of objects that stay to the end."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture(autouse=True, scope="session")
def programs_are_compiled_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keeps on disk what this process compiles: many tests, of several modules too, compile the same.

    Each worker has a folder of its own, and no other process knows it: JAX writes there in place, and another one might
    read half a program.
    """
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.02)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # JAX decides at the first compilation of a process whether there is a cache.
    compilation_cache.reset_cache()


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_are_dropped() -> Iterator[None]:
    """Compiled programs of one test module are of no use to the next; all of them together take several gigabytes."""
    yield
    jax.clear_caches()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints how many cases the fuzz tests ran; what workers of xdist print is seen by nobody."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    counts = [value for report in reports for name, value in report.user_properties if name == "fuzz"]
    if counts:
        outcomes = {outcome: sum(count.get(outcome, 0) for count in counts) for outcome in ("result", "refused")}
        terminalreporter.write_line(
            f"fuzz: {sum(outcomes.values())} cases of {len(counts)} kinds, of which {outcomes['result']} gave a result "
            f"and {outcomes['refused']} a sentence"
        )


@pytest.fixture
def settings_taken_back() -> Iterator[None]:
    """Takes back what the command line sets for its process, where a test runs it in this one.

    To begin with, no compilation cache is set, as in a process of its own.
    """
    names = [name for name in jax.config.values if name.startswith(("jax_compilation_cache_", "jax_persistent_cache_"))]
    before = {name: jax.config.values[name] for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def inlined():
    """Returns a function that writes out an exported module: its main function, with those that it calls in place.

    What is traced once and called several times, as the networks of all sources, is then there as often as it runs.
    """

    def write_out(module):
        parts = re.split(r"func\.func \w+ @([^\s(]+)\(", str(module))
        bodies = dict(zip(parts[1::2], parts[2::2], strict=True))

        def body(name):
            return re.sub(r"call @([^\s(]+)\(", lambda call: body(call[1]), bodies[name])

        return body("main")

    return write_out
