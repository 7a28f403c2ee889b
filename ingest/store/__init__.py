"""The zoo on disk: its layout, its catalogue and its commit rule."""
