"""Public names of the rooms: all there, all documented, and nothing heavier loaded for them."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import jaxsep
from jaxsep.models import FAMILIES

ROOMS = ["jaxsep", "jaxsep.audio", "jaxsep.dsp", "jaxsep.metrics", "jaxsep.models", "jaxsep.training"]


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_of_a_room_exists_and_says_what_it_is(room):
    module = importlib.import_module(room)
    assert module.__doc__
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert getattr(module, name).__doc__, f"{room}.{name} has no docstring"


@pytest.mark.parametrize("room", ["jaxsep.dsp", "jaxsep.metrics", "jaxsep.models", "jaxsep.training"])
def test_functions_win_over_the_modules_of_the_same_name(room):
    """`jaxsep.dsp.stft(...)` must not find the module, whatever was imported before."""
    module = importlib.import_module(room)
    for name in module.__all__:
        assert not isinstance(getattr(module, name), type(importlib)), f"{room}.{name} is a module"


# Modules of each room whose public functions and classes are for users. Layers are for those who write families.
MODULES = {
    "dsp": ["cuts", "masks", "overlap_add", "stft", "wiener"],
    "metrics": ["bss_eval", "frame_scores", "log_wmse", "museval_wrapper", "sdr", "spectral"],
    "models": ["context", "cutting", "domain", "ensemble", "family", "magnitude", "procedure", "spec", "waveform"],
    "training": ["excerpts", "losses", "objective", "optimizer", "start", "state", "step"],
}
# What the rest of jaxsep uses of those modules, and users do not need.
SHARED_WITHIN_JAXSEP = {
    "dsp": {"Cuts", "Edges", "in_single_precision", "reciprocal"},
    "metrics": {"are_silent", "as_pair", "as_stem_pairs", "frame_lengths", "hearing_response", "require_museval"},
    "models": {
        "Context",
        "ProcedureChanges",
        "all_bins",
        "changed_cutting",
        "check_stems",
        "chosen_stems",
        "hop_of",
        "in_precision",
        "select",
    },
}


def public_definitions(room):
    """Returns the names of the public functions and classes that the room's modules for users define."""
    names = set()
    for module in MODULES[room]:
        loaded = importlib.import_module(f"jaxsep.{room}.{module}")
        names |= {
            name
            for name, value in vars(loaded).items()
            if not name.startswith("_")
            and (inspect.isfunction(value) or inspect.isclass(value))
            and value.__module__ == loaded.__name__
        }
    return names


@pytest.mark.parametrize("room", sorted(MODULES))
def test_every_public_function_and_class_is_exported_or_known_to_be_shared_within_jaxsep(room):
    exported, shared = set(importlib.import_module(f"jaxsep.{room}").__all__), SHARED_WITHIN_JAXSEP.get(room, set())
    forgotten = public_definitions(room) - exported - shared
    assert not forgotten, f"export {sorted(forgotten)} in jaxsep/{room}/__init__.py, or name them here as shared"
    assert shared <= public_definitions(room) - exported, "a name that is shared is gone, or is exported by now"


@pytest.mark.parametrize("room", ["dsp", "metrics", "training"])
def test_every_module_of_a_room_for_users_is_looked_at(room):
    files = (Path(jaxsep.__file__).parent / room).glob("*.py")
    assert {file.stem for file in files} - {"__init__"} == set(MODULES[room])


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_config_and_the_module_of_every_family_are_exported(family):
    models = importlib.import_module("jaxsep.models")
    for part in (FAMILIES[family].config, FAMILIES[family].module):
        assert part.__name__ in models.__all__
        assert getattr(models, part.__name__) is part


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import jaxsep.metrics", {"jax", "scipy.fft", "scipy.linalg", "museval"}),
        ("import jaxsep.separation.stream", {"optax", "jaxsep.training", "jaxsep.metrics"}),
        ("import jaxsep.training", {"grain", "train"}),
    ],
)
def test_a_room_loads_no_more_than_it_needs(code, absent):
    """In a fresh process, since this one has loaded everything."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"], capture_output=True, text=True, check=True
    )
    assert not set(done.stdout.split()) & absent
