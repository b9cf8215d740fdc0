"""Prompt-to-prompt: attention of one prompt in the picture of another."""
