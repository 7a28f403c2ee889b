"""States that are kept: moments brought up to date by the rows of adapters that came or went."""
