"""Hooks, their composition and registry, the records of a run, and the values that hooks receive."""
