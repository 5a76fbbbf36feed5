"""What holds the layout together: imports, who may ask for families, public names, the wheel, what starting costs."""

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import jaxsep
from jaxsep.compare.twins import TWINS
from jaxsep.config import Config
from jaxsep.models import FAMILIES
from jaxsep.weights.rules import RULES

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
    "unfinished": 0.25,
    "naming": 0.5,
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
INSIDE = {"torch": {"compare"}, "tensorflow": {"compare"}, "optax": {"training"}, "grain": set()}

# Files that belong to families, beside models/: rules for weights, and twins.
OF_FAMILIES = (
    "models/",
    "compare/reference/",
    "weights/scaled_unets.py",
    "weights/wave_forms.py",
    "weights/demucs_names.py",
)
OF_FAMILIES += tuple(f"weights/{name}.py" for name in RULES)
# Classes by which a domain, a cutting or a family could be told; with those that the configs of families build on.
TELLING = {"Waveform", "Magnitude", "Chunking", "WholeTrack", "FamilyConfig", "SpectralConfig"}
TELLING |= {kind.__name__ for family in FAMILIES.values() for kind in family.config.__mro__ if issubclass(kind, Config)}
TELLING -= {"Config"}
# What asks all the same, and why.
ASKING = {
    ("separation/separator.py", "isinstance(spec.procedure.cutting, WholeTrack)"): "a whole track is run in passes",
    ("separation/passes.py", "isinstance(cutting, WholeTrack)"): "a whole track is run in passes",
    ("weights/convert.py", "family != spec.family"): "what a user says of a checkpoint is checked against it",
    ("compare/training_speed.py", "isinstance(config, UNetConfig)"): "it measures the U-Net, whose layers it counts",
}


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


def last_name(node) -> str | None:
    """Returns 'family' of `family`, `spec.family` and `self._spec.family`; None for what is no name."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None


def parts(node):
    """Yields an operand of a comparison, or each element of one that is a tuple, list or set."""
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        for element in node.elts:
            yield from parts(element)
    else:
        yield node


def tells(operand) -> bool:
    """Whether comparing it with something tells which family, domain or cutting it is of."""
    if isinstance(operand, ast.Attribute):
        of_parts = operand.attr == "kind" and last_name(operand.value) in {"domain", "cutting", "_domain", "_cutting"}
        return of_parts or operand.attr in {"family", "domain", "stft", "masks"}
    rank = isinstance(operand, ast.Call) and last_name(operand.func) == "len"
    return rank and "put_shape(" in ast.unparse(operand)


def questions(tree):
    """Yields every expression by which code asks which family, or which domain, it holds."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            operands = [part for each in (node.left, *node.comparators) for part in parts(each)]
            classes = {last_name(operand) for operand in operands} & TELLING
            if any(map(tells, operands)) or (classes and "type(" in ast.unparse(node)):
                yield ast.unparse(node)
        elif isinstance(node, ast.MatchClass) and last_name(node.cls) in TELLING:
            yield ast.unparse(node)
        elif isinstance(node, ast.Match) and tells(node.subject):
            yield ast.unparse(node.subject)
        elif isinstance(node, ast.Call) and last_name(node.func) in {"isinstance", "issubclass"}:
            if {last_name(inner) for inner in ast.walk(node.args[1])} & TELLING:
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and last_name(node.func) in {"getattr", "hasattr"}:
            held = last_name(node.args[0]) or ""
            if held.endswith(("config", "domain", "cutting", "procedure", "spec")):
                yield ast.unparse(node)
        elif isinstance(node, ast.Subscript) or (
            isinstance(node, ast.Call) and last_name(node.func) == "get" and node.args
        ):
            table, key = (node.value, node.slice) if isinstance(node, ast.Subscript) else (node.func, node.args[0])
            table = table.value if isinstance(node, ast.Call) and isinstance(table, ast.Attribute) else table
            by_family = last_name(key) == "family" and isinstance(key, ast.Attribute)
            if last_name(table) == "FAMILIES" or (by_family and last_name(table) != "TWINS"):
                yield ast.unparse(node)


@pytest.mark.parametrize(
    "path", [*modules(), *sorted((ROOT / "train").rglob("*.py"))], ids=lambda path: str(path.relative_to(ROOT))
)
def test_only_families_own_files_ask_which_family_or_domain_they_hold(path):
    place = path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else ROOT).as_posix()
    if place.startswith(OF_FAMILIES):
        return
    found = set(questions(ast.parse(path.read_text())))
    known = {question for asking, question in ASKING if asking == place}
    assert found <= known, f"{place} asks {sorted(found - known)}; let the domain, the config or the family answer"
    assert known <= found, f"{place} asks no longer {sorted(known - found)}; take it out of ASKING"


@pytest.mark.parametrize(
    "question",
    [
        "if spec.domain.kind == 'magnitude': pass",
        "is_known = spec.family in ('unet', 'jansson')",
        "if (a.family, a.stems) == (b.family, b.stems): pass",
        "found = 1 if spec.stft is None else 2",
        "masked = isinstance(self.spec.domain, Magnitude)",
        "assert isinstance(spec.config, unet.UNetConfig | WaveUNetConfig)",
        "if type(spec.config) is JanssonConfig: pass",
        "context = getattr(spec.config, 'context', 0)",
        "if hasattr(config, 'bins'): pass",
        "shape = 3 if len(spec.input_shape()) == 3 else 2",
        "module = FAMILIES[name].module",
        "name = NAMES[spec.family]",
        "name = NAMES.get(spec.family, spec.family)",
        "match spec.config:\n    case UNetConfig(): pass",
        "match spec.family:\n    case 'unet': pass",
    ],
)
def test_a_question_for_the_family_would_be_found(question):
    assert list(questions(ast.parse(question)))


@pytest.mark.parametrize(
    "code",
    [
        "spec.domain.magnitudes('the Wiener filter')",
        "find_family(spec.family).build(spec.config)",
        "framework in TWINS.get(spec.family, {})",
        "if array.dtype.kind == 'f' and optimizer.kind == 'adam': pass",
        "isinstance(spec, EnsembleSpec)",
    ],
)
def test_what_families_answer_is_no_question(code):
    assert not list(questions(ast.parse(code)))


def test_every_room_names_its_families_in_one_literal_dict():
    for place, name in (
        ("models/__init__.py", "FAMILIES"),
        ("weights/rules.py", "RULES"),
        ("compare/twins.py", "TWINS"),
    ):
        tree = ast.parse((PACKAGE / place).read_text())
        (value,) = (
            node.value
            for node in tree.body
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name
        )
        assert isinstance(value, ast.Dict) and all(isinstance(key, ast.Constant) for key in value.keys), place


def test_every_family_has_a_line_in_each_rooms_dict():
    assert FAMILIES.keys() == TWINS.keys() == {family for rules in RULES.values() for family in rules.families}
    reference = PACKAGE / "compare" / "reference"
    for name, modules_of in TWINS.items():
        assert (PACKAGE / "models" / f"{name}.py").is_file()
        assert all((reference / f"{module}.py").is_file() for module in modules_of.values())


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
