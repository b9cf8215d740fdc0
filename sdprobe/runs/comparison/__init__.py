"""Where two runs part, and how far they are apart."""
