"""Schedulers: noise levels, predicted x0, copies of their state, the forward process."""
