"""The sampling loop, and what is done with it: schedules, inversion, resuming, films."""
