"""Algorithms over the data as reductions: start, step, combine, finish. Only a runner executes them."""
