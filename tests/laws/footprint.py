"""What a run could have left on a model: part of the conformance kit, and used by these tests by this name."""

from sdprobe.testing.footprint import footprint as footprint

__all__ = ["footprint"]
