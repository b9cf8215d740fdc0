"""Transforms: hooks that change values of a run."""
