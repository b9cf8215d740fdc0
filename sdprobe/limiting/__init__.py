"""Hooks that act in some steps, at some sites, for some rows only."""
