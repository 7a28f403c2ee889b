"""`engine.fit` beside other libraries' PCA: `python -m bench.fitting --help`."""
