"""What training computes: losses, optimizers, state and step. Pure functions; no devices, no files, no data."""
