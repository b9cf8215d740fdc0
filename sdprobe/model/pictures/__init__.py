"""From latents to images: the autoencoder, small previews."""
