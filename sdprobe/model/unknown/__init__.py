"""Pipelines of diffusers that no family knows: which of their parts are networks, and what in these can be seen."""
