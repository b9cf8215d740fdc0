"""Runs in folders: written, opened again, and looked through."""
