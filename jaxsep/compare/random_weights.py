"""Writes a checkpoint of a published shape with weights drawn at random, for what is measured and not listened to.

`python -m jaxsep.compare.random_weights wave-unet-m4 FILE.safetensors`: the weights of some systems have to be fetched
by a person, and how long a network takes does not depend on them.
"""

import argparse
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxsep.compare.demucs_command import write_hub_cache
from jaxsep.separation.separator import Model
from jaxsep.weights.checkpoint import save_checkpoint
from jaxsep.weights.rules import SPECS


def main() -> None:
    """Draws and writes."""
    parser = argparse.ArgumentParser(prog="python -m jaxsep.compare.random_weights", description=__doc__)
    parser.add_argument("model", choices=list(SPECS))
    parser.add_argument("output", type=Path, help="a .safetensors file")
    parser.add_argument(
        "--demucs", type=Path, help="new folder that Demucs's command finds the same weights in, as its HF_HUB_CACHE"
    )
    options = parser.parse_args()
    spec = SPECS[options.model]
    inputs = jnp.zeros((1, *spec.input_shape()))
    variables = jax.device_get(jax.jit(partial(spec.network().init, train=False))(jax.random.key(0), inputs))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(options.output, spec, variables, overwrite=True)
    if options.demucs is not None:
        write_hub_cache(Model(spec.network(), variables, spec, ""), options.demucs)


if __name__ == "__main__":
    main()
