"""PyTorch's layers in ours, and state dicts that hold one network for each stem. No family's names."""

import re
from collections.abc import Iterable

import numpy as np

from jaxsep.errors import CheckpointError
from jaxsep.weights.mapping import Rename, Rule
from jaxsep.weights.readers import natural_key


def convolution(pattern: str, target: str) -> list[Rule]:
    """Returns the rules for a convolution with a bias, transposed or not.

    Args:
        pattern: Regular expression for what stands before 'weight' and 'bias'.
        target: Path of the layer, below its collection.
    """
    return [
        Rename(f"{pattern}weight", f"params/{target}/kernel", spatial_axes_first),
        Rename(f"{pattern}bias", f"params/{target}/bias"),
    ]


def batch_norm(pattern: str, target: str) -> list[Rule]:
    """Returns the rules for a batch norm; arguments are those of `convolution`."""
    return [
        Rename(f"{pattern}weight", f"params/{target}/scale"),
        Rename(f"{pattern}bias", f"params/{target}/bias"),
        Rename(f"{pattern}running_mean", f"batch_stats/{target}/mean"),
        Rename(f"{pattern}running_var", f"batch_stats/{target}/var"),
    ]


def spatial_axes_first(kernel: np.ndarray) -> np.ndarray:
    """Returns a PyTorch kernel in our layout: (out, in, h, w), or (in, out, h, w) of a transposed convolution."""
    return kernel.transpose(2, 3, 1, 0)


def in_order_of_stems(prefixes: list[str], stems: tuple[str, ...], where: str) -> list[str]:
    """Returns the names of networks in the order of the stems, which they must state: a guess could swap stems.

    Args:
        prefixes: What stands before the names of each network's layers.
        stems: What the networks are for.
        where: Where they come from, for the message.

    Raises:
        CheckpointError: If their last words are neither the numbers from 0 nor the stems.
    """
    last_words = [re.findall(r"[A-Za-z]+|\d+", prefix)[-1:] for prefix in prefixes]
    for labels in ([str(i) for i in range(len(stems))], list(stems)):
        if sorted(last_words) == sorted([label] for label in labels):
            return [prefixes[last_words.index([label])] for label in labels]
    raise CheckpointError(
        f"{where} does not say which network is which stem; number the files or modules from 0 in the order "
        f"{', '.join(stems)}, or name them so (got {', '.join(prefix or 'no name' for prefix in prefixes)})."
    )


def prefixes_of(first: str, source: Iterable[str]) -> list[str]:
    """Returns what stands before the name of each network's first layer, numbers in order of the numbers."""
    return sorted((name.removesuffix(first) for name in source if name.endswith(first)), key=natural_key)
