"""Sparse autoencoders: load them, train them, and read or change a module through their features."""
