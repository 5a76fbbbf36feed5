"""Seeded environments for a command: variables, limits, descriptors, and folders that are missing or full."""

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

LAUNCHER = Path(__file__).with_name("launch.py")
LONG = "x" * 300
# What programs of all kinds have been seen to be started with; None takes the variable away.
VARIABLES = {
    "HOME": (None, "", "/dev/null/nonexistent", "relative", "~", "/dev/null", LONG),
    "USER": (None, "", "nobody"),
    "LOGNAME": (None, "nobody"),
    "XDG_CACHE_HOME": ("", "relative", "/dev/null", "/proc", "/" + LONG),
    "XDG_CONFIG_HOME": ("", "/dev/null/nonexistent"),
    "JAXSEP_CACHE": ("", "~", "~nosuchuser/cache", "/dev/null/cache", "/proc/cache", LONG, "new/cache"),
    "JAXSEP_OFFLINE": ("", "0", "1", "maybe"),
    "TMPDIR": ("", "/dev/null/nonexistent", "/proc", "/dev/null"),
    "TEMP": ("/dev/null/nonexistent",),
    "PATH": (None, "", "/dev/null/nonexistent"),
    "LANG": (None, "C", "POSIX", "xx_XX", "de_DE.ISO-8859-1"),
    "LC_ALL": ("C", "xx_XX.UTF-8", ""),
    "LC_CTYPE": ("C", "POSIX"),
    "PYTHONIOENCODING": ("ascii", "latin-1", "utf-8:strict"),
    "PYTHONUTF8": ("0", "1"),
    "PYTHONUNBUFFERED": ("1",),
    "PYTHONDONTWRITEBYTECODE": ("1",),
    "PYTHONHASHSEED": ("0", "1"),
    "PYTHONWARNINGS": ("always", "ignore", "default", "error", "nonsense"),
    "PYTHONOPTIMIZE": ("1", "2"),
    "TERM": (None, "", "dumb", "xterm-256color", "nonsense"),
    "COLUMNS": ("", "0", "-1", "1", "many"),
    "LINES": ("0", "many"),
    "NO_COLOR": ("1", ""),
    "FORCE_COLOR": ("1", "0", "3"),
    "TTY_COMPATIBLE": ("1", "0"),
    "TTY_INTERACTIVE": ("1", "0"),
    "GLIBC_TUNABLES": ("", "nonsense", "glibc.malloc.arena_max=1"),
    "OMP_NUM_THREADS": ("0", "1", "many"),
    "JAX_PLATFORMS": ("", "cpu", "cuda", "cpu,", "abacus", ",", "cpu,cuda"),
    "JAX_ENABLE_X64": ("1", "0", "maybe"),
    "JAX_DISABLE_JIT": ("1", "0"),
    "JAX_NUMPY_DTYPE_PROMOTION": ("strict", "standard", "sloppy"),
    "JAX_NUMPY_RANK_PROMOTION": ("raise", "warn"),
    "JAX_TRANSFER_GUARD": ("disallow", "log", "allow"),
    "JAX_DEBUG_NANS": ("1", "0"),
    "JAX_TRACEBACK_FILTERING": ("off", "auto"),
    "JAX_COMPILATION_CACHE_DIR": ("/dev/null/nonexistent/cache", "/dev/null"),
    "JAX_DEFAULT_MATMUL_PRECISION": ("highest", "bfloat16", "exact"),
    "JAX_NUM_CPU_DEVICES": ("2", "none"),
    "XLA_FLAGS": ("", " ", "--xla_nonsense=1", "/dev/null/flags", "--xla_force_host_platform_device_count=2"),
    "CUDA_VISIBLE_DEVICES": ("", "-1", "7"),
    "HTTPS_PROXY": ("nonsense", "http://127.0.0.1:9"),
}
# Soft limits. Memory for Python and not for JAX, or for all of it: between them XLA ends by a signal, which no program
# can answer.
LIMITS = {
    "RLIMIT_NOFILE": (12, 24, 64),
    "RLIMIT_FSIZE": (0, 1000, 20000),
    "RLIMIT_CORE": (0,),
    "RLIMIT_AS": (350 << 20, 16 << 30),
    "RLIMIT_STACK": (1 << 20,),
}
# What is done with a descriptor; 'gone' is a pipe that nobody reads.
DESCRIPTORS = ("closed", "full", "gone", "nowhere")


@dataclass
class Environment:
    """What a command is started in.

    Attributes:
        variables: Changes of the environment; None takes one away.
        limits: Soft limits by their names in `resource`.
        descriptors: What becomes of standard input, output and error, by number.
        folder: 'usual', 'deleted' (the working directory is) or 'read-only' (where nobody can write, root neither).
    """

    variables: dict[str, str | None] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    descriptors: dict[int, str] = field(default_factory=dict)
    folder: str = "usual"

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> "Environment":
        """Returns one with a few oddities, of all kinds."""
        found = cls()
        for name in rng.choice(sorted(VARIABLES), size=int(rng.integers(0, 5)), replace=False):
            values = VARIABLES[str(name)]
            found.variables[str(name)] = values[rng.integers(len(values))]
        if rng.random() < 0.25:
            name = str(rng.choice(sorted(LIMITS)))
            found.limits[name] = LIMITS[name][rng.integers(len(LIMITS[name]))]
        for number in range(3):
            if rng.random() < 0.2:
                what = DESCRIPTORS[rng.integers(len(DESCRIPTORS))]
                # What is full gives zeros without an end when it is read.
                found.descriptors[number] = "nowhere" if (number, what) == (0, "full") else what
        if rng.random() < 0.1:
            found.folder = str(rng.choice(["deleted", "read-only"]))
        return found

    def launched(self, command: list[str]) -> list[str]:
        """Returns the command line that runs a command in it."""
        return [sys.executable, str(LAUNCHER), json.dumps(asdict(self)), *command]


if sys.platform != "linux":
    DESCRIPTORS = ("closed", "gone", "nowhere")
