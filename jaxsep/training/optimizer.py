"""Optimizers and learning-rate schedules by config, and which parameters they leave alone. Built on optax."""

import fnmatch
import math
from collections.abc import Callable
from typing import Any, Literal

import flax.traverse_util
import jax
import optax
import pydantic

from jaxsep.config import Config
from jaxsep.errors import ConfigError
from jaxsep.typing import Variables


class ScheduleConfig(Config):
    """How the learning rate changes with the step.

    Attributes:
        kind: 'constant'; 'cosine' falls to `final_factor` at `steps` along half a cosine; 'exponential' is multiplied
            by `decay_rate` every `decay_steps`, continuously; 'plateau' is multiplied by `decay_rate` whenever the
            validation score has not risen for `patience` validations.
        warmup_steps: Steps over which the rate rises linearly from 0 before anything else.
        steps: Of 'cosine', counted from the end of the warm-up.
        final_factor: Of 'cosine': the last rate over the first.
        restarts: Of 'cosine': whether it begins anew after every `steps`; otherwise the rate stays where it fell to.
        decay_rate: Of 'exponential' and 'plateau'.
        decay_steps: Of 'exponential'.
        patience: Of 'plateau', in validations.
    """

    kind: Literal["constant", "cosine", "exponential", "plateau"] = "constant"
    warmup_steps: int = pydantic.Field(default=0, ge=0)
    steps: int | None = pydantic.Field(default=None, gt=0)
    final_factor: float = pydantic.Field(default=0.0, ge=0, le=1)
    restarts: bool = False
    decay_rate: float = pydantic.Field(default=0.5, gt=0, lt=1)
    decay_steps: int | None = pydantic.Field(default=None, gt=0)
    patience: int | None = pydantic.Field(default=None, gt=0)

    @pydantic.model_validator(mode="after")
    def _what_the_kind_needs_is_there(self) -> "ScheduleConfig":
        needed = {"cosine": "steps", "exponential": "decay_steps", "plateau": "patience"}
        for kind, key in needed.items():
            if self.kind == kind and getattr(self, key) is None:
                raise ValueError(f"a schedule of kind '{kind}' needs '{key}'")
            if self.kind != kind and getattr(self, key) is not None:
                raise ValueError(f"'{key}' belongs to a schedule of kind '{kind}', not '{self.kind}'")
        if self.restarts and self.kind != "cosine":
            raise ValueError(f"'restarts' belongs to a schedule of kind 'cosine', not '{self.kind}'")
        return self


class OptimizerConfig(Config):
    """Which optimizer.

    Attributes:
        kind: 'adam', 'adamw' (decoupled weight decay) or 'sgd'.
        learning_rate: The highest that the schedule reaches.
        schedule: How it changes.
        b1: Of Adam: decay of the mean of gradients.
        b2: Of Adam: decay of the mean of squared gradients.
        eps: Of Adam: added to the root of the latter.
        momentum: Of SGD.
        weight_decay: Of 'adamw'.
        decayed: Patterns of parameter paths that weight decay acts on, such as 'crosstransformer/*'; none for all but
            norms' scales and biases, as is usual.
        clip_norm: Gradients of a larger global norm are scaled down to it; none for no limit.
        frozen: Patterns of parameter paths that stay as they are, such as 'source_0/*' or '*/norm/*'.
    """

    kind: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = pydantic.Field(default=1e-4, gt=0, allow_inf_nan=False)
    schedule: ScheduleConfig = ScheduleConfig()
    b1: float = pydantic.Field(default=0.9, ge=0, lt=1)
    b2: float = pydantic.Field(default=0.999, ge=0, lt=1)
    eps: float = pydantic.Field(default=1e-8, gt=0)
    momentum: float = pydantic.Field(default=0.0, ge=0, lt=1)
    weight_decay: float = pydantic.Field(default=0.0, ge=0)
    decayed: tuple[str, ...] | None = None
    clip_norm: float | None = pydantic.Field(default=None, gt=0)
    frozen: tuple[str, ...] = ()

    @pydantic.model_validator(mode="after")
    def _options_belong_to_the_kind(self) -> "OptimizerConfig":
        if self.weight_decay and self.kind != "adamw":
            raise ValueError(f"weight_decay belongs to the optimizer 'adamw', not '{self.kind}'")
        if self.decayed is not None and not self.weight_decay:
            raise ValueError("'decayed' says what weight_decay acts on, and there is none")
        if self.momentum and self.kind != "sgd":
            raise ValueError(f"momentum belongs to the optimizer 'sgd', not '{self.kind}'")
        return self


def learning_rate_schedule(config: OptimizerConfig) -> optax.Schedule:
    """Returns the learning rate as a function of the step; a plateau's reductions are in `TrainState`, not here."""
    schedule, peak = config.schedule, config.learning_rate
    if schedule.kind == "cosine":
        assert schedule.steps is not None
        fall = optax.cosine_decay_schedule(peak, schedule.steps, alpha=schedule.final_factor)
        period = schedule.steps
        after = (lambda step: fall(step % period)) if schedule.restarts else fall
    elif schedule.kind == "exponential":
        assert schedule.decay_steps is not None
        after = optax.exponential_decay(peak, schedule.decay_steps, schedule.decay_rate)
    else:
        after = optax.constant_schedule(peak)
    if not schedule.warmup_steps:
        return after
    return optax.join_schedules(
        [optax.linear_schedule(0.0, peak, schedule.warmup_steps), after], [schedule.warmup_steps]
    )


def learning_rate_at(config: OptimizerConfig, step: int) -> float:
    """Returns the learning rate after so many steps, in plain Python, for whoever must not wait for a device.

    The same numbers as `learning_rate_schedule`, to the rounding of float32.
    """
    schedule, peak = config.schedule, config.learning_rate
    if step < schedule.warmup_steps:
        return peak * step / schedule.warmup_steps
    step -= schedule.warmup_steps
    if schedule.kind == "cosine":
        assert schedule.steps is not None
        done = (step % schedule.steps if schedule.restarts else min(step, schedule.steps)) / schedule.steps
        return peak * ((1 - schedule.final_factor) * 0.5 * (1 + math.cos(math.pi * done)) + schedule.final_factor)
    if schedule.kind == "exponential":
        assert schedule.decay_steps is not None
        return peak * schedule.decay_rate ** (step / schedule.decay_steps)
    return peak


def build_optimizer(config: OptimizerConfig, params: Variables) -> optax.GradientTransformation:
    """Returns the optimizer.

    Args:
        config: Which.
        params: The parameters that it will update; only their paths and shapes matter.

    Raises:
        ConfigError: A pattern in `frozen` or `decayed` matches no parameter, or all are frozen.
    """
    rate = learning_rate_schedule(config)
    if config.kind == "sgd":
        update = optax.sgd(rate, momentum=config.momentum or None)
    elif config.kind == "adam":
        update = optax.adam(rate, b1=config.b1, b2=config.b2, eps=config.eps)
    else:
        decayed = _many_axes if config.decayed is None else _among(params, config.decayed)
        update = optax.adamw(
            rate, b1=config.b1, b2=config.b2, eps=config.eps, weight_decay=config.weight_decay, mask=decayed
        )
    chain = update if config.clip_norm is None else optax.chain(optax.clip_by_global_norm(config.clip_norm), update)
    if not config.frozen:
        return chain
    labels = {True: "frozen", False: "trained"}
    frozen = frozen_parameters(params, config.frozen)
    tree = flax.traverse_util.unflatten_dict({path: labels[is_frozen] for path, is_frozen in frozen.items()})
    return optax.multi_transform({"trained": chain, "frozen": optax.set_to_zero()}, tree)


def frozen_parameters(params: Variables, patterns: tuple[str, ...]) -> dict[tuple[str, ...], bool]:
    """Says for each parameter's path whether a pattern freezes it.

    Args:
        params: The parameters.
        patterns: Shell patterns of paths joined by '/'; '*' also matches '/'.

    Raises:
        ConfigError: A pattern matches no parameter, or all are frozen.
    """
    frozen = _matched(params, patterns, "'{}' freezes nothing")
    if all(frozen.values()):
        raise ConfigError("All parameters are frozen: nothing would be learned.")
    return frozen


def _matched(params: Variables, patterns: tuple[str, ...], complaint: str) -> dict[tuple[str, ...], bool]:
    """Says for each parameter's path whether a pattern matches it; raises ConfigError where one matches none."""
    paths = list(flax.traverse_util.flatten_dict(params))
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase("/".join(path), pattern) for path in paths):
            example = "/".join(paths[0])
            raise ConfigError(f"{complaint.format(pattern)}; parameters are called like '{example}'.")
    return {path: any(fnmatch.fnmatchcase("/".join(path), pattern) for pattern in patterns) for path in paths}


def _many_axes(params: Any) -> Any:
    """Says which parameters have two axes or more, which biases and norms' scales have not."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _among(params: Any, patterns: tuple[str, ...]) -> Callable[[Any], Any]:
    """Returns what says of parameters which ones patterns match."""
    matched = _matched(params, patterns, "'{}' matches nothing that weight decay could act on")

    def among(tree: Any) -> Any:
        # Of frozen parameters the tree has no arrays.
        return jax.tree_util.tree_map_with_path(lambda path, _: matched[tuple(each.key for each in path)], tree)

    return among
