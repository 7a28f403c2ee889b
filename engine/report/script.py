"""The page's script, from the files beside this one."""

from __future__ import annotations

from importlib.resources import files

PARTS = ("base", "maps", "curves", "picking")


def script() -> str:
    """Puts datasets, sizes and colours into the specifications, draws them, and lets a matrix be picked."""
    folder = files("engine.report") / "js"
    return "\n".join((folder / f"{name}.js").read_text(encoding="utf-8") for name in PARTS)
