"""The renaming engine: what it moves, and that its one error names everything that does not fit."""

import numpy as np
import pytest

from jaxsep.errors import CheckpointError
from jaxsep.weights.mapping import Drop, Rename, apply

EXPECTED = {"params/layer_0/kernel": (3, 2), "params/layer_1/kernel": (3, 2), "params/layer_0/bias": (3,)}
RULES = [
    Rename(r"dense(\d)\.weight", r"params/layer_\1/kernel", np.transpose),
    Rename(r"dense0\.bias", "params/layer_0/bias"),
    Drop("step", "it counts"),
    Drop("slot.*", "it is an optimizer's", optional=True),
]


def source(**changes):
    arrays = {
        "dense0.weight": np.arange(6.0).reshape(2, 3),
        "dense1.weight": -np.arange(6.0, dtype=np.float32).reshape(2, 3),
        "dense0.bias": np.array([1.0, 2.0, 4.0], np.float16),
        "step": np.array(3),
    }
    arrays.update({name.replace("__", "."): array for name, array in changes.items()})
    return {name: array for name, array in arrays.items() if array is not None}


def test_arrays_go_where_the_rules_say_as_float32():
    variables = apply(RULES, source(slot_a=np.ones(9)), EXPECTED, where="x")
    kernels = variables["params"]
    np.testing.assert_array_equal(kernels["layer_0"]["kernel"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(kernels["layer_1"]["kernel"], [[0, -3], [-1, -4], [-2, -5]])
    np.testing.assert_array_equal(kernels["layer_0"]["bias"], [1, 2, 4])
    assert all(
        leaf.dtype == np.float32 and leaf.flags.c_contiguous for layer in kernels.values() for leaf in layer.values()
    )
    assert set(variables) == {"params"} and set(kernels) == {"layer_0", "layer_1"}


@pytest.mark.parametrize(
    ("changes", "rules", "message"),
    [
        ({"dense__gamma": np.ones(3)}, RULES, r"1 without a rule: 'dense\.gamma'"),
        (
            {"dense0__bias": None, "dense0__bia": np.ones(3)},
            RULES,
            r"'dense0\.bia' \(like the rule 'dense0\\\\?\.bias'\)",
        ),
        ({"step": None}, RULES, "1 rules that match nothing: 'step'"),
        ({"dense0__bias": None}, RULES, "1 variables left without a value: params/layer_0/bias"),
        ({"dense7__weight": np.ones((2, 3))}, RULES, r"nothing: 'dense7\.weight' \(params/layer_7/kernel\)"),
        ({"dense0__weight": np.ones((3, 3))}, RULES, r"'dense0\.weight' \(got \(3, 3\), expected \(3, 2\)\)"),
        ({"dense0__weight": np.ones((3, 2))}, RULES, r"got \(3, 2\), which becomes \(2, 3\), expected \(3, 2\)"),
        ({"dense0__bias": np.ones(3, int)}, RULES, "got int64, expected floating point"),
        ({"dense0__bias": np.array([1, np.nan, 2])}, RULES, r"1 not finite: 'dense0\.bias'"),
        ({"dense0__bias": np.array([1, 1e300, 2])}, RULES, r"1 not finite: 'dense0\.bias'"),
        ({}, [*RULES, Drop(r"dense0\..*", "double")], r"2 matched by more than one rule: 'dense0\.weight' \("),
        (
            {"bias": np.ones(3)},
            [*RULES, Rename("bias", "params/layer_0/bias")],
            "'dense0.bias' and 'bias' .params/layer_0",
        ),
        (
            {},
            [Rename("step", "params/layer_0/bias", lambda array: array.transpose(1, 0)), *RULES[:2]],
            "floating point",
        ),
    ],
)
def test_each_misfit_is_named(changes, rules, message):
    with pytest.raises(CheckpointError, match=message):
        apply(rules, source(**changes), EXPECTED, where="x")


def test_a_transform_that_cannot_take_the_shape_is_a_misfit_not_a_traceback():
    rules = [Rename("a", "params/a", lambda array: array.transpose(2, 3, 1, 0))]
    with pytest.raises(CheckpointError, match=r"'a' \(got \(3,\), which cannot become \(1, 1, 1, 3\)\)"):
        apply(rules, {"a": np.ones(3, np.float32)}, {"params/a": (1, 1, 1, 3)}, where="x")


def test_one_error_names_all_misfits_at_once():
    changes = {
        "unknown": np.ones(1),
        "step": None,
        "dense0__weight": np.ones((5, 5)),
        "dense1__weight": np.full((2, 3), np.inf),
        "dense0__bias": None,
    }
    with pytest.raises(CheckpointError) as error:
        apply(RULES, source(**changes), EXPECTED, where="model.ckpt")
    for part in (
        "model.ckpt",
        "'unknown'",
        "'step'",
        "(5, 5)",
        "'dense1.weight'",
        "params/layer_0/bias",
        "dense0\\.bias",
    ):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
