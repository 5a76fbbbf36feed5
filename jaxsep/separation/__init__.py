"""Separating: pure estimates, the Separator on arrays, and files through it in a moving window."""
