"""What holds the layout together: which way imports go, what is public, what the wheel holds, what starting costs."""

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import jaxsep
from jaxsep.compare.twins import TWINS
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


# Outside of models/, these may know a family: each of them is about one.
FAMILIES_OWN_FILES = {
    # Rules for the weights of one family, or of two whose networks are built of the same layers.
    "jaxsep/weights/spleeter.py",
    "jaxsep/weights/jansson.py",
    "jaxsep/weights/classic_unet.py",
    "jaxsep/weights/scaled_unets.py",
    "jaxsep/weights/wave_unet.py",
    "jaxsep/weights/wave_unet_resampled.py",
    "jaxsep/weights/wave_forms.py",
    # Measurements of one family by name.
    "jaxsep/compare/network_speed.py",
    "jaxsep/compare/training_speed.py",
    "jaxsep/compare/wave_unet_speed.py",
    "jaxsep/compare/random_weights.py",
}
# Twins: one file for each family and framework.
FAMILIES_OWN_FOLDER = "jaxsep/compare/reference/"
# Questions that are none about what a network is, by file and source, with a reason each.
ALLOWED_QUESTIONS = {
    ("jaxsep/weights/convert.py", "family != spec.family"): "what a user said against what the file says",
}
# Classes that say which family or domain something is of.
TELLING_CLASSES = {
    name
    for family in FAMILIES.values()
    for kind in (family.config, family.module)
    for name in [
        kind.__name__,
        *(base.__name__ for base in kind.__mro__ if base.__module__.startswith("jaxsep.models.")),
    ]
} - {"NetworkConfig"}
TELLING_CLASSES |= {"Waveform", "Magnitude", "SpectralConfig"}


def last_name(node: ast.AST) -> str:
    """Returns the last word of a dotted name."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def names_a_config(node: ast.AST) -> bool:
    """Whether an expression is the config of a network, by its name: `config` of a spec, model or checkpoint."""
    return isinstance(node, ast.Attribute) and node.attr in ("config", "network_config")


def asks(node: ast.AST) -> bool:
    """Whether an expression is `x.family`, `x.domain`, or the kind of a domain or cutting."""
    if not isinstance(node, ast.Attribute):
        return False
    is_kind = node.attr == "kind" and last_name(node.value) in ("domain", "cutting")
    return node.attr in ("family", "domain") or is_kind or (node.attr == "stft" and last_name(node.value) == "spec")


def questions(source: str) -> list[str]:
    """Returns the expressions that ask which family or domain something is of."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            is_question = any(asks(side) for side in (node.left, *node.comparators))
        elif isinstance(node, ast.Match):
            is_question = asks(node.subject)
            node = node.subject
        elif isinstance(node, ast.MatchClass):
            is_question = last_name(node.cls) in TELLING_CLASSES
        elif isinstance(node, ast.Subscript):
            is_question = last_name(node.value) == "FAMILIES"
        elif isinstance(node, ast.Call) and last_name(node.func) in ("isinstance", "issubclass"):
            classes = [inner for inner in ast.walk(node.args[1]) if isinstance(inner, ast.Name | ast.Attribute)]
            is_question = any(last_name(each) in TELLING_CLASSES for each in classes)
        elif isinstance(node, ast.Call) and last_name(node.func) in ("getattr", "hasattr"):
            is_question = names_a_config(node.args[0])
        else:
            continue
        if is_question:
            found.append(ast.unparse(node))
    return found


def askers():
    files = [*modules(), *sorted((ROOT / "train").rglob("*.py"))]
    places = [path.relative_to(ROOT).as_posix() for path in files]
    return [
        place
        for place in places
        if not place.startswith(("jaxsep/models/", FAMILIES_OWN_FOLDER)) and place not in FAMILIES_OWN_FILES
    ]


@pytest.mark.parametrize("place", askers())
def test_no_code_asks_which_family_or_domain_it_holds(place):
    found = [each for each in questions((ROOT / place).read_text()) if (place, each) not in ALLOWED_QUESTIONS]
    assert not found, f"{place} asks {found}; have the domain, the family or its twin do what depends on it"


@pytest.mark.parametrize(
    "snippet",
    [
        "if spec.family == 'unet': pass",
        "x = model.spec.family in ('unet', 'jansson')",
        "y = 'wave_unet' != spec.family",
        "if spec.domain.kind == 'magnitude': pass",
        "assert procedure.cutting.kind in ('chunks',)",
        "if spec.domain is None: pass",
        "z = spec.stft is None",
        "match spec.family:\n    case 'unet': pass",
        "match spec.domain:\n    case Magnitude(): pass",
        "match domain:\n    case Waveform(): pass",
        "if isinstance(spec.domain, Magnitude): pass",
        "if isinstance(domain, models.Waveform): pass",
        "if isinstance(config, (UNetConfig, WaveUNetConfig)): pass",
        "if isinstance(config, UNetConfig | JanssonConfig): pass",
        "if isinstance(network, WaveUNet): pass",
        "if isinstance(config, WaveConfig): pass",
        "bins = getattr(spec.config, 'bins', None)",
        "if hasattr(self.spec.config, 'context'): pass",
        "build = FAMILIES[spec.family]",
        "build = models.FAMILIES['unet'].module",
    ],
)
def test_the_rule_sees_such_questions(snippet):
    assert questions(snippet)


@pytest.mark.parametrize(
    "snippet",
    [
        "found = find_family(spec.family)",
        "print(spec.family, 'domain', spec.domain)",
        "inputs, context = spec.domain.encode(chunks)",
        "if isinstance(spec, EnsembleSpec): pass",
        "if isinstance(spec.procedure.cutting, WholeTrack): pass",
        "if term.kind == 'waveform_l1': pass",
        "reason = getattr(error, 'strerror', None)",
        "mine: Waveform = chunks",
    ],
)
def test_the_rule_leaves_other_code_alone(snippet):
    assert not questions(snippet)


def test_every_exception_of_the_rule_is_needed():
    for place in FAMILIES_OWN_FILES:
        assert (ROOT / place).is_file(), place
    for place, question in ALLOWED_QUESTIONS:
        assert question in questions((ROOT / place).read_text()), (place, question)


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
    assert set(TWINS) == set(FAMILIES)
    assert {rules.family for rules in RULES.values()} == set(FAMILIES)
