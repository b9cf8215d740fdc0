"""What every run is made of: hooks and how they compose, the run they record to, and the values they are shown."""
