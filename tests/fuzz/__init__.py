"""Hostile inputs: valid adapters of every dialect, and what can be done to them."""
