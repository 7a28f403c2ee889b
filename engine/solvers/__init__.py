"""How states are solved beside the plain eigenproblems of `engine.exact`: by sketches, merging, QR, a second look."""
