"""What training computes: losses, optimizers, state and step. Pure functions; no devices, no files.

`jaxsep.training.objective` is the function, not the module that it is from.
"""

from jaxsep.training.excerpts import random_batches
from jaxsep.training.losses import l1, l2, log_wmse, multi_resolution_stft, negative_sdr, negative_si_sdr
from jaxsep.training.objective import Batch, Evaluated, LossConfig, LossTerm, objective
from jaxsep.training.optimizer import (
    OptimizerConfig,
    ScheduleConfig,
    build_optimizer,
    frozen_parameters,
    learning_rate_at,
    learning_rate_schedule,
)
from jaxsep.training.start import start_training
from jaxsep.training.state import TrainState, create_state
from jaxsep.training.step import Metrics, train_step

__all__ = [
    "Batch",
    "Evaluated",
    "LossConfig",
    "LossTerm",
    "Metrics",
    "OptimizerConfig",
    "ScheduleConfig",
    "TrainState",
    "build_optimizer",
    "create_state",
    "frozen_parameters",
    "l1",
    "l2",
    "learning_rate_at",
    "learning_rate_schedule",
    "log_wmse",
    "multi_resolution_stft",
    "negative_sdr",
    "negative_si_sdr",
    "objective",
    "random_batches",
    "start_training",
    "train_step",
]
