"""Transforms: hooks that change."""
