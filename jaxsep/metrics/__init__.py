"""Scores of estimates against true sources: host arrays in, numbers out.

No tracks, no files, no tables: those are in `jaxsep.evaluation`.
"""
