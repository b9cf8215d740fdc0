"""The text side of a model: tokens, every stage of a text encoder, textual inversion."""
