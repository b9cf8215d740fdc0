"""Hooks limited to some steps, sites or rows. `steps` imports `only`, this `only_text`, and so on."""
