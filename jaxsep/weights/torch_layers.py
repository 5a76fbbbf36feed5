"""PyTorch's layers in ours, and state dicts that hold one network for each stem. No family's names."""

import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from jaxsep.errors import CheckpointError
from jaxsep.models.spec import ModelSpec
from jaxsep.weights.mapping import Drop, Rename, Rule
from jaxsep.weights.readers import natural_key
from jaxsep.weights.tree import expected_shapes

_TORCH_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


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


def layers_of_our_names(spec: ModelSpec, source: Mapping[str, np.ndarray], prefixes: list[str]) -> list[Rule]:
    """Returns the rules for a state dict whose layers have the names of ours, such as that of a twin.

    Where a convolution before a norm has no bias with us, that of the state dict may have one: the norm of (x + bias)
    with mean m is that of x with mean (m - bias), to which it is converted.

    Args:
        spec: Spec of the model that the arrays become.
        source: The arrays.
        prefixes: What stands before the names of each network, in the order of the stems.
    """
    expected = expected_shapes(spec)
    found: list[Rule] = [
        Drop(r".*num_batches_tracked", "it counts the steps of a training that is over", optional=True)
    ]
    for path in expected:
        _, network, *layer, leaf = path.split("/")
        block = prefixes[int(network.removeprefix("source_"))] + ".".join(layer)
        foreign = f"{block}.{_TORCH_NAMES[leaf]}"
        transform: Callable[[np.ndarray], np.ndarray] | None = spatial_axes_first if leaf == "kernel" else None
        bias = f"{block.removesuffix('.norm')}.conv.bias"
        ours = f"params/{network}/{'/'.join(layer[:-1])}/conv/bias"
        if leaf == "mean" and bias in source and ours not in expected:
            found.append(Drop(re.escape(bias), "it is taken from the mean of the norm after it"))
            transform = _less(source[bias])
        found.append(Rename(re.escape(foreign), path, transform))
    return found


def _less(bias: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    def subtract(mean: np.ndarray) -> np.ndarray:
        if mean.shape != bias.shape:
            raise ValueError(f"a mean of shape {mean.shape} and a bias of shape {bias.shape}")
        return mean.astype(np.float64) - bias

    return subtract
