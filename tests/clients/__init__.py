"""pyfirecrest, unmodified, against the real cluster."""
