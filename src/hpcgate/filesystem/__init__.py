"""Files on the login node: one operation a file."""
