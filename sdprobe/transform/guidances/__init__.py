"""Hooks that change how the denoiser's predictions become one noise prediction."""
