"""From latents to pictures: the autoencoder, small previews, files of frames."""
