"""The embedded model's world: coloured shapes on plain backgrounds."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
"""The shipped model, in diffusers' folder format, and the CLIP beside it in `clip/`."""
