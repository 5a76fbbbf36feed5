"""Switches for the whole suite: broadcasting between ranks is an error, so that shapes mean what they say."""

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
