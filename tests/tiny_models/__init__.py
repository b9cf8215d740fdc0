"""Tiny random models of the newer families."""
