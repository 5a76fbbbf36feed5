"""Public names of the rooms: all there, all documented, and nothing heavier loaded for them."""

import importlib

import pytest

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
