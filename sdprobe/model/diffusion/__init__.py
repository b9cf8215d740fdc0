"""Noise levels: schedulers, what they remember, and predicted x0 under each of them."""
