"""What holds the layout together: which way imports go, what is public, what the wheel holds, what starting costs."""

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import jaxsep

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxsep"

# A room may import from those of lower rank and from itself.
RANKS = {
    "version": 0,
    "typing": 0,
    "errors": 0,
    "config": 0.5,
    "recipe": 0.5,
    "environment": 0,
    "unfinished": 0,
    "dsp": 1,
    "audio": 1,
    "metrics": 1,
    "models": 2,
    "weights": 3,
    "separation": 4,
    "training": 5,
    "evaluation": 6,
    # It reads tracks and scores them as evaluation does.
    "compare": 6.5,
    "cli": 7,
    "demo": 8,
    "__main__": 8,
}
# Where a package may be imported at the top of a module, and where inside of functions.
AT_TOP = {"torch": {"compare/reference"}, "tensorflow": {"compare/reference"}, "optax": {"training"}, "grain": set()}
INSIDE = {"torch": {"weights/readers.py", "compare"}, "tensorflow": {"compare"}, "optax": {"training"}, "grain": set()}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path):
    """Yields (imported name, whether at the module's top) for every import of a file."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from ((f"{node.module}.{alias.name}", id(node) in top) for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    own = room(path)
    if own == "__init__":
        return
    assert own in RANKS, f"{own} has no place in the order of imports; give it one"
    for name, _ in imports(path):
        assert not name.startswith("train."), f"{path} imports the training program"
        if not name.startswith("jaxsep."):
            continue
        other = name.split(".")[1]
        # ModelSpec finds the class of its config in the literal dict of families, which is its own room's __init__.
        assert RANKS[other] < RANKS[own] or other == own, f"{path} imports {name}, which lies above it"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_packages_are_imported_where_they_belong(path):
    place = path.relative_to(PACKAGE).as_posix()
    for name, at_top in imports(path):
        package = name.split(".")[0]
        if package in AT_TOP:
            allowed = AT_TOP[package] if at_top else INSIDE[package]
            assert any(place.startswith(prefix) for prefix in allowed), f"{place} imports {package}"


def test_public_names_are_these():
    assert sorted(jaxsep.__all__) == [
        "AudioError",
        "CheckpointError",
        "ConfigError",
        "Ensemble",
        "EnsembleSeparator",
        "EnsembleSpec",
        "Family",
        "FileReport",
        "JaxsepError",
        "Model",
        "ModelSpec",
        "NetworkConfig",
        "OutputConfig",
        "Progress",
        "Separation",
        "SeparationAborted",
        "SeparationError",
        "Separator",
        "WienerConfig",
        "__version__",
        "estimate_sources",
        "list_models",
        "load_model",
        "register_family",
        "separate_file",
    ]
    for name in jaxsep.__all__:
        assert getattr(jaxsep, name).__doc__ or name == "__version__"
    assert set(dir(jaxsep)) == set(jaxsep.__all__)
    with pytest.raises(AttributeError, match="no attribute 'seperate_file'"):
        _ = jaxsep.seperate_file


def loaded_by(code: str) -> set[str]:
    """Returns the packages that a fresh interpreter has loaded after running the code."""
    program = f"{code}\nimport sys\nprint('\\n'.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split("\n"))


def test_import_jaxsep_loads_nothing_heavy():
    assert not loaded_by("import jaxsep") & {"jax", "flax", "numpy", "orbax", "torch", "av", "soundfile"}


def test_using_the_separator_loads_neither_orbax_nor_torch():
    assert not loaded_by("import jaxsep; jaxsep.Separator; jaxsep.load_model") & {
        "orbax",
        "torch",
        "tensorflow",
        "optax",
    }


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["separate", "--help"], ["evaluate", "--help"], ["plot", "--help"], ["models"]],
)
def test_the_command_line_answers_without_jax(arguments):
    code = (
        "import sys; from jaxsep.cli.main import main\n"
        f"sys.argv = ['jaxsep', *{arguments}]\n"
        "sys.stdout = open('/dev/null', 'w')\n"
        "try: main()\nexcept SystemExit as status: assert not status.code\n"
        "sys.stdout = sys.__stdout__"
    )
    assert not loaded_by(code) & {"jax", "flax", "av", "orbax", "torch"}


def test_importing_the_library_changes_no_global_setting():
    code = (
        "import jax; before = dict(jax.config.values)\n"
        "import jaxsep; jaxsep.Separator; jaxsep.estimate_sources; jaxsep.separate_file\n"
        "assert dict(jax.config.values) == before\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge._backends, 'a backend was started'"
    )
    loaded_by(code)


def test_the_wheel_holds_the_package_and_its_weights_only(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT],
        check=True,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"jaxsep", f"jaxsep-{jaxsep.__version__}.dist-info"}
    assert "jaxsep/weights/data/spleeter-2stems.safetensors" in names
    assert "jaxsep/py.typed" in names
    assert {name.split("/")[-1] for name in names if "/licenses/" in name} == {"LICENSE", "NOTICE"}
