"""Hooks limited to some steps, some sites or some rows; each file imports only those before it."""
