"""Comparisons of jaxsep with other frameworks: parity, speed, and studies. Needs the `compare` extra."""
