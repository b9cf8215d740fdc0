"""What a model reads: tokens, every run_model of a text encoder, textual inversion."""
