"""From prompts to conditioning: tokenizers, text encoders, and tokens that hooks add."""
