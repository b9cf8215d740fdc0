"""The only rooms that import diffusers and transformers: foreign names die here."""
