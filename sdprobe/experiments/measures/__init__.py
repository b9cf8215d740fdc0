"""What is measured of each picture."""
