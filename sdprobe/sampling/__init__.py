"""The sampling loop and functions around it: schedules, the autoencoder, inversion, resuming, films."""
