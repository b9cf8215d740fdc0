"""Runs as labelled arrays, for other libraries."""
