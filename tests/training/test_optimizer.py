"""Optimizers and schedules against torch.optim; what is frozen stays; arguments are checked."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from jaxsep.errors import ConfigError
from jaxsep.training.optimizer import (
    OptimizerConfig,
    ScheduleConfig,
    build_optimizer,
    learning_rate_at,
    learning_rate_schedule,
)

PARAMS = {"encoder": {"kernel": np.full((3, 2), 0.5, np.float32), "bias": np.ones(2, np.float32)}, "mask": np.ones(4)}


def gradients(step):
    rng = np.random.default_rng(step)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32), PARAMS)


def trained(config, steps=20):
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), PARAMS)
    optimizer = build_optimizer(config, params)
    state = optimizer.init(params)
    for step in range(steps):
        updates, state = optimizer.update(gradients(step), state, params)
        params = optax.apply_updates(params, updates)
    return params


def trained_by_torch(make, clip=None, schedule=None, steps=20):
    leaves, structure = jax.tree.flatten(PARAMS)
    tensors = [torch.tensor(leaf, dtype=torch.float32, requires_grad=True) for leaf in leaves]
    optimizer = make(tensors)
    scheduler = schedule(optimizer) if schedule else None
    for step in range(steps):
        for tensor, gradient in zip(tensors, jax.tree.leaves(gradients(step)), strict=True):
            tensor.grad = torch.from_numpy(np.array(gradient))
        if clip:
            torch.nn.utils.clip_grad_norm_(tensors, clip)
        optimizer.step()
        if scheduler:
            scheduler.step()
    return jax.tree.unflatten(structure, [tensor.detach().numpy() for tensor in tensors])


CASES = {
    "adam": (OptimizerConfig(learning_rate=0.01), lambda p: torch.optim.Adam(p, lr=0.01), {}),
    "adam with other constants": (
        OptimizerConfig(learning_rate=0.01, b1=0.8, b2=0.99, eps=1e-3),
        lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.99), eps=1e-3),
        {},
    ),
    "sgd with momentum": (
        OptimizerConfig(kind="sgd", learning_rate=0.01, momentum=0.9),
        lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
        {},
    ),
    # Weight decay acts on the one leaf with two axes: torch gets it for that one alone.
    "adamw": (
        OptimizerConfig(kind="adamw", learning_rate=0.01, weight_decay=0.1),
        lambda p: torch.optim.AdamW(
            [{"params": [q], "weight_decay": 0.1 if q.ndim > 1 else 0.0} for q in p], lr=0.01
        ),
        {},
    ),
    "clipping": (
        OptimizerConfig(kind="sgd", learning_rate=0.01, clip_norm=0.5),
        lambda p: torch.optim.SGD(p, lr=0.01),
        {"clip": 0.5},
    ),
    "cosine": (
        OptimizerConfig(kind="sgd", learning_rate=0.1, schedule=ScheduleConfig(kind="cosine", steps=15)),
        lambda p: torch.optim.SGD(p, lr=0.1),
        {"schedule": lambda o: torch.optim.lr_scheduler.LambdaLR(
            o, lambda t: 0.5 * (1 + np.cos(np.pi * min(t, 15) / 15)))},
    ),
    "exponential": (
        OptimizerConfig(
            kind="sgd",
            learning_rate=0.1,
            schedule=ScheduleConfig(kind="exponential", decay_steps=1, decay_rate=0.9),
        ),
        lambda p: torch.optim.SGD(p, lr=0.1),
        {"schedule": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_optimizers_match_torch(case):
    config, make, options = CASES[case]
    ours, theirs = trained(config), trained_by_torch(make, **options)
    # Twenty updates in float32, the bias corrections of Adam in another order.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), ours, theirs)


def test_warmup_rises_linearly_and_then_the_schedule_starts():
    config = OptimizerConfig(learning_rate=0.1, schedule=ScheduleConfig(kind="cosine", steps=10, warmup_steps=4))
    rate = learning_rate_schedule(config)
    np.testing.assert_allclose([rate(step) for step in (0, 1, 2, 4)], [0, 0.025, 0.05, 0.1], rtol=1e-6)
    assert float(rate(9)) == pytest.approx(0.05)  # half of the cosine's ten steps
    assert float(rate(14)) == pytest.approx(0.0, abs=1e-9)


def test_frozen_parameters_stay_bit_for_bit():
    after = trained(OptimizerConfig(learning_rate=0.1, frozen=("encoder/*",)))
    np.testing.assert_array_equal(after["encoder"]["kernel"], PARAMS["encoder"]["kernel"])
    np.testing.assert_array_equal(after["encoder"]["bias"], PARAMS["encoder"]["bias"])
    # The others as without freezing; compiled apart, a sum may round once more.
    np.testing.assert_allclose(after["mask"], trained(OptimizerConfig(learning_rate=0.1))["mask"], rtol=1e-6)


@pytest.mark.parametrize(
    "data, words",
    [
        ({"learning_rate": -1}, "learning_rate"),
        ({"learning_rates": 1}, "Did you mean 'learning_rate'"),
        ({"kind": "sgd", "weight_decay": 0.1}, "belongs to the optimizer 'adamw'"),
        ({"momentum": 0.9}, "belongs to the optimizer 'sgd'"),
        ({"schedule": {"kind": "cosine"}}, "needs 'steps'"),
        ({"schedule": {"kind": "constant", "patience": 3}}, "'patience' belongs to a schedule of kind 'plateau'"),
        ({"schedule": {"kind": "constant", "restarts": True}}, "'restarts' belongs to a schedule of kind 'cosine'"),
    ],
)
def test_wrong_arguments_are_named(data, words):
    with pytest.raises(ConfigError, match=words):
        OptimizerConfig.parse(data, where="the optimizer")


def test_a_pattern_that_freezes_nothing_or_everything_is_refused():
    for pattern, words in (("decoder/*", "freezes nothing"), ("*", "nothing would be learned")):
        with pytest.raises(ConfigError, match=words):
            build_optimizer(OptimizerConfig(frozen=(pattern,)), PARAMS)


@pytest.mark.parametrize("warmup_steps", [0, 7])
@pytest.mark.parametrize(
    "schedule",
    [
        {"kind": "constant"},
        {"kind": "cosine", "steps": 20, "final_factor": 0.1},
        {"kind": "cosine", "steps": 9, "restarts": True},
        {"kind": "exponential", "decay_steps": 5, "decay_rate": 0.3},
        {"kind": "plateau", "patience": 2},
    ],
)
def test_the_learning_rate_on_the_host_is_that_of_optax_on_the_device(schedule, warmup_steps):
    config = OptimizerConfig(learning_rate=0.02, schedule=ScheduleConfig(**schedule, warmup_steps=warmup_steps))
    on_the_device = learning_rate_schedule(config)
    for step in range(40):
        # float32 there, float64 here.
        assert learning_rate_at(config, step) == pytest.approx(float(on_the_device(step)), rel=1e-5, abs=1e-9), step


def test_weight_decay_acts_on_what_patterns_name_alone_biases_too():
    params = {"inner": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "outer": {"kernel": jnp.ones((2, 2))}}
    config = OptimizerConfig(kind="adamw", learning_rate=0.1, weight_decay=0.5, decayed=("inner/*",))
    optimizer = build_optimizer(config, params)
    nothing = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(nothing, optimizer.init(params), params)
    np.testing.assert_allclose(updates["inner"]["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_allclose(updates["inner"]["bias"], -0.05, rtol=1e-6)
    assert not updates["outer"]["kernel"].any()
    with pytest.raises(ConfigError, match="'wrong/\\*' matches nothing that weight decay could act on"):
        build_optimizer(config.model_copy(update={"decayed": ("wrong/*",)}), params)
    with pytest.raises(ValueError, match="says what weight_decay acts on"):
        OptimizerConfig(decayed=("inner/*",))
