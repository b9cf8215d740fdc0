"""Observers: hooks that look."""
