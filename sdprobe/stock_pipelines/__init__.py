"""`attach`: the points of the loop while a pipeline of diffusers runs its own."""
