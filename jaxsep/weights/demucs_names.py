"""How Demucs 3 and 4 name the variables of the hybrid networks, and their layouts in PyTorch. No files."""

import re
from collections.abc import Callable

import numpy as np

from jaxsep.models.demucs_layers import DConvConfig
from jaxsep.models.hybrid_config import HybridConfig
from jaxsep.weights.mapping import Rename, Rule


def hybrid_rules(config: HybridConfig, paths: list[str]) -> list[Rule]:
    """Returns the rules for state dicts of `HDemucs` and `HTDemucs`.

    Args:
        config: The shape of the network.
        paths: Paths of our variables.
    """
    return [Rename(re.escape(foreign_name(path, config)), path, _layout(path)) for path in paths]


def foreign_name(path: str, config: HybridConfig) -> str:
    """Returns what Demucs calls one of our variables."""
    *modules, leaf = path.removeprefix("params/").split("/")
    is_norm = bool(modules) and modules[-1].startswith("norm")
    leaf = {"kernel": "weight", "in_proj_kernel": "in_proj_weight", "embedding": "embedding.weight"}.get(leaf, leaf)
    if leaf == "scale" and is_norm:
        leaf = "weight"
    if match := re.fullmatch(r"(t?)(en|de)coder_(\d+)", modules[0]):
        modules = [f"{match[1]}{match[2]}coder", match[3], *modules[1:]]
        if modules[2] == "dconv":
            modules[3:5] = _place_in_branch(modules[3], modules[4], _branch(config, match[1], match[2], int(match[3])))
    elif len(modules) > 1 and modules[1].startswith("layers"):
        branch, _, number = modules[1].rpartition("_")
        modules[1:2] = [branch, number]
    return ".".join([*modules, leaf])


def _branch(config: HybridConfig, in_time: str, side: str, number: int) -> DConvConfig:
    shapes = [shape for shape in config.layers() if not in_time or shape.features_time is not None]
    return shapes[number if side == "en" else len(shapes) - 1 - number].dconv


def _place_in_branch(step: str, module: str, dconv: DConvConfig) -> list[str]:
    """Returns where a module is that we call by what it is: in 'layers', in a step of it, in the step's sequence."""
    inner = ["lstm"] * dconv.lstm + ["attention"] * dconv.attention
    sequence = ["conv1", "norm1", "gelu", *inner, "conv2", "norm2", "glu", "scale"]
    return ["layers", step.removeprefix("layers_"), str(sequence.index(module))]


def _layout(path: str) -> Callable[[np.ndarray], np.ndarray] | None:
    """Returns what turns PyTorch's layout of a variable into ours."""
    module, leaf = path.split("/")[-2:]
    if module == "conv_tr" and leaf == "kernel":
        return lambda kernel: np.moveaxis(kernel, (0, 1), (-2, -1))
    if leaf in ("kernel", "in_proj_kernel") or leaf.startswith("weight_"):
        return lambda kernel: np.moveaxis(kernel, (0, 1), (-1, -2))
    return None
