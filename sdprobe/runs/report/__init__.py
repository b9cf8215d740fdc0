"""A run as one HTML file: what is shown, how it is packed, and the page."""
