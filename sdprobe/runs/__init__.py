"""Runs as files: saved and opened again, compared, reported, and exported to other libraries."""
