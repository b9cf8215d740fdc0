"""Tiny random pipelines of the real classes, one file for each family."""
