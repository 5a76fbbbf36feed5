"""How good separations are: against baselines, over tracks. Arrays in, arrays and numbers out; no devices."""
