"""How Demucs names the variables of its networks, and their layouts in PyTorch. No files.

A layer of the hybrid kinds has named modules; in those on waveforms, and in residual branches, what a module is called
is its place in a sequence.
"""

import re
from collections.abc import Callable, Iterable

import numpy as np

from jaxsep.models.demucs_config import BranchedDemucsConfig, DemucsConfig
from jaxsep.models.demucs_layers import DConvConfig
from jaxsep.models.hybrid_config import HybridConfig
from jaxsep.typing import Variables
from jaxsep.weights.mapping import Rename, Rule
from jaxsep.weights.tree import flatten


def demucs_rules(config: DemucsConfig, paths: Iterable[str]) -> list[Rule]:
    """Returns the rules for state dicts of `Demucs`, `HDemucs` and `HTDemucs`.

    Args:
        config: The shape of the network.
        paths: Paths of our variables.
    """
    return [Rename(re.escape(foreign_name(path, config)), path, _layout(path)) for path in paths]


def state_dict(config: DemucsConfig, variables: Variables) -> dict[str, np.ndarray]:
    """Returns our variables as Demucs's state dict has them.

    Args:
        config: The shape of the network.
        variables: The network's variables.
    """
    leaves = flatten(variables)
    return {foreign_name(path, config): _in_torch(path, np.asarray(leaf)) for path, leaf in leaves.items()}


def foreign_name(path: str, config: DemucsConfig) -> str:
    """Returns what Demucs calls one of our variables."""
    *modules, leaf = path.removeprefix("params/").split("/")
    is_norm = bool(modules) and modules[-1].startswith("norm")
    leaf = {"kernel": "weight", "in_proj_kernel": "in_proj_weight", "embedding": "embedding.weight"}.get(leaf, leaf)
    if leaf == "scale" and is_norm:
        leaf = "weight"
    if match := re.fullmatch(r"(t?)(en|de)coder_(\d+)", modules[0]):
        modules = [f"{match[1]}{match[2]}coder", match[3], *modules[1:]]
        band = ["layers", modules.pop(2).removeprefix("band_")] if modules[2].startswith("band_") else []
        if modules[2] == "dconv":
            modules[3:5] = _place_in_branch(modules[3], modules[4], _branch(config, match[1], match[2], int(match[3])))
        if not isinstance(config, HybridConfig):
            modules[2] = str(_sequence(config, match[2]).index(modules[2]))
        modules[2:2] = band
    elif len(modules) > 1 and modules[1].startswith("layers"):
        branch, _, number = modules[1].rpartition("_")
        modules[1:2] = [branch, number]
    return ".".join([*modules, leaf])


def _branch(config: DemucsConfig, in_time: str, side: str, number: int) -> DConvConfig:
    """Returns the residual branch of a layer; decoders are numbered from the innermost one."""
    assert isinstance(config, BranchedDemucsConfig)
    count = config.depth
    if in_time:
        assert isinstance(config, HybridConfig)
        count = sum(shape.features_time is not None for shape in config.layers())
    return config.branch(number if side == "en" else count - 1 - number)


def _sequence(config: DemucsConfig, side: str) -> list[str]:
    """Returns the modules of a layer in their order."""
    norm, mode = (["norm"], config.dconv_mode) if isinstance(config, BranchedDemucsConfig) else ([], 0)
    gated = ["rewrite", *(f"{each}{2 if side == 'en' else 1}" for each in norm), "glu"] if config.rewrite else []
    if side == "en":
        return ["conv", *(f"{each}1" for each in norm), "activation", *["dconv"] * bool(mode & 1), *gated]
    return [*gated, *["dconv"] * bool(mode & 2), "conv_tr", *(f"{each}2" for each in norm), "activation"]


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


def _in_torch(path: str, leaf: np.ndarray) -> np.ndarray:
    """Returns a variable in PyTorch's layout."""
    if _layout(path) is None:
        return leaf
    channels = (-2, -1) if path.endswith("conv_tr/kernel") else (-1, -2)
    return np.ascontiguousarray(np.moveaxis(leaf, channels, (0, 1)))
