"""Hooks that change attention: which tokens a place looks at, and how much."""
