"""Recorded activations: what was kept of which tensor, in memory or in a folder, and as vectors."""
