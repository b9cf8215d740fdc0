"""Observers: hooks that record values of a run."""
