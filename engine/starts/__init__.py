"""Random starts: which adapters share one, at what level of noise they began, and what a fit does about it."""
