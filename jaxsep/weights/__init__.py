"""Weights: jaxsep's own checkpoints, the catalogue of published ones, and the conversion of other programs' files."""
